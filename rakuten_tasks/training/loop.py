"""The training loop of all networks: one-cycle schedule, early stopping on the validation split, best weights kept."""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import Optimizer

from rakuten_tasks.console.progress import Progress, on_terminal
from rakuten_tasks.training.checkpoint import Checkpoints
from rakuten_tasks.training.distributed import (
    BATCH_NORMS,
    all_reduce_min,
    all_reduce_sum,
    no_sync,
    rank,
    shard_for_rank,
    world_size,
)
from rakuten_tasks.training.hardware import autocast
from rakuten_tasks.training.oom import MicrobatchRunner, explain_out_of_memory
from rakuten_tasks.training.schedule import Schedule
from rakuten_tasks.training.state import EpochMetrics, TrainingState
from rakuten_tasks.training.termination import defer_sigterm

log = logging.getLogger(__name__)


class Dataset(Protocol):
    """Rows that a model can be trained on, read batch by batch."""

    labels: NDArray  # (N,) int64: class index of each row

    def batch(self, rows: NDArray, augment: Callable[[], float] | None) -> tuple[Tensor, ...]:
        """Return the model's inputs, on the CPU. augment: draws a uniform random number, in training; else None."""
        ...


@torch.inference_mode()
def predict_logits(
    model: nn.Module, examples: Dataset, rows: NDArray, batch_size: int, device: torch.device
) -> NDArray:
    """(len(rows),) -> (len(rows), K) fp32. A batch that does not fit into memory is halved."""
    model.eval()

    def logits(start: int, end: int) -> Tensor:
        inputs = examples.batch(rows[start:end], None)
        with autocast(device):
            return model(*(tensor.to(device) for tensor in inputs)).float().cpu()

    return torch.cat(list(MicrobatchRunner(batch_size, "prediction").iter_chunks(len(rows), logits))).numpy()


def fit(
    model: nn.Module,
    examples: Dataset,
    train_rows: NDArray,
    valid_rows: NDArray,
    schedule: Schedule,
    optimizer: Optimizer,
    seed: int,
    on_epoch: Callable[[EpochMetrics], None] = lambda epoch: None,
    name: str = "training",
    checkpoints: Checkpoints | None = None,
) -> list[EpochMetrics]:
    """Train `model` in place and leave it with the weights of its best epoch, by validation loss, or of its last one.

    The learning rate of each of the optimizer's groups is its peak. on_epoch is called for the epochs of interrupted
    attempts too. Same seed, rows, machine type and number of processes: same weights, bit for bit, however often the
    training was interrupted and continued from `checkpoints`.
    Raises ValueError if the loss diverges, MemoryError if a microbatch does not fit into memory.
    """
    checkpoints = checkpoints or Checkpoints()
    if result := checkpoints.finished.get(name):
        epochs = [EpochMetrics(**epoch) for epoch in result["epochs"]]
        for epoch in epochs:
            on_epoch(epoch)
        model.load_state_dict(result["model"])
        return epochs

    peak_rate = max(group["lr"] for group in optimizer.param_groups)
    state = _start_or_resume(model, examples, train_rows, schedule, optimizer, seed, name, checkpoints)
    for epoch in state.epochs:
        on_epoch(epoch)

    with checkpoints.save_on_sigterm(name, state.state_dict):
        while not schedule.should_stop(state.epochs):
            order = np.random.default_rng((seed, state.epoch)).permutation(train_rows)
            _train_epoch(state, examples, order, schedule, name, checkpoints)
            valid = (math.nan, math.nan) if schedule.stop_after else _validate(state, examples, valid_rows, schedule)
            epoch = state.end_epoch(state.loss / len(order), *valid)
            if rank() == 0:
                log.info("%s, %s", name, epoch)
            on_epoch(epoch)

    if schedule.stop_after and math.isfinite(state.epochs[-1].train_loss):
        state.best_weights = copy.deepcopy(model.state_dict())
    if not state.best_weights:
        raise ValueError(f"{name} diverged at learning rate {peak_rate:g}: the loss is no number; lower learning_rate")
    model.load_state_dict(state.best_weights)
    checkpoints.finish(name, {"model": state.best_weights, "epochs": [asdict(epoch) for epoch in state.epochs]})
    return state.epochs


def _start_or_resume(
    model: nn.Module,
    examples: Dataset,
    train_rows: NDArray,
    schedule: Schedule,
    optimizer: Optimizer,
    seed: int,
    name: str,
    checkpoints: Checkpoints,
) -> TrainingState:
    """Return the state of the interrupted attempt, or a new one with a microbatch size that fits."""
    saved = checkpoints.pop_unfinished(name)
    size = saved["microbatch_size"] if saved else _find_microbatch_size(model, examples, train_rows, schedule, name)
    torch.manual_seed(seed)  # dropout
    state = TrainingState(model, optimizer, schedule.scheduler(optimizer, len(train_rows)), seed, size)
    if saved:
        state.load_state_dict(saved)
    return state


def _train_epoch(
    state: TrainingState, examples: Dataset, order: NDArray, schedule: Schedule, name: str, checkpoints: Checkpoints
) -> None:
    """Run the steps of the current epoch that are still to do."""
    state.model.train()
    batches = np.split(order, range(schedule.batch_size, len(order), schedule.batch_size))
    title, remaining = f"{name}, epoch {state.epoch}", batches[state.step :]
    bar = {"initial": state.step, "leave": False, "disable": rank() > 0 or not on_terminal()}  # `fit` logs each epoch
    for batch in Progress(remaining, title, len(batches), unit=" batches", **bar):
        with defer_sigterm():
            state.reseed_for_rank()
            with explain_out_of_memory(name, state.microbatch_size):
                loss = _backward(state, examples, batch, schedule.label_smoothing)
                with state.timer("compute"):
                    nn.utils.clip_grad_norm_(state.model.parameters(), 1.0)
                    state.optimizer.step()
                    mean_loss = all_reduce_sum(loss).item()
            state.end_step(mean_loss, len(batch))
        with state.timer("save"):
            checkpoints.save_if_due(name, state.state_dict)


def _backward(state: TrainingState, examples: Dataset, batch: NDArray, label_smoothing: float) -> Tensor:
    """Accumulate the gradients of this rank's share of every microbatch. -> its part of the batch's mean loss, ()"""
    state.optimizer.zero_grad(set_to_none=True)
    total = torch.zeros((), device=state.device)
    microbatches = _split(batch, state.microbatch_size)
    for number, rows in enumerate(microbatches, 1):
        with state.timer("read"):
            inputs, labels = _read(examples, rows, state.augment.random, state.device)
        with state.timer("compute"), nullcontext() if number == len(microbatches) else no_sync(state.ddp_model):
            loss = _loss(state.ddp_model, inputs, labels, label_smoothing) * (len(rows) / len(batch))
            (loss * world_size()).backward()
            total += loss.detach()
    return total


def _split(batch: NDArray, size: int) -> list[NDArray]:
    """Return this rank's share of each microbatch of up to `size` rows."""
    # batch norm cannot train on one row, nor a rank on none
    count = max(1, min(-(-len(batch) // size), len(batch) // max(2, world_size())))
    return [shard_for_rank(rows) for rows in np.array_split(batch, count)]


def _read(
    examples: Dataset, rows: NDArray, augment: Callable[[], float], device: torch.device
) -> tuple[list[Tensor], Tensor]:
    inputs = [tensor.to(device) for tensor in examples.batch(rows, augment)]
    return inputs, torch.from_numpy(examples.labels[rows]).to(device)


def _loss(model: nn.Module, inputs: list[Tensor], labels: Tensor, label_smoothing: float) -> Tensor:
    with autocast(labels.device):
        logits = model(*inputs)  # (B, K)
    return functional.cross_entropy(logits.float(), labels, label_smoothing=label_smoothing)


def _find_microbatch_size(
    model: nn.Module, examples: Dataset, train_rows: NDArray, schedule: Schedule, name: str
) -> int:
    """Return how many rows at once fit into the memory of every rank, up to schedule.batch_size.

    Runs a batch before the first step, because with several ranks one that repeats a step would leave the others
    waiting. Weights and batch norm's statistics do not change; random numbers are drawn.
    """
    batch = train_rows[: schedule.batch_size]
    device = next(model.parameters()).device
    model.train()
    for layer in model.modules():
        if isinstance(layer, BATCH_NORMS):
            layer.eval()  # needs the same memory, keeps its statistics and does not wait for other ranks
    augment = np.random.default_rng(0).random
    # what is allocated later: AdamW's two moments and DDP's buckets
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    reserve = [torch.empty_like(weight) for weight in weights * (3 if world_size() > 1 else 2)]

    def attempt(size: int) -> None:
        model.zero_grad(set_to_none=True)
        for rows in _split(batch, size):
            _loss(model, *_read(examples, rows, augment, device), 0.0).backward()

    runner = MicrobatchRunner(schedule.batch_size, name, smallest=max(2, world_size()))
    runner.run(attempt, len(batch))
    del reserve
    model.zero_grad(set_to_none=True)
    return all_reduce_min(runner.rows, device)


def _validate(state: TrainingState, examples: Dataset, rows: NDArray, schedule: Schedule) -> tuple[float, float]:
    """Return cross-entropy in nats and weighted F1; the same bits on every rank, so that all stop alike."""
    from sklearn.metrics import f1_score  # not at the top: serving and prediction need no scikit-learn

    with state.timer("validate"):
        logits = _gather_logits(state.model, examples, rows, schedule.batch_size, state.device)
        labels = examples.labels[rows]
        loss = float(functional.cross_entropy(torch.from_numpy(logits), torch.from_numpy(labels)))
        return loss, float(f1_score(labels, logits.argmax(1), average="weighted", zero_division=0))


def _gather_logits(
    model: nn.Module, examples: Dataset, rows: NDArray, batch_size: int, device: torch.device
) -> NDArray:
    """Return `predict_logits`, of which each rank computes its share of the rows."""
    if world_size() == 1 or len(rows) < world_size():
        return predict_logits(model, examples, rows, batch_size, device)
    places = shard_for_rank(np.arange(len(rows)))
    own_logits = predict_logits(model, examples, rows[places], batch_size, device)
    logits = torch.zeros((len(rows), own_logits.shape[1]), device=device)
    logits[places[0] : places[-1] + 1] = torch.from_numpy(own_logits)
    return all_reduce_sum(logits).cpu().numpy()
