"""States of a text's tokens -> one vector, as sentence-transformers' configuration of the model says."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

MODULES = "modules.json"
# what a module may be; a projection after the pooling, for one, would give other vectors than the model was made for
KNOWN = ("Transformer", "Pooling", "Normalize")
# keys of 1_Pooling/config.json until sentence-transformers 5, in the order in which vectors are put side by side
SWITCHES = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}


def _first(hidden: Tensor, mask: Tensor) -> Tensor:
    return hidden[:, 0]


def _largest(hidden: Tensor, mask: Tensor) -> Tensor:
    return hidden.masked_fill(mask[:, :, None] == 0, -torch.inf).amax(1)


def _mean(hidden: Tensor, mask: Tensor) -> Tensor:
    return _sum(hidden, mask) / mask.sum(1, keepdim=True)


def _mean_by_root(hidden: Tensor, mask: Tensor) -> Tensor:
    return _sum(hidden, mask) / mask.sum(1, keepdim=True).sqrt()


def _last(hidden: Tensor, mask: Tensor) -> Tensor:
    return hidden[torch.arange(len(hidden), device=hidden.device), mask.sum(1) - 1]


def _sum(hidden: Tensor, mask: Tensor) -> Tensor:
    return (hidden * mask[:, :, None]).sum(1)


MODES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "cls": _first,
    "max": _largest,
    "mean": _mean,
    "mean_sqrt_len_tokens": _mean_by_root,
    "lasttoken": _last,
}


def pool(hidden: Tensor, mask: Tensor, modes: Sequence[str]) -> Tensor:
    """(B, T, H) states, (B, T) 1 for each token and 0 for the padding at the end -> (B, H * len(modes)) fp32"""
    return torch.cat([MODES[mode](hidden.float(), mask) for mode in modes], dim=1)


def pooling_modes(folder: Path) -> tuple[str, ...]:
    """Names in MODES; the mean where the folder says nothing.

    Raises ValueError if the model is made of something that is not done here.
    """
    path = pooling_file(folder)
    said: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path and path.is_file() else {}
    modes = said.get("pooling_mode") or [mode for switch, mode in SWITCHES.items() if said.get(switch)] or ["mean"]
    modes = (modes,) if isinstance(modes, str) else tuple(modes)
    if unknown := sorted(set(modes) - set(MODES)):
        raise ValueError(f"{path} asks for pooling by {unknown[0]}: choose a model with one of {', '.join(MODES)}")
    return modes


def pooling_file(folder: Path) -> Path | None:
    """Where the folder says how to pool; None if it does not. Raises ValueError as `pooling_modes` does."""
    path = folder / MODULES
    modules = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else []
    pooling = None
    for module in modules:
        kind = module["type"].rpartition(".")[2]
        if kind not in KNOWN:
            raise ValueError(
                f"{path} has a module {module['type']}, and only {', '.join(KNOWN)} are known here: choose another "
                "model, or take the module out to have the vectors before it"
            )
        if kind == "Pooling":
            pooling = folder / module["path"] / "config.json"
    return pooling
