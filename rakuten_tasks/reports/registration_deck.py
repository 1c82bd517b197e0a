"""Deck of a registration: the gate's decision and the bootstrap behind it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from markupsafe import Markup
from numpy.typing import NDArray

from rakuten_tasks.config import GateConfig
from rakuten_tasks.models.pretrained import PretrainedWeights
from rakuten_tasks.registry.gate import GateDecision
from rakuten_tasks.reports.display_text import truncate
from rakuten_tasks.reports.page import callout, caption, deck, figure, heading, key_values, table
from rakuten_tasks.reports.registration_plots import paired_histogram

MAX_LOSSES = 60  # classes in the table
MAX_REASON = 600  # letters: it names every class that lost too much


def registration_deck(
    model: str,
    version: int,
    alias: str,
    verdict: GateDecision,
    differences: Mapping[str, NDArray],
    config: GateConfig,
    losses: Mapping[int, float] | None = None,
    names: Mapping[str, str] | None = None,
    notes: Sequence[str] = (),
    pretrained: Sequence[PretrainedWeights] = (),
) -> str:
    """alias: the one that the version got. names: code -> name for people. notes: what to know before all else.

    differences: (resamples,) of bootstrap.paired_differences, new minus rival, by who the rival is ("champion,
    version 3"); none where there was nothing to compare with. losses: F1 lost against the champion, by code, of
    gate.class_losses.
    """
    blocks = [
        key_values(
            {"model": model, "version": version, "alias": alias, "gate": "passed" if verdict.passed else "refused"}
        ),
        *(callout(truncate(text, MAX_REASON)) for text in notes),
        callout(truncate(verdict.reason, MAX_REASON)),
        *_figures(verdict),
        *_bootstrap(verdict, differences, config),
        *_losses(losses or {}, names or {}, config),
        *_weights(pretrained),
    ]
    return deck("Registration", blocks)


def _weights(pretrained: Sequence[PretrainedWeights]) -> Iterator[Markup]:
    if pretrained:
        yield heading("Pretrained weights")
        rows = [(item.name, truncate(item.source, MAX_REASON), item.licence, item.sha256) for item in pretrained]
        yield table(["weights", "source", "licence", "SHA-256"], rows)


def _figures(verdict: GateDecision) -> Iterator[Markup]:
    scores = {
        "this version": verdict.new_f1,
        "champion": verdict.incumbent_f1,
        "best champion": verdict.best_f1,
    }
    known = [(name, f"{f1:.4f}", _signed(verdict.new_f1 - f1)) for name, f1 in scores.items() if f1 is not None]
    yield table(["", "weighted F1", "this version's lead"], known, "all on the same test rows")


def _bootstrap(verdict: GateDecision, differences: Mapping[str, NDArray], config: GateConfig) -> Iterator[Markup]:
    yield heading("Bootstrap")
    if not differences:
        yield caption("Nothing to draw: " + _why_not(verdict))
        return
    yield caption(
        f"The test rows were resampled {len(next(iter(differences.values()))):,} times, for both versions alike. "
        f"The version may lose {config.max_f1_loss} (the dashed line), and must stay above that with probability "
        f"{config.min_probability} or more against every rival."
    )
    rows = [
        (name, _signed(values.mean()), f"{(values >= -config.max_f1_loss).mean():.3f}")
        for name, values in differences.items()
    ]
    yield table(["rival", "mean lead", "probability"], rows)
    yield figure(paired_histogram(differences, config.max_f1_loss))


def _signed(difference: float) -> str:
    return f"{round(difference, 4) + 0.0:+.4f}"  # never -0.0000


def _why_not(verdict: GateDecision) -> str:
    if verdict.incumbent_f1 is not None:
        return "the verdict was given in an earlier attempt, and stands."
    return "there is no champion yet." if verdict.passed else "the champion knows other classes."


def _losses(losses: Mapping[int, float], names: Mapping[str, str], config: GateConfig) -> Iterator[Markup]:
    if not losses:
        return
    yield heading("Classes")
    worst = sorted(losses, key=lambda code: -losses[code])
    rows = [
        (
            truncate(f"{code} {names.get(str(code), '')}".strip(), 60),
            f"{losses[code]:+.3f}",
            "too much" if losses[code] > config.max_class_loss else "allowed" if losses[code] > 0 else "",
        )
        for code in worst[:MAX_LOSSES]
    ]
    left_out = f"; {len(worst) - MAX_LOSSES:,} more lose less" if len(worst) > MAX_LOSSES else ""
    caption = f"F1 lost against the champion, classes with {config.min_class_rows} test rows or more{left_out}"
    yield table(["class", "F1 lost", f"at most {config.max_class_loss}"], rows, caption)
