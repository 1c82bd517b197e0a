"""What a cluster has beside Flyte: an object store, and an MLflow server that hands artifacts through."""

from __future__ import annotations

import logging
import os
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import fsspec
import httpx
import pytest

USER = "test"


@contextmanager
def s3_bucket(patch: pytest.MonkeyPatch) -> Iterator[tuple[str, str]]:
    """An empty bucket, served on this machine: its address, and the server's. This process is told of the server."""
    from moto.server import ThreadedMotoServer
    from s3fs import S3FileSystem

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    endpoint = f"http://{host}:{port}"
    patch.setenv("AWS_ENDPOINT_URL", endpoint)
    patch.setenv("AWS_ACCESS_KEY_ID", USER)
    patch.setenv("AWS_SECRET_ACCESS_KEY", USER)
    S3FileSystem.clear_instance_cache()
    name = uuid.uuid4().hex  # moto's servers of one process share their buckets
    fsspec.filesystem("s3").mkdir(name)
    yield f"s3://{name}", endpoint
    S3FileSystem.clear_instance_cache()
    server.stop()


@contextmanager
def mlflow_server(folder: Path) -> Iterator[str]:
    """The address of a server over a new store in the folder; clients reach its artifacts only through it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "server", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", f"sqlite:///{folder}/mlflow.db"]
    command += ["--artifacts-destination", str(folder / "files")]
    settings = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            command, env={**os.environ, **settings}, stdout=log, stderr=log, start_new_session=True, cwd=folder
        )
    try:
        until = time.monotonic() + 120
        while not _healthy(port):
            assert process.poll() is None, (folder / "log").read_text()
            assert time.monotonic() < until, (folder / "log").read_text()
            time.sleep(0.2)
        yield f"http://127.0.0.1:{port}"
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _healthy(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/health", timeout=5).status_code == 200
    except httpx.TransportError:
        return False
