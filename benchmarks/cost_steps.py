"""Steps of a training and a prediction without Flyte, for benchmarks/cost.py."""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from safetensors.torch import save_file

from rakuten_tasks.config import IngestConfig, LSTMConfig, PhotoConfig, Refit, SplitConfig, TrainingConfig, Weights
from rakuten_tasks.data import read_catalogue
from rakuten_tasks.data.assignments import assign_folds
from rakuten_tasks.data.csv_reader import read_tables
from rakuten_tasks.data.shards import Shard, read_products, read_text
from rakuten_tasks.data.splits import BLENDING, FOLDS, TEST, TRAIN, VALIDATION, TitleSplits, hash_titles
from rakuten_tasks.evaluation.baseline import fit_tfidf_svm
from rakuten_tasks.evaluation.metrics import POOL, TFIDF_SVM, evaluate
from rakuten_tasks.models.backbones import resolve_weights
from rakuten_tasks.models.members import MEMBERS, FitContext, Member, TrainingData
from rakuten_tasks.models.members.plan import build_extractor, extractors_of
from rakuten_tasks.models.networks.vgg16_weights import random_convolutions
from rakuten_tasks.models.pool import Logits, Pool, fit_pool
from rakuten_tasks.models.predictor import Predictor, pool_logits
from rakuten_tasks.models.scoring import products_of, score_features
from rakuten_tasks.preprocessing.feature_shards import ShardArrays, class_index, write_shard
from rakuten_tasks.training.loop import choose_device
from rakuten_tasks.training.state import EpochMetrics

Mark = Callable[[EpochMetrics], None]
TEXT_MEMBERS = ("bag", "lstm", "encoder", "bag_encoder")
PHOTO_MEMBERS = ("photo", "vgg16")


def ignore(epoch: EpochMetrics) -> None:
    """Ignore the epochs of a fit."""


@dataclass(frozen=True)
class BenchContext:
    """Inputs of every step. folder: of their outputs. products: number that a step reads, from the first on.

    photos: number of products for VGG16, which takes half a minute for a few hundred.
    """

    source: str
    folder: Path
    products: int
    photos: int

    @cached_property
    def shards(self) -> list[Shard]:
        """Shards of ingest with the first `products`."""
        count = -(-self.products // IngestConfig().rows_per_shard)
        texts = sorted((self.folder / "ingest").glob("labelled-*.text.parquet"))[:count]
        return [Shard(text, Path(str(text).replace(".text.", ".photos.")), 0, "") for text in texts]

    @cached_property
    def rows(self) -> pd.DataFrame:
        """Products of these shards, without photos."""
        columns = ["row", "designation", "description", "prdtypecode"]
        return pd.concat([read_text(shard.text, columns) for shard in self.shards], ignore_index=True)

    @cached_property
    def assignments(self) -> pd.DataFrame:
        """row, prdtypecode, label, split, fold of the rows of these shards."""
        assignments = pd.read_parquet(self.folder / "split" / "assignments.parquet")
        assignments["label"] = class_index(assignments["prdtypecode"], self.codes)
        return assignments[assignments["row"].isin(self.rows["row"])]

    @cached_property
    def codes(self) -> list[int]:
        return sorted(pd.read_parquet(self.folder / "split" / "assignments.parquet")["prdtypecode"].unique().tolist())

    @cached_property
    def config(self) -> TrainingConfig:
        """The default with random photo weights, which need no download, and with training of VGG16's block 5."""
        path = self.folder / "vgg16.safetensors"
        if not path.exists():
            save_file(random_convolutions(batch_norm=False).state_dict(), path)
        photo = PhotoConfig(weights=Weights.FILE, weights_file=str(path), epochs=1, fine_tune_epochs=2)
        return TrainingConfig(refit=Refit.NONE, lstm=LSTMConfig(epochs=2), photo=resolve_weights(photo)[0])

    def texts(self) -> Iterator[tuple[str, str]]:
        """Yield title and description of training rows."""
        rows = self.rows[(self.assignments["split"] == TRAIN).to_numpy()]
        yield from zip(rows["designation"], rows["description"], strict=True)

    def features(self, extractor: str) -> list[Path]:
        """List the features of these shards that a step has written."""
        return sorted((self.folder / "features" / extractor).glob("*.safetensors"))[: len(self.shards)]

    def extract(
        self, name: str, shards: list[Shard], limit: int | None = None, config: TrainingConfig | None = None
    ) -> None:
        """Extract features like the map task, of at most `limit` products a shard."""
        extractor = build_extractor(name, config or self.config, self.texts, choose_device())
        extractor.save(self.folder / "extractors" / name)
        for shard in shards:
            rows = read_products(shard)
            products = products_of(rows)
            available = np.flatnonzero([extractor.available(product) for product in products])[:limit]
            arrays = extractor.extract([products[index] for index in available])
            path = self.folder / "features" / name / f"{Path(shard.text).stem}.safetensors"
            path.parent.mkdir(parents=True, exist_ok=True)
            write_shard(path, {"row": rows["row"].to_numpy(np.int64)[available], **arrays})

    def feature_bytes(self, *names: str) -> int:
        """Return the bytes of the features of these extractors."""
        return sum(path.stat().st_size for name in names for path in self.features(name))


def ingest(work: BenchContext, out: Path) -> None:
    first = out.with_name(f"first{work.products}")
    first.mkdir()
    for name in ("X_train_update.csv", "Y_train_CVw08PX.csv"):
        with Path(work.source, name).open("rb") as file:
            next(read_tables(file, name, work.products)).to_csv(first / name, index=False)
    (first / "images").symlink_to(Path(work.source, "images").resolve())
    read_catalogue.ingest(str(first), out, IngestConfig(), unlabelled=False)


def split(work: BenchContext, out: Path) -> None:
    titles, codes = hash_titles(work.rows["designation"]), work.rows["prdtypecode"].to_numpy(np.int64)
    title_splits = TitleSplits.empty().extended(lambda: [(titles, codes)], SplitConfig())
    title_splits.save(out / "splits.parquet")
    assignments = {"split": title_splits.lookup(titles), "fold": assign_folds(titles, codes, FOLDS)}
    work.rows[["row", "prdtypecode"]].assign(**assignments).to_parquet(out / "assignments.parquet", index=False)


def text(work: BenchContext, out: Path) -> None:
    for name in ("ngrams", "tokens"):
        work.extract(name, work.shards)


def vectors(work: BenchContext, out: Path) -> None:
    work.extract("vectors", work.shards)


def photos(work: BenchContext, out: Path) -> None:
    work.extract("maps", work.shards[:1], work.photos)


def bag(work: BenchContext, out: Path) -> None:
    _fit(work, "bag", out)


def encoder(work: BenchContext, out: Path) -> None:
    _fit(work, "encoder", out)


def bag_encoder(work: BenchContext, out: Path) -> None:
    _fit(work, "bag_encoder", out)


def lstm(work: BenchContext, out: Path, mark: Mark) -> None:
    _fit(work, "lstm", out, mark)


def photo(work: BenchContext, out: Path) -> None:
    """Fit on as many rows as products: the features of the measured photos, repeated with noise."""
    (path,) = work.features("maps")
    features = ShardArrays([path]).column("photo")
    rows = work.assignments["row"].to_numpy(np.int64)
    random = np.random.default_rng(0)
    many = features[np.arange(len(rows)) % len(features)].astype(np.float32)
    many += features.std(0, dtype=np.float32) * random.standard_normal(many.shape, dtype=np.float32)
    write_shard(out / "many", {"row": rows, "photo": many.astype(np.float16)})
    _fit(work, "photo", out, files=[out / "many"])


def vgg16(work: BenchContext, out: Path, mark: Mark) -> None:
    _fit(work, "vgg16", out, mark)


def scratch(work: BenchContext, out: Path, mark: Mark) -> None:
    settings = resolve_weights(PhotoConfig(weights=Weights.RANDOM, epochs=2))[0]
    config = replace(work.config, photo=settings)
    work.extract("pixels", work.shards[:1], work.photos, config)
    _fit(work, "vgg16", out, mark, config)


def _fit(
    work: BenchContext,
    name: str,
    out: Path,
    mark: Mark = ignore,
    config: TrainingConfig | None = None,
    files: list[Path] | None = None,
) -> None:
    config = config or work.config
    names = extractors_of(name, config)
    folders = {e: work.folder / "extractors" / e for e in names}
    shards = {e: files or work.features(e) for e in names}
    data = TrainingData.load(shards, work.assignments, len(work.codes), folders)
    fitted = MEMBERS[name].fit(MEMBERS[name].settings(config), data, FitContext(0, choose_device(), Refit.NONE, mark))
    fitted.member.save(out / "member")
    scores = {"row": data.rows[fitted.rows], "stopping": fitted.stopping.astype(np.uint8), "logits": fitted.logits}
    write_shard(out / "scores", scores)


def _members(work: BenchContext) -> dict[str, Member]:
    """Load the fitted members."""
    members = {}
    for name in (*TEXT_MEMBERS, *PHOTO_MEMBERS):
        members[name] = MEMBERS[name].load(work.folder / name / "member", choose_device())
        members[name].extractors = extractors_of(name, work.config)
    return members


def _score(work: BenchContext, rows: NDArray, pool: Pool) -> Logits:
    members = _members(work)
    names = dict.fromkeys(e for member in members.values() for e in member.extractors)
    return score_features(members, {e: work.features(e) for e in names}, rows, pool)[0]


def pool(work: BenchContext, out: Path) -> None:
    rows = work.assignments["row"].to_numpy(np.int64)
    position = {int(row): index for index, row in enumerate(rows)}
    by_member, available = {}, {}
    for name in (*TEXT_MEMBERS, *PHOTO_MEMBERS):
        scores = ShardArrays([work.folder / name / "scores"])
        mask = np.isin(scores.column("row"), rows)
        at = np.array([position[int(row)] for row in scores.column("row")[mask]], dtype=np.int64)
        by_member[name] = np.zeros((len(rows), len(work.codes)), dtype=np.float32)
        available[name] = np.zeros(len(rows), dtype=bool)
        by_member[name][at] = scores.column("logits")[mask]
        available[name][at] = scores.column("stopping")[mask] == 0
    labels, modality = work.assignments["label"].to_numpy(np.int64), {n: MEMBERS[n].modality for n in by_member}
    counts = np.bincount(labels, minlength=len(work.codes)) + 1
    fitted = fit_pool(Logits(by_member, available), labels, modality, counts / counts.sum())
    (out / "pool.json").write_text(json.dumps(fitted.to_dict()))
    held_out = work.assignments["split"].isin([VALIDATION, BLENDING]).to_numpy()
    pool_logits(_score(work, rows[held_out], fitted), fitted, work.codes)  # the drift reference


def evaluation(work: BenchContext, out: Path) -> None:
    test = (work.assignments["split"] == TEST).to_numpy()
    train, test_rows = work.rows[~test], work.rows[test]
    labels = work.assignments["label"].to_numpy(np.int64)
    columns = train["designation"].tolist(), train["description"].tolist()
    baseline = fit_tfidf_svm(*columns, labels[~test], len(work.codes), 0)
    fitted = _pool(work)
    scores = pool_logits(_score(work, test_rows["row"].to_numpy(np.int64), fitted), fitted, work.codes)
    texts = test_rows["designation"].tolist(), test_rows["description"].tolist()
    systems = {**scores.by_member, POOL: scores.probabilities, TFIDF_SVM: baseline.probabilities(*texts)}
    evaluate(systems, labels[test], work.codes, 0)
    test_rows.to_parquet(out / "rows.parquet")


def predict(work: BenchContext, out: Path) -> None:
    rows = read_products(work.shards[0])[: work.photos]
    members = {name: extractors_of(name, work.config) for name in (*TEXT_MEMBERS, *PHOTO_MEMBERS)}
    folders = {name: work.folder / name / "member" for name in members}
    extractors = work.folder / "extractors"
    predictor = Predictor.assemble(work.codes, _pool(work), members, extractors, folders, choose_device())
    scores = predictor.score(products_of(rows))
    predictions = rows.drop(columns=["photo"]).assign(predicted=scores.predicted, confidence=scores.confidence)
    predictions.to_parquet(out / "rows.parquet")


def _pool(work: BenchContext) -> Pool:
    return Pool.from_json((work.folder / "pool" / "pool.json").read_text())


WRITES = {"text": ("ngrams", "tokens"), "vectors": ("vectors",), "photos": ("maps",)}
EPOCHS = ("lstm", "vgg16", "scratch")


@dataclass(frozen=True)
class ResourceUsage:
    """Cost of one run of a step. seconds, cores: of one epoch if the step has epochs, else of the step.

    once: seconds outside of the epochs. cores: busy on average. output: bytes written. memory: peak of the process, in
    bytes.
    """

    seconds: float
    once: float
    cores: float
    output: int
    memory: int


def run(name: str, work: BenchContext, out: Path) -> ResourceUsage:
    """Run and measure the step. Call it in a new process that has imported everything and done nothing else."""
    out.mkdir(parents=True)
    marks = [(time.perf_counter(), time.process_time())]

    def mark(epoch: EpochMetrics | None = None) -> None:
        marks.append((time.perf_counter(), time.process_time()))

    step, epochs = globals()[name], name in EPOCHS
    step(work, out, mark) if epochs else step(work, out)
    mark()
    measured = marks[-3:-1] if epochs else marks  # the last epoch
    seconds, busy = (end - start for start, end in zip(*measured, strict=True))
    once = marks[-1][0] - marks[0][0] - seconds * (len(marks) - 2) if epochs else 0.0
    written = sum(path.stat().st_size for path in out.rglob("*") if path.is_file()) + work.feature_bytes(
        *WRITES.get(name, ())
    )
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return ResourceUsage(seconds, max(0.0, once), busy / seconds, written, peak)
