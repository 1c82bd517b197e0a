"""Data-parallel helpers. With a world size of 1 every function is a no-op.

torch's DistributedDataParallel sums the gradients. Batch norm computes its statistics over the batches of all ranks.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import timedelta
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch import distributed as dist
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel

Value = TypeVar("Value")

TIMEOUT = timedelta(hours=1)  # to wait for another process, which may download features first; NCCL's own is 10 min
BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.SyncBatchNorm)


def world_size() -> int:
    """Return the number of processes that train together."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """Return this process's number, from 0; rank 0 writes logs, checkpoints and results."""
    return dist.get_rank() if dist.is_initialized() else 0


@contextmanager
def process_group() -> Iterator[None]:
    """Join the processes that torch elastic started beside this one: by NCCL if each has a GPU, else by gloo."""
    if not dist.is_torchelastic_launched() or os.environ["WORLD_SIZE"] == "1":
        yield
        return
    has_own_gpu = torch.cuda.device_count() >= int(os.environ["LOCAL_WORLD_SIZE"])
    if has_own_gpu:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("nccl" if has_own_gpu else "gloo", timeout=TIMEOUT)
    yield
    dist.destroy_process_group()  # not after an error: it would wait for the others, and elastic ends them all


def device_for_rank(device: torch.device) -> torch.device:
    """Return the device, or the CPU under gloo, where there are fewer GPUs than processes."""
    return torch.device("cpu") if world_size() > 1 and dist.get_backend() == "gloo" else device


def shard_for_rank(rows: NDArray) -> NDArray:
    """Return this rank's contiguous part of the rows; the ranks' sizes differ by one at the most."""
    return np.array_split(rows, world_size())[rank()] if world_size() > 1 else rows


def all_reduce_sum(values: Tensor) -> Tensor:
    """Sum over all ranks, in place; every rank gets the same bits."""
    if world_size() > 1:
        dist.all_reduce(values)
    return values


def all_reduce_min(number: int, device: torch.device) -> int:
    """Return the least of all ranks' numbers."""
    value = torch.tensor(number, device=device)
    if world_size() > 1:
        dist.all_reduce(value, dist.ReduceOp.MIN)
    return int(value)


def broadcast_from_rank_0(value: Value) -> Value:
    """Return rank 0's value, which can be pickled, on every rank."""
    values = [value]
    if world_size() > 1:
        dist.broadcast_object_list(values, src=0)
    return values[0]


def once_on_each_node(work: Callable[[], Value]) -> Value:
    """Run it in the first process of each node, and return what it returns, which can be pickled, in all of them."""
    if world_size() == 1:
        return work()
    local_rank = int(os.environ["LOCAL_RANK"])
    values: list[Any] = [None] * world_size()
    dist.all_gather_object(values, work() if local_rank == 0 else None)
    return values[rank() - local_rank]


def wrap_ddp(model: nn.Module) -> nn.Module:
    """Return the module to call in training steps. DDP averages gradients over the ranks: multiply the loss by them."""
    # the buffers are batch norm's statistics, which are the same on all ranks already
    return DistributedDataParallel(model, forward_sync_buffers=False) if world_size() > 1 else model


def no_sync(model: nn.Module) -> AbstractContextManager:
    """Accumulate gradients on this rank only, for all microbatches of a step but the last."""
    return model.no_sync() if isinstance(model, DistributedDataParallel) else nullcontext()


class _AllReduceSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        return all_reduce_sum(values.clone())

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return all_reduce_sum(gradient.clone())


class CPUSyncBatchNorm(nn.BatchNorm2d):
    """Synchronised batch norm under gloo, in plain operations, of any input: nn.SyncBatchNorm trains on GPUs only."""

    def forward(self, input: Tensor) -> Tensor:
        """(B, C, ...) -> the same shape; B may differ between ranks."""
        if not self.training:
            return functional.batch_norm(
                input, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps
            )
        # as torchvision and Head make them
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        assert self.momentum is not None
        dims, shape = [0, *range(2, input.dim())], [1, -1, *[1] * (input.dim() - 2)]
        values = input.float()
        count = all_reduce_sum(torch.tensor(float(values.numel() // values.shape[1]), device=values.device))
        mean = _AllReduceSum.apply(values.sum(dims)) / count  # (C,)
        centred = values - mean.view(shape)
        variance = _AllReduceSum.apply(centred.square().sum(dims)) / count  # (C,)
        with torch.no_grad():
            self.num_batches_tracked += 1
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * count / (count - 1), self.momentum)
        scale = (variance + self.eps).rsqrt() * self.weight  # (C,)
        return (centred * scale.view(shape) + self.bias.view(shape)).to(input.dtype)


def convert_sync_batchnorm(model: nn.Module) -> None:
    """Replace the batch norms within the model by synchronised ones that share their weights and statistics."""
    if world_size() == 1:
        return
    if dist.get_backend() == "nccl":
        nn.SyncBatchNorm.convert_sync_batchnorm(model)
        return
    for layer in model.modules():
        if isinstance(layer, BATCH_NORMS):
            layer.__class__ = CPUSyncBatchNorm  # it keeps its tensors
