"""What a thousand products cost at each step, and what catalogues of other sizes would need by that.

python -m benchmarks.cost                       (generated products; --source FOLDER for a catalogue's first ones)
Each step is a process of its own, as in its pod. Networks are at 224 pixels as in configs/imagenet.yaml.
"""

from __future__ import annotations

import multiprocessing
import os
import tempfile
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import click
import torch
from rich.console import Console
from rich.table import Table

from benchmarks.cost_steps import Used, Work, run
from rakuten_tasks import pods
from rakuten_tasks.catalogue.sample import SAMPLE, write_sample
from rakuten_tasks.classifier.training import choose_device, half_precision
from rakuten_tasks.config import IngestConfig

SHARD = IngestConfig().rows_per_shard
SIZES = (84_916, 1_000_000, 100_000_000)
GB = 1e9


@dataclass(frozen=True)
class Step:
    """name: of the function in cost_steps.py. epochs: that a training of a large catalogue does, if any.

    shards: whether it is a map task over shards, else one pod does all. photos: whether only some go through it.
    kept: whether what it writes grows with the catalogue.
    """

    name: str
    title: str
    shards: bool = False
    epochs: int = 0
    photos: bool = False
    kept: bool = True


STEPS = (
    Step("ingest", "ingest"),
    Step("split", "split into sides"),
    Step("vocabulary", "fit the vocabulary", kept=False),
    Step("encode", "encode text", shards=True),
    Step("text", "LSTM, an epoch", epochs=8, kept=False),
    Step("prepare", "prepare photos", shards=True),
    Step("features", "VGG16 features", shards=True, photos=True),
    Step("block5", "VGG16 block 5, an epoch", epochs=3, photos=True, kept=False),
    Step("fuse", "fuse"),
    Step("evaluation", "evaluate"),
    Step("predict", "predict", shards=True, photos=True),
)
FROM_SCRATCH = Step("scratch", "VGG16 whole, 32 px, an epoch", epochs=2, photos=True, kept=False)


@dataclass(frozen=True)
class Cost:
    """Of a step: measured on some products, and its memory on a shard of them."""

    step: Step
    used: Used
    products: int
    memory_of_a_shard: int

    @property
    def seconds(self) -> float:
        """A thousand products, an epoch."""
        return 1000 * self.used.seconds / self.products

    @property
    def output(self) -> float:
        """Bytes a thousand products."""
        return 1000 * self.used.output / self.products

    def hours(self, products: int) -> float:
        """Of one pod, all epochs."""
        whole = self.used.seconds * max(1, self.step.epochs) + self.used.once
        return whole * products / self.products / 3600

    def memory(self, products: int) -> float:
        """Of one pod, in bytes: a step over shards, or one that reads from disk as it goes, has always the same."""
        if self.step.shards or self.step.photos:
            return self.used.memory
        growth = max(0, self.used.memory - self.memory_of_a_shard) / (self.products - SHARD)
        return self.used.memory + growth * (products - self.products)


@click.command()
@click.option("--source", default=SAMPLE, help="the catalogue's folder; sample for generated products")
@click.option("--products", default=2 * SHARD, help="how many of them; at least two shards")
@click.option("--photos", default=150, help="how many of them go through VGG16")
def main(source: str, products: int, photos: int) -> None:
    """Print both tables."""
    if products <= SHARD:
        raise click.BadParameter(f"--products={products}: more than a shard's {SHARD}, or growth cannot be seen")
    with tempfile.TemporaryDirectory() as folder:
        if source == SAMPLE:
            source = f"{folder}/sample"
            write_sample(Path(source), products, 0)
        costs = [measure(step, source, Path(folder), products, photos) for step in (*STEPS, FROM_SCRATCH)]
    console = Console()
    console.print(measured(costs, products, photos))
    console.print(needed(costs[:-1]))


def measure(step: Step, source: str, folder: Path, products: int, photos: int) -> Cost:
    """A step on all products; where one pod does it all, also on a shard, to see how its memory grows."""
    grows = not (step.shards or step.photos)
    shard = _alone(step.name, Work(source, folder, SHARD, photos), folder / "shard" / step.name) if grows else None
    used = _alone(step.name, Work(source, folder, products, photos), folder / step.name)
    taken = photos if step.photos else SHARD if step.name == "prepare" else products
    return Cost(step, used, taken, shard.memory if shard else used.memory)


def _alone(name: str, work: Work, out: Path) -> Used:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["benchmarks.cost_steps"])
    with ProcessPoolExecutor(1, context) as process:
        return process.submit(run, name, work, out).result()


def measured(costs: list[Cost], products: int, photos: int) -> Table:
    dtype = "bf16" if half_precision(choose_device()) else "fp32"
    where = f"{os.cpu_count()} cores, {choose_device()}, {dtype}, torch {torch.__version__}"
    title = f"a thousand products, by {products:,} of them ({photos} through VGG16): {where}"
    table = Table("step", "pods", "seconds", "cores busy", "core-seconds", "MB written", "peak MB", title=title)
    for cost in costs:
        table.add_row(
            cost.step.title,
            "a shard each" if cost.step.shards else "one",
            f"{cost.seconds:.2f}",
            f"{cost.used.cores:.1f}",
            f"{cost.seconds * cost.used.cores:.2f}",
            f"{cost.output / 1e6:.1f}" if cost.step.kept else f"{cost.used.output / 1e6:.1f} in all",
            f"{cost.used.memory / 1e6:.0f}",
        )
    return table


def needed(costs: list[Cost]) -> Table:
    """By proportion to what was measured, on this machine's processors; no GPU is assumed."""
    sharded, alone = ([cost for cost in costs if cost.step.shards is kind] for kind in (True, False))
    title = f"what a training and a prediction of all would need, at RAKUTEN_CONCURRENCY={pods.CONCURRENCY}"
    table = Table("", *(f"{size:,}" for size in SIZES), title=title)

    def add(name: str, values: list[str]) -> None:
        table.add_row(name, *values)

    shards = [-(-size // SHARD) for size in SIZES]
    at_once = [min(count, pods.CONCURRENCY) for count in shards]
    add("shards", [f"{count:,}" for count in shards])
    add("pods at once", [str(count) for count in at_once])
    over_shards = [sum(cost.hours(size) for cost in sharded) for size in SIZES]
    add("hours, steps over shards", [f"{hours / n:,.1f}" for hours, n in zip(over_shards, at_once, strict=True)])
    add("pods for them to take a day", [f"{max(1, round(hours / 24 + 0.5)):,}" for hours in over_shards])
    add("hours, steps of one pod", [f"{sum(cost.hours(size) for cost in alone):,.1f}" for size in SIZES])
    longest = [max(alone, key=lambda cost: cost.hours(size)) for size in SIZES]
    add("... the longest", [f"{c.step.title}: {c.hours(n):,.1f}" for c, n in zip(longest, SIZES, strict=True)])
    add("GB a pod, steps over shards", [f"{max(cost.memory(size) for cost in sharded) / GB:.1f}" for size in SIZES])
    largest = [max(alone, key=lambda cost: cost.memory(size)) for size in SIZES]
    add(
        "GB, the largest one pod",
        [f"{c.step.title}: {c.memory(n) / GB:,.1f}" for c, n in zip(largest, SIZES, strict=True)],
    )
    per_thousand = sum(cost.output for cost in costs if cost.step.kept)
    add("GB of storage", [f"{per_thousand * size / 1000 / GB:,.0f}" for size in SIZES])
    return table


if __name__ == "__main__":
    main()
