"""Validator of a catalogue's rows, chunk by chunk: flags those that cannot be used."""

from __future__ import annotations

import numpy as np
import pandas as pd

from rakuten_tasks.data.csv_files import Chunk
from rakuten_tasks.data.part_index import PartIndex
from rakuten_tasks.data.schema import whole_numbers
from rakuten_tasks.data.splits import hash_titles

NO_TITLE = hash_titles([""])[0]  # hash of each title that is empty after cleaning


class RowValidator:
    """Validator of one part's rows, which come in the file's order."""

    def __init__(self, index: PartIndex) -> None:
        self._labels, self._productids = index.labels, index.productids

    def validate(self, chunk: Chunk) -> pd.DataFrame:
        """Return the typed rows with label, prdtypecode, title_hash and issue (None if valid).

        label: the text in the file; without labels, label and prdtypecode are null. Issues, the first that applies:
        missing_productid, bad_productid (no whole number), missing_label, bad_label, no_title (empty, also after
        cleaning), duplicate_productid (an earlier valid row has it).
        """
        raw, typed = chunk.raw, chunk.typed
        title_hash = hash_titles(typed["designation"])
        issue = np.full(len(typed), None, object)
        issue[title_hash == NO_TITLE] = "no_title"
        label, code = pd.Series(None, typed.index, object), pd.Series(pd.NA, typed.index, "Int64")
        if self._labels is not None:
            label = pd.Series(self._labels.lookup(typed.index.to_numpy()), typed.index, "str")
            code = whole_numbers(label)
            issue[code.isna()] = "bad_label"
            issue[_is_blank(label)] = "missing_label"
        issue[typed["productid"].isna()] = "bad_productid"
        issue[_is_blank(raw["productid"])] = "missing_productid"
        valid = np.flatnonzero(pd.isna(issue))
        again = self._productids.use(typed["productid"].iloc[valid].to_numpy(np.int64))
        issue[valid[again]] = "duplicate_productid"
        return typed.assign(
            label=label,
            prdtypecode=code,
            title_hash=title_hash,
            issue=pd.Series(issue, typed.index, object),
        )


def _is_blank(texts: pd.Series) -> pd.Series:
    return texts.str.strip() == ""
