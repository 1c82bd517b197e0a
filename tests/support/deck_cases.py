"""Made-up results of every stage, realistic and extreme, and the decks of both."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from PIL import Image

from rakuten_tasks.config import GateConfig
from rakuten_tasks.data.ingested import Counts, IngestResult
from rakuten_tasks.data.schema import QUARANTINE, TEXT
from rakuten_tasks.data.shards import Shard, ShardWriter
from rakuten_tasks.evaluation.bootstrap import paired_differences
from rakuten_tasks.evaluation.metrics import Evaluation, evaluate
from rakuten_tasks.models.cascade import CascadePoint, StageReport, learn_cascade
from rakuten_tasks.models.pool import Logits, Pool, fit_pool
from rakuten_tasks.models.pool_report import MemberReport, PoolReport, Quality, report_pool
from rakuten_tasks.models.predictor import Scores, pool_logits
from rakuten_tasks.registry.gate import class_losses, decide
from rakuten_tasks.reports.catalogue_deck import ingest_deck
from rakuten_tasks.reports.evaluation_deck import evaluation_deck
from rakuten_tasks.reports.pool_deck import pool_deck
from rakuten_tasks.reports.registration_deck import registration_deck
from rakuten_tasks.reports.top_errors import Misclassification, describe_errors
from rakuten_tasks.reports.training_deck import training_deck
from rakuten_tasks.training.state import EpochMetrics
from tests.support.catalogues import photo_bytes

# Each would run a script, leave its element or break a script, were it not escaped.
HOSTILE = (
    "</script><script>window.hacked = 1</script>",
    '"><img src=x onerror="window.hacked = 2"><b>',
    "<!--<script>${window.hacked = 3}`\\u2028\u2028'",
    "<style>* { display: none !important }</style></div></div></div>",
    '<a href="javascript:window.hacked=4">x</a>\u202eabc\x00',
)
FRENCH = (
    "Livres d'occasion et éditions anciennes",
    "Modélisme, drones et accessoires de radiocommande",
    "Piscines, spas et produits d'entretien de l'eau",
    "Mobilier de jardin et éclairage extérieur",
    "Chaussettes bébé",
    "Jeux de société",
    "Décoration intérieure, linge de maison et arts de la table",
)


def class_names(codes: list[int], hostile: bool) -> dict[int, str]:
    words = HOSTILE if hostile else FRENCH
    return {code: f"{words[i % len(words)]}{' ' * (i // len(words))}" for i, code in enumerate(codes)}


def noise_photo(seed: int, side: int = 300) -> bytes:
    """A photo that no format packs well."""
    pixels = np.random.default_rng(seed).integers(0, 240, size=(side, side, 3), dtype=np.uint8)
    buffer = BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=50)
    return buffer.getvalue()


def write_ingested(
    folder: Path, products: int, classes: int, photos: bool = True, hostile: bool = False, quarantine: int = 0
) -> IngestResult:
    """Shards of labelled products and a tenth as many to predict, in rows of 500, without reading any catalogue."""
    folder.mkdir(parents=True, exist_ok=True)
    codes = [10 + 7 * i for i in range(classes)]
    random = np.random.default_rng(classes)
    # a few classes are large and many small, as in shops
    labels = np.minimum(random.exponential(classes / 4, products).astype(int), classes - 1)
    parts = {
        "labelled": _write_part(folder, "labelled", [codes[i] for i in labels], photos, hostile),
        "unlabelled": _write_part(folder, "unlabelled", [None] * (products // 10), photos, hostile),
    }
    reasons = {"duplicate_productid": quarantine // 2, "no_title": quarantine - quarantine // 2} if quarantine else {}
    counts = {}
    for name, (shards, statuses) in parts.items():
        kept, bad = sum(shard.rows for shard in shards), quarantine if name == "labelled" else 0
        counts[name] = Counts(kept + bad, kept, bad, reasons if bad else {}, statuses, {})
    used, rows = np.unique(labels, return_counts=True)
    return IngestResult(
        labelled=parts["labelled"][0],
        unlabelled=parts["unlabelled"][0],
        counts=counts,
        class_counts={codes[i]: int(n) for i, n in zip(used, rows, strict=True)},
        names=class_names(codes, hostile),
        synthetic=False,
        content_hash="0123456789abcdef" * 4,
        quarantine=_write_quarantine(folder / "quarantine.parquet", reasons, hostile),
        file=folder / "summary.json",
    )


def _write_part(
    folder: Path, part: str, codes: list[int | None], photos: bool, hostile: bool
) -> tuple[list[Shard], dict[str, int]]:
    writer = ShardWriter(folder, part, rows_per_shard=500)
    statuses: dict[str, int] = {}
    rows = []
    for i, code in enumerate(codes):
        status = "none" if not photos else "missing" if i % 50 == 7 else "ok"
        statuses[status] = statuses.get(status, 0) + 1
        plain = f"Lot de {i} {FRENCH[i % len(FRENCH)].lower()} pour la maison"
        rows.append(
            {
                "row": i,
                "productid": 1000 + i,
                "imageid": 5000 + i,
                "designation": HOSTILE[i % len(HOSTILE)] if hostile else plain,
                "description": ("x" * 50_000 if i % 10 == 0 else HOSTILE[0]) if hostile else plain * (i % 5),
                "prdtypecode": code,
                "photo": (noise_photo(i % 40) if hostile else photo_bytes(i, 40 + i % 60)) if status == "ok" else None,
                "photo_status": status,
                "issue": None,
                "title_hash": i,
            }
        )
    for start in range(0, len(rows), 64):
        batch = rows[start : start + 64]
        writer.write(pa.Table.from_pylist(batch, TEXT), [row["photo"] for row in batch])
    writer.close()
    return writer.shards, statuses


def _write_quarantine(path: Path, reasons: Mapping[str, int], hostile: bool) -> Path:
    title = HOSTILE[0] * 50 if hostile else "Piscine gonflable"
    rows = [
        dict.fromkeys(QUARANTINE.names, "12") | {"part": "labelled", "row": i, "designation": title, "reason": reason}
        for reason, n in reasons.items()
        for i in range(n)
    ]
    pq.write_table(pa.Table.from_pylist(rows, QUARANTINE), path)
    return path


MODALITY = {"bag": "text", "lstm": "text", "photo": "photo"}


def made_up_logits(labels: NDArray, classes: int, seed: int) -> Logits:
    """Text that is too sure of itself, photos that are not sure enough; each modality lacks some products."""
    random = np.random.default_rng(seed)
    lacking = {modality: random.random(len(labels)) > 0.05 for modality in ("text", "photo")}
    by_member, available = {}, {}
    for name, signal, scale in (("bag", 3.2, 5.0), ("lstm", 2.0, 1.0), ("photo", 2.2, 1.3)):
        logits = random.normal(size=(len(labels), classes))
        logits[np.arange(len(labels)), labels] += signal
        available[name] = lacking[MODALITY[name]]
        by_member[name] = (logits * scale * available[name][:, None]).astype(np.float32)
    return Logits(by_member, available)


def cascade_report() -> PoolReport:
    """A pool whose words settle half of the products with a photo, and none without."""
    points = [CascadePoint(0.9, 0.2, 0.8, 0.01), CascadePoint(0.7, 0.5, 0.8, 0.02), CascadePoint(0.5, 0.9, 0.7, 0.04)]
    both = StageReport("text+photo", "words", 500, 0.8, 0.01, points, 0.7)
    stages = [both, dataclasses.replace(both, modalities="text", threshold=None)]
    quality = Quality(0.8, 0.7, 0.01)
    members = {"bag": MemberReport("text", 500, quality, None)}
    return PoolReport(500, quality, members, {"text": {"bag": 1.0}}, stages)


class Answers:
    """Everything that follows from made-up logits: the pool, scores of test rows, their evaluation."""

    def __init__(self, rows: int, classes: int, hostile: bool = False) -> None:
        random = np.random.default_rng(rows)
        self.codes = [10 + 7 * i for i in range(classes)]
        self.names = {str(code): name for code, name in class_names(self.codes, hostile).items()}
        self.labels, unseen = random.integers(0, classes, size=(2, rows))
        logits = made_up_logits(unseen, classes, seed=1)
        whole = fit_pool(logits, unseen, MODALITY, np.full(classes, 1 / classes))
        self.pool: Pool
        self.pool, stages = learn_cascade(whole, logits, unseen, ["bag", "lstm"])
        self.report: PoolReport = report_pool(self.pool, logits, unseen, stages)
        self.logits = made_up_logits(self.labels, classes, seed=0)
        self.scores: Scores = pool_logits(self.logits, self.pool, self.codes)
        svm = np.full((rows, classes), 0.2 / classes)
        guesses = np.where(random.random(rows) < 0.7, self.labels, random.integers(0, classes, rows))
        svm[np.arange(rows), guesses] += 0.8
        shares = np.tile(np.bincount(unseen, minlength=classes) / rows, (rows, 1))
        systems = {
            **self.scores.by_member,
            "pool": self.scores.probabilities,
            "most_frequent": shares,
            "tfidf_svm": svm,
        }
        text = self.pool.text_only(self.logits)
        self.evaluation: Evaluation = evaluate(systems, self.labels, self.codes, seed=0, text_pool=text)
        self.rows = self._rows(hostile)

    def _rows(self, hostile: bool) -> pd.DataFrame:
        n = len(self.labels)
        return pd.DataFrame(
            {
                "row": np.arange(n),
                "designation": [HOSTILE[i % len(HOSTILE)] if hostile else f"Piscine ronde n° {i}" for i in range(n)],
                "description": ["x" * 50_000 if hostile else "Livrée avec son échelle" * (i % 2) for i in range(n)],
                "photo": [None if i % 9 == 0 else noise_photo(i) if hostile else photo_bytes(i) for i in range(n)]
                if n <= 3000
                else None,
            }
        )

    @property
    def errors(self) -> list[Misclassification]:
        return describe_errors(self.rows, self.scores, self.labels)


def epochs_of(n: int) -> list[EpochMetrics]:
    return [
        EpochMetrics(
            i, 3 / i + 0.2, 3 / i + 0.4 + 0.004 * i, 0.9 - 0.6 / i, 1e-3 * (n - i + 1) / n, 12.0 + i % 3, 2, 8, 1, 0.5
        )
        for i in range(1, n + 1)
    ]


def refitted(n: int) -> list[EpochMetrics]:
    """Of a training without held-out rows."""
    return [dataclasses.replace(epoch, valid_loss=math.nan, valid_f1=math.nan) for epoch in epochs_of(n)]


def registration_of(answers: Answers, config: GateConfig | None = None) -> str:
    """A version that is a little better than the champion and a little worse than the best one."""
    config = config or GateConfig()
    codes = np.array(answers.codes)
    labels, new = codes[answers.labels], answers.scores.predicted
    random = np.random.default_rng(0)
    rivals = {
        name: np.where(random.random(len(labels)) < share, labels, codes[answers.scores.by_member["bag"].argmax(1)])
        for name, share in (("champion, version 3", 0.4), ("best champion, version 2", 0.5))
    }
    champion, best = rivals.values()
    decision = decide(labels, new, champion, best, answers.codes, answers.codes, config, seed=0)
    return registration_deck(
        "rakuten-classifier",
        4,
        "champion" if decision.passed else "challenger",
        decision,
        {name: paired_differences(labels, new, predicted, seed=0) for name, predicted in rivals.items()},
        config,
        class_losses(labels, new, champion, config.min_class_rows),
        answers.names,
    )


def realistic_decks(folder: Path) -> dict[str, str]:
    answers = Answers(rows=2500, classes=27)
    settings = {"seed": 0, "batch size": 64, "device": "cpu", "parameters": 1_234_567}
    return {
        "ingest": ingest_deck(write_ingested(folder, products=2500, classes=27, quarantine=40)),
        "fit_lstm": training_deck("Member lstm", [*epochs_of(12), *refitted(8)], settings),
        "pool": pool_deck(answers.report),
        "evaluation": evaluation_deck(answers.evaluation, answers.names, answers.errors),
        "registration": registration_of(answers),
    }


def extreme_decks(folder: Path) -> dict[str, str]:
    """1,000 classes, hostile texts, photos that do not pack, thousands of epochs."""
    answers = Answers(rows=2900, classes=1000, hostile=True)
    ingested = write_ingested(folder, products=3000, classes=1000, hostile=True, quarantine=500)
    return {
        "ingest": ingest_deck(ingested),
        "fit_lstm": training_deck(HOSTILE[0], epochs_of(2000), dict.fromkeys(HOSTILE, HOSTILE[1] * 100)),
        "pool": pool_deck(answers.report),
        "evaluation": evaluation_deck(answers.evaluation, answers.names, answers.errors),
        "registration": registration_of(answers, GateConfig(min_class_rows=1)),
    }
