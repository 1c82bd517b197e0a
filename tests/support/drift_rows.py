"""Made-up rows with every drift column."""

from __future__ import annotations

import numpy as np
import pandas as pd

from rakuten_tasks.monitoring.columns import DRIFT_COLUMNS


def drift_rows(count: int = 500, seed: int = 0) -> pd.DataFrame:
    """Ordinary traffic, one distribution whatever the seed."""
    random = np.random.default_rng(seed)
    columns: dict[str, object] = {name: random.normal(size=count) for name in DRIFT_COLUMNS}
    columns["description_empty"] = random.random(count) < 0.35
    columns["photo_missing"] = random.random(count) < 0.05
    columns["photo_unreadable"] = np.zeros(count, bool)
    columns["language"] = random.choice(["fr", "en", "de"], count, p=[0.8, 0.15, 0.05])
    columns["predicted"] = random.choice([10, 40, 50, 2583], count, p=[0.3, 0.3, 0.2, 0.2])
    columns["designation"] = [" ".join(random.choice(["livre", "drone", "piscine", "roman"], 4)) for _ in range(count)]
    return pd.DataFrame(columns)
