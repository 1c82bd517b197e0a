from __future__ import annotations

from pathlib import Path

import pytest
from flytekit.core.checkpointer import SyncCheckpoint
from flytekit.exceptions.system import FlyteDownloadDataException

from rakuten_tasks.runtime.execution import FlyteCheckpointStore, checkpoints, execution


def test_an_attempt_reads_what_the_one_before_it_wrote_last(tmp_path):
    first = FlyteCheckpointStore(SyncCheckpoint(str(tmp_path / "1")))
    assert first.read() is None
    (tmp_path / "1").mkdir()
    first.write(b"step 1")
    first.write(b"step 2")
    second = FlyteCheckpointStore(SyncCheckpoint(str(tmp_path / "2"), str(tmp_path / "1")))
    assert second.read() == b"step 2"


@pytest.mark.parametrize("folder", ["", "never made"])
def test_an_attempt_before_that_wrote_nothing_is_no_fault(tmp_path, folder):
    before = tmp_path / folder
    if not folder:
        before = tmp_path / "empty"
        before.mkdir()
    assert FlyteCheckpointStore(SyncCheckpoint(str(tmp_path / "2"), str(before))).read() is None


class Faulty(SyncCheckpoint):
    """A store that is away for the first `faults` tries."""

    def __init__(self, faults: int, dest: Path, src: Path) -> None:
        super().__init__(str(dest), str(src))
        self.faults = faults

    def read(self) -> bytes | None:
        if self.faults > 0:
            self.faults -= 1
            raise FlyteDownloadDataException("s3://a", "/b", "hung up")
        return super().read()


def test_a_store_that_hangs_up_is_asked_again_and_in_the_end_training_starts_anew(tmp_path, caplog):
    (tmp_path / "1").mkdir()
    (tmp_path / "1" / "checkpoint").write_bytes(b"step 3")
    assert FlyteCheckpointStore(Faulty(4, tmp_path / "2", tmp_path / "1"), wait=0).read() == b"step 3"
    assert FlyteCheckpointStore(Faulty(5, tmp_path / "2", tmp_path / "1"), wait=0).read() is None
    assert "checkpoint cannot be downloaded, training starts from the beginning" in caplog.text


def test_locally_a_training_is_found_again_by_its_inputs_and_forgotten_once_it_is_done(tmp_path, monkeypatch):
    monkeypatch.setenv("RAKUTEN_VAR", str(tmp_path))
    assert execution() == ""

    def cut_short() -> None:
        with checkpoints("train", ["data"], {"epochs": 3}) as store:
            store.write(b"step 1")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cut_short()
    with checkpoints("train", ["data"], {"epochs": 4}) as store:
        assert store.read() is None
    with checkpoints("train", ["data"], {"epochs": 3}) as store:
        assert store.read() == b"step 1"
    assert not list((tmp_path / "checkpoints").iterdir())
