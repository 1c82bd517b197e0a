"""What README and docs promise is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from docs.generate import PAGES, REFERENCE

ROOT = Path(__file__).parents[2]
DOCUMENTS = [
    ROOT / "README.md", ROOT / "README.fr.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))
]  # fmt: skip


@pytest.mark.parametrize("page", sorted(PAGES))
def test_a_reference_page_is_what_the_code_says(page):
    assert (REFERENCE / page).read_text() == PAGES[page](), "run `make docs`"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_link_and_path_in_a_document_is_there(document):
    text = document.read_text()
    links = [link.partition("#")[0] for link in re.findall(r"\]\(((?!http)[^)]+)\)", text)]
    assert not [link for link in links if link and not (document.parent / link).exists()]
    paths = re.findall(r"`((?:workflows|rakuten_tasks|serving|configs|benchmarks|tests|docs)/[\w./]*)`", text)
    assert not [path for path in paths if not (ROOT / path).exists()]


def test_every_make_command_in_a_document_is_in_the_makefile():
    targets = set(re.findall(r"^([a-z-]+):.*## ", (ROOT / "Makefile").read_text(), re.MULTILINE))
    text = "\n".join(document.read_text() for document in DOCUMENTS)
    named = set(re.findall(r"[`\n]make ([a-z]+(?:-[a-z]+)*)(?=[ `\n])", text))
    assert {"train", "predict", "test"} <= named <= targets
