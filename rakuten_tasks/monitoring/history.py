"""History of drift checks: one small JSON file a check, at any fsspec address, so that pods share it."""

from __future__ import annotations

from dataclasses import dataclass

import fsspec

from rakuten_tasks.config import Strict
from rakuten_tasks.monitoring.decision import Accuracy, Decision


@dataclass(frozen=True)
class DriftCheck(Strict):
    """Result of a drift check of one window. start, end: UTC, ISO 8601. action: a value of policy.Action."""

    model: str
    version: int
    start: str
    end: str
    decision: Decision
    accuracy: Accuracy
    action: str = ""
    outcome: str = ""  # of the training that followed
    catalogue: str = ""  # fingerprint of the catalogue at the time; empty if it was not computed

    @property
    def strength(self) -> float:
        """The strongest significant effect, as a multiple of its minimum; 0 if none is significant."""
        ratios = [item.effect / item.minimum for item in self.decision.evidence if item.p_adjusted < 0.05]
        return max(ratios, default=0.0)


def save_check(address: str, check: DriftCheck) -> None:
    """Write the check; a second check of the same window replaces the first."""
    filesystem, root = fsspec.core.url_to_fs(_folder(address, check.model))
    filesystem.makedirs(root, exist_ok=True)
    name = "".join(letter for letter in check.end if letter.isdigit())[:14]
    with filesystem.open(f"{root}/{name}.json", "w", encoding="utf-8") as file:
        file.write(check.to_json())


def load_checks(address: str, model: str) -> list[DriftCheck]:
    """Read all checks of a model, oldest first; an empty list if there are none."""
    filesystem, root = fsspec.core.url_to_fs(_folder(address, model))
    filesystem.invalidate_cache()
    return [DriftCheck.from_json(filesystem.read_text(path)) for path in sorted(filesystem.glob(f"{root}/*.json"))]


def _folder(address: str, model: str) -> str:
    return f"{address.rstrip('/')}/{model}"
