"""Subword tokenization."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

# Longer words are split: BPE takes the square of a word's length, 10 s for 100,000 letters.
LONG_WORD = re.compile(r"\S{1000}")
PAD, SEPARATOR = "[PAD]", "[SEP]"  # ids 0 and 1


def train_tokenizer(texts: Iterable[str], vocabulary_size: int) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE of lower-cased text without accents, in one pass over clean `texts`.

    A pair (title, description) becomes title [SEP] description. Deterministic for the same texts in the same order.
    """
    from transformers import PreTrainedTokenizerFast  # not at the top: it takes two seconds

    # not WordPiece, whose trainer numbers the continuing pieces in the order of a randomly seeded hash map
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFD(), normalizers.StripAccents(), normalizers.Lowercase()]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary_size,
        special_tokens=[PAD, SEPARATOR],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator((LONG_WORD.sub(r"\g<0> ", text) for text in texts), trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A", pair=f"$A {SEPARATOR} $B", special_tokens=[(SEPARATOR, 1)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token=PAD, sep_token=SEPARATOR)


def vocabulary_size(words: int) -> int:
    """Estimate the number of tokens for training rows of this many words, by Heaps' law."""
    return min(max(int(20 * words**0.5), 1000), 32000)
