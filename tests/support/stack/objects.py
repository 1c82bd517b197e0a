"""An S3 server with the command line and the variables of the Versity S3 Gateway: buckets are folders on the disk."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import uvicorn
from nanio.app import build_app
from nanio.auth.credentials import EnvCredentialResolver
from nanio.config import Settings
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route


async def health(request: Request) -> PlainTextResponse:
    """Without a signature."""
    return PlainTextResponse("ok")


def main(port: str, folder: str) -> None:
    """port: with a colon before it."""
    os.environ["NANIO_ACCESS_KEY"] = os.environ["ROOT_ACCESS_KEY"]
    os.environ["NANIO_SECRET_KEY"] = os.environ["ROOT_SECRET_KEY"]
    storage = build_app(Settings(data_dir=Path(folder), credentials=EnvCredentialResolver()))
    app = Starlette(routes=[Route(os.environ["VGW_HEALTH"], health), Mount("/", storage)])
    uvicorn.run(app, host="0.0.0.0", port=int(port.removeprefix(":")))


if __name__ == "__main__":
    _, _, port, _, folder = sys.argv  # --port :7070 posix /data
    main(port, folder)
