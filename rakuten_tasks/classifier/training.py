"""The one training loop of both branches: one-cycle schedule, early stopping on validation A, best weights kept."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.metrics import f1_score
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import Optimizer
from tqdm import tqdm


@dataclass(frozen=True)
class Schedule:
    """epochs: at most. patience: epochs without a better validation loss before stopping early."""

    epochs: int
    batch_size: int
    patience: int
    label_smoothing: float = 0.0


@dataclass(frozen=True)
class Epoch:
    """What one epoch showed. Losses are mean cross-entropies in nats; learning_rate is the last step's."""

    number: int
    train_loss: float
    valid_loss: float
    valid_f1: float  # weighted
    learning_rate: float
    seconds: float
    read_seconds: float = 0.0
    compute_seconds: float = 0.0
    validate_seconds: float = 0.0
    save_seconds: float = 0.0


class Examples(Protocol):
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
    model: nn.Module, examples: Examples, rows: NDArray, batch_size: int, device: torch.device
) -> NDArray:
    """(len(rows),) -> (len(rows), K) fp32."""
    model.eval()
    parts = []
    for start in range(0, len(rows), batch_size):
        inputs = examples.batch(rows[start : start + batch_size], None)
        with autocast(device):
            parts.append(model(*(t.to(device) for t in inputs)).float().cpu())
    return torch.cat(parts).numpy()


def fit(
    model: nn.Module,
    examples: Examples,
    train_rows: NDArray,
    valid_rows: NDArray,
    schedule: Schedule,
    optimizer: Optimizer,
    seed: int,
    on_epoch: Callable[[Epoch], None] = lambda epoch: None,
    name: str = "training",
) -> list[Epoch]:
    """Train `model` in place and leave it with the weights of its best epoch, by validation loss.

    The learning rate of each of the optimizer's groups is the peak of its one-cycle (arXiv 1708.07120).
    Same seed, rows and machine type: same weights, bit for bit. Raises ValueError if the loss is never a number.
    """
    device = next(model.parameters()).device
    torch.manual_seed(seed)  # dropout
    steps = -(-len(train_rows) // schedule.batch_size)
    peaks = [group["lr"] for group in optimizer.param_groups]
    # one more: the cycle steps after the last batch too, and past its end the rate rises again
    cycle = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=peaks, total_steps=schedule.epochs * steps + 1)
    best: tuple[float, dict[str, Tensor]] = (float("inf"), {})
    epochs: list[Epoch] = []
    for number in range(1, schedule.epochs + 1):
        started = time.perf_counter()
        order = np.random.default_rng((seed, number)).permutation(train_rows)
        bar = tqdm(range(0, len(order), schedule.batch_size), desc=f"{name}, epoch {number}", leave=False)
        augment = np.random.default_rng((seed, number, 1)).random
        losses = []
        for start in bar:
            batch = order[start : start + schedule.batch_size]
            losses.append(_step(model, examples, batch, augment, schedule, optimizer, device) * len(batch))
            cycle.step()
        epochs.append(
            Epoch(
                number,
                sum(losses) / len(order),
                *_validate(model, examples, valid_rows, schedule, device),
                float(cycle.get_last_lr()[0]),
                time.perf_counter() - started,
            )
        )
        on_epoch(epochs[-1])
        if epochs[-1].valid_loss < best[0]:
            best = (epochs[-1].valid_loss, copy.deepcopy(model.state_dict()))
        elif number - min(epochs, key=lambda epoch: epoch.valid_loss).number >= schedule.patience:
            break
    if not best[1]:
        peak = max(peaks)
        raise ValueError(f"{name} diverged at learning rate {peak:g}: the loss is no number; lower learning_rate")
    model.load_state_dict(best[1])
    return epochs


def _step(
    model: nn.Module,
    examples: Examples,
    batch: NDArray,
    augment: Callable[[], float],
    schedule: Schedule,
    optimizer: Optimizer,
    device: torch.device,
) -> float:
    model.train()
    inputs = [tensor.to(device) for tensor in examples.batch(batch, augment)]
    target = torch.from_numpy(examples.labels[batch]).to(device)
    with autocast(device):
        logits = model(*inputs)  # (B, K)
    loss = functional.cross_entropy(logits.float(), target, label_smoothing=schedule.label_smoothing)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    return loss.item()


def _validate(
    model: nn.Module, examples: Examples, rows: NDArray, schedule: Schedule, device: torch.device
) -> tuple[float, float]:
    logits = predict_logits(model, examples, rows, schedule.batch_size, device)
    labels = examples.labels[rows]
    loss = float(functional.cross_entropy(torch.from_numpy(logits), torch.from_numpy(labels)))
    return loss, float(f1_score(labels, logits.argmax(1), average="weighted", zero_division=0))
