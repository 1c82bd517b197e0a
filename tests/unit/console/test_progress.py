from __future__ import annotations

import io
import logging
import sys

import pytest

from rakuten_tasks.console import progress
from rakuten_tasks.console.progress import Progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.INFO)
    return caplog


def without_times(log: pytest.LogCaptureFixture) -> list[str]:
    return [message.rpartition(",")[0] for message in log.messages]


def test_without_a_terminal_a_loop_is_one_line_of_the_log(log, capsys):
    assert list(Progress("abc", "ingest", unit=" products")) == ["a", "b", "c"]
    with Progress(total=2_000_000, desc="weights", unit="B", unit_scale=True) as download:
        download.update(2_000_000)
    assert without_times(log) == ["ingest: 3 of 3 products", "weights: 2.00M of 2.00MB"]
    assert capsys.readouterr().err == ""


def test_without_a_terminal_a_long_loop_has_lines_before_its_end(log, monkeypatch):
    monkeypatch.setattr(progress, "LOG_SECONDS", 0)
    assert list(Progress(range(2), "fetch", unit=" shards")) == [0, 1]
    assert list(dict.fromkeys(without_times(log))) == ["fetch: 1 of 2 shards", "fetch: 2 of 2 shards"]


def test_a_terminal_shows_a_bar_and_no_line(log, monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    assert list(Progress(range(2), "fetch", unit=" shards")) == [0, 1]
    assert "fetch:   0%|" in terminal.getvalue()
    assert log.messages == []
