"""Deck of the pool: weights, and what each member adds."""

from __future__ import annotations

from rakuten_tasks.models.pool_report import PoolReport, Quality
from rakuten_tasks.reports.page import render
from rakuten_tasks.reports.result_plots import pool_figures

NEGLIGIBLE_WEIGHT = 0.02  # relative to the member alone; below it the member has no influence
MIN_ROWS = 300  # with fewer rows, differences between members are mostly noise


def pool_deck(report: PoolReport) -> str:
    """Render the page of a fitted pool."""
    summary: dict[str, object] = {"rows compared": report.rows, "members": len(report.members)}
    best = report.members[report.best].alone if report.best else None
    if report.pool and report.best:
        summary["weighted F1 of the pool"] = f"{report.pool.weighted_f1:.4f}"
        summary["log loss of the pool (nats)"] = f"{report.pool.log_loss:.4f}"
        summary["best member alone"] = report.best
    by_modalities = report.weights.values()
    weights = [
        [name, *("" if (weight := by_member.get(name)) is None else f"{weight:.3f}" for by_member in by_modalities)]
        for name in report.members
    ]
    member_columns, members = _members(report)
    return render(
        "pool.html",
        report=report,
        summary=summary,
        min_rows=MIN_ROWS,
        weight_columns=["weight of", *(f"with {key.replace('+', ' and ')}" for key in report.weights)],
        weights=weights,
        negligible=[n for n in report.members if all(w.get(n, 0) < NEGLIGIBLE_WEIGHT for w in by_modalities)],
        member_columns=member_columns,
        members=members,
        best=best if len(report.members) > 1 else None,
        unscored=[name for name, member in report.members.items() if not member.scored],
        figures=pool_figures(report),
        stages=_stages(report),
    )


def _stages(report: PoolReport) -> list[list[object]]:
    """Rows of the table of the cascade."""
    rows: list[list[object]] = []
    for stage in report.stages:
        point = stage.chosen
        coverage = ["", "0%"] if point is None else [f"{point.threshold:.3f}", f"{point.coverage:.0%}"]
        pairs = [(stage.weighted_f1, (point or stage).weighted_f1), (stage.ece, (point or stage).ece)]
        quality = [f"{without:.4f} -> {value:.4f}" for without, value in pairs]
        rows.append([stage.modalities.replace("+", " and "), stage.stage, stage.rows, *coverage, *quality])
    return rows


def _members(report: PoolReport) -> tuple[list[str], list[list[object]]]:
    """Columns and rows of the table of members."""
    if report.pool is None:
        rows = [[name, member.modality, member.scored] for name, member in report.members.items()]
        return ["member", "modality", "held-out rows scored"], rows
    columns = ["", "held-out rows scored", "weighted F1", "log loss", "ECE", "log loss without it", "it adds (F1)"]
    rows = [["pool", "", *_format_quality(report.pool), "", ""]]
    for name, member in report.members.items():
        gain = report.adds(name)
        without = [f"{member.without.log_loss:.4f}", f"{gain[1]:+.4f}"] if member.without and gain else ["", ""]
        rows.append([name, f"{member.scored:,}", *_format_quality(member.alone), *without])
    return columns, rows


def _format_quality(quality: Quality | None) -> list[str]:
    """Weighted F1, log loss and ECE; empty texts if there is no quality."""
    return [f"{v:.4f}" for v in (quality.weighted_f1, quality.log_loss, quality.ece)] if quality else ["", "", ""]
