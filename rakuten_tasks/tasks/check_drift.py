"""Drift check: a window of the prediction log against the champion's reference, and what follows."""

from __future__ import annotations

import logging
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

from flytekit import Deck, current_context
from mlflow import MlflowClient
from pydantic.dataclasses import dataclass

from rakuten_tasks.config import Settings
from rakuten_tasks.data.fingerprint import fingerprint
from rakuten_tasks.models.bundle import read_manifest
from rakuten_tasks.monitoring import compare
from rakuten_tasks.monitoring.comparison import DriftReport
from rakuten_tasks.monitoring.history import DriftCheck, load_checks, save_check
from rakuten_tasks.monitoring.policy import Action, decide_action
from rakuten_tasks.monitoring.window import TimeWindow
from rakuten_tasks.registry import runs, tracking, versions
from rakuten_tasks.reports.drift_deck import decision_page
from rakuten_tasks.reports.drift_report import write_report
from rakuten_tasks.runtime import pods
from rakuten_tasks.runtime.pod_env import require_remote
from rakuten_tasks.runtime.stage import stage
from rakuten_tasks.tasks.types import RegisteredVersion

log = logging.getLogger(__name__)

DRIFT = "drift"  # tag of a version: what was last said of it


@dataclass(frozen=True)
class MonitoringPaths(Settings):
    """fsspec addresses, never a folder inside a pod. open_hours: the one local folder, of a server on this machine."""

    log: str
    history: str
    reports: str
    open_hours: str = ""


class DriftOutcome(NamedTuple):
    look: DriftCheck
    retrain: bool  # a plain one: Flyte's conditions take nothing else


@stage(pods.CPU, deck=True)
def check_drift(
    kickoff: datetime, hours: float, places: MonitoringPaths, source: str, model: str, rest_hours: float
) -> DriftOutcome:
    """Compare, write the report, decide, and remember."""
    for what in ("log", "history", "reports", "open_hours"):
        require_remote(f"places.{what}", getattr(places, what))
    client = tracking.connect()
    name, _ = versions.resolve_model(client, model, synthetic=False)
    version = versions.aliases(client, name)[versions.CHAMPION]
    found = compare.Model(name, version, versions.fetch(client, name, str(version)))
    span = window_span(kickoff, hours, bool(places.open_hours))
    open_folder = Path(places.open_hours) if places.open_hours else None
    report, *sides = compare.compare_inputs(
        compare.champion_reference(found), compare.logged_window(places.log, span, found, open_folder)
    )
    folder = f"{places.reports.rstrip('/')}/{span.end:%Y%m%dT%H%M%S}"
    page = write_report(report, sides[0].rows, sides[1].rows, folder)
    before = load_checks(places.history, name)
    look = _judged(client, report, span, before, found, source, timedelta(hours=rest_hours))
    save_check(places.history, look)
    _show(report, [*before, look], page)
    return DriftOutcome(look, look.action == Action.RETRAIN.value)


def window_span(kickoff: datetime, hours: float, open_hour_is_read: bool) -> TimeWindow:
    """Up to the kickoff; where only closed hours can be read, up to the full hour before it."""
    end = kickoff.replace(tzinfo=UTC) if kickoff.tzinfo is None else kickoff.astimezone(UTC)
    if not open_hour_is_read:
        end = end.replace(minute=0, second=0, microsecond=0)
    return TimeWindow(end - timedelta(hours=hours), end)


def _judged(
    client: MlflowClient,
    report: DriftReport,
    span: TimeWindow,
    before: list[DriftCheck],
    model: compare.Model,
    source: str,
    rest: timedelta,
) -> DriftCheck:
    now = fingerprint(source).content if report.decision.drift else ""  # it reads the whole catalogue
    action = decide_action(report.decision, span, before, model.version, (now, _trained_on(client, model.bundle)), rest)
    ends = (span.start.isoformat(timespec="seconds"), span.end.isoformat(timespec="seconds"))
    return DriftCheck(
        model.name, model.version, *ends, report.decision, report.window_accuracy, action.value, catalogue=now
    )


def _trained_on(client: MlflowClient, bundle: Path) -> str:
    """The fingerprint of a bundle's catalogue; empty where its run does not tell."""
    run = read_manifest(bundle).lineage.run_id
    found = client.search_runs([tracking.experiment_id(client)], f"attributes.run_id = '{run}'")
    return found[0].data.tags.get(runs.FINGERPRINT, "") if found else ""


def _show(report: DriftReport, seen: list[DriftCheck], page: str) -> None:
    current_context().decks.clear()  # see show_deck
    Deck("Drift", decision_page(report, seen, page))


@stage(pods.SMALL)
def alert(look: DriftCheck) -> DriftCheck:
    """No training: say what was found, on the version and in the log."""
    said = f"{look.end}: {look.decision.outcome.value}; {look.action}; {look.decision.reason}"
    (log.warning if look.decision.drift else log.info)(said)
    client = tracking.connect()
    client.set_model_version_tag(look.model, str(look.version), DRIFT, said[:5000])
    return look


@stage(pods.SMALL)
def record_retraining(look: DriftCheck, registered: RegisteredVersion, places: MonitoringPaths) -> DriftCheck:
    """The look, with what the training came to, in the history too."""
    noted = replace(look, outcome=f"version {registered.version}, {registered.alias}: {registered.reason}")
    save_check(places.history, noted)
    return noted
