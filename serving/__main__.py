"""python -m serving: starts the app and stops it in order."""

from __future__ import annotations

import logging
import os
import shutil
import signal
import sys
from multiprocessing import forkserver, resource_tracker
from types import FrameType


def main() -> int:
    """-> exit status: 0 after SIGTERM or Ctrl-C, 1 where a process was lost, 2 where it must not start."""
    stop_on_signals()
    try:
        return serve()
    except KeyboardInterrupt:  # stopped while it was starting
        return 0


def serve() -> int:
    """Until a signal."""
    from serving.runtime_folder import FolderTakenError, own, run_folder
    from serving.settings import SettingError, Settings

    try:
        settings = Settings.from_environment()
        own(settings.folder, f"http://{settings.host}:{settings.port}")
    except (SettingError, FolderTakenError) as error:
        print(error, file=sys.stderr)
        return 2
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    from serving.app import ProductServer  # LitServe reads the key at import

    meeting = run_folder(settings.folder)
    try:
        server = ProductServer(settings, meeting)
        server.lit.run(
            host=settings.host,
            port=settings.port,
            num_api_servers=1,  # one process counts what is inside, one worker uses all cores
            generate_client_file=False,
            log_level="warning",
        )
        if server.lit.lost_api:
            logging.error("the API process was lost: start the server again")
            return 1
    finally:
        shutil.rmtree(meeting, ignore_errors=True)
        end_helpers()
    return 0


def end_helpers() -> None:
    """Wait for multiprocessing's own processes, which would otherwise end a moment after this one."""
    forkserver._forkserver._stop()  # type: ignore[attr-defined]
    resource_tracker._resource_tracker._stop()  # type: ignore[attr-defined]


def stop_on_signals() -> None:
    """SIGTERM in the main process ends LitServe's `run` in order: finish what is inside, then stop the worker.

    Left alone it would kill only this process and orphan the others. Children inherit the handler and ignore the
    signal by it, unless they set their own: the process with the queues must outlive the others.
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
