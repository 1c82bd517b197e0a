"""Both branches' trainings, killed with SIGKILL again and again, end with the bytes of one that was left alone."""

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
import torch
from rakuten_tasks.classifier.photo_training import train_photo_branch, write_features
from torch.optim.optimizer import register_optimizer_step_post_hook
from tqdm import tqdm

from rakuten_tasks.classifier.checkpoint import FolderStore
from rakuten_tasks.classifier.lstm import train_text_branch
from rakuten_tasks.classifier.ngrams import Vocabulary
from rakuten_tasks.classifier.training import Epoch
from rakuten_tasks.classifier.vgg16_weights import empty_convolutions
from rakuten_tasks.config import PhotoConfig, TextConfig, Weights
from tests import test_lstm as texts
from tests import test_photo_training as photos

KILLS = 20
TEXT = TextConfig(vocabulary_size=320, ngram_bits=12, epochs=12, batch_size=8)
RESULTS = ("text.safetensors", "photo.safetensors", "epochs.json")


def photo_config(data: Path) -> PhotoConfig:
    return PhotoConfig(
        Weights.FILE, str(data / "vgg16.pth"), side=32, epochs=8, batch_size=2, learning_rate=1e-4, fine_tune_epochs=4
    )


def attempt(data: Path, folder: Path) -> None:
    """What one process does, from its start. A byte more in `steps` for each step of an optimizer."""
    steps = os.open(folder / "steps", os.O_CREAT | os.O_APPEND | os.O_WRONLY)
    register_optimizer_step_post_hook(lambda *args: os.write(steps, b"."))
    tqdm.set_lock(threading.RLock())  # its own is a semaphore that a killed process leaves behind
    told: list[Epoch] = []
    rest = 0, torch.device("cpu"), told.append
    stores = [FolderStore(folder / "checkpoints" / name) for name in ("text", "photo")]
    vocabulary = Vocabulary.load(data / "vocabulary")
    shards = sorted(data.glob("*.safetensors"))
    text, _ = train_text_branch(shards, vocabulary, texts.CODES, TEXT, *rest, store=stores[0], interval=0)
    config = photo_config(data)
    photo, _ = train_photo_branch([data / "features"], [10, 20], config, *rest, store=stores[1], interval=0)
    text.save(folder)
    photo.save(folder)
    figures = [(e.number, e.train_loss, e.valid_loss, e.valid_f1, e.learning_rate) for e in told]
    (folder / "epochs.json").write_text(json.dumps(figures))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    vocabulary, *_ = texts.train(folder, *texts.catalogue(135))
    vocabulary.save(folder / "vocabulary")
    torch.manual_seed(1)
    torch.save(empty_convolutions(batch_norm=False).state_dict(), folder / "vgg16.pth")
    write_features(photos.shard(folder / "photos", photos.photos()), folder / "features", photo_config(folder))
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


@pytest.mark.slow  # a minute
def test_killed_at_twenty_random_points_both_branches_end_with_the_same_bytes(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # on a busy machine libgomp's threads otherwise spin while they wait for each other, six times as long in all
    monkeypatch.setenv("OMP_WAIT_POLICY", "passive")
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
