"""Stage 10: predict the unlabelled products with the champion."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from flytekit.types.directory import FlyteDirectory
from flytekit.types.file import FlyteFile
from numpy.typing import NDArray
from rich.console import Console

from rakuten_tasks.data.answers import match_labels
from rakuten_tasks.data.layout import is_synthetic, test_labels
from rakuten_tasks.data.sample.generate import SAMPLE, sample_answers
from rakuten_tasks.data.sampling import SALT
from rakuten_tasks.data.schema import CatalogueError
from rakuten_tasks.data.title_sketch import uniform
from rakuten_tasks.evaluation.metrics import POOL
from rakuten_tasks.models.bundle import PREDICTOR_PARTS, read_manifest
from rakuten_tasks.registry import tracking, versions
from rakuten_tasks.reports.console_tables import score_against_labels
from rakuten_tasks.runtime import pods
from rakuten_tasks.runtime.files import fetch_all, local, workspace
from rakuten_tasks.runtime.pod_env import require_remote
from rakuten_tasks.runtime.stage import stage
from rakuten_tasks.storage.addresses import upload_file
from rakuten_tasks.storage.parquet_files import ROWS, iter_batches, write_row_groups
from rakuten_tasks.tasks.types import Shard

if TYPE_CHECKING:
    from rakuten_tasks.models.predictor import Scores

TOP = 3
COUNTED = ("used", "photo_status")  # columns of the details whose values are counted
ROWS_PER_GROUP = 50_000  # of details.parquet: a writer holds metadata of each row group, some kilobytes, until the end
MAX_SCORED = 200_000  # products that are scored on the catalogue's own labels: weighted F1 is then known to 0.001


@dataclass(frozen=True)
class Champion:
    """What a prediction needs of the champion's bundle.

    codes: of its classes. notice: empty, or the reason why another model than usual was chosen.
    """

    folder: FlyteDirectory
    model: str
    version: int
    codes: list[int]
    notice: str


@dataclass(frozen=True)
class Predictions:
    """submission: the challenge's CSV. details: Parquet with confidence, the top three and the modalities used."""

    submission: FlyteFile
    details: FlyteFile


@stage(pods.SMALL)
def fetch_champion(source: str, model: str) -> Champion:
    """Fetch the champion of the model, or, if `model` is empty, of the one that fits the catalogue."""
    synthetic = source == SAMPLE or is_synthetic(source)
    # once, here: the pods of the shards read the copy from Flyte's store, as MLflow's may be open to its server alone
    champion = versions.fetch_champion(tracking.connect(), model, synthetic, workspace(), PREDICTOR_PARTS)
    if champion.notice:
        Console(stderr=True, markup=False, emoji=False).print(champion.notice, style="yellow")
    codes = read_manifest(champion.folder).codes
    return Champion(FlyteDirectory(str(champion.folder)), champion.model, champion.version, codes, champion.notice)


@stage(pods.GPU)
def predict_shard(shard: Shard, champion: Champion) -> FlyteFile:
    """Predict one shard. -> Parquet, see `_details`"""
    # not at the top: they import torch and transformers, which the other tasks here do not need
    from rakuten_tasks.models.predictor import Predictor
    from rakuten_tasks.models.scoring import score_shard

    predictor = Predictor.load(local(champion.folder))
    tables = (_details(rows, scores) for rows, scores in score_shard(predictor, shard.fetch()))
    path, first = workspace() / "predictions.parquet", next(tables)
    write_row_groups(path, first.schema, chain([first], tables))
    return FlyteFile(str(path))


def _details(rows: pd.DataFrame, scores: Scores) -> pa.Table:
    details = pd.DataFrame(
        {
            "row": rows["row"].to_numpy(),
            "productid": rows["productid"].array,
            "prdtypecode": scores.predicted,
            "confidence": scores.confidence,
            # "none": without text and photo the class prior is predicted
            "used": ["+".join(scores.modalities(row)) or "none" for row in range(len(rows))],
            # as str, which is the same type in each batch, also where all are null
            "issue": rows["issue"].astype("str").array,
            "photo_status": rows["photo_status"].astype("str").array,
        }
    )
    for name, of_member in scores.by_member.items():
        details[f"{name}_code"] = pd.array(scores.codes[of_member.argmax(1)], "Int64")
        details.loc[~scores.available[name], f"{name}_code"] = pd.NA
    codes, probabilities = scores.top(TOP)
    for k in range(codes.shape[1]):
        details[f"code_{k + 1}"], details[f"probability_{k + 1}"] = codes[:, k], probabilities[:, k]
    return pa.Table.from_pandas(details, preserve_index=False)


@stage(pods.CPU)
def write_submission(parts: list[FlyteFile], champion: Champion, source: str, output: str) -> Predictions:
    """Write one row for each product, in the file's order. output: folder for copies; empty for none."""
    require_remote("output", output)
    work = workspace()
    counts = _join(fetch_all(parts), work)
    products = counts[COUNTED[0]].total()
    console = Console(markup=False, emoji=False)
    console.print(f"{products} products predicted by {champion.model} version {champion.version}")
    for column, count in counts.items():
        console.print(pd.Series(dict(count.most_common()), name="count").rename_axis(column).to_string())
    for name in ("submission.csv", "details.parquet") if output else ():
        upload_file(work / name, f"{output.rstrip('/')}/{name}")
        console.print(f"written to {output.rstrip('/')}/{name}")
    _print_scores(work / "details.parquet", products, source, champion.codes, console)
    return Predictions(FlyteFile(str(work / "submission.csv")), FlyteFile(str(work / "details.parquet")))


def _join(files: Sequence[Path], work: Path) -> Mapping[str, Counter[str]]:
    """Write details.parquet and submission.csv, in the order of the files. -> how often each value of COUNTED occurs"""
    counts: dict[str, Counter[str]] = {column: Counter() for column in COUNTED}
    with (work / "submission.csv").open("w", newline="") as submission:

        def tables() -> Iterator[pa.Table]:
            for number, table in enumerate(chain.from_iterable(map(_iter_tables, files))):
                codes = pd.Series(table["prdtypecode"].to_numpy(), table["row"].to_numpy(), name="prdtypecode")
                codes.to_csv(submission, header=number == 0, lineterminator="\n")
                for column, count in counts.items():
                    count.update(table[column].to_pylist())
                yield table

        write_row_groups(work / "details.parquet", pq.read_schema(files[0]), tables(), ROWS_PER_GROUP)
    return counts


def _iter_tables(path: Path, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
    yield from (pa.Table.from_batches([batch]) for batch in iter_batches(path, ROWS, columns))


def _print_scores(path: Path, products: int, source: str, classes: Sequence[int], console: Console) -> None:
    """Score the predictions on the catalogue's own labels, as far as they match; labels never stop a prediction.

    path: details.parquet. Of more than MAX_SCORED products a sample of about that many is scored.
    """
    select = partial(is_sampled, products=products)
    try:
        labels = sample_answers() if source == SAMPLE else test_labels(source, select)
    except (CatalogueError, OSError) as error:
        console.print(f"not scored: {error}", markup=False, soft_wrap=True)
        return
    if labels is None:
        return
    labels = labels[select(labels.index.to_numpy())]
    members = [name for name in pq.read_schema(path).names if name.endswith("_code")]
    tables = (table.to_pandas() for table in _iter_tables(path, ["row", "prdtypecode", *members]))
    details = pd.concat(rows[select(rows["row"].to_numpy(np.int64))] for rows in tables)
    by_row = details.set_index("row")
    matched = match_labels(labels, by_row.index, classes)
    counts = f"scored on {len(matched.codes)} of {products} products"
    if matched.mismatch:
        console.print(f"{counts}, the catalogue's own labels do not match: {matched.mismatch}", soft_wrap=True)
    elif products > MAX_SCORED:
        console.print(f"{counts}, a sample", soft_wrap=True)
    if len(matched.codes):
        predicted = {name.removesuffix("_code"): by_row[name] for name in members} | {POOL: by_row["prdtypecode"]}
        console.print(score_against_labels(predicted, matched.codes))


def is_sampled(rows: NDArray, products: int) -> NDArray:
    """Select about MAX_SCORED of so many products by row number, or all of fewer. (N,) -> (N,) bool"""
    if products <= MAX_SCORED:
        return np.ones(len(rows), bool)
    return uniform(rows.astype(np.uint64), SALT) < MAX_SCORED / products
