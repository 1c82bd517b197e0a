"""Deck of a publication: what the version holds, and what was left out."""

from __future__ import annotations

from collections.abc import Iterator

from markupsafe import Markup

from rakuten_tasks.data.versions.commit import PublishResult
from rakuten_tasks.reports import catalogue_plots
from rakuten_tasks.reports.page import callout, caption, deck, figure, heading, key_values, table

MAX_REASONS = 30


def publication_deck(outcome: PublishResult) -> str:
    """The page of a version, and of the publication that made it or found it there."""
    manifest = outcome.published.manifest
    holds = {
        "version": manifest.version,
        "labelled products": manifest.rows("labelled"),
        "products to predict": manifest.rows("unlabelled"),
        "classes": len(manifest.class_counts),
        "published (UTC)": manifest.published,
    }
    blocks = [key_values(holds), caption(outcome.published.address), *_news(outcome), heading("Classes")]
    counts = {int(code): n for code, n in manifest.class_counts.items()}
    blocks.append(
        figure(catalogue_plots.class_counts(counts, {int(code): name for code, name in manifest.names.items()}))
    )
    return deck("Published catalogue", [*blocks, *_left_out(outcome)])


def _news(outcome: PublishResult) -> Iterator[Markup]:
    manifest = outcome.published.manifest
    if not outcome.new:
        yield callout("Nothing new was published: this version holds all of it already.")
    elif manifest.added_to:
        yield caption(f"{outcome.joined:,} labelled products of {manifest.source} joined version {manifest.added_to}.")
    else:
        yield caption(f"All of it is from {manifest.source}.")
    if manifest.synthetic:
        yield callout("SYNTHETIC: these products were made up.")


def _left_out(outcome: PublishResult) -> Iterator[Markup]:
    yield heading("Left out")
    if not outcome.left_out:
        yield caption("Every row of the source was kept.")
        return
    yield table(["reason", "rows"], list(outcome.left_out.items())[:MAX_REASONS])
