"""The last champions' bundles on this machine's own disk: what is served when MLflow cannot be reached."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

LAST_GOOD = "last_good.json"
DRAFT = ".draft"


@dataclass(frozen=True)
class Champion:
    """Which version of which model. content: a hash of its files, as a new store counts from 1 again."""

    model: str
    version: str
    content: str


class BundleShelf:
    """Copies of bundles. The last good one stays, and the one before it, which may still answer a batch."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def place(self, champion: Champion, fetch: Callable[[Path], Path]) -> Path:
        """The champion's bundle here; `fetch` copies it into the folder it is given, unless it is here already."""
        target = self._folder / f"{champion.model}-{champion.version}-{champion.content[:16] or 'unknown'}"
        if not target.is_dir():
            draft = target.with_name(target.name + DRAFT)
            shutil.rmtree(draft, ignore_errors=True)
            draft.mkdir(parents=True)
            found = fetch(draft)
            found.rename(target)
            shutil.rmtree(draft, ignore_errors=True)
        return target

    def keep(self, champion: Champion, bundle: Path) -> None:
        """This bundle could be loaded: it is the one to start from, and older ones go."""
        draft = self._folder / f"{LAST_GOOD}{DRAFT}"
        draft.write_text(json.dumps({**asdict(champion), "folder": bundle.name}))
        draft.replace(self._folder / LAST_GOOD)
        others = [path for path in self._folder.iterdir() if path.is_dir() and path != bundle]
        for path in sorted(others, key=lambda path: path.stat().st_mtime)[:-1]:
            shutil.rmtree(path, ignore_errors=True)

    def drop(self, bundle: Path) -> None:
        """This bundle could not be loaded: it may be a bad copy."""
        shutil.rmtree(bundle, ignore_errors=True)

    def last_good(self) -> tuple[Champion, Path] | None:
        """What was served last, None if nothing was."""
        try:
            kept = json.loads((self._folder / LAST_GOOD).read_text())
            bundle = self._folder / kept.pop("folder")
            return (Champion(**kept), bundle) if bundle.is_dir() else None
        except (OSError, ValueError, TypeError, KeyError):
            return None
