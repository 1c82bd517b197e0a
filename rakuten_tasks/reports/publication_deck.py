"""Deck of a publication: what the version contains, and which rows were left out."""

from __future__ import annotations

from rakuten_tasks.data.versions.commit import PublishResult
from rakuten_tasks.reports import catalogue_plots
from rakuten_tasks.reports.page import render

MAX_REASONS = 30


def publication_deck(result: PublishResult) -> str:
    """Render the page of the current version and of the publication that made or found it."""
    manifest = result.published.manifest
    return render(
        "publication.html",
        result=result,
        manifest=manifest,
        summary={
            "version": manifest.version,
            "labelled products": manifest.rows("labelled"),
            "products to predict": manifest.rows("unlabelled"),
            "classes": len(manifest.class_counts),
            "published (UTC)": manifest.published,
        },
        class_counts=catalogue_plots.class_counts(
            {int(code): n for code, n in manifest.class_counts.items()}, manifest.names
        ),
        reasons=list(result.left_out.items())[:MAX_REASONS],
    )
