"""Paths of a catalogue in the challenge's layout, in any folder that fsspec can read."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from fnmatch import fnmatchcase, translate
from heapq import nsmallest
from pathlib import Path, PurePosixPath

import pandas as pd
from fsspec import AbstractFileSystem

from rakuten_tasks.data.csv_files import RowFilter, all_rows, read_labels
from rakuten_tasks.data.versions.files import fetch_file
from rakuten_tasks.data.versions.manifest import find_version
from rakuten_tasks.storage.addresses import open_address
from rakuten_tasks.storage.folders import is_folder, iter_paths

# the challenge's own name, then a pattern for other names, in upper or lower case, of which exactly one file must match
TRAIN_ROWS = ("X_train_update.csv", "X_train*.csv")
TRAIN_LABELS = ("Y_train_CVw08PX.csv", "Y_train*.csv")
TEST_ROWS = ("X_test_update.csv", "X_test*.csv")
TEST_LABELS = ("Y_test.csv", "Y_test*.csv")
CLASSES = ("classes.csv", "classes.csv")
# a file of this name marks made-up products, such as the built-in sample's
SYNTHETIC = ("SYNTHETIC.md", "SYNTHETIC*")
PATTERNS = [pattern for _, pattern in (TRAIN_ROWS, TRAIN_LABELS, TEST_ROWS, TEST_LABELS, CLASSES, SYNTHETIC)]
NAME = re.compile("|".join(translate(pattern.lower()) for pattern in PATTERNS))


@dataclass(frozen=True)
class Layout:
    """Files of one catalogue, as paths of `filesystem`; None if there is no such file.

    A file that is used, and that several match, raises FileNotFoundError; one that is not used does no harm.
    """

    filesystem: AbstractFileSystem
    root: str
    files: tuple[str, ...]  # of the root that have one of the names above, sorted
    train_photos: tuple[str, ...]  # folders that exist, searched in this order
    test_photos: tuple[str, ...]

    @property
    def train_rows(self) -> str | None:
        return _find_one(self.files, TRAIN_ROWS)

    @property
    def train_labels(self) -> str | None:
        return _find_one(self.files, TRAIN_LABELS)

    @property
    def test_rows(self) -> str | None:
        return _find_one(self.files, TEST_ROWS)

    @property
    def test_labels(self) -> str | None:
        return _find_one(self.files, TEST_LABELS)

    @property
    def classes(self) -> str | None:
        return _find_one(self.files, CLASSES)

    @property
    def synthetic(self) -> bool:
        return bool(_find_all(self.files, SYNTHETIC))


def find_layout(source: str) -> Layout:
    """Find the files of the catalogue in a local folder or at an address as of open_address.

    Raises FileNotFoundError if it is a file or has neither training nor test rows.
    """
    filesystem, root = open_address(source)
    if filesystem.isfile(root):
        raise FileNotFoundError(f"{source} is a file: give the folder that holds the challenge's CSV files")
    # photos may be in the root too, and all names would take 100 bytes a product
    files = tuple(sorted(path for path in _list_root(filesystem, root) if NAME.match(_name(path))))
    if not _find_all(files, TRAIN_ROWS) and not _find_all(files, TEST_ROWS):
        found = _format_names(nsmallest(10, _list_root(filesystem, root)), sum(1 for _ in _list_root(filesystem, root)))
        raise FileNotFoundError(
            f"no catalogue in {source}: looked for {TRAIN_ROWS[0]} and {TEST_ROWS[0]} (or one {TRAIN_ROWS[1]}, one "
            f"{TEST_ROWS[1]}) and found {found}: give the folder that holds the challenge's CSV files"
        )
    return Layout(
        filesystem=filesystem,
        root=root,
        files=files,
        train_photos=_photo_folders(filesystem, root, "image_train"),
        test_photos=_photo_folders(filesystem, root, "image_test"),
    )


def is_synthetic(source: str) -> bool:
    """Return whether the catalogue, published or not, is marked as made up. Raises as find_layout does."""
    published = find_version(source)
    return published.manifest.synthetic if published else find_layout(source).synthetic


def test_labels(source: str, select: RowFilter = all_rows) -> pd.Series | None:  # noqa: PT028  (no test)
    """Return the labels of the unlabelled rows, prdtypecode (Int64) by row; None if the catalogue has none.

    select: the rows whose labels to return. Raises CatalogueError for a file that cannot be read, and
    FileNotFoundError if several files match.
    """
    if (published := find_version(source)) is not None:
        return published.answers(select)
    return read_test_labels(find_layout(source), select)


def find_test_labels(source: str, work: Path) -> tuple[AbstractFileSystem, str] | None:
    """Return the file of the labels that test_labels returns; None if the catalogue has none.

    work: a local folder, to which a published file is downloaded. Raises as test_labels does.
    """
    if (published := find_version(source)) is None:
        layout = find_layout(source)
        return (layout.filesystem, layout.test_labels) if layout.test_labels else None
    name, files = published.manifest.answers, published.files
    return open_address(str(fetch_file(files.locate(name), work))) if name else None


def read_test_labels(layout: Layout, select: RowFilter = all_rows) -> pd.Series | None:
    """Return the labels of the unlabelled rows, as test_labels does."""
    file = layout.test_labels
    return read_labels(layout.filesystem, file, select) if file else None


def read_train_labels(layout: Layout, select: RowFilter = all_rows) -> pd.Series | None:
    """Return the labels of the labelled rows, as test_labels does."""
    file = layout.train_labels
    return read_labels(layout.filesystem, file, select) if file else None


def photo_name(imageid: int | str, productid: int | str) -> str:
    """Return the challenge's file name of a product's photo."""
    return f"image_{imageid}_product_{productid}.jpg"


def _find_all(files: Sequence[str], names: tuple[str, str]) -> tuple[str, ...]:
    exact, pattern = names
    if match := [file for file in files if PurePosixPath(file).name == exact]:
        return tuple(match)
    matches = [file for file in files if fnmatchcase(PurePosixPath(file).name.lower(), pattern.lower())]
    return tuple(matches)


def _find_one(files: Sequence[str], names: tuple[str, str]) -> str | None:
    matches = _find_all(files, names)
    if len(matches) > 1:
        exact, pattern = names
        listed = _format_names(matches, len(matches))
        raise FileNotFoundError(f"{listed} all fit {pattern}: keep one of them, or name it {exact}")
    return matches[0] if matches else None


def _list_root(filesystem: AbstractFileSystem, root: str) -> Iterator[str]:
    with suppress(FileNotFoundError, NotADirectoryError):
        yield from iter_paths(filesystem, root)


def _name(path: str) -> str:
    return path.rpartition("/")[2].lower()


def _format_names(files: Sequence[str], count: int) -> str:
    """Format the names of the first ten of so many files."""
    names = [PurePosixPath(file).name for file in files]
    return ", ".join(names[:10]) + (f" and {count - 10} more" if count > 10 else "") if names else "nothing"


def _photo_folders(filesystem: AbstractFileSystem, root: str, name: str) -> tuple[str, ...]:
    candidates = (f"{root}/images/{name}", f"{root}/{name}", f"{root}/images")
    return (*(folder for folder in candidates if is_folder(filesystem, folder)), root)
