"""Growth of time and memory of `train_classifier` with the catalogue, and the overhead of Flyte, MLflow and copying.

python -m benchmarks.growth
Each size runs in its own process, so that peak memory is measured separately. The time outside of the functions in
`_functions` counts as orchestration. The configuration is the sample's, with the same epochs at every size.
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
    """Return the functions that are timed, by stage, as (module or class, name)."""
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
        "registration": [(register_version, "_require_same_predictions")],
    }


class StageTimer:
    """Total seconds by stage; nested calls are counted once."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._busy = False

    @contextmanager
    def patch(self) -> Iterator[None]:
        """Time every function of _functions() inside the block."""
        from rakuten_tasks.evaluation.baseline import BASELINES

        with ExitStack() as stack:
            for stage, functions in _functions().items():
                for owner, name in functions:
                    work = getattr(owner, name)
                    bound = inspect.isclass(owner) and inspect.ismethod(work)  # a class method
                    timed = self._time(work, stage)
                    stack.enter_context(mock.patch.object(owner, name, staticmethod(timed) if bound else timed))
            fits = {name: self._time(fit, "evaluation") for name, fit in BASELINES.items()}
            stack.enter_context(mock.patch.dict(BASELINES, fits))
            yield

    def _time(self, work: Callable[..., Any], stage: str) -> Callable[..., Any]:
        def timed(*args: Any, **kwargs: Any) -> Any:
            if self._busy:
                return work(*args, **kwargs)
            self._busy, started = True, time.perf_counter()
            try:
                return work(*args, **kwargs)
            finally:
                self._busy = False
                self.seconds[stage] += time.perf_counter() - started

        return timed


def measure(products: int, folder: Path) -> dict:
    """Train on synthetic products. -> total seconds, seconds by stage, peak memory in MB"""
    from rakuten_tasks.config import LSTMConfig, PhotoConfig, Refit, TrainingConfig, Weights
    from rakuten_tasks.data.sample.generate import write_sample
    from workflows.training import train_classifier

    write_sample(folder / "catalogue", products, unlabelled=1)
    # the same epochs at every size, or their number would be measured
    config = TrainingConfig(
        refit=Refit.NONE, lstm=LSTMConfig(epochs=8), photo=PhotoConfig(weights=Weights.RANDOM, epochs=2)
    )
    timer = StageTimer()
    with timer.patch():
        started = time.perf_counter()
        train_classifier(source=str(folder / "catalogue"), config=config, model=f"growth-{products}")
        total = time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"products": products, "total": total, "parts": dict(timer.seconds), "peak": peak}


@click.command()
@click.option("--sizes", default="600,1200,2400,4800", help="products, separated by commas")
@click.option("--one", type=int, hidden=True, help="measure this size in this process")
def main(sizes: str, one: int | None) -> None:
    """Print a row for each size."""
    if one is not None:
        with tempfile.TemporaryDirectory() as folder:
            click.echo(json.dumps(measure(one, Path(folder))))
        return
    table = Table("products", "total s", "stages s", "orchestration", "peak MB", *STAGES)
    if not all(size.strip().isdigit() for size in sizes.split(",")):
        raise click.BadParameter(f"{sizes}: numbers of products, separated by commas", param_hint="--sizes")
    for size in sizes.split(","):
        result = _measure_in_new_process(int(size))
        own = sum(result["parts"].values())
        parts = [f"{result['parts'].get(stage, 0):.1f}" for stage in STAGES]
        share = (result["total"] - own) / result["total"]
        table.add_row(size, f"{result['total']:.1f}", f"{own:.1f}", f"{share:.0%}", f"{result['peak']:.0f}", *parts)
    Console(width=170).print(table)
    click.echo(f"orchestration: target under {LIMIT:.0%} at 5,000 products")


def _measure_in_new_process(size: int) -> dict:
    command = [sys.executable, "-m", "benchmarks.growth", "--one", str(size)]
    with tempfile.TemporaryDirectory() as var:
        environment = {**os.environ, "RAKUTEN_VAR": var, "TMPDIR": var}
        done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise click.ClickException(f"{size} products: the training failed, see above")
    return json.loads(done.stdout.strip().splitlines()[-1])


if __name__ == "__main__":
    main()
