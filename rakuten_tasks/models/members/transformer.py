"""The member `transformer`: a pretrained hf: encoder, trained with its head."""

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

from rakuten_tasks.config import Strict, TextConfig, TrainingConfig
from rakuten_tasks.models.encoders import load_saved_encoder, pooling
from rakuten_tasks.models.encoders.transformer_encoder import TransformerEncoder
from rakuten_tasks.models.extractors import EncoderTokenExtractor
from rakuten_tasks.models.members.held_out import HeldOutFit, Phase
from rakuten_tasks.models.members.member import FitContext, FitResult, TrainingData
from rakuten_tasks.preprocessing.feature_shards import OFFSETS, ShardArrays
from rakuten_tasks.training.loop import Schedule
from rakuten_tasks.training.oom import MicrobatchRunner

HEAD = "head.safetensors"
DROPOUT, LABEL_SMOOTHING, WEIGHT_DECAY = 0.1, 0.1, 0.01
HEAD_RATE = 25.0  # times the encoder's learning rate: the head starts from nothing
LAYER = re.compile(r"(?:^|\.)(?:layers?|h|blocks?)\.(\d+)\.")
# Texts of the same length, rounded up to this, go through together: a text's padding, and so its bits on a CPU, are the
# same alone and among others.
MULTIPLE = 8


class FineTunedEncoder(nn.Module):
    """Tokens -> logits: the encoder, pooled as its own configuration says, and a linear head."""

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
    """Title and description by a fine-tuned pretrained encoder."""

    name: ClassVar[str] = "transformer"
    modality: ClassVar[str] = "text"
    pod: ClassVar[str] = "elastic"
    seeded: ClassVar[bool] = True
    extractors: tuple[str, ...] = (EncoderTokenExtractor.name,)

    def __init__(self, network: FineTunedEncoder) -> None:
        self.network = network.eval().requires_grad_(False)
        self.batch = MicrobatchRunner(64, "transformer")

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
            at = np.flatnonzero(lengths == length)
            read: list[Tensor] = []
            hook = head.register_forward_pre_hook(lambda _, inputs, read=read: read.append(inputs[0]))
            try:
                list(self.batch.iter_chunks(len(at), partial(self._ask, [rows[i] for i in at])))
            finally:
                hook.remove()
            pooled = torch.cat(read).float()
            # in fp64, rounding is below fp32's last bit whatever kernel the number of rows chooses
            said = pooled.double() @ head.weight.double().T + head.bias.double()
            logits[at], embeddings[at] = said.float().cpu().numpy(), pooled.cpu().numpy()
        return logits, embeddings

    def _ask(self, rows: list[NDArray], start: int, end: int) -> Tensor:
        device = self.network.head.weight.device
        ids, mask = padded(rows[start:end], self.network.pad_id, self.network.max_tokens)
        with self.network.encoder.autocast(device):
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


class _TransformerFit(HeldOutFit):
    def __init__(self, config: TextConfig, data: TrainingData, context: FitContext) -> None:
        super().__init__(config, data, context, EncoderTokenExtractor.name)
        self.config = config

    def new_network(self, phase: str, rows: NDArray) -> FineTunedEncoder:
        encoder = load_saved_encoder(self.data.folders[EncoderTokenExtractor.name], self.context.device)
        assert isinstance(encoder, TransformerEncoder)
        torch.manual_seed(self.context.seed)  # the head's weights
        if self.config.gradient_checkpointing:
            encoder.model.activation_checkpointing_enable({"use_reentrant": False})  # type: ignore[operator]
        encoder.fine_tuned = True
        network = FineTunedEncoder(encoder, self.data.classes).to(self.context.device)
        for name, parameter in network.named_parameters():
            # BERT's pooler is asked by nobody, and processes that train together wait for every gradient
            parameter.requires_grad_("pooler" not in name)
        return network

    def phases(self, network: nn.Module, rows: NDArray) -> list[Phase]:
        assert isinstance(network, FineTunedEncoder)
        config = self.config
        schedule = Schedule(
            config.fine_tune_epochs, config.batch_size, config.fine_tune_epochs, LABEL_SMOOTHING, warmup=config.warmup
        )
        groups = parameter_groups(network, config.learning_rate, config.layer_decay)
        examples = TextExamples(self.arrays, self.data.labels, network.pad_id, network.max_tokens)
        optimizer = torch.optim.AdamW(groups, lr=config.learning_rate, weight_decay=WEIGHT_DECAY)
        return [Phase("transformer", network, examples, schedule, optimizer)]

    def member(self, network: nn.Module) -> Transformer:
        assert isinstance(network, FineTunedEncoder)
        return Transformer(network)


def parameter_groups(network: FineTunedEncoder, rate: float, decay: float) -> list[dict[str, object]]:
    """AdamW's groups, one a layer: the last layer learns at `rate`, each one below at `decay` times the one above it.

    Embeddings count as a layer below the first; the head learns at HEAD_RATE times `rate`. Source: arXiv 1801.06146.
    """
    layers: dict[int, list[nn.Parameter]] = {}
    for name, parameter in network.network.named_parameters():
        found = LAYER.search(name)
        layers.setdefault(int(found.group(1)) if found else -1, []).append(parameter)
    top = max(layers)
    groups: list[dict[str, object]] = [
        {"params": parameters, "lr": rate * decay ** (top - layer)} for layer, parameters in sorted(layers.items())
    ]
    return [*groups, {"params": list(network.head.parameters()), "lr": rate * HEAD_RATE}]


class TextExamples:
    """Rows' token ids, for training and prediction."""

    def __init__(self, arrays: ShardArrays, labels: NDArray, pad_id: int, most: int) -> None:
        """most: tokens that the encoder has positions for."""
        self.arrays, self.labels, self.pad_id, self.most = arrays, labels, pad_id, most

    def batch(self, rows: NDArray, augment: Callable[[], float] | None) -> tuple[Tensor, ...]:
        """(B,) rows -> ids and mask, (B, T) int64 each"""
        return padded(self.arrays.take_ragged("ids", rows), self.pad_id, self.most)


def padded(rows: list[NDArray], pad_id: int, most: int) -> tuple[Tensor, Tensor]:
    """B lists of up to `most` token ids -> ids and mask, (B, T) int64 each, T a multiple of MULTIPLE or `most`"""
    longest = min(-(-max(len(row) for row in rows) // MULTIPLE) * MULTIPLE, most)
    ids = np.full((len(rows), longest), pad_id, dtype=np.int64)
    mask = np.zeros_like(ids)
    for at, row in enumerate(rows):
        ids[at, : len(row)], mask[at, : len(row)] = row, 1
    return torch.from_numpy(ids), torch.from_numpy(mask)
