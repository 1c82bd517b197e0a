"""Several processes that train the photo branch do what one does, and all of them the same."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from flytekit import FlyteContextManager
from flytekit.core.type_engine import TypeEngine
from mlflow import MlflowClient
from torch import Tensor
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

from rakuten_tasks.models.members.vgg16 import batch_of
from rakuten_tasks.registry import runs
from rakuten_tasks.tasks.train_members import train_network_on_gpus
from rakuten_tasks.tasks.types import FittedMember
from rakuten_tasks.training import hardware
from rakuten_tasks.training.checkpoint import LocalCheckpointStore
from rakuten_tasks.training.state import EpochMetrics, best_epoch
from tests.support.as_pod import Attempt, start
from tests.support.elastic_cases import SCRATCH, TUNED, ExitingStore, cramped, first_gradients, one_batch, trained
from tests.support.photo_task import task_inputs
from tests.support.several_processes import run_in
from tests.support.vgg16_data import write_data


@pytest.fixture(autouse=True)
def fp32(monkeypatch):
    """bf16, where this processor has it, rounds more coarsely than what is compared here."""
    monkeypatch.setattr(hardware, "half_precision", lambda device: False)


@pytest.fixture(scope="module")
def shard(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with 120 small noisy photos of three classes that differ in brightness, 75 of them to train on."""
    return write_data(tmp_path_factory.mktemp("photos"))


@pytest.fixture(scope="module")
def pair(shard: Path) -> dict:
    return run_in(2, one_batch, shard)


@pytest.mark.slow
def test_two_processes_have_the_gradients_of_one_and_the_same_bits_in_both(pair: dict, shard: Path) -> None:
    alone = first_gradients(shard)
    assert len(alone) == 56 + 28
    for name, ours in alone.items():
        assert (pair[0][0][name] - ours).abs().max() < 1e-5, name
        assert torch.equal(pair[0][0][name], pair[1][0][name]), name
    assert sum(gradient.norm() ** 2 for name, gradient in alone.items() if "running" not in name) > 0.1


@pytest.mark.slow
def test_where_one_process_is_short_of_memory_all_take_smaller_parts_before_the_first_step(pair: dict) -> None:
    roomy, weights, rows = pair[0][1]
    short, theirs, others = pair[1][1]
    # its share of 16 rows at once, of 8, of 4; then two batches, and the first epoch's last seven rows
    assert short[:16] == [8, 4, *[2] * 4, *[2] * 8, 2, 1]
    assert roomy[:11] == [8, *[2] * 8, 2, 2]
    _, alone, _ = cramped(99)
    assert torch.equal(weights, theirs)
    assert (weights - alone).abs().max() < 1e-6
    assert (rows, others) == ([0, 1, 2], [3, 4])


def assert_same(
    ours: tuple[list[EpochMetrics], dict[str, Tensor]], theirs: tuple[list[EpochMetrics], dict[str, Tensor]]
) -> None:
    assert ours[0] == theirs[0]
    for name, tensor in ours[1].items():
        assert torch.equal(tensor, theirs[1][name]), name


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_two_processes_come_to_the_metrics_of_one(shard: Path) -> None:
    one, _ = trained(shard, SCRATCH)
    two = run_in(2, trained, shard, SCRATCH)
    assert_same(two[0], two[1])
    ours, theirs = best_epoch(one), best_epoch(two[0][0])
    assert theirs.valid_f1 == pytest.approx(ours.valid_f1, abs=0.1)
    assert theirs.valid_loss == pytest.approx(ours.valid_loss, abs=0.15)
    assert ours.valid_f1 > 0.8


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_two_processes_that_are_cut_short_go_on_and_end_bit_for_bit_as_if_nothing_had_been(
    shard: Path, tmp_path: Path
) -> None:
    two = run_in(2, trained, shard, TUNED)
    with pytest.raises(ChildFailedError):
        run_in(2, trained, shard, TUNED, ExitingStore(tmp_path), 0.0)
    before = (tmp_path / "checkpoint").read_bytes()
    resumed = run_in(2, trained, shard, TUNED, LocalCheckpointStore(tmp_path))
    assert_same(resumed[0], two[0])
    assert_same(resumed[1], two[0])
    assert (tmp_path / "checkpoint").read_bytes() != before  # rank 0 has written how it ended


def test_a_last_batch_leaves_a_photo_to_each_process(monkeypatch: pytest.MonkeyPatch) -> None:
    assert batch_of(32, 65) == 33
    monkeypatch.setattr("rakuten_tasks.models.members.vgg16.world_size", lambda: 4)
    assert batch_of(32, 67) == 34  # 32 leaves three, 33 one
    with pytest.raises(ValueError, match="3 photos to train on in batches of 32 are too few for 4 processes: set"):
        batch_of(32, 3)
    with pytest.raises(ValueError, match=r"in batches of 2 are too few .* or photo\.batch_size to more"):
        batch_of(2, 300)


@pytest.fixture
def inputs(tmp_path: Path, mlflow_store: MlflowClient) -> dict:
    """What train_network_on_gpus gets."""
    return task_inputs(tmp_path / "inputs", runs.start_parent("elastic", {}, {}, execution=tmp_path.name))


def branch_of(attempt: Attempt) -> tuple[bytes, list[dict], str]:
    """-> weights, epochs and machine of what a pod trained."""
    literal = attempt.outputs().literals["o0"]
    member = TypeEngine.to_python_value(FlyteContextManager.current_context(), literal, FittedMember)
    weights = (Path(member.folder.download()) / "vgg16.safetensors").read_bytes()
    return weights, json.loads(Path(member.epochs.download()).read_text()), member.machine


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_pod_of_two_processes_and_two_nodes_of_one_each_train_the_same_network(
    inputs: dict, tmp_path: Path, mlflow_store: MlflowClient
) -> None:
    settings = {"MLFLOW_TRACKING_URI": os.environ["MLFLOW_TRACKING_URI"], "OMP_NUM_THREADS": "1"}
    weights, epochs, machine = branch_of(
        start(train_network_on_gpus, inputs, tmp_path / "pod", **settings, RAKUTEN_PHOTO_GPUS="2")
    )
    assert "2 processes" in machine

    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    # as the training operator sets them in each of its pods
    operator = {"PET_NNODES": "2", "PET_RDZV_ENDPOINT": address, "FLYTE_INTERNAL_EXECUTION_ID": "both"}
    nodes = [
        start(
            train_network_on_gpus, inputs, tmp_path / f"node{number}", **settings, **operator, RAKUTEN_PHOTO_NODES="2"
        )
        for number in range(2)
    ]
    assert [node.error() for node in nodes] == [None, None]
    first, second = sorted(nodes, key=lambda node: not (node.folder / "outputs" / "outputs.pb").exists())
    assert not (second.folder / "outputs" / "outputs.pb").exists()
    across = branch_of(first)
    assert across[0] == weights
    assert [epoch["valid_loss"] for epoch in across[1]] == [epoch["valid_loss"] for epoch in epochs]
    children = mlflow_store.search_runs(
        [mlflow_store.get_run(inputs["run"].run_id).info.experiment_id],
        f"tags.`mlflow.parentRunId` = '{inputs['run'].run_id}'",
    )
    assert [child.info.status for child in children] == ["FINISHED"] * 2  # one a training, not one a process


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_run_locally_two_processes_give_the_metrics_of_one(inputs: dict, tmp_path: Path) -> None:
    """As `pyflyte run` calls the task, in a process that was started with RAKUTEN_PHOTO_GPUS=2 and in one without."""
    found = {}
    for processes in ("1", "2"):
        place = tmp_path / processes
        place.mkdir()
        environment = {
            **os.environ,
            "RAKUTEN_PHOTO_GPUS": processes,
            "RAKUTEN_VAR": str(place / "var"),
            "TMPDIR": str(place),
            "FLYTE_LOCAL_CACHE_ENABLED": "false",
            "OMP_NUM_THREADS": "1",
        }
        arguments = [str(tmp_path / "inputs"), inputs["run"].run_id]
        command = [sys.executable, "-m", "tests.support.photo_task", *arguments]
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-3000:]
        found[processes] = json.loads(done.stdout.splitlines()[-1])
        assert not list((place / "var" / "checkpoints").glob("*"))
    best = {name: min(epochs, key=lambda epoch: epoch["valid_loss"]) for name, epochs in found.items()}
    print(best)
    assert best["2"]["valid_f1"] == pytest.approx(best["1"]["valid_f1"], abs=0.1)
    assert best["2"]["valid_loss"] == pytest.approx(best["1"]["valid_loss"], abs=0.15)
