"""The model card of a registered version."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from rakuten_tasks.config import Precision, Refit
from rakuten_tasks.evaluation.metrics import FULL_POOL, TFIDF_SVM, Evaluation
from rakuten_tasks.models.bundle import Manifest
from rakuten_tasks.models.pool_report import relative_weights

SYNTHETIC = "**Trained on the built-in synthetic sample: its metrics say nothing about real products.**"
METRICS = {
    Refit.NONE: "Of this model, whose networks were fitted on training rows only, without validation rows.",
    Refit.EXCEPT_TEST: "Of this model, which was fitted on all labelled rows except these test rows.",
    Refit.EVERYTHING: "Of the model before the final fit: this model was then fitted again, on all labelled rows, with "
    "the settings that were chosen without the test rows.",
}


def model_card(
    manifest: Manifest,
    evaluation: Evaluation,
    descriptions: Mapping[str, str],
    rows: Mapping[str, Sequence[int]],
) -> str:
    """Write the card in Markdown. descriptions: a line for each member. rows: by split, those used and all."""
    members, metrics = _members(manifest, descriptions), _metrics(manifest, evaluation)
    parts = [*_head(manifest), *members, *metrics, *_rows(rows), *_origin(manifest)]
    return "\n\n".join(parts) + "\n"


def _head(manifest: Manifest) -> Iterator[str]:
    synthetic = manifest.lineage.synthetic
    yield "# Product classifier" + (", synthetic sample" if synthetic else "")
    yield (
        f"Classifies e-commerce products (French title and description, photo) into {len(manifest.codes)} type codes. "
        "Several members score a product; the weighted sum of their scores gives the probabilities."
    )
    if synthetic:
        yield SYNTHETIC
    for weights in manifest.lineage.pretrained:
        if weights.warning:
            yield f"**WARNING, {weights.name}: {weights.warning}**"


def _members(manifest: Manifest, descriptions: Mapping[str, str]) -> Iterator[str]:
    yield "## Members"
    modality = manifest.pool.modality
    yield _table(
        ["member", "modality", "description"],
        [(f"`{name}`", modality[name], descriptions[name]) for name in manifest.members],
    )
    yield (
        "Weights of the pool, by the modalities that a product has. 1 means: as confident as the member is alone. "
        "Without text and photo the probabilities are the classes' shares of the labelled rows."
    )
    if manifest.pool.thresholds:
        yield (
            "Where the cheap members alone (`words`, `sentences`, `text`) are sure enough of a product, the others, "
            "and its photo, are not computed."
        )
    weights = relative_weights(manifest.pool)
    yield _table(
        ["weight", *weights],
        [(f"`{n}`", *(f"{w[n]:.3f}" if n in w else "" for w in weights.values())) for n in manifest.members],
    )


def _metrics(manifest: Manifest, evaluation: Evaluation) -> Iterator[str]:
    yield f"## Metrics on {evaluation.n} test rows"
    yield METRICS[manifest.config.refit]
    columns = ["weighted F1", "macro F1", "accuracy", "log loss", "ECE", f"weighted F1 - {TFIDF_SVM}'s"]
    yield _table(["system", *columns], [(f"`{name}`", *system.cells()) for name, system in evaluation.systems.items()])
    yield (
        "With 95 % bootstrap intervals; log loss in nats. ECE is the expected calibration error: below 1,000 rows it "
        f"is mostly noise. `{TFIDF_SVM}` and `most_frequent` are baselines fitted on the same rows."
    )
    if FULL_POOL in evaluation.systems:
        yield f"`{FULL_POOL}` is the pool of all members, also where the cheap ones were enough."


def _rows(rows: Mapping[str, Sequence[int]]) -> Iterator[str]:
    if any(used < labelled for used, labelled in rows.values()):
        yield "## Rows"
        yield "The catalogue is larger than `sample` in the configuration allows: a sample of its titles was used."
        yield _table(
            ["split", "rows used", "labelled rows", "share"],
            [(name, f"{used}", f"{total}", f"{used / max(total, 1):.1%}") for name, (used, total) in rows.items()],
        )


def _origin(manifest: Manifest) -> Iterator[str]:
    lineage = manifest.lineage
    yield "## Pretrained weights"
    if lineage.pretrained:
        rows = [(w.name, w.source, w.licence, f"`{w.sha256}`", w.warning) for w in lineage.pretrained]
        yield _table(["weights", "source", "licence", "SHA-256", "warning"], rows)
        if "photo" in manifest.members and manifest.config.photo.precision is not Precision.AUTO:
            yield f"Photo features are computed in {manifest.config.photo.precision.value}."
    else:
        yield "None."
    yield "## Origin and limits"
    yield (
        f"- Trained on `{lineage.catalogue}`, content hash `{lineage.catalogue_hash}`, seed {manifest.config.seed}, "
        f"code `{lineage.git_commit}`.\n"
        "- Not meant for other languages, photo styles or codes than those it was trained on; run drift checks."
    )


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', '/') for cell in line)} |" for line in lines)
