"""What transformers reads from a model's folder: architecture, tokenizer, network; and the settings that go with them.

Code that a model brings along is never run.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch

from rakuten_tasks.config import TextConfig
from rakuten_tasks.models.encoders.model_folder import LENGTHS, PREFIX, PROMPTS, ModelFolder
from rakuten_tasks.training.oom import is_out_of_memory

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

MAX_TOKENS = 512  # by default: what most encoders were trained with; attention takes the square of it
# of these, position ids begin after the padding's, which is 1
LATE_POSITIONS = ("camembert", "roberta", "xlm-roberta", "xlm-roberta-xl")
# E5's cards ask for "query: " before texts that are classified; its configuration does not say so
E5 = re.compile(r"(?<![a-z0-9])e5(?![a-z0-9])")
PROMPT_NAMES = ("classification", "Classification", "query")


def read_architecture(folder: ModelFolder) -> PretrainedConfig:
    """Raises ValueError if transformers does not know it, or if it is no encoder of text."""
    from transformers import AutoConfig

    with _with_clear_errors(folder, "configuration"):
        config = AutoConfig.from_pretrained(folder.path, local_files_only=True, trust_remote_code=False)
    if config.is_encoder_decoder or getattr(config, "hidden_size", None) is None:
        raise ValueError(
            f"text.encoder={folder.name!r} is a {config.model_type} model, which gives no vector of a text: choose an "
            "encoder, as BERT's and XLM-RoBERTa's kin are"
        )
    return config


def count_parameters(folder: ModelFolder, architecture: PretrainedConfig) -> int:
    """Without memory for them. Raises ValueError if transformers cannot build the network."""
    from transformers import AutoModel

    with _with_clear_errors(folder, "network"), torch.device("meta"):
        model = AutoModel.from_config(architecture, trust_remote_code=False)
    if model.main_input_name != "input_ids":
        raise ValueError(f"text.encoder={folder.name!r} reads {model.main_input_name}, not text: choose a text encoder")
    return sum(parameter.numel() for parameter in model.parameters())


def read_tokenizer(folder: ModelFolder) -> PreTrainedTokenizerBase:
    """Pads at the end, whatever the model's own way. Raises ValueError if transformers cannot read it."""
    from transformers import AutoTokenizer

    with _with_clear_errors(folder, "tokenizer"):
        tokenizer = AutoTokenizer.from_pretrained(folder.path, local_files_only=True, trust_remote_code=False)
    tokenizer.padding_side = tokenizer.truncation_side = "right"
    if tokenizer.pad_token is None:  # of models that were made to write; masked, any token will do
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def read_model(folder: ModelFolder) -> PreTrainedModel:
    """In fp32, safetensors alone. Raises ValueError if transformers cannot read it, or if weights are missing."""
    from transformers import AutoModel

    with _with_clear_errors(folder, "network"):
        model, found = AutoModel.from_pretrained(
            folder.path,
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=True,
            output_loading_info=True,
            dtype=torch.float32,
        )
    missing = [str(key) for key in (*found["missing_keys"], *found["mismatched_keys"])]
    if other := sorted(key for key in missing if "pooler" not in key):  # which is not used
        raise ValueError(
            f"{folder.path} lacks weights of its network, {other[0]} and {len(other) - 1} more: save the model again"
        )
    return model


def settle_max_tokens(
    config: TextConfig, folder: ModelFolder, architecture: PretrainedConfig, tokenizer: PreTrainedTokenizerBase
) -> int:
    """As configured, or what the model was made for. Raises ValueError if the model has no so many positions."""
    positions = getattr(architecture, "max_position_embeddings", None) or tokenizer.model_max_length
    if architecture.model_type in LATE_POSITIONS:
        positions -= 2
    most, least = min(positions, tokenizer.model_max_length), tokenizer.num_special_tokens_to_add() + 1
    if config.max_tokens and not least <= config.max_tokens <= most:
        raise ValueError(f"text.max_tokens={config.max_tokens}: {folder.name} takes from {least} to {most} tokens")
    said = _read_json(folder, LENGTHS).get("max_seq_length")
    return config.max_tokens or min(said or most, most, MAX_TOKENS)


def settle_prefix(config: TextConfig, folder: ModelFolder) -> str:
    """As configured; else the model's own prompt for classification, its default one, or the one for queries."""
    if config.prefix:
        return config.prefix
    said = _read_json(folder, PROMPTS)
    prompts = said.get("prompts") or {}
    for name in (*PROMPT_NAMES[:2], said.get("default_prompt_name"), PROMPT_NAMES[2]):
        if prompts.get(name):
            return str(prompts[name])
    name = folder.name.removeprefix(PREFIX).rstrip("/").rpartition("/")[2].lower()
    return "query: " if E5.search(name) and "instruct" not in name else ""


def _read_json(folder: ModelFolder, name: str) -> dict[str, Any]:
    path = folder.path / name
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


@contextmanager
def _with_clear_errors(folder: ModelFolder, what: str) -> Iterator[None]:
    """One ValueError for whatever transformers raises; no report of weights that are not used, no random numbers."""
    import transformers
    from transformers.utils import logging

    before, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        with torch.random.fork_rng(devices=[]):
            yield
    except Exception as error:  # of no closed set
        if is_out_of_memory(error):
            raise
        line = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".:")
        raise ValueError(
            f"text.encoder={folder.name!r}: transformers {transformers.__version__} cannot load the {what} in "
            f"{folder.path} ({line}): choose a model that it knows without code of the model's own"
        ) from error
    finally:
        logging.set_verbosity(before)
        if bars:
            logging.enable_progress_bar()
