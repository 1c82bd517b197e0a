"""python -m serving: starts the app and stops it in order."""

from __future__ import annotations

import logging
import os
import shutil
import signal
import sys
from types import FrameType

from rakuten_tasks.console.terminal import prepare_streams


def main() -> int:
    """Serve, and return the exit status: 0 after SIGTERM or Ctrl-C, 1 if a process was lost, 2 if refused to start."""
    prepare_streams()
    stop_on_signals()
    try:
        return serve()
    except KeyboardInterrupt:  # stopped during the start
        return 0


def serve() -> int:
    """Serve until a signal, and return the exit status."""
    from serving.runtime_folder import FolderTakenError, create_run_folder, lock_folder
    from serving.settings import SettingError, Settings

    try:
        settings = Settings.from_environment()
        lock_folder(settings.folder, f"http://{settings.host}:{settings.port}")
    except (SettingError, FolderTakenError) as error:
        print(error, file=sys.stderr)
        return 2
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    from serving.app import ProductServer  # LitServe reads the key at import
    from serving.litserve_adapter.server import stop_helper_processes

    run_folder = create_run_folder(settings.folder)
    try:
        server = ProductServer(settings, run_folder)
        server.lit.run(
            host=settings.host,
            port=settings.port,
            num_api_servers=1,  # one process counts the requests in flight, one worker uses all cores
            generate_client_file=False,
            log_level="warning",
        )
        if server.lit.lost_api_process:
            logging.error("the API process was lost: start the server again")
            return 1
    finally:
        shutil.rmtree(run_folder, ignore_errors=True)
        stop_helper_processes()
    return 0


def stop_on_signals() -> None:
    """Make SIGTERM in the main process end LitServe's `run` in order: finish requests, then stop the worker.

    By default it would kill only this process and orphan the others. Children inherit the handler, which ignores the
    signal in them unless they set their own: the process with the queues must outlive the others.
    """
    main_process = os.getpid()
    stopped = False

    def stop(number: int, frame: FrameType | None) -> None:
        nonlocal stopped
        if os.getpid() == main_process and not stopped:
            stopped = True
            raise KeyboardInterrupt

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)


if __name__ == "__main__":
    sys.exit(main())
