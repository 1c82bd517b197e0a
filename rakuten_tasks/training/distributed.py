"""Data-parallel helpers. With a world size of 1 every function is a no-op.

torch's DistributedDataParallel adds their gradients up. Batch norm looks at the whole batch, as one process would.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch import distributed as dist
from torch.nn.modules.batchnorm import _BatchNorm as BatchNorm
from torch.nn.parallel import DistributedDataParallel

from rakuten_tasks.training.checkpoint import CheckpointStore


def world_size() -> int:
    """How many processes train together."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """Which of them this is; 0 speaks for all."""
    return dist.get_rank() if dist.is_initialized() else 0


@contextmanager
def process_group() -> Iterator[None]:
    """Joins the processes that torch elastic started beside this one: by NCCL if each has a GPU, else by gloo."""
    if not dist.is_torchelastic_launched() or os.environ["WORLD_SIZE"] == "1":
        yield
        return
    own_gpu = torch.cuda.device_count() >= int(os.environ["LOCAL_WORLD_SIZE"])
    if own_gpu:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("nccl" if own_gpu else "gloo")
    yield
    dist.destroy_process_group()  # not after an error: it would wait for the others, and elastic ends them all


def device_for_rank(device: torch.device) -> torch.device:
    """The device, or the processor where processes outnumber the GPUs: gloo, and two on one GPU only wait."""
    return torch.device("cpu") if world_size() > 1 and dist.get_backend() == "gloo" else device


def shard_for_rank(rows: NDArray) -> NDArray:
    """This process's part of the rows, one after the other over the ranks; sizes differ by one at the most."""
    return np.array_split(rows, world_size())[rank()] if world_size() > 1 else rows


def all_reduce_sum(values: Tensor) -> Tensor:
    """In place, the sum over all processes; the same bits in each."""
    if world_size() > 1:
        dist.all_reduce(values)
    return values


def all_reduce_min(number: int, device: torch.device) -> int:
    """Over all processes."""
    if world_size() == 1:
        return number
    value = torch.tensor(number, device=device)
    dist.all_reduce(value, dist.ReduceOp.MIN)
    return int(value)


def wrap_ddp(model: nn.Module) -> nn.Module:
    """What to call instead of the model while training. DDP divides by the number of processes: multiply the loss."""
    # buffers are batch norm's means, which are the same everywhere already
    return DistributedDataParallel(model, forward_sync_buffers=False) if world_size() > 1 else model


def no_sync(model: nn.Module) -> AbstractContextManager:
    """Within, a backward pass adds to this process's gradients only: the last part of a batch sends their sum."""
    return model.no_sync() if isinstance(model, DistributedDataParallel) else nullcontext()


class _AllReduceSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        return all_reduce_sum(values.clone())

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return all_reduce_sum(gradient.clone())


class CPUSyncBatchNorm(BatchNorm):
    """For gloo, in plain operations: torch's own SyncBatchNorm refuses tensors that are on no GPU."""

    def _check_input_dim(self, input: Tensor) -> None:
        """Any, as in torch's own."""

    def forward(self, input: Tensor) -> Tensor:
        """(B, C, ...) -> the same; B may differ between processes."""
        if not self.training:
            return super().forward(input)
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
    """In place: its batch norms look at what all processes hold. Names and values of the weights stay."""
    if world_size() == 1:
        return
    if dist.get_backend() == "nccl":
        nn.SyncBatchNorm.convert_sync_batchnorm(model)
        return
    for layer in model.modules():
        if isinstance(layer, BatchNorm):
            layer.__class__ = CPUSyncBatchNorm  # it keeps its tensors


class BroadcastCheckpointStore:
    """A checkpoint store that all read alike, whatever each could see of it, and that rank 0 writes."""

    def __init__(self, store: CheckpointStore | None, device: torch.device) -> None:
        """store: rank 0's; the others' are not asked."""
        self._store, self._device = store if rank() == 0 else None, device

    def read(self) -> bytes | None:
        blob = (self._store.read() if self._store else None) or b""
        length = torch.tensor(len(blob), device=self._device)
        dist.broadcast(length, 0)
        if not length:
            return None
        content = torch.empty(int(length), dtype=torch.uint8, device=self._device)
        if rank() == 0:
            content.copy_(torch.frombuffer(bytearray(blob), dtype=torch.uint8))
        dist.broadcast(content, 0)
        return content.cpu().numpy().tobytes()

    def write(self, content: bytes) -> None:
        if self._store:
            self._store.write(content)
