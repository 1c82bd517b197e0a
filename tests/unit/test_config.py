import json
from pathlib import Path

import click
import pytest
import yaml

from rakuten_tasks.config import PhotoConfig, SplitConfig, TextConfig, TrainingConfig, Weights
from rakuten_tasks.tasks.start_run import from_anywhere


def test_a_partial_file_keeps_the_defaults_of_what_it_leaves_out():
    config = TrainingConfig.from_json('{"seed": 3, "photo": {"weights": "imagenet"}}')
    assert (config.seed, config.photo.weights, config.text) == (3, Weights.IMAGENET, TextConfig())


@pytest.mark.parametrize("where", [{"epoch": 3}, {"text": {"epoch": 3}}])
def test_an_unknown_key_is_refused_by_name(where):
    with pytest.raises(click.BadParameter, match=r"unknown key 'epoch': remove it, or use one of \["):
        TrainingConfig.from_json(json.dumps(where))


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ({"seed": -1}, r"seed=-1: from 0 to 2147483647"),
        ({"split": {"test": 0.95}}, r"validation \+ blending \+ test=1.11"),
        ({"ingest": {"max_bad_share": 5}}, r"max_bad_share=5.0: a share, from 0 to 1"),
        ({"photo": {"image_size": 8}}, r"image_size=8: 0 \(chosen\), or from 32 to 1024 pixels"),
        ({"photo": {"weights": "random", "fine_tune_epochs": 2}}, r"fine_tune_epochs=2: needs vgg16 with pretrained"),
        ({"gate": {"min_probability": 1.0}}, r"min_probability=1.0: above 0 and under 1"),
        ({"text": {"batch_size": 0}}, r"batch_size=0: at least 1"),
        ({"text": {"encoder": "bert"}}, r"encoder='bert': use-multilingual, hf:NAME_OR_FOLDER, or none"),
        ({"text": {"fine_tune_epochs": 1}}, r"fine_tune_epochs=1: needs an hf: encoder"),
        ({"photo": {"backbone": "hf:vit", "weights": "random"}}, r"weights='random': an hf: backbone brings its own"),
        ({"bag": {"ngram_bits": 9}}, r"ngram_bits=9: from 10 to 24"),
        ({"members": []}, r"members=\[\]: one or more of bag, lstm, encoder"),
        ({"members": ["bag", "bag"]}, r"members=\['bag', 'bag'\]: .*, each once"),
        ({"members": ["svm"]}, r"members=\['svm'\]: one or more of"),
    ],
)
def test_nonsense_is_refused_with_the_field_the_value_and_the_rule(where, message):
    with pytest.raises(click.BadParameter, match=message):
        TrainingConfig.from_json(json.dumps(where))


def test_a_weights_file_goes_with_weights_file_only():
    with pytest.raises(ValueError, match=r"weights_file='x\.pth': goes with weights: file, and only with it"):
        PhotoConfig(weights_file="x.pth")
    with pytest.raises(ValueError, match=r"weights_file='': goes with weights: file"):
        PhotoConfig(weights=Weights.FILE)


def test_every_shipped_configuration_is_accepted():
    files = sorted(Path("configs").glob("*.yaml"))
    assert len(files) >= 2
    for file in files:
        TrainingConfig.from_json(json.dumps(yaml.safe_load(file.read_text())))


def test_training_is_left_most_of_the_titles():
    split = SplitConfig()
    assert 1 - split.validation - split.blending - split.test > 0.7


def test_an_empty_file_keeps_every_default_and_what_is_no_mapping_is_refused():
    assert TrainingConfig.from_json("null") == TrainingConfig()
    with pytest.raises(click.BadParameter, match=r"TrainingConfig: \[1\] is no mapping of keys to values"):
        TrainingConfig.from_json("[1]")


@pytest.mark.parametrize("value", ["two", "2", 2.7, True, None])
def test_a_value_of_the_wrong_type_is_refused_with_the_way_to_its_key(value):
    with pytest.raises(click.BadParameter, match=rf"lstm: epochs={value!r}: must be of type int"):
        TrainingConfig.from_json(json.dumps({"lstm": {"epochs": value}}))


def test_a_version_keeps_the_whole_path_of_local_weights(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    for told, kept in {"w.pth": str(tmp_path / "w.pth"), "s3://bucket/w.pth": "s3://bucket/w.pth"}.items():
        config = TrainingConfig(photo=PhotoConfig(weights=Weights.FILE, weights_file=told))
        assert from_anywhere(config) == TrainingConfig(photo=PhotoConfig(weights=Weights.FILE, weights_file=kept))
    assert from_anywhere(TrainingConfig()) == TrainingConfig()
    (tmp_path / "bert").mkdir()
    for told, kept in {"hf:bert": f"hf:{tmp_path}/bert", "hf:some/model": "hf:some/model"}.items():
        assert from_anywhere(TrainingConfig(text=TextConfig(encoder=told))).text.encoder == kept


def test_a_number_that_yaml_takes_for_text_is_told_how_to_be_written():
    with pytest.raises(click.BadParameter, match=r"learning_rate='1e-3': must be of type float: YAML .* write 0\.001"):
        TrainingConfig.from_json(json.dumps({"photo": yaml.safe_load("learning_rate: 1e-3")}))
