"""Show a page as a Deck in Flyte's console and log it to MLflow."""

from __future__ import annotations

from flytekit import Deck, current_context
from flytekit.types.file import FlyteFile

from rakuten_tasks.registry.run_log import RunLog
from rakuten_tasks.reports.page import standalone
from rakuten_tasks.runtime.files import workspace


def show_deck(name: str, title: str, page: str, log: RunLog | None = None) -> FlyteFile:
    """Show and log the page. page: HTML of rakuten_tasks/reports. -> standalone HTML file"""
    current_context().decks.clear()  # local tasks share one list: deck.html would repeat earlier ones
    Deck(title, page)
    path = workspace() / f"{name}.html"
    path.write_text(standalone(title, page), encoding="utf-8")
    if log:
        log.artifact(path)
    return FlyteFile(str(path))
