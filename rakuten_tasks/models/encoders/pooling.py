"""States of a text's tokens -> one vector, as sentence-transformers' configuration of the model says."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

MODULES = "modules.json"
# a projection after the pooling, for one, would give other vectors than the model was made for
SUPPORTED_MODULES = ("Transformer", "Pooling", "Normalize")
# keys of 1_Pooling/config.json until sentence-transformers 5, in the order in which it concatenates the vectors
SWITCHES = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}


def _sum(hidden: Tensor, mask: Tensor) -> Tensor:
    return (hidden * mask[:, :, None]).sum(1)


# (B, T, H) states, (B, T) mask -> (B, H)
MODES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "cls": lambda hidden, mask: hidden[:, 0],
    "max": lambda hidden, mask: hidden.masked_fill(mask[:, :, None] == 0, -torch.inf).amax(1),
    "mean": lambda hidden, mask: _sum(hidden, mask) / mask.sum(1, keepdim=True),
    "mean_sqrt_len_tokens": lambda hidden, mask: _sum(hidden, mask) / mask.sum(1, keepdim=True).sqrt(),
    "lasttoken": lambda hidden, mask: hidden[torch.arange(len(hidden), device=hidden.device), mask.sum(1) - 1],
}


def pool(hidden: Tensor, mask: Tensor, modes: Sequence[str]) -> Tensor:
    """Pool (B, T, H) states, (B, T) 1 for tokens and 0 for the padding at the end -> (B, H * len(modes)) fp32"""
    return torch.cat([MODES[mode](hidden.float(), mask) for mode in modes], dim=1)


def pooling_modes(folder: Path) -> tuple[str, ...]:
    """Read names in MODES; the mean if the folder does not configure pooling.

    Raises ValueError if the model has a module or a pooling mode that is not supported here.
    """
    path = _pooling_file(folder)
    config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path and path.is_file() else {}
    modes = config.get("pooling_mode") or [mode for switch, mode in SWITCHES.items() if config.get(switch)] or ["mean"]
    modes = (modes,) if isinstance(modes, str) else tuple(modes)
    if unknown := sorted(set(modes) - set(MODES)):
        raise ValueError(f"{path} asks for pooling by {unknown[0]}: choose a model with one of {', '.join(MODES)}")
    return modes


def _pooling_file(folder: Path) -> Path | None:
    path = folder / MODULES
    pooling = None
    for module in json.loads(path.read_text(encoding="utf-8")) if path.is_file() else []:
        kind = module["type"].rpartition(".")[2]
        if kind not in SUPPORTED_MODULES:
            raise ValueError(
                f"{path} has a module {module['type']}, and only {', '.join(SUPPORTED_MODULES)} are supported: choose "
                "another model, or remove the module to get the vectors before it"
            )
        if kind == "Pooling":
            pooling = folder / module["path"] / "config.json"
    return pooling
