"""Deck of a drift check: decision, evidence, accuracy, earlier windows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import plotly.graph_objects as go
from markupsafe import Markup

from rakuten_tasks.reports.page import callout, caption, deck, figure, heading, key_values, table
from rakuten_tasks.reports.plot_style import GREY, with_size

if TYPE_CHECKING:
    from rakuten_tasks.monitoring.comparison import Accuracy, DriftReport
    from rakuten_tasks.monitoring.history import DriftCheck

OUTCOMES = {"no_drift": "no drift", "drift": "drift", "not_enough_data": "not enough data"}
SHOWN = {"no_drift": "#3f9b57", "drift": "#c0392b", "not_enough_data": GREY}


def decision_page(report: DriftReport, looks: Sequence[DriftCheck] = (), link: str = "") -> str:
    """looks: the windows before this one, oldest first. link: where the whole report lies."""
    decision = report.decision
    blocks = [
        key_values(
            {
                "decision": OUTCOMES[decision.outcome.value],
                "groups": ", ".join(decision.groups) or "none",
                "reference rows": decision.reference_rows,
                "window rows": decision.window_rows,
            }
        ),
        callout(decision.reason),
        caption(f"Reference: {report.reference}. Window: {report.window}."),
        *_accuracy(report),
        *_evidence(report),
        *_history(looks),
    ]
    if link:
        blocks.append(Markup('<p>The whole report: <a href="{0}">{0}</a></p>').format(link))
    return deck("Drift", blocks)


def _accuracy(report: DriftReport) -> Iterator[Markup]:
    yield heading("Accuracy")
    sides = {"reference": report.reference_accuracy, "window": report.window_accuracy}
    rows = [(name, _share(found.estimated), _real(found), found.labelled) for name, found in sides.items()]
    yield table(["", "estimated from confidence", "real, with 95 % interval", "labelled rows"], rows)


def _share(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.3f}"


def _real(found: Accuracy) -> str:
    return "no labels" if found.real is None else f"{found.real:.3f} [{found.low:.3f}, {found.high:.3f}]"


def _evidence(report: DriftReport) -> Iterator[Markup]:
    yield heading("Evidence")
    yield caption(
        "Drift is called where a test is significant after Holm's correction over all tests, and its effect reaches "
        "the minimum. Evidently's figures below use their own share of columns, which decides nothing here."
    )
    rows = [
        (found.group, found.column, found.test, f"{found.p_adjusted:.2g}", f"{found.effect:.3f}", f"{found.minimum}",
         "drift" if found.drifted else "")
        for found in report.decision.evidence
    ]  # fmt: skip
    yield table(["group", "column", "test", "adjusted p", "effect", "minimum", ""], rows)
    if report.decision.skipped:
        yield table(["not tested", "why"], [(skip.column, skip.reason) for skip in report.decision.skipped])


def _history(looks: Sequence[DriftCheck]) -> Iterator[Markup]:
    if looks:
        yield heading("Windows")
        yield figure(windows_figure(looks))


def windows_figure(looks: Sequence[DriftCheck]) -> go.Figure:
    """The strongest effect of each window, as a multiple of its minimum; the colour is the decision."""
    plot = go.Figure()
    for outcome, name in OUTCOMES.items():
        found = [look for look in looks if look.decision.outcome.value == outcome]
        plot.add_trace(
            go.Scatter(
                x=[look.end for look in found],
                y=[look.strength for look in found],
                mode="markers",
                name=name,
                marker={"color": SHOWN[outcome], "size": 10},
                text=[look.decision.reason for look in found],
            )
        )
    plot.add_hline(1, line_dash="dash")
    plot.update_xaxes(title="end of the window")
    plot.update_yaxes(title="strongest significant effect / minimum", rangemode="tozero")
    return with_size(plot, "Windows so far", 1000, 340)
