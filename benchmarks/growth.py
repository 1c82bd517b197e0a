"""How the time and memory of `train_classifier` grow with the catalogue, and what Flyte, MLflow and copying cost.

python -m benchmarks.growth
Each size is a process of its own, so that its peak memory is its own. The parts are the times that the stages
themselves spend in this project's functions; the rest of the whole is orchestration. The configuration is the sample's,
with the same epochs at every size.
"""

from __future__ import annotations

import inspect
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import click
from rich.console import Console
from rich.table import Table

LIMIT = 0.15
STAGES = ("ingest", "features", "members", "pool", "evaluation", "registration")


def _functions() -> dict[str, list[tuple[Any, str]]]:
    """By stage, what does its work: who has the function, and its name."""
    from rakuten_tasks.evaluation.baseline import MostFrequent, TfidfSVM
    from rakuten_tasks.models.extractors import EXTRACTORS
    from rakuten_tasks.models.members import MEMBERS
    from rakuten_tasks.tasks import (
        evaluate_test_rows,
        fit_pool_weights,
        ingest_catalogue,
        register_version,
        train_members,
    )

    extract = [(kind, "extract") for kind in EXTRACTORS.values()]
    pool = ("fit_pool", "report_pool", "score_features", "reference_rows")
    return {
        "ingest": [(ingest_catalogue.read_catalogue, "ingest")],
        "features": [(train_members, "build_extractor"), *extract],
        "members": [(kind, "fit") for kind in MEMBERS.values()],
        "pool": [(fit_pool_weights, name) for name in pool],
        "evaluation": [
            *((evaluate_test_rows, name) for name in ("score_features", "evaluate")),
            *((kind, "probabilities") for kind in (MostFrequent, TfidfSVM)),
        ],
        "registration": [(register_version, "_require_same_answers")],
    }


class Clock:
    """Adds up by stage what its functions take; what they call of each other is counted once."""

    def __init__(self) -> None:
        self.spent: dict[str, float] = defaultdict(float)
        self._busy = False

    @contextmanager
    def running(self) -> Iterator[None]:
        """In here every function of _functions() is timed."""
        from rakuten_tasks.evaluation.baseline import BASELINES

        with ExitStack() as stack:
            for stage, functions in _functions().items():
                for owner, name in functions:
                    work = getattr(owner, name)
                    bound = inspect.isclass(owner) and inspect.ismethod(work)  # a class method
                    counted = self._counting(work, stage)
                    stack.enter_context(mock.patch.object(owner, name, staticmethod(counted) if bound else counted))
            fits = {name: self._counting(fit, "evaluation") for name, fit in BASELINES.items()}
            stack.enter_context(mock.patch.dict(BASELINES, fits))
            yield

    def _counting(self, work: Callable[..., Any], stage: str) -> Callable[..., Any]:
        def counted(*args: Any, **kwargs: Any) -> Any:
            if self._busy:
                return work(*args, **kwargs)
            self._busy, started = True, time.perf_counter()
            try:
                return work(*args, **kwargs)
            finally:
                self._busy = False
                self.spent[stage] += time.perf_counter() - started

        return counted


def measure(products: int, folder: Path) -> dict:
    """Train on so many made-up products. Seconds of the whole and of each stage's own work; peak memory in MB."""
    from rakuten_tasks.config import LSTMConfig, PhotoConfig, Refit, TrainingConfig, Weights
    from rakuten_tasks.data.sample.generate import write_sample
    from workflows.training import train_classifier

    write_sample(folder / "catalogue", products, unlabelled=1)
    # the same epochs at every size, or their number would be measured
    config = TrainingConfig(
        refit=Refit.NONE, lstm=LSTMConfig(epochs=8), photo=PhotoConfig(weights=Weights.RANDOM, epochs=2)
    )
    clock = Clock()
    with clock.running():
        started = time.perf_counter()
        train_classifier(source=str(folder / "catalogue"), config=config, model=f"growth-{products}")
        whole = time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"products": products, "whole": whole, "parts": dict(clock.spent), "peak": peak}


@click.command()
@click.option("--sizes", default="600,1200,2400,4800", help="products, separated by commas")
@click.option("--one", type=int, hidden=True, help="measure this size in this process")
def main(sizes: str, one: int | None) -> None:
    """Print a row for each size."""
    if one is not None:
        with tempfile.TemporaryDirectory() as folder:
            click.echo(json.dumps(measure(one, Path(folder))))
        return
    table = Table("products", "whole s", "stages' own work s", "orchestration", "peak MB", *STAGES)
    if not all(size.strip().isdigit() for size in sizes.split(",")):
        raise click.BadParameter(f"{sizes}: numbers of products, separated by commas", param_hint="--sizes")
    for size in sizes.split(","):
        found = _in_its_own_process(int(size))
        own = sum(found["parts"].values())
        parts = [f"{found['parts'].get(stage, 0):.1f}" for stage in STAGES]
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
