"""How often monitoring/drift_tests.py reports drift: on unchanged windows, and on windows with simulated drift.

python -m benchmarks.drift
"""

from __future__ import annotations

import time

import click
from rich.console import Console
from rich.table import Table

from benchmarks.drift_pool import DARKER, MORE_OF_A_CLASS, NEW_WORDS, WITHOUT_PHOTOS, drift_rate, make_pool
from rakuten_tasks.console.options import Number
from rakuten_tasks.models.predictor import Predictor
from rakuten_tasks.registry import tracking, versions

# kind, rows in the window, repetitions, limit: a maximum for unchanged windows, a minimum for drifted ones
CASES = [
    *((None, size, 200, 0.08) for size in (300, 500, 1000)),
    (DARKER, 500, 100, 0.95),
    (WITHOUT_PHOTOS, 500, 100, 0.95),
    (NEW_WORDS, 500, 100, 0.95),
    (MORE_OF_A_CLASS, 500, 100, 0.90),
]
SEED = 20_261  # different from the training catalogues' seeds


@click.command()
@click.option("--products", type=Number("--products", 1, whole=True), default=5000, help="in the pool")
@click.option(
    "--reference",
    type=Number("--reference", 1, whole=True),
    default=3500,
    help="rows of the reference; a sixth of the challenge is 13,600",
)
@click.option("--model", default="", help="registered model; empty for the sample's")
def main(products: int, reference: int, model: str) -> None:
    """Print the table. Exits with 1 if a limit is violated."""
    champion = versions.fetch_champion(tracking.connect(), model, synthetic=True)
    started = time.perf_counter()
    pool = make_pool(Predictor.load(champion.folder), products, SEED)
    title = f"features of {champion.model} version {champion.version}"
    table = Table("window", "rows", "windows", "drift reported", "limit", title=title)
    missed = []
    for kind, size, times, limit in CASES:
        rate = drift_rate(pool, kind, size, reference, times)
        passed = rate >= limit if kind else rate <= limit
        bound = f"{'at least' if kind else 'at most'} {limit:.0%}"
        table.add_row(kind or "unchanged", str(size), str(times), f"{rate:.1%}", bound)
        missed += [] if passed else [f"{kind or 'unchanged'}, {size} rows: {rate:.1%}"]
    Console().print(table, f"{products} products, reference of {reference}; {time.perf_counter() - started:.0f} s")
    if missed:
        raise click.ClickException("; ".join(missed))


if __name__ == "__main__":
    main()
