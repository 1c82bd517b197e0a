"""History of drift checks: one small JSON file a check, at any fsspec address, so that pods share it."""

from __future__ import annotations

from dataclasses import dataclass

from rakuten_tasks.config_base import Strict
from rakuten_tasks.monitoring.decision import Accuracy, Decision
from rakuten_tasks.storage.addresses import list_files, open_address, write_file


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
    name = "".join(letter for letter in check.end if letter.isdigit())[:14]
    write_file(f"{_folder(address, check.model)}/{name}.json", check.to_json())


def load_checks(address: str, model: str) -> list[DriftCheck]:
    """Read all checks of a model, oldest first; an empty list if there are none."""
    filesystem, root = open_address(_folder(address, model))
    filesystem.invalidate_cache()
    return [DriftCheck.from_json(filesystem.cat_file(path)) for path in list_files(filesystem, root, "*.json")]


def _folder(address: str, model: str) -> str:
    return f"{address.rstrip('/')}/{model}"
