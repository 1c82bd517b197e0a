"""`make monitor`: the champion's held-out rows against the prediction log, or any two catalogues or tables."""

from __future__ import annotations

import os
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from rakuten_tasks.data.layout import is_synthetic
from rakuten_tasks.data.sample.generate import SAMPLE
from rakuten_tasks.monitoring import compare
from rakuten_tasks.monitoring.comparison import Accuracy, DriftReport
from rakuten_tasks.monitoring.decision import Decision
from rakuten_tasks.monitoring.history import DriftCheck, save_check
from rakuten_tasks.monitoring.inputs import is_file
from rakuten_tasks.monitoring.window import TimeWindow
from rakuten_tasks.paths import var_folder
from rakuten_tasks.registry import tracking, versions
from rakuten_tasks.reports.drift_report import write_report

ACTION = "looked at by hand"


@click.command()
@click.option("--reference", default="", help="catalogue's folder, CSV or Parquet; empty: the champion's held-out rows")
@click.option("--current", default="", help="the same; empty: the prediction log")
@click.option("--log", default="", help="address of the prediction log; empty: SERVE_LOG, or var/prediction_log")
@click.option("--hours", default=168.0, help="width of the window that ends now")
@click.option("--model", default="", help="registered model; empty for the one that has a champion")
@click.option("--out", default="", help="folder or address; empty: var/monitoring/reports")
def main(reference: str, current: str, log: str, hours: float, model: str, out: str) -> None:
    """Write drift_report.html and drift_report.json, and print the decision."""
    synthetic = any(_synthetic(source) for source in (reference, current) if source)
    found = _champion(model, synthetic, needed=not (reference and current))
    now = datetime.now(UTC)
    span = TimeWindow(now - timedelta(hours=hours), now)
    if reference:
        before = compare.catalogue_input(reference, found)
    else:
        assert found is not None
        before = compare.champion_reference(found)
    if current:
        after = compare.catalogue_input(current, found, to_predict=True)
    else:
        assert found is not None
        log = log or os.environ.get("SERVE_LOG") or str(var_folder() / "prediction_log")
        after = compare.logged_window(log, span, found, var_folder() / "serving" / "open_hours")
    report, before, after = compare.compare_inputs(before, after)
    page = write_report(report, before.rows, after.rows, out or str(var_folder() / "monitoring" / "reports"))
    if found and not reference and not current:
        look = DriftCheck(found.name, found.version, *_ends(span), report.decision, report.window_accuracy, ACTION)
        save_check(str(var_folder() / "monitoring" / "history"), look)
    show(report, page)


def _ends(span: TimeWindow) -> tuple[str, str]:
    return span.start.isoformat(timespec="seconds"), span.end.isoformat(timespec="seconds")


def _synthetic(source: str) -> bool:
    return source == SAMPLE or (not is_file(source) and is_synthetic(source))


def _champion(model: str, synthetic: bool, needed: bool) -> compare.Model | None:
    """The champion; None where there is none and two catalogues are compared, which can do without."""
    client = tracking.connect()
    try:
        name, notice = versions.resolve_model(client, model, synthetic)
    except LookupError:
        if needed or model:
            raise
        click.echo("there is no champion: what only a model knows is left out", err=True)
        return None
    if notice:
        click.echo(notice, err=True)
    version = versions.aliases(client, name)[versions.CHAMPION]
    return compare.Model(name, version, Path(versions.fetch(client, name, str(version))))


def show(report: DriftReport, page: str) -> None:
    """The decision with its strongest evidence, and accuracy."""
    decision = report.decision
    console = Console()
    console.print(f"[bold]{decision.outcome.value.replace('_', ' ')}[/]{_groups(decision)}: {decision.reason}")
    console.print(f"reference: {report.reference}\nwindow: {report.window}")
    if decision.evidence:
        table = Table("group", "column", "test", "adjusted p", "effect", "minimum", "")
        for found in decision.evidence[:8]:
            p, effect, mark = f"{found.p_adjusted:.2g}", f"{found.effect:.3f}", "drift" if found.drifted else ""
            table.add_row(found.group, found.column, found.test, p, effect, f"{found.minimum}", mark)
        console.print(table)
    for name, accuracy in (("reference", report.reference_accuracy), ("window", report.window_accuracy)):
        console.print(f"accuracy, {name}: {_format_accuracy(accuracy)}")
    console.print(f"written to {page} and drift_report.json beside it")


def _groups(decision: Decision) -> str:
    return f" in {', '.join(decision.groups)}" if decision.groups else ""


def _format_accuracy(accuracy: Accuracy) -> str:
    estimated = "unknown" if accuracy.estimated is None else f"{accuracy.estimated:.3f}"
    if accuracy.real is None:
        return f"estimated {estimated}; no labels yet"
    return (
        f"estimated {estimated}, real {accuracy.real:.3f} [{accuracy.low:.3f}, {accuracy.high:.3f}] "
        f"of {accuracy.labelled} labelled rows"
    )


if __name__ == "__main__":
    try:
        main()
    except (LookupError, ValueError, FileNotFoundError) as error:
        sys.exit(f"Error: {error}")
