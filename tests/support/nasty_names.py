"""Names of files and folders in which some reader takes a letter for something else."""

from __future__ import annotations

from pathlib import Path

# what a wrong reader would take the name for, beside each name
NASTY = {
    "a b": "a",
    "v%20r": "v r",
    "v?x": "vax",
    "h#i": "h",
    "p+q&r=s": "p q",
    "n\u00e9e": "ne\u0301e",  # composed; the other is decomposed
    "ne\u0301e": "n\u00e9e",
    "shop::2026": "shop",
    "o'k": "ok",
    'd"q': "dq",
    "b[xy]": "bx",
    "star*": "starry",
    "$HOME;x": ";x",
    "back\\slash": "backslash",
    "one\ntwo": "one",
    "~old": "old",
    "{a,b}": "a",
    "file:x": "x",
}


def list_names(folder: Path) -> list[str]:
    """Everything below the folder, by its path there."""
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))
