from __future__ import annotations

import os

import pytest

from rakuten_tasks.training.distributed import once_on_each_node
from tests.support.several_processes import run_in


def process_of_the_work() -> tuple[int, int]:
    return once_on_each_node(os.getpid), os.getpid()


def test_one_process_does_it_itself() -> None:
    assert once_on_each_node(os.getpid) == os.getpid()


@pytest.mark.slow
def test_of_several_processes_the_first_of_the_node_does_it_for_all() -> None:
    results = run_in(2, process_of_the_work)
    assert results[0][0] == results[1][0] == results[0][1] != results[1][1]
