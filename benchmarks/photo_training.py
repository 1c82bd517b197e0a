"""Training on photos with frozen VGG16, compared with a plain loop that decodes and runs the network every epoch.

python -m benchmarks.photo_training
The plain loop is fp32, decodes with Pillow in its data loader, and trains a linear head on the pooled last block for
five epochs. Ours reads the same JPEGs: it extracts features once and fits the member `photo` on them, four times out of
fold and once on all rows. The weights are random, which does not change the speed.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from random import Random

import click
import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

from benchmarks.timing import seconds
from rakuten_tasks.config import PhotoConfig, TrainingConfig, Weights
from rakuten_tasks.data.sample.drawings import draw_photo
from rakuten_tasks.data.sample.generate import JPEG_QUALITY
from rakuten_tasks.data.splits import FOLDS, TRAIN
from rakuten_tasks.models.backbones import load_backbone, resolve_weights
from rakuten_tasks.models.extractors import PhotoExtractor
from rakuten_tasks.models.members import MEMBERS, FitContext, TrainingData
from rakuten_tasks.models.networks.onednn import is_supported, prepack
from rakuten_tasks.models.networks.vgg16_blocks import DEVIATION, MEAN, batch_size
from rakuten_tasks.models.networks.vgg16_weights import random_convolutions
from rakuten_tasks.preprocessing.feature_shards import write_shard
from rakuten_tasks.preprocessing.product import Product
from rakuten_tasks.training.hardware import autocast, choose_device, half_precision

SIDE, EPOCHS, CLASSES, BATCH, LIMIT = 224, 5, 27, 32, 12.0
ORIGINAL = 500  # pixels: the challenge's photos


class Photos(Dataset[tuple[Tensor, int]]):
    """JPEGs, decoded on each access."""

    def __init__(self, files: Sequence[bytes], labels: NDArray) -> None:
        self.files, self.labels = files, labels
        steps = [v2.Resize((SIDE, SIDE)), v2.ToImage(), v2.ToDtype(torch.float32, scale=True)]
        self.transform = v2.Compose([*steps, v2.Normalize(MEAN, DEVIATION)])

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, row: int) -> tuple[Tensor, int]:
        return self.transform(Image.open(BytesIO(self.files[row])).convert("RGB")), int(self.labels[row])


def train_plainly(files: Sequence[bytes], labels: NDArray, device: torch.device, epochs: int) -> None:
    """Train a linear head in a plain PyTorch loop."""
    network = random_convolutions(batch_norm=False).to(device).eval().requires_grad_(False)
    head = nn.Linear(512, CLASSES).to(device)
    optimizer = torch.optim.Adam(head.parameters(), lr=1e-3)
    for _ in range(epochs):
        for pixels, target in DataLoader(Photos(files, labels), BATCH, shuffle=True):
            with torch.no_grad():
                features = network(pixels.to(device)).mean((2, 3))  # (B, 512)
            optimizer.zero_grad()
            nn.functional.cross_entropy(head(features), target.to(device)).backward()
            optimizer.step()


def ours(files: Sequence[bytes], labels: NDArray, device: torch.device, folder: Path) -> None:
    """Train with the functions of the pipeline."""
    config = PhotoConfig(weights=Weights.FILE, weights_file=str(folder / "vgg16.safetensors"))
    extractor = PhotoExtractor(load_backbone(resolve_weights(config)[0], device))
    rows = np.arange(len(files))
    features = extractor.extract([Product(photo=file) for file in files])
    write_shard(folder / "features", {"row": rows, **features})
    assignments = pd.DataFrame({"row": rows, "label": labels, "split": TRAIN, "fold": rows % FOLDS})
    data = TrainingData.load({extractor.name: [folder / "features"]}, assignments, CLASSES, {})
    member = MEMBERS["photo"]
    member.fit(member.settings(TrainingConfig(photo=config)), data, FitContext(0, device))


@torch.inference_mode()
def forward(device: torch.device, photos: int, half: bool) -> float:
    """Measure the seconds of the bare forward pass over the photos, a lower bound of either training."""
    network = random_convolutions(batch_norm=False).to(device).to(memory_format=torch.channels_last).eval()
    run_once = prepack(network) if half and is_supported(device) else network
    size = batch_size(device) if half else BATCH
    batch = torch.randn(size, 3, SIDE, SIDE, device=device).to(memory_format=torch.channels_last)

    def run() -> None:
        for _ in range(0, photos, size):
            with autocast(device) if half else torch.autocast(device.type, enabled=False):
                run_once(batch)
        if device.type == "cuda":
            torch.cuda.synchronize()

    run()
    return seconds(run)


def draw_jpegs(count: int) -> tuple[list[bytes], NDArray]:
    """Generate JPEGs of the challenge's size, and random labels."""
    files = []
    for row in range(count):
        buffer = BytesIO()
        draw_photo(2583, Random(row)).resize((ORIGINAL, ORIGINAL)).save(buffer, "JPEG", quality=JPEG_QUALITY)
        files.append(buffer.getvalue())
    return files, np.random.default_rng(0).integers(CLASSES, size=count)


@click.command()
@click.option("--count", default=96, help="photos")
def main(count: int) -> None:
    """Print both times, their ratio with its target, and the ratio of the measured forward passes alone."""
    device = choose_device()
    files, labels = draw_jpegs(count)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        save_file(random_convolutions(batch_norm=False).state_dict(), folder / "vgg16.safetensors")
        ours(files[:16], labels[:16], device, folder)  # warms up
        our_seconds = seconds(lambda: ours(files, labels, device, folder))
    plain_seconds = seconds(lambda: train_plainly(files, labels, device, EPOCHS))
    full, half = (forward(device, count, half) for half in (False, True))
    dtype = "bf16" if half_precision(device) else "fp32"
    click.echo(f"{count} photos of {SIDE} pixels on {device}; {EPOCHS} epochs of the plain loop")
    click.echo(f"plain fp32 loop               {plain_seconds:7.1f} s")
    click.echo(f"features once, then a member  {our_seconds:7.1f} s, in {dtype}")
    click.echo(f"bare forward passes           {full:7.1f} s fp32, {half:.1f} s {dtype}")
    ratio, bound = plain_seconds / our_seconds, EPOCHS * full / half
    click.echo(f"ratio {ratio:.1f} (target {LIMIT:.0f}); ratio of the forward passes alone {bound:.1f}")


if __name__ == "__main__":
    main()
