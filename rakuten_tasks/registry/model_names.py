"""Names of registered models: those that MLflow finds again in its filters, in its addresses and as folders."""

from __future__ import annotations

import re

REFUSED = re.compile(r"[/:'\"`\\?#%@\x00-\x1f\x7f-\x9f\ud800-\udfff]")
MAX_BYTES = 200  # in UTF-8: a bundle's folder is named after its model, with 24 letters more


RULE = (
    f"the name of a model has up to {MAX_BYTES} bytes, no dot at its beginning, no blanks around it, and none of "
    "/ : ' \" ` \\ ? # % @"
)


def is_model_name(name: str) -> bool:
    """Return whether a model can be registered under the name."""
    return not (REFUSED.search(name) or name.startswith(".") or name != name.strip()) and (
        0 < len(name.encode()) <= MAX_BYTES
    )


def require_model_name(name: str) -> None:
    """Raise ValueError, with the rule, for a name that no model can have."""
    if not is_model_name(name):
        raise ValueError(f"model {name!a}: {RULE}")
