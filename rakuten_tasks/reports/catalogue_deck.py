"""Deck of the ingest: what was read from a catalogue."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray

from rakuten_tasks.data.ingested import IngestResult
from rakuten_tasks.data.profile import PhotoExample, Profile, profile, quarantined
from rakuten_tasks.preprocessing.language import UNDETERMINED
from rakuten_tasks.reports import catalogue_plots
from rakuten_tasks.reports.display_text import class_label, truncate
from rakuten_tasks.reports.page import Tile, render
from rakuten_tasks.reports.thumbnails import thumbnail

SEED = 0
SAMPLE = 2000  # products: the share of a language then has an error of about 2 %
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
    UNDETERMINED: "undetermined",
}
PHOTO_FAULTS = {
    "none": "no photo named",
    "missing": "photo file missing",
    "unreadable": "photo file unreadable",
    "truncated": "photo truncated or damaged",
    "not_an_image": "not an image, or an empty one",
    "too_large": "photo too large",
}
QUARANTINE_COLUMNS = ["part", "row", "reason", "prdtypecode", "productid", "imageid", "designation"]


def ingest_deck(ingested: IngestResult) -> str:
    """Render the page of an ingest. Reads all texts of the shards, and the photos of a sample of SAMPLE products."""
    statistics = profile([*ingested.labelled, *ingested.unlabelled], SEED, SAMPLE, PICTURES)
    lengths = {"title": statistics.title_lengths, "description": statistics.description_lengths}
    parts = ingested.counts
    names = {str(code): name for code, name in ingested.names.items()}
    rows = quarantined(ingested.quarantine, EXAMPLES).fillna("").head(EXAMPLES * MAX_REASONS)
    photo_plots = [catalogue_plots.photo_sides, catalogue_plots.photo_bytes]
    return render(
        "catalogue.html",
        ingested=ingested,
        profile=statistics,
        seed=SEED,
        summary=_summary(ingested),
        parts=[
            [name, part.read, part.kept, part.quarantined, _join_counts(part.issues)] for name, part in parts.items()
        ],
        class_sizes=sorted(ingested.class_counts.values(), reverse=True),
        max_classes=catalogue_plots.MAX_CLASSES,
        class_counts=catalogue_plots.class_counts(ingested.class_counts, names),
        texts=[[name, *_summarize_lengths(values)] for name, values in lengths.items()],
        text_lengths=[catalogue_plots.text_lengths(values, name) for name, values in lengths.items()],
        languages=len(LANGUAGE_NAMES) - 1,
        shares=_share_plots(ingested, statistics),
        photo_statuses=_photo_statuses(ingested),
        photo_plots=[plot(statistics.photos) for plot in photo_plots] if statistics.photos else [],
        pictures=[_tile(example, names) for example in statistics.pictured],
        reasons=[[name, reason, n] for name, part in parts.items() for reason, n in part.reasons.items()][:MAX_REASONS],
        quarantine_columns=QUARANTINE_COLUMNS,
        quarantine=[[truncate(str(cell), 80) for cell in row] for row in rows[QUARANTINE_COLUMNS].to_numpy()],
        examples=EXAMPLES,
    )


def _summary(ingested: IngestResult) -> dict[str, object]:
    parts = ingested.counts.values()
    return {
        "rows read": sum(part.read for part in parts),
        "kept": sum(part.kept for part in parts),
        "quarantined": sum(part.quarantined for part in parts),
        "classes": len(ingested.class_counts),
        "content hash": ingested.content_hash[:12],
    }


def _tile(example: PhotoExample, names: dict[str, str]) -> Tile:
    label = "to predict" if example.code is None else class_label(example.code, names)
    return Tile(thumbnail(example.photo), [label, truncate(example.title, 60)])


def _join_counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {n:,}" for name, n in counts.items()) or "none"


def _summarize_lengths(counts: Mapping[int, int]) -> list[object]:
    """Products, products without the text and their share; median, 95th percentile and maximum of the others."""
    products, missing = sum(counts.values()), counts.get(0, 0)
    lengths = [length for length in counts if length]
    before = np.cumsum([0, *(counts[length] for length in lengths)])  # products with a shorter text
    missing_share = f"{missing / max(1, products):.1%}"
    quantiles = [int(_interpolate(q * (before[-1] - 1), lengths, before)) if lengths else 0 for q in (0.5, 0.95)]
    return [products, missing, missing_share, *quantiles, max(lengths, default=0)]


def _interpolate(position: float, lengths: Sequence[int], before: NDArray[np.int64]) -> float:
    """Return the length at a position, which may lie between two, among all products in ascending order."""
    low, high = (
        lengths[int(np.searchsorted(before, place, "right")) - 1] for place in (np.floor(position), np.ceil(position))
    )
    return low + (high - low) * (position % 1)


def _share_plots(ingested: IngestResult, statistics: Profile) -> list[go.Figure]:
    languages = {LANGUAGE_NAMES[code]: n for code, n in statistics.languages.items()}
    missing = {"no description": statistics.description_lengths.get(0, 0)}
    for part in ingested.counts.values():
        for status, n in part.photos.items():
            if status != "ok":
                name = PHOTO_FAULTS.get(status, f"photo {status}")
                missing[name] = missing.get(name, 0) + n
    products = sum(statistics.title_lengths.values())
    return [
        catalogue_plots.shares(languages, statistics.sampled, "Languages", "share of the sample"),
        catalogue_plots.shares(missing, products, "Missing", "share of all products kept"),
    ]


def _photo_statuses(ingested: IngestResult) -> list[list[object]]:
    """A row for each status: its products in each part, and their share of the part."""
    parts = ingested.counts.values()
    statuses = dict.fromkeys(status for part in parts for status in part.photos)
    return [
        [
            status,
            *(f"{(n := part.photos.get(status, 0)):,} ({n / max(1, part.kept):.1%})" for part in parts),
        ]
        for status in statuses
    ]
