import numpy as np

from rakuten_tasks.preprocessing.feature_shards import OFFSETS, ShardArrays, class_index, ragged, write_shard


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
