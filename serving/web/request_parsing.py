"""Request fields to text and photo bytes: limits, base64, data URIs, local paths."""

from __future__ import annotations

import base64
import binascii
import re
import warnings
from pathlib import Path
from urllib.parse import unquote

from fastapi.exceptions import RequestValidationError

from rakuten_tasks.preprocessing.photo_format import MAGIC, PhotoError, check_photo
from rakuten_tasks.preprocessing.product import Product
from rakuten_tasks.storage.local_files import open_file
from serving.schemas import PHOTO_ERROR_TYPES, InferenceRequest, PredictRequest
from serving.settings import Settings

MAX_PATH = 1000  # characters
MAX_SHORT_DATA = 300  # bytes; longer base64 is no path, so an error about it discloses nothing of this machine
NOT_BASE64 = re.compile(r"[^A-Za-z0-9+/]")
DATA_URI = re.compile(r"data:[^,]{0,100};base64,", re.IGNORECASE)
URL = re.compile(r"[a-z][a-z0-9+.-]{1,20}://", re.IGNORECASE)
SURROGATE = re.compile("[\ud800-\udfff]")  # JSON can hold a half of a pair
# to the standard alphabet from the one for URLs; without line breaks, blanks and byte order mark
STANDARD_BASE64 = str.maketrans("-_", "+/", "\r\n\t \ufeff")
# The same message for a file that is missing, forbidden or outside the folder: else paths could be probed.
NO_SUCH_PHOTO = "neither base64 of a photo nor the path of one that may be read here: send the photo itself as base64"


class FieldError(RequestValidationError):
    """An invalid field. The message never repeats the input."""

    def __init__(self, field: str, kind: str, message: str) -> None:
        super().__init__([{"loc": ("body", field), "msg": message, "type": kind}])
        self.field, self.kind = field, kind


def parse_request(request: PredictRequest, request_id: str, settings: Settings) -> InferenceRequest:
    """Check the texts and read the photo. Raises FieldError."""
    texts = {"designation": request.designation or "", "description": request.description or ""}
    for field, text in texts.items():
        if len(text) > settings.max_text:
            message = f"over the limit of {settings.max_text:,} characters: send a shorter one"
            raise FieldError(field, "text_too_long", message)
        if SURROGATE.search(text):
            raise FieldError(field, "not_unicode", "half a surrogate pair is no character: send valid Unicode")
    photo = read_photo(request.image, settings) if request.image else None
    if photo is None and not Product(**texts, photo=None).has_text:
        message = "neither text nor image: send a description, an image or both"
        raise FieldError("description", "nothing_to_read", message)
    return InferenceRequest(request_id, **texts, photo=photo, top_k=request.top_k, explain=request.explain)


def read_photo(field: str, settings: Settings) -> bytes:
    """Read base64 or a data URI with a photo's first bytes, otherwise a path. Raises FieldError."""
    field = field.strip(" \r\n\t\ufeff")
    if field[:5].lower() == "data:":
        prefix = DATA_URI.match(field)
        if not prefix:
            raise FieldError("image", "photo_unreadable", "a data URI without `;base64,`: send the photo as base64")
        try:
            data = _decode_base64(unquote(field[prefix.end() :]))
        except ValueError as error:
            raise FieldError("image", "photo_unreadable", f"a data URI without valid base64: {error}") from None
    elif URL.match(field):
        raise FieldError("image", "photo_url", "URLs are not fetched: send the photo itself as base64")
    else:
        try:
            data = _decode_base64(field)
        except ValueError as error:
            if len(field) > MAX_PATH:
                raise FieldError("image", "photo_unreadable", f"no valid base64: {error}") from None
            return _read_local_photo(field, None, settings)
        if not MAGIC.match(data):
            return _read_local_photo(field, data, settings)
    _check_photo(data, settings)
    return data


def _decode_base64(text: str) -> bytes:
    """Decode either alphabet, with or without `=` at the end. Raises ValueError with the reason, without the text."""
    try:  # what most clients send, in a tenth of the time
        return binascii.a2b_base64(text, strict_mode=True)
    except ValueError:
        pass
    digits = text.translate(STANDARD_BASE64).rstrip("=")
    if error := NOT_BASE64.search(digits):
        raise ValueError(f"the character at position {error.start()} is none of base64: encode the file again")
    if len(digits) % 4 == 1:
        raise ValueError("it is cut short, or a character is lost: send all of it, with each + as it is")
    return base64.b64decode(digits + "=" * (-len(digits) % 4))


def _read_local_photo(field: str, decoded: bytes | None, settings: Settings) -> bytes:
    """Read a photo below the configured folder. decoded: the field as base64, None if it is none."""
    data = _read_file(field, settings.image_folder, settings.max_photo_bytes + 1)
    if data is not None:
        try:
            _check_photo(data, settings)
            return data
        except FieldError as error:
            if error.kind != "photo_format":  # a file that is no photo must look like a missing one
                raise
    if decoded is not None and len(decoded) > MAX_SHORT_DATA:
        _check_photo(decoded, settings)
    raise FieldError("image", "photo_unreadable", NO_SUCH_PHOTO)


def _read_file(field: str, folder: Path | None, size: int) -> bytes | None:
    """Read at most `size` bytes of a file below the folder; None if it cannot be read for whatever reason."""
    if folder is None or len(field) > MAX_PATH or "\x00" in field:
        return None
    root = folder.resolve()
    try:
        path = (root / field).resolve()
        if not path.is_relative_to(root):
            return None
        with open_file(path) as file:
            return file.read(size)
    except (OSError, ValueError, RuntimeError):  # a loop of links is a RuntimeError
        return None


def _check_photo(data: bytes, settings: Settings) -> None:
    """Check size, format, number of pixels and structure: a photo that the text makes unnecessary is never decoded."""
    if len(data) > settings.max_photo_bytes:
        message = f"over the limit of {settings.max_photo_bytes:,} bytes: send a smaller photo"
        raise FieldError("image", "photo_too_large", message)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's limits are not ours
            check_photo(data, settings.max_photo_pixels)
    except PhotoError as error:
        raise FieldError("image", PHOTO_ERROR_TYPES[error.status], str(error)) from None
