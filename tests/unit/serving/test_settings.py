from __future__ import annotations

import os
from pathlib import Path

import pytest

from serving.settings import SettingError, Settings


@pytest.fixture(autouse=True)
def empty_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No setting of the machine that runs the tests."""
    for name in list(os.environ):
        if name.startswith(("SERVE_", "LIT_SERVER_")) or name in ("MODEL", "RAKUTEN_VAR"):
            monkeypatch.delenv(name)


def test_settings_come_from_the_environment(tmp_path, monkeypatch):
    assert Settings.from_environment().var == Path("var").resolve()
    variables = {"SERVE_QUEUE": "7", "MODEL": "mine", "SERVE_LOG_TEXT": "yes", "RAKUTEN_VAR": str(tmp_path)}
    for name, value in {**variables, "SERVE_PORT": ""}.items():
        monkeypatch.setenv(name, value)
    settings = Settings.from_environment()
    assert (settings.queue, settings.model, settings.log_text, settings.var) == (7, "mine", True, tmp_path)
    assert settings.port == 8000  # empty: the default
    assert settings.log_address == str(tmp_path / "prediction_log")


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("SERVE_PORT", "80", "SERVE_PORT='80': must be greater than or equal to 1024"),
        ("SERVE_PORT", "http", "SERVE_PORT='http': must be a valid integer"),
        ("SERVE_HOST", "localhost", "SERVE_HOST='localhost': must be '127.0.0.1', '0.0.0.0' or '::'"),
        ("SERVE_ABSTAIN_BELOW", "1.5", "SERVE_ABSTAIN_BELOW='1.5': must be less than or equal to 1"),
        ("SERVE_TIME_LIMIT", "nan", "SERVE_TIME_LIMIT='nan': must be a finite number"),
        ("SERVE_LOG_TEXT", "maybe", "SERVE_LOG_TEXT='maybe': must be a valid boolean"),
        ("SERVE_IMAGE_FOLDER", "/no/where", "SERVE_IMAGE_FOLDER='/no/where': Path does not point to a directory"),
        ("SERVE_MAX_PHOTO_PIXELS", "60000000", "must be less than or equal to 50000000"),
        ("SERVE_LOG_DAYS", "99999999999", "SERVE_LOG_DAYS='99999999999': must be less than or equal to 36500"),
        ("SERVE_LOG", "nonsense://x", "SERVE_LOG='nonsense://x': no store has addresses with nonsense://"),
        ("SERVE_LOG", "s3://b/a::c", "SERVE_LOG='s3://b/a::c': :: in the address of a store is not read as a letter"),
        ("MODEL", "o'k", "the name of a model has up to 200 bytes"),
        ("SERVE_MAX_PHOTO_BYTES", "999999999999", "must be less than or equal to 100000000"),
        ("SERVE_QUEU", "5", "SERVE_QUEU: no such setting; there are LIT_SERVER_API_KEY, MODEL"),
    ],
)
def test_an_invalid_setting_is_refused_with_its_name_value_and_rule(name, value, message, monkeypatch):
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingError) as refused:
        Settings.from_environment()
    assert message in str(refused.value)


@pytest.mark.parametrize("key", ["sésame", " key "])
def test_a_key_that_a_browser_cannot_send_is_refused_without_repeating_it(key, monkeypatch):
    monkeypatch.setenv("LIT_SERVER_API_KEY", key)
    with pytest.raises(SettingError, match="LIT_SERVER_API_KEY: must be of ASCII characters") as refused:
        Settings.from_environment()
    assert key not in str(refused.value)
