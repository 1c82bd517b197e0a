"""What could move the limit of VGG16's features, beside the plain forward pass: photos a second.

python -m benchmarks.photo_limits
Each row is the whole convolutional part over a batch that lies ready. int8 is torch's oneDNN convolution with a fixed
scale, rectified: its speed alone, for without calibrated scales and ImageNet's weights its answers mean nothing.
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

from rakuten_tasks.models.networks.onednn import is_supported, prepack
from rakuten_tasks.models.networks.vgg16_blocks import batch_size
from rakuten_tasks.models.networks.vgg16_weights import random_convolutions
from rakuten_tasks.training.loop import autocast, choose_device, half_precision

SIDES = (224, 192, 160, 128)
REPEATS = 4


def int8(network: nn.Sequential) -> Callable[[Tensor], Tensor]:
    """The same convolutions and pools on bytes."""
    prepack = []
    for layer in network:
        if isinstance(layer, nn.Conv2d):
            weight = (layer.weight / layer.weight.abs().max() * 127).round().to(torch.int8)
            prepack.append(torch.ops.onednn.qconv_prepack(weight, torch.ones(len(weight)), 1.0, 0, *GEOMETRY, 1, None))

    def run(pixels: Tensor) -> Tensor:
        maps = pixels.mul(32).clamp(0, 255).to(torch.uint8).contiguous(memory_format=torch.channels_last)
        weights = iter(prepack)
        for layer in network:
            if isinstance(layer, nn.Conv2d):
                scales = torch.ones(layer.out_channels)
                zeros = torch.zeros(layer.out_channels, dtype=torch.int64)
                maps = torch.ops.onednn.qconv2d_pointwise(
                    maps,
                    1.0,
                    0,
                    next(weights),
                    scales,
                    zeros,
                    None,
                    *GEOMETRY,
                    1,
                    4096.0,
                    0,
                    torch.uint8,
                    "relu",
                    [],
                    "",
                )
            elif isinstance(layer, nn.MaxPool2d):
                rows = torch.maximum(maps[:, :, ::2], maps[:, :, 1::2])  # torch's pool refuses maps of bytes this large
                maps = torch.maximum(rows[..., ::2], rows[..., 1::2]).contiguous(memory_format=torch.channels_last)
        return maps

    return run


GEOMETRY = ([1, 1], [1, 1], [1, 1])  # stride, padding, dilation


@torch.inference_mode()
def rate(work: Callable[[Tensor], object], batch: Tensor, half: bool) -> float:
    """Photos a second, the best of some runs."""

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
    """Print a row for each way, as a ratio to the plain forward pass."""
    device = choose_device()
    network = random_convolutions(batch_norm=False).to(device).to(memory_format=torch.channels_last)
    network.eval().requires_grad_(False)

    def batch(image_size: int) -> Tensor:
        pixels = torch.randn(batch_size(device), 3, image_size, image_size, device=device)
        return pixels.to(memory_format=torch.channels_last)

    dtype = "bf16" if half_precision(device) else "fp32"
    found = {
        f"{dtype}, 224 px": rate(network, batch(224), True),
        "fp32": rate(network, batch(224), False),
    }
    if is_supported(device):
        found["bf16, packed: the pipeline"] = rate(prepack(network), batch(224), True)
    if shutil.which("c++") or device.type == "cuda":  # inductor compiles C++ on processors
        found[f"{dtype}, torch.compile"] = rate(torch.compile(network), batch(224), True)
        torch.compiler.reset()
        import torch._inductor.config as inductor

        with inductor.patch(freezing=True):
            found[f"{dtype}, torch.compile with freezing"] = rate(torch.compile(network), batch(224), True)
    if device.type == "cpu":
        found["int8 (speed alone)"] = rate(int8(network), batch(224), False)
    found |= {f"{dtype}, {image_size} px": rate(network, batch(image_size), True) for image_size in SIDES[1:]}
    table = Table("", "photos/s", "ratio", title=f"VGG16's convolutions on {device}, batches of {batch_size(device)}")
    usual = next(iter(found.values()))
    for name, photos in found.items():
        table.add_row(name, f"{photos:.2f}", f"{photos / usual:.2f}")
    Console().print(table)


if __name__ == "__main__":
    main()
