"""Pod sizes, set at registration: a launch plan cannot change what a task requests."""

from __future__ import annotations

import os
import re

# Kubernetes' own, but for exponents, and for fractions of a byte
MEMORY = re.compile(r"[1-9]\d*(Mi|Gi|Ti|M|G|T)")
CORES = re.compile(r"[1-9]\d*(m)?")


def memory(pod: str, default: str) -> str:
    """RAKUTEN_{pod}_MEMORY, as Kubernetes writes it. Raises ValueError if it is no amount of memory."""
    return _matching(f"RAKUTEN_{pod}_MEMORY", default, MEMORY, "an amount such as 16Gi or 512Mi")


def cores(pod: str, default: str) -> str:
    """RAKUTEN_{pod}_CORES. Raises ValueError if it is no number of processors."""
    return _matching(f"RAKUTEN_{pod}_CORES", default, CORES, "a whole number such as 4, or thousandths such as 500m")


def whole(name: str, default: int) -> int:
    """A whole number from 1. Raises ValueError if it is none."""
    return int(_matching(name, str(default), re.compile(r"[1-9]\d*"), "a whole number from 1"))


def seconds(name: str, default: str) -> float:
    """A number of seconds, 0 included. Raises ValueError if it is none."""
    return float(_matching(name, default, re.compile(r"\d+(\.\d+)?"), "a number of seconds, 0 or more"))


def yes_or_no(name: str) -> bool:
    """Whether it is 1. Raises ValueError if it is neither that nor 0."""
    return _matching(name, "0", re.compile("0|1"), "1 for yes") == "1"


def _matching(name: str, default: str, pattern: re.Pattern, rule: str) -> str:
    value = os.environ.get(name) or default
    if not pattern.fullmatch(value):
        raise ValueError(f"{name}={value!r}: set it to {rule}, or unset it for {default}")
    return value
