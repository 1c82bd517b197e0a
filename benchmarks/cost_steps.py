"""What the tasks of a training and a prediction call, without Flyte, as benchmarks/cost.py measures it."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from rakuten_tasks.catalogue import ingest as catalogue
from rakuten_tasks.catalogue.ingest import read_shard
from rakuten_tasks.catalogue.ledger import TEST, TRAIN, VALIDATION_A, VALIDATION_B, Ledger
from rakuten_tasks.classifier.arrays import ShardArrays, class_index, write_shard
from rakuten_tasks.classifier.baseline import fit_baseline
from rakuten_tasks.classifier.branches import branch_logits, load_branches
from rakuten_tasks.classifier.evaluation import evaluate
from rakuten_tasks.classifier.fusion import Fusion, fit_fusion
from rakuten_tasks.classifier.lstm import train_text_branch
from rakuten_tasks.classifier.ngrams import Vocabulary
from rakuten_tasks.classifier.photo_training import train_photo_branch, write_features
from rakuten_tasks.classifier.photos import prepare_photos
from rakuten_tasks.classifier.predictor import fuse_logits
from rakuten_tasks.classifier.scoring import products_of, score_sides
from rakuten_tasks.classifier.training import Epoch, choose_device
from rakuten_tasks.classifier.vgg16_weights import empty_convolutions
from rakuten_tasks.config import IngestConfig, PhotoConfig, SplitConfig, TextConfig, Weights


@dataclass(frozen=True)
class Work:
    """folder: of all that the steps write. products: how many of the catalogue a step takes, from the first on.

    photos: how many of them go through VGG16, which takes half a minute for a few hundred. network: the photo branch
    that scores, of the step of that name.
    """

    source: str
    folder: Path
    products: int
    photos: int
    network: str = "block5"

    @cached_property
    def shards(self) -> list[Path]:
        """What `products` fill of the shards that ingest wrote for all."""
        count = -(-self.products // IngestConfig().rows_per_shard)
        return sorted((self.folder / "ingest").glob("labelled-*.parquet"))[:count]

    @cached_property
    def rows(self) -> pd.DataFrame:
        """Without photos."""
        columns = ["row", "designation", "description", "prdtypecode"]
        return pd.concat([read_shard(shard, columns) for shard in self.shards], ignore_index=True)

    @cached_property
    def ledger(self) -> Ledger:
        return Ledger.load(self.folder / "split" / "ledger.parquet")

    @cached_property
    def codes(self) -> list[int]:
        return sorted(self.rows["prdtypecode"].unique().tolist())

    @cached_property
    def vocabulary(self) -> Vocabulary:
        return Vocabulary.load(self.folder / "vocabulary")

    @property
    def photo(self) -> PhotoConfig:
        """configs/imagenet.yaml, with weights that need no download and take as long."""
        return PhotoConfig(Weights.FILE, str(self.folder / "vgg16.pth"), epochs=1, fine_tune_epochs=2)

    def keys(self, rows: pd.DataFrame) -> dict[str, np.ndarray]:
        """row, label and side of a shard of arrays."""
        label = class_index(rows["prdtypecode"], self.codes)
        return {"row": rows["row"].to_numpy(np.int64), "label": label, "side": self.ledger.sides(rows["designation"])}


def ingest(work: Work, out: Path) -> None:
    first = out.with_name(f"first{work.products}")
    first.mkdir()
    for name in ("X_train_update.csv", "Y_train_CVw08PX.csv"):
        table = pd.read_csv(f"{work.source}/{name}", index_col=0, keep_default_na=False, dtype=str)
        table.head(work.products).to_csv(first / name)
    (first / "images").symlink_to(Path(work.source, "images").resolve())
    catalogue.ingest(str(first), out, IngestConfig(), unlabelled=False)


def split(work: Work, out: Path) -> None:
    titles, codes = work.rows["designation"].tolist(), work.rows["prdtypecode"].tolist()
    Ledger.empty().extended(titles, codes, SplitConfig()).save(out / "ledger.parquet")


def vocabulary(work: Work, out: Path) -> None:
    def training_rows() -> Iterator[tuple[str, str]]:
        rows = work.rows[work.ledger.sides(work.rows["designation"]) == TRAIN]
        yield from zip(rows["designation"], rows["description"], strict=True)

    Vocabulary.fit(training_rows, TextConfig()).save(out)


def encode(work: Work, out: Path) -> None:
    for number, shard in enumerate(work.shards):
        rows = read_shard(shard, ["row", "designation", "description", "prdtypecode"])
        encoded = work.vocabulary.encode(rows["designation"].tolist(), rows["description"].tolist())
        write_shard(out / f"{number}.safetensors", work.keys(rows) | encoded)


def text(work: Work, out: Path, mark: Callable[[Epoch], None]) -> None:
    shards = sorted((work.folder / "encode").iterdir())[: len(work.shards)]
    config = TextConfig(epochs=2)
    branch, _ = train_text_branch(shards, work.vocabulary, work.codes, config, 0, choose_device(), mark)
    work.vocabulary.save(out)
    branch.save(out)


def prepare(work: Work, out: Path) -> None:
    rows = read_shard(work.shards[0])
    rows = rows[rows["photo"].notna()]
    write_shard(out / "pixels", work.keys(rows) | {"pixels": prepare_photos(rows["photo"].tolist(), 224)})


def _some(work: Work, pixels: int) -> Path:
    """A shard of the first `photos` prepared photos, at 224 pixels or at a seventh of that."""
    arrays = ShardArrays([work.folder / "prepare" / "pixels"])
    some = {name: arrays.column(name)[: work.photos] for name in ("row", "label", "side", "pixels")}
    some["pixels"] = some["pixels"][:, :: 224 // pixels, :: 224 // pixels]
    path = work.folder / f"some{pixels}"
    write_shard(path, some)
    return path


def features(work: Work, out: Path) -> None:
    torch.save(empty_convolutions(batch_norm=False).state_dict(), work.folder / "vgg16.pth")
    write_features(_some(work, 224), out / "features", work.photo)


def block5(work: Work, out: Path, mark: Callable[[Epoch], None]) -> None:
    shards = [work.folder / "features" / "features"]
    branch, _ = train_photo_branch(shards, work.codes, work.photo, 0, choose_device(), mark)
    branch.save(out)


def scratch(work: Work, out: Path, mark: Callable[[Epoch], None]) -> None:
    config = PhotoConfig(epochs=2)
    branch, _ = train_photo_branch([_some(work, 32)], work.codes, config, 0, choose_device(), mark)
    branch.save(out)


def _branches(work: Work) -> list:
    return load_branches({"text": work.folder / "text", "photo": work.folder / work.network}, choose_device())


def fuse(work: Work, out: Path) -> None:
    held_out = score_sides(work.shards, work.ledger, (VALIDATION_A, VALIDATION_B), _branches(work), work.codes)
    a, b = held_out.on(VALIDATION_A), held_out.on(VALIDATION_B)
    fusion, _ = fit_fusion(a.logits, a.labels, b.logits, b.labels)
    (out / "fusion.json").write_text(str(fusion.to_json()))
    held_out.rows.to_parquet(out / "rows.parquet")


def evaluation(work: Work, out: Path) -> None:
    test = score_sides(work.shards, work.ledger, (TEST,), _branches(work), work.codes)
    train = work.rows[work.ledger.sides(work.rows["designation"]) == TRAIN]
    columns = train["designation"].tolist(), train["description"].tolist()
    baseline = fit_baseline(*columns, class_index(train["prdtypecode"], work.codes), len(work.codes), 0)
    scores = fuse_logits(test.logits, _fusion(work), work.codes)
    asked = test.rows["designation"].tolist(), test.rows["description"].tolist()
    systems = {**scores.by_branch, "fused": scores.probabilities, "baseline": baseline.probabilities(*asked)}
    evaluate(systems, test.labels, work.codes, 0)
    test.rows.to_parquet(out / "rows.parquet")


def predict(work: Work, out: Path) -> None:
    rows = read_shard(work.shards[0])[: work.photos]
    scores = fuse_logits(branch_logits(_branches(work), products_of(rows), len(work.codes)), _fusion(work), work.codes)
    rows.drop(columns=["photo"]).assign(predicted=scores.predicted, confidence=scores.confidence).to_parquet(
        out / "rows.parquet"
    )


def _fusion(work: Work) -> Fusion:
    return Fusion.from_json((work.folder / "fuse" / "fusion.json").read_text())


@dataclass(frozen=True)
class Used:
    """What one run of a step took. seconds and cores: of one epoch where the step has epochs, else of all of it.

    once: seconds of what such a step does beside its epochs. cores: kept busy on average. output: bytes written.
    memory: the process's peak, in bytes.
    """

    seconds: float
    once: float
    cores: float
    output: int
    memory: int


def run(name: str, work: Work, out: Path) -> Used:
    """In a process of its own, which has imported all and done nothing yet."""
    out.mkdir(parents=True)
    marks = [(time.perf_counter(), time.process_time())]

    def mark(epoch: Epoch | None = None) -> None:
        marks.append((time.perf_counter(), time.process_time()))

    step, epochs = globals()[name], name in ("text", "block5", "scratch")
    step(work, out, mark) if epochs else step(work, out)
    mark()
    measured = marks[-3:-1] if epochs else marks  # the last epoch
    seconds, busy = (end - start for start, end in zip(*measured, strict=True))
    once = marks[-1][0] - marks[0][0] - seconds * (len(marks) - 2) if epochs else 0.0
    written = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return Used(seconds, max(0.0, once), busy / seconds, written, peak)
