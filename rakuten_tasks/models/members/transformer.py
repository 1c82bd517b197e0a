"""The member `transformer`: a pretrained hf: encoder, fine-tuned with a new head."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import ClassVar, Self

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from rakuten_tasks.config import TextConfig, TrainingConfig
from rakuten_tasks.config_base import Strict
from rakuten_tasks.models.encoders import load_saved_encoder, pooling
from rakuten_tasks.models.encoders.transformer_encoder import TransformerEncoder
from rakuten_tasks.models.extractors import EncoderTokenExtractor
from rakuten_tasks.models.members.held_out import Examples, HeldOutFit, Phase, capture_inputs
from rakuten_tasks.models.members.member import FitContext, FitResult, TrainingData
from rakuten_tasks.preprocessing.feature_shards import OFFSETS
from rakuten_tasks.training.hardware import autocast
from rakuten_tasks.training.oom import MicrobatchRunner
from rakuten_tasks.training.schedule import Schedule

HEAD = "head.safetensors"
DROPOUT, LABEL_SMOOTHING, WEIGHT_DECAY = 0.1, 0.1, 0.01
HEAD_RATE = 25.0  # times the encoder's learning rate: the head's initial weights are random
LAYER = re.compile(r"(?:^|\.)(?:layers?|h|blocks?)\.(\d+)\.")
# Texts of the same length, rounded up to this, form a batch: a text's padding, and so its bits on a CPU, are the same
# alone and in a batch.
MULTIPLE = 8


class FineTunedEncoder(nn.Module):
    """Tokens -> logits: the encoder, the pooling of its configuration, and a linear head."""

    def __init__(self, encoder: TransformerEncoder, classes: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.network = encoder.model
        self.dropout = nn.Dropout(DROPOUT)
        self.head = nn.Linear(encoder.size, classes)
        self.pad_id = encoder.tokenizer.pad_token_id or 0
        self.max_tokens = encoder.config.max_tokens

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        """(B, T), (B, T) 1 for tokens and 0 for padding -> (B, K)"""
        hidden = self.network(input_ids=ids, attention_mask=mask).last_hidden_state  # (B, T, H)
        pooled = pooling.pool(hidden, mask, self.encoder.modes)  # (B, size) fp32
        with torch.autocast(pooled.device.type, enabled=False):
            return self.head(self.dropout(pooled))


class Transformer:
    """Title and description, by a fine-tuned pretrained encoder."""

    name: ClassVar[str] = "transformer"
    modality: ClassVar[str] = "text"
    cheap: ClassVar[bool] = False
    pod: ClassVar[str] = "elastic"
    seeded: ClassVar[bool] = True
    extractors: tuple[str, ...] = (EncoderTokenExtractor.name,)

    def __init__(self, network: FineTunedEncoder) -> None:
        self.network = network.eval().requires_grad_(False)
        self.runner = MicrobatchRunner(64, "transformer")

    @classmethod
    def settings(cls, config: TrainingConfig) -> Strict:
        return config.text

    @classmethod
    def fit(cls, settings: Strict, data: TrainingData, context: FitContext) -> FitResult:
        assert isinstance(settings, TextConfig)
        return _TransformerFit(settings, data, context).run()

    @torch.inference_mode()
    def logits_and_embedding(self, arrays: Mapping[str, NDArray]) -> tuple[NDArray, NDArray]:
        rows = np.split(arrays["ids"], arrays["ids" + OFFSETS][1:-1])
        head = self.network.head
        logits = np.zeros((len(rows), head.out_features), dtype=np.float32)
        embeddings = np.zeros((len(rows), head.in_features), dtype=np.float32)
        lengths = np.array([-(-len(row) // MULTIPLE) for row in rows])
        for length in np.unique(lengths)[::-1]:
            places = np.flatnonzero(lengths == length)
            with capture_inputs(head) as inputs:
                list(self.runner.iter_chunks(len(places), partial(self._forward, [rows[i] for i in places])))
            pooled = torch.cat(inputs)
            # in fp64, rounding is below fp32's last bit whatever kernel is chosen for the number of rows
            scores = pooled.double() @ head.weight.double().T + head.bias.double()
            logits[places], embeddings[places] = scores.float().cpu().numpy(), pooled.cpu().numpy()
        return logits, embeddings

    def _forward(self, rows: list[NDArray], start: int, end: int) -> Tensor:
        device = self.network.head.weight.device
        ids, mask = pad(rows[start:end], self.network.pad_id, self.network.max_tokens)
        with autocast(device, self.network.encoder.config.precision):
            return self.network(ids.to(device), mask.to(device))

    def save(self, folder: Path) -> None:
        self.network.encoder.save(folder / "encoder")
        save_file(self.network.head.state_dict(), folder / HEAD)

    @classmethod
    def load(cls, folder: Path, device: torch.device) -> Self:
        encoder = load_saved_encoder(folder / "encoder", device)
        assert isinstance(encoder, TransformerEncoder)
        head = load_file(folder / HEAD)
        network = FineTunedEncoder(encoder, len(head["bias"]))
        network.head.load_state_dict(head)
        return cls(network.to(device))


class _TransformerFit(HeldOutFit[FineTunedEncoder]):
    def __init__(self, config: TextConfig, data: TrainingData, context: FitContext) -> None:
        super().__init__(config, data, context, EncoderTokenExtractor.name)
        self.config = config

    def new_network(self, suffix: str, rows: NDArray) -> FineTunedEncoder:
        encoder = load_saved_encoder(self.extractor_folder, self.context.device)
        assert isinstance(encoder, TransformerEncoder)
        torch.manual_seed(self.context.seed)  # the head's weights
        if self.config.gradient_checkpointing:
            encoder.model.activation_checkpointing_enable({"use_reentrant": False})  # type: ignore[operator]
        encoder.fine_tuned = True
        network = FineTunedEncoder(encoder, self.data.classes).to(self.context.device)
        for name, parameter in network.named_parameters():
            # BERT's pooler is not used, and processes that train together wait for the gradient of every weight
            parameter.requires_grad_("pooler" not in name)
        return network

    def phases(self, network: FineTunedEncoder, rows: NDArray) -> list[Phase]:
        config = self.config
        schedule = Schedule(
            config.fine_tune_epochs, config.batch_size, config.fine_tune_epochs, LABEL_SMOOTHING, warmup=config.warmup
        )
        groups = parameter_groups(network, config.learning_rate, config.layer_decay)

        def read(rows: NDArray, augment: Callable[[], float] | None) -> tuple[Tensor, ...]:
            return pad(self.arrays.take_ragged("ids", rows), network.pad_id, network.max_tokens)

        optimizer = torch.optim.AdamW(groups, lr=config.learning_rate, weight_decay=WEIGHT_DECAY)
        return [Phase("transformer", network, Examples(self.data.labels, read), schedule, optimizer)]

    def member(self, network: FineTunedEncoder) -> Transformer:
        return Transformer(network)


def parameter_groups(network: FineTunedEncoder, rate: float, decay: float) -> list[dict[str, object]]:
    """Return AdamW's groups, by layer: the last one's learning rate is `rate`, each other's `decay` times the next's.

    Embeddings count as a layer below the first; the head's is HEAD_RATE times `rate`. Source: arXiv 1801.06146.
    """
    layers: dict[int, list[nn.Parameter]] = {}
    for name, parameter in network.network.named_parameters():
        match = LAYER.search(name)
        layers.setdefault(int(match.group(1)) if match else -1, []).append(parameter)
    top = max(layers)
    groups: list[dict[str, object]] = [
        {"params": parameters, "lr": rate * decay ** (top - layer)} for layer, parameters in sorted(layers.items())
    ]
    return [*groups, {"params": list(network.head.parameters()), "lr": rate * HEAD_RATE}]


def pad(rows: list[NDArray], pad_id: int, max_tokens: int) -> tuple[Tensor, Tensor]:
    """B lists of token ids -> ids and mask, (B, T) int64 each, T a multiple of MULTIPLE or max_tokens"""
    longest = min(-(-max(len(row) for row in rows) // MULTIPLE) * MULTIPLE, max_tokens)
    ids = np.full((len(rows), longest), pad_id, dtype=np.int64)
    mask = np.zeros_like(ids)
    for i, row in enumerate(rows):
        ids[i, : len(row)], mask[i, : len(row)] = row, 1
    return torch.from_numpy(ids), torch.from_numpy(mask)
