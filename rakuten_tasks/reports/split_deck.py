"""Deck of the split: products on each split, and photos that training products share with held-out ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rakuten_tasks.reports.page import render


def split_deck(
    listed_titles: int,
    classes_by_hash: int,
    rows: Mapping[str, Sequence[int]],
    shared_photos: int,
    rows_sharing: Sequence[int],
) -> str:
    """Render the page. rows: by split, those used and all labelled ones. rows_sharing: by split."""
    return render(
        "split.html",
        summary={
            "labelled products": sum(labelled for _, labelled in rows.values()),
            "titles placed one by one, also in earlier trainings": listed_titles,
            "classes whose titles are placed by hash": classes_by_hash,
        },
        sampled=any(used < labelled for used, labelled in rows.values()),
        splits=[
            [name, labelled, used, f"{used / max(labelled, 1):.1%}", sharing]
            for (name, (used, labelled)), sharing in zip(rows.items(), rows_sharing, strict=True)
        ],
        shared_photos=shared_photos,
        held_out_sharing=sum(rows_sharing),
    )
