"""Decks as pages in a folder, with an index page."""

from __future__ import annotations

from collections.abc import Mapping

import fsspec
from markupsafe import Markup

from rakuten_tasks.reports.page import caption, deck, key_values, standalone

FIT = "fit_"  # and a member's name: the page of its fit
TITLES = {
    "ingest": "Catalogue: what was read",
    FIT: "Member {}: how it was fitted",
    "pool": "Pool: how members become one answer",
    "evaluate": "Evaluation: what the test rows showed",
    "register": "Registration: the gate's verdict",
}


def title_of(name: str) -> str:
    """For people; the name itself where there is none."""
    return TITLES.get(_kind(name), name).format(name.removeprefix(FIT))


def page_order(name: str) -> tuple[int, str]:
    """Sorts the stages' pages: members by name, and last what has no title here."""
    kind = _kind(name)
    return (list(TITLES).index(kind) if kind in TITLES else len(TITLES)), name


def _kind(name: str) -> str:
    return FIT if name.startswith(FIT) else name


def write_pages(folder: str, pages: Mapping[str, str], key_facts: Mapping[str, object]) -> str:
    """pages: what `standalone` gave, by name ("ingest" -> ingest.html). -> the address of index.html

    folder: local, or any fsspec address.
    """
    links = [Markup('<p><a href="{}.html">{}</a></p>').format(name, title_of(name)) for name in pages]
    listed = [
        key_values(key_facts),
        caption("One page for each stage of the training, all of them readable offline."),
        *links,
    ]
    for name, page in {**pages, "index": standalone("Training", deck("Training", listed))}.items():
        with fsspec.open(f"{folder}/{name}.html", "w", encoding="utf-8", auto_mkdir=True) as file:
            file.write(page)
    return f"{folder}/index.html"
