"""Length of a training: batches, learning rate, early stopping."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, OneCycleLR

from rakuten_tasks.training.state import EpochMetrics, best_epoch


@dataclass(frozen=True)
class Schedule:
    """Length, batches and learning rate of a training.

    epochs: at most, over which the learning rate rises and falls. batch_size: of all ranks together. patience: epochs
    without a better validation loss before stopping early. stop_after: if above 0, nothing is validated, and the
    weights after that many epochs are the result. warmup: None for one cycle (arXiv 1708.07120), else the share of the
    steps in which the rate rises before it falls, both linearly.
    """

    epochs: int
    batch_size: int
    patience: int
    label_smoothing: float = 0.0
    stop_after: int = 0
    warmup: float | None = None

    def scheduler(self, optimizer: Optimizer, rows: int) -> LRScheduler:
        """Return the learning rate's schedule over batches of this many rows; each group's own rate is its peak."""
        steps = self.epochs * -(-rows // self.batch_size)
        if self.warmup is None:
            peak_rates = [group["lr"] for group in optimizer.param_groups]
            # one more: the schedule steps after the last batch too, and past its end the rate rises again
            return OneCycleLR(optimizer, max_lr=peak_rates, total_steps=steps + 1)
        rising = max(1, round(self.warmup * steps))
        falling = max(1, steps - rising)
        return LambdaLR(optimizer, lambda step: min((step + 1) / rising, max(0.0, (steps - step) / falling)))

    def should_stop(self, epochs: Sequence[EpochMetrics]) -> bool:
        """Tell whether these finished epochs are enough."""
        if not epochs:
            return False
        if self.stop_after:
            return len(epochs) >= min(self.stop_after, self.epochs)
        waited = len(epochs) - best_epoch(epochs).number
        return len(epochs) >= self.epochs or waited >= max(1, self.patience)
