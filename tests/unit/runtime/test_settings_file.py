import json
from pathlib import Path

import pytest

from rakuten_tasks.config import TrainingConfig
from rakuten_tasks.runtime.settings_file import SettingsFileError, read_settings


def write(folder: Path, content: str | bytes, name: str = "c.yaml") -> Path:
    file = folder / name
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    return file


def error_of(file: Path) -> str:
    with pytest.raises(SettingsFileError) as refused:
        read_settings(file, TrainingConfig)
    return str(refused.value)


@pytest.mark.parametrize(
    ("content", "line", "rule"),
    [
        ("seed: 1\nlstm:\n  epochs: 1\nseed: 2\n", 4, "key 'seed' is also on line 1: keep one of them"),
        ("lstm:\n  epochs: 1\n  epochs: 1\n", 3, "key 'epochs' is also on line 2: keep one of them"),
        ("lstm:\n\tepochs: 1\n", 2, "a tab: indent with spaces"),
        ("seed: 1\n# été\n".encode("latin-1"), 2, "byte 0xe9 is not UTF-8: save the file as UTF-8"),
        ("seed: 1\n".encode("utf-16"), 1, "byte 0xff is not UTF-8: save the file as UTF-8"),
        ("seed: 1\n".encode("utf-16-le"), 1, "character U+0000: special characters are not allowed: remove it"),
        ("seed: 1\nphoto:\n  weights: \x07\n", 3, "character U+0007: special characters are not allowed: remove it"),
        ("- seed\n", 1, "no settings: write a key and a value on each line, as `seed: 1`"),
        ("seed\n", 1, "no settings: write a key and a value on each line, as `seed: 1`"),
        ("0\n", 1, "no settings: write a key and a value on each line, as `seed: 1`"),
        ("lstm: {epochs: 1\nseed: 2\n", 2, "expected ',' or '}', but got ':' while parsing a flow mapping"),
        ("seed: 1\n---\nseed: 2\n", 2, "but found another document expected a single document in the stream"),
        ("lstm: &a {}\nbag: *a\n", 2, "anchors and aliases (&, *) are not read: write the value again"),
        ("\nseed: 017\n", 2, "017: write a decimal number, without zeros before it"),
        ("seed: 1:30\n", 1, "1:30: write a decimal number"),
        ("1: 2\n", 1, "a key must be a word"),
        ("? [a]\n: 2\n", 1, "a key must be a word"),
        ("seed: !!python/object:os.system x\n", 1, "could not determine a constructor for the tag"),
        ("\nseed: 2026-13-45\n", 2, "no valid timestamp: month must be in 1..12"),
        ("seed: " + "9" * 5000, 1, "no valid int: Exceeds the limit"),
        ("members: " + "[" * 5000, 1, "nested too deeply"),
    ],
)
def test_an_unusable_file_is_refused_with_file_line_and_rule(content, line, rule, tmp_path):
    file = write(tmp_path, content)
    message = error_of(file)
    assert message.startswith(f"{file}, line {line}: {rule}")
    assert len(message.splitlines()) == 1


@pytest.mark.parametrize(
    ("content", "line", "rule"),
    [
        ("seed: 1\nlstm:\n  epochs: -3\n", 3, "lstm.epochs=-3: Input should be greater than or equal to 0"),
        ("lstm:\n\n  foo: 1\n", 3, "lstm.foo: unknown key: remove it"),
        ("bag:\n\nsplit:\n  test: 0.95\n", 3, "split.validation + blending + test=1.11: under 0.9"),
        ("photo:\n  image_size: 8\n", 2, "photo.image_size=8: 0 (the backbone's own)"),
        ("members:\n- bag\n- 3\n", 3, "members.1=3: Input should be a valid string"),
        ("lstm:\n  learning_rate: .nan\n", 2, "lstm.learning_rate=nan: Input should be a finite number"),
        ("lstm:\n  learning_rate: -.inf\n", 2, "lstm.learning_rate=-inf: Input should be a finite number"),
        ("text:\n  learning_rate: 1.0e+400\n", 2, "text.learning_rate=inf: Input should be a finite number"),
        ("lstm:\n  learning_rate: 1.0e+9\n", 2, "lstm.learning_rate=1000000000.0: Input should be less than or"),
        ("gate:\n  max_f1_loss: .nan\n", 2, "gate.max_f1_loss=nan: Input should be a finite number"),
        ("lstm:\n  epochs: 123456789012345678901\n", 2, "lstm.epochs=123456789012345678901: Input should be less"),
        ("seed: 2026-01-02\n", 1, "seed='2026-01-02': Input should be a valid integer"),
        ("lstm:\n  learning_rate: 1e-3\n", 2, "lstm.learning_rate='1e-3': Input should be a valid number: YAML reads"),
    ],
)
def test_an_invalid_value_is_refused_with_file_line_path_and_rule(content, line, rule, tmp_path):
    file = write(tmp_path, content)
    assert error_of(file).startswith(f"{file}, line {line}: {rule}")


def test_every_invalid_value_has_a_line_of_its_own(tmp_path):
    file = write(tmp_path, "lstm:\n  epochs: -1\nsed: 1\n")
    assert [line.partition(": ")[0] for line in error_of(file).splitlines()] == [f"{file}, line 2", f"{file}, line 3"]


@pytest.mark.parametrize("content", ["", "# nothing\n", "---\n", "\ufeff", "lstm:\n"])
def test_an_empty_file_keeps_every_default(content, tmp_path):
    assert read_settings(write(tmp_path, content), TrainingConfig) == TrainingConfig()


def test_a_file_with_a_byte_order_mark_or_windows_line_ends_is_read(tmp_path):
    file = write(tmp_path, "\ufeffseed: 3\r\nphoto:\r\n  weights: random\r\n")
    assert read_settings(file, TrainingConfig) == TrainingConfig.from_json(
        '{"seed": 3, "photo": {"weights": "random"}}'
    )


def test_json_may_hold_tabs_and_exponents_and_no_key_twice(tmp_path):
    file = write(tmp_path, '{\n\t"lstm": {"learning_rate": 1e-3}\n}', "c.json")
    assert read_settings(file, TrainingConfig).lstm.learning_rate == 0.001
    assert error_of(write(tmp_path, '{"seed": 1,\n"seed": 2}', "c.json")).endswith(
        "c.json, line 2: key 'seed' is also on line 1: keep one of them"
    )
    assert "c.json, line 1: no valid JSON: Expecting" in error_of(write(tmp_path, "{seed: 1}", "c.json"))


def test_every_shipped_file_is_read():
    files = sorted(Path("configs").glob("*.yaml"))
    assert len(files) >= 2
    assert all(json.loads(read_settings(file, TrainingConfig).to_json()) for file in files)
