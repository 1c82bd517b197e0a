"""Stand-ins for parts of the training loop: a dataset, a model short of memory, interrupted checkpoint stores."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

CPU_OUT_OF_MEMORY = (
    "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried"
)


class PointDataset:
    """Two clouds of points; what was asked for is kept in `asked`."""

    def __init__(self, count=64):
        random = np.random.default_rng(0)
        self.labels = np.arange(count) % 2
        self.points = (random.normal(size=(count, 3)) + 2 * self.labels[:, None]).astype(np.float32)
        self.asked = []

    def batch(self, rows, augment):
        self.asked.append((rows.tolist(), augment is not None))
        return (torch.from_numpy(self.points[rows]),)


class SimulatedKill(BaseException):
    """Nothing catches it, as nothing catches SIGKILL."""


class MemoryStore:
    """A store in memory that counts."""

    def __init__(self, blob: bytes | None = None) -> None:
        self.blob, self.written = blob, 0

    def read(self) -> bytes | None:
        return self.blob

    def write(self, content: bytes) -> None:
        self.blob, self.written = content, self.written + 1


class KilledStore(MemoryStore):
    """A store whose power goes after it has written for the `cut`th time, or just before."""

    def __init__(self, blob: bytes | None, cut: int, before: bool = False) -> None:
        super().__init__(blob)
        self.cut, self.before = cut, before

    def write(self, content: bytes) -> None:
        if self.before and self.written + 1 == self.cut:
            raise SimulatedKill
        super().write(content)
        if self.written == self.cut:
            raise SimulatedKill


class LimitedModel(nn.Module):
    """A linear model with room for `limit` rows; each batch that came is in `seen`."""

    def __init__(self, limit, error=RuntimeError(CPU_OUT_OF_MEMORY)):
        super().__init__()
        torch.manual_seed(0)
        self.linear = nn.Linear(3, 2)
        self.limit, self.error, self.seen = limit, error, []

    def forward(self, points):
        self.seen.append(len(points))
        if len(points) > self.limit:
            raise self.error
        return self.linear(points)
