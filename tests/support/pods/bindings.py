"""What a node is given: the literals that its bindings name, and whether a condition holds."""

from __future__ import annotations

import functools
import itertools
import operator
from collections.abc import Callable, Iterable, Mapping

import msgpack
from flyteidl.core.condition_pb2 import BooleanExpression, ComparisonExpression, ConjunctionExpression, Operand
from flyteidl.core.literals_pb2 import Binary, Binding, BindingData, Literal, LiteralCollection, LiteralMap, Scalar
from flyteidl.core.types_pb2 import OutputReference

TURNS = itertools.count(1)
Lookup = Callable[[str, str], Literal]  # node's id ("" for the workflow's inputs), variable

COMPARED = {
    ComparisonExpression.EQ: operator.eq,
    ComparisonExpression.NEQ: operator.ne,
    ComparisonExpression.GT: operator.gt,
    ComparisonExpression.GTE: operator.ge,
    ComparisonExpression.LT: operator.lt,
    ComparisonExpression.LTE: operator.le,
}


def bind(bindings: Iterable[Binding], lookup: Lookup) -> LiteralMap:
    """The inputs of a node, or the outputs of a workflow."""
    return LiteralMap(literals={binding.var: _literal(binding.binding, lookup) for binding in bindings})


def _literal(data: BindingData, lookup: Lookup) -> Literal:
    kind = data.WhichOneof("value")
    if kind == "promise":
        return _resolve_path(lookup(data.promise.node_id, data.promise.var), data.promise)
    if kind == "collection":
        items = [_literal(item, lookup) for item in data.collection.bindings]
        return Literal(collection=LiteralCollection(literals=items))
    if kind == "map":
        entries = {name: _literal(entry, lookup) for name, entry in data.map.bindings.items()}
        return Literal(map=LiteralMap(literals=entries))
    if kind == "scalar":
        return Literal(scalar=data.scalar)
    raise NotImplementedError(f"a binding of kind {kind}")


def _resolve_path(literal: Literal, promise: OutputReference) -> Literal:
    """A part of a dataclass, list or dict, e.g. `config.text`; parts of dataclasses stay msgpack, as in Flyte."""
    path = [getattr(attribute, attribute.WhichOneof("value")) for attribute in promise.attr_path]
    while path and (kind := literal.WhichOneof("value")) in ("collection", "map"):
        literal = getattr(literal, kind).literals[path.pop(0)]
    if not path:
        return literal
    whole = msgpack.loads(literal.scalar.binary.value, strict_map_key=False)
    return _packed(functools.reduce(operator.getitem, path, whole))


def reordered(literal: Literal) -> Literal:
    """What a user sends of a dataclass: the same, with the keys in any order. Others stay as they are."""
    if not literal.scalar.binary.value:
        return literal
    return _packed(msgpack.loads(literal.scalar.binary.value, strict_map_key=False))


def _packed(part: object) -> Literal:
    """Encoded again by Flyte, which has read it into a map of Go's: in another order of keys each time."""
    rotated = msgpack.dumps(_rotated(part, next(TURNS)))
    return Literal(scalar=Scalar(binary=Binary(value=rotated, tag="msgpack")))


def _rotated(part: object, by: int) -> object:
    """The same with other keys first, in nested mappings too."""
    if isinstance(part, list):
        return [_rotated(item, by) for item in part]
    if not isinstance(part, dict) or not part:
        return part
    keys = list(part)
    keys = keys[by % len(keys) :] + keys[: by % len(keys)]
    return {key: _rotated(part[key], by) for key in keys}


def holds(condition: BooleanExpression, inputs: Mapping[str, Literal]) -> bool:
    """inputs: of the branch node."""
    if condition.WhichOneof("expr") == "comparison":
        comparison = condition.comparison
        compare: Callable[..., bool] = COMPARED[comparison.operator]
        return compare(*(_primitive(side, inputs) for side in (comparison.left_value, comparison.right_value)))
    conjunction = condition.conjunction
    sides = [holds(side, inputs) for side in (conjunction.left_expression, conjunction.right_expression)]
    return all(sides) if conjunction.operator == ConjunctionExpression.AND else any(sides)


def _primitive(operand: Operand, inputs: Mapping[str, Literal]) -> object:
    primitive = inputs[operand.var].scalar.primitive if operand.WhichOneof("val") == "var" else operand.primitive
    return getattr(primitive, primitive.WhichOneof("value"))
