from __future__ import annotations

import logging
import os

import pytest

from rakuten_tasks.registry import tracking
from rakuten_tasks.runtime.pod_env import forwarded_env, in_pod, is_local_address, require_object_store, require_remote


@pytest.mark.parametrize(
    "address",
    ["sqlite:////home/me/mlflow.db", "sqlite+pysqlite:///a.db", "file:///mlruns", "mlruns", "/mlruns",
     "http://localhost:5001", "http://127.0.0.1:5001", "http://127.0.1.1", "http://0.0.0.0:5001", "http://[::1]:5001"],
)  # fmt: skip
def test_what_means_something_on_this_machine_alone_is_no_address_for_a_pod(address):
    assert is_local_address(address)


@pytest.mark.parametrize("address", ["http://mlflow:5001", "https://mlflow.example.org", "http://10.0.0.1"])
def test_what_others_reach_is(address):
    assert not is_local_address(address)


@pytest.mark.parametrize(
    "address",
    ["", "out", "/out", "file:///out", "memory://out", "http://store:9000/out", "foo://out", "s3://", "s3:/a"],
)
def test_pods_share_what_is_in_an_object_store_only(address):
    with pytest.raises(ValueError, match=r"RAKUTEN_STORE='.*': pods share no machine, only an object store"):
        require_object_store("RAKUTEN_STORE", address)


@pytest.mark.parametrize("address", ["s3://bucket/a", "gs://bucket", "abfs://container@account.example/a"])
def test_an_object_store_is_shared(address):
    assert require_object_store("RAKUTEN_STORE", address) == address


def test_a_task_writes_to_a_folder_only_where_its_disk_stays(monkeypatch):
    monkeypatch.delenv("FLYTE_INTERNAL_EXECUTION_ID", raising=False)
    assert [require_remote("output", address) for address in ("out", "", "s3://a")] == ["out", "", "s3://a"]
    monkeypatch.setenv("FLYTE_INTERNAL_EXECUTION_ID", "pod")
    assert [require_remote("output", address) for address in ("", "s3://a")] == ["", "s3://a"]
    with pytest.raises(ValueError, match="output='out': pods share no machine, only an object store"):
        require_remote("output", "out")


def test_pods_are_told_only_what_is_set_and_what_they_reach(monkeypatch):
    names = ("A_URI", "B_URL", "C_SECONDS", "D_URI", "E_URI")
    for name, value in zip(names, ("sqlite:///a.db", "http://store:9000", "0", "", "s3://a"), strict=True):
        monkeypatch.setenv(name, value)
    assert forwarded_env(names) == {"B_URL": "http://store:9000", "C_SECONDS": "0", "E_URI": "s3://a"}


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """An environment that names no store, and is as it was afterwards."""
    for name in ("AWS_ENDPOINT_URL", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "FLYTE_INTERNAL_EXECUTION_ID"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.setenv("FLYTE_AWS_ENDPOINT", "http://minio:9000")
    monkeypatch.setattr(logging.getLogger("rakuten_tasks"), "level", logging.NOTSET)
    return monkeypatch


def test_a_pod_finds_flytes_store_by_the_names_that_everybody_reads(here):
    assert in_pod(lambda: "AWS_ENDPOINT_URL" in os.environ)() is False
    here.setenv("FLYTE_INTERNAL_EXECUTION_ID", "f1")
    assert in_pod(lambda: os.environ["AWS_ENDPOINT_URL"])() == "http://minio:9000"
    here.setenv("AWS_ENDPOINT_URL", "http://ours:9000")
    assert in_pod(lambda: os.environ["AWS_ENDPOINT_URL"])() == "http://ours:9000"


@pytest.mark.parametrize(("terminal", "pod", "level"), [(True, "", 0), (False, "", 20), (True, "f1", 20)])
def test_a_task_logs_its_progress_where_no_terminal_shows_bars(here, terminal: bool, pod: str, level: int):
    here.setattr("rakuten_tasks.runtime.pod_env.on_terminal", lambda: terminal)
    if pod:
        here.setenv("FLYTE_INTERNAL_EXECUTION_ID", pod)
    logger = logging.getLogger("rakuten_tasks")
    assert in_pod(lambda: logger.level)() == level
    assert logger.level == logging.NOTSET  # as before


def test_a_pod_that_was_told_no_tracking_server_says_how_to_register_it(here):
    here.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert tracking.tracking_uri().startswith("sqlite:///")
    here.setenv("FLYTE_INTERNAL_EXECUTION_ID", "f1")
    with pytest.raises(LookupError, match="register the tasks with MLFLOW_TRACKING_URI set to an address that"):
        tracking.tracking_uri()
