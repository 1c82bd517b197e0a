"""Decks as pages in a folder, and a page that lists them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from markupsafe import Markup

from rakuten_tasks.decks.page import deck, facts, note, standalone


def write_index(folder: Path, decks: Mapping[str, str], key_facts: Mapping[str, object] | None = None) -> Path:
    """decks: fragment by name, a file name without its suffix ("ingest" -> ingest.html). -> index.html"""
    folder.mkdir(parents=True, exist_ok=True)
    links = []
    for name, fragment in decks.items():
        title = name.replace("_", " ").capitalize()
        (folder / f"{name}.html").write_text(standalone(title, fragment), encoding="utf-8")
        links.append(Markup('<p><a href="{}.html">{}</a></p>').format(name, title))
    blocks = [
        facts(key_facts or {}),
        note("A page for each stage of the training, readable offline."),
        *links,
    ]
    index = folder / "index.html"
    index.write_text(standalone("Training", deck("Training", blocks)), encoding="utf-8")
    return index
