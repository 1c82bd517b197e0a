from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner

from rakuten_tasks.monitoring.__main__ import main
from rakuten_tasks.monitoring.comparison import DriftInput, compare_inputs, measure_accuracy
from rakuten_tasks.monitoring.decision import DriftReport, Outcome
from rakuten_tasks.reports.drift_report import write_report
from tests.support.catalogues import write_catalogue
from tests.support.drift_rows import drift_rows


def written(reference: pd.DataFrame, window: pd.DataFrame, folder: Path) -> DriftReport:
    """The report as it can be read back, strictly."""
    report, before, after = compare_inputs(DriftInput(reference, "then"), DriftInput(window, "now"))
    page = write_report(report, before.rows, after.rows, str(folder))
    assert "<h1>Drift</h1>" in Path(page).read_text(encoding="utf-8")

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is no JSON")

    json.loads((folder / "drift_report.json").read_text(), parse_constant=refuse)
    assert DriftReport.from_json((folder / "drift_report.json").read_text()) == report
    return report


def test_the_report_is_evidentlys_with_the_decision_on_top(tmp_path):
    window = drift_rows(seed=2).assign(brightness=np.nan, contrast=0.5, photo_bytes=np.inf, language=None)
    report = written(drift_rows(seed=1), window.assign(digit_share=2.0), tmp_path)
    assert report.decision.groups[0] == "text"
    html = (tmp_path / "drift_report.html").read_text(encoding="utf-8")
    assert html.index("<h1>Drift</h1>") < html.index("root_metric_")
    assert "unknown_word_share" in html


def test_a_category_is_text_and_never_a_script(tmp_path):
    window = drift_rows(seed=2).assign(predicted="</script><script>alert(1)</script>")
    assert written(drift_rows(seed=1), window, tmp_path).decision.drift
    html = (tmp_path / "drift_report.html").read_text(encoding="utf-8")
    assert "alert(1)" in html
    assert "<script>alert(1)" not in html


@pytest.mark.parametrize(
    "window",
    [
        pd.DataFrame(),
        drift_rows(1),
        drift_rows(500)[["designation"]].assign(designation=""),
        pd.DataFrame({"brightness": ["x"] * 400}),
    ],
    ids=["empty", "one row", "no usable column", "wrong type"],
)
def test_bad_windows_give_a_page_that_says_why(tmp_path, window):
    report = written(drift_rows(seed=1), window, tmp_path)
    assert report.decision.outcome is Outcome.NOT_ENOUGH_DATA
    assert report.decision.reason in (tmp_path / "drift_report.html").read_text()


def test_estimated_accuracy_stands_beside_the_real_one():
    answered = pd.DataFrame({"predicted": [10, 10, 40, 50], "confidence": [0.9, 0.8, 0.7, np.nan]})
    accuracy = measure_accuracy(answered.assign(true_code=[10.0, 40.0, 40.0, np.nan]))
    assert (accuracy.estimated, accuracy.real, accuracy.labelled) == (pytest.approx(0.8), pytest.approx(2 / 3), 3)
    assert 0 < accuracy.low < accuracy.real < accuracy.high < 1
    assert measure_accuracy(answered).real is None
    assert measure_accuracy(pd.DataFrame()).estimated is None
    assert measure_accuracy(pd.DataFrame({"confidence": ["x", np.inf, 7.0]})).estimated is None


def run(*options: str) -> str:
    done = CliRunner().invoke(main, options, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return " ".join(done.output.split())


@pytest.fixture
def var(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mlflow_store: object) -> Path:
    monkeypatch.setenv("RAKUTEN_VAR", str(tmp_path / "var"))
    return tmp_path / "var"


def test_two_csvs_are_compared_without_any_model(tmp_path, var):
    drift_rows(seed=1).to_csv(tmp_path / "reference.csv", index=False)
    changed = drift_rows(seed=2).assign(photo_missing=np.arange(500) % 3 == 0)
    changed.to_csv(tmp_path / "current.csv", index=False)
    printed = run("--reference", str(tmp_path / "reference.csv"), "--current", str(tmp_path / "current.csv"))
    assert "drift in photo: photo_missing (chi-square): effect 0." in printed
    report = DriftReport.from_json((var / "monitoring/reports/drift_report.json").read_text())
    assert report.decision.groups == ["photo"]


def test_two_catalogues_are_compared(tmp_path, var):
    old = write_catalogue(tmp_path / "old", labelled=310, unlabelled=0)
    new = write_catalogue(tmp_path / "new", labelled=3, unlabelled=310)
    for photo in (new / "images/image_test").iterdir():
        photo.unlink()
    printed = run("--reference", str(old), "--current", str(new))
    assert "drift in photo: photo_missing (chi-square): effect 1.000" in printed
    assert "there is no champion: columns that only a model can compute are left out" in printed


def test_product_csvs_are_compared_by_their_texts(tmp_path, var):
    texts = [" ".join(words) for words in np.random.default_rng(0).choice(["livre", "drone", "bleu"], (700, 3))]
    pd.DataFrame({"designation": texts[:350], "description": ""}).to_csv(tmp_path / "reference.csv")
    pd.DataFrame({"designation": [t + " 2024 neuf" for t in texts[350:]]}).to_csv(tmp_path / "current.csv")
    printed = run("--reference", str(tmp_path / "reference.csv"), "--current", str(tmp_path / "current.csv"))
    assert "drift in text" in printed


@pytest.mark.parametrize(
    ("name", "content"),
    [("no.csv.gz", b"hello"), ("no.parquet", b"hello")],
)
def test_a_file_that_cannot_be_read_is_named(tmp_path, var, name, content):
    (tmp_path / "a.csv").write_text("designation_length\n3\n")
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=f"{name}: not a readable"):
        run("--reference", str(tmp_path / "a.csv"), "--current", str(tmp_path / name))


def test_values_of_another_type_are_no_drift(tmp_path, var):
    reference, window = drift_rows(seed=1), drift_rows(seed=2)
    window["confidence"] = window["confidence"] > 0.5
    window["predicted"] = [{"code": 1}] * len(window)
    reference.to_parquet(tmp_path / "reference.parquet")
    window.to_parquet(tmp_path / "window.parquet")
    run("--reference", str(tmp_path / "reference.parquet"), "--current", str(tmp_path / "window.parquet"))
    decision = DriftReport.from_json((var / "monitoring/reports/drift_report.json").read_text()).decision
    assert (decision.outcome, decision.groups) == (Outcome.NO_DRIFT, [])


def test_files_that_are_no_products_are_refused_with_what_is_needed(tmp_path, var):
    (tmp_path / "a.csv").write_text("x,y\n1,2\n")
    (tmp_path / "empty.csv").write_text("")
    with pytest.raises(ValueError, match="it needs designation"):
        run("--reference", str(tmp_path / "a.csv"), "--current", str(tmp_path / "a.csv"))
    with pytest.raises(ValueError, match="is empty"):
        run("--reference", str(tmp_path / "empty.csv"), "--current", str(tmp_path / "a.csv"))
