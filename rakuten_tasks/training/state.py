"""Training state: everything that a checkpoint must hold to continue."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from rakuten_tasks.training.checkpoint import Record
from rakuten_tasks.training.distributed import rank, world_size, wrap_ddp
from rakuten_tasks.training.oom import MicrobatchSize

TIMED_PHASES = ("read", "compute", "validate", "save")


@dataclass(frozen=True)
class EpochMetrics:
    """What one epoch showed. Losses are mean cross-entropies in nats; learning_rate is the last step's."""

    number: int
    train_loss: float
    valid_loss: float
    valid_f1: float  # weighted
    learning_rate: float
    seconds: float  # all of it, in every attempt; of it went into
    read_seconds: float = 0.0  # making batches
    compute_seconds: float = 0.0  # forward, backward, step
    validate_seconds: float = 0.0
    save_seconds: float = 0.0  # checkpoints


def best_epoch(epochs: Sequence[EpochMetrics]) -> EpochMetrics:
    """The first with the least validation loss; a loss that is no number counts last."""
    return min(epochs, key=lambda epoch: (math.isnan(epoch.valid_loss), epoch.valid_loss))


class TrainingState:
    """Weights, best weights, optimizer, schedule, random numbers, and the place in the epoch."""

    def __init__(
        self, model: nn.Module, optimizer: Optimizer, cycle: LRScheduler, size: MicrobatchSize, seed: int
    ) -> None:
        self.model, self.optimizer, self.cycle, self.size, self.seed = model, optimizer, cycle, size, seed
        self.device = next(model.parameters()).device
        self.forward = wrap_ddp(model)
        self.best: dict[str, Tensor] = {}
        self.epochs: list[EpochMetrics] = []
        self._start_epoch()

    def _start_epoch(self) -> None:
        self.steps, self.loss = 0, 0.0  # done in this epoch; summed over its rows
        self.augment = np.random.default_rng((self.seed, self.number, 1))
        self.seconds = dict.fromkeys(TIMED_PHASES, 0.0)
        self._started = time.perf_counter()

    @property
    def number(self) -> int:
        """Of the epoch that is under way, from 1."""
        return len(self.epochs) + 1

    @contextmanager
    def spent(self, activity: str) -> Iterator[None]:
        """Counts the seconds within, for the epoch's record."""
        started = time.perf_counter()
        yield
        self.seconds[activity] += time.perf_counter() - started

    def reseed_for_rank(self) -> None:
        """Before a step of several processes: each draws numbers of its own, which no checkpoint need hold."""
        if world_size() > 1:
            place = self.seed, self.number, self.steps, rank()
            torch.manual_seed(int(np.random.SeedSequence(place).generate_state(1)[0]))  # dropout
            self.augment = np.random.default_rng((*place, 1))

    def end_step(self, loss: float, rows: int) -> None:
        """loss: mean over the rows."""
        self.cycle.step()
        self.steps += 1
        self.loss += loss * rows

    def end_epoch(self, train_loss: float, valid_loss: float, valid_f1: float) -> EpochMetrics:
        """Keeps the weights if they are the best yet."""
        epoch = EpochMetrics(
            self.number,
            train_loss,
            valid_loss,
            valid_f1,
            float(self.cycle.get_last_lr()[0]),
            time.perf_counter() - self._started,
            **{f"{activity}_seconds": seconds for activity, seconds in self.seconds.items()},
        )
        self.epochs.append(epoch)
        if best_epoch(self.epochs) is epoch and valid_loss < math.inf:
            self.best = copy.deepcopy(self.model.state_dict())
        self._start_epoch()
        return epoch

    def snapshot(self) -> Callable[[], None]:
        """What takes back a step that was only half done: its gradients, random numbers, batch norm's means."""
        random, augment = random_states(self.device), self.augment.bit_generator.state
        means = [(buffer, buffer.clone()) for buffer in self.model.buffers()]

        def undo() -> None:
            self.optimizer.zero_grad(set_to_none=True)
            set_random_states(random, self.device)
            self.augment.bit_generator.state = augment
            with torch.no_grad():
                for buffer, before in means:
                    buffer.copy_(before)

        return undo

    def record(self) -> Record:
        """Between two steps."""
        optimizer = self.optimizer.state_dict()
        tensors = {f"weights/{name}": weight for name, weight in self.model.state_dict().items()}
        tensors |= {f"best/{name}": weight for name, weight in self.best.items()}
        tensors |= {f"random/{kind}": state for kind, state in random_states(self.device).items()}
        for index, moments in optimizer["state"].items():  # AdamW's are all tensors
            tensors |= {f"optimizer/{index}/{name}": tensor for name, tensor in moments.items()}
        facts = {
            "groups": optimizer["param_groups"],
            "cycle": self.cycle.state_dict(),
            "augment": self.augment.bit_generator.state,
            "steps": self.steps,
            "loss": self.loss,
            "rows": self.size.rows,
            "seconds": self.seconds,
            "elapsed": time.perf_counter() - self._started,
            "epochs": [asdict(epoch) for epoch in self.epochs],
        }
        return Record(tensors, facts)

    def finished(self) -> Record:
        """Of a training that is over: what it came to."""
        best = {f"best/{name}": weight for name, weight in self.best.items()}
        return Record(best, {"epochs": [asdict(epoch) for epoch in self.epochs]}, finished=True)

    def restore(self, record: Record) -> None:
        """Go on where `record()` or `finished()` was called."""
        self.best = _under("best/", record)
        self.epochs = [EpochMetrics(**epoch) for epoch in record.facts["epochs"]]
        if record.finished:
            return
        facts = record.facts
        self.model.load_state_dict(_under("weights/", record))
        self.optimizer.load_state_dict({"state": self._moments(record), "param_groups": facts["groups"]})
        self.cycle.load_state_dict(facts["cycle"])
        set_random_states(_under("random/", record), self.device)
        self._start_epoch()
        self.augment.bit_generator.state = facts["augment"]
        self.steps, self.loss, self.size.rows = facts["steps"], facts["loss"], facts["rows"]
        self.seconds = dict(facts["seconds"])
        self._started -= facts["elapsed"]

    def _moments(self, record: Record) -> dict[int, dict[str, Tensor]]:
        """The optimizer's tensors, each laid out in memory as its weight is: so arithmetic stays the same."""
        parameters = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
        moments: dict[int, dict[str, Tensor]] = {}
        for path, tensor in _under("optimizer/", record).items():
            index, name = path.split("/")
            like = parameters[int(index)]
            placed = torch.empty_like(like).copy_(tensor) if tensor.shape == like.shape else tensor
            moments.setdefault(int(index), {})[name] = placed.detach()
        return moments


def _under(prefix: str, record: Record) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in record.tensors.items() if name.startswith(prefix)}


def random_states(device: torch.device) -> dict[str, Tensor]:
    """Torch's generators, as uint8."""
    states = {"cpu": torch.get_rng_state()}
    return states | {"cuda": torch.cuda.get_rng_state(device)} if device.type == "cuda" else states


def set_random_states(states: dict[str, Tensor], device: torch.device) -> None:
    """What `random_states` gave."""
    torch.set_rng_state(states["cpu"])
    if "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"], device)
