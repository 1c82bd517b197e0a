"""Deck of the ingest: what was read of a catalogue."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from rakuten_tasks.data.ingested import Counts, IngestResult
from rakuten_tasks.data.profile import PhotoExample, Profile, profile, quarantined
from rakuten_tasks.preprocessing.language import UNDETERMINED
from rakuten_tasks.reports import catalogue_plots
from rakuten_tasks.reports.display_text import truncate
from rakuten_tasks.reports.page import (
    Tile,
    callout,
    caption,
    deck,
    figure,
    heading,
    key_values,
    side_by_side,
    table,
    tiles,
)
from rakuten_tasks.reports.thumbnails import thumbnail

SEED = 0
SAMPLE = 2000  # products: the share of a language is then known to 2 %
PICTURES = 24
EXAMPLES = 3  # quarantined rows of each reason
MAX_REASONS = 30
LANGUAGE_NAMES = {
    "fr": "French",
    "en": "English",
    "de": "German",
    "es": "Spanish",
    "it": "Italian",
    "nl": "Dutch",
    "pt": "Portuguese",
    UNDETERMINED: "cannot be told",
}

PHOTO_FAULTS = {
    "none": "no photo named",
    "missing": "photo file missing",
    "truncated": "photo truncated",
    "not_an_image": "photo no image",
    "too_large": "photo too large",
}


def ingest_deck(ingested: IngestResult) -> str:
    """Reads the shards once more: all texts, and the photos of a sample of SAMPLE products."""
    shards = [*ingested.labelled, *ingested.unlabelled]
    seen = profile(shards, SEED, SAMPLE, PICTURES)
    blocks = [
        *_counts(ingested),
        *_classes(ingested),
        *_texts(seen),
        *_shares(ingested, seen),
        *_photos(ingested, seen),
        *_contact_sheet(ingested, seen.pictured),
        *_quarantine(ingested),
    ]
    return deck("Ingest", blocks)


def _counts(ingested: IngestResult) -> Iterator[Markup]:
    if ingested.synthetic:
        yield callout("These products are made up: the figures say nothing about a real catalogue.")
    counts = ingested.counts.values()
    yield key_values(
        {
            "rows read": sum(part.read for part in counts),
            "kept": sum(part.kept for part in counts),
            "quarantined": sum(part.quarantined for part in counts),
            "classes": len(ingested.class_counts),
            "content hash": ingested.content_hash[:12],
        }
    )
    rows = [
        (name, part.read, part.kept, part.quarantined, _listed(part.issues)) for name, part in ingested.counts.items()
    ]
    yield table(["part", "read", "kept", "quarantined", "kept though flagged"], rows)
    yield caption("Labelled rows with a fault go into quarantine; rows to predict are flagged and kept.")


def _listed(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {n:,}" for name, n in counts.items()) or "none"


def _classes(ingested: IngestResult) -> Iterator[Markup]:
    yield heading("Classes")
    counts = ingested.class_counts
    if not counts:
        yield caption("No labelled product was kept, so there are no classes to count.")
        return
    sizes = sorted(counts.values(), reverse=True)
    yield caption(f"{len(sizes):,} classes, the largest of {sizes[0]:,} products, the smallest of {sizes[-1]:,}.")
    yield figure(catalogue_plots.class_counts(counts, ingested.names))
    if left_out := sizes[catalogue_plots.MAX_CLASSES :]:
        yield caption(f"Not drawn: {len(left_out):,} smaller classes, of {left_out[-1]:,} to {left_out[0]:,} products.")


def _texts(seen: Profile) -> Iterator[Markup]:
    yield heading("Texts")
    lengths = {"title": seen.title_lengths, "description": seen.description_lengths}
    columns = ["text", "products", "without it", "share without", "median length", "95 % are under", "longest"]
    yield table(columns, [(name, *_spread(values)) for name, values in lengths.items()], "lengths in characters")
    yield side_by_side(*(figure(catalogue_plots.text_lengths(values, name)) for name, values in lengths.items()))


def _shares(ingested: IngestResult, seen: Profile) -> Iterator[Markup]:
    yield heading("Languages, and what is missing")
    yield caption(
        f"Languages were guessed by py3langid, among {len(LANGUAGE_NAMES) - 1}, from title and description of a random "
        f"sample of {seen.sampled:,} products (seed {SEED}). Names and numbers alone have no language."
    )
    languages = {LANGUAGE_NAMES[code]: n for code, n in seen.languages.items()}
    missing = {"no description": int((seen.description_lengths == 0).sum())}
    for part in ingested.counts.values():
        for status, n in part.photos.items():
            if status != "ok":
                name = PHOTO_FAULTS.get(status, f"photo {status}")
                missing[name] = missing.get(name, 0) + n
    yield side_by_side(
        figure(catalogue_plots.shares(languages, seen.sampled, "Languages", "share of the sample")),
        figure(catalogue_plots.shares(missing, len(seen.title_lengths), "Missing", "share of all products kept")),
    )


def _spread(lengths: NDArray) -> tuple[int, int, str, int, int, int]:
    present = lengths[lengths > 0]
    missing = len(lengths) - len(present)
    middle, high = np.quantile(present, (0.5, 0.95)) if len(present) else (0, 0)
    share = f"{missing / max(1, len(lengths)):.1%}"
    return len(lengths), missing, share, int(middle), int(high), int(present.max(initial=0))


def _photos(ingested: IngestResult, seen: Profile) -> Iterator[Markup]:
    yield heading("Photos")
    statuses = list(dict.fromkeys(status for part in ingested.counts.values() for status in part.photos))
    rows = [[status, *(_share(part, status) for part in ingested.counts.values())] for status in statuses]
    yield table(["photo", *ingested.counts], rows, "kept products by what became of their photo")
    if not seen.photos:
        yield caption("No product of the sample has a photo, so there are no sizes to show.")
        return
    yield caption(f"Sizes are of {len(seen.photos):,} photos, those of a random sample of {seen.sampled:,} products.")
    yield side_by_side(
        figure(catalogue_plots.photo_sides(seen.photos)), figure(catalogue_plots.photo_bytes(seen.photos))
    )


def _share(part: Counts, status: str) -> str:
    found = part.photos.get(status, 0)
    return f"{found:,} ({found / max(1, part.kept):.1%})"


def _contact_sheet(ingested: IngestResult, pictured: list[PhotoExample]) -> Iterator[Markup]:
    if not pictured:
        return
    yield heading("Contact sheet")
    yield caption(
        f"{len(pictured)} products with a photo, at random (seed {SEED}), cropped as the classifier sees them."
    )
    yield tiles(
        Tile(thumbnail(one.photo), [_class_line(one.code, ingested.names), truncate(one.title, 60)]) for one in pictured
    )


def _class_line(code: int | None, names: dict[int, str]) -> str:
    return "to predict" if code is None else truncate(f"{code} {names.get(code, '')}".strip(), 40)


def _quarantine(ingested: IngestResult) -> Iterator[Markup]:
    yield heading("Quarantine")
    reasons = [(name, reason, n) for name, part in ingested.counts.items() for reason, n in part.reasons.items()]
    if not reasons:
        yield caption("Every row was kept.")
        return
    yield table(["part", "reason", "rows"], reasons[:MAX_REASONS])
    rows = quarantined(ingested.quarantine, EXAMPLES).fillna("").head(EXAMPLES * MAX_REASONS)
    columns = ["part", "row", "reason", "prdtypecode", "productid", "imageid", "designation"]
    cells = [[truncate(str(cell), 80) for cell in row] for row in rows[columns].itertuples(index=False)]
    yield table(columns, cells, f"up to {EXAMPLES} rows of each reason, as they stand in the CSV")
