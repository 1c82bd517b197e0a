"""The model card of a registered version."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator, Sequence

from rakuten_tasks.config import Refit
from rakuten_tasks.evaluation.metrics import TFIDF_SVM, Evaluation
from rakuten_tasks.models.bundle import Manifest
from rakuten_tasks.models.members import MEMBERS
from rakuten_tasks.models.pool_report import relative_weights

SYNTHETIC = "**Trained on the built-in synthetic sample: its figures say nothing about real products.**"
FIGURES = {
    Refit.NONE: "They are of this very model; networks were fitted on training rows alone, and on no validation row.",
    Refit.EXCEPT_TEST: "They are of this very model, which was fitted on every labelled row but these test rows.",
    Refit.EVERYTHING: "They are of the model before the test rows were added: this one was then fitted once more, on "
    "every labelled row, with what had been chosen without them.",
}


def model_card(manifest: Manifest, evaluation: Evaluation) -> str:
    """Markdown."""
    parts = [*_head(manifest), *_members(manifest), *_figures(manifest, evaluation), *_origin(manifest)]
    return "\n\n".join(parts) + "\n"


def _head(manifest: Manifest) -> Iterator[str]:
    synthetic = manifest.lineage.synthetic
    yield "# Product classifier" + (", synthetic sample" if synthetic else "")
    yield (
        f"Sorts e-commerce products (French title and description, a photo) into {len(manifest.codes)} type codes. "
        "Several members score a product; their scores, each times its weight, are added up and become probabilities."
    )
    if synthetic:
        yield SYNTHETIC
    for weights in manifest.lineage.pretrained:
        if weights.warning:
            yield f"**WARNING, {weights.name}: {weights.warning}**"


def _members(manifest: Manifest) -> Iterator[str]:
    yield "## Members"
    modality = manifest.pool.modality
    yield _table(
        ["member", "of", "what it is"],
        [(f"`{name}`", modality[name], _what_it_is(name)) for name in manifest.members],
    )
    yield (
        "Weights of the pool, by what a product has. 1 means: as sure as the member is when it answers alone. With "
        "neither text nor photo the answer is the classes' shares of the labelled rows."
    )
    weights = relative_weights(manifest.pool)
    yield _table(
        ["weight", *weights],
        [(f"`{n}`", *(f"{of[n]:.3f}" if n in of else "" for of in weights.values())) for n in manifest.members],
    )


def _what_it_is(name: str) -> str:
    return (inspect.getdoc(MEMBERS[name]) or "").partition("\n")[0] if name in MEMBERS else ""


def _figures(manifest: Manifest, evaluation: Evaluation) -> Iterator[str]:
    yield f"## Figures on {evaluation.n} test rows"
    yield FIGURES[manifest.config.refit]
    columns = ["weighted F1", "macro F1", "accuracy", "log loss", "ECE", f"weighted F1 - {TFIDF_SVM}'s"]
    rows = [
        (
            f"`{name}`",
            *map(str, system.metrics),
            f"{system.reliability.ece:.3f}",
            system.lead.signed() if system.lead else "",
        )
        for name, system in evaluation.systems.items()
    ]
    yield _table(["system", *columns], rows)
    yield (
        "With 95 % bootstrap intervals; log loss in nats. ECE is the expected calibration error: under 1,000 rows it "
        f"is mostly noise. `{TFIDF_SVM}` and `most_frequent` are baselines fitted on the same rows."
    )


def _origin(manifest: Manifest) -> Iterator[str]:
    lineage = manifest.lineage
    yield "## Pretrained weights"
    if lineage.pretrained:
        rows = [(w.name, w.source, w.licence, f"`{w.sha256}`", w.warning) for w in lineage.pretrained]
        yield _table(["weights", "source", "licence", "SHA-256", "warning"], rows)
    else:
        yield "None."
    yield "## Origin and limits"
    yield (
        f"- Trained on `{lineage.catalogue}`, content hash `{lineage.catalogue_hash}`, seed {manifest.config.seed}, "
        f"code `{lineage.git_commit}`.\n"
        "- Not meant for other languages, other photo styles or other codes than those it was trained on; watch it for "
        "drift."
    )


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', '/') for cell in line)} |" for line in lines)
