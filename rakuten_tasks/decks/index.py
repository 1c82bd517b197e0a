"""Decks as pages in a folder, and a page that lists them."""

from __future__ import annotations

from collections.abc import Mapping

import fsspec
from markupsafe import Markup

from rakuten_tasks.decks.page import deck, facts, note, standalone

TITLES = {
    "ingest": "Catalogue: what was read",
    "train_lstm": "Text: LSTM and bag of n-grams",
    "train_vgg16": "Photo: VGG16",
    "fuse": "Fusion: how text and photo are mixed",
    "evaluate": "Evaluation: what the test rows showed",
    "register": "Registration: the gate's verdict",
}


def place_of(name: str) -> int:
    """Where a stage's page stands among the others; last where it has no title here."""
    return list(TITLES).index(name) if name in TITLES else len(TITLES)


def write_pages(folder: str, pages: Mapping[str, str], key_facts: Mapping[str, object]) -> str:
    """pages: what `standalone` gave, by name ("ingest" -> ingest.html). -> the address of index.html

    folder: local, or any fsspec address.
    """
    links = [Markup('<p><a href="{}.html">{}</a></p>').format(name, TITLES.get(name, name)) for name in pages]
    listed = [facts(key_facts), note("One page for each stage of the training, all of them readable offline."), *links]
    for name, page in {**pages, "index": standalone("Training", deck("Training", listed))}.items():
        with fsspec.open(f"{folder}/{name}.html", "w", encoding="utf-8", auto_mkdir=True) as file:
            file.write(page)
    return f"{folder}/index.html"
