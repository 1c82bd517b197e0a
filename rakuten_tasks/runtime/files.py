"""Files of tasks: working folders and downloads."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from flytekit import current_context
from flytekit.exceptions.user import FlyteDataNotFoundException
from flytekit.types.directory import FlyteDirectory
from flytekit.types.file import FlyteFile

from rakuten_tasks.data.schema import damage_error
from rakuten_tasks.data.versions.files import CONTENT_NAME, require_content

THREADS = 8  # downloads at a time: of small files most of the time is waiting for the store


def workspace() -> Path:
    """Create a folder for a task's outputs. Run locally, the items of a map task share one working directory."""
    return Path(tempfile.mkdtemp(dir=current_context().working_directory))


def located(file: FlyteFile) -> Path | str:
    """Return where the file is, without downloading it: its path on this machine, or its address in a store."""
    return str(file.remote_source) if file.remote_source else Path(file.path)


def local(file: FlyteFile | FlyteDirectory) -> Path:
    """Download the file or folder unless it is on this machine. -> its local path

    Raises CatalogueError for a file of a published catalogue that is gone or was changed.
    """
    address = str(file.path)
    try:
        path = Path(file.download())
    except FlyteDataNotFoundException as error:
        if CONTENT_NAME.fullmatch(Path(address).name):
            raise damage_error(address, "is gone") from error
        raise
    require_content(path, address)
    return path


def fetch_all(files: Iterable[FlyteFile | FlyteDirectory]) -> list[Path]:
    """Download files and folders, THREADS at a time. -> their local paths, in the same order"""
    with ThreadPoolExecutor(THREADS) as threads:
        return list(threads.map(local, files))
