"""Training on one catalogue without Flyte and MLflow: features once, then members, pool and metrics for each seed."""

from __future__ import annotations

from functools import cached_property, partial
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.metrics import f1_score, log_loss

from rakuten_tasks.config import TrainingConfig
from rakuten_tasks.data.answers import match_labels
from rakuten_tasks.data.assignments import count_rows, fold_rows, require_every_split
from rakuten_tasks.data.layout import test_labels
from rakuten_tasks.data.read_catalogue import ingest
from rakuten_tasks.data.shards import Shard, iter_products, read_products, read_text
from rakuten_tasks.data.splits import TEST, TRAIN, TitleSplits
from rakuten_tasks.evaluation.baseline import BASELINES
from rakuten_tasks.evaluation.bootstrap import weighted_f1
from rakuten_tasks.evaluation.metrics import FULL_POOL, POOL, reliability
from rakuten_tasks.models.cascade import learn_cascade
from rakuten_tasks.models.extractors import EXTRACTORS, Extractor
from rakuten_tasks.models.members import MEMBERS, FitContext, FitResult, TrainingData
from rakuten_tasks.models.members.plan import (
    active_members,
    build_extractor,
    calibration_rows,
    enough_photos,
    extractors_of,
)
from rakuten_tasks.models.pool import Logits, Pool, fit_pool
from rakuten_tasks.models.predictor import Predictor, pool_logits
from rakuten_tasks.models.scoring import products_of, score_features
from rakuten_tasks.preprocessing.feature_shards import class_index, write_shard
from rakuten_tasks.preprocessing.product import Product
from rakuten_tasks.tasks.start_run import resolve
from rakuten_tasks.training.hardware import choose_device

Fitted = dict[str, tuple[FitResult, TrainingData]]  # result and data, by member
TEST_ROWS, Y_TEST = "test rows", "Y_test.csv"


class TrainingRun:
    """A training whose catalogue is ingested, split and extracted on construction."""

    def __init__(self, source: str, config: TrainingConfig, folder: Path) -> None:
        resolved = resolve(config)
        self.config, self.pretrained, self.folder = resolved.config, resolved.pretrained, folder
        self.device = choose_device()
        labels = test_labels(source)
        ingested = ingest(source, folder / "catalogue", config.ingest, unlabelled=labels is not None)
        self._labelled, self._unlabelled = ingested.labelled, ingested.unlabelled
        self.codes = sorted(ingested.class_counts)
        self._test_labels = None if labels is None else self._match(labels)
        self.rows = self._assign(0)
        photographed = self.rows.loc[self.rows["photo_status"] == "ok", "split"]
        self.members = active_members(self.config, enough_photos(photographed.to_numpy(np.int64)))
        self._folders: dict[str, Path] = {}
        self._features: dict[str, list[Path]] = {}
        self._unlabelled_features: dict[str, list[Path]] = {}
        for name in dict.fromkeys(e for member in self.members for e in extractors_of(member, self.config)):
            self._extract(name)

    def resplit(self, seed: int) -> None:
        """Draw other test rows and folds; 0: those of a training. Extractors stay as they were fitted."""
        self.rows = self._assign(seed)
        vars(self).pop("_baselines", None)

    @property
    def test_rows(self) -> int:
        return int((self.rows["split"] == TEST).sum())

    @property
    def labelled_test_rows(self) -> int:
        """Number of rows of X_test_update.csv with a label in Y_test.csv."""
        return 0 if self._test_labels is None else len(self._test_labels)

    def _match(self, labels: pd.Series) -> pd.Series:
        rows = [read_text(shard.text, ["row"])["row"] for shard in self._unlabelled]
        matched = match_labels(labels, pd.Index(pd.concat(rows).astype("int64")), self.codes)
        if matched.mismatch:
            print(f"Y_test.csv does not match X_test_update.csv: {matched.mismatch}", flush=True)
        return matched.codes

    def _assign(self, seed: int) -> pd.DataFrame:
        columns = ["row", "designation", "description", "prdtypecode", "photo_status", "title_hash"]
        rows = pd.concat([read_text(shard.text, columns) for shard in self._labelled], ignore_index=True)
        titles, codes = rows["title_hash"].to_numpy(np.uint64), rows["prdtypecode"].to_numpy(np.int64)
        if seed:
            hashes, positions = np.unique(titles, return_inverse=True)
            titles = np.random.default_rng(seed).permutation(hashes)[positions]
        title_splits = TitleSplits.empty().extended(lambda: [(titles, codes)], self.config.split)
        require_every_split(count_rows(title_splits, lambda: [(titles, codes)]))
        splits = title_splits.lookup(titles)
        return rows.assign(split=splits, fold=fold_rows(titles, codes, splits), label=class_index(codes, self.codes))

    def _extract(self, name: str) -> None:
        train = self.rows[self.rows["split"] == TRAIN]

        def photos() -> list[bytes]:
            rows = calibration_rows(train.loc[train["photo_status"] == "ok", "row"].to_numpy(np.int64))
            chunks = (chunk for shard in self._labelled for chunk in iter_products(shard, rows))
            return [photo for chunk in chunks for photo in chunk["photo"]]

        texts = partial(zip, train["designation"], train["description"], strict=True)
        extractor = build_extractor(name, self.config, texts, photos, self.device)
        self._folders[name] = self.folder / "extractors" / name
        extractor.save(self._folders[name])
        self._features[name] = [self._write(extractor, shard) for shard in self._labelled]
        self._unlabelled_features[name] = [self._write(extractor, shard) for shard in self._unlabelled]

    def _write(self, extractor: Extractor, shard: Shard) -> Path:
        rows = read_products(shard)
        products = products_of(rows)
        available = np.flatnonzero([extractor.available(product) for product in products])
        path = self.folder / f"{Path(shard.text).stem}-{extractor.name}.safetensors"
        arrays = extractor.extract([products[index] for index in available])
        write_shard(path, {"row": rows["row"].to_numpy(np.int64)[available], **arrays})
        return path

    @cached_property
    def _baselines(self) -> dict[str, dict[str, NDArray]]:
        """Probabilities of held-out rows, by baseline and part."""
        fitted = self.rows[self.rows["split"] != TEST]
        texts = {TEST_ROWS: self.rows[self.rows["split"] == TEST]}
        if self._test_labels is not None:
            texts[Y_TEST] = self._labelled_test_products()
        scored = {}
        for name, fit in BASELINES.items():
            titles, descriptions = fitted["designation"].tolist(), fitted["description"].tolist()
            baseline = fit(titles, descriptions, fitted["label"].to_numpy(np.int64), len(self.codes), 0)
            scored[name] = {
                part: baseline.probabilities(rows["designation"].tolist(), rows["description"].tolist())
                for part, rows in texts.items()
            }
        return scored

    def _labelled_test_products(self) -> pd.DataFrame:
        columns = ["row", "designation", "description"]
        rows = pd.concat([read_text(shard.text, columns) for shard in self._unlabelled], ignore_index=True)
        return rows[rows["row"].isin(self._test_labels.index)]  # type: ignore[union-attr]

    def fit(self, seed: int) -> Fitted:
        """Fit every member."""
        fitted = {}
        for name in self.members:
            names = extractors_of(name, self.config)
            data = TrainingData.load(
                {e: self._features[e] for e in names}, self.rows, len(self.codes), {e: self._folders[e] for e in names}
            )
            settings = MEMBERS[name].settings(self.config)
            fitted[name] = MEMBERS[name].fit(settings, data, FitContext(seed, self.device, self.config.refit)), data
            fitted[name][0].member.extractors = names
        return fitted

    def fit_pool(self, fitted: Fitted) -> Pool:
        """Fit the pool, with its cascade if the configuration has one."""
        unseen, labels = self.unseen(fitted)
        counts = np.bincount(self.rows.loc[self.rows["split"] != TEST, "label"], minlength=len(self.codes)) + 1
        pool = fit_pool(unseen, labels, {name: MEMBERS[name].modality for name in fitted}, counts / counts.sum())
        cheap = [name for name in fitted if MEMBERS[name].cheap]
        return learn_cascade(pool, unseen, labels, cheap)[0] if self.config.pool.cascade else pool

    def predictor(self, fitted: Fitted, pool: Pool) -> Predictor:
        """Return a predictor of fitted members, its extractors loaded from their folders."""
        extractors = {name: EXTRACTORS[name].load(folder, self.device) for name, folder in self._folders.items()}
        return Predictor(self.codes, pool, extractors, {name: item.member for name, (item, _) in fitted.items()})

    def labelled_products(self) -> dict[str, tuple[list[Product], NDArray]]:
        """Return products that no member was fitted on, with their codes: test rows, and those of Y_test.csv."""
        test = self.rows[self.rows["split"] == TEST].set_index("row")["prdtypecode"]
        parts = {TEST_ROWS: (self._labelled, test)}
        if self._test_labels is not None:
            parts[Y_TEST] = self._unlabelled, self._test_labels
        result = {}
        for name, (shards, codes) in parts.items():
            rows = pd.concat([part for shard in shards for part in iter_products(shard, set(codes.index))])
            result[name] = products_of(rows), codes.loc[rows["row"].astype("int64")].to_numpy(np.int64)
        return result

    def measure(self, seed: int) -> dict[str, dict[str, float]]:
        """Return the columns of the quality table, by system."""
        fitted = self.fit(seed)
        (unseen, labels), pool = self.unseen(fitted), self.fit_pool(fitted)
        held_out, common = self.held_out_logits(fitted, pool), common_rows(unseen)
        unseen_scores = self._pool_scores(unseen.take(common), pool)
        scores = {part: self._pool_scores(logits, pool) for part, (logits, _) in held_out.items()}
        for part in scores:
            scores[part] |= {name: by_part[part] for name, by_part in self._baselines.items()}
        result = {}
        for name in scores[TEST_ROWS]:
            values = {f"test {k}": v for k, v in _metrics(scores[TEST_ROWS][name], held_out[TEST_ROWS][1]).items()}
            if name in unseen_scores:
                mask = unseen.available[name][common] if name in unseen.available else np.ones(len(common), bool)
                metrics = _metrics(unseen_scores[name][mask], labels[common][mask])
                values |= {f"unseen {key}": metrics[key] for key in ("F1", "log loss")}
            f1 = {part: weighted_f1(held_out[part][1], scores[part][name].argmax(1)) for part in scores}
            values["Y_test F1"] = f1.get(Y_TEST, float("nan"))
            result[name] = values
        print({name: {k: round(v, 2) for k, v in w.items()} for name, w in pool.weights.items()}, flush=True)
        return result

    def _pool_scores(self, logits: Logits, pool: Pool) -> dict[str, NDArray]:
        complete = pool_logits(logits, pool, self.codes)
        return {**complete.by_member, POOL: pool.probabilities(pool.cascade(logits)), FULL_POOL: complete.probabilities}

    def held_out_logits(self, fitted: Fitted, pool: Pool) -> dict[str, tuple[Logits, NDArray]]:
        """Return all members' logits of rows that none was fitted on, and their labels: as in labelled_products."""
        test = self.rows[self.rows["split"] == TEST]
        parts = {TEST_ROWS: (self._features, test["row"], test["prdtypecode"])}
        if self._test_labels is not None:
            rows = self._labelled_test_products()["row"]
            parts[Y_TEST] = self._unlabelled_features, rows, self._test_labels.loc[rows]
        members = {name: item.member for name, (item, _) in fitted.items()}
        result = {}
        for part, (features, rows, codes) in parts.items():
            logits, _ = score_features(members, features, rows.to_numpy(np.int64), pool)
            result[part] = logits, class_index(codes, self.codes)
        return result

    def unseen(self, fitted: Fitted) -> tuple[Logits, NDArray]:
        """Return logits of rows outside of each member's fit, in the order of the labelled rows, and their labels."""
        position = {int(row): i for i, row in enumerate(self.rows["row"])}
        by_member, available = {}, {}
        for name, (item, data) in fitted.items():
            at = np.array([position[int(row)] for row in data.rows[item.rows]], dtype=np.int64)
            by_member[name] = np.zeros((len(self.rows), len(self.codes)), dtype=np.float32)
            available[name] = np.zeros(len(self.rows), dtype=bool)
            by_member[name][at], available[name][at] = item.logits, ~item.stopping
        return Logits(by_member, available), self.rows["label"].to_numpy(np.int64)


def common_rows(unseen: Logits) -> NDArray:
    """Return the rows that all out-of-fold members have scored."""
    most = max(int(mask.sum()) for mask in unseen.available.values())
    return np.flatnonzero(np.logical_and.reduce([m for m in unseen.available.values() if 2 * m.sum() >= most]))


def _metrics(probabilities: NDArray, labels: NDArray) -> dict[str, float]:
    predicted, classes = probabilities.argmax(1), np.arange(probabilities.shape[1])
    return {
        "F1": float(f1_score(labels, predicted, average="weighted", zero_division=0)),
        "macro F1": float(f1_score(labels, predicted, average="macro", zero_division=0)),
        "log loss": float(log_loss(labels, np.clip(probabilities, 1e-12, None), labels=classes)),
        "ECE": reliability(probabilities, labels).ece,
    }
