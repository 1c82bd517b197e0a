"""A training that sends itself SIGTERM: `python -m tests.support.terminated_training FOLDER PARENT BATCH`."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import numpy as np
import torch
from torch import nn

from rakuten_tasks.registry import runs
from rakuten_tasks.training.checkpoint import Checkpoints, CheckpointStore, LocalCheckpointStore
from rakuten_tasks.training.loop import fit
from rakuten_tasks.training.schedule import Schedule
from tests.support.training_doubles import PointDataset


class TerminatingDataset(PointDataset):
    """PointDataset that sends SIGTERM to this process while it reads the batch with this number."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number

    def batch(self, rows, augment):
        if len(self.asked) == self.number:
            os.kill(os.getpid(), signal.SIGTERM)
        return super().batch(rows, augment)


def train(store: CheckpointStore, sigterm_at: int = -1) -> tuple[dict[str, torch.Tensor], int]:
    """Train for 3 epochs of 4 batches, and 2 of validation. -> weights, number of batches read"""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Dropout(0.2), nn.Linear(8, 2))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.05)
    examples = TerminatingDataset(sigterm_at)
    checkpoints = Checkpoints(store, "ours", interval=1e9)  # none but the last
    schedule = Schedule(epochs=3, batch_size=12, patience=3)
    fit(model, examples, np.arange(40), np.arange(40, 64), schedule, optimizer, 5, checkpoints=checkpoints)
    return model.state_dict(), len(examples.asked)


if __name__ == "__main__":
    folder, parent, number = sys.argv[1:]
    with runs.child_run(parent, "train"):
        train(LocalCheckpointStore(Path(folder)), int(number))
