"""The training loop of all networks: one-cycle schedule, early stopping on the validation split, best weights kept."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.metrics import f1_score
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, OneCycleLR
from tqdm import tqdm

from rakuten_tasks.training.checkpoint import Checkpoints
from rakuten_tasks.training.distributed import (
    BatchNorm,
    all_reduce_min,
    all_reduce_sum,
    no_sync,
    rank,
    shard_for_rank,
    world_size,
)
from rakuten_tasks.training.oom import MicrobatchSize
from rakuten_tasks.training.state import EpochMetrics, TrainingState, best_epoch

__all__ = [
    "Dataset",
    "EpochMetrics",
    "Schedule",
    "autocast",
    "best_epoch",
    "choose_device",
    "fit",
    "half_precision",
    "predict_logits",
]


@dataclass(frozen=True)
class Schedule:
    """epochs: at most, over which the learning rate rises and falls. patience: epochs without a better validation loss
    before stopping early. stop_after: above 0, nothing is validated, and the weights after so many epochs are kept.
    warmup: None for one cycle (arXiv 1708.07120), else the share of the steps in which the rate rises before it falls,
    both in a straight line.
    """

    epochs: int
    batch_size: int
    patience: int
    label_smoothing: float = 0.0
    stop_after: int = 0
    warmup: float | None = None


class Dataset(Protocol):
    """Rows that a model can be trained on, read as they are asked for."""

    labels: NDArray  # (N,) int64: class index of each row

    def batch(self, rows: NDArray, augment: Callable[[], float] | None) -> tuple[Tensor, ...]:
        """The model's inputs for these rows, on the CPU. augment: uniform random numbers while training, else None."""
        ...


def half_precision(device: torch.device) -> bool:
    """Whether bf16 is done by the hardware; emulated, it is eight times slower than fp32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    capabilities = torch.cpu.get_capabilities()
    return device.type == "cpu" and any(capabilities.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16"))


def autocast(device: torch.device) -> torch.autocast:
    """bf16 where the hardware has it, else plain fp32."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=half_precision(device))


def choose_device() -> torch.device:
    """The GPU if there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


@torch.inference_mode()
def predict_logits(
    model: nn.Module, examples: Dataset, rows: NDArray, batch_size: int, device: torch.device
) -> NDArray:
    """(len(rows),) -> (len(rows), K) fp32. A batch that does not fit into memory is halved."""
    model.eval()

    def logits(start: int, end: int) -> Tensor:
        inputs = examples.batch(rows[start:end], None)
        with autocast(device):
            return model(*(t.to(device) for t in inputs)).float().cpu()

    return torch.cat(list(MicrobatchSize(batch_size, "prediction").parts(len(rows), logits))).numpy()


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

    The learning rate of each of the optimizer's groups is its peak.
    Same seed, rows, machine type and number of processes: same weights, bit for bit, however often it
    went on from `checkpoints`. Then on_epoch is told of the former epochs too.
    Raises ValueError if the loss is never a number.
    """
    checkpoints = checkpoints or Checkpoints()
    torch.manual_seed(seed)  # dropout
    steps = -(-len(train_rows) // schedule.batch_size)
    peaks = [group["lr"] for group in optimizer.param_groups]
    cycle = _scheduler(optimizer, peaks, schedule, schedule.epochs * steps)
    # batch norm cannot train on a batch of one, nor a process on none
    size = MicrobatchSize(schedule.batch_size, name, smallest=max(2, world_size()))
    state = TrainingState(model, optimizer, cycle, size, seed)
    record = checkpoints.take(name)
    if record:
        state.restore(record)
    for epoch in state.epochs:
        on_epoch(epoch)
    if world_size() > 1 and not (record and record.finished):
        _probe_microbatch_size(state, examples, train_rows[: schedule.batch_size])
    while not _should_stop(state.epochs, schedule):
        order = np.random.default_rng((seed, state.number)).permutation(train_rows)
        _train(state, examples, order, schedule, name, checkpoints)
        valid = math.nan, math.nan
        if not schedule.stop_after:
            with state.spent("validate"):
                valid = _validate(model, examples, valid_rows, schedule, state.device)
        on_epoch(state.end_epoch(state.loss / len(order), *valid))
    if schedule.stop_after and math.isfinite(state.epochs[-1].train_loss) and not state.best:
        state.best = copy.deepcopy(model.state_dict())
    if not state.best:
        peak = max(peaks)
        raise ValueError(f"{name} diverged at learning rate {peak:g}: the loss is no number; lower learning_rate")
    model.load_state_dict(state.best)
    if not (record and record.finished):
        checkpoints.save(name, state.finished())
    return state.epochs


def _scheduler(optimizer: Optimizer, peaks: list[float], schedule: Schedule, steps: int) -> LRScheduler:
    if schedule.warmup is None:
        # one more: the cycle steps after the last batch too, and past its end the rate rises again
        return OneCycleLR(optimizer, max_lr=peaks, total_steps=steps + 1)
    rising = max(1, round(schedule.warmup * steps))
    return LambdaLR(optimizer, lambda step: min((step + 1) / rising, max(0.0, (steps - step) / max(1, steps - rising))))


def _should_stop(epochs: list[EpochMetrics], schedule: Schedule) -> bool:
    if not epochs:
        return False
    if schedule.stop_after:
        return len(epochs) >= min(schedule.stop_after, schedule.epochs)
    waited = len(epochs) - best_epoch(epochs).number
    return len(epochs) >= schedule.epochs or waited >= max(1, schedule.patience)


def _train(
    state: TrainingState, examples: Dataset, order: NDArray, schedule: Schedule, name: str, checkpoints: Checkpoints
) -> None:
    """What is left of one epoch."""
    batches = np.split(order, range(schedule.batch_size, len(order), schedule.batch_size))
    done, total = state.steps, len(batches)
    told = f"{name}, epoch {state.number}"
    for batch in tqdm(batches[done:], told, total, leave=False, initial=done, disable=rank() > 0):
        loss = _step(state, examples, batch, schedule.label_smoothing)
        state.end_step(loss, len(batch))
        with state.spent("save"):
            checkpoints.save_if_due(name, state.record)


def _step(state: TrainingState, examples: Dataset, batch: NDArray, label_smoothing: float) -> float:
    """Mean loss of the batch, which goes through in parts where memory is short: the gradients add up to the same."""
    state.model.train()
    state.reseed_for_rank()

    def gradients(rows: int) -> Tensor:
        return _gradients(state, state.forward, examples, batch, rows, label_smoothing)

    # of several, the others would wait for ever for one that starts again: `_probe_microbatch_size` has found what fits
    alone = world_size() == 1
    loss = state.size.halving(gradients, len(batch), state.snapshot()) if alone else gradients(state.size.rows)
    with state.spent("compute"):
        nn.utils.clip_grad_norm_(state.model.parameters(), 1.0)
        state.optimizer.step()
        return all_reduce_sum(loss).item()


def _gradients(
    state: TrainingState, model: nn.Module, examples: Dataset, batch: NDArray, rows: int, label_smoothing: float
) -> Tensor:
    """Backward through this process's share of the batch, `rows` of all shares at once. -> its part of the mean loss"""
    state.optimizer.zero_grad(set_to_none=True)
    total = torch.zeros((), device=state.device)
    parts = np.array_split(batch, max(1, min(-(-len(batch) // rows), len(batch) // max(2, world_size()))))
    for number, part in enumerate(map(shard_for_rank, parts), 1):
        with state.spent("read"):
            inputs = [tensor.to(state.device) for tensor in examples.batch(part, state.augment.random)]
            target = torch.from_numpy(examples.labels[part]).to(state.device)
        with state.spent("compute"), nullcontext() if number == len(parts) else no_sync(model):
            with autocast(state.device):
                logits = model(*inputs)  # (len(part), K)
            loss = functional.cross_entropy(logits.float(), target, label_smoothing=label_smoothing)
            loss = loss * (len(part) / len(batch))
            (loss * world_size()).backward()
            total += loss.detach()
    return total


def _probe_microbatch_size(state: TrainingState, examples: Dataset, batch: NDArray) -> None:
    """How many rows fit into the memory of every process, found before they wait for each other, and taken back."""
    state.model.train()
    for layer in state.model.modules():
        if isinstance(layer, BatchNorm):
            layer.eval()  # needs the same memory, and nothing of the others
    undo = state.snapshot()
    state.size.halving(lambda rows: _gradients(state, state.model, examples, batch, rows, 0.0), len(batch), undo)
    undo()
    state.size.rows = all_reduce_min(state.size.rows, state.device)


def _validate(
    model: nn.Module, examples: Dataset, rows: NDArray, schedule: Schedule, device: torch.device
) -> tuple[float, float]:
    logits = _gather_logits(model, examples, rows, schedule.batch_size, device)
    labels = examples.labels[rows]
    loss = float(functional.cross_entropy(torch.from_numpy(logits), torch.from_numpy(labels)))
    return loss, float(f1_score(labels, logits.argmax(1), average="weighted", zero_division=0))


def _gather_logits(
    model: nn.Module, examples: Dataset, rows: NDArray, batch_size: int, device: torch.device
) -> NDArray:
    """`predict_logits`, each process its share of the rows: the same bits in all, so all decide alike."""
    if world_size() == 1 or len(rows) < world_size():
        return predict_logits(model, examples, rows, batch_size, device)
    mine = shard_for_rank(np.arange(len(rows)))
    known = predict_logits(model, examples, rows[mine], batch_size, device)
    logits = torch.zeros((len(rows), known.shape[1]), device=device)
    logits[mine[0] : mine[-1] + 1] = torch.from_numpy(known)
    return all_reduce_sum(logits).cpu().numpy()
