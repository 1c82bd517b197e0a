"""`make monitor`: compares the champion's held-out rows with the prediction log, or any two catalogues or tables."""

from __future__ import annotations

import sys
from datetime import UTC, datetime, timedelta

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from rakuten_tasks.console.options import Number
from rakuten_tasks.console.terminal import prepare_streams
from rakuten_tasks.data.layout import is_synthetic
from rakuten_tasks.data.sample.generate import SAMPLE
from rakuten_tasks.monitoring import comparison
from rakuten_tasks.monitoring.decision import ACCURACY_COLUMNS, EVIDENCE_COLUMNS, DriftReport
from rakuten_tasks.monitoring.history import DriftCheck, save_check
from rakuten_tasks.monitoring.inputs import is_file
from rakuten_tasks.monitoring.prediction_log import default_address
from rakuten_tasks.monitoring.window import SPAN_HOURS, TimeWindow
from rakuten_tasks.registry import tracking, versions
from rakuten_tasks.reports.drift_report import write_report
from rakuten_tasks.storage.paths import var_folder

ACTION = "checked with `make monitor`"
MAX_EVIDENCE = 8  # rows


@click.command()
@click.option(
    "--reference", default="", help="folder of a catalogue, CSV or Parquet; empty: the champion's held-out rows"
)
@click.option("--current", default="", help="the same; empty: the prediction log")
@click.option("--log", default="", help="address of the prediction log; empty: SERVE_LOG, or var/prediction_log")
@click.option("--hours", type=Number("HOURS", *SPAN_HOURS), default=168.0, help="length of the window, which ends now")
@click.option("--model", default="", help="registered model; empty for the one that has a champion")
@click.option("--out", default="", help="folder or address; empty: var/monitoring/reports")
def main(reference: str, current: str, log: str, hours: float, model: str, out: str) -> None:
    """Write drift_report.html and drift_report.json, and print the decision."""
    synthetic = any(_is_synthetic(source) for source in (reference, current) if source)
    champion = _fetch_champion(model, synthetic, required=not (reference and current))
    now = datetime.now(UTC)
    span = TimeWindow(now - timedelta(hours=hours), now)
    monitoring = var_folder() / "monitoring"
    if reference:
        before = comparison.catalogue_input(reference, champion)
    else:
        assert champion is not None
        before = comparison.champion_reference(champion)
    if current:
        after = comparison.catalogue_input(current, champion, to_predict=True)
    else:
        assert champion is not None
        open_folder = var_folder() / "serving" / "open_hours"
        after = comparison.logged_window(log or default_address(), span, champion, open_folder)
    report, before, after = comparison.compare_inputs(before, after)
    page = write_report(report, before.rows, after.rows, out or str(monitoring / "reports"))
    if champion and not reference and not current:
        accuracy = report.window_accuracy
        check = DriftCheck(champion.model, champion.version, *span.isoformat(), report.decision, accuracy, ACTION)
        save_check(str(monitoring / "history"), check)
    print_report(report, page)


def _is_synthetic(source: str) -> bool:
    return source == SAMPLE or (not is_file(source) and is_synthetic(source))


def _fetch_champion(model: str, synthetic: bool, required: bool) -> versions.ChampionBundle | None:
    """Fetch the champion; return None if there is none and it is not required, as to compare two catalogues."""
    try:
        champion = versions.fetch_champion(tracking.connect(), model, synthetic)
    except LookupError:
        if required or model:
            raise
        click.echo("there is no champion: columns that only a model can compute are left out", err=True)
        return None
    if champion.notice:
        click.echo(champion.notice, err=True)
    return champion


def print_report(report: DriftReport, page: str) -> None:
    """Print the decision with its strongest evidence, and accuracy. page: address of the HTML report."""
    decision = report.decision
    console = Console(markup=False, emoji=False)  # of paths and reasons every bracket is printed
    groups = f" in {', '.join(decision.groups)}" if decision.groups else ""
    console.print(Text.assemble((decision.outcome.label, "bold"), f"{groups}: {decision.reason}"))
    console.print(f"reference: {report.reference}\nwindow: {report.window}")
    evidence = [item.cells() for item in decision.evidence[:MAX_EVIDENCE]]
    for columns, rows in ((EVIDENCE_COLUMNS, evidence), (ACCURACY_COLUMNS, report.accuracy_rows())):
        table = Table(*columns)
        for row in rows:
            table.add_row(*row)
        if rows:
            console.print(table)
    console.print(f"written to {page} and drift_report.json beside it")


if __name__ == "__main__":
    prepare_streams()
    try:
        main()
    except (LookupError, ValueError, FileNotFoundError) as error:
        sys.exit(f"Error: {error}")
