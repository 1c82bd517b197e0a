"""Settings of the app, read from the environment once. Invalid values raise SettingError."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Self

from fsspec.registry import known_implementations
from fsspec.utils import get_protocol

HOSTS = ("127.0.0.1", "0.0.0.0", "::")  # what LitServe binds to
KEY = "LIT_SERVER_API_KEY"  # LitServe's own name for it
VAR = Path("var")
TRUE, FALSE = ("1", "true", "yes", "on"), ("0", "false", "no", "off", "")


class SettingError(ValueError):
    """An invalid setting. The message names the variable, its value and the rule."""


def setting(default: Any, text: str) -> Any:
    """A field with its line in docs/reference/environment.md."""
    return field(default=default, metadata={"help": text})


@dataclass(frozen=True)
class Settings:
    """One field, one environment variable: `queue` is SERVE_QUEUE."""

    host: str = setting("127.0.0.1", "address to listen on; 0.0.0.0 for other machines")
    port: int = setting(8000, "port to listen on")
    model: str = setting("", "registered model; empty: rakuten-classifier, or the sample's while that has no champion")
    api_key: str = setting(
        "",
        "required for all routes but /live, /ready and the page, as header X-API-Key; "
        "for /docs a browser asks for it as a password, with any user name",
    )
    var: Path = setting(VAR, "folder for bundles, the prediction log and the server's state")  # noqa: RUF009
    image_folder: str = setting("", "`image` may also be a path under this folder; empty: no local paths")
    max_photo_bytes: int = setting(10_000_000, "largest photo, checked before it is decoded")
    max_photo_pixels: int = setting(25_000_000, "largest photo, checked before it is decoded")
    max_text: int = setting(20_000, "characters of a title or a description")
    abstain_below: float = setting(0.0, "below this confidence the answer says `abstained`")
    queue: int = setting(128, "requests in flight; more get 503")
    time_limit: float = setting(30.0, "seconds until a request gets 504")
    batch: int = setting(16, "products in a batch")
    batch_wait_ms: float = setting(8.0, "milliseconds to wait for more products, only while there are other requests")
    threads: int = setting(0, "torch threads; 0: all cores")
    poll_seconds: float = setting(2.0, "seconds between checks for a new champion")
    log: str = setting("", "where closed hours of the prediction log go: folder or fsspec address; empty: under `var`")
    log_days: int = setting(90, "days that the prediction log is kept")
    log_text: bool = setting(False, "whether the prediction log holds the texts")

    def __post_init__(self) -> None:
        self._require("host", self.host in HOSTS, f"one of {', '.join(HOSTS)}")
        self._require("port", 1024 <= self.port <= 65535, "from 1024 to 65535")
        folder_is_there = not self.image_folder or Path(self.image_folder).is_dir()
        self._require("image_folder", folder_is_there, "an existing folder, or empty for no local paths")
        self._require("max_photo_bytes", 1 <= self.max_photo_bytes <= 100_000_000, "from 1 to 100000000")
        # what preprocessing/photos.py decodes at most
        self._require("max_photo_pixels", 1 <= self.max_photo_pixels <= 50_000_000, "from 1 to 50000000")
        self._require("max_text", 1 <= self.max_text <= 1_000_000, "from 1 to 1000000 characters")
        self._require("abstain_below", 0 <= self.abstain_below <= 1, "a probability, from 0 to 1")
        self._require("queue", 1 <= self.queue <= 10_000, "from 1 to 10000 requests")
        self._require("time_limit", 0.1 <= self.time_limit <= 600, "from 0.1 to 600 seconds")
        self._require("batch", 1 <= self.batch <= 64, "from 1 to 64 products")
        self._require("batch_wait_ms", 0 <= self.batch_wait_ms <= 1000, "from 0 to 1000 milliseconds")
        self._require("threads", 0 <= self.threads <= 256, "0 (the machine's cores) to 256")
        self._require("poll_seconds", 0.2 <= self.poll_seconds <= 8, "from 0.2 to 8: a champion is due within 10 s")
        self._require("log_days", 1 <= self.log_days <= 36_500, "from 1 to 36500 days")
        known = get_protocol(self.log) in known_implementations
        self._require("log", known, "a folder or an address that fsspec knows")
        if not (self.api_key.isascii() and self.api_key.strip() == self.api_key):
            # a browser sends other letters in another encoding, and no outer spaces; the key itself is not repeated
            raise SettingError(f"{KEY}: must be of ASCII characters without spaces around them")

    def _require(self, name: str, ok: bool, rule: str) -> None:
        if not ok:
            raise SettingError(f"{variable(name)}={str(getattr(self, name))!r}: must be {rule}")

    @property
    def folder(self) -> Path:
        """Where the app keeps what it needs to start again."""
        return self.var / "serving"

    @property
    def log_address(self) -> str:
        """Where closed hours of the prediction log lie: any fsspec address."""
        return self.log or str(self.var / "prediction_log")

    @property
    def open_hours(self) -> Path:
        """Where the open hour of the prediction log lies: on this machine, as object stores cannot append."""
        return self.folder / "open_hours"

    @property
    def max_body(self) -> int:
        """Bytes of a request: the photo in base64, texts of which each character may be escaped, and a little."""
        return self.max_photo_bytes * 4 // 3 + 2 * self.max_text * 12 + 10_000

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] | None = None) -> Self:
        """Raises SettingError, also on a SERVE_ variable that is none of ours: a typo would be silent otherwise."""
        given = os.environ if environment is None else environment
        known = {variable(item.name): item for item in fields(cls)}
        if unknown := sorted(name for name in given if name.startswith("SERVE_") and name not in known):
            raise SettingError(f"{', '.join(unknown)}: no such setting; there are {', '.join(sorted(known))}")
        values = {item.name: _parse(name, given[name], item.type) for name, item in known.items() if given.get(name)}
        values["var"] = Path(values.get("var", VAR)).resolve()
        return cls(**values)


def variable(name: str) -> str:
    """The environment variable of a setting."""
    return {"model": "MODEL", "api_key": KEY, "var": "RAKUTEN_VAR"}.get(name, f"SERVE_{name.upper()}")


def _parse(name: str, text: str, kind: Any) -> Any:
    if kind == "bool":
        if text.lower() not in TRUE + FALSE:
            raise SettingError(f"{name}={text!r}: must be one of {', '.join(TRUE + FALSE[:-1])}")
        return text.lower() in TRUE
    convert = {"int": int, "float": float, "str": str, "Path": Path}[kind]
    try:
        return convert(text)
    except ValueError:
        raise SettingError(f"{name}={text!r}: must be of type {kind}") from None
