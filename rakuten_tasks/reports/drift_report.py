"""Writes drift_report.html (our decision above Evidently's report) and drift_report.json."""

from __future__ import annotations

import json
import os
import warnings
from pathlib import Path
from tempfile import TemporaryDirectory

import pandas as pd

from rakuten_tasks.monitoring.columns import DRIFT_COLUMNS
from rakuten_tasks.monitoring.comparison import DriftReport
from rakuten_tasks.monitoring.decision import Outcome
from rakuten_tasks.monitoring.drift_tests import RULE
from rakuten_tasks.monitoring.values import CATEGORIES, categories, numbers
from rakuten_tasks.reports.drift_deck import drift_deck
from rakuten_tasks.reports.page import standalone
from rakuten_tasks.storage.addresses import write_file

HTML, JSON = "drift_report.html", "drift_report.json"


def write_report(report: DriftReport, reference: pd.DataFrame, window: pd.DataFrame, folder: str) -> str:
    """Write both files into the folder, local or any fsspec address. Return the address of the HTML page."""
    folder = folder.rstrip("/")
    deck = drift_deck(report)
    html = standalone("Drift", deck)
    # with few rows Evidently always reports drift, and without any column it raises
    if report.decision.outcome is not Outcome.NOT_ENOUGH_DATA:
        html = evidently_html(reference, window).replace("<body>", f"<body>{deck}", 1)
    for name, content in {HTML: html, JSON: json.dumps(report.to_dict(), indent=1, allow_nan=False)}.items():
        write_file(f"{folder}/{name}", content)
    return f"{folder}/{HTML}"


def evidently_html(reference: pd.DataFrame, window: pd.DataFrame) -> str:
    """Return Evidently's page of the columns with enough usable values in both tables; with fewer, Evidently raises."""
    frames = [_usable(frame) for frame in (reference, window)]
    shared = [name for name in frames[0].columns if name in frames[1].columns]
    os.environ.setdefault("DO_NOT_TRACK", "1")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecations in its dependencies, and divisions by a constant column's spread
        from evidently import DataDefinition, Dataset, Report  # 6 s and 290 MB
        from evidently.presets import DataDriftPreset

        definition = DataDefinition(
            numerical_columns=[name for name in shared if name not in CATEGORIES],
            categorical_columns=[name for name in shared if name in CATEGORIES],
        )
        datasets = [Dataset.from_pandas(frame[shared], data_definition=definition) for frame in frames]
        # the same tests as our decision, so that Evidently's figures agree with it
        preset = DataDriftPreset(num_method="ks", cat_method="chisquare", threshold=RULE.alpha / len(shared))
        snapshot = Report([preset]).run(datasets[1], datasets[0])
        with TemporaryDirectory() as folder:
            snapshot.save_html(f"{folder}/{HTML}")
            return (Path(folder) / HTML).read_text(encoding="utf-8")


def _usable(frame: pd.DataFrame) -> pd.DataFrame:
    """Clean the drift columns, and keep those with enough values."""
    clean = {
        name: _without_tags(categories(frame[name])) if name in CATEGORIES else numbers(frame[name])
        for name in DRIFT_COLUMNS
        if name in frame.columns
    }
    return pd.DataFrame({name: values for name, values in clean.items() if values.notna().sum() >= RULE.values})


def _without_tags(texts: pd.Series) -> pd.Series:
    """Replace < and >: Evidently writes categories into a script unescaped, where </script> would end it."""
    return texts.str.replace("<", "‹").str.replace(">", "›")
