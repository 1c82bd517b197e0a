"""The labelled rows of a catalogue, with their classes and splits."""

from __future__ import annotations

import pandas as pd

from rakuten_tasks.preprocessing.feature_shards import class_index
from rakuten_tasks.runtime.files import local
from rakuten_tasks.tasks.types import Catalogue, Splits


def read_assignments(splits: Splits, catalogue: Catalogue) -> pd.DataFrame:
    """Read row, prdtypecode, label (class index), split and fold of every labelled row, in the shards' order."""
    assignments = pd.read_parquet(local(splits.assignments))
    return assignments.assign(label=class_index(assignments["prdtypecode"], catalogue.codes))
