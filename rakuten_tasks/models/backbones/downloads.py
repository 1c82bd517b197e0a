"""Download of a weights file into torch hub's cache folder: complete and with the right SHA-256, or not at all.

torch.hub.download_url_to_file has no timeout (it waits for minutes where packets are dropped, as firewalls do).
"""

from __future__ import annotations

import hashlib
import logging
import uuid
from collections.abc import Callable
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Any, TypeVar

import torch
from tqdm import tqdm

log = logging.getLogger(__name__)
Result = TypeVar("Result")

ANSWER = 9.0  # seconds for name, connection and headers together; a name alone can take 30 to be not found
CONNECT, READ = 5.0, 30.0  # seconds: for one of a server's addresses, and between two chunks
CHUNK = 2**20  # bytes


class NoAnswerError(OSError):
    """Nothing answered in time."""


def within(seconds: float, work: Callable[[], Result], give_back: Callable[[Result], None] = lambda _: None) -> Result:
    """What `work` returns or raises, or NoAnswerError: no timeout of Python's reaches into the resolver of names.

    give_back: is told of a result that comes too late.
    """
    answers: SimpleQueue[tuple[bool, Any]] = SimpleQueue()
    waiting = [True]

    def run() -> None:
        try:
            result = work()
        except BaseException as error:
            answers.put((False, error))
        else:
            if waiting:
                answers.put((True, result))
            else:
                give_back(result)

    Thread(target=run, daemon=True, name="first answer").start()  # daemon: must not hold the process at its end
    try:
        done, result = answers.get(timeout=seconds)
    except Empty:
        waiting.clear()
        raise NoAnswerError(f"no answer within {seconds:g} seconds") from None
    if not done:
        raise result
    return result


def innermost(error: BaseException) -> str:
    """What happened, without the several errors that HTTP clients wrap around it."""
    while inner := error.__cause__ or (None if error.__suppress_context__ else error.__context__):
        error = inner
    return first_line(error)


def first_line(error: BaseException) -> str:
    """What fits into a sentence: torch and transformers write paragraphs."""
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".: ") if lines else type(error).__name__


def hub_file(url: str) -> Path:
    """The file of torchvision's address in torch hub's cache folder, downloaded if it is not there.

    Raises FileNotFoundError, within ten seconds where there is no network, naming what to put where.
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
    """The first hex digits of its sha256, which end the name of each of torchvision's files."""
    return path.stem.rpartition("-")[2]


def download(url: str, path: Path, sha256_prefix: str) -> None:
    """The address's content as `path`, in one step: there is never a part of it, and several processes may do it.

    Raises OSError if it does not come, comes cut, or its sha256 begins otherwise. It is tried once.
    """
    partial = path.with_name(f"{path.name}.{uuid.uuid4().hex}.partial")  # of this process alone
    try:
        digest = _fetch(url, partial)
        if not digest.startswith(sha256_prefix):
            raise OSError(f"what came has a sha256 that begins with {digest[:16]}, not {sha256_prefix}")
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _fetch(url: str, path: Path) -> str:
    """The sha256 of what came and was written. Raises OSError: requests' own errors are of that kind."""
    import requests  # not in serving, which finds its weights in the bundle

    def ask() -> requests.Response:
        return requests.get(url, stream=True, timeout=(CONNECT, READ))

    log.info("downloading %s", url)
    digest = hashlib.sha256()
    with within(ANSWER, ask, requests.Response.close) as response, path.open("xb") as file:
        response.raise_for_status()
        size = int(response.headers.get("Content-Length", 0)) or None
        with tqdm(total=size, desc=path.name.partition(".")[0], unit="B", unit_scale=True) as bar:
            for chunk in response.iter_content(CHUNK):  # raises where fewer bytes come than were promised
                file.write(chunk)
                digest.update(chunk)
                bar.update(len(chunk))
    return digest.hexdigest()
