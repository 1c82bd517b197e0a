"""Frozen photo backbones: which weights they have, and that a photo gives the same features however it comes."""

from __future__ import annotations

import hashlib
import json
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torchvision.models import VGG16_Weights, get_model

from rakuten_tasks.config import PhotoConfig, Weights
from rakuten_tasks.models.backbones import load_backbone, load_saved_backbone, resolve_weights
from rakuten_tasks.models.backbones.frozen import FrozenBackbone
from rakuten_tasks.models.backbones.frozen_vgg16 import VGG16Backbone
from rakuten_tasks.models.networks.vgg16_blocks import BACKBONE_FEATURES, TOP_FEATURES
from rakuten_tasks.models.networks.vgg16_network import VGG16Network
from rakuten_tasks.models.networks.vgg16_weights import empty_convolutions, load_convolutions, random_convolutions
from rakuten_tasks.models.pretrained import PretrainedWeights
from rakuten_tasks.training.hardware import autocast
from tests.support.photo_embedding import photo_embedding

CPU, SMALL = torch.device("cpu"), "resnet18"
PHOTOS = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3), dtype=np.uint8)


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An empty cache folder of torch hub, and no way to fill it."""

    def refused(*args: object, **kwargs: object) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    monkeypatch.setattr("rakuten_tasks.models.downloads.download", refused)
    return tmp_path / "hub" / "checkpoints"


@pytest.fixture(scope="module")
def vgg16_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """vgg16 without batch norm, as a pretrained file holds it."""
    path = tmp_path_factory.mktemp("weights") / "vgg16.safetensors"
    torch.manual_seed(1)
    save_file(random_convolutions(batch_norm=False).state_dict(), path, {"license": "CC-BY-4.0"})
    return path


@pytest.fixture(scope="module")
def small_model() -> nn.Module:
    torch.manual_seed(2)
    return get_model(SMALL, weights=None).eval()


@pytest.fixture(scope="module")
def small_file(small_model: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "small.pth"
    torch.save(small_model.state_dict(), path)
    return path


@pytest.fixture(scope="module")
def vit_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A vision transformer of 16 numbers, for photos of 32 pixels."""
    from transformers import ViTConfig, ViTModel

    folder = tmp_path_factory.mktemp("vit")
    torch.manual_seed(3)
    shape: dict = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    ViTModel(ViTConfig(image_size=32, patch_size=8, **shape)).save_pretrained(folder)
    prepared = {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.5, 0.5, 0.25], "size": {"height": 32, "width": 32}}
    (folder / "preprocessor_config.json").write_text(json.dumps(prepared))
    (folder / "README.md").write_text("---\nlicense: apache-2.0\n---\n# Tiny\n")
    return folder


def of_file(path: Path, backbone: str = "vgg16", image_size: int = 32) -> PhotoConfig:
    return PhotoConfig(backbone, Weights.FILE, str(path), image_size=image_size)


def loaded(config: PhotoConfig) -> FrozenBackbone:
    backbone = load_backbone(resolve_weights(config)[0], CPU)
    assert isinstance(backbone, FrozenBackbone)
    return backbone


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture(scope="module", params=["vgg16", "torchvision", "hf"])
def backbone(request: pytest.FixtureRequest, vgg16_file: Path, small_file: Path, vit_folder: Path) -> FrozenBackbone:
    return loaded(
        {
            "vgg16": of_file(vgg16_file),
            "torchvision": of_file(small_file, f"torchvision:{SMALL}"),
            "hf": PhotoConfig(f"hf:{vit_folder}"),
        }[request.param]
    )


def test_a_photo_gives_the_same_bits_alone_and_in_a_batch(backbone: FrozenBackbone) -> None:
    together = backbone.features(PHOTOS)
    assert (together.shape, together.dtype) == ((5, backbone.size), np.float16)
    assert np.array_equal(np.concatenate([backbone.features(photo[None]) for photo in PHOTOS]), together)
    assert len(np.unique(together, axis=0)) == 5
    assert backbone.features(PHOTOS[:0]).shape == (0, backbone.size)


def test_on_a_processor_photos_are_read_one_by_one_by_weights_in_their_layout(small_file: Path) -> None:
    network, sizes = (backbone := loaded(of_file(small_file, f"torchvision:{SMALL}"))).network, list[int]()
    network.register_forward_pre_hook(lambda _, inputs: sizes.append(len(inputs[0])))
    backbone.features(PHOTOS)
    assert sizes == [1] * 5
    weights = [layer.weight for layer in network.modules() if isinstance(layer, nn.Conv2d)]
    assert all(weight.is_contiguous(memory_format=torch.channels_last) for weight in weights)


def test_a_saved_backbone_gives_the_same_bits_and_tells_the_same_weights(
    backbone: FrozenBackbone, tmp_path: Path
) -> None:
    backbone.save(tmp_path / "photo")
    assert sorted(p.name for p in (tmp_path / "photo").iterdir()) == ["backbone.json", "backbone.safetensors"]
    again = load_saved_backbone(tmp_path / "photo", CPU)
    assert np.array_equal(again.features(PHOTOS), backbone.features(PHOTOS))
    assert (again.weights, again.image_size, again.size) == (backbone.weights, backbone.image_size, backbone.size)


def test_photos_of_another_side_are_refused(backbone: FrozenBackbone) -> None:
    with pytest.raises(ValueError, match=rf"prepare_photos\(photos, image_size={backbone.image_size}\)"):
        backbone.features(np.zeros((1, 96, 96, 3), np.uint8))


def test_photos_that_cannot_be_written_to_are_read_without_a_warning(backbone: FrozenBackbone) -> None:
    photos = np.ascontiguousarray(PHOTOS[:1])
    photos.flags.writeable = False
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert backbone.features(photos).shape == (1, backbone.size)


def test_a_folder_without_a_backbone_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=rf"no backbone in {tmp_path}: .*backbone\.json"):
        load_saved_backbone(tmp_path, CPU)


def test_vgg16_features_are_what_the_head_of_the_photo_branch_reads(vgg16_file: Path) -> None:
    branch = VGG16Network(load_convolutions(str(vgg16_file)), 32, 3).eval()
    features = loaded(of_file(vgg16_file)).features(PHOTOS)
    assert features.shape == (5, BACKBONE_FEATURES + TOP_FEATURES)
    assert np.array_equal(features, photo_embedding(branch, PHOTOS))


def test_vgg16_gives_what_block_5_reads_beside_its_features(vgg16_file: Path) -> None:
    backbone = loaded(of_file(vgg16_file))
    assert isinstance(backbone, VGG16Backbone)
    features, maps = backbone.features_and_maps(PHOTOS)
    assert np.array_equal(features, backbone.features(PHOTOS))
    assert (maps.shape, maps.dtype, backbone.batch_norm) == ((5, 512, 2, 2), np.float16, False)
    with torch.inference_mode(), autocast(CPU):
        late = backbone.network.upper.features(torch.from_numpy(maps))
    assert np.array_equal(late.numpy(), features[:, BACKBONE_FEATURES:])
    assert [array.shape for array in backbone.features_and_maps(PHOTOS[:0])] == [
        (0, BACKBONE_FEATURES + TOP_FEATURES),
        (0, 512, 2, 2),
    ]


@pytest.mark.parametrize(("name", "batch_norm"), [("vgg16", False), ("vgg16_bn", True)])
def test_torchvisions_undocumented_cfgs_and_make_layers_give_the_layers_of_its_public_models(
    name: str, batch_norm: bool
) -> None:
    with torch.device("meta"):
        layers, features = empty_convolutions(batch_norm), get_model(name, init_weights=False).features
    assert str(layers) == str(features)
    assert {key: t.shape for key, t in layers.state_dict().items()} == {
        key: t.shape for key, t in features.state_dict().items()
    }


def test_gradients_reach_the_maps_of_every_block_of_frozen_vgg16(vgg16_file: Path) -> None:
    network = loaded(of_file(vgg16_file)).network
    for block, width in zip([*network.lower.blocks, network.upper.block], [64, 128, 256, 512, 512], strict=True):
        maps: list[torch.Tensor] = []

        def start_here(_: nn.Module, __: object, output: torch.Tensor, maps: list[torch.Tensor] = maps) -> torch.Tensor:
            maps.append(output.detach().requires_grad_())
            return maps[0]

        hook = block.register_forward_hook(start_here)
        with torch.enable_grad():
            total = network(torch.from_numpy(PHOTOS[:1])).sum()
            (slope,) = torch.autograd.grad(total, maps)
        hook.remove()
        assert slope.shape[:2] == (1, width)
        assert slope.abs().max() > 0


def test_weights_of_a_file_are_told_by_path_hash_and_licence(vgg16_file: Path, small_file: Path) -> None:
    config, weights = resolve_weights(of_file(vgg16_file, image_size=0))
    assert (config.image_size, config.weights) == (224, Weights.FILE)
    assert weights == PretrainedWeights("vgg16", str(vgg16_file), "CC-BY-4.0", sha256(vgg16_file))
    config, weights = resolve_weights(of_file(small_file, f"torchvision:{SMALL}", 0))
    assert config.image_size == 224
    assert weights == PretrainedWeights(f"torchvision:{SMALL}", str(small_file), "unknown", sha256(small_file))


def test_a_remote_weights_file_is_read_and_described_as_a_local_one(vgg16_file: Path) -> None:
    fsspec.filesystem("memory").pipe_file("/weights/vgg16.safetensors", vgg16_file.read_bytes())
    remote = PhotoConfig("vgg16", Weights.FILE, "memory://weights/vgg16.safetensors", image_size=32)
    expected = PretrainedWeights("vgg16", remote.weights_file, "CC-BY-4.0", sha256(vgg16_file))
    assert resolve_weights(remote)[1] == expected
    assert np.array_equal(loaded(remote).features(PHOTOS), loaded(of_file(vgg16_file)).features(PHOTOS))
    with pytest.raises(FileNotFoundError, match=r"memory://weights/gone\.pth does not exist"):
        resolve_weights(replace(remote, weights_file="memory://weights/gone.pth"))


def test_auto_without_a_network_is_vgg16_from_random_weights_and_says_what_mends_it(no_network: Path) -> None:
    config, weights = resolve_weights(PhotoConfig(fine_tune_epochs=2))
    assert config == PhotoConfig(weights=Weights.RANDOM, image_size=32)
    assert weights.sha256 == "random"
    assert f"vgg16-397923af.pth is not in {no_network}" in weights.warning
    assert "no route to host" in weights.warning
    assert "put it there, or give its place as photo.weights_file" in weights.warning


def test_a_side_that_was_chosen_stays_when_auto_falls_back() -> None:
    assert resolve_weights(PhotoConfig(image_size=48))[0].image_size == 48


def test_random_weights_are_no_fall_back_where_they_are_asked_for_and_no_backbone() -> None:
    config, weights = resolve_weights(PhotoConfig(weights=Weights.RANDOM))
    assert (config.image_size, weights.warning) == (32, "")
    with pytest.raises(ValueError, match="random is no backbone"):
        load_backbone(config, CPU)


def test_imagenet_fails_rather_than_fall_back() -> None:
    with pytest.raises(FileNotFoundError, match=r"vgg16-397923af\.pth is not in .*put it there"):
        resolve_weights(PhotoConfig(weights=Weights.IMAGENET))


def test_auto_is_imagenet_where_the_file_is_cached(no_network: Path) -> None:
    no_network.mkdir(parents=True)
    path = no_network / "vgg16-397923af.pth"
    # as torchvision's file of 2017 is written
    state = {f"features.{name}": tensor for name, tensor in empty_convolutions(False).state_dict().items()}
    torch.save(state, path, _use_new_zipfile_serialization=False)
    config, weights = resolve_weights(PhotoConfig())
    assert config == PhotoConfig(weights=Weights.IMAGENET, image_size=224)
    assert (weights.source, weights.licence, weights.sha256) == (str(path), "unknown", sha256(path))
    assert f"not 397923af: delete it for a download of {VGG16_Weights.IMAGENET1K_V1.url}" in weights.warning
    assert load_backbone(config, CPU).weights == weights


def test_a_damaged_file_in_the_cache_is_refused_before_any_training(no_network: Path) -> None:
    no_network.mkdir(parents=True)
    (no_network / "vgg16-397923af.pth").write_bytes(b"cut")
    with pytest.raises(ValueError, match=r"vgg16-397923af\.pth is not a \.pth state dict"):
        resolve_weights(PhotoConfig())


def test_torchvision_features_are_what_the_last_layer_reads(small_model: nn.Module, small_file: Path) -> None:
    features = loaded(of_file(small_file, f"torchvision:{SMALL}")).features(PHOTOS)
    mean, deviation = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    heard: list[torch.Tensor] = []
    hook = small_model.fc.register_forward_pre_hook(lambda _, inputs: heard.append(inputs[0]))
    with torch.inference_mode():
        small_model(((torch.from_numpy(PHOTOS) / 255 - mean) / deviation).permute(0, 3, 1, 2))
    hook.remove()
    assert features.shape == (5, 512)
    np.testing.assert_allclose(features, heard[0].numpy(), rtol=5e-2, atol=2e-2 * float(heard[0].abs().max()))


@pytest.mark.parametrize(("name", "size", "image_size"), [("squeezenet1_1", 512, 224), ("googlenet", 1024, 224)])
def test_models_of_torchvision_are_cut_before_their_last_layer_whatever_it_is_called(
    name: str, size: int, image_size: int, tmp_path: Path
) -> None:
    path = tmp_path / "model.pth"
    arguments: dict[str, Any] = {"init_weights": False, "aux_logits": False} if name == "googlenet" else {}
    torch.save(get_model(name, weights=None, **arguments).state_dict(), path)
    backbone = loaded(of_file(path, f"torchvision:{name}", 0))
    assert (backbone.size, backbone.image_size) == (size, image_size)


def test_imagenet_weights_of_torchvision_are_taken_from_the_cache_folder(no_network: Path) -> None:
    no_network.mkdir(parents=True)
    torch.manual_seed(4)
    model = get_model("shufflenet_v2_x0_5", weights=None)
    torch.save(model.state_dict(), no_network / "shufflenetv2_x0.5-f707e7126e.pth")
    config, weights = resolve_weights(PhotoConfig("torchvision:shufflenet_v2_x0_5", image_size=64))
    assert config.weights is Weights.IMAGENET
    assert "shufflenetv2_x0.5-f707e7126e.pth is not the file that torchvision publishes" in weights.warning
    held = loaded(config).network.state_dict()["network.conv1.0.weight"]
    assert torch.equal(held, model.conv1[0].weight)


def test_a_torchvision_model_without_a_network_says_which_file_goes_where(no_network: Path) -> None:
    with pytest.raises(FileNotFoundError, match=rf"resnet18-f37072fd\.pth is not in {no_network}.*put it there"):
        resolve_weights(PhotoConfig("torchvision:resnet18"))


def test_an_unknown_model_of_torchvision_names_those_like_it() -> None:
    with pytest.raises(ValueError, match=r"no such classification model: .*resnet50"):
        resolve_weights(PhotoConfig("torchvision:resnet_50"))
    with pytest.raises(ValueError, match="no such classification model"):
        resolve_weights(PhotoConfig("torchvision:fasterrcnn_resnet50_fpn"))


def test_a_side_that_a_model_cannot_see_is_refused_before_anything_is_read() -> None:
    with pytest.raises(
        ValueError, match=r"photo\.image_size=64: torchvision:vit_b_16 cannot read .* leave photo\.image_size out"
    ):
        resolve_weights(PhotoConfig("torchvision:vit_b_16", image_size=64))


def test_the_file_of_another_model_is_refused(small_file: Path) -> None:
    with pytest.raises(ValueError, match=r"small\.pth holds no weights of torchvision's resnet34: layer1\.2\.conv1"):
        resolve_weights(of_file(small_file, "torchvision:resnet34"))
    with pytest.raises(ValueError, match=r"small\.pth holds no weights of torchvision's vgg16"):
        resolve_weights(of_file(small_file))


def test_a_checkpoint_that_holds_more_than_weights_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pth"
    torch.save({"epoch": 3, "model": {}}, path)
    with pytest.raises(ValueError, match=r"save model\.state_dict"):
        resolve_weights(of_file(path))


def test_a_transformer_is_told_by_folder_licence_and_hash(vit_folder: Path) -> None:
    config, weights = resolve_weights(PhotoConfig(f"hf:{vit_folder}"))
    assert (config.image_size, config.revision, config.weights) == (32, "", Weights.AUTO)
    assert (weights.name, weights.source, weights.licence) == (f"hf:{vit_folder}", str(vit_folder), "apache-2.0")
    assert len(weights.sha256) == 64
    before = (vit_folder / "preprocessor_config.json").read_text()
    (vit_folder / "preprocessor_config.json").write_text(before.replace("0.25", "0.26"))
    try:
        assert resolve_weights(PhotoConfig(f"hf:{vit_folder}"))[1].sha256 != weights.sha256
    finally:
        (vit_folder / "preprocessor_config.json").write_text(before)


def test_a_transformer_pools_normalised_photos(vit_folder: Path) -> None:
    from transformers import ViTModel

    mean, deviation = torch.tensor([0.5, 0.4, 0.3]), torch.tensor([0.5, 0.5, 0.25])
    normalised = ((torch.from_numpy(PHOTOS) / 255 - mean) / deviation).permute(0, 3, 1, 2)
    with torch.inference_mode():
        expected = ViTModel.from_pretrained(vit_folder).eval()(pixel_values=normalised).pooler_output
    features = loaded(PhotoConfig(f"hf:{vit_folder}")).features(PHOTOS)
    np.testing.assert_allclose(features, expected, atol=2e-2)


def test_without_trained_pooling_a_transformer_gives_the_mean_of_its_last_states(
    vit_folder: Path, tmp_path: Path
) -> None:
    from transformers import ViTModel

    model = ViTModel.from_pretrained(vit_folder, add_pooling_layer=False).eval()
    model.save_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text((vit_folder / "preprocessor_config.json").read_text())
    photos = np.full((1, 32, 32, 3), 255, np.uint8)
    normalised = torch.tensor([1.0, 1.2, 2.8]).view(1, 3, 1, 1).expand(1, 3, 32, 32)
    with torch.inference_mode():
        expected = model(pixel_values=normalised).last_hidden_state.mean(1)
    backbone = loaded(PhotoConfig(f"hf:{tmp_path}"))
    np.testing.assert_allclose(backbone.features(photos), expected, atol=5e-2)
    backbone.save(tmp_path / "saved")
    assert np.array_equal(load_saved_backbone(tmp_path / "saved", CPU).features(PHOTOS), backbone.features(PHOTOS))


def test_of_a_joint_model_the_half_that_sees_is_used(tmp_path: Path) -> None:
    from transformers import CLIPConfig, CLIPModel

    half = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    text = {**half, "vocab_size": 8, "bos_token_id": 1, "eos_token_id": 2}
    seeing = {**half, "image_size": 32, "patch_size": 8}
    CLIPModel(CLIPConfig(text_config=text, vision_config=seeing)).save_pretrained(tmp_path)
    said = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3, "size": {"shortest_edge": 40}, "crop_size": 32}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(said))
    backbone = loaded(PhotoConfig(f"hf:{tmp_path}"))
    assert (backbone.image_size, backbone.size) == (32, 16)
    backbone.save(tmp_path / "saved")
    again = load_saved_backbone(tmp_path / "saved", CPU)
    assert np.array_equal(again.features(PHOTOS), backbone.features(PHOTOS))


def test_a_model_of_text_is_refused(tmp_path: Path) -> None:
    from transformers import BertConfig, BertModel

    shape: dict = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    BertModel(BertConfig(vocab_size=8, **shape)).save_pretrained(tmp_path)
    said = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3, "size": 32}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(said))
    with pytest.raises(ValueError, match="reads input_ids, not photos"):
        resolve_weights(PhotoConfig(f"hf:{tmp_path}"))


def test_a_folder_that_needs_code_of_its_own_is_refused(vit_folder: Path, tmp_path: Path) -> None:
    for path in vit_folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    said = json.loads((tmp_path / "config.json").read_text())
    said |= {"model_type": "of_my_own", "auto_map": {"AutoConfig": "code.C", "AutoModel": "code.M"}}
    (tmp_path / "config.json").write_text(json.dumps(said))
    (tmp_path / "code.py").write_text("raise SystemExit('code of a stranger was run')")
    with pytest.raises(ValueError, match=r"cannot load the network in .*without code of the model's own"):
        resolve_weights(PhotoConfig(f"hf:{tmp_path}"))


def test_a_folder_without_safetensors_or_preparation_is_refused(vit_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text((vit_folder / "config.json").read_text())
    (tmp_path / "pytorch_model.bin").write_bytes(b"pickle")
    with pytest.raises(FileNotFoundError, match=r"has no model\.safetensors: .*image_processor\.save_pretrained"):
        resolve_weights(PhotoConfig(f"hf:{tmp_path}"))
    (tmp_path / "model.safetensors").write_bytes((vit_folder / "model.safetensors").read_bytes())
    with pytest.raises(FileNotFoundError, match=r"has no preprocessor_config\.json: put a model there"):
        resolve_weights(PhotoConfig(f"hf:{tmp_path}"))


def test_a_missing_folder_and_a_revision_of_a_folder_are_refused(vit_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=rf"there is no folder {tmp_path}/gone"):
        resolve_weights(PhotoConfig(f"hf:{tmp_path}/gone"))
    with pytest.raises(ValueError, match=r"photo\.revision='abc': .* is a folder, which has none"):
        resolve_weights(PhotoConfig(f"hf:{vit_folder}", revision="abc"))
