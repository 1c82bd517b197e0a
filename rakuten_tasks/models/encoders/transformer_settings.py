"""Settings of an `hf:` encoder: as configured, else read from the model's folder."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import torch

from rakuten_tasks.config import TextConfig
from rakuten_tasks.models.encoders.memory import require_memory
from rakuten_tasks.models.encoders.pooling import MODULES, pooling_modes
from rakuten_tasks.models.encoders.settings import EncoderSettings
from rakuten_tasks.models.model_folder import CONFIG, PREFIX, ModelFolder, ModelKind
from rakuten_tasks.models.pretrained import PretrainedWeights

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedTokenizerBase

LENGTHS, PROMPTS = "sentence_bert_config.json", "config_sentence_transformers.json"
VOCABULARIES = (
    "tokenizer.json", "vocab.txt", "vocab.json", "sentencepiece.bpe.model", "spiece.model", "tokenizer.model",
)  # fmt: skip
TOKENIZER = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "merges.txt")
TEXT_ENCODER = ModelKind(
    "text.encoder",
    (CONFIG, *VOCABULARIES, *TOKENIZER, MODULES, LENGTHS, PROMPTS, "*/config.json"),
    "tokenizer",
    VOCABULARIES,
)

MAX_TOKENS = 512  # by default: what most encoders were trained with; attention takes the square of it
CHARACTERS_PER_TOKEN = 16  # French has 4: the characters that are cut off would not be among the tokens
# of these, position ids begin after the padding's, which is 1
LATE_POSITIONS = ("camembert", "roberta", "xlm-roberta", "xlm-roberta-xl")
# E5's cards ask for "query: " before texts that are classified; its configuration does not say so
E5 = re.compile(r"(?<![a-z0-9])e5(?![a-z0-9])")


def read_settings(config: TextConfig, folder: ModelFolder) -> EncoderSettings:
    """Resolve all settings, without the weights' hash, which takes seconds.

    Raises ValueError if the model is no encoder of text, is not supported, or does not fit into memory.
    """
    pooling_modes(folder.path)
    architecture = _read_architecture(folder)
    parameters = _count_parameters(folder, architecture)
    max_tokens = _max_tokens(config, folder, architecture)
    hidden = architecture.hidden_size
    inner = getattr(architecture, "intermediate_size", None) or 4 * hidden
    copies = 4 if config.fine_tune_epochs else 1  # gradients and AdamW's two moments
    # fp32 of one layer: states, queries, keys, values and their products, and the wide layer twice
    batch = config.batch_size * max_tokens * (10 * hidden + 2 * inner) * 4
    require_memory(parameters * 4 * copies, batch, f"text.encoder={config.encoder!r}")
    unhashed = PretrainedWeights(config.encoder, "", "", "")
    max_characters = config.max_characters or CHARACTERS_PER_TOKEN * max_tokens
    return EncoderSettings(unhashed, max_characters, _prefix(config, folder), max_tokens, config.precision)


def read_tokenizer(folder: ModelFolder) -> PreTrainedTokenizerBase:
    """Read a tokenizer that pads and truncates at the end. Raises ValueError if transformers cannot read it."""
    from transformers import AutoTokenizer

    with folder.clear_errors("tokenizer"):
        tokenizer = AutoTokenizer.from_pretrained(folder.path, local_files_only=True, trust_remote_code=False)
    tokenizer.padding_side = tokenizer.truncation_side = "right"
    if tokenizer.pad_token is None:  # of generative models; padding is masked, so any token will do
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def _read_architecture(folder: ModelFolder) -> PretrainedConfig:
    from transformers import AutoConfig

    with folder.clear_errors("configuration"):
        config = AutoConfig.from_pretrained(folder.path, local_files_only=True, trust_remote_code=False)
    if config.is_encoder_decoder or getattr(config, "hidden_size", None) is None:
        raise ValueError(
            f"text.encoder={folder.name!r} is a {config.model_type} model, which gives no vector of a text: choose an "
            "encoder such as BERT or XLM-RoBERTa"
        )
    return config


def _count_parameters(folder: ModelFolder, architecture: PretrainedConfig) -> int:
    """Count on the meta device, which allocates no memory."""
    from transformers import AutoModel

    with folder.clear_errors("network"), torch.device("meta"):
        model = AutoModel.from_config(architecture, trust_remote_code=False)
    if model.main_input_name != "input_ids":
        raise ValueError(f"text.encoder={folder.name!r} reads {model.main_input_name}, not text: choose a text encoder")
    return sum(parameter.numel() for parameter in model.parameters())


def _max_tokens(config: TextConfig, folder: ModelFolder, architecture: PretrainedConfig) -> int:
    """Return the configured or the model's own number. Raises ValueError if the model has fewer positions."""
    tokenizer = read_tokenizer(folder)
    positions = getattr(architecture, "max_position_embeddings", None) or tokenizer.model_max_length
    if architecture.model_type in LATE_POSITIONS:
        positions -= 2
    most, least = min(positions, tokenizer.model_max_length), tokenizer.num_special_tokens_to_add() + 1
    if config.max_tokens and not least <= config.max_tokens <= most:
        raise ValueError(f"text.max_tokens={config.max_tokens}: {folder.name} takes from {least} to {most} tokens")
    trained = folder.read_json(LENGTHS).get("max_seq_length")
    return config.max_tokens or min(trained or most, most, MAX_TOKENS)


def _prefix(config: TextConfig, folder: ModelFolder) -> str:
    """Return the configured one, or the model's prompt for classification, by default, or for queries."""
    if config.prefix:
        return config.prefix
    settings = folder.read_json(PROMPTS)
    prompts = settings.get("prompts") or {}
    for name in ("classification", "Classification", settings.get("default_prompt_name"), "query"):
        if prompts.get(name):
            return str(prompts[name])
    name = folder.name.removeprefix(PREFIX).rstrip("/").rpartition("/")[2].lower()
    return "query: " if E5.search(name) and "instruct" not in name else ""
