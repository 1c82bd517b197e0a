"""History of drift checks: one small JSON file a check, at any fsspec address, so that pods share it."""

from __future__ import annotations

from dataclasses import dataclass

import fsspec

from rakuten_tasks.config import Strict
from rakuten_tasks.monitoring.comparison import Accuracy
from rakuten_tasks.monitoring.decision import Decision

NAME = "%Y%m%dT%H%M%S"


@dataclass(frozen=True)
class DriftCheck(Strict):
    """What one window came to. start, end: UTC, ISO 8601. action: what was done about it, of policy.Action."""

    model: str
    version: int
    start: str
    end: str
    decision: Decision
    accuracy: Accuracy
    action: str = ""
    outcome: str = ""  # of the training that followed
    catalogue: str = ""  # fingerprint of the catalogue as it was then; empty where nobody asked

    @property
    def strength(self) -> float:
        """The strongest effect that is significant, as a multiple of its minimum; 0 without any."""
        ratios = [found.effect / found.minimum for found in self.decision.evidence if found.p_adjusted < 0.05]
        return max(ratios, default=0.0)


def save_check(address: str, look: DriftCheck) -> None:
    """Write the look; the same window looked at again replaces what was said of it."""
    filesystem, root = fsspec.core.url_to_fs(_folder(address, look.model))
    filesystem.makedirs(root, exist_ok=True)
    stamp = "".join(letter for letter in look.end if letter.isdigit())[:14]
    with filesystem.open(f"{root}/{stamp}.json", "w", encoding="utf-8") as file:
        file.write(look.to_json())


def load_checks(address: str, model: str) -> list[DriftCheck]:
    """All looks at the model's windows, oldest first; none where nothing was written yet."""
    filesystem, root = fsspec.core.url_to_fs(_folder(address, model))
    filesystem.invalidate_cache()
    found = []
    for path in sorted(filesystem.glob(f"{root}/*.json")):
        with filesystem.open(path, "r", encoding="utf-8") as file:
            found.append(DriftCheck.from_json(file.read()))
    return found


def _folder(address: str, model: str) -> str:
    return f"{address.rstrip('/')}/{model}"
