"""The blob, the store and the cadence."""

from __future__ import annotations

import hashlib
import os
import threading
from pathlib import Path

import pytest
import torch
from torch import Tensor

from rakuten_tasks.training import checkpoint
from rakuten_tasks.training.checkpoint import Checkpoints, LocalCheckpointStore, Record, decode, encode, fingerprint

RECORDS = {
    "bag": Record({"table": torch.arange(6.0).view(2, 3)}, {}, finished=True),
    "LSTM": Record(
        {"weights/a": torch.ones(2, dtype=torch.half), "step": torch.tensor(3.0)}, {"loss": 0.1, "n": 2**90}
    ),
}
BLOB = encode(RECORDS, "ours")


class Kept:
    """A store in memory that counts."""

    def __init__(self, blob: bytes | None = None) -> None:
        self.blob, self.written = blob, 0

    def read(self) -> bytes | None:
        return self.blob

    def write(self, content: bytes) -> None:
        self.blob, self.written = content, self.written + 1


def flipped(blob: bytes, at: int) -> bytes:
    return blob[:at] + bytes([blob[at] ^ 1]) + blob[at + 1 :]


def signed(body: bytes) -> bytes:
    return hashlib.sha256(body).digest() + body


def test_a_blob_holds_what_was_put_in() -> None:
    found = decode(BLOB, "ours")
    assert found.keys() == RECORDS.keys()
    for phase, record in RECORDS.items():
        assert found[phase].finished is record.finished
        assert found[phase].facts == record.facts
        assert found[phase].tensors.keys() == record.tensors.keys()
        for name, tensor in record.tensors.items():
            assert found[phase].tensors[name].dtype == tensor.dtype
            assert torch.equal(found[phase].tensors[name], tensor)


def test_a_blob_is_safetensors_and_json_behind_a_checksum_and_no_pickle() -> None:
    body = BLOB[32:]
    header = int.from_bytes(body[:8], "little")
    assert body[8 : 8 + header].startswith(b'{"__metadata__"')
    assert len(body) == 8 + header + 6 * 4 + 2 * 2 + 4  # nothing but the tensors' numbers


@pytest.mark.parametrize(
    ("blob", "reason"),
    [
        (b"", "damaged or cut short"),
        (BLOB[:20], "damaged or cut short"),
        (BLOB[:-1], "damaged or cut short"),
        (BLOB + b"\0", "damaged or cut short"),
        *((flipped(BLOB, at), "damaged or cut short") for at in (0, 31, 32, 45, 200, len(BLOB) - 1)),
        (signed(b""), "of another format"),
        (signed(b"\x80\x04]\x94."), "of another format"),
        (signed((1 << 60).to_bytes(8, "little") + b"{}"), "of another format"),
        (signed((2).to_bytes(8, "little") + b"[]"), "of another format"),
        (signed(BLOB[32:-4]), "of another format"),
        (encode(RECORDS, "theirs"), "of another training"),
    ],
)
def test_what_is_no_whole_checkpoint_of_this_training_is_ignored_with_one_warning(
    blob: bytes, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    store = Kept(blob)
    checkpoints = Checkpoints(store, "ours")
    assert checkpoints.take("LSTM") is None
    assert checkpoints.take("bag") is None
    (warning,) = caplog.messages
    assert warning.startswith("checkpoint ignored, training starts anew: it is")
    assert reason in warning
    assert store.written == 0


def test_a_checkpoint_of_a_later_format_is_ignored(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(checkpoint, "FORMAT", 2)
    later = encode(RECORDS, "ours")
    monkeypatch.undo()
    assert Checkpoints(Kept(later), "ours").take("LSTM") is None
    assert caplog.messages == ["checkpoint ignored, training starts anew: it is of format 2, not 1"]


def test_what_was_restored_is_written_again_at_once() -> None:
    store = Kept(BLOB)
    Checkpoints(store, "ours")
    assert (store.written, store.blob) == (1, BLOB)


def test_a_finished_phase_stays_in_the_checkpoints_of_the_next_and_an_unfinished_record_is_replaced() -> None:
    store = Kept()
    checkpoints = Checkpoints(store, "ours")
    checkpoints.save("bag", RECORDS["bag"])
    checkpoints.save("LSTM", Record({"a": torch.zeros(1)}, {}))
    checkpoints.save("LSTM", Record({"b": torch.ones(1)}, {}))
    found = decode(store.blob or b"", "ours")
    assert {phase: list(record.tensors) for phase, record in found.items()} == {"bag": ["table"], "LSTM": ["b"]}


class Clock:
    """Tells the time that the test sets."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.mark.parametrize(
    ("interval", "cost", "saved"),
    [(30, 1, [30, 61, 92]), (30, 3, [30, 93]), (5, 0.0, [*range(5, 101, 5)]), (0, 3.0, [*range(1, 101, 4)])],
)
def test_a_checkpoint_is_due_after_the_interval_or_later_where_a_store_is_slow(
    interval: float, cost: float, saved: list[int]
) -> None:
    clock, times = Clock(), []

    class Slow(Kept):
        def write(self, content: bytes) -> None:
            times.append(round(clock.now))
            clock.now += cost

    checkpoints = Checkpoints(Slow(), "ours", interval, clock)
    while clock.now < 100:
        clock.now += 1  # a step takes a second
        checkpoints.save_if_due("LSTM", lambda: RECORDS["LSTM"])
    assert times == saved


def test_a_store_that_fails_does_not_end_the_training(caplog: pytest.LogCaptureFixture) -> None:
    class Full(Kept):
        def write(self, content: bytes) -> None:
            raise OSError("No space left on device")

    Checkpoints(Full(), "ours").save("LSTM", RECORDS["LSTM"])
    assert caplog.messages == ["no checkpoint written, training goes on: No space left on device"]


def test_a_folder_keeps_the_last_blob_and_nothing_else(tmp_path: Path) -> None:
    store = LocalCheckpointStore(tmp_path / "checkpoints")
    assert store.read() is None
    store.write(b"one")
    store.write(b"two")
    assert store.read() == b"two"
    assert [path.name for path in store.folder.iterdir()] == ["checkpoint"]
    store.remove()
    assert store.read() is None
    assert not store.folder.exists()
    store.remove()


def test_a_write_that_breaks_off_leaves_the_blob_before_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = LocalCheckpointStore(tmp_path)
    store.write(b"one")

    def full(handle: int) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        store.write(b"two")
    assert store.read() == b"one"
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint"]


def test_what_a_killed_process_left_half_written_is_swept_up_after_a_while(tmp_path: Path) -> None:
    abandoned, fresh = tmp_path / "a.part", tmp_path / "b.part"
    for path in (abandoned, fresh):
        path.write_bytes(b"half")
    os.utime(abandoned, (0, 0))
    LocalCheckpointStore(tmp_path).write(b"one")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b.part", "checkpoint"]


def test_many_writers_at_once_never_show_a_mixture(tmp_path: Path) -> None:
    store = LocalCheckpointStore(tmp_path)
    blobs = [bytes([number]) * 100_000 for number in range(4)]
    store.write(blobs[0])
    writers = [threading.Thread(target=lambda blob=blob: [store.write(blob) for _ in range(20)]) for blob in blobs]
    for writer in writers:
        writer.start()
    seen = set()
    while any(writer.is_alive() for writer in writers):
        seen.add(store.read())
    for writer in writers:
        writer.join()
    assert seen <= set(blobs)


def test_the_fingerprint_changes_with_all_that_decides_the_result(tmp_path: Path) -> None:
    shard, copy, other = (tmp_path / name for name in ("a", "b", "c"))
    shard.write_bytes(b"photos")
    copy.write_bytes(b"photos")
    other.write_bytes(b"photoz")
    born: dict[str, Tensor] = {"w": torch.ones(3)}
    ours = fingerprint([0, {"epochs": 3}, [10, 20]], [shard], born)
    assert fingerprint([0, {"epochs": 3}, [10, 20]], [copy], born) == ours  # by content, not by path
    others = [
        fingerprint([1, {"epochs": 3}, [10, 20]], [shard], born),
        fingerprint([0, {"epochs": 4}, [10, 20]], [shard], born),
        fingerprint([0, {"epochs": 3}, [10, 21]], [shard], born),
        fingerprint([0, {"epochs": 3}, [10, 20]], [other], born),
        fingerprint([0, {"epochs": 3}, [10, 20]], [shard, copy], born),
        fingerprint([0, {"epochs": 3}, [10, 20]], [shard], {"w": torch.tensor([1.0, 1.0, 2.0])}),
        fingerprint([0, {"epochs": 3}, [10, 20]], [shard], {"w": torch.ones(3, 1)}),
    ]
    assert len({ours, *others}) == 8
