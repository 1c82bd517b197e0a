"""`make dashboard`: champion, runs, drift, traffic, log and schedules on one terminal page; live with --watch."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime

import click
from mlflow import MlflowClient
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from rakuten_tasks.console.options import Number
from rakuten_tasks.console.terminal import prepare_streams
from rakuten_tasks.dashboard.queries import last_runs, log_size, next_runs, traffic
from rakuten_tasks.monitoring.decision import Outcome
from rakuten_tasks.monitoring.history import load_checks
from rakuten_tasks.monitoring.prediction_log import default_address
from rakuten_tasks.registry import tracking, versions
from rakuten_tasks.registry.model_names import RULE, is_model_name
from rakuten_tasks.storage.paths import var_folder

BARS = "▁▂▃▄▅▆▇█"
MAX_CHECKS = 40
COLOURS = {Outcome.NO_DRIFT: "green", Outcome.DRIFT: "red", Outcome.NOT_ENOUGH_DATA: "bright_black"}


def sparkline(values: Iterable[float], top: float = 0.0) -> str:
    """Draw one bar for each value, from 0 to the highest of the values and `top`."""
    heights = [max(0.0, value) for value in values]
    highest = max([*heights, top]) or 1.0
    return "".join(BARS[min(len(BARS) - 1, int(height / highest * len(BARS)))] for height in heights)


def page(model: str, history: str, log: str) -> RenderableType:
    """Draw the page. history, log: addresses. A part that fails shows its error in place of its content."""
    client = tracking.connect()
    now = datetime.now(UTC)
    parts: dict[str, Callable[[], RenderableType]] = {
        "models": lambda: _models(client, model),
        "last runs": lambda: _runs(client),
        "drift": lambda: _drift(history, _resolve(client, model)),
        "API": lambda: _traffic(client),
        "prediction log": lambda: _log(log),
        "next scheduled runs, if activated": lambda: _schedule(now),
    }
    panels = [Panel(_draw_or_error(draw), title=title, title_align="left") for title, draw in parts.items()]
    return Group(Text(f"rakuten-classifier, {now:%Y-%m-%d %H:%M:%S} UTC", style="bold"), *panels)


def _draw_or_error(draw: Callable[[], RenderableType]) -> RenderableType:
    try:
        return draw()
    except Exception as error:  # the other parts must stay visible if a store is down
        return Text(str(error), style="yellow")


def _resolve(client: MlflowClient, model: str) -> str:
    return versions.resolve_model(client, model, synthetic=False)[0]


def _models(client: MlflowClient, model: str) -> RenderableType:
    name = _resolve(client, model)
    table = Table(box=None)
    for heading in (name, "version", "weighted F1"):
        table.add_column(heading, no_wrap=True)
    table.add_column("gate")
    for version in versions.list_versions(client, name):
        if version.aliases:
            reason = version.reason if len(version.reason) < 100 else f"{version.reason[:99]}…"
            table.add_row(", ".join(version.aliases), str(version.number), version.weighted_f1, reason)
    return table


def _runs(client: MlflowClient) -> RenderableType:
    table = Table("run", "started (UTC)", "status", "seconds", "weighted F1", "error", box=None)
    for run in last_runs(client):
        seconds = f"{run.seconds:.0f}" if run.seconds is not None else ""
        score = f"{run.weighted_f1:.4f}" if run.weighted_f1 is not None else ""
        table.add_row(run.name, f"{run.started:%m-%d %H:%M}", run.status, seconds, score, run.error[:60])
    return table if table.row_count else Text("no run yet: `make train`")


def _drift(history: str, model: str) -> RenderableType:
    checks = load_checks(history, model)[-MAX_CHECKS:]
    if not checks:
        return Text("no drift check yet: `make monitor` after `make api`")
    line = Text("strongest effect / minimum  ")
    for check, bar in zip(checks, sparkline((check.strength for check in checks), top=2.0), strict=True):
        line.append(bar, style=COLOURS[check.decision.outcome])
    last = checks[-1]
    estimated = [check.accuracy.estimated for check in checks if check.accuracy.estimated is not None]
    accuracy = f"estimated accuracy          {sparkline(estimated, top=1.0)} {estimated[-1]:.3f}" if estimated else ""
    summary = f"{last.end[:16]}: {last.decision.outcome.label}; {last.action}; {last.decision.reason}"
    return Group(line, Text(accuracy), Text(summary))


def _traffic(client: MlflowClient) -> RenderableType:
    server = traffic(client)
    if server is None:
        return Text("no request yet: `make api`")
    confidence = "" if server.confidence is None else f", mean confidence {server.confidence:.3f}"
    return Text(
        f"requests a minute {sparkline(server.requests)} last {server.requests[-1]:.0f} "
        f"({server.last:%m-%d %H:%M} UTC), {sum(server.requests):.0f} in total, {server.errors:.0f} refused or failed\n"
        f"latency p50 {server.p50_ms:.0f} ms, p95 {server.p95_ms:.0f} ms{confidence}"
    )


def _log(address: str) -> RenderableType:
    size = log_size(address, var_folder() / "serving" / "open_hours")
    return Text(
        f"{size.rows:,} records in {size.files} closed hours, {size.size / 1e6:.1f} MB at {address}; "
        f"{size.open_lines:,} in the open hour"
    )


def _schedule(now: datetime) -> RenderableType:
    return Text("   ".join(f"{name} {moment:%a %H:%M} UTC" for name, moment in next_runs(now).items()))


@click.command()
@click.option("--model", default="", help="registered model; empty for the one that has a champion")
@click.option("--history", default="", help="address of the drift checks; empty: var/monitoring/history")
@click.option("--log", default="", help="address of the prediction log; empty: SERVE_LOG, or var/prediction_log")
@click.option("--watch", is_flag=True, help="stay, and update the page")
@click.option("--seconds", type=Number("--seconds", 0.1, 3600), default=5.0, help="between updates")
def main(model: str, history: str, log: str, watch: bool, seconds: float) -> None:
    """Print the page once, or keep it up to date until Ctrl-C."""
    if model and not is_model_name(model):
        raise click.ClickException(f"model {model!a}: {RULE}")
    addresses = history or str(var_folder() / "monitoring" / "history"), log or default_address()
    if not watch:
        Console(markup=False, emoji=False).print(page(model, *addresses))
        return
    with Live(
        page(model, *addresses), console=Console(markup=False, emoji=False), screen=True, auto_refresh=False
    ) as live:
        try:
            while True:
                time.sleep(seconds)
                live.update(page(model, *addresses), refresh=True)
        except KeyboardInterrupt:
            return


if __name__ == "__main__":
    prepare_streams()
    main()
