"""Deck of the split: products on each split, and photos that training products share with held-out ones."""

from __future__ import annotations

from collections.abc import Sequence

from rakuten_tasks.data.splits import SPLITS
from rakuten_tasks.reports.page import render


def split_deck(titles: int, rows: Sequence[int], shared_photos: int, rows_sharing: Sequence[int]) -> str:
    """Render the page. rows, rows_sharing: by split, see assignments.count_shared_photos."""
    return render(
        "split.html",
        summary={"labelled products": sum(rows), "titles, also of earlier trainings": titles},
        splits=[list(row) for row in zip(SPLITS, rows, rows_sharing, strict=True)],
        shared_photos=shared_photos,
        held_out_sharing=sum(rows_sharing),
    )
