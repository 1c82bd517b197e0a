"""Download of a weights file into torch hub's cache folder: complete and with the right SHA-256, or not at all.

torch.hub.download_url_to_file has no timeout (it waits for minutes where a firewall drops packets).
"""

from __future__ import annotations

import hashlib
import logging
import uuid
from collections.abc import Callable
from concurrent.futures import Future, wait
from pathlib import Path
from threading import Thread
from typing import TypeVar

import torch

from rakuten_tasks.console.progress import Progress

log = logging.getLogger(__name__)
Result = TypeVar("Result")

ANSWER = 9.0  # seconds for name, connection and headers together; an unknown name alone can take 30
CONNECT, READ = 5.0, 30.0  # seconds: for one of a server's addresses, and between two chunks
CHUNK = 2**20  # bytes


class NoAnswerError(OSError):
    """No server answered in time."""


def within(seconds: float, call: Callable[[], Result], discard: Callable[[Result], None] = lambda _: None) -> Result:
    """Return or raise what `call` does, or raise NoAnswerError: no timeout of Python's includes the resolver of names.

    discard: is called with a result that comes too late.
    """
    future: Future[Result] = Future()

    def run() -> None:
        try:
            future.set_result(call())
        except BaseException as error:
            future.set_exception(error)

    Thread(target=run, daemon=True, name="first answer").start()  # daemon: must not keep the process alive

    def discard_result(late: Future[Result]) -> None:
        if not late.exception():
            discard(late.result())

    if not wait([future], seconds).done:
        future.add_done_callback(discard_result)
        raise NoAnswerError(f"no answer within {seconds:g} seconds")
    return future.result()


def innermost(error: BaseException) -> str:
    """Return the message of the first error, without those that HTTP clients wrap around it."""
    while inner := error.__cause__ or (None if error.__suppress_context__ else error.__context__):
        error = inner
    return first_line(error)


def first_line(error: BaseException) -> str:
    """Return the first line of the message: torch and transformers write paragraphs."""
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".: ") if lines else type(error).__name__


def hub_file(url: str) -> Path:
    """Return the file of torchvision's address in torch hub's cache folder, after a download if necessary.

    Raises FileNotFoundError, within ten seconds where there is no network, naming the file and where to put it.
    """
    path = Path(torch.hub.get_dir()) / "checkpoints" / Path(url).name
    if path.exists():
        return path
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        download(url, path, hash_in_name(path))
    except OSError as error:
        raise FileNotFoundError(
            f"{path.name} is not in {path.parent} and was not downloaded from {url} ({innermost(error)}): put it "
            "there, or give its place as photo.weights_file with photo.weights: file"
        ) from error
    return path


def hash_in_name(path: Path) -> str:
    """Return the first hex digits of the sha256, with which torchvision ends the names of its files."""
    return path.stem.rpartition("-")[2]


def download(url: str, path: Path, sha256_prefix: str) -> None:
    """Download the address's content to `path` atomically; several processes may do it at once.

    Raises OSError if the server does not answer, the content is truncated, or its sha256 begins otherwise. No retry.
    """
    partial = path.with_name(f"{path.name}.{uuid.uuid4().hex}.partial")  # of this process alone
    try:
        digest = _fetch(url, partial)
        if not digest.startswith(sha256_prefix):
            raise OSError(f"the content's sha256 begins with {digest[:16]}, not {sha256_prefix}")
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _fetch(url: str, path: Path) -> str:
    """Write the content and return its sha256. Raises OSError: requests' own errors are of that kind."""
    import requests  # not in serving, whose weights are in the bundle

    log.info("downloading %s", url)
    digest = hashlib.sha256()
    request = within(ANSWER, lambda: requests.get(url, stream=True, timeout=(CONNECT, READ)), requests.Response.close)
    with request as response, path.open("xb") as file:
        response.raise_for_status()
        size = int(response.headers.get("Content-Length", 0)) or None
        with Progress(total=size, desc=path.name.partition(".")[0], unit="B", unit_scale=True) as bar:
            for chunk in response.iter_content(CHUNK):  # raises if fewer bytes come than Content-Length
                file.write(chunk)
                digest.update(chunk)
                bar.update(len(chunk))
    return digest.hexdigest()
