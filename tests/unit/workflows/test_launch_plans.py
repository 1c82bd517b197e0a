from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from flytekit import FlyteContextManager, LaunchPlan
from flytekit.models.concurrency import ConcurrencyLimitBehavior

from rakuten_tasks.config import Mode
from rakuten_tasks.runtime.schedules import SCHEDULES
from workflows.launch_plans import drift_watch, nightly_training, smoke, weekly_etl
from workflows.training import reproduce_version

PLANS = {plan.name: plan for plan in (nightly_training, drift_watch, weekly_etl, smoke)}


@pytest.fixture(params=PLANS)
def plan(request: pytest.FixtureRequest) -> LaunchPlan:
    return PLANS[request.param]


def test_every_plan_has_a_schedule_labels_and_never_runs_twice_at_once(plan):
    assert plan.schedule is not None
    assert plan.labels.values["project"] == "rakuten"
    assert (plan.concurrency.max_concurrency, plan.concurrency.behavior) == (1, ConcurrencyLimitBehavior.SKIP)


def test_a_scheduled_run_lacks_no_input(plan):
    given = {*plan.fixed_inputs.literals, *plan.saved_inputs}
    kickoff = {plan.schedule.kickoff_time_input_arg} - {None, ""}
    assert set(plan.workflow.python_interface.inputs) == given | kickoff


def test_the_drift_watch_looks_at_windows_as_wide_as_its_interval_every_six_hours():
    assert drift_watch.schedule.cron_schedule.schedule == "10 */6 * * *"
    assert drift_watch.schedule.kickoff_time_input_arg == "kickoff"
    assert "hours" in drift_watch.fixed_inputs.literals
    assert drift_watch.saved_inputs["hours"] == 6.0


def test_the_etl_publishes_every_week_to_one_place_and_before_that_nights_training():
    assert weekly_etl.schedule.cron_schedule.schedule == "0 0 * * 0"
    assert nightly_training.schedule.cron_schedule.schedule == "0 2 * * *"
    assert "destination" in weekly_etl.fixed_inputs.literals
    assert weekly_etl.saved_inputs["destination"] == "s3://rakuten/catalogue"
    assert weekly_etl.saved_inputs["mode"] == Mode.ADD


def test_every_plan_is_in_the_schedules_that_the_dashboard_shows_and_no_other_is():
    assert {name: plan.schedule.cron_schedule.schedule for name, plan in PLANS.items()} == SCHEDULES


def test_plans_are_asleep_unless_asked_and_then_notify_who_is_named(plan):
    assert plan.should_auto_activate is False
    assert plan.notifications == []


def test_a_reproduction_computes_instead_of_reading_the_cache():
    plan = LaunchPlan.get_default_launch_plan(FlyteContextManager.current_context(), reproduce_version)
    assert (plan.name, plan.overwrite_cache) == ("workflows.training.reproduce_version", True)


@pytest.mark.slow
def test_when_asked_for_they_are_activated_and_tell_of_failures():
    code = (
        "from workflows.launch_plans import drift_watch as plan;"
        "print(plan.should_auto_activate, plan.notifications[0].email.recipients_email)"
    )
    environment = {**os.environ, "RAKUTEN_ACTIVATE": "1", "RAKUTEN_NOTIFIED": "a@example.org,b@example.org"}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        env=environment, cwd=Path(__file__).parents[3], capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.split("\n")[-2] == "True ['a@example.org', 'b@example.org']"


@pytest.mark.slow
def test_what_is_no_address_is_told_of_nothing():
    environment = {**os.environ, "RAKUTEN_NOTIFIED": "a@example.org, nobody"}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", "import workflows.launch_plans"],
        env=environment, cwd=Path(__file__).parents[3], capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 1
    message = "RAKUTEN_NOTIFIED: nobody is no e-mail address: separate addresses by commas"
    assert message in " ".join(done.stderr.split())
