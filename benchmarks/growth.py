"""How the time and memory of `train_classifier` grow with the catalogue, and what Flyte, MLflow and copying cost.

python -m benchmarks.growth
Each size is a process of its own, so that its peak memory is its own. The parts are the times that the stages
themselves spend in this project's functions; the rest of the whole is orchestration.
"""

from __future__ import annotations

import importlib
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from unittest import mock

import click
from rich.console import Console
from rich.table import Table

LIMIT = 0.15
# stage module -> what it calls to do its work
PARTS = {
    "ingest": ("catalogue", "ingest"),
    "text": ("Vocabulary", "fit encode"),
    "lstm": ("", "train_text_branch"),
    "photos": ("photo", "prepare_photos"),
    "vgg16": ("", "train_photo_branch"),
    "fusion": ("", "score_sides fit_fusion reference_rows"),
    "evaluation": ("", "score_sides fit_baseline evaluate"),
    "registration": ("", "_require_same_answers"),
}


@contextmanager
def timed(spent: dict[str, float]) -> Iterator[None]:
    """Adds up what the stages spend in the functions that do their work."""
    with ExitStack() as stack:
        for stage, (owner, names) in PARTS.items():
            module = importlib.import_module(f"rakuten_tasks.{stage}")
            holder = getattr(module, owner) if owner else module
            for name in names.split():
                stack.enter_context(mock.patch.object(holder, name, _counting(holder, name, stage, spent)))
        yield


def _counting(holder: object, name: str, stage: str, spent: dict[str, float]) -> object:
    work = getattr(holder, name)

    def counted(*args: object, **kwargs: object) -> object:
        started = time.perf_counter()
        try:
            return work(*args, **kwargs)
        finally:
            spent[stage] += time.perf_counter() - started

    return counted


def measure(products: int, folder: Path) -> dict:
    """Train on so many made-up products. Seconds of the whole and of each stage's own work; peak memory in MB."""
    from rakuten_tasks.catalogue.sample import write_sample
    from rakuten_tasks.config import PhotoConfig, TextConfig, TrainingConfig
    from workflows.training import train_classifier

    write_sample(folder / "catalogue", products, unlabelled=1)
    # the same epochs at every size, or their number would be measured
    config = TrainingConfig(text=TextConfig(epochs=8), photo=PhotoConfig(epochs=2))
    spent: dict[str, float] = defaultdict(float)
    with timed(spent):
        started = time.perf_counter()
        train_classifier(source=str(folder / "catalogue"), config=config, model=f"growth-{products}")
        whole = time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"products": products, "whole": whole, "parts": dict(spent), "peak": peak}


@click.command()
@click.option("--sizes", default="600,1200,2400,4800", help="products, separated by commas")
@click.option("--one", type=int, hidden=True, help="measure this size in this process")
def main(sizes: str, one: int | None) -> None:
    """Print a row for each size."""
    if one is not None:
        with tempfile.TemporaryDirectory() as folder:
            click.echo(json.dumps(measure(one, Path(folder))))
        return
    table = Table("products", "whole s", "stages' own work s", "orchestration", "peak MB", *PARTS)
    if not all(size.strip().isdigit() for size in sizes.split(",")):
        raise click.BadParameter(f"{sizes}: numbers of products, separated by commas", param_hint="--sizes")
    for size in sizes.split(","):
        found = _in_its_own_process(int(size))
        own = sum(found["parts"].values())
        parts = [f"{found['parts'].get(stage, 0):.1f}" for stage in PARTS]
        share = (found["whole"] - own) / found["whole"]
        table.add_row(size, f"{found['whole']:.1f}", f"{own:.1f}", f"{share:.0%}", f"{found['peak']:.0f}", *parts)
    Console(width=170).print(table)
    click.echo(f"orchestration: wanted under {LIMIT:.0%} at 5,000 products")


def _in_its_own_process(size: int) -> dict:
    command = [sys.executable, "-m", "benchmarks.growth", "--one", str(size)]
    with tempfile.TemporaryDirectory() as var:
        environment = {**os.environ, "RAKUTEN_VAR": var, "TMPDIR": var}
        done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise click.ClickException(f"{size} products: the training failed, as said above")
    return json.loads(done.stdout.strip().splitlines()[-1])


if __name__ == "__main__":
    main()
