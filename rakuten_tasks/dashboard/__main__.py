"""`make dashboard`: champion, runs, drift, traffic, log and schedules on one terminal page; live with --watch."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from pathlib import Path

import click
from mlflow import MlflowClient
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from rakuten_tasks.dashboard.queries import last_runs, log_size, next_runs, traffic
from rakuten_tasks.monitoring.history import load_checks
from rakuten_tasks.paths import var_folder
from rakuten_tasks.registry import tracking, versions

BARS = "▁▂▃▄▅▆▇█"
SHOWN = 40  # windows
COLOURS = {"no_drift": "green", "drift": "red", "not_enough_data": "bright_black"}


def sparkline(values: Iterable[float], top: float = 0.0) -> str:
    """A letter a value, from none to the highest of them or `top`."""
    known = [max(0.0, value) for value in values]
    highest = max([*known, top]) or 1.0
    return "".join(BARS[min(len(BARS) - 1, int(value / highest * len(BARS)))] for value in known)


def page(model: str, history: str, log: str) -> RenderableType:
    """history, log: addresses. A part that fails says why in its own place."""
    client = tracking.connect()
    now = datetime.now(UTC)
    parts: dict[str, Callable[[], RenderableType]] = {
        "models": lambda: _models(client, model),
        "last runs": lambda: _runs(client),
        "drift": lambda: _drift(history, _resolved(client, model)),
        "API": lambda: _traffic(client),
        "prediction log": lambda: _log(log),
        "next scheduled runs, where activated": lambda: _schedule(now),
    }
    panels = [Panel(_or_why_not(draw), title=title, title_align="left") for title, draw in parts.items()]
    return Group(Text(f"rakuten-classifier, {now:%Y-%m-%d %H:%M:%S} UTC", style="bold"), *panels)


def _or_why_not(draw: Callable[[], RenderableType]) -> RenderableType:
    try:
        return draw()
    except Exception as error:  # a store that is down must not take the page with it
        return Text(str(error), style="yellow")


def _resolved(client: MlflowClient, model: str) -> str:
    return versions.resolve_model(client, model, synthetic=False)[0]


def _models(client: MlflowClient, model: str) -> RenderableType:
    name = _resolved(client, model)
    table = Table(box=None)
    for heading in (name, "version", "weighted F1", "the gate said"):
        table.add_column(heading, no_wrap=heading != "the gate said")
    for version in versions.list_versions(client, name):
        if version.aliases:
            said = version.reason if len(version.reason) < 100 else f"{version.reason[:99]}…"
            table.add_row(", ".join(version.aliases), str(version.number), version.weighted_f1, said)
    return table


def _runs(client: MlflowClient) -> RenderableType:
    table = Table("run", "started (UTC)", "status", "seconds", "weighted F1", "error", box=None)
    for run in last_runs(client):
        seconds = f"{run.seconds:.0f}" if run.seconds is not None else ""
        score = f"{run.weighted_f1:.4f}" if run.weighted_f1 is not None else ""
        table.add_row(run.name, f"{run.started:%m-%d %H:%M}", run.status, seconds, score, run.error[:60])
    return table if table.row_count else Text("none yet: `make train`")


def _drift(history: str, model: str) -> RenderableType:
    seen = load_checks(history, model)[-SHOWN:]
    if not seen:
        return Text("no window of the log yet: `make monitor` after `make api`")
    line = Text("strongest effect / minimum  ")
    for look, bar in zip(seen, sparkline((look.strength for look in seen), top=2.0), strict=True):
        line.append(bar, style=COLOURS[look.decision.outcome.value])
    last = seen[-1]
    told = f"{last.end[:16]}: {last.decision.outcome.value.replace('_', ' ')}; {last.action}; {last.decision.reason}"
    estimated = [look.accuracy.estimated for look in seen if look.accuracy.estimated is not None]
    accuracy = f"estimated accuracy          {sparkline(estimated, top=1.0)} {estimated[-1]:.3f}" if estimated else ""
    return Group(line, Text(accuracy), Text(told))


def _traffic(client: MlflowClient) -> RenderableType:
    found = traffic(client)
    if found is None:
        return Text("no request yet: `make api`")
    confidence = "" if found.confidence is None else f", mean confidence {found.confidence:.3f}"
    return Text(
        f"requests a minute {sparkline(found.requests)} last {found.requests[-1]:.0f} ({found.last:%m-%d %H:%M} UTC), "
        f"{sum(found.requests):.0f} in all, {found.errors:.0f} refused or failed\n"
        f"latency p50 {found.p50_ms:.0f} ms, p95 {found.p95_ms:.0f} ms{confidence}"
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
@click.option("--history", default="", help="address of the windows; empty: var/monitoring/history")
@click.option("--log", default="", help="address of the prediction log; empty: SERVE_LOG, or var/prediction_log")
@click.option("--watch", is_flag=True, help="stay, and draw it again")
@click.option("--seconds", default=5.0, help="between drawings")
def main(model: str, history: str, log: str, watch: bool, seconds: float) -> None:
    """Print the page once, or keep it up to date until Ctrl-C."""
    history = history or str(var_folder() / "monitoring" / "history")
    log = log or os.environ.get("SERVE_LOG") or str(Path(var_folder()) / "prediction_log")
    if not watch:
        Console().print(page(model, history, log))
        return
    with Live(page(model, history, log), screen=True, auto_refresh=False) as live:
        try:
            while True:
                time.sleep(seconds)
                live.update(page(model, history, log), refresh=True)
        except KeyboardInterrupt:
            return


if __name__ == "__main__":
    main()
