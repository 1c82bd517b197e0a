"""Local copies of the last two champions' bundles, served while MLflow cannot be reached."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from rakuten_tasks.models.bundle import bundle_hash
from rakuten_tasks.storage.local_files import write_atomically

LAST_GOOD = "last_good.json"
DRAFT = ".draft"


@dataclass(frozen=True)
class Champion:
    """A registered version. content: hash of its files, as a new store numbers its versions from 1 again."""

    model: str
    version: str
    content: str

    def __str__(self) -> str:
        return f"{self.model} version {self.version}"


def verify_checksum(champion: Champion, bundle: Path) -> None:
    """Raise ValueError if the files differ from the registered ones: weights with flipped bits load without error."""
    if bundle_hash(bundle) != champion.content:
        raise ValueError("its files are not those that were registered")


class BundleCache:
    """Copies of bundles: the last good one, and the one before it, which may still predict a batch."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def path(self, champion: Champion) -> Path:
        """Folder of the champion's bundle, whether it exists or not."""
        return self._folder / f"{champion.model}-{champion.version}-{champion.content[:16]}"

    def add(self, champion: Champion, fetch: Callable[[Path], Path]) -> Path:
        """Copy a bundle into the cache, in place of an earlier copy, and return its folder.

        fetch: downloads the bundle into an empty folder and returns where in it.
        """
        target = self.path(champion)
        draft = target.with_name(target.name + DRAFT)
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir(parents=True)
        bundle = fetch(draft)
        self.evict(champion)
        bundle.rename(target)
        shutil.rmtree(draft, ignore_errors=True)
        return target

    def mark_good(self, champion: Champion) -> None:
        """Remember that this bundle loads, and delete all but it and the last good one before it."""
        champions = [champion, *[older for older in self.last_good() if older != champion][:1]]
        write_atomically(self._folder / LAST_GOOD, json.dumps([asdict(good) for good in champions]))
        folders = {self.path(good) for good in champions}
        for path in self._folder.iterdir():
            if path.is_dir() and path not in folders:
                shutil.rmtree(path, ignore_errors=True)

    def evict(self, champion: Champion) -> None:
        """Delete the champion's bundle."""
        shutil.rmtree(self.path(champion), ignore_errors=True)

    def last_good(self) -> list[Champion]:
        """List the champions that could be loaded and whose bundles exist, the last one first."""
        try:
            champions = [Champion(**fields) for fields in json.loads((self._folder / LAST_GOOD).read_text())]
        except (OSError, ValueError, TypeError):
            return []
        return [champion for champion in champions if self.path(champion).is_dir()]
