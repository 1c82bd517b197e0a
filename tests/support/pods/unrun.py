"""Pods that run nothing: each task's outputs are values made up from its inputs, equal for equal inputs."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import msgpack
from flyteidl.core.literals_pb2 import Blob, Literal, LiteralCollection, LiteralMap, Primitive, Scalar
from flyteidl.core.tasks_pb2 import TaskTemplate
from flyteidl.core.types_pb2 import LiteralType, SimpleType

from tests.support.pods.pod import Ended


class UnrunPods:
    """Stands in for a Machine, to see which tasks Flyte would start and which it would take from the cache."""

    names: Mapping[str, str] = {}

    def run(self, task: TaskTemplate, inputs: LiteralMap, *_: Any, **settings: str) -> Ended:
        """Make up outputs. An output named `run`, as MLflow's, differs between executions."""
        ignored = {"run", *task.metadata.cache_ignore_input_vars}
        values = {name: _canonical(literal) for name, literal in inputs.literals.items() if name not in ignored}
        outputs = {}
        for name, variable in task.interface.outputs.variables.items():
            execution = settings["FLYTE_INTERNAL_EXECUTION_ID"] if name == "run" else ""
            text = json.dumps([task.id.name, name, execution, values], sort_keys=True)
            outputs[name] = _value(variable.type, hashlib.sha256(text.encode()).hexdigest())
        written = {"outputs.pb": LiteralMap(literals=outputs).SerializeToString()}
        return Ended("nowhere", 0, "", 0.0, [], written)


def _canonical(literal: Literal) -> object:
    """What a task reads: it does not see the order of a dataclass's keys."""
    if literal.scalar.binary.value:
        return msgpack.loads(literal.scalar.binary.value, strict_map_key=False)
    if literal.WhichOneof("value") == "collection":
        return [_canonical(item) for item in literal.collection.literals]
    return literal.SerializeToString(deterministic=True).hex()


def _value(kind: LiteralType, digest: str) -> Literal:
    if kind.HasField("collection_type"):
        items = [_value(kind.collection_type, digest + str(number)) for number in range(2)]
        return Literal(collection=LiteralCollection(literals=items))
    if kind.HasField("blob"):
        return Literal(scalar=Scalar(blob=Blob(uri=f"s3://unrun/{digest}")))
    if kind.simple == SimpleType.STRUCT:
        value = Literal(scalar=Scalar())
        value.scalar.binary.value, value.scalar.binary.tag = msgpack.dumps({"digest": digest}), "msgpack"
        return value
    primitives = {
        SimpleType.BOOLEAN: Primitive(boolean=True),
        SimpleType.INTEGER: Primitive(integer=int(digest[:8], 16)),
        SimpleType.STRING: Primitive(string_value=digest),
    }
    return Literal(scalar=Scalar(primitive=primitives[kind.simple]))
