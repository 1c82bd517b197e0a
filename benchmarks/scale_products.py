"""Steps before and after a training, for scale.py: ingest, prediction, publication, drift. See scale_steps.py."""

from __future__ import annotations

import tempfile
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from flytekit.types.file import FlyteFile

from benchmarks.scale_catalogue import CODES, write_csv, write_shards
from benchmarks.scale_steps import Bench
from rakuten_tasks.config import IngestConfig, PublicationConfig
from rakuten_tasks.data.ingested import Counts, IngestResult
from rakuten_tasks.data.schema import QUARANTINE
from rakuten_tasks.data.shards import Shard, iter_text
from rakuten_tasks.data.versions.commit import SourceInfo
from rakuten_tasks.data.versions.commit import publish as publish_version
from rakuten_tasks.models.bundle import REFERENCE
from rakuten_tasks.monitoring.columns import PREDICTION, SCHEMA
from rakuten_tasks.monitoring.comparison import DriftInput, compare_inputs
from rakuten_tasks.monitoring.window import TimeWindow, read_window
from rakuten_tasks.storage.parquet_files import write_row_groups
from rakuten_tasks.tasks.ingest_catalogue import ingest_without_run
from rakuten_tasks.tasks.predict_products import Champion, predict_shard, write_submission
from rakuten_tasks.tasks.start_run import stat_source

ADDED = 1000  # products of the second publication
HOUR = datetime(2026, 1, 1, tzinfo=UTC)


def labelled(bench: Bench) -> object:
    return write_shards(bench.folder / "shards", bench.rows, "labelled")


def unlabelled(bench: Bench) -> object:
    return write_shards(bench.folder / "shards", bench.rows, "unlabelled")


def csv(bench: Bench) -> None:
    write_csv(bench.folder / "csv", bench.rows)


def open_source(bench: Bench) -> object:
    return stat_source(str(bench.folder / "csv"))


def ingest(bench: Bench) -> None:
    source = bench.result("open_source")
    bench.call(ingest_without_run, source=source, config=IngestConfig(), labelled=True)


def _champion(bench: Bench) -> Champion:
    return Champion(bench.result("bundle"), "scale", 1, CODES.tolist(), "")


def predict(bench: Bench) -> object:
    return bench.call(predict_shard, shard=bench.shards("unlabelled")[0], champion=_champion(bench))


def parts(bench: Bench) -> object:
    """Write the predictions of all shards: those of the first one with other row numbers."""
    made: list[Path] = []
    row, table = 0, pq.read_table(bench.result("predict").path)
    for shard in bench.shards("unlabelled"):
        rows = pa.array(range(row, row + shard.rows), table.schema.field("row").type)
        made.append(bench.folder / f"part-{len(made):05d}.parquet")
        pq.write_table(table[: shard.rows].set_column(0, table.schema.field("row"), rows), made[-1])
        row += shard.rows
    return [FlyteFile(str(path)) for path in made]


def submission(bench: Bench) -> None:
    source, files = str(bench.folder / "published"), bench.result("parts")
    values = {"parts": files, "champion": _champion(bench), "source": source, "output": str(bench.folder / "copies")}
    bench.call(write_submission, **values)


def publish(bench: Bench) -> None:
    _publish(bench, bench.result("labelled"), bench.result("unlabelled"))


def publish_more(bench: Bench) -> None:
    added = write_shards(bench.folder / "added", ADDED, "labelled", bench.rows, bench.rows)
    _publish(bench, added, [])


def _publish(bench: Bench, labelled: list[Shard], unlabelled: list[Shard]) -> None:
    work = Path(tempfile.mkdtemp())
    quarantine, classes = work / "quarantine.parquet", Counter[int]()
    pq.write_table(QUARANTINE.empty_table(), quarantine)
    for rows in iter_text([shard.text for shard in labelled], ["prdtypecode"]):
        classes.update(rows["prdtypecode"].value_counts().to_dict())
    counts = {
        part: Counts(rows, rows, 0, {}, {"none": rows}, {})
        for part, shards in {"labelled": labelled, "unlabelled": unlabelled}.items()
        if (rows := sum(shard.rows for shard in shards))
    }
    class_counts = dict(sorted(classes.items()))
    result = IngestResult(labelled, unlabelled, counts, class_counts, {}, True, "", quarantine, work / "summary.json")
    origin = SourceInfo(f"made up, {len(labelled)} shards", None)
    destination = str(bench.folder / "published")
    publish_version(result, origin, destination, PublicationConfig(), add=True, work=work / "staged")


def log(bench: Bench) -> None:
    """Write a prediction log with as many records as the catalogue has rows: the drift reference, again and again."""
    reference = pd.read_parquet(Path(bench.result("bundle").path) / REFERENCE)
    names = [name for name in SCHEMA.names if name in reference.columns]
    rows = reference[names].sample(min(bench.rows, 20_000), replace=True, random_state=0, ignore_index=True)
    rows = rows.assign(time=HOUR, kind=PREDICTION, request_id=[f"{number:032x}" for number in range(len(rows))])
    missing = {name: None for name in SCHEMA.names if name not in rows}
    table = pa.Table.from_pandas(rows.assign(**missing), SCHEMA, preserve_index=False)
    folder = bench.folder / "log" / f"{HOUR:%Y-%m-%d}"
    folder.mkdir(parents=True)
    write_row_groups(folder / "00.scale.parquet", SCHEMA, (table for _ in range(bench.rows // len(table))))


def drift(bench: Bench) -> None:
    reference = pd.read_parquet(Path(bench.result("bundle").path) / REFERENCE)
    window = read_window(str(bench.folder / "log"), TimeWindow(HOUR, HOUR + timedelta(hours=1)))
    compare_inputs(DriftInput(reference, "reference"), DriftInput(window, "made-up log"))
