"""Source, licence and hash of pretrained weights."""

from __future__ import annotations

import re
from dataclasses import dataclass

from rakuten_tasks.config import Strict


@dataclass(frozen=True)
class PretrainedWeights(Strict):
    """The weights that a network begins with, as bundle, model card, MLflow and cache keys tell them.

    name: as configured, "use-multilingual", "vgg16" or "hf:NAME". source: the package and version, the address, or the
    file they were read from. licence: an SPDX name, or "unknown". sha256: of what was read; "random" where nothing was.
    warning: empty, or why they are not those that were asked for, with the line that mends it.
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
