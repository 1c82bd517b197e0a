"""Write docs/reference/ from the code (`make docs`); tests/unit/test_docs.py fails where a page is out of date."""

from __future__ import annotations

import inspect
import re
import subprocess
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import MISSING, fields, is_dataclass
from enum import Enum
from pathlib import Path
from typing import Any, get_type_hints

from rakuten_tasks.config import Precision, PublicationConfig, Refit, TrainingConfig, Weights
from serving.app import ProductServer
from serving.settings import Settings, variable

ROOT = Path(__file__).parents[1]
REFERENCE = ROOT / "docs" / "reference"
NOTE = "<!-- written by docs/generate.py: `make docs` -->\n\n"


def configuration() -> str:
    """Every key of a training's and of a publication's configuration."""
    parts = [
        "# Configuration\n\n",
        NOTE,
        "Keys of the YAML or JSON file that `CONFIG=` names (`rakuten_tasks/config.py`). ",
        "A file names only what it changes.\n",
        *_section("Training", "", TrainingConfig),
        *_section("Publication (`make etl`)", "", PublicationConfig),
    ]
    for kind in (Weights, Refit, Precision):
        values = ", ".join(f"`{item.value}`" for item in kind)
        parts.append(f"\n**{kind.__name__}**: {values}. {_text(kind)}\n")
    return "".join(parts)


def _section(title: str, prefix: str, kind: type) -> Iterable[str]:
    yield f"\n## {title}\n\n{_text(kind)}\n\n| key | type | default |\n|---|---|---|\n"
    nested = []
    types = get_type_hints(kind)
    for item in fields(kind):
        default = item.default if item.default is not MISSING else item.default_factory()  # type: ignore[operator]
        if is_dataclass(default):
            nested.append((f"`{prefix}{item.name}`", f"{prefix}{item.name}.", type(default)))
            continue
        name = getattr(types[item.name], "__name__", str(types[item.name]))
        yield f"| `{prefix}{item.name}` | {name} | {_value(default)} |\n"
    for section in nested:
        yield from _section(*section)


def environment() -> str:
    """Every setting of the app."""
    rows = [
        f"| `{variable(name)}` | {_value(field.default)} | {field.description} |\n"
        for name, field in Settings.model_fields.items()
    ]
    return (
        f"# Environment variables\n\n{NOTE}Settings of the app (`make api`), checked at the start "
        "(`serving/settings.py`). Those of pods: "
        "[Flyte cluster](../guides/flyte-cluster.md).\n\n| variable | default | |\n|---|---|---|\n" + "".join(rows)
    )


def http_api() -> str:
    """Every route and schema, from the app's openapi.json."""
    with tempfile.TemporaryDirectory() as folder:
        described = ProductServer(Settings(var=Path(folder)), Path(folder)).app.openapi()
    parts = ["# HTTP API\n\n", NOTE, "From `/openapi.json`, which a running server shows as a page at `/docs`.\n"]
    for path, methods in described["paths"].items():
        for method, route in methods.items():
            parts.append(f"\n## {method.upper()} {path}\n\n{route['summary']}.\n\n")
            if body := route.get("requestBody"):
                parts.append(f"Body: {_reference(body['content'])}\n\n")
            for status, answer in route["responses"].items():
                parts.append(f"- {status}: {answer['description']}{_reference(answer.get('content', {}), ', ')}\n")
    for name, schema in described["components"]["schemas"].items():
        if "properties" in schema:
            parts.append(f"\n## {name}\n\n| field | type | |\n|---|---|---|\n")
            parts.extend(
                _row(field, value, schema.get("required", [])) for field, value in schema["properties"].items()
            )
    return "".join(parts)


def _reference(content: dict[str, Any], before: str = "") -> str:
    schema = content.get("application/json", {}).get("schema", {})
    name = schema.get("$ref", "").rsplit("/", 1)[-1]
    return f"{before}[{name}](#{name.lower()})" if name else ""


def _row(field: str, value: dict[str, Any], required: list[str]) -> str:
    text = " ".join(value.get("description", "").split()).replace("|", "\\|")
    return f"| `{field}` | {_type(value)} | {text}{'' if field not in required else ' (required)'} |\n"


def _type(value: dict[str, Any]) -> str:
    if "$ref" in value:
        return value["$ref"].rsplit("/", 1)[-1]
    if options := value.get("anyOf"):
        return " or ".join(_type(option) for option in options)
    if value.get("type") == "array":
        return f"array of {_type(value.get('items', {}))}"
    return str(value.get("type", "any"))


def make() -> str:
    """Every command, as `make help` lists them."""
    listed = subprocess.run(
        ["make", "--no-print-directory", "help"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    rows = re.findall(r"^  make (\S+)\s+(.+)$", listed.stdout, re.MULTILINE)
    table = "".join(f"| `make {name}` | {text} |\n" for name, text in rows)
    return (
        f"# make\n\n{NOTE}`SOURCE=` names a catalogue's folder or address, `CONFIG=` a configuration, "
        "`MODEL=` a registered model, "
        f"`VAR=` another folder than `var/`.\n\n| command | |\n|---|---|\n{table}"
    )


def _text(kind: type) -> str:
    return " ".join((inspect.getdoc(kind) or "").split())


def _value(value: object) -> str:
    shown = value.value if isinstance(value, Enum) else value
    if isinstance(shown, list):
        return ", ".join(f"`{item}`" for item in shown)
    return "" if shown in ("", None) else f"`{shown}`"


PAGES: dict[str, Callable[[], str]] = {
    "configuration.md": configuration,
    "environment.md": environment,
    "http-api.md": http_api,
    "make.md": make,
}

if __name__ == "__main__":
    REFERENCE.mkdir(exist_ok=True)
    for name, write in PAGES.items():
        (REFERENCE / name).write_text(write())
