"""Time and memory of a drift check on a log of 100,000 rows, compared with Evidently's preset, and on 10 million rows.

python -m benchmarks.drift_report
"""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Event, Thread
from types import TracebackType

import click
import numpy as np
import pandas as pd
import psutil

from rakuten_tasks.monitoring.columns import DRIFT_COLUMNS, PREDICTION
from rakuten_tasks.monitoring.comparison import DriftInput, compare_inputs, logged_window
from rakuten_tasks.monitoring.values import CATEGORIES, YES_NO
from rakuten_tasks.monitoring.window import TimeWindow
from rakuten_tasks.registry.versions import ChampionBundle
from rakuten_tasks.reports.drift_report import write_report

ROWS, FILES = 100_000, 100
RATIO, MEMORY = 2.0, 2 * 2**30
END = datetime(2026, 1, 10, tzinfo=UTC)
SPAN = TimeWindow(END - timedelta(days=9), END)
MODEL = ChampionBundle("benchmark", 1, Path())


def make_rows(rows: int, seed: int) -> pd.DataFrame:
    """Return random drift columns, one row a prediction: only the time is measured."""
    random = np.random.default_rng(seed)
    frame = pd.DataFrame({name: random.normal(size=rows) for name in DRIFT_COLUMNS if name not in CATEGORIES})
    for name in ("designation_length", "designation_words", "photo_bytes"):
        frame[name] = (frame[name] * 100).astype("int64")
    for name in YES_NO:
        frame[name] = random.random(rows) < 0.1
    frame["language"] = random.choice(["fr", "en", "de"], rows)
    return frame.assign(predicted=random.integers(1, 28, rows))


class Peak:
    """Peak memory of this process inside the block, in bytes, sampled every 50 ms."""

    bytes = 0

    def __enter__(self) -> Peak:
        self._stop = Event()
        self._thread = Thread(target=self._sample, daemon=True)
        self._thread.start()
        return self

    def _sample(self) -> None:
        process = psutil.Process()
        while not self._stop.wait(0.05):
            self.bytes = max(self.bytes, process.memory_info().rss)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()


def timed(work: Callable[[], object]) -> tuple[float, int]:
    """Run it. -> seconds, peak memory in bytes"""
    started = time.perf_counter()
    with Peak() as peak:
        work()
    return time.perf_counter() - started, peak.bytes


def bare_preset(reference: pd.DataFrame, window: pd.DataFrame, folder: Path) -> None:
    """Run Evidently's preset alone."""
    from evidently import DataDefinition, Dataset, Report
    from evidently.presets import DataDriftPreset

    definition = DataDefinition(
        numerical_columns=[name for name in reference if name not in CATEGORIES], categorical_columns=list(CATEGORIES)
    )
    sets = (Dataset.from_pandas(frame, data_definition=definition) for frame in (window, reference))
    Report([DataDriftPreset()]).run(*sets).save_html(str(folder / "bare.html"))


def ours(reference: pd.DataFrame, log: Path, folder: Path) -> None:
    """Run our comparison and write both files."""
    report, before, after = compare_inputs(DriftInput(reference, "reference"), logged_window(str(log), SPAN, MODEL))
    write_report(report, before.rows, after.rows, str(folder / "report"))


def write_log(folder: Path, window: pd.DataFrame, files: int) -> None:
    """Write the window as an hour of the log, and link it as the following hours."""
    columns = {
        "kind": PREDICTION,
        "request_id": [f"{i:032x}" for i in range(len(window))],
        "model": "benchmark",
        "version": "1",
    }
    first = folder / "first.parquet"
    folder.mkdir()
    window.assign(time=pd.Timestamp(END - timedelta(days=5)), **columns).to_parquet(
        first, index=False, row_group_size=50_000
    )
    for number in range(files):
        hour = SPAN.start + timedelta(hours=number + 1)
        path = folder / f"{hour:%Y-%m-%d}" / f"{hour:%H}.worker.parquet"
        path.parent.mkdir(exist_ok=True)
        os.link(first, path)


@click.command()
@click.option("--files", default=FILES, help="files of 100,000 rows in the large log")
def main(files: int) -> None:
    """Print times, their ratio and memory. Exits with 1 if a limit is exceeded."""
    os.environ["DO_NOT_TRACK"] = "1"
    warnings.simplefilter("ignore")
    import evidently.presets  # noqa: F401  (its import takes 6 s, which is not measured)

    reference, window = make_rows(ROWS, 0), make_rows(ROWS, 1)
    with TemporaryDirectory() as name:
        folder = Path(name)
        write_log(folder / "log", window, 1)
        bare, _ = timed(lambda: bare_preset(reference, window, folder))
        full, peak = timed(lambda: ours(reference, folder / "log", folder))
        write_log(folder / "large", window, files)
        large, large_peak = timed(lambda: ours(reference, folder / "large", folder))
    click.echo(f"Evidently's bare preset, {ROWS:,} rows against {ROWS:,}: {bare:.1f} s")
    click.echo(f"log to report and decision, the same rows: {full:.1f} s, ratio {full / bare:.2f} (limit {RATIO})")
    click.echo(f"a log of {files * ROWS:,} rows: {large:.1f} s")
    click.echo(
        f"peak memory: {peak / 2**30:.2f} GiB, large log {large_peak / 2**30:.2f} GiB (limit {MEMORY / 2**30:.0f})"
    )
    if full > RATIO * bare or max(peak, large_peak) > MEMORY:
        raise click.ClickException("a limit is exceeded")


if __name__ == "__main__":
    main()
