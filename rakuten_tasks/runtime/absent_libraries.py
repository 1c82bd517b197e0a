"""Placeholders for libraries that only tasks need, so that a machine without them registers and launches.

Registering imports the tasks, reads their signatures, and runs none of them.
"""

from __future__ import annotations

import sys
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType
from typing import Any

REGISTERS = "RAKUTEN_REGISTERS"  # set for a pyflyte that runs no task here
# What `pip install .[register]` leaves out; each is imported where tasks are
HEAVY = ("safetensors", "scipy", "sklearn", "statsmodels", "tokenizers", "torch", "torchvision", "transformers")


class _Placeholder(type):
    """Of whatever a module of these libraries holds: a class to inherit from, a decorator, a constant."""

    def __getattr__(cls, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _placeholder(name)

    def __call__(cls, *arguments: Any, **_: Any) -> Any:
        return arguments[0] if len(arguments) == 1 and callable(arguments[0]) else cls

    def __getitem__(cls, _: Any) -> Any:
        return cls


def _placeholder(name: str) -> _Placeholder:
    return _Placeholder(name, (), {})


class _Module(ModuleType):
    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _placeholder(name)


class _Finder(MetaPathFinder, Loader):
    def __init__(self, names: frozenset[str]) -> None:
        self.names = names

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        return ModuleSpec(fullname, self, is_package=True) if fullname.partition(".")[0] in self.names else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return _Module(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        """Leave it empty."""


def install() -> None:
    """From now on, import a placeholder for each library in HEAVY that is not installed."""
    sys.meta_path.append(_Finder(frozenset(name for name in HEAVY if find_spec(name) is None)))
