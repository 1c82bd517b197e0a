from __future__ import annotations

from collections.abc import Iterator

import pytest

from rakuten_tasks.storage.read_ahead import READERS, map_ahead


def test_results_come_in_order_and_few_items_are_taken_ahead():
    taken: list[int] = []

    def items() -> Iterator[int]:
        for number in range(30):
            taken.append(number)
            yield number

    results = map_ahead(lambda number: number * 2, items())
    assert next(results) == 0
    assert len(taken) <= READERS + 1
    assert list(results) == [number * 2 for number in range(1, 30)]


def test_an_error_comes_at_its_item():
    def read(number: int) -> float:
        return 1 / (number - 1)

    results = map_ahead(read, range(3))
    assert next(results) == -1
    with pytest.raises(ZeroDivisionError):
        next(results)
