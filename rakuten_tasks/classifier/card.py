"""The model card: what a registered version is, for whoever opens it in MLflow."""

from __future__ import annotations

from rakuten_tasks.classifier.bundle import Manifest
from rakuten_tasks.classifier.evaluation import Evaluation

CARD = """# {title}

Sorts e-commerce products (French title and description, a photo) into {classes} type codes: a BiLSTM beside a bag of
n-grams for the text, VGG16 ({weights} weights, {side} px) for the photo, mixed late with calibrated probabilities.
{warning}
| on {n} test rows, 95 % bootstrap interval | weighted F1 | macro F1 | accuracy |
|---|---|---|---|
{rows}

- Expected calibration error of the fused probability: {ece:.3f} (under 1,000 rows it is mostly noise).
- Trained on `{catalogue}`, content hash `{hash}`, seed {seed}, code `{commit}`.
- Weight of the text {text_weight:.2f}; products with one modality use that branch alone, with none the class prior.
- Not meant for other languages, other photo styles or other codes than those it was trained on; watch it for drift.
"""
SYNTHETIC = "\n**Trained on the built-in synthetic sample: its figures say nothing about real products.**\n"


def model_card(manifest: Manifest, evaluation: Evaluation) -> str:
    """Markdown."""
    lineage = manifest.lineage
    rows = [
        f"| {name} | {' | '.join(f'{m.value:.3f} [{m.low:.3f}, {m.high:.3f}]' for m in system.metrics)} |"
        for name, system in evaluation.systems.items()
    ]
    return CARD.format(
        title="Product classifier" + (", synthetic sample" if lineage.synthetic else ""),
        classes=len(manifest.codes),
        weights=manifest.config.photo.weights.value,
        side=manifest.config.photo.pixels,
        warning=SYNTHETIC if lineage.synthetic else "",
        n=evaluation.n,
        rows="\n".join(rows),
        ece=evaluation.ece,
        catalogue=lineage.catalogue,
        hash=lineage.catalogue_hash,
        seed=manifest.config.seed,
        commit=lineage.git_commit,
        text_weight=manifest.fusion.weights["text"],
    )
