"""Paths of a catalogue in the challenge's layout, in any folder that fsspec can read."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import PurePosixPath

import pandas as pd
from fsspec import AbstractFileSystem

from rakuten_tasks.addresses import open_address
from rakuten_tasks.data.csv_files import read_labels
from rakuten_tasks.data.versions.manifest import find_version

# the challenge's own name, then a pattern for other names, of which exactly one file must match
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
    test_labels: str | None
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
        test_labels=_find_one(files, TEST_LABELS),
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
    """Return the labels of the unlabelled rows, prdtypecode (int64) by row; None if the catalogue has none."""
    if (published := find_version(source)) is not None:
        return published.answers()
    layout = find_layout(source)
    if layout.test_labels is None:
        return None
    return read_labels(layout.filesystem, layout.test_labels).codes.dropna().astype("int64")


def photo_name(imageid: int, productid: int) -> str:
    """Return the challenge's file name of a product's photo."""
    return f"image_{imageid}_product_{productid}.jpg"


def _find_one(files: list[str], names: tuple[str, str]) -> str | None:
    exact, pattern = names
    if match := [file for file in files if PurePosixPath(file).name == exact]:
        return match[0]
    matches = [file for file in files if fnmatch(PurePosixPath(file).name, pattern)]
    if len(matches) > 1:
        raise FileNotFoundError(f"{_format_names(matches)} all fit {pattern}: keep one of them, or name it {exact}")
    return matches[0] if matches else None


def _format_names(files: list[str]) -> str:
    names = [PurePosixPath(file).name for file in files]
    return ", ".join(names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "") if names else "nothing"


def _photo_folders(filesystem: AbstractFileSystem, root: str, name: str) -> tuple[str, ...]:
    candidates = (f"{root}/images/{name}", f"{root}/{name}", f"{root}/images")
    return (*filter(filesystem.isdir, candidates), root)
