"""What the tasks of a training and a prediction call, without Flyte, as benchmarks/cost.py measures it."""

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
from rakuten_tasks.data import read_catalogue as catalogue
from rakuten_tasks.data.read_catalogue import read_shard
from rakuten_tasks.data.splits import TEST, TRAIN, VALIDATION_A, VALIDATION_B, Ledger, assign_folds
from rakuten_tasks.evaluation.baseline import fit_tfidf_svm
from rakuten_tasks.evaluation.metrics import POOL, TFIDF_SVM, evaluate
from rakuten_tasks.models.backbones import resolve_weights
from rakuten_tasks.models.members import MEMBERS, FitContext, Member, TrainingData
from rakuten_tasks.models.members.member import FOLDS
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
    """Of a fit whose epochs nobody measures."""


@dataclass(frozen=True)
class BenchContext:
    """folder: of all that the steps write. products: how many of the catalogue a step takes, from the first on.

    photos: how many of them go through VGG16, which takes half a minute for a few hundred.
    """

    source: str
    folder: Path
    products: int
    photos: int

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
    def assignments(self) -> pd.DataFrame:
        """row, prdtypecode, label, split, fold of the rows of these shards."""
        every = pd.read_parquet(self.folder / "split" / "assignments.parquet")
        every["label"] = class_index(every["prdtypecode"], self.codes)
        return every[every["row"].isin(self.rows["row"])]

    @cached_property
    def codes(self) -> list[int]:
        return sorted(pd.read_parquet(self.folder / "split" / "assignments.parquet")["prdtypecode"].unique().tolist())

    @cached_property
    def config(self) -> TrainingConfig:
        """The default with photo weights that need no download and take as long, and VGG16's block 5 trained too."""
        path = self.folder / "vgg16.safetensors"
        if not path.exists():
            save_file(random_convolutions(batch_norm=False).state_dict(), path)
        photo = PhotoConfig(weights=Weights.FILE, weights_file=str(path), epochs=1, fine_tune_epochs=2)
        return TrainingConfig(refit=Refit.NONE, lstm=LSTMConfig(epochs=2), photo=resolve_weights(photo)[0])

    def texts(self) -> Iterator[tuple[str, str]]:
        """Of training rows."""
        rows = self.rows[(self.assignments["split"] == TRAIN).to_numpy()]
        yield from zip(rows["designation"], rows["description"], strict=True)

    def features(self, extractor: str) -> list[Path]:
        """Of these shards, as far as a step has written them."""
        found = sorted((self.folder / "features" / extractor).glob("*.safetensors"))
        return found[: len(self.shards)]

    def extract(
        self, name: str, shards: list[Path], most: int | None = None, config: TrainingConfig | None = None
    ) -> None:
        """As the map task does: all products of these shards that the extractor can read, or the first so many."""
        extractor = build_extractor(name, config or self.config, self.texts, choose_device())
        extractor.save(self.folder / "extractors" / name)
        for shard in shards:
            rows = read_shard(shard)
            products = products_of(rows)
            places = np.flatnonzero([extractor.available(product) for product in products])[:most]
            arrays = extractor.extract([products[place] for place in places])
            path = self.folder / "features" / name / f"{shard.stem}.safetensors"
            path.parent.mkdir(parents=True, exist_ok=True)
            write_shard(path, {"row": rows["row"].to_numpy(np.int64)[places], **arrays})

    def written(self, *names: str) -> int:
        """Bytes of the features of these extractors."""
        return sum(path.stat().st_size for name in names for path in self.features(name))


def ingest(work: BenchContext, out: Path) -> None:
    first = out.with_name(f"first{work.products}")
    first.mkdir()
    for name in ("X_train_update.csv", "Y_train_CVw08PX.csv"):
        table = pd.read_csv(f"{work.source}/{name}", index_col=0, keep_default_na=False, dtype=str)
        table.head(work.products).to_csv(first / name)
    (first / "images").symlink_to(Path(work.source, "images").resolve())
    catalogue.ingest(str(first), out, IngestConfig(), unlabelled=False)


def split(work: BenchContext, out: Path) -> None:
    titles, codes = work.rows["designation"].tolist(), work.rows["prdtypecode"].tolist()
    ledger = Ledger.empty().extended(titles, codes, SplitConfig())
    ledger.save(out / "ledger.parquet")
    places = {"split": ledger.lookup(titles), "fold": assign_folds(titles, codes, FOLDS)}
    work.rows[["row", "prdtypecode"]].assign(**places).to_parquet(out / "assignments.parquet", index=False)


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
    """On as many rows as there are products: the measured photos' features, with noise, over and over."""
    (path,) = work.features("maps")
    seen = ShardArrays([path]).column("photo")
    rows = work.assignments["row"].to_numpy(np.int64)
    random = np.random.default_rng(0)
    many = seen[np.arange(len(rows)) % len(seen)].astype(np.float32)
    many += seen.std(0, dtype=np.float32) * random.standard_normal(many.shape, dtype=np.float32)
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
    read = extractors_of(name, config)
    folders = {e: work.folder / "extractors" / e for e in read}
    shards = {e: files or work.features(e) for e in read}
    data = TrainingData.load(shards, work.assignments, len(work.codes), folders)
    fitted = MEMBERS[name].fit(MEMBERS[name].settings(config), data, FitContext(0, choose_device(), Refit.NONE, mark))
    fitted.member.save(out / "member")
    kept = {"row": data.rows[fitted.rows], "stopping": fitted.stopping.astype(np.uint8), "logits": fitted.logits}
    write_shard(out / "scores", kept)


def _members(work: BenchContext) -> dict[str, Member]:
    """Those that were fitted."""
    members = {}
    for name in (*TEXT_MEMBERS, *PHOTO_MEMBERS):
        members[name] = MEMBERS[name].load(work.folder / name / "member", choose_device())
        members[name].extractors = extractors_of(name, work.config)
    return members


def _score(work: BenchContext, rows: NDArray) -> Logits:
    members = _members(work)
    names = dict.fromkeys(e for member in members.values() for e in member.extractors)
    return score_features(members, {e: work.features(e) for e in names}, rows, len(work.codes))[0]


def pool(work: BenchContext, out: Path) -> None:
    rows = work.assignments["row"].to_numpy(np.int64)
    place = {int(row): at for at, row in enumerate(rows)}
    by_member, available = {}, {}
    for name in (*TEXT_MEMBERS, *PHOTO_MEMBERS):
        scores = ShardArrays([work.folder / name / "scores"])
        known = np.isin(scores.column("row"), rows)
        at = np.array([place[int(row)] for row in scores.column("row")[known]], dtype=np.int64)
        by_member[name] = np.zeros((len(rows), len(work.codes)), dtype=np.float32)
        available[name] = np.zeros(len(rows), dtype=bool)
        by_member[name][at] = scores.column("logits")[known]
        available[name][at] = scores.column("stopping")[known] == 0
    labels, modality = work.assignments["label"].to_numpy(np.int64), {n: MEMBERS[n].modality for n in by_member}
    counts = np.bincount(labels, minlength=len(work.codes)) + 1
    fitted = fit_pool(Logits(by_member, available), labels, modality, counts / counts.sum())
    (out / "pool.json").write_text(json.dumps(fitted.to_dict()))
    held_out = work.assignments["split"].isin([VALIDATION_A, VALIDATION_B]).to_numpy()
    pool_logits(_score(work, rows[held_out]), fitted, work.codes)  # the reference of drift


def evaluation(work: BenchContext, out: Path) -> None:
    test = (work.assignments["split"] == TEST).to_numpy()
    train, asked = work.rows[~test], work.rows[test]
    labels = work.assignments["label"].to_numpy(np.int64)
    columns = train["designation"].tolist(), train["description"].tolist()
    baseline = fit_tfidf_svm(*columns, labels[~test], len(work.codes), 0)
    scores = pool_logits(_score(work, asked["row"].to_numpy(np.int64)), _pool(work), work.codes)
    texts = asked["designation"].tolist(), asked["description"].tolist()
    systems = {**scores.by_member, POOL: scores.probabilities, TFIDF_SVM: baseline.probabilities(*texts)}
    evaluate(systems, labels[test], work.codes, 0)
    asked.to_parquet(out / "rows.parquet")


def predict(work: BenchContext, out: Path) -> None:
    rows = read_shard(work.shards[0])[: work.photos]
    read = {name: extractors_of(name, work.config) for name in (*TEXT_MEMBERS, *PHOTO_MEMBERS)}
    folders = {name: work.folder / name / "member" for name in read}
    extractors = work.folder / "extractors"
    predictor = Predictor.assemble(work.codes, _pool(work), read, extractors, folders, choose_device())
    scores = predictor.score(products_of(rows))
    answers = rows.drop(columns=["photo"]).assign(predicted=scores.predicted, confidence=scores.confidence)
    answers.to_parquet(out / "rows.parquet")


def _pool(work: BenchContext) -> Pool:
    return Pool.from_json((work.folder / "pool" / "pool.json").read_text())


WRITES = {"text": ("ngrams", "tokens"), "vectors": ("vectors",), "photos": ("maps",)}
EPOCHS = ("lstm", "vgg16", "scratch")


@dataclass(frozen=True)
class ResourceUsage:
    """What one run of a step took. seconds and cores: of one epoch where the step has epochs, else of all of it.

    once: seconds of what such a step does beside its epochs. cores: kept busy on average. output: bytes written.
    memory: the process's peak, in bytes.
    """

    seconds: float
    once: float
    cores: float
    output: int
    memory: int


def run(name: str, work: BenchContext, out: Path) -> ResourceUsage:
    """In a process of its own, which has imported all and done nothing yet."""
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
    written = sum(path.stat().st_size for path in out.rglob("*") if path.is_file()) + work.written(
        *WRITES.get(name, ())
    )
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return ResourceUsage(seconds, max(0.0, once), busy / seconds, written, peak)
