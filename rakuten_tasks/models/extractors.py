"""Products -> features: what members are fitted on and answer from. Training, evaluation and serving run this code.

An extractor is saved as a folder of its own in the bundle, and read by every member that names it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar, Protocol, Self

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerFast

from rakuten_tasks.models.backbones import Backbone, load_saved_backbone
from rakuten_tasks.models.backbones.frozen_vgg16 import VGG16Backbone
from rakuten_tasks.models.encoders import TextEncoder, load_saved_encoder
from rakuten_tasks.models.encoders.transformer_encoder import EncoderTokenizer, TransformerEncoder
from rakuten_tasks.preprocessing.feature_shards import OFFSETS, ragged
from rakuten_tasks.preprocessing.ngrams import count_ngrams
from rakuten_tasks.preprocessing.photos import prepare_photos
from rakuten_tasks.preprocessing.product import Product
from rakuten_tasks.preprocessing.text import clean

SETTINGS = "settings.json"


class Extractor(Protocol):
    """Turns products into arrays. `available` tells which products have what it needs."""

    name: ClassVar[str]
    modality: ClassVar[str]  # text or photo
    network: ClassVar[bool]  # whether it is worth a GPU
    training_only: ClassVar[tuple[str, ...]]  # files that a bundle does not need

    def available(self, product: Product) -> bool: ...

    def extract(self, products: Sequence[Product]) -> dict[str, NDArray]:
        """(N,) products, all of them available -> arrays of N rows; a ragged one has its offsets beside it.

        A product gets the same bits alone and among others. Raises photos.PhotoError on bytes that are no photo.
        """
        ...

    def save(self, folder: Path) -> None: ...

    @classmethod
    def load(cls, folder: Path, device: torch.device) -> Self: ...


class _Text:
    modality: ClassVar[str] = "text"
    network: ClassVar[bool] = False
    training_only: ClassVar[tuple[str, ...]] = ()

    def available(self, product: Product) -> bool:
        return product.has_text


class _Photo:
    modality: ClassVar[str] = "photo"
    network: ClassVar[bool] = False
    training_only: ClassVar[tuple[str, ...]] = ()

    def available(self, product: Product) -> bool:
        return product.photo is not None


class NgramExtractor(_Text):
    """`ngrams` (int32 columns of ngrams.count_ngrams) and `counts` (fp32), ragged."""

    name: ClassVar[str] = "ngrams"

    def __init__(self, bits: int) -> None:
        self.bits = bits

    def extract(self, products: Sequence[Product]) -> dict[str, NDArray]:
        counts = count_ngrams([p.designation for p in products], [p.description for p in products], self.bits)
        ends = counts.indptr.astype(np.int64)
        return {
            "ngrams": counts.indices.astype(np.int32),
            "ngrams" + OFFSETS: ends,
            "counts": counts.data,
            "counts" + OFFSETS: ends,
        }

    def save(self, folder: Path) -> None:
        _write(folder, {"bits": self.bits})

    @classmethod
    def load(cls, folder: Path, device: torch.device) -> Self:
        return cls(**_read(folder))


class TokenExtractor(_Text):
    """`tokens` (int32, ragged): subwords of the title, a separator, subwords of the description."""

    name: ClassVar[str] = "tokens"

    def __init__(self, tokenizer: PreTrainedTokenizerFast, max_tokens: int) -> None:
        self.tokenizer, self.max_tokens = tokenizer, max_tokens

    def extract(self, products: Sequence[Product]) -> dict[str, NDArray]:
        titles, descriptions = ([clean(getattr(p, name)) for p in products] for name in ("designation", "description"))
        # alone, then put together: of a pair the tokenizer also makes all combinations of what it cuts off, which took
        # 3.3 s for a title and a description of 10,000 words each
        alone = self.tokenizer([*titles, *descriptions])["input_ids"]
        separator, room = self.tokenizer.sep_token_id, self.max_tokens - 1
        rows = []
        for title, description in zip(alone[: len(titles)], alone[len(titles) :], strict=True):
            first, second = truncate_pair(len(title), len(description), room)
            rows.append(np.array([*title[:first], separator, *description[:second]], dtype=np.int32))
        tokens, offsets = ragged(rows)
        return {"tokens": tokens, "tokens" + OFFSETS: offsets}

    def save(self, folder: Path) -> None:
        _write(folder, {"max_tokens": self.max_tokens})
        self.tokenizer.save_pretrained(folder)

    @classmethod
    def load(cls, folder: Path, device: torch.device) -> Self:
        return cls(PreTrainedTokenizerFast.from_pretrained(folder), **_read(folder))


def truncate_pair(first: int, second: int, room: int) -> tuple[int, int]:
    """How many tokens of a title and of a description are kept: the longer is cut first, then both to halves.

    As the tokenizer's own `longest_first`.
    """
    if first + second <= room:
        return first, second
    shorter = min(first, second, room // 2)
    return (shorter, room - shorter) if first <= second else (room - shorter, shorter)


class VectorExtractor(_Text):
    """`vectors` (N, 2E) fp16: a pretrained encoder's vectors of the title, and of title and description together."""

    name: ClassVar[str] = "vectors"
    network: ClassVar[bool] = True

    def __init__(self, encoder: TextEncoder) -> None:
        self.encoder = encoder

    def extract(self, products: Sequence[Product]) -> dict[str, NDArray]:
        titles = [clean(product.designation) for product in products]
        whole = [clean(f"{product.designation} {product.description}") for product in products]
        # a third of the titles stands alone: its two texts are one, and so are repeated ones
        texts = list(dict.fromkeys([*titles, *whole]))
        places = {text: place for place, text in enumerate(texts)}
        vectors = self.encoder.encode(texts).astype(np.float16)
        pair = [vectors[[places[text] for text in column]] for column in (titles, whole)]
        return {"vectors": np.concatenate(pair, axis=1)}

    def save(self, folder: Path) -> None:
        self.encoder.save(folder)

    @classmethod
    def load(cls, folder: Path, device: torch.device) -> Self:
        return cls(load_saved_encoder(folder, device))


class EncoderTokenExtractor(_Text):
    """`ids` (int32, ragged): title and description, cut by a pretrained encoder's own tokenizer, to train it on."""

    name: ClassVar[str] = "encoder_tokens"
    training_only: ClassVar[tuple[str, ...]] = ("*.safetensors",)  # the encoder, which the member's own replaces

    def __init__(self, encoder: TransformerEncoder | None, tokenizer: EncoderTokenizer) -> None:
        self.encoder, self.tokenizer = encoder, tokenizer

    @classmethod
    def of(cls, encoder: TransformerEncoder) -> Self:
        """Of an encoder that is about to be trained."""
        return cls(encoder, EncoderTokenizer(encoder.tokenizer, encoder.config))

    def extract(self, products: Sequence[Product]) -> dict[str, NDArray]:
        texts = [clean(f"{product.designation} {product.description}") for product in products]
        ids, offsets = ragged([np.array(row, dtype=np.int32) for row in self.tokenizer.ids(texts)])
        return {"ids": ids, "ids" + OFFSETS: offsets}

    def save(self, folder: Path) -> None:
        if self.encoder is None:
            raise ValueError("read from a bundle, which lacks the encoder: save the one that was trained")
        self.encoder.save(folder)

    @classmethod
    def load(cls, folder: Path, device: torch.device) -> Self:
        return cls(None, EncoderTokenizer.load(folder))


class PhotoExtractor(_Photo):
    """`photo` (N, D) fp16: what a frozen pretrained backbone sees in a prepared photo."""

    name: ClassVar[str] = "photo_features"
    network: ClassVar[bool] = True

    def __init__(self, backbone: Backbone) -> None:
        self.backbone = backbone

    def extract(self, products: Sequence[Product]) -> dict[str, NDArray]:
        return {"photo": self.backbone.features(_pixels(products, self.backbone.image_size))}

    def save(self, folder: Path) -> None:
        self.backbone.save(folder)

    @classmethod
    def load(cls, folder: Path, device: torch.device) -> Self:
        return cls(load_saved_backbone(folder, device))


class PixelExtractor(_Photo):
    """`pixels` (N, S, S, 3) uint8: prepared photos, for a network that is trained on them."""

    name: ClassVar[str] = "pixels"

    def __init__(self, image_size: int) -> None:
        self.image_size = image_size

    def extract(self, products: Sequence[Product]) -> dict[str, NDArray]:
        return {"pixels": _pixels(products, self.image_size)}

    def save(self, folder: Path) -> None:
        _write(folder, {"image_size": self.image_size})

    @classmethod
    def load(cls, folder: Path, device: torch.device) -> Self:
        return cls(**_read(folder))


class MapExtractor(PhotoExtractor):
    """`photo` as above, and `maps` (N, 512, S/16, S/16) fp16: what VGG16's block 5 reads, for training it."""

    name: ClassVar[str] = "maps"

    def extract(self, products: Sequence[Product]) -> dict[str, NDArray]:
        assert isinstance(self.backbone, VGG16Backbone)
        photo, maps = self.backbone.features_and_maps(_pixels(products, self.backbone.image_size))
        return {"photo": photo, "maps": maps}


EXTRACTORS: dict[str, type[Extractor]] = {
    kind.name: kind
    for kind in (
        NgramExtractor,
        TokenExtractor,
        VectorExtractor,
        EncoderTokenExtractor,
        PhotoExtractor,
        PixelExtractor,
        MapExtractor,
    )
}


def _pixels(products: Sequence[Product], image_size: int) -> NDArray:
    return prepare_photos([product.photo for product in products if product.photo is not None], image_size)


def _write(folder: Path, settings: Mapping[str, int]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / SETTINGS).write_text(json.dumps(settings))


def _read(folder: Path) -> dict[str, int]:
    return json.loads((folder / SETTINGS).read_text())
