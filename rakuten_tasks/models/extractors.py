"""Products -> features, which members are fitted on and predict from, in training, evaluation and serving."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Self

import numpy as np
import torch
from numpy.typing import NDArray

from rakuten_tasks.models.backbones import load_saved_backbone
from rakuten_tasks.models.backbones.frozen import FrozenBackbone
from rakuten_tasks.models.backbones.frozen_vgg16 import VGG16Backbone
from rakuten_tasks.models.encoders import TextEncoder, load_saved_encoder
from rakuten_tasks.models.encoders.transformer_encoder import EncoderTokenizer, TransformerEncoder
from rakuten_tasks.preprocessing.feature_shards import OFFSETS, ragged
from rakuten_tasks.preprocessing.ngrams import count_ngrams
from rakuten_tasks.preprocessing.photos import prepare_photos
from rakuten_tasks.preprocessing.product import Product
from rakuten_tasks.preprocessing.text import clean

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

SETTINGS = "settings.json"


class Extractor(ABC):
    """Products -> arrays. A folder of the bundle, which several members may read.

    modality: text or photo. network: whether a GPU makes it faster. training_only: files that a bundle does not need.
    """

    name: ClassVar[str]
    modality: ClassVar[str] = "text"
    network: ClassVar[bool] = False
    training_only: ClassVar[tuple[str, ...]] = ()

    def available(self, product: Product) -> bool:
        """Tell whether the product has the text or photo that the extractor reads."""
        return product.photo is not None if self.modality == "photo" else product.has_text

    @abstractmethod
    def extract(self, products: Sequence[Product]) -> dict[str, NDArray]:
        """Extract (N,) products, all of them available -> arrays of N rows; a ragged one has its offsets beside it.

        A product gets the same bits alone and among others. Raises PhotoError on bytes that are no photo.
        """

    @abstractmethod
    def save(self, folder: Path) -> None:
        """Write everything that `load` needs."""

    @classmethod
    @abstractmethod
    def load(cls, folder: Path, device: torch.device) -> Self:
        """Read the files of `save`."""


class NgramExtractor(Extractor):
    """`ngrams` (int32 columns of ngrams.count_ngrams) and `counts` (fp32), ragged."""

    name: ClassVar[str] = "ngrams"

    def __init__(self, bits: int) -> None:
        self.bits = bits

    def extract(self, products: Sequence[Product]) -> dict[str, NDArray]:
        counts = count_ngrams([p.designation for p in products], [p.description for p in products], self.bits)
        ngrams, offsets = counts.indices.astype(np.int32), counts.indptr.astype(np.int64)
        return {"ngrams": ngrams, "ngrams" + OFFSETS: offsets, "counts": counts.data, "counts" + OFFSETS: offsets}

    def save(self, folder: Path) -> None:
        _write_settings(folder, {"bits": self.bits})

    @classmethod
    def load(cls, folder: Path, device: torch.device) -> Self:
        return cls(**_read_settings(folder))


class TokenExtractor(Extractor):
    """`tokens` (int32, ragged): subwords of the title, a separator, subwords of the description."""

    name: ClassVar[str] = "tokens"

    def __init__(self, tokenizer: PreTrainedTokenizerFast, max_tokens: int) -> None:
        self.tokenizer, self.max_tokens = tokenizer, max_tokens

    def extract(self, products: Sequence[Product]) -> dict[str, NDArray]:
        titles, descriptions = ([clean(getattr(p, name)) for p in products] for name in ("designation", "description"))
        # not as pairs, of which the tokenizer makes all combinations of the tokens that it cuts off: 3.3 s for a title
        # and a description of 10,000 words each
        ids = self.tokenizer([*titles, *descriptions])["input_ids"]
        separator, max_tokens = self.tokenizer.sep_token_id, self.max_tokens - 1
        rows = []
        for title, description in zip(ids[: len(titles)], ids[len(titles) :], strict=True):
            first, second = truncate_pair(len(title), len(description), max_tokens)
            rows.append(np.array([*title[:first], separator, *description[:second]], dtype=np.int32))
        tokens, offsets = ragged(rows)
        return {"tokens": tokens, "tokens" + OFFSETS: offsets}

    def save(self, folder: Path) -> None:
        _write_settings(folder, {"max_tokens": self.max_tokens})
        self.tokenizer.save_pretrained(folder)

    @classmethod
    def load(cls, folder: Path, device: torch.device) -> Self:
        from transformers import PreTrainedTokenizerFast  # not at the top: it takes a second

        return cls(PreTrainedTokenizerFast.from_pretrained(folder), **_read_settings(folder))


def truncate_pair(first: int, second: int, total: int) -> tuple[int, int]:
    """Truncate tokens of a title and a description to a total: the longer first, then both to halves.

    As the tokenizer's own `longest_first`.
    """
    if first + second <= total:
        return first, second
    shorter = min(first, second, total // 2)
    return (shorter, total - shorter) if first <= second else (total - shorter, shorter)


class VectorExtractor(Extractor):
    """`vectors` (N, 2E) fp16: a pretrained encoder's vectors of the title, and of title and description together."""

    name: ClassVar[str] = "vectors"
    network: ClassVar[bool] = True

    def __init__(self, encoder: TextEncoder) -> None:
        self.encoder = encoder

    def extract(self, products: Sequence[Product]) -> dict[str, NDArray]:
        titles, texts = [clean(product.designation) for product in products], _full_texts(products)
        # a third of the products has no description, so title and text are equal: each is encoded once
        distinct = {text: row for row, text in enumerate(dict.fromkeys([*titles, *texts]))}
        vectors = self.encoder.encode(list(distinct)).astype(np.float16)
        pair = [vectors[[distinct[text] for text in column]] for column in (titles, texts)]
        return {"vectors": np.concatenate(pair, axis=1)}

    def save(self, folder: Path) -> None:
        self.encoder.save(folder)

    @classmethod
    def load(cls, folder: Path, device: torch.device) -> Self:
        return cls(load_saved_encoder(folder, device))


class EncoderTokenExtractor(Extractor):
    """`ids` (int32, ragged): title and description by a pretrained encoder's own tokenizer, to train the encoder on."""

    name: ClassVar[str] = "encoder_tokens"
    training_only: ClassVar[tuple[str, ...]] = ("*.safetensors",)  # the encoder, which the fine-tuned member replaces

    def __init__(self, encoder: TransformerEncoder | None, tokenizer: EncoderTokenizer) -> None:
        self.encoder, self.tokenizer = encoder, tokenizer

    @classmethod
    def of(cls, encoder: TransformerEncoder) -> Self:
        """Make an extractor for an encoder that will be fine-tuned."""
        return cls(encoder, EncoderTokenizer(encoder.tokenizer, encoder.config))

    def extract(self, products: Sequence[Product]) -> dict[str, NDArray]:
        ids, offsets = ragged([np.array(row, dtype=np.int32) for row in self.tokenizer.ids(_full_texts(products))])
        return {"ids": ids, "ids" + OFFSETS: offsets}

    def save(self, folder: Path) -> None:
        if self.encoder is None:
            raise ValueError("an extractor loaded from a bundle has no encoder: save the one that was fine-tuned")
        self.encoder.save(folder)

    @classmethod
    def load(cls, folder: Path, device: torch.device) -> Self:
        return cls(None, EncoderTokenizer.load(folder))


class PhotoExtractor(Extractor):
    """`photo` (N, D) fp16: features of a frozen pretrained backbone."""

    name: ClassVar[str] = "photo_features"
    modality: ClassVar[str] = "photo"
    network: ClassVar[bool] = True

    def __init__(self, backbone: FrozenBackbone) -> None:
        self.backbone = backbone

    def extract(self, products: Sequence[Product]) -> dict[str, NDArray]:
        return {"photo": self.backbone.features(_pixels(products, self.backbone.image_size))}

    def save(self, folder: Path) -> None:
        self.backbone.save(folder)

    @classmethod
    def load(cls, folder: Path, device: torch.device) -> Self:
        return cls(load_saved_backbone(folder, device))


class PixelExtractor(Extractor):
    """`pixels` (N, S, S, 3) uint8: prepared photos, to train a network on."""

    name: ClassVar[str] = "pixels"
    modality: ClassVar[str] = "photo"

    def __init__(self, image_size: int) -> None:
        self.image_size = image_size

    def extract(self, products: Sequence[Product]) -> dict[str, NDArray]:
        return {"pixels": _pixels(products, self.image_size)}

    def save(self, folder: Path) -> None:
        _write_settings(folder, {"image_size": self.image_size})

    @classmethod
    def load(cls, folder: Path, device: torch.device) -> Self:
        return cls(**_read_settings(folder))


class MapExtractor(PhotoExtractor):
    """`photo` as above, and `maps` (N, 512, S/16, S/16) fp16: the input of VGG16's block 5, to train it on."""

    name: ClassVar[str] = "maps"

    def extract(self, products: Sequence[Product]) -> dict[str, NDArray]:
        assert isinstance(self.backbone, VGG16Backbone)
        photo, maps = self.backbone.features_and_maps(_pixels(products, self.backbone.image_size))
        return {"photo": photo, "maps": maps}


_TEXT = (NgramExtractor, TokenExtractor, VectorExtractor, EncoderTokenExtractor)
_PHOTO = (PhotoExtractor, PixelExtractor, MapExtractor)
EXTRACTORS: dict[str, type[Extractor]] = {extractor.name: extractor for extractor in (*_TEXT, *_PHOTO)}


def _full_texts(products: Sequence[Product]) -> list[str]:
    return [clean(f"{product.designation} {product.description}") for product in products]


def _pixels(products: Sequence[Product], image_size: int) -> NDArray:
    return prepare_photos([product.photo for product in products if product.photo is not None], image_size)


def _write_settings(folder: Path, settings: Mapping[str, int]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / SETTINGS).write_text(json.dumps(settings))


def _read_settings(folder: Path) -> dict[str, int]:
    return json.loads((folder / SETTINGS).read_text())
