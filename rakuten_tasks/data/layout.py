"""Paths of a catalogue in the challenge's layout, in any folder that fsspec can read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import PurePosixPath

import pandas as pd
from fsspec import AbstractFileSystem

from rakuten_tasks.data.csv_files import read_labels
from rakuten_tasks.data.schema import CatalogueError
from rakuten_tasks.data.versions.manifest import find_version
from rakuten_tasks.storage.addresses import open_address
from rakuten_tasks.storage.folders import is_folder

# the challenge's own name, then a pattern for other names, in upper or lower case, of which exactly one file must match
TRAIN_ROWS = ("X_train_update.csv", "X_train*.csv")
TRAIN_LABELS = ("Y_train_CVw08PX.csv", "Y_train*.csv")
TEST_ROWS = ("X_test_update.csv", "X_test*.csv")
TEST_LABELS = ("Y_test.csv", "Y_test*.csv")
CLASSES = ("classes.csv", "classes.csv")
# a file of this name marks made-up products, such as the built-in sample's
SYNTHETIC = ("SYNTHETIC.md", "SYNTHETIC*")


@dataclass(frozen=True)
class Layout:
    """Files of one catalogue, as paths of `filesystem`; None if there is no such file."""

    filesystem: AbstractFileSystem
    root: str
    train_rows: str | None
    train_labels: str | None
    test_rows: str | None
    test_labels: tuple[str, ...]  # all files that match: prediction needs none of them
    classes: str | None
    train_photos: tuple[str, ...]  # folders that exist, searched in this order
    test_photos: tuple[str, ...]
    synthetic: bool


def find_layout(source: str) -> Layout:
    """Find the files of the catalogue in a local folder or at an address as of open_address.

    Raises FileNotFoundError if it is a file, has neither training nor test rows, or several files match one name.
    """
    filesystem, root = open_address(source)
    if filesystem.isfile(root):
        raise FileNotFoundError(f"{source} is a file: give the folder that holds the challenge's CSV files")
    try:
        files = sorted(filesystem.ls(root, detail=False))
    except (FileNotFoundError, NotADirectoryError):
        files = []
    train_rows, test_rows = _find_one(files, TRAIN_ROWS), _find_one(files, TEST_ROWS)
    if train_rows is None and test_rows is None:
        raise FileNotFoundError(
            f"no catalogue in {source}: looked for {TRAIN_ROWS[0]} and {TEST_ROWS[0]} (or one {TRAIN_ROWS[1]}, one "
            f"{TEST_ROWS[1]}) and found {_format_names(files)}: give the folder that holds the challenge's CSV files"
        )
    return Layout(
        filesystem=filesystem,
        root=root,
        train_rows=train_rows,
        train_labels=_find_one(files, TRAIN_LABELS),
        test_rows=test_rows,
        test_labels=_find_all(files, TEST_LABELS),
        classes=_find_one(files, CLASSES),
        train_photos=_photo_folders(filesystem, root, "image_train"),
        test_photos=_photo_folders(filesystem, root, "image_test"),
        synthetic=_find_one(files, SYNTHETIC) is not None,
    )


def is_synthetic(source: str) -> bool:
    """Return whether the catalogue, published or not, is marked as made up. Raises as find_layout does."""
    published = find_version(source)
    return published.manifest.synthetic if published else find_layout(source).synthetic


def test_labels(source: str) -> pd.Series | None:
    """Return the labels of the unlabelled rows, prdtypecode (Int64) by row; None if the catalogue has none.

    Raises CatalogueError for a file that cannot be read, and if several files match.
    """
    if (published := find_version(source)) is not None:
        return published.answers()
    return read_test_labels(find_layout(source))


def read_test_labels(layout: Layout) -> pd.Series | None:
    """Return the labels of the unlabelled rows, as test_labels does."""
    files = layout.test_labels
    if len(files) > 1:
        raise CatalogueError(_describe_several(files, TEST_LABELS))
    return read_labels(layout.filesystem, files[0]).codes if files else None


def photo_name(imageid: int, productid: int) -> str:
    """Return the challenge's file name of a product's photo."""
    return f"image_{imageid}_product_{productid}.jpg"


def _find_all(files: list[str], names: tuple[str, str]) -> tuple[str, ...]:
    exact, pattern = names
    if match := [file for file in files if PurePosixPath(file).name == exact]:
        return tuple(match)
    matches = [file for file in files if fnmatchcase(PurePosixPath(file).name.lower(), pattern.lower())]
    return tuple(matches)


def _find_one(files: list[str], names: tuple[str, str]) -> str | None:
    matches = _find_all(files, names)
    if len(matches) > 1:
        raise FileNotFoundError(_describe_several(matches, names))
    return matches[0] if matches else None


def _describe_several(files: Sequence[str], names: tuple[str, str]) -> str:
    exact, pattern = names
    return f"{_format_names(files)} all fit {pattern}: keep one of them, or name it {exact}"


def _format_names(files: Sequence[str]) -> str:
    names = [PurePosixPath(file).name for file in files]
    return ", ".join(names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "") if names else "nothing"


def _photo_folders(filesystem: AbstractFileSystem, root: str, name: str) -> tuple[str, ...]:
    candidates = (f"{root}/images/{name}", f"{root}/{name}", f"{root}/images")
    return (*(folder for folder in candidates if is_folder(filesystem, folder)), root)
