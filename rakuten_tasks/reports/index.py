"""Writes Decks as pages into a folder, with an index page."""

from __future__ import annotations

from collections.abc import Mapping

from rakuten_tasks.reports.page import render, standalone
from rakuten_tasks.storage.addresses import write_file

DECKS = "decks"  # folder of a training's run
FIT = "fit_"  # followed by a member's name: the page of its training
TITLES = {
    "ingest": "Catalogue: what was read",
    "split": "Split: what is held out",
    FIT: "Member {}: how it was fitted",
    "pool": "Pool: how members are combined",
    "evaluate": "Evaluation on the test rows",
    "register": "Registration: the gate's decision",
}


def page_title(name: str) -> str:
    """Return the title of a stage's page, or the name itself if it has no title here."""
    return TITLES.get(_stage(name), name).format(name.removeprefix(FIT))


def page_order(name: str) -> tuple[int, str]:
    """Return a sort key: stages in the order of TITLES, members by name, pages without a title last."""
    stage = _stage(name)
    return (list(TITLES).index(stage) if stage in TITLES else len(TITLES)), name


def _stage(name: str) -> str:
    return FIT if name.startswith(FIT) else name


def write_pages(folder: str, pages: Mapping[str, str], summary: Mapping[str, object]) -> str:
    """Write each page as {name}.html and an index.html that links them. Return the address of the index.

    folder: local, or any fsspec address. pages: complete HTML by name. summary: values at the top of the index.
    """
    index = render("index.html", summary=summary, pages={name: page_title(name) for name in pages})
    for name, page in {**pages, "index": standalone("Training", index)}.items():
        write_file(f"{folder}/{name}.html", page)
    return f"{folder}/index.html"
