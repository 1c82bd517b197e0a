"""Folders of language models as transformers saves them: local or from a hub, identified by content."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from rakuten_tasks.models.backbones.downloads import ANSWER, CONNECT, innermost, within
from rakuten_tasks.models.backbones.model_folders import CONFIG, INDEX, WEIGHTS, weight_files
from rakuten_tasks.models.encoders.pooling import MODULES, pooling_file
from rakuten_tasks.models.encoders.saved import sha256_of_file, sha256_of_files
from rakuten_tasks.models.pretrained import PretrainedWeights

PREFIX = "hf:"
LENGTHS, PROMPTS = "sentence_bert_config.json", "config_sentence_transformers.json"
TOKENIZER = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.txt",
    "vocab.json", "merges.txt", "sentencepiece.bpe.model", "spiece.model", "tokenizer.model",
)  # fmt: skip
VOCABULARIES = {
    "tokenizer.json",
    "vocab.txt",
    "vocab.json",
    "sentencepiece.bpe.model",
    "spiece.model",
    "tokenizer.model",
}
SMALL = (CONFIG, *TOKENIZER, MODULES, LENGTHS, PROMPTS)
README = "README.md"
WANTED = (*SMALL, "*/config.json", README, INDEX, "model*.safetensors")
LICENCE = re.compile(r"\A---\s*\n(?:(?!---).*\n)*?license:\s*['\"]?([\w.+-]+)")


@dataclass(frozen=True)
class ModelFolder:
    """name: as configured, with its `hf:`. commit: the hub's, empty for a folder of one's own."""

    path: Path
    name: str
    commit: str = ""

    def files(self) -> list[Path]:
        """All that decide what a text's vector is."""
        pooling = pooling_file(self.path)
        small = [self.path / name for name in SMALL] + ([pooling] if pooling else [])
        return [path for path in small if path.is_file()] + self.weight_files()

    def weight_files(self) -> list[Path]:
        index = self.path / INDEX
        parts = weight_files(self.path)
        return [*parts, index] if index.is_file() and parts and parts[0].name != WEIGHTS else parts

    def sha256(self) -> str:
        """Over names and content of `files`; a second or two per gigabyte."""
        return sha256_of_files((path.relative_to(self.path).as_posix(), sha256_of_file(path)) for path in self.files())

    def pretrained(self) -> PretrainedWeights:
        source = f"{self.name}@{self.commit}" if self.commit else str(self.path)
        return PretrainedWeights(self.name, source, licence(self.path), self.sha256())


def find(encoder: str, revision: str) -> ModelFolder:
    """encoder: hf:FOLDER, or hf:NAME of a hub's model, which is downloaded if it is not in the hub's cache yet.

    Raises FileNotFoundError if it cannot be had, within ten seconds where there is no network, and ValueError if a
    revision is asked of a folder.
    """
    name = encoder.removeprefix(PREFIX)
    folder = Path(name).expanduser()
    if folder.is_dir():
        if revision:
            raise ValueError(f"text.revision={revision!r}: {folder} is a folder, which has none: leave it out")
        return check(ModelFolder(folder.resolve(), encoder))
    if name.startswith(("/", ".", "~")) or name.count("/") > 1:
        raise FileNotFoundError(f"text.encoder={encoder!r}: there is no folder {folder}: correct the path")
    path = _cached(name, revision) or _downloaded(name, revision)
    return check(ModelFolder(path, encoder, commit=path.name))  # snapshots are named by their commit


def check(folder: ModelFolder) -> ModelFolder:
    """The folder. Raises FileNotFoundError if something of a whole model is missing."""
    if lacking := _lacking(folder.path):
        raise FileNotFoundError(
            f"text.encoder={folder.name!r}: {folder.path} has no {lacking}: put a model there as "
            "model.save_pretrained(FOLDER) and tokenizer.save_pretrained(FOLDER) of transformers write it"
        )
    return folder


def _lacking(path: Path) -> str:
    """What is missing of a whole model. Weights in any other format are pickles, which are not read."""
    if not (path / CONFIG).is_file():
        return CONFIG
    if not weight_files(path):
        return WEIGHTS
    return "" if any((path / name).is_file() for name in VOCABULARIES) else "tokenizer.json"


def _snapshot(name: str, revision: str, local: bool) -> Path:
    from huggingface_hub import snapshot_download

    there = snapshot_download(
        name,
        revision=revision or None,
        allow_patterns=list(WANTED),
        ignore_patterns=["*/*.safetensors"],  # the same weights for other runtimes
        local_files_only=local,
        etag_timeout=CONNECT,
    )
    return Path(there)


def _cached(name: str, revision: str) -> Path | None:
    """The snapshot in the hub's cache; None if it is not there, or not whole."""
    try:
        path = _snapshot(name, revision, local=True)
    except (OSError, ValueError):
        return None
    return None if _lacking(path) else path


def _downloaded(name: str, revision: str) -> Path:
    from huggingface_hub import HfApi

    try:
        found = within(ANSWER, lambda: HfApi().model_info(name, revision=revision or None, timeout=CONNECT))
        return _snapshot(name, str(found.sha), local=False)
    except Exception as error:  # of the hub's client, of HTTP, of the network
        at = f" at revision {revision}" if revision else ""
        raise FileNotFoundError(
            f"text.encoder='{PREFIX}{name}': no folder here, not in the hub's cache{at}, and not to be had from the "
            f"hub ({innermost(error)}): correct the name, or download it where there is a network (hf download "
            f"{name} --local-dir FOLDER) and set text.encoder to {PREFIX}FOLDER"
        ) from error


def licence(folder: Path) -> str:
    """As the front matter of README.md names it, which the hub requires; else "unknown"."""
    readme = folder / README
    found = LICENCE.match(readme.read_text(encoding="utf-8", errors="replace")) if readme.is_file() else None
    return found[1] if found else "unknown"
