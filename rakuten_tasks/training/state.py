"""Training state: everything that a training needs to continue at its next step."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from rakuten_tasks.training.distributed import rank, world_size, wrap_ddp
from rakuten_tasks.training.termination import defer_sigterm

TIMED_ACTIVITIES = ("read", "compute", "validate", "save")


@dataclass(frozen=True)
class EpochMetrics:
    """Metrics of one epoch. Losses are mean cross-entropies in nats; learning_rate is the last step's."""

    number: int
    train_loss: float
    valid_loss: float
    valid_f1: float  # weighted
    learning_rate: float
    seconds: float  # in total, over all attempts, including
    read_seconds: float = 0.0  # making batches
    compute_seconds: float = 0.0  # forward, backward, step
    validate_seconds: float = 0.0
    save_seconds: float = 0.0  # checkpoints

    def __str__(self) -> str:
        valid = f", validation loss {self.valid_loss:.4f}, weighted F1 {self.valid_f1:.4f}"
        scores = "" if math.isnan(self.valid_f1) else valid
        return f"epoch {self.number}: training loss {self.train_loss:.4f}{scores}, {self.seconds:.0f} s"


def best_epoch(epochs: Sequence[EpochMetrics]) -> EpochMetrics:
    """Return the first epoch with the least validation loss; NaN counts as the greatest."""
    return min(epochs, key=lambda epoch: (math.isnan(epoch.valid_loss), epoch.valid_loss))


class TrainingState:
    """Weights, best weights, optimizer, schedule, random numbers, and the position in the epoch.

    step: of the current epoch, from 0. loss: summed over the epoch's rows. seconds: of the epoch, by activity.
    microbatch_size: rows of all ranks that go through the network at once.
    """

    def __init__(
        self, model: nn.Module, optimizer: Optimizer, scheduler: LRScheduler, seed: int, microbatch_size: int
    ) -> None:
        self.model, self.optimizer, self.scheduler = model, optimizer, scheduler
        self.seed, self.microbatch_size = seed, microbatch_size
        self.device = next(model.parameters()).device
        self.ddp_model = wrap_ddp(model)
        self.best_weights: dict[str, Tensor] = {}
        self.epochs: list[EpochMetrics] = []
        self._start_epoch()

    def _start_epoch(self) -> None:
        self.step, self.loss = 0, 0.0
        self.augment = np.random.default_rng((self.seed, self.epoch, 1))
        self.seconds = dict.fromkeys(TIMED_ACTIVITIES, 0.0)
        self._started = time.perf_counter()

    @property
    def epoch(self) -> int:
        """Number of the current epoch, from 1."""
        return len(self.epochs) + 1

    @contextmanager
    def timer(self, activity: str) -> Iterator[None]:
        """Add the seconds that the block takes to the epoch's."""
        started = time.perf_counter()
        yield
        self.seconds[activity] += time.perf_counter() - started

    def reseed_for_rank(self) -> None:
        """Seed a step of several ranks: each draws its own numbers, and no checkpoint needs to hold their states."""
        if world_size() > 1:
            seeds = self.seed, self.epoch, self.step, rank()
            torch.manual_seed(int(np.random.SeedSequence(seeds).generate_state(1)[0]))  # dropout
            self.augment = np.random.default_rng((*seeds, 1))

    def end_step(self, loss: float, rows: int) -> None:
        """Advance the schedule. loss: mean over the step's rows."""
        self.scheduler.step()
        self.step += 1
        self.loss += loss * rows

    @defer_sigterm()
    def end_epoch(self, train_loss: float, valid_loss: float, valid_f1: float) -> EpochMetrics:
        """Append the epoch's metrics, and copy the weights if they are the best so far."""
        epoch = EpochMetrics(
            self.epoch,
            train_loss,
            valid_loss,
            valid_f1,
            float(self.scheduler.get_last_lr()[0]),
            time.perf_counter() - self._started,
            **{f"{activity}_seconds": seconds for activity, seconds in self.seconds.items()},
        )
        self.epochs.append(epoch)
        if best_epoch(self.epochs) is epoch and valid_loss < math.inf:
            self.best_weights = copy.deepcopy(self.model.state_dict())
        self._start_epoch()
        return epoch

    def state_dict(self) -> dict[str, Any]:
        """Return everything needed to continue, between two steps. The tensors are not copied."""
        return {
            "model": self.model.state_dict(),
            "best_weights": self.best_weights,
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict(),
            "microbatch_size": self.microbatch_size,
            "cpu_rng": torch.get_rng_state(),
            "cuda_rng": torch.cuda.get_rng_state(self.device) if self.device.type == "cuda" else None,
            "augment_rng": self.augment.bit_generator.state,
            "epochs": [asdict(epoch) for epoch in self.epochs],
            "step": self.step,
            "loss": self.loss,
            "seconds": self.seconds,
            "elapsed": time.perf_counter() - self._started,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue where `state_dict` was called."""
        self.model.load_state_dict(state["model"])
        self.best_weights = state["best_weights"]
        self.optimizer.load_state_dict(state["optimizer"])
        self.scheduler.load_state_dict(state["scheduler"])
        self.microbatch_size = state["microbatch_size"]
        torch.set_rng_state(state["cpu_rng"])
        if state["cuda_rng"] is not None:
            torch.cuda.set_rng_state(state["cuda_rng"], self.device)
        self.epochs = [EpochMetrics(**epoch) for epoch in state["epochs"]]
        self._start_epoch()
        self.augment.bit_generator.state = state["augment_rng"]
        self.step, self.loss, self.seconds = state["step"], state["loss"], state["seconds"]
        self._started -= state["elapsed"]
