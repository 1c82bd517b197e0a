from __future__ import annotations

from pathlib import Path

import pytest

from serving.settings import SettingError, Settings


def test_settings_come_from_the_environment(tmp_path):
    given = {"SERVE_QUEUE": "7", "MODEL": "mine", "SERVE_LOG_TEXT": "yes", "RAKUTEN_VAR": str(tmp_path), "HOME": "/"}
    settings = Settings.from_environment(given)
    assert (settings.queue, settings.model, settings.log_text, settings.var) == (7, "mine", True, tmp_path)
    assert settings.log_address == str(tmp_path / "prediction_log")
    assert Settings.from_environment({}).var == Path("var").resolve()


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("SERVE_PORT", "80", "SERVE_PORT='80': must be from 1024 to 65535"),
        ("SERVE_PORT", "http", "SERVE_PORT='http': must be of type int"),
        ("SERVE_HOST", "localhost", "SERVE_HOST='localhost': must be one of 127.0.0.1, 0.0.0.0, ::"),
        ("SERVE_ABSTAIN_BELOW", "1.5", "SERVE_ABSTAIN_BELOW='1.5': must be a probability, from 0 to 1"),
        ("SERVE_TIME_LIMIT", "nan", "SERVE_TIME_LIMIT='nan': must be from 0.1 to 600 seconds"),
        ("SERVE_LOG_TEXT", "maybe", "SERVE_LOG_TEXT='maybe': must be one of 1, true, yes, on, 0, false, no, off"),
        ("SERVE_IMAGE_FOLDER", "/no/where", "must be an existing folder, or empty for no local paths"),
        ("SERVE_MAX_PHOTO_PIXELS", "60000000", "must be from 1 to 50000000"),
        ("SERVE_LOG_DAYS", "99999999999", "SERVE_LOG_DAYS='99999999999': must be from 1 to 36500 days"),
        ("SERVE_LOG", "nonsense://x", "SERVE_LOG='nonsense://x': must be a folder or an address that fsspec knows"),
        ("SERVE_MAX_PHOTO_BYTES", "999999999999", "must be from 1 to 100000000"),
        ("SERVE_QUEU", "5", "SERVE_QUEU: no such setting; there are LIT_SERVER_API_KEY, MODEL"),
    ],
)
def test_a_setting_that_makes_no_sense_is_refused_with_its_name_value_and_rule(name, value, message):
    with pytest.raises(SettingError) as refused:
        Settings.from_environment({name: value})
    assert message in str(refused.value)


@pytest.mark.parametrize("key", ["sésame", " key "])
def test_a_key_that_a_browser_cannot_send_is_refused_without_repeating_it(key):
    with pytest.raises(SettingError, match="LIT_SERVER_API_KEY: must be of ASCII characters") as refused:
        Settings.from_environment({"LIT_SERVER_API_KEY": key})
    assert key not in str(refused.value)
