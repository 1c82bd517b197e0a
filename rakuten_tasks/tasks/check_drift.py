"""Drift check: compare a window of the prediction log with the champion's reference, and act on the result."""

from __future__ import annotations

import logging
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from flytekit import Deck, current_context
from pydantic.dataclasses import dataclass

from rakuten_tasks.config_base import Settings
from rakuten_tasks.console.options import require_number
from rakuten_tasks.data.fingerprint import fingerprint
from rakuten_tasks.models.bundle import read_manifest
from rakuten_tasks.monitoring.decision import DriftReport
from rakuten_tasks.monitoring.history import DriftCheck, load_checks, save_check
from rakuten_tasks.monitoring.policy import Action, decide_action
from rakuten_tasks.monitoring.window import SPAN_HOURS, TimeWindow
from rakuten_tasks.registry import runs, tracking, versions
from rakuten_tasks.runtime import pods
from rakuten_tasks.runtime.pod_env import require_remote
from rakuten_tasks.runtime.stage import stage
from rakuten_tasks.tasks.types import RegisteredVersion

if TYPE_CHECKING:
    from mlflow import MlflowClient

log = logging.getLogger(__name__)

DRIFT = "drift"  # tag of a version: result of its last drift check


@dataclass(frozen=True)
class MonitoringPaths(Settings):
    """fsspec addresses outside of any pod. open_hours: the one local folder, of a server on this machine."""

    log: str
    history: str
    reports: str
    open_hours: str = ""


class DriftOutcome(NamedTuple):
    check: DriftCheck
    retrain: bool  # an output of its own: Flyte's conditions read no field of a dataclass


@stage(pods.CPU, deck=True)
def check_drift(
    kickoff: datetime, hours: float, paths: MonitoringPaths, source: str, model: str, rest_hours: float
) -> DriftOutcome:
    """Compare, write the report, decide, and add the check to the history."""
    # not at the top: they import torch, transformers and plotly, which the other tasks here do not need
    from rakuten_tasks.monitoring import comparison
    from rakuten_tasks.reports.drift_deck import drift_deck
    from rakuten_tasks.reports.drift_report import write_report

    require_number("hours", hours, *SPAN_HOURS)
    require_number("rest_hours", rest_hours, 0, SPAN_HOURS[1])
    for name in ("log", "history", "reports", "open_hours"):
        require_remote(f"paths.{name}", getattr(paths, name))
    client = tracking.connect()
    champion = versions.fetch_champion(client, model, synthetic=False)
    window = window_span(kickoff, hours, bool(paths.open_hours))
    open_folder = Path(paths.open_hours) if paths.open_hours else None
    report, reference, current = comparison.compare_inputs(
        comparison.champion_reference(champion), comparison.logged_window(paths.log, window, champion, open_folder)
    )
    page = write_report(report, reference.rows, current.rows, f"{paths.reports.rstrip('/')}/{window.end:%Y%m%dT%H%M%S}")
    earlier = load_checks(paths.history, champion.model)
    check = _decide(client, report, window, earlier, champion, source, timedelta(hours=rest_hours))
    save_check(paths.history, check)
    current_context().decks.clear()  # see show_deck
    Deck("Drift", drift_deck(report, [*earlier, check], page))
    return DriftOutcome(check, check.action == Action.RETRAIN.value)


def window_span(kickoff: datetime, hours: float, reads_open_hour: bool) -> TimeWindow:
    """Return the hours before the kickoff; if only closed hours can be read, before the full hour before it."""
    end = kickoff.replace(tzinfo=UTC) if kickoff.tzinfo is None else kickoff.astimezone(UTC)
    if not reads_open_hour:
        end = end.replace(minute=0, second=0, microsecond=0)
    return TimeWindow(end - timedelta(hours=hours), end)


def _decide(
    client: MlflowClient,
    report: DriftReport,
    window: TimeWindow,
    earlier: list[DriftCheck],
    champion: versions.ChampionBundle,
    source: str,
    rest: timedelta,
) -> DriftCheck:
    catalogue = fingerprint(source).content if report.decision.drift else ""  # it reads all files
    trained_on = _read_fingerprint(client, champion.folder)
    action = decide_action(report.decision, window, earlier, champion.version, (catalogue, trained_on), rest)
    start, end = window.isoformat()
    return DriftCheck(
        champion.model,
        champion.version,
        start=start,
        end=end,
        decision=report.decision,
        accuracy=report.window_accuracy,
        action=action.value,
        catalogue=catalogue,
    )


def _read_fingerprint(client: MlflowClient, bundle: Path) -> str:
    """Read the fingerprint of the bundle's catalogue from its MLflow run; empty if the run is gone or has none."""
    run_id = read_manifest(bundle).lineage.run_id
    matches = client.search_runs([tracking.experiment_id(client)], f"attributes.run_id = '{run_id}'")
    return matches[0].data.tags.get(runs.FINGERPRINT, "") if matches else ""


@stage(pods.SMALL)
def alert(check: DriftCheck) -> DriftCheck:
    """Write the result to the version's tag and to the log; nothing is trained."""
    message = f"{check.end}: {check.decision.outcome.value}; {check.action}; {check.decision.reason}"
    (log.warning if check.decision.drift else log.info)(message)
    client = tracking.connect()
    client.set_model_version_tag(check.model, str(check.version), DRIFT, message[:5000])
    return check


@stage(pods.SMALL)
def record_retraining(check: DriftCheck, registered: RegisteredVersion, paths: MonitoringPaths) -> DriftCheck:
    """Add the result of the training to the check and to the history."""
    outcome = f"version {registered.version}, {registered.alias}: {registered.reason}"
    check = replace(check, outcome=outcome)
    save_check(paths.history, check)
    return check
