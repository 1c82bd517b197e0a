"""Schedules and fixed inputs of the workflows. Registering activates them only with RAKUTEN_ACTIVATE=1.

pyflyte register workflows                       # registered, inactive
RAKUTEN_ACTIVATE=1 pyflyte register workflows    # registered and scheduled
"""

from __future__ import annotations

import os
from typing import Any

from flytekit import CronSchedule, Email, Labels, LaunchPlan
from flytekit.models.concurrency import ConcurrencyLimitBehavior, ConcurrencyPolicy
from flytekit.models.core.execution import WorkflowExecutionPhase

from rakuten_tasks.config import (
    BagConfig,
    LSTMConfig,
    Mode,
    PhotoConfig,
    PublicationConfig,
    TrainingConfig,
    Weights,
)
from rakuten_tasks.data.sample.generate import SAMPLE
from rakuten_tasks.runtime import pods
from rakuten_tasks.runtime.pod_env import require_object_store
from rakuten_tasks.runtime.schedules import LABELS, PLAN_VARIABLES, SCHEDULES
from rakuten_tasks.tasks.check_drift import MonitoringPaths
from workflows.drift_watch import watch_drift
from workflows.etl import publish_catalogue
from workflows.training import train_classifier

ACTIVE = pods.SETTINGS.activate == "1"
VALUES = {name: os.environ.get(name, "") for name in PLAN_VARIABLES}
SOURCE = VALUES["RAKUTEN_SOURCE"] or SAMPLE
if SOURCE != SAMPLE:
    require_object_store("RAKUTEN_SOURCE", SOURCE)
INCOMING = VALUES["RAKUTEN_INCOMING"] or SOURCE  # source of the ETL
if INCOMING != SAMPLE:
    require_object_store("RAKUTEN_INCOMING", INCOMING)
STORE = require_object_store("RAKUTEN_STORE", VALUES["RAKUTEN_STORE"] or "s3://rakuten").rstrip("/")
NOTIFIED = [address.strip() for address in VALUES["RAKUTEN_NOTIFIED"].split(",") if address.strip()]
PATHS = MonitoringPaths(
    log=f"{STORE}/prediction_log", history=f"{STORE}/drift/history", reports=f"{STORE}/drift/reports"
)
if wrong := [address for address in NOTIFIED if "@" not in address.strip("@")]:
    raise ValueError(f"RAKUTEN_NOTIFIED: {', '.join(wrong)} is no e-mail address: separate addresses by commas")
FAILED = [WorkflowExecutionPhase.FAILED, WorkflowExecutionPhase.TIMED_OUT, WorkflowExecutionPhase.ABORTED]
# One epoch of each network: tests that everything runs, not that it learns
SMOKE = TrainingConfig(
    bag=BagConfig(ngram_bits=12), lstm=LSTMConfig(epochs=1), photo=PhotoConfig(weights=Weights.RANDOM, epochs=1)
)


def _plan(name: str, workflow: Any, purpose: str, **options: Any) -> LaunchPlan:
    return LaunchPlan.get_or_create(
        workflow,
        name=name,
        # skipped while the previous execution runs: the next one reads the same log
        concurrency=ConcurrencyPolicy(max_concurrency=1, behavior=ConcurrencyLimitBehavior.SKIP),
        notifications=[Email(phases=FAILED, recipients_email=NOTIFIED)] if NOTIFIED else [],
        labels=Labels({**LABELS, "purpose": purpose}),
        auto_activate=ACTIVE,
        **options,
    )


nightly_training = _plan(
    "nightly_training",
    train_classifier,
    "training",
    schedule=CronSchedule(schedule=SCHEDULES["nightly_training"]),
    default_inputs={"source": SOURCE, "config": TrainingConfig(), "model": ""},
    fixed_inputs={"report": f"{STORE}/reports/nightly.json"},
)

drift_watch = _plan(
    "drift_watch",
    watch_drift,
    "drift",
    schedule=CronSchedule(schedule=SCHEDULES["drift_watch"], kickoff_time_input_arg="kickoff"),
    default_inputs={"source": SOURCE, "config": TrainingConfig(), "model": "", "rest_hours": 72.0},
    fixed_inputs={"paths": PATHS, "hours": 6.0},
)

# nightly_training reads its catalogue if RAKUTEN_SOURCE names it
weekly_etl = _plan(
    "weekly_etl",
    publish_catalogue,
    "catalogue",
    schedule=CronSchedule(schedule=SCHEDULES["weekly_etl"]),
    default_inputs={"source": INCOMING, "config": PublicationConfig(), "mode": Mode.ADD},
    fixed_inputs={"destination": f"{STORE}/catalogue"},
)

# On the sample: tests that everything still runs
smoke = _plan(
    "smoke",
    train_classifier,
    "smoke",
    schedule=CronSchedule(schedule=SCHEDULES["smoke"]),
    default_inputs={"config": SMOKE},
    fixed_inputs={"source": "sample", "model": "rakuten-classifier-smoke", "report": ""},
)
