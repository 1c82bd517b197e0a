"""`make test-stack`: every service of compose.yaml, trained, asked, watched, and each killed in turn. Needs Docker."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator

import httpx
import pytest
from mlflow import MlflowClient

from rakuten_tasks.registry.versions import SAMPLE_MODEL
from tests.support.stack.compose import SERVICES, STAYING, Stack, composed_stack
from tests.support.stack.engine import NoEngineError, docker_engine
from tests.support.stack.images import ROOT, build_images
from tests.support.stack.stored import CHECKS, LOGGED, query_prometheus, read_stored_data, registered_versions

pytestmark = [pytest.mark.stack, pytest.mark.timeout(3600)]

SCRAPE_SECONDS = 10  # of deploy/prometheus.yml
TRAINING_SECONDS = 1500
REPORT = "/var/lib/rakuten/monitoring/reports"
CHECKPOINTS = """
import pathlib
print(len(list(pathlib.Path("/var/lib/rakuten/checkpoints").glob("vgg16-*/checkpoint"))))
"""


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """Up, with a champion that was trained in it, by a trainer that was killed once meanwhile."""
    with pytest.MonkeyPatch.context() as patch:
        try:
            with docker_engine() as docker:
                images = build_images(docker)
                with composed_stack(docker, images, tmp_path_factory.mktemp("stack"), patch) as stack:
                    stack.up(*SERVICES)
                    stack.wait_until_healthy(*STAYING)
                    train_with_a_kill(stack)
                    stack.wait_until_ready()
                    yield stack
        except NoEngineError as error:
            pytest.skip(f"no Docker engine can run here: {error}")


def train_with_a_kill(stack: Stack) -> None:
    """Kill the trainer once its last network has a checkpoint; started again, it registers a champion."""
    stack.wait_until(lambda: stack.execute("trainer", CHECKPOINTS), "the trainer writes a checkpoint", TRAINING_SECONDS)
    stack.kill("trainer")
    stack.up("trainer")
    stack.wait_until(lambda: stack.state("trainer")["Status"] == "exited", "the trainer ends", TRAINING_SECONDS)


def mlflow_runs() -> list:
    client = MlflowClient()
    return client.search_runs([experiment.experiment_id for experiment in client.search_experiments()])


def running() -> set[str]:
    return {run.info.run_name for run in mlflow_runs() if run.info.status == "RUNNING"}


def predict_and_tell(stack: Stack) -> dict[str, str]:
    """Ask for a product's class, and tell what it really was: -> the answer, once both are logged."""
    response = stack.post("/predict", {"description": "Chaussures en cuir pour homme"})
    assert response.status_code == 200, response.text
    answer = response.json()
    request_id, code = answer["request_id"], answer["category_id"]
    told = stack.post("/feedback", {"request_id": request_id, "true_code": code})
    assert told.status_code == 202, told.text
    rows = {("prediction", request_id, str(code), ""), ("feedback", request_id, "", str(code))}
    stack.wait_until(lambda: rows <= logged_rows(stack), "prediction and feedback are logged", 30)
    return answer


def logged_rows(stack: Stack) -> set[tuple[str, ...]]:
    return set(map(tuple, stack.execute("api-fast", LOGGED)))


def test_every_service_becomes_healthy_beside_the_others(stack):
    stack.wait_until_healthy(*STAYING)
    assert stack.state("trainer")["ExitCode"] == 0


def test_a_killed_trainer_that_is_started_again_registers_one_champion_and_leaves_no_run_open(stack):
    client = MlflowClient()
    (version,) = registered_versions(client, SAMPLE_MODEL)
    assert (version.version, "champion" in version.aliases) == ("1", True)
    trainings = [run for run in mlflow_runs() if run.info.run_name == SAMPLE_MODEL]
    states = {run.info.run_id == version.run_id: run.info.status for run in trainings}
    assert len(trainings) == 2
    assert states[True] == "FINISHED"
    assert states[False] in ("FAILED", "KILLED")
    assert "fit_vgg16" not in running()
    assert "continuing from a checkpoint: VGG16" in stack.log("trainer", 2000)


def test_the_api_answers_with_the_champion_and_only_with_its_key(stack):
    answer = predict_and_tell(stack)
    assert answer["model_version"] == "1"
    assert answer["model"] == SAMPLE_MODEL
    assert httpx.get(stack.url("api-fast", "/metrics")).status_code == 401


def test_prometheus_scrapes_the_api_and_answers_every_query_of_the_dashboard(stack):
    predict_and_tell(stack)
    predictions = 'rakuten_requests_total{status="200"} > 0'
    stack.wait_until(lambda: bool(query_prometheus(stack, predictions)), "predictions are scraped", 5 * SCRAPE_SECONDS)
    ready = query_prometheus(stack, "rakuten_ready")
    assert [one["value"][1] for one in ready] == ["1"]
    panels = json.loads((ROOT / "deploy/grafana/dashboards/api.json").read_text())["panels"]
    queries = {target["expr"].replace("$__rate_interval", "1m") for panel in panels for target in panel["targets"]}
    assert len(queries) >= 9
    for query in queries:  # a rate needs two scrapes
        stack.wait_until(lambda query=query: bool(query_prometheus(stack, query)), f"{query} has a value", 60)


def test_the_drift_watch_checks_the_log_and_reports(stack):
    before = len(stack.execute("drift-watch", CHECKS))
    for _ in range(5):
        predict_and_tell(stack)
    stack.wait_until(lambda: len(stack.execute("drift-watch", CHECKS)) > before + 1, "the log is checked", 600)
    check = json.loads(stack.execute("drift-watch", CHECKS)[-1][1])
    assert (check["model"], check["version"]) == (SAMPLE_MODEL, 1)
    listed = f"import json, pathlib; print(json.dumps([p.name for p in pathlib.Path('{REPORT}').rglob('*')]))"
    assert {"drift_report.html", "drift_report.json"} <= set(stack.execute("drift-watch", listed))


@pytest.mark.parametrize("service", STAYING)
def test_a_killed_service_loses_nothing(stack, service):
    answer = predict_and_tell(stack)
    moment = time.time()
    before = read_stored_data(stack, moment)
    stack.kill(service)
    stack.up(service)
    assert_nothing_is_lost(stack, before, moment, answer)


def test_a_stack_that_is_taken_down_and_up_again_loses_nothing(stack):
    answer = predict_and_tell(stack)
    moment = time.time()
    before = read_stored_data(stack, moment)
    stack.compose("down", "--remove-orphans")
    stack.up(*SERVICES)
    assert_nothing_is_lost(stack, before, moment, answer)
    stack.wait_until(lambda: stack.state("trainer")["Status"] == "exited", "the trainer ends", 120)
    assert "there is a champion already: nothing to do" in stack.log("trainer")


def assert_nothing_is_lost(stack: Stack, before, moment: float, answer: dict) -> None:
    """All services run again, what they stored is there, the API answers as before and is scraped again."""
    started = time.time()
    stack.wait_until_healthy(*STAYING)
    stack.wait_until_ready()
    assert before.missing_from(read_stored_data(stack, moment)) == {}
    again = predict_and_tell(stack)
    assert (again["category_id"], again["model_version"]) == (answer["category_id"], answer["model_version"])
    scraped = f'timestamp(up{{job="api"}} == 1) > {started}'
    stack.wait_until(lambda: bool(query_prometheus(stack, scraped)), "the API is scraped again", 5 * SCRAPE_SECONDS)
