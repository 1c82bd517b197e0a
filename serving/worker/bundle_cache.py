"""Local copies of the last champions' bundles, served when MLflow cannot be reached."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from rakuten_tasks.models.bundle import bundle_hash

LAST_GOOD = "last_good.json"
DIGEST = 64  # hexadecimal digits; the content of a version without the tag bundle_hash is its run id
DRAFT = ".draft"


@dataclass(frozen=True)
class Champion:
    """Which version of which model. content: a hash of its files, as a new store counts from 1 again."""

    model: str
    version: str
    content: str


def verify_checksum(champion: Champion, bundle: Path) -> None:
    """Raises ValueError if its files are not those that were registered: weights of flipped bits load as others do."""
    if len(champion.content) == DIGEST and bundle_hash(bundle) != champion.content:
        raise ValueError("its files are not those that were registered")


class BundleCache:
    """Copies of bundles. The last good one stays, and the one before it, which may still answer a batch."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def get_or_fetch(self, champion: Champion, fetch: Callable[[Path], Path]) -> Path:
        """The champion's bundle here; `fetch` copies it into the folder it is given, unless it is here already."""
        target = self._place_of(champion)
        if not target.is_dir():
            draft = target.with_name(target.name + DRAFT)
            shutil.rmtree(draft, ignore_errors=True)
            draft.mkdir(parents=True)
            found = fetch(draft)
            found.rename(target)
            shutil.rmtree(draft, ignore_errors=True)
        return target

    def has(self, champion: Champion) -> bool:
        """Whether its bundle is here already."""
        return self._place_of(champion).is_dir()

    def _place_of(self, champion: Champion) -> Path:
        return self._folder / f"{champion.model}-{champion.version}-{champion.content[:16] or 'unknown'}"

    def mark_good(self, champion: Champion, bundle: Path) -> None:
        """This bundle could be loaded: it is the one to start from, then the one before it, and older ones go."""
        before = [(old, path) for old, path in self.last_good() if path != bundle]
        kept = [(champion, bundle), *before[:1]]
        draft = self._folder / f"{LAST_GOOD}{DRAFT}"
        draft.write_text(json.dumps([{**asdict(champion), "folder": path.name} for champion, path in kept]))
        draft.replace(self._folder / LAST_GOOD)
        folders = {path for _, path in kept}
        for path in self._folder.iterdir():
            if path.is_dir() and path not in folders:
                shutil.rmtree(path, ignore_errors=True)

    def evict(self, bundle: Path) -> None:
        """This bundle could not be loaded: it may be a bad copy."""
        shutil.rmtree(bundle, ignore_errors=True)

    def last_good(self) -> list[tuple[Champion, Path]]:
        """What was served last and before it, as far as it is here."""
        try:
            notes = json.loads((self._folder / LAST_GOOD).read_text())
            found = [(self._folder / note.pop("folder"), Champion(**note)) for note in notes]
        except (OSError, ValueError, TypeError, KeyError, AttributeError):
            return []
        return [(champion, bundle) for bundle, champion in found if bundle.is_dir()]
