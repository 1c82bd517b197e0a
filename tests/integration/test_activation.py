"""Upgrade and rollback of launch plans on a stand-in for flyteadmin."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner
from flyteidl.admin.launch_plan_pb2 import LaunchPlan
from flyteidl.core.execution_pb2 import WorkflowExecution
from flyteidl.core.identifier_pb2 import Identifier
from mlflow import MlflowClient

from rakuten_tasks.registry import runs
from rakuten_tasks.runtime import cluster
from rakuten_tasks.runtime.schedules import SCHEDULES
from tests.support.flyte_admin import ACTIVE, FlyteAdmin, flyte_admin


@pytest.fixture
def admin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FlyteAdmin]:
    monkeypatch.setenv("FLYTE_DEFAULT_PROJECT", "shop")
    monkeypatch.setenv("FLYTE_DEFAULT_DOMAIN", "production")
    monkeypatch.chdir(tmp_path)
    with flyte_admin() as (admin, port):
        text = f"[platform]\nurl = dns:///127.0.0.1:{port}\ninsecure = True\n[images]\ntask = registry.example/task\n"
        (tmp_path / "flyte.config").write_text(text)
        yield admin


def add(admin: FlyteAdmin, version: str, *names: str, project: str = "rakuten") -> None:
    for name in names or SCHEDULES:
        plan = LaunchPlan(id=Identifier(project="shop", domain="production", name=name, version=version))
        plan.spec.entity_metadata.schedule.cron_schedule.schedule = "0 2 * * *"
        plan.spec.labels.values["project"] = project
        admin.plans[name, version] = plan


def run(*arguments: str) -> tuple[int, str]:
    done = CliRunner().invoke(cluster.cluster, arguments)
    return done.exit_code, done.output


def test_another_version_is_activated_in_place_of_the_one_before_which_a_rollback_activates_again(admin):
    add(admin, "old")
    assert run("activate", "--version", "old") == (
        0,
        "".join(f"{name}: version old is active\n" for name in reversed(SCHEDULES)),
    )
    add(admin, "new")
    assert admin.active() == dict.fromkeys(SCHEDULES, "old")  # registering alone changes nothing
    status, output = run("activate", "--version", "new")
    assert (status, admin.active()) == (0, dict.fromkeys(SCHEDULES, "new"))
    assert output.endswith("before it was version old: `make activate VERSION=old` goes back\n")
    assert run("activate", "--version", "old")[0] == 0
    assert admin.active() == dict.fromkeys(SCHEDULES, "old")


def test_a_version_of_other_plans_leaves_only_its_own_active(admin):
    add(admin, "old", "nightly_training", "removed_since")
    add(admin, "new")
    assert run("activate", "--version", "new")[0] == 0
    status, output = run("activate", "--version", "old")
    assert (status, admin.active()) == (0, {"nightly_training": "old", "removed_since": "old"})
    assert "smoke: version new is inactive" in output


def test_plans_of_other_projects_stay_as_they_are(admin):
    add(admin, "v1", "theirs", project="other")
    admin.plans["theirs", "v1"].closure.state = ACTIVE
    add(admin, "v1")
    admin.page = 2  # more than one page of plans
    assert run("activate", "--version", "v1")[0] == 0
    assert admin.active() == {"theirs": "v1", **dict.fromkeys(SCHEDULES, "v1")}
    status, output = run("deactivate")
    assert (status, admin.active()) == (0, {"theirs": "v1"})
    assert output == "".join(f"{name}: version v1 is inactive\n" for name in SCHEDULES)


def test_a_version_that_was_not_registered_or_only_in_part_changes_nothing(admin):
    add(admin, "old")
    run("activate", "--version", "old")
    status, output = run("activate", "--version", "none")
    assert (status, admin.active()) == (1, dict.fromkeys(SCHEDULES, "old"))
    assert "version none lacks nightly_training, drift_watch, weekly_etl, smoke in shop, production" in output
    assert output.endswith("name one with VERSION=; registered: old\n")
    version = cluster.flyte_version("abc", "cpu", "registry.example/task:abc")
    add(admin, version, "nightly_training", "drift_watch")
    status, output = run("activate", "--tag", "abc", "--profile", "cpu")
    assert (status, admin.active()) == (1, dict.fromkeys(SCHEDULES, "old"))
    assert f"version {version} lacks weekly_etl, smoke in shop, production" in output


def test_an_error_of_the_cluster_is_shown_without_a_trace(admin, monkeypatch):
    monkeypatch.setenv("FLYTE_DEFAULT_PROJECT", "unknown")
    status, output = run("activate", "--version", "v1")
    assert status == 1
    assert output.startswith("Error: the Flyte cluster refused: ")
    assert "project [unknown] not found" in output


def test_trainings_whose_executions_are_over_are_closed_and_no_others(admin, mlflow_store: MlflowClient):
    phase = WorkflowExecution
    admin.phases = {"over": phase.ABORTED, "failing": phase.FAILING, "failed": phase.FAILED, "alive": phase.RUNNING}
    executions = ("over", "failing", "failed", "alive", "of another cluster")
    parents = {name: runs.start_parent("a training", {}, {}, execution=name) for name in executions}
    assert run("close-lost") == (0, "closed 2 trainings whose executions are over\n")
    status = {name: mlflow_store.get_run(run_id).info.status for name, run_id in parents.items()}
    assert {name for name in executions if status[name] == "KILLED"} == {"over", "failed"}
    assert set(status.values()) == {"KILLED", "RUNNING"}
    error = mlflow_store.get_run(parents["over"]).data.tags[runs.ERROR]
    assert error == "its Flyte execution ended without a failure node"


def test_a_cluster_that_refuses_or_is_away_keeps_nobody_from_pruning(admin, mlflow_store, monkeypatch, tmp_path):
    runs.start_parent("a training", {}, {}, execution="refused")
    monkeypatch.setattr(admin, "phases", None)  # an error of the server's
    status, output = run("close-lost")
    assert status == 0
    assert output.startswith("warning: the Flyte cluster does not say which executions are over")
    (tmp_path / "flyte.config").write_text("[platform]\nurl = dns:///127.0.0.1:1\ninsecure = True\n")
    assert run("close-lost") == (0, "")
