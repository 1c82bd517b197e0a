import numpy as np
from numpy.typing import NDArray

from rakuten_tasks.preprocessing.feature_shards import (
    OFFSETS,
    FeatureTable,
    ShardArrays,
    class_index,
    concatenate,
    ragged,
    write_shard,
)


def shard(path, first, lengths):
    tokens, offsets = ragged([np.full(n, first + i, dtype=np.int32) for i, n in enumerate(lengths)])
    rows = first + np.arange(len(lengths))
    write_shard(
        path, {"row": rows, "square": np.stack([rows, rows**2], 1), "tokens": tokens, "tokens" + OFFSETS: offsets}
    )
    return path


def test_rows_of_several_shards_come_back_in_the_order_asked_for(tmp_path):
    arrays = ShardArrays([shard(tmp_path / "a", 0, [1, 0, 2]), shard(tmp_path / "b", 3, [3, 1])])
    assert len(arrays) == 5
    assert arrays.column("row").tolist() == [0, 1, 2, 3, 4]
    asked = np.array([4, 0, 2, 4])
    assert arrays.take("square", asked).tolist() == [[4, 16], [0, 0], [2, 4], [4, 16]]
    assert [row.tolist() for row in arrays.take_ragged("tokens", np.array([3, 1, 2]))] == [[3, 3, 3], [], [2, 2]]


def test_a_code_becomes_its_position_among_the_classes_and_an_unknown_one_minus_one():
    assert class_index([50, 10, None, 7], [10, 50]).tolist() == [1, 0, -1, -1]


def test_parts_of_a_shard_joined_are_the_shard(tmp_path):
    rows = [np.arange(n, dtype=np.int32) for n in (2, 0, 3, 1)]
    parts: list[dict[str, NDArray]] = []
    for part in (rows[:1], rows[1:2], rows[2:]):
        tokens, offsets = ragged(part)
        parts.append({"row": np.arange(len(part)), "tokens": tokens.astype(np.int32), "tokens" + OFFSETS: offsets})
    whole, offsets = ragged(rows)
    joined = concatenate(parts)
    assert joined["tokens"].tolist() == whole.tolist()
    assert joined["tokens" + OFFSETS].tolist() == offsets.tolist()
    assert (joined["tokens"].dtype, joined["tokens" + OFFSETS].dtype) == (np.int32, np.int64)


def test_a_table_finds_rows_whatever_their_order_on_disk(tmp_path):
    table = FeatureTable([shard(tmp_path / "b", 7, [1, 2]), shard(tmp_path / "a", 0, [2, 1])])
    assert table.has(np.array([8, 3, 0])).tolist() == [True, False, True]
    taken = table.take(np.array([8, 0, 7]))
    assert taken["square"].tolist() == [[8, 64], [0, 0], [7, 49]]
    assert taken["tokens"].tolist() == [8, 8, 0, 0, 7]
