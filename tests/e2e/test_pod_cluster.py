"""The stand-in for a cluster walks what our workflows do not have (yet), and does as Flyte does."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgpack
import pytest
from flyteidl.core.literals_pb2 import Binary, Binding, BindingData, Literal, Primitive, Scalar
from flyteidl.core.types_pb2 import OutputReference, PromiseAttribute
from flytekit import FlyteContextManager
from flytekit.core.type_engine import TypeEngine
from flytekit.models.literals import Literal as LiteralModel

from tests.support.pods.bindings import bind
from tests.support.pods.cluster import Cluster, ExecutionError, Fault
from tests.support.pods.image import copied
from tests.support.pods.package import package
from tests.support.pods.pod import Machine

pytestmark = pytest.mark.timeout(600)  # a process for each task

TOYS = """
import os
from dataclasses import dataclass
from functools import partial
from typing import Annotated, NamedTuple
from flytekit import Cache, HashMethod, conditional, current_context, dynamic, map_task, task, workflow
from flytekit.exceptions.user import FlyteDataNotFoundException, FlyteRecoverableException

IMAGE = "{{.image.task.fqn}}:{{.image.task.version}}"

@dataclass
class Pair:
    left: int
    names: list[str]

@dataclass
class Box:
    content: int
    made_by: str

Keyed = Annotated[Box, HashMethod(lambda box: str(box.content))]

class Packed(NamedTuple):
    boxes: list[Keyed]
    added: list[list[Keyed]]

@task(container_image=IMAGE, cache=Cache(version="1", ignored_inputs=("run",)))
def double(number: int, run: str) -> int:
    return 2 * number

@task(container_image=IMAGE)
def name(text: str) -> str:
    return "<" + text + ">"

@task(container_image=IMAGE, retries=1)
def count_attempts() -> int:
    kept = current_context().checkpoint
    try:
        before = int(kept.read()) if kept.prev_exists() else 0
    except FlyteDataNotFoundException:  # the attempt before wrote nothing
        before = 0
    kept.write(str(before + 1).encode())
    if "FAULT" in os.environ:
        raise FlyteRecoverableException("once more")
    return before + 1

@dynamic(container_image=IMAGE)
def doubled(count: int, run: str) -> list[int]:
    return [double(number=i, run=run) for i in range(count)]

@task(container_image=IMAGE)
def make(number: int, run: str) -> Keyed:
    return Box(number, run)

@task(container_image=IMAGE, cache=Cache(version="1"))
def add(box: Box, more: Box) -> Keyed:
    return Box(box.content + more.content, box.made_by)

@dynamic(container_image=IMAGE)
def pack(counts: list[int], given: Box, run: str) -> Packed:
    boxes = [make(number=count, run=run) for count in counts]
    return Packed(boxes, [map_task(partial(add, more=more))(box=boxes) for more in (boxes[0], given)])

@task(container_image=IMAGE, cache=Cache(version="1"))
def total(boxes: list[Box], added: list[list[Box]]) -> int:
    return sum(box.content for part in (boxes, *added) for box in part)

@workflow
def packing(run: str) -> int:
    boxes, added = pack(counts=[1, 2], given=make(number=5, run=run), run=run)
    return total(boxes=boxes, added=added)

@workflow
def inner(pair: Pair, run: str) -> str:
    number = double(number=pair.left, run=run)
    return (
        conditional("size").if_((number > 2) & (number < 10)).then(name(text=pair.names[1]))
        .elif_(number == 10).then(name(text="ten")).else_().fail("neither")
    )

@workflow
def whole(pair: Pair, count: int = 2, run: str = "a") -> tuple[list[int], str, int]:
    return doubled(count=count, run=run), inner(pair=pair, run=run), count_attempts()
"""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Cluster:
    folder = tmp_path_factory.mktemp("toys")
    (folder / "image/toys").mkdir(parents=True)
    (folder / "image/toys/__init__.py").touch()
    (folder / "image/toys/flows.py").write_text(TOYS)
    packaged = package(folder / "image", folder / "package", packages="toys")
    return Cluster(packaged, Machine(folder / "image", folder / "disks", str(folder / "store"), {}, {}))


def run(cluster: Cluster, execution: str, *faults: Fault, left: int = 2, run: str = "a") -> Mapping[str, Literal]:
    pair = Binary(value=msgpack.dumps({"left": left, "names": ["a", "b"]}), tag="msgpack")
    inputs = {
        "pair": Literal(scalar=Scalar(binary=pair)),
        "run": Literal(scalar=Scalar(primitive=Primitive(string_value=run))),
    }
    return cluster.execute("toys.flows.whole", inputs, execution, faults)


def value(literal: Literal, of: type) -> Any:
    return TypeEngine.to_python_value(FlyteContextManager.current_context(), LiteralModel.from_flyte_idl(literal), of)


def test_dynamic_tasks_branches_parts_of_dataclasses_retries_and_the_cache(cluster):
    outputs = run(cluster, "first", Fault("toys.flows.count_attempts", environment={"FAULT": "1"}))
    assert value(outputs["o0"], list[int]) == [0, 2]
    assert value(outputs["o1"], str) == "<b>"
    assert value(outputs["o2"], int) == 2  # read from the checkpoint of the attempt before
    assert [ran.attempt for ran in cluster.of("first", "count_attempts")] == [0, 1]
    run(cluster, "second", run="b")
    assert [ran.pod for ran in cluster.of("second", "double")] == [None] * 3
    assert value(run(cluster, "third", left=5)["o1"], str) == "<ten>"
    assert sum(ran.pod is not None for ran in cluster.of("third", "double")) == 1


def test_what_a_dynamic_task_plans_is_known_by_what_it_holds_and_what_it_was_given_is_not(cluster):
    """Its map tasks' items, lists of dataclasses and lists of such lists come out with the hashes they were made with.

    A dataclass that it was given has none any more: what is planned with it is computed anew as soon as it is otherwise
    written, by another run or in another place.
    """

    def packed(execution: str, run: str) -> tuple[int, list[tuple[int | None, bool]]]:
        given = {"run": Literal(scalar=Scalar(primitive=Primitive(string_value=run)))}
        outputs = cluster.execute("toys.flows.packing", given, execution)
        added = sorted((ran.item, ran.pod is not None) for ran in cluster.of(execution, "add"))
        return value(outputs["o0"], int), added

    assert packed("packing", "a") == (1 + 2 + (2 + 3) + (6 + 7), [(0, True), (0, True), (1, True), (1, True)])
    assert packed("packing-again", "b") == (21, [(0, False), (0, True), (1, False), (1, True)])
    assert [ran.pod for ran in cluster.of("packing-again", "total")] == [None]


def test_a_part_of_a_dataclass_has_its_keys_in_another_order_each_time():
    whole = Binary(value=msgpack.dumps({"part": {"a": 1, "b": [{"c": 2, "d": 3}]}}), tag="msgpack")
    promise = OutputReference(var="x", attr_path=[PromiseAttribute(string_value="part")])
    binding = Binding(var="y", binding=BindingData(promise=promise))
    parts = [bind([binding], lambda *_: Literal(scalar=Scalar(binary=whole))).literals["y"] for _ in range(2)]
    read = [msgpack.loads(part.scalar.binary.value) for part in parts]
    assert read == [{"a": 1, "b": [{"c": 2, "d": 3}]}] * 2
    assert sorted(map(list, read)) == [["a", "b"], ["b", "a"]]
    assert sorted(list(part["b"][0]) for part in read) == [["c", "d"], ["d", "c"]]


def test_no_branch_and_no_attempt_that_is_left_fail_with_what_was_said(cluster):
    with pytest.raises(ExecutionError, match="neither"):
        run(cluster, "nothing", left=9)
    faults = [Fault("toys.flows.count_attempts", attempt, environment={"FAULT": "1"}) for attempt in (0, 1)]
    with pytest.raises(ExecutionError, match=r"(?s)all attempts failed, the last with: .*once more"):
        run(cluster, "in vain", *faults)


def test_a_killed_pod_is_an_attempt(cluster):
    outputs = run(cluster, "killed", Fault("toys.flows.count_attempts", kill_when=lambda checkpoints: True))
    assert value(outputs["o2"], int) == 1
    assert [ran.pod.returncode for ran in cluster.of("killed", "count_attempts")] == [-9, 0]


def test_a_missing_input_and_a_fixed_one_are_refused(cluster):
    with pytest.raises(ValueError, match=r"toys\.flows.whole lacks"):
        cluster.execute("toys.flows.whole", {}, "lacking")


def test_every_pods_disk_is_gone(cluster):
    assert list(Path(cluster.machine.work).iterdir()) == []


def test_of_a_dockerfile_what_the_target_and_its_stages_copy_is_taken():
    dockerfile = """
FROM python:3.11 AS libraries
COPY constraints.txt ./
FROM libraries AS serve
COPY serving serving
FROM libraries AS task
COPY --from=libraries /a /b
COPY --chown=1000:1000 rakuten_tasks \\
  rakuten_tasks
COPY README.md pyproject.toml ./
"""
    assert copied(dockerfile, "task") == ["constraints.txt", "rakuten_tasks", "README.md", "pyproject.toml"]
    assert copied(dockerfile, "serve") == ["constraints.txt", "serving"]
