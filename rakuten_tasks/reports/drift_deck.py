"""Deck of a drift check: decision, evidence, accuracy, earlier windows."""

from __future__ import annotations

from collections.abc import Sequence

import plotly.graph_objects as go

from rakuten_tasks.monitoring.decision import ACCURACY_COLUMNS, EVIDENCE_COLUMNS, DriftReport, Outcome
from rakuten_tasks.monitoring.history import DriftCheck
from rakuten_tasks.reports.page import render
from rakuten_tasks.reports.plot_style import GREY, with_size

COLOURS = {Outcome.NO_DRIFT: "#3f9b57", Outcome.DRIFT: "#c0392b", Outcome.NOT_ENOUGH_DATA: GREY}


def drift_deck(report: DriftReport, checks: Sequence[DriftCheck] = (), link: str = "") -> str:
    """Render the page of a drift check. checks: to plot, oldest first. link: address of the full report."""
    decision = report.decision
    return render(
        "drift.html",
        report=report,
        summary={
            "decision": decision.outcome.label,
            "groups": ", ".join(decision.groups) or "none",
            "reference rows": decision.reference_rows,
            "window rows": decision.window_rows,
        },
        accuracy_columns=ACCURACY_COLUMNS,
        accuracy=report.accuracy_rows(),
        evidence_columns=EVIDENCE_COLUMNS,
        evidence=[evidence.cells() for evidence in decision.evidence],
        skipped=[[skipped.column, skipped.reason] for skipped in decision.skipped],
        history=plot_windows(checks) if checks else None,
        link=link,
    )


def plot_windows(checks: Sequence[DriftCheck]) -> go.Figure:
    """Plot the strongest effect of each window, as a multiple of its minimum; the colour is the decision."""
    plot = go.Figure()
    for outcome, colour in COLOURS.items():
        selected = [check for check in checks if check.decision.outcome is outcome]
        plot.add_scatter(
            x=[check.end for check in selected],
            y=[check.strength for check in selected],
            mode="markers",
            name=outcome.label,
            marker={"color": colour, "size": 10},
            text=[check.decision.reason for check in selected],
        )
    plot.add_hline(1, line_dash="dash")
    plot.update_xaxes(title="end of the window")
    plot.update_yaxes(title="strongest significant effect / minimum", rangemode="tozero")
    return with_size(plot, "Windows so far", 1000, 340)
