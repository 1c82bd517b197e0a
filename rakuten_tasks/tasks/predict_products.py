"""Stage 10: predict the unlabelled products with the champion."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import pandas as pd
from flytekit.types.directory import FlyteDirectory
from flytekit.types.file import FlyteFile
from rich.console import Console

from rakuten_tasks.data.answers import match_labels
from rakuten_tasks.data.layout import is_synthetic, test_labels
from rakuten_tasks.data.sample.generate import SAMPLE, sample_answers
from rakuten_tasks.data.schema import CatalogueError
from rakuten_tasks.data.shards import read_products
from rakuten_tasks.evaluation.metrics import POOL
from rakuten_tasks.models.bundle import read_manifest
from rakuten_tasks.registry import tracking, versions
from rakuten_tasks.reports.console_tables import score_against_labels
from rakuten_tasks.runtime import pods
from rakuten_tasks.runtime.files import local, workspace
from rakuten_tasks.runtime.pod_env import require_remote
from rakuten_tasks.runtime.stage import stage
from rakuten_tasks.storage.addresses import write_file
from rakuten_tasks.tasks.types import Shard

if TYPE_CHECKING:
    from rakuten_tasks.models.predictor import Scores

TOP = 3


@dataclass(frozen=True)
class Champion:
    """The champion's bundle. notice: empty, or the reason why another model than usual was chosen."""

    folder: FlyteDirectory
    model: str
    version: int
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
    champion = versions.fetch_champion(tracking.connect(), model, synthetic)
    if champion.notice:
        Console(stderr=True, markup=False, emoji=False).print(champion.notice, style="yellow")
    return Champion(FlyteDirectory(str(champion.folder)), champion.model, champion.version, champion.notice)


@stage(pods.GPU)
def predict_shard(shard: Shard, champion: Champion) -> FlyteFile:
    """Predict one shard. -> Parquet, see `_details`"""
    # not at the top: they import torch and transformers, which the other tasks here do not need
    from rakuten_tasks.models.predictor import Predictor
    from rakuten_tasks.models.scoring import products_of

    rows = read_products(shard.fetch())
    scores = Predictor.load(local(champion.folder)).score(products_of(rows))
    path = workspace() / "predictions.parquet"
    _details(rows, scores).to_parquet(path, index=False)
    return FlyteFile(str(path))


def _details(rows: pd.DataFrame, scores: Scores) -> pd.DataFrame:
    details = pd.DataFrame(
        {
            "row": rows["row"].to_numpy(),
            "productid": rows["productid"].array,
            "prdtypecode": scores.predicted,
            "confidence": scores.confidence,
            # "none": without text and photo the class prior is predicted
            "used": ["+".join(scores.modalities(row)) or "none" for row in range(len(rows))],
            "issue": rows["issue"].to_numpy(),
            "photo_status": rows["photo_status"].to_numpy(),
        }
    )
    for name, of_member in scores.by_member.items():
        details[f"{name}_code"] = pd.array(scores.codes[of_member.argmax(1)], "Int64")
        details.loc[~scores.available[name], f"{name}_code"] = pd.NA
    codes, probabilities = scores.top(TOP)
    for k in range(codes.shape[1]):
        details[f"code_{k + 1}"], details[f"probability_{k + 1}"] = codes[:, k], probabilities[:, k]
    return details


@stage(pods.CPU)
def write_submission(parts: list[FlyteFile], champion: Champion, source: str, output: str) -> Predictions:
    """Write one row for each product, in the file's order. output: folder for copies; empty for none."""
    require_remote("output", output)
    work = workspace()
    details = pd.concat([pd.read_parquet(local(part)) for part in parts], ignore_index=True)
    details.to_parquet(work / "details.parquet", index=False)
    details.set_index("row")["prdtypecode"].rename_axis(None).to_csv(work / "submission.csv")
    console = Console(markup=False, emoji=False)
    console.print(f"{len(details)} products predicted by {champion.model} version {champion.version}")
    console.print(details["used"].value_counts().to_string())
    console.print(details["photo_status"].value_counts().to_string())
    for name in ("submission.csv", "details.parquet") if output else ():
        write_file(f"{output.rstrip('/')}/{name}", (work / name).read_bytes())
        console.print(f"written to {output.rstrip('/')}/{name}")
    _print_scores(details, source, champion, console)
    return Predictions(FlyteFile(str(work / "submission.csv")), FlyteFile(str(work / "details.parquet")))


def _print_scores(details: pd.DataFrame, source: str, champion: Champion, console: Console) -> None:
    """Score the predictions on the catalogue's own labels, as far as they match; labels never stop a prediction."""
    try:
        labels = sample_answers() if source == SAMPLE else test_labels(source)
    except (CatalogueError, OSError) as error:
        console.print(f"not scored: {error}", markup=False, soft_wrap=True)
        return
    if labels is None:
        return
    by_row = details.set_index("row")
    matched = match_labels(labels, by_row.index, read_manifest(local(champion.folder)).codes)
    if matched.mismatch:
        counts = f"scored on {len(matched.codes)} of {len(details)} products"
        console.print(f"{counts}, the catalogue's own labels do not match: {matched.mismatch}", soft_wrap=True)
    if len(matched.codes):
        members = [name for name in by_row.columns if name.endswith("_code")]
        predicted = {name.removesuffix("_code"): by_row[name] for name in members} | {POOL: by_row["prdtypecode"]}
        console.print(score_against_labels(predicted, matched.codes))
