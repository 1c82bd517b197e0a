import json
import re
from pathlib import Path

import click
import pytest
import yaml

from rakuten_tasks.config import PhotoConfig, SplitConfig, TextConfig, TrainingConfig, Weights
from rakuten_tasks.tasks.start_run import with_absolute_paths


def test_a_partial_file_keeps_the_defaults_of_what_it_leaves_out():
    config = TrainingConfig.from_json('{"seed": 3, "photo": {"weights": "imagenet"}}')
    assert (config.seed, config.photo.weights, config.text) == (3, Weights.IMAGENET, TextConfig())


@pytest.mark.parametrize(("path", "values"), [("epoch", {"epoch": 3}), ("text.epoch", {"text": {"epoch": 3}})])
def test_an_unknown_key_is_refused_with_its_path(path, values):
    with pytest.raises(click.BadParameter, match=rf"^{path}: unknown key: remove it, or use one of docs/reference"):
        TrainingConfig.from_json(json.dumps(values))
    with pytest.raises(ValueError, match="epoch"):
        TrainingConfig.from_dict(values)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"seed": -1}, r"seed=-1: .*greater than or equal to 0"),
        ({"split": {"test": 0.95}}, r"split\.validation \+ blending \+ test=1.11: under 0.9"),
        ({"ingest": {"max_bad_share": 5}}, r"ingest\.max_bad_share=5: .*less than or equal to 1"),
        ({"photo": {"image_size": 8}}, r"photo\.image_size=8: 0 \(.*\), or from 32 to 1024 pixels"),
        (
            {"photo": {"weights": "random", "fine_tune_epochs": 2}},
            r"photo\.fine_tune_epochs=2: needs vgg16 with pretrained",
        ),
        ({"photo": {"weights": "best"}}, r"photo\.weights='best': .*'auto', 'imagenet', 'file' or 'random'"),
        ({"gate": {"min_probability": 1.0}}, r"gate\.min_probability=1.0: .*less than 1"),
        ({"text": {"batch_size": 0}}, r"text\.batch_size=0: .*greater than or equal to 1"),
        ({"text": {"encoder": "bert"}}, r"text\.encoder='bert': use-multilingual, hf:NAME_OR_FOLDER, or none"),
        ({"text": {"precision": "int8"}}, r"text\.precision='int8': auto, float32 or bfloat16"),
        (
            {"photo": {"backbone": "torchvision:resnet18", "precision": "int8"}},
            r"photo\.precision='int8': only vgg16 has int8",
        ),
        ({"photo": {"fine_tune_epochs": 1, "precision": "int8"}}, r"photo\.precision='int8': needs a frozen backbone"),
        (
            {"photo": {"weights": "random", "precision": "float32"}},
            r"photo\.precision='float32': needs a frozen backbone",
        ),
        ({"text": {"fine_tune_epochs": 1}}, r"text\.fine_tune_epochs=1: needs an hf: encoder"),
        (
            {"photo": {"backbone": "hf:vit", "weights": "random"}},
            r"photo\.weights='random': an hf: backbone brings its own",
        ),
        ({"bag": {"ngram_bits": 9}}, r"bag\.ngram_bits=9: .*greater than or equal to 10"),
        ({"members": []}, r"members=\[\]: one or more of bag, lstm, encoder"),
        ({"members": ["bag", "bag"]}, r"members=\['bag', 'bag'\]: .*, each once"),
        ({"members": ["svm"]}, r"members=\['svm'\]: one or more of"),
    ],
)
def test_an_invalid_value_is_refused_with_its_path_the_value_and_the_rule(values, message):
    with pytest.raises(click.BadParameter, match=f"^{message}"):
        TrainingConfig.from_json(json.dumps(values))
    with pytest.raises(ValueError, match=re.escape(values.copy().popitem()[0])):
        TrainingConfig.from_dict(values)


def test_all_errors_of_a_file_are_listed_at_once():
    with pytest.raises(click.BadParameter) as refused:
        TrainingConfig.from_json('{"sed": 1, "lstm": {"epochs": -1, "batch_size": 0}}')
    assert [line.partition(":")[0] for line in refused.value.message.splitlines()] == [
        "lstm.epochs=-1",
        "lstm.batch_size=0",
        "sed",
    ]


def test_an_integer_that_flyte_sends_as_a_float_stays_an_integer():
    config = TrainingConfig.from_dict({"lstm": {"epochs": 3.0}})
    assert (config.lstm.epochs, type(config.lstm.epochs)) == (3, int)


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


def test_training_gets_most_of_the_titles():
    split = SplitConfig()
    assert 1 - split.validation - split.blending - split.test > 0.7


def test_an_empty_file_or_section_keeps_every_default_and_a_list_is_refused():
    assert TrainingConfig.from_json("null") == TrainingConfig()
    assert TrainingConfig.from_json('{"lstm": null}') == TrainingConfig()
    with pytest.raises(click.BadParameter, match=r"configuration=\[1\]: Input should be an object"):
        TrainingConfig.from_json("[1]")
    with pytest.raises(ValueError, match=r"TrainingConfig: \[1\] is no mapping of keys to values"):
        TrainingConfig.from_dict([1])  # type: ignore[arg-type]


@pytest.mark.parametrize("value", ["two", "2", 2.7, True, None])
def test_a_value_of_the_wrong_type_is_refused_with_its_path(value):
    with pytest.raises(click.BadParameter, match=rf"^lstm\.epochs={value!r}: .*valid integer"):
        TrainingConfig.from_json(json.dumps({"lstm": {"epochs": value}}))
    with pytest.raises(ValueError, match="epochs"):
        TrainingConfig.from_dict({"lstm": {"epochs": value}})


def test_a_version_keeps_the_whole_path_of_local_weights(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    for path, stored in {"w.pth": str(tmp_path / "w.pth"), "s3://bucket/w.pth": "s3://bucket/w.pth"}.items():
        config = TrainingConfig(photo=PhotoConfig(weights=Weights.FILE, weights_file=path))
        assert with_absolute_paths(config).photo == PhotoConfig(weights=Weights.FILE, weights_file=stored)
    assert with_absolute_paths(TrainingConfig()) == TrainingConfig()
    (tmp_path / "bert").mkdir()
    for name, stored in {"hf:bert": f"hf:{tmp_path}/bert", "hf:some/model": "hf:some/model"}.items():
        assert with_absolute_paths(TrainingConfig(text=TextConfig(encoder=name))).text.encoder == stored


def test_the_error_for_a_number_that_yaml_reads_as_text_says_how_to_write_it():
    with pytest.raises(click.BadParameter, match=r"photo\.learning_rate='1e-3': .*number: YAML .* write 0\.001"):
        TrainingConfig.from_json(json.dumps({"photo": yaml.safe_load("learning_rate: 1e-3")}))
