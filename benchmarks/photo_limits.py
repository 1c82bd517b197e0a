"""Throughput of VGG16's convolutions under possible optimisations, in photos per second.

python -m benchmarks.photo_limits
Each row runs all convolutions over a prepared batch.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable

import click
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from rakuten_tasks.models.networks.int8 import quantise
from rakuten_tasks.models.networks.onednn import is_int8_supported, is_supported, prepack
from rakuten_tasks.models.networks.vgg16_blocks import batch_size, max_pool_2x2, split_blocks
from rakuten_tasks.models.networks.vgg16_weights import random_convolutions
from rakuten_tasks.training.hardware import autocast, choose_device, half_precision

SIDES = (224, 192, 160, 128)
REPEATS = 4


def int8(network: nn.Sequential) -> Callable[[Tensor], Tensor]:
    """Quantise the convolutions as `photo.precision: int8` does, with scales of one, which take the same time."""
    blocks = list(split_blocks(network))
    steps = quantise(blocks, [1.0] * (sum(isinstance(layer, nn.Conv2d) for layer in network) - 1))

    def run(maps: Tensor) -> Tensor:
        for step in steps:
            maps = max_pool_2x2(step(maps))
        return maps

    return run


@torch.inference_mode()
def rate(work: Callable[[Tensor], object], batch: Tensor, half: bool) -> float:
    """Measure photos per second; the best of REPEATS runs."""

    def once() -> float:
        started = time.perf_counter()
        with autocast(batch.device) if half else torch.autocast(batch.device.type, enabled=False):
            work(batch)
        if batch.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - started

    once()  # compiles, and warms up
    return len(batch) / min(once() for _ in range(REPEATS))


@click.command()
def main() -> None:
    """Print a row for each variant, with its ratio to the plain forward pass."""
    device = choose_device()
    network = random_convolutions(batch_norm=False).to(device).to(memory_format=torch.channels_last)
    network.eval().requires_grad_(False)

    def batch(image_size: int) -> Tensor:
        pixels = torch.randn(batch_size(device), 3, image_size, image_size, device=device)
        return pixels.to(memory_format=torch.channels_last)

    dtype = "bf16" if half_precision(device) else "fp32"
    rates = {
        f"{dtype}, 224 px": rate(network, batch(224), True),
        "fp32": rate(network, batch(224), False),
    }
    if is_supported(device):
        rates["bf16, prepacked: the pipeline"] = rate(prepack(network), batch(224), True)
    if shutil.which("c++") or device.type == "cuda":  # inductor compiles C++ on processors
        rates[f"{dtype}, torch.compile"] = rate(torch.compile(network), batch(224), True)
        torch.compiler.reset()
        import torch._inductor.config as inductor

        with inductor.patch(freezing=True):
            rates[f"{dtype}, torch.compile with freezing"] = rate(torch.compile(network), batch(224), True)
    if is_int8_supported(device):
        rates["int8, as photo.precision: int8"] = rate(int8(network), batch(224), True)
    rates |= {f"{dtype}, {image_size} px": rate(network, batch(image_size), True) for image_size in SIDES[1:]}
    table = Table("", "photos/s", "ratio", title=f"VGG16's convolutions on {device}, batches of {batch_size(device)}")
    usual = next(iter(rates.values()))
    for name, photos in rates.items():
        table.add_row(name, f"{photos:.2f}", f"{photos / usual:.2f}")
    Console().print(table)


if __name__ == "__main__":
    main()
