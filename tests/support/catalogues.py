"""A tiny catalogue in the challenge's layout, and ways to spoil it."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import pandas as pd
from PIL import Image, ImageDraw

from rakuten_tasks.config import (
    BagConfig,
    IngestConfig,
    LSTMConfig,
    PhotoConfig,
    SplitConfig,
    TextConfig,
    TrainingConfig,
    Weights,
)

NAMES = {10: "livres", 1300: "drones", 2583: "piscine"}
# two shards of a catalogue of 45 products, one epoch: enough to go every step of the way
TINY = TrainingConfig(
    ingest=IngestConfig(rows_per_shard=25),
    split=SplitConfig(validation=0.15, blending=0.15, test=0.2),
    bag=BagConfig(ngram_bits=12),
    lstm=LSTMConfig(epochs=1),
    text=TextConfig(encoder="none"),
    photo=PhotoConfig(weights=Weights.RANDOM, image_size=32, epochs=1),
)


def photo_bytes(number: int = 0, side: int = 40, kind: str = "JPEG") -> bytes:
    """A white photo with a coloured square, different for each number."""
    image = Image.new("RGB", (side, side), "white")
    colour = (number * 37 % 256, number * 91 % 256, number * 53 % 256)
    ImageDraw.Draw(image).rectangle((side // 4, side // 4, side // 2, side // 2), fill=colour)
    buffer = BytesIO()
    image.save(buffer, kind)
    return buffer.getvalue()


def write_catalogue(folder: Path, labelled: int = 12, unlabelled: int = 4) -> Path:
    """Rows 0 to labelled - 1 with classes in turn, then the rows to predict; each with a photo and a title of its own.

    Product i has productid 1000 + i and imageid 5000 + i; its class is the (i modulo 3)th of NAMES.
    """
    codes = list(NAMES)
    folder.mkdir(parents=True, exist_ok=True)
    write_rows(folder, "train", range(labelled))
    write_rows(folder, "test", range(labelled, labelled + unlabelled))
    labels = pd.DataFrame({"prdtypecode": [codes[i % len(codes)] for i in range(labelled)]})
    labels.to_csv(folder / "Y_train_CVw08PX.csv")
    pd.Series(NAMES, name="name").rename_axis("prdtypecode").to_csv(folder / "classes.csv")
    return folder


def write_rows(folder: Path, part: str, numbers: range) -> None:
    """X_{part}_update.csv and images/image_{part} of the products of these numbers."""
    rows = pd.DataFrame(
        {
            "designation": [f"Produit n° {i}, {list(NAMES.values())[i % len(NAMES)]}" for i in numbers],
            "description": [f"Très <b>beau</b> produit {i}" if i % 2 else "" for i in numbers],
            "productid": [1000 + i for i in numbers],
            "imageid": [5000 + i for i in numbers],
        },
        index=list(numbers),
    )
    rows.to_csv(folder / f"X_{part}_update.csv")
    photos = folder / "images" / f"image_{part}"
    photos.mkdir(parents=True)
    for i in numbers:
        photo_path(folder, i, part).write_bytes(photo_bytes(i))


def photo_path(folder: Path, number: int, part: str = "train") -> Path:
    """Where the photo of this product lies."""
    return folder / "images" / f"image_{part}" / f"image_{5000 + number}_product_{1000 + number}.jpg"


def set_cell(file: Path, row: int, column: str, text: str) -> None:
    """Change one cell of a CSV."""
    rows = _texts(file)
    rows.loc[row, column] = text
    rows.to_csv(file)


def drop_rows(file: Path, rows: list[int]) -> None:
    """Take rows out of a CSV."""
    _texts(file).drop(rows).to_csv(file)


def _texts(file: Path) -> pd.DataFrame:
    rows = pd.read_csv(file, dtype=str, keep_default_na=False)
    return rows.set_axis(rows.iloc[:, 0].astype(int).rename(None), axis=0).iloc[:, 1:]
