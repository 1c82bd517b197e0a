"""Networks as members: trained with early stopping on held-out rows, then again on everything but the test rows."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace

import torch
from numpy.typing import NDArray
from torch import nn
from torch.optim import Optimizer

from rakuten_tasks.config import Refit, Strict
from rakuten_tasks.data.splits import TRAIN, VALIDATION_A, VALIDATION_B
from rakuten_tasks.models.members.member import FitContext, FitResult, Member, TrainingData
from rakuten_tasks.preprocessing.feature_shards import ShardArrays
from rakuten_tasks.training.checkpoint import Checkpoints, fingerprint
from rakuten_tasks.training.distributed import convert_sync_batchnorm, world_size
from rakuten_tasks.training.loop import Dataset, EpochMetrics, Schedule, best_epoch, fit, predict_logits


@dataclass(frozen=True)
class Phase:
    """One training of a part of the network; optimizer: with the peak learning rate of each of its groups."""

    name: str
    part: nn.Module
    examples: Dataset
    schedule: Schedule
    optimizer: Optimizer


class HeldOutFit(ABC):
    """Trains, stops early by validation A, scores both validations, then trains as many epochs on all of these rows.

    Same seed, rows, machine type and number of processes: same weights, bit for bit; an interrupted fit goes
    on from context.store. Several processes each train on their share of every batch.
    """

    def __init__(self, settings: Strict, data: TrainingData, context: FitContext, extractor: str) -> None:
        self.data, self.context = data, context
        self.arrays: ShardArrays = data.arrays[extractor]
        self.extractor = data.folders[extractor]
        self.train_rows = data.on(TRAIN)
        facts = [context.seed, settings.to_dict(), data.classes, data.labels.tolist(), data.splits.tolist()]
        self.checkpoints = self._open_checkpoints(facts)

    @abstractmethod
    def new_network(self, phase: str, rows: NDArray) -> nn.Module:
        """Untrained, on the context's device. phase: names what it may keep in self.checkpoints; rows: to train on."""

    @abstractmethod
    def phases(self, network: nn.Module, rows: NDArray) -> list[Phase]:
        """One after the other; the last one's examples are what the whole network is asked with."""

    @abstractmethod
    def member(self, network: nn.Module) -> Member:
        """The trained network as a member."""

    def run(self) -> FitResult:
        """Raises ValueError where there is nothing to stop by."""
        data, context = self.data, self.context
        valid, held_out = data.on(VALIDATION_A), data.on(VALIDATION_A, VALIDATION_B)
        if len(self.train_rows) < 2 or not len(valid):
            raise ValueError(
                f"{len(self.train_rows)} rows to train on and {len(valid)} to stop by are too few for a network: leave "
                "it out of members, or give the catalogue more products"
            )
        network, judged = self._train("", self.train_rows, valid, [])
        best = [best_epoch(epochs).number for epochs in judged]
        last = self.phases(network, self.train_rows)[-1]
        logits = predict_logits(network, last.examples, held_out, last.schedule.batch_size, context.device)
        again = network
        refitted: list[list[EpochMetrics]] = []
        if context.refit is not Refit.NONE:
            again, refitted = self._train(", all rows but test", data.not_test, valid[:0], best)
        final = None
        if context.refit is Refit.EVERYTHING:
            final = self.member(self._train(", all rows", data.everything, valid[:0], best)[0])
        epochs = [epoch for part in (*judged, *refitted) for epoch in part]
        stopping = data.splits[held_out] == VALIDATION_A
        facts: dict[str, object] = {"epochs kept": ", ".join(map(str, best))}
        return FitResult(self.member(again), final, held_out, logits, stopping, epochs, facts)

    def _train(
        self, suffix: str, rows: NDArray, valid: NDArray, stops: list[int]
    ) -> tuple[nn.Module, list[list[EpochMetrics]]]:
        """stops: epochs of each phase where nothing is validated, else empty."""
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

    def _open_checkpoints(self, settings: list[object]) -> Checkpoints:
        context = self.context
        if not context.store and world_size() == 1:
            return Checkpoints()
        # the extractor's files too: two encoders may give the same tokens and start from different weights
        files = [*self.arrays.paths, *sorted(path for path in self.extractor.rglob("*") if path.is_file())]
        key = fingerprint([*settings, world_size(), context.device.type], files)
        return Checkpoints(context.store, key, context.interval)
