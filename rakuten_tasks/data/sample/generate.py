"""Generator of the synthetic sample: products in the challenge's layout, to try the pipeline without its data."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

import pandas as pd

from rakuten_tasks.console.progress import Progress
from rakuten_tasks.data.layout import photo_name
from rakuten_tasks.data.sample import SAMPLE as SAMPLE
from rakuten_tasks.data.sample.drawings import draw_photo
from rakuten_tasks.data.sample.texts import Text, class_names, class_sizes, write_text

FLOOR = 4  # labelled products of every class: one title for each split
DUPLICATED_TITLES = 0.03  # the challenge: 2,651 titles of 84,916 occur more than once
WRONG_LABELS = 0.025
JPEG_QUALITY = 80

SYNTHETIC = """# Synthetic catalogue: every product here is made up

Written by `rakuten_tasks/data/sample/generate.py` (products={products}, unlabelled={unlabelled}, seed={seed}).
Texts come from a small grammar, photos are drawings, brands, works and authors are invented; {wrong:.1%} of the labels
are wrong on purpose. It has the challenge's files, codes and kinds of dirt, so that the pipeline can be tried.

Figures measured on it say nothing about the real challenge, nor about real products.
`Y_test.csv` holds the answers to `X_test_update.csv`, which the real challenge keeps to itself.
"""


@dataclass(frozen=True)
class Product:
    """Made-up product. code: class of its text and photo; label: class in the catalogue, sometimes wrong."""

    code: int
    label: int
    text: Text
    productid: int
    imageid: int


def write_sample(folder: Path, products: int = 2400, unlabelled: int = 400, seed: int = 0) -> None:
    """Write `products` labelled products and `unlabelled` ones to predict, in the challenge's layout, with photos.

    Beside the challenge's files: Y_test.csv (the answers), classes.csv (names for people) and SYNTHETIC.md.
    Same arguments: the same files, byte for byte. Raises ValueError if there are too few products for every class.
    """
    all_products = make_products(products, unlabelled, seed)
    folder.mkdir(parents=True, exist_ok=True)
    _write_tables(folder, "train", "Y_train_CVw08PX.csv", all_products[:products], first_row=0)
    _write_tables(folder, "test", "Y_test.csv", all_products[products:], first_row=products)
    pd.Series(class_names(), name="name").rename_axis("prdtypecode").to_csv(folder / "classes.csv")
    note = SYNTHETIC.format(products=products, unlabelled=unlabelled, seed=seed, wrong=WRONG_LABELS)
    (folder / "SYNTHETIC.md").write_text(note, encoding="utf-8")
    for part in ("image_train", "image_test"):
        (folder / "images" / part).mkdir(parents=True, exist_ok=True)
    for row, product in enumerate(Progress(all_products, "drawing the synthetic sample", unit=" photos")):
        part = "image_train" if row < products else "image_test"
        # each photo has a random generator of its own: changes to the grammar do not change drawings
        photo = draw_photo(product.code, Random(f"{seed} photo {row}"))
        name = photo_name(product.imageid, product.productid)
        photo.save(folder / "images" / part / name, quality=JPEG_QUALITY)


def sample_answers(products: int = 2400, unlabelled: int = 400, seed: int = 0) -> pd.Series:
    """Return the labels that `write_sample` with the same arguments writes to Y_test.csv: code by row."""
    to_predict = make_products(products, unlabelled, seed)[products:]
    return pd.Series([product.label for product in to_predict], index=range(products, products + unlabelled))


def make_products(products: int, unlabelled: int, seed: int) -> list[Product]:
    """Return the labelled products, then the unlabelled ones. Raises ValueError as write_sample does."""
    sizes = class_sizes()
    if products < FLOOR * len(sizes):
        raise ValueError(
            f"products={products}: each of the {len(sizes)} classes needs {FLOOR}, "
            f"one for every split: ask for {FLOOR * len(sizes)} or more"
        )
    if unlabelled < 0:
        raise ValueError(f"unlabelled={unlabelled}: 0 or more")
    random = Random(f"{seed} text")
    labelled_codes, unlabelled_codes = _draw_codes(products, FLOOR, sizes), _draw_codes(unlabelled, 0, sizes)
    codes = random.sample(labelled_codes, products) + random.sample(unlabelled_codes, unlabelled)
    texts = _write_texts(codes, random)
    labels = _add_wrong_labels(codes, random)
    productids = random.sample(range(100_000_000, 1_000_000_000), len(codes))
    imageids = random.sample(range(1_000_000_000, 1_400_000_000), len(codes))
    return [Product(*parts) for parts in zip(codes, labels, texts, productids, imageids, strict=True)]


def _draw_codes(products: int, floor: int, sizes: dict[int, int]) -> list[int]:
    """Return the codes of so many products: `floor` of each class, the others distributed as in the challenge."""
    free = products - floor * len(sizes)
    shares = {code: free * size / sum(sizes.values()) for code, size in sizes.items()}
    counts = Counter({code: floor + int(share) for code, share in shares.items()})
    # largest remainders first
    by_remainder = sorted(shares, key=lambda code: int(shares[code]) - shares[code])
    counts.update(by_remainder[: products - counts.total()])
    return sorted(counts.elements())


def _write_texts(codes: Sequence[int], random: Random) -> list[Text]:
    """Return a text for each product. Titles are unique, except for a share that copies one of the same class."""
    texts: list[Text] = []
    used_titles: set[str] = set()
    of_class: dict[int, list[str]] = {code: [] for code in codes}
    for code in codes:
        text, titles = write_text(code, random), of_class[code]
        # the first titles of a class are never copies, so that every class has FLOOR titles
        if len(titles) >= FLOOR and random.random() < DUPLICATED_TITLES:
            text = Text(random.choice(titles), text.description, text.language)
        else:
            while text.designation.casefold() in used_titles:
                text = write_text(code, random)
        used_titles.add(text.designation.casefold())
        titles.append(text.designation)
        texts.append(text)
    return texts


def _add_wrong_labels(codes: Sequence[int], random: Random) -> list[int]:
    """Return the codes, a share of them exchanged between products: each class keeps its number of labels."""
    labels = list(codes)
    rows = random.sample(range(len(codes)), round(WRONG_LABELS * len(codes)))
    for row, other in zip(rows, rows[1:] + rows[:1], strict=True):
        labels[row] = codes[other]
    return labels


def _write_tables(folder: Path, part: str, labels_file: str, products: Sequence[Product], first_row: int) -> None:
    """Write X_{part}_update.csv and the file of labels, with rows numbered from `first_row` on."""
    rows = pd.DataFrame(
        {
            "designation": [product.text.designation for product in products],
            "description": [product.text.description for product in products],
            "productid": [product.productid for product in products],
            "imageid": [product.imageid for product in products],
        },
        index=range(first_row, first_row + len(products)),
    )
    rows.to_csv(folder / f"X_{part}_update.csv")
    labels = pd.DataFrame({"prdtypecode": [product.label for product in products]}, index=rows.index)
    labels.to_csv(folder / labels_file)
