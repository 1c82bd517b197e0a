"""Cost of a thousand products at each step, extrapolated to catalogues of other sizes.

python -m benchmarks.cost                       (synthetic products; --source FOLDER for a catalogue's first ones)
Each step runs in its own process, as in its pod. Photos have 224 pixels, as with ImageNet's weights, and block 5 of
VGG16 is trained, as in configs/challenge.yaml. With the default configuration it is not: the member vgg16 is omitted,
and so are 201 of the 207 MB of photo features, which only block 5 reads.
"""

from __future__ import annotations

import math
import multiprocessing
import os
import tempfile
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import click
import fsspec
import torch
from rich import box
from rich.console import Console
from rich.table import Table

from benchmarks.cost_steps import BenchContext, ResourceUsage, run
from rakuten_tasks.config import IngestConfig
from rakuten_tasks.console.options import Number
from rakuten_tasks.data.csv_files import read_labels
from rakuten_tasks.data.sample.generate import SAMPLE, write_sample
from rakuten_tasks.data.schema import CatalogueError
from rakuten_tasks.runtime import pods
from rakuten_tasks.training.loop import choose_device, half_precision

SHARD = IngestConfig().rows_per_shard
SIZES = (84_916, 1_000_000, 100_000_000)
GB = 1e9
WIDTH = 110  # characters; narrower than the tables in a log otherwise


@dataclass(frozen=True)
class Step:
    """A step of the pipeline. name: its function in cost_steps.py. epochs: in the training of a large catalogue; or 0.

    shards: whether it is a map task over shards, or one pod. photos: whether it is measured on a part of the products.
    stores_rows: whether its output grows with the rows.
    """

    name: str
    title: str
    shards: bool = False
    epochs: int = 0
    photos: bool = False
    stores_rows: bool = True


SCRATCH = Step("scratch", "all of VGG16, 32 px, an epoch", photos=True, stores_rows=False)
STEPS = (
    Step("ingest", "ingest"),
    Step("split", "assign splits and folds"),
    Step("text", "n-grams and subwords", shards=True),
    Step("vectors", "vectors of the text encoder", shards=True),
    Step("photos", "photos through VGG16", shards=True, photos=True),
    Step("bag", "member bag", stores_rows=False),
    Step("encoder", "member encoder", stores_rows=False),
    Step("bag_encoder", "member bag_encoder", stores_rows=False),
    Step("lstm", "member lstm, an epoch", epochs=8, stores_rows=False),
    Step("photo", "member photo", stores_rows=False),
    Step("vgg16", "member vgg16 (block 5), an epoch", epochs=3, photos=True, stores_rows=False),
    SCRATCH,
    Step("pool", "pool"),
    Step("evaluation", "evaluate"),
    Step("predict", "predict", shards=True, photos=True),
)


@dataclass(frozen=True)
class Cost:
    """Measured cost of a step. growth: of memory, in bytes a product, if one pod reads all products; else 0."""

    step: Step
    used: ResourceUsage
    products: int
    growth: float = 0.0

    @property
    def seconds(self) -> float:
        """Seconds for a thousand products, in one epoch."""
        return 1000 * self.used.seconds / self.products

    @property
    def output(self) -> float:
        """Bytes for a thousand products."""
        return 1000 * self.used.output / self.products

    def hours(self, products: int) -> float:
        """Return the hours of one pod, all epochs included."""
        seconds = self.used.seconds * max(1, self.step.epochs) + self.used.once
        return seconds * products / self.products / 3600

    def memory(self, products: int) -> float:
        """Return the peak memory of one pod, in bytes."""
        return self.used.memory + self.growth * (products - self.products)


@click.command()
@click.option(
    "--source", default=SAMPLE, help="a local folder with the challenge's file names; sample: synthetic products"
)
@click.option(
    "--products",
    type=Number("PRODUCTS", 2 * SHARD, whole=True),
    default=3 * SHARD,
    help="number of products; two shards or more",
)
@click.option("--photos", type=Number("--photos", 1, whole=True), default=100, help="number of products for VGG16")
def main(source: str, products: int, photos: int) -> None:
    """Print both tables."""
    os.environ["TQDM_DISABLE"] = "1"
    with tempfile.TemporaryDirectory() as folder:
        if source == SAMPLE:
            source = f"{folder}/sample"
            try:
                write_sample(Path(source), products, 0)
            except ValueError as error:  # too few
                raise click.ClickException(str(error)) from error
        try:
            count = len(read_labels(fsspec.filesystem("file"), f"{source}/Y_train_CVw08PX.csv").codes)
            if (products := min(products, count)) < 2 * SHARD:
                raise click.ClickException(f"{products} products of {source}: growth can be measured from {2 * SHARD}")
            costs = [measure(step, BenchContext(source, Path(folder), products, photos)) for step in STEPS]
        except (CatalogueError, FileNotFoundError) as error:
            raise click.ClickException(f"{source}: {error}") from error
    console = Console(width=WIDTH)
    console.print(cost_table(costs, products, photos))
    console.print(extrapolation_table([cost for cost in costs if cost.step is not SCRATCH]))


def measure(step: Step, work: BenchContext) -> Cost:
    """Run the step in a new process; if one pod reads all products, also on one shard, to measure growth of memory."""
    shard, shard_folder = replace(work, products=SHARD), work.folder / "one-shard"
    used = _run_in_new_process(step, work)
    if step.photos:  # features are read from disk by batch
        return Cost(step, used, work.photos)
    if step.shards:
        return Cost(step, used, work.products)
    return Cost(step, used, work.products, _growth(_run_in_new_process(step, shard, shard_folder), used, work.products))


def _growth(shard: ResourceUsage, total: ResourceUsage, products: int) -> float:
    return max(0, total.memory - shard.memory) / (products - SHARD)


def _run_in_new_process(step: Step, work: BenchContext, out: Path | None = None) -> ResourceUsage:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["benchmarks.cost_steps"])
    with ProcessPoolExecutor(1, context) as process:
        return process.submit(run, step.name, work, (out or work.folder) / step.name).result()


def cost_table(costs: list[Cost], products: int, photos: int) -> Table:
    """Return a table with one row a step."""
    dtype = "bf16" if half_precision(choose_device()) else "fp32"
    title = (
        f"by {products:,} products ({photos} through VGG16 of 224 px)\n"
        f"{os.cpu_count()} cores, {choose_device()}, {dtype}, torch {torch.__version__}"
    )
    table = Table(title=title, box=box.SIMPLE_HEAD)
    for name in ("a thousand products", "seconds", "core-seconds", "MB written", "peak MB"):
        table.add_column(name, justify="left" if name.startswith("a") else "right", no_wrap=True)
    for cost in costs:
        table.add_row(
            cost.step.title + (" *" if cost.step.shards else ""),
            f"{cost.seconds:.2f}",
            f"{cost.seconds * cost.used.cores:.2f}",
            f"{cost.output / 1e6:.1f}" if cost.step.stores_rows else "",
            f"{cost.used.memory / 1e6:.0f}",
        )
    table.caption = "* a map task over shards; the others are one pod"
    return table


def extrapolation_table(costs: list[Cost]) -> Table:
    """Extrapolate the measured costs in proportion to the products, for this machine's processors and no GPU."""
    table = Table(title="extrapolated cost of a training and a prediction of all products", box=box.SIMPLE_HEAD)
    table.add_column("products", no_wrap=True)
    for size in SIZES:
        table.add_column(f"{size:,}", justify="right", no_wrap=True)

    def add(name: str, cell: Callable[[int], str]) -> None:
        table.add_row(name, *map(cell, SIZES))

    def shards(size: int) -> int:
        return -(-size // SHARD)

    def hours(size: int) -> float:
        return sum(cost.hours(size) for cost in costs if cost.step.shards)

    def gigabytes(size: int) -> float:
        return max(cost.memory(size) for cost in costs if cost.step.shards) / GB

    def concurrent(size: int) -> int:
        return min(shards(size), pods.CONCURRENCY)

    add("shards", lambda size: f"{shards(size):,}")
    add(f"pods at once (RAKUTEN_CONCURRENCY={pods.CONCURRENCY})", lambda size: str(concurrent(size)))
    add("... their steps in all", lambda size: f"{hours(size) / concurrent(size):,.1f} h, {gigabytes(size):.1f} GB")
    add("... pods to end in a day", lambda size: f"{math.ceil(hours(size) / 24):,}")
    for cost in costs:
        if not cost.step.shards:
            times = f", {cost.step.epochs} epochs" if cost.step.epochs else ""
            title = cost.step.title.removesuffix(", an epoch") + times
            add(title, lambda size, c=cost: f"{c.hours(size):,.1f} h, {c.memory(size) / GB:,.1f} GB")  # type: ignore[misc]
    written = sum(cost.output for cost in costs if cost.step.stores_rows) / 1000
    add("storage", lambda size: f"{written * size / GB:,.0f} GB")
    return table


if __name__ == "__main__":
    main()
