"""The names that runtime/click_types.py uses of flytekit beyond its documented API."""

from pathlib import Path

import pytest

from rakuten_tasks.config import TrainingConfig

pytestmark = pytest.mark.filterwarnings("ignore:The '__version__' attribute is deprecated")  # click's, in flytekit


def test_the_option_type_holds_the_class_that_is_wanted():
    from flytekit.interaction.click_types import JsonParamType

    assert JsonParamType(TrainingConfig)._python_type is TrainingConfig


def test_a_configuration_file_is_read_with_our_errors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from flytekit.interaction.click_types import JsonParamType

    from rakuten_tasks.runtime import click_types

    monkeypatch.setattr(JsonParamType, "convert", JsonParamType.convert)  # restored afterwards
    click_types.install()
    path = tmp_path / "config.yaml"
    path.write_text("seed: 5\n")
    assert JsonParamType(TrainingConfig).convert(str(path), None, None) == TrainingConfig(seed=5)
    assert JsonParamType(TrainingConfig).convert('{"seed": 5}', None, None) == TrainingConfig(seed=5)
    for value, message in {
        '{"seed": 5, "seed": 6}': r"configuration\.json, line 1: key 'seed' is also on line 1",
        str(tmp_path / "none.yaml"): rf"Error: .*No such file or directory: '{tmp_path}/none\.yaml'",
        str(tmp_path): rf"Error: {tmp_path} is no ordinary file",
    }.items():
        with pytest.raises(SystemExit, match=message):
            JsonParamType(TrainingConfig).convert(value, None, None)
    path.write_text("seed: 5\nseed: 6\n")
    with pytest.raises(SystemExit, match=r"config\.yaml, line 2: key 'seed' is also on line 1"):
        JsonParamType(TrainingConfig).convert(str(path), None, None)
