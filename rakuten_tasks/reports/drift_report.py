"""drift_report.html (Evidently's report below our decision) and drift_report.json."""

from __future__ import annotations

import json
import os
import warnings
from pathlib import Path
from tempfile import TemporaryDirectory

import fsspec
import pandas as pd

from rakuten_tasks.monitoring.columns import DRIFT_COLUMNS
from rakuten_tasks.monitoring.comparison import DriftReport
from rakuten_tasks.monitoring.decision import Outcome
from rakuten_tasks.monitoring.drift_tests import RULE
from rakuten_tasks.monitoring.values import CATEGORIES, categories, numbers
from rakuten_tasks.reports.drift_deck import decision_page
from rakuten_tasks.reports.page import standalone

HTML, JSON = "drift_report.html", "drift_report.json"


def write_report(report: DriftReport, reference: pd.DataFrame, window: pd.DataFrame, folder: str) -> str:
    """Both files into the folder, local or any fsspec address. -> the address of the page"""
    page = decision_page(report)
    html = standalone("Drift", page)
    # of a few rows Evidently says drift whatever they hold, and without any column it raises
    if report.decision.outcome is not Outcome.NOT_ENOUGH_DATA:
        html = evidently_html(reference, window).replace("<body>", f"<body>{page}", 1)
    files = {HTML: html, JSON: json.dumps(report.to_dict(), indent=1, allow_nan=False)}
    for name, content in files.items():
        with fsspec.open(f"{folder.rstrip('/')}/{name}", "w", encoding="utf-8", auto_mkdir=True) as file:
            file.write(content)
    return f"{folder.rstrip('/')}/{HTML}"


def evidently_html(reference: pd.DataFrame, window: pd.DataFrame) -> str:
    """Evidently's page of the columns that it survives: those with usable values on both sides."""
    sides = [_usable(frame) for frame in (reference, window)]
    shared = [name for name in sides[0].columns if name in sides[1].columns]
    os.environ.setdefault("DO_NOT_TRACK", "1")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its dependencies' deprecations, and divisions by a constant column's spread
        from evidently import DataDefinition, Dataset, Report  # 6 s and 290 MB
        from evidently.presets import DataDriftPreset

        told = [name for name in shared if name in CATEGORIES]
        definition = DataDefinition(
            numerical_columns=[name for name in shared if name not in CATEGORIES], categorical_columns=told
        )
        reference_set, window_set = (Dataset.from_pandas(side[shared], data_definition=definition) for side in sides)
        # the decision's own tests, so that the figures below it do not speak of others
        preset = DataDriftPreset(num_method="ks", cat_method="chisquare", threshold=RULE.alpha / len(shared))
        snapshot = Report([preset]).run(window_set, reference_set)
        with TemporaryDirectory() as folder:
            snapshot.save_html(f"{folder}/{HTML}")
            return (Path(folder) / HTML).read_text(encoding="utf-8")


def _usable(frame: pd.DataFrame) -> pd.DataFrame:
    clean = {
        name: _harmless(categories(frame[name])) if name in CATEGORIES else numbers(frame[name])
        for name in DRIFT_COLUMNS
        if name in frame.columns
    }
    return pd.DataFrame({name: values for name, values in clean.items() if values.notna().sum() >= RULE.values})


def _harmless(texts: pd.Series) -> pd.Series:
    """Evidently writes categories into a script as they are, where </script> ends it and begins what follows."""
    return texts.str.replace("<", "‹").str.replace(">", "›")
