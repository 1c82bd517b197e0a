"""Trainings of networks, killed with SIGKILL again and again, end with the bytes of one that was left alone."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from torch.optim.optimizer import register_optimizer_step_post_hook
from tqdm import tqdm

from rakuten_tasks.config import LSTMConfig, PhotoConfig, Weights
from rakuten_tasks.data.splits import TRAIN
from rakuten_tasks.models.members.lstm import LSTM
from rakuten_tasks.models.members.member import FitContext
from rakuten_tasks.models.members.plan import fit_tokenizer
from rakuten_tasks.models.members.vgg16 import VGG16
from rakuten_tasks.training.checkpoint import LocalCheckpointStore
from rakuten_tasks.training.state import EpochMetrics
from tests.support.training_data import CPU, labelled_products, read_training_data, training_data
from tests.support.vgg16_data import read_data, write_data

KILLS = 20
TEXT = LSTMConfig(vocabulary_size=320, epochs=8, batch_size=8)
PHOTO = PhotoConfig(
    weights=Weights.IMAGENET, image_size=32, epochs=4, batch_size=16, learning_rate=1e-4, fine_tune_epochs=2
)
RESULTS = ("lstm.safetensors", "vgg16.safetensors", "epochs.json")


def attempt(data: Path, folder: Path) -> None:
    """What one process does, from its start. A byte more in `steps` for each step of an optimizer."""
    steps = os.open(folder / "steps", os.O_CREAT | os.O_APPEND | os.O_WRONLY)
    register_optimizer_step_post_hook(lambda *args: os.write(steps, b"."))  # type: ignore[arg-type]
    tqdm.set_lock(threading.RLock())  # its own is a semaphore that a killed process leaves behind
    told: list[EpochMetrics] = []

    def context(name: str) -> FitContext:
        store = LocalCheckpointStore(folder / "checkpoints" / name)
        return FitContext(0, CPU, on_epoch=told.append, store=store, interval=0)

    text = LSTM.fit(TEXT, read_training_data(data / "texts", ["tokens"]), context("text"))
    photo = VGG16.fit(PHOTO, read_data(data / "photos"), context("photo"))
    text.member.save(folder)
    photo.member.save(folder)
    figures = [(e.number, e.train_loss, e.valid_loss, e.valid_f1, e.learning_rate) for e in told]
    (folder / "epochs.json").write_text(json.dumps(figures))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    products, labels, splits = labelled_products(90)
    pairs = [(p.designation, p.description) for p, split in zip(products, splits, strict=True) if split == TRAIN]
    training_data(folder / "texts", [fit_tokenizer(lambda: pairs, 320, 128)], products, labels, splits)
    (folder / "photos").mkdir()
    write_data(folder / "photos")
    return folder


def steps(folder: Path) -> int:
    path = folder / "steps"
    return path.stat().st_size if path.exists() else 0


def start(data: Path, folder: Path) -> multiprocessing.process.BaseProcess:
    """A process that has imported what it needs, and no more: importing takes 4 s."""
    folder.mkdir(exist_ok=True)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    process = context.Process(target=attempt, args=(data, folder))
    process.start()
    return process


def wait_for_a_step(process: multiprocessing.process.BaseProcess, folder: Path, before: int) -> None:
    while steps(folder) == before and process.is_alive():
        time.sleep(0.001)


def assert_ended_alike(killed: Path, alone: Path) -> None:
    for name in RESULTS:
        assert (killed / name).read_bytes() == (alone / name).read_bytes(), name
    # no attempt did again what one before it had done, but for the step that it was killed in
    assert steps(alone) <= steps(killed) <= steps(alone) + KILLS


def test_killed_at_twenty_random_points_both_networks_end_with_the_same_bytes(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # on a busy machine libgomp's threads otherwise spin while they wait for each other, six times as long in all
    monkeypatch.setenv("GOMP_SPINCOUNT", "1000")
    alone = tmp_path / "alone"
    process = start(data, alone)
    wait_for_a_step(process, alone, 0)
    started = time.perf_counter()
    process.join()
    duration = time.perf_counter() - started
    assert process.exitcode == 0
    gaps = np.diff(np.sort(np.random.default_rng(20).uniform(0, duration, KILLS)), prepend=0)

    killed = 0
    folder = tmp_path / "killed"
    lives = 0  # a training that gets to its end between two kills is followed by another one
    while killed < KILLS:
        here = folder.with_name(f"killed{lives}")
        process, before = start(data, here), steps(here)
        wait_for_a_step(process, here, before)
        time.sleep(gaps[killed])
        process.kill()
        process.join()
        if process.exitcode == -signal.SIGKILL:
            killed += 1
            assert not (here / "epochs.json").exists()
        else:
            assert process.exitcode == 0
            assert_ended_alike(here, alone)
            lives += 1
    process = start(data, here)
    process.join()
    assert process.exitcode == 0
    assert_ended_alike(here, alone)
