"""Source, licence and hash of pretrained weights."""

from __future__ import annotations

import re
from dataclasses import dataclass

from rakuten_tasks.config_base import Strict

UNKNOWN = "unknown"  # licence


@dataclass(frozen=True)
class PretrainedWeights(Strict):
    """The weights that a network begins with, as bundle, model card, MLflow and cache keys describe them.

    name: as configured, "use-multilingual", "vgg16" or "hf:NAME". source: the package and version, the address, or the
    path of the file. licence: an SPDX name, or UNKNOWN. sha256: of the files; "random" for random weights. warning:
    empty, or why these are not the weights that were configured, and how to get those.
    """

    name: str
    source: str
    licence: str
    sha256: str
    warning: str = ""

    @property
    def tag(self) -> str:
        """The name as MLflow allows it in a tag's key."""
        return re.sub(r"[^A-Za-z0-9_.-]+", "_", self.name)[:100]
