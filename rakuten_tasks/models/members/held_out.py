"""Network members: trained with early stopping on held-out rows, then again on everything but the test rows."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.optim import Optimizer

from rakuten_tasks.config import Refit
from rakuten_tasks.config_base import Strict
from rakuten_tasks.data.splits import BLENDING, TRAIN, VALIDATION
from rakuten_tasks.models.members.member import FitContext, FitResult, Member, TrainingData
from rakuten_tasks.training.checkpoint import Checkpoints, fingerprint
from rakuten_tasks.training.distributed import convert_sync_batchnorm, world_size
from rakuten_tasks.training.loop import Dataset, fit, predict_logits
from rakuten_tasks.training.schedule import Schedule
from rakuten_tasks.training.state import EpochMetrics, best_epoch

Network = TypeVar("Network", bound=nn.Module)


@dataclass
class Examples:
    """Rows whose inputs a function reads; see `Dataset`."""

    labels: NDArray
    batch: Callable[[NDArray, Callable[[], float] | None], tuple[Tensor, ...]]


@dataclass(frozen=True)
class Phase:
    """The training of a part of the network. optimizer: with the peak learning rate of each of its groups."""

    name: str
    part: nn.Module
    examples: Dataset
    schedule: Schedule
    optimizer: Optimizer


class HeldOutFit(ABC, Generic[Network]):
    """Trains with early stopping on validation, scores validation and blending, then trains again on all rows but test.

    Same seed, rows, machine type and number of processes: same weights, bit for bit; an interrupted fit continues
    from context.store. Each of several processes trains on its share of every batch.
    """

    def __init__(self, settings: Strict, data: TrainingData, context: FitContext, extractor: str) -> None:
        self.data, self.context = data, context
        self.arrays, self.extractor_folder = data.arrays[extractor], data.folders[extractor]
        self.train_rows = data.on(TRAIN)
        self.checkpoints = self._open_checkpoints(settings)

    @abstractmethod
    def new_network(self, suffix: str, rows: NDArray) -> Network:
        """Return an untrained network on the context's device. suffix: of checkpoint names. rows: to train on."""

    @abstractmethod
    def phases(self, network: Network, rows: NDArray) -> list[Phase]:
        """Return the phases in their order; the last one's examples are also the inputs for predictions."""

    @abstractmethod
    def member(self, network: Network) -> Member:
        """Return the member of a trained network."""

    def run(self) -> FitResult:
        """Train and score. Raises ValueError if there are too few rows to train on or to stop on."""
        data, context = self.data, self.context
        valid, held_out = data.on(VALIDATION), data.on(VALIDATION, BLENDING)
        if len(self.train_rows) < 2 or not len(valid):
            raise ValueError(
                f"{len(self.train_rows)} rows to train on and {len(valid)} to stop on are too few for a network: leave "
                "it out of members, or give the catalogue more products"
            )
        network, trained = self._train("", self.train_rows, valid, [])
        best = [best_epoch(epochs).number for epochs in trained]
        last = self.phases(network, self.train_rows)[-1]
        logits = predict_logits(network, last.examples, held_out, last.schedule.batch_size, context.device)
        final = None
        if context.refit is not Refit.NONE:
            network, refitted = self._train(", all rows but test", data.not_test, valid[:0], best)
            trained += refitted
        if context.refit is Refit.EVERYTHING:
            final = self.member(self._train(", all rows", data.everything, valid[:0], best)[0])
        epochs = [epoch for phase in trained for epoch in phase]
        stopping = data.splits[held_out] == VALIDATION
        details: dict[str, object] = {"best epochs": ", ".join(map(str, best))}
        return FitResult(self.member(network), final, held_out, logits, stopping, epochs, details)

    def _train(
        self, suffix: str, rows: NDArray, valid: NDArray, stops: list[int]
    ) -> tuple[Network, list[list[EpochMetrics]]]:
        """Train every phase. stops: number of epochs of each phase if nothing is validated, else empty."""
        context = self.context
        torch.manual_seed(context.seed)
        network = self.new_network(suffix, rows)
        convert_sync_batchnorm(network)
        trained: list[list[EpochMetrics]] = []
        for number, phase in enumerate(self.phases(network, rows)):
            schedule = replace(phase.schedule, stop_after=stops[number]) if stops else phase.schedule
            with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True):
                epochs = fit(
                    phase.part, phase.examples, rows, valid, schedule, phase.optimizer, context.seed,
                    context.on_epoch, phase.name + suffix, self.checkpoints,
                )  # fmt: skip
            trained.append(epochs)
        return network.eval(), trained

    def _open_checkpoints(self, settings: Strict) -> Checkpoints:
        data, context = self.data, self.context
        if not context.store and world_size() == 1:
            return Checkpoints()
        # the extractor's files too: two encoders may give the same tokens and start from different weights
        files = [*self.arrays.paths, *sorted(path for path in self.extractor_folder.rglob("*") if path.is_file())]
        rows = [data.classes, data.labels.tolist(), data.splits.tolist()]
        key = fingerprint([context.seed, settings.to_dict(), rows, world_size(), context.device.type], files)
        return Checkpoints(context.store, key, context.interval)


@contextmanager
def capture_inputs(layer: nn.Module) -> Iterator[list[Tensor]]:
    """Yield a list to which each call of the layer within the block appends its first argument, as fp32."""
    inputs: list[Tensor] = []
    hook = layer.register_forward_pre_hook(lambda _, arguments: inputs.append(arguments[0].float()))
    try:
        yield inputs
    finally:
        hook.remove()
