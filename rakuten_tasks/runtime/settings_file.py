"""Reader of configuration files, YAML or JSON: every error names the file, the line and the rule."""

from __future__ import annotations

import json
import re
from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import TypeAdapter, ValidationError

from rakuten_tasks.config_base import Settings, describe_error
from rakuten_tasks.storage.local_files import open_file

S = TypeVar("S", bound=Settings)

ALIAS = "anchors and aliases (&, *) are not read: write the value again"
TAB = "found character '\\t' that cannot start any token"
TEXT = "tag:yaml.org,2002:str"
NUMBERS = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")
NOT_DECIMAL = re.compile(r"[-+]?0[0-9xb_]|.*:")  # YAML takes 017 for 15 and 1:30 for 90


class SettingsFileError(ValueError):
    """An unusable configuration file: a line of text for each error."""


class _Loader(yaml.SafeLoader):
    """yaml.SafeLoader that refuses what it would take silently, or would expand without limit."""

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """Compose a node. Raises yaml.MarkedYAMLError for an alias: ten lines of them can be a billion values."""
        if self.check_event(yaml.AliasEvent):
            raise yaml.MarkedYAMLError(problem=ALIAS, problem_mark=self.peek_event().start_mark)
        return super().compose_node(parent, index)

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        """Construct a value. Raises yaml.MarkedYAMLError, also for one that does not fit its type, as 2026-13-45."""
        if node.tag in NUMBERS and NOT_DECIMAL.match(str(node.value)):
            problem = f"{node.value}: write a decimal number, without zeros before it"
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=node.start_mark)
        try:
            return super().construct_object(node, deep)
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
            kind = node.tag.rpartition(":")[2]
            raise yaml.MarkedYAMLError(problem=f"no valid {kind}: {error}", problem_mark=node.start_mark) from error

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        """Construct a mapping. Raises yaml.MarkedYAMLError for a key that occurs twice or is no text."""
        lines: dict[str, int] = {}
        for key, _ in node.value:
            if key.tag != TEXT:
                raise yaml.MarkedYAMLError(problem="a key must be a word", problem_mark=key.start_mark)
            if key.value in lines:
                problem = f"key {key.value!r} is also on line {lines[key.value]}: keep one of them"
                raise yaml.MarkedYAMLError(problem=problem, problem_mark=key.start_mark)
            lines[key.value] = key.start_mark.line + 1
        return super().construct_mapping(node, deep)


def read_settings(file: Path, kind: type[S]) -> S:
    """Read a file in UTF-8; an empty one keeps every default. Raises SettingsFileError, OSError."""
    with open_file(file) as opened:
        return parse_settings(file, opened.read(), kind)


def parse_settings(file: Path, data: bytes, kind: type[S]) -> S:
    """Parse the bytes of a file, as read_settings does. file: JSON if its name ends so."""
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise _error(file, line, f"byte 0x{data[error.start]:02x} is not UTF-8: save the file as UTF-8") from error
    is_json = file.suffix == ".json"
    try:
        loader = _Loader(text.replace("\t", " ") if is_json else text)  # JSON may be indented with tabs, YAML may not
        node = loader.get_single_node()
        values = {} if node is None else loader.construct_document(node)
        if is_json and node is not None:
            values = json.loads(text)  # YAML takes 1e-3 for text
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise _error(file, mark.line + 1 if mark else 1, _rule(error)) from error
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise _error(file, line, f"character U+{error.character:04X}: {error.reason}: remove it") from error
    except ValueError as error:  # of json, also for a number of more than 4300 digits
        raise _error(file, getattr(error, "lineno", 1), f"no valid JSON: {getattr(error, 'msg', error)}") from error
    except RecursionError as error:
        raise _error(file, 1, "nested too deeply") from error
    return _construct(file, kind, node, values)


def _construct(file: Path, kind: type[S], node: yaml.Node | None, values: Any) -> S:
    if values is not None and not isinstance(values, dict):
        raise _error(file, 1, "no settings: write a key and a value on each line, as `seed: 1`")
    try:
        # as JSON, in which pydantic takes texts for enumerations
        return TypeAdapter(kind).validate_json(json.dumps(values or {}, default=str))
    except ValidationError as error:
        lines = [f"{file}, line {_line(node, item)}: {describe_error(item)}" for item in error.errors()]
        raise SettingsFileError("\n".join(lines)) from error


def _rule(error: yaml.MarkedYAMLError) -> str:
    if error.problem == TAB:
        return "a tab: indent with spaces"
    return " ".join(f"{error.problem or 'no valid YAML'} {error.context or ''}".split())


def _error(file: Path, line: int, rule: str) -> SettingsFileError:
    return SettingsFileError(f"{file}, line {line}: {rule}")


def _line(node: yaml.Node | None, error: Any) -> int:
    """Return the line of the key that an error of pydantic is about, or of the last section on the way to it."""
    path: Sequence[str | int] = error["loc"]
    if error["type"] == "value_error":  # about a section; the message begins with the key
        path = (*path, str(error["ctx"]["error"]).partition("=")[0])
    line = node.start_mark.line if node else 0
    for part in path:
        if isinstance(node, yaml.MappingNode):
            entries = {key.value: (key, value) for key, value in node.value}
        elif isinstance(node, yaml.SequenceNode):
            entries = {index: (value, value) for index, value in enumerate(node.value)}
        else:
            break
        if part not in entries:
            break
        key, node = entries[part]
        line = key.start_mark.line
    return int(line) + 1
