"""What the Dockerfile copies into the image of the pods."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

ROOT = Path(__file__).parents[3]
DOCKERFILE = ROOT / "Dockerfile"


def copied(dockerfile: str, target: str) -> list[str]:
    """The sources of all COPY lines that end up in the target: its own, and those of the stages it is made from."""
    stages: dict[str, tuple[str, list[str]]] = {}
    for line in re.sub(r"\\\n", " ", dockerfile).splitlines():
        if start := re.match(r"FROM\s+(?:--\S+\s+)*(\S+)\s+AS\s+(\S+)", line, re.I):
            parent, stage = start.groups()
            stages[stage] = (parent, [])
        elif stages and re.match(r"(?:COPY|ADD)\s", line) and "--from=" not in line:
            words = [word for word in line.split()[1:] if not word.startswith("--")]
            stages[stage][1].extend(words[:-1])
    found: list[str] = []
    while target in stages:
        target, sources = stages[target]
        found = sources + found
    return found


def write_image(folder: Path) -> Path:
    """The working directory of the pods, as the target `task` holds it."""
    sources = copied(DOCKERFILE.read_text(), "task")
    assert {"rakuten_tasks", "workflows"} <= set(sources), f"{DOCKERFILE} copies no code: {sources}"
    for name in sources:
        there = folder / name
        there.parent.mkdir(parents=True, exist_ok=True)
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, there, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, there)
    return folder
