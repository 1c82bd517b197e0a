"""A real French catalogue from Debian's package descriptions, in the challenge's layout: sections are the classes.

python -m benchmarks.debian --translations Translation-fr.bz2 --packages Packages.xz --products 4700 --out debian
Both files are on every Debian mirror, under dists/bookworm/main/: i18n and binary-amd64. There are no photos.
"""

from __future__ import annotations

import bz2
import lzma
from collections.abc import Iterator
from pathlib import Path

import click
import numpy as np
import pandas as pd

CLASSES = 27
MISSING = 0.35  # share of products without a description, as in the challenge
FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


def stanzas(text: str) -> Iterator[dict[str, str]]:
    """Parse the fields of each package; continuation lines are joined by line breaks."""
    for block in text.split("\n\n"):
        fields: dict[str, str] = {}
        name = ""
        for line in block.splitlines():
            if line.startswith(" "):
                fields[name] += "\n" + ("" if line.strip() == "." else line.strip())
            else:
                name, _, value = line.partition(": ")
                fields[name] = value
        yield fields


def join_descriptions(translations: str, packages: str) -> pd.DataFrame:
    """Return section, designation and description of each package with a French title, without duplicate titles."""
    sections = {package["Package"]: package["Section"].rpartition("/")[2] for package in stanzas(packages) if package}
    rows = []
    for package in stanzas(translations):
        if package.get("Package") in sections and "Description-fr" in package:
            title, _, rest = package["Description-fr"].partition("\n")
            rows.append((sections[package["Package"]], title, " ".join(rest.split())))
    return pd.DataFrame(rows, columns=["section", "designation", "description"]).drop_duplicates("designation")


@click.command()
@click.option("--translations", type=FILE, required=True, help="Translation-fr.bz2")
@click.option("--packages", type=FILE, required=True, help="Packages.xz")
@click.option("--products", default=4700)
@click.option("--seed", default=0)
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), required=True)
def main(translations: Path, packages: Path, products: int, seed: int, out: Path) -> None:
    """Write X_train_update.csv and Y_train_CVw08PX.csv with products of the 27 largest sections."""
    french, english = bz2.decompress(translations.read_bytes()), lzma.decompress(packages.read_bytes())
    rows = join_descriptions(french.decode(), english.decode())
    largest = sorted(rows["section"].value_counts().index[:CLASSES])
    rows = rows[rows["section"].isin(largest)].sample(products, random_state=seed, ignore_index=True)
    rows.loc[np.random.default_rng(seed).random(products) < MISSING, "description"] = ""
    (out / "images/image_train").mkdir(parents=True, exist_ok=True)
    rows = rows.assign(productid=range(1000, 1000 + products), imageid="")
    rows[["designation", "description", "productid", "imageid"]].to_csv(out / "X_train_update.csv")
    codes = {section: 10 * (position + 1) for position, section in enumerate(largest)}
    rows["section"].map(codes).rename("prdtypecode").to_frame().to_csv(out / "Y_train_CVw08PX.csv")
    click.echo(f"{out}: {products} products of {len(largest)} sections")


if __name__ == "__main__":
    main()
