"""What is a photo file: the formats, the limits, the errors. Needs Pillow alone, so the web process can import it."""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO

from PIL import Image

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP")
# first bytes of FORMATS; of a BMP with the size of its header, as many texts begin with BM
MAGIC = re.compile(
    rb"\xff\xd8\xff|\x89PNG\r\n\x1a\n|RIFF.{4}WEBP|GIF8[79]a|BM.{12}[\x0c\x28\x34\x38\x40\x6c\x7c]\0\0\0", re.DOTALL
)
MAX_PIXELS = 50_000_000  # 200 MB decoded
CHECKED_PIXELS = 1_000_000  # that a check decodes at most: 60 ms of a progressive JPEG
# The chunks of a PNG that show in the picture. Pillow refuses the file for faults or megabytes in any other.
STILL_CHUNKS = frozenset({b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"})
ANIMATION_CHUNKS = frozenset({b"acTL", b"fcTL", b"fdAT"})
# The segments of a JPEG that are metadata, but for those that change colours, if they are as long as libjpeg requires.
METADATA_MARKERS = frozenset({*range(0xE0, 0xF0), 0xFE})
COLOUR_MARKERS = {0xE0: (b"JFIF\0", 14), 0xEE: (b"Adobe", 12)}  # start of the payload, and its shortest length
EXIF_MARKER, START_OF_SCAN = 0xE1, 0xDA
JPEG_START, JPEG_END = b"\xff\xd8\xff", b"\xff\xd9"  # within a scan \xff is followed by 0 or the number of a restart


class PhotoError(ValueError):
    """Bytes that are no usable photo. The message never repeats the input.

    status: as photo_status in schema.TEXT: not_an_image (or one that shows nothing), truncated (begins as a photo, but
    cannot be decoded to its end) or too_large.
    """

    def __init__(self, message: str, status: str) -> None:
        super().__init__(message, status)
        self.message, self.status = message, status

    def __str__(self) -> str:
        return self.message


@contextmanager
def open_photo(data: bytes, max_pixels: int = MAX_PIXELS) -> Iterator[Image.Image]:
    """Open a photo by its header, without its metadata; of an animated PNG the still picture.

    Whatever goes wrong here or in the block, such as decoding, raises PhotoError.
    """
    if not MAGIC.match(data):
        raise PhotoError(f"not a photo: send one of {', '.join(FORMATS)}", "not_an_image")
    try:
        with Image.open(BytesIO(without_metadata(data)), formats=FORMATS) as image:
            require_size(image, max_pixels)
            yield image
    except PhotoError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise _too_large(max_pixels) from error
    except Image.UnidentifiedImageError as error:
        message = "the photo is damaged or of a rare variant: send the whole file, or save it again as JPEG or PNG"
        raise PhotoError(message, "truncated") from error
    except Exception as error:  # Pillow names no closed set of errors for hostile bytes
        raise PhotoError("the photo is truncated or damaged: send the whole file", "truncated") from error


def check_photo(data: bytes, max_pixels: int = MAX_PIXELS) -> None:
    """Check a photo that may never be decoded, in microseconds: by its header, its structure and its end.

    Raises PhotoError only where `decode_photo` does, with the same message. Damage within the compressed pixels passes.
    A file without its end is decoded up to CHECKED_PIXELS, as Pillow reads some of them: a larger one passes.
    """
    with open_photo(data, max_pixels) as image:
        if not _has_end(data) and image.width * image.height <= CHECKED_PIXELS:
            if lacks_end(data):
                with_end(data, max_pixels)
            else:
                image.load()


def _has_end(data: bytes) -> bool:
    """Return whether the file ends as its format says. Pillow checks that of a WebP when it opens it."""
    if data.startswith(JPEG_START):
        return not lacks_end(data)
    if data.startswith(b"\x89PNG"):
        return b"IEND" in data[-12:]
    if data.startswith(b"GIF"):
        return data.endswith(b";")
    return not data.startswith(b"BM") or int.from_bytes(data[2:6], "little") <= len(data)


def require_size(image: Image.Image, max_pixels: int) -> None:
    """Raise PhotoError unless the picture has a pixel, and at most `max_pixels`."""
    if image.width * image.height > max_pixels:
        raise _too_large(max_pixels)
    if not image.width * image.height:
        raise PhotoError("the photo has no pixels: send another", "not_an_image")


def _too_large(max_pixels: int) -> PhotoError:
    return PhotoError(f"the photo has over {max_pixels:,} pixels: send a smaller one", "too_large")


def without_metadata(data: bytes, animation: bool = False) -> bytes:
    """Remove what does not show in the picture. animation: keep the frames of an animated PNG."""
    if data.startswith(b"\x89PNG"):
        names = STILL_CHUNKS | ANIMATION_CHUNKS if animation else STILL_CHUNKS
        chunks = [data[start:end] for name, start, end in _png_chunks(data) if name in names]
        return data[:8] + b"".join(chunks)
    if data.startswith(JPEG_START):
        segments = [data[start:end] for marker, start, end in _jpeg_segments(data) if _shows(data, marker, start, end)]
        return data[:2] + b"".join(segments)
    return data


def lacks_end(data: bytes) -> bool:
    """Return whether the bytes are a JPEG without the marker of its end after its first scan."""
    if not data.startswith(JPEG_START):
        return False
    *_, (_, start, _) = _jpeg_segments(data)
    return data.find(JPEG_END, start) < 0


def with_end(data: bytes, max_pixels: int) -> bytes:
    """Add the end marker to a JPEG that lacks nothing else, which every viewer shows.

    What follows the last pixel does not show; it fills the place of pixels that are missing. Raises PhotoError.
    """
    data = data.rstrip(b"\0")  # of a file whose space was reserved before it was written
    data += b"\0" if data.endswith(b"\xff") else b""  # a level of 255 is written as \xff\0
    histograms = []
    for tail in (JPEG_END, bytes(range(255)) + JPEG_END):
        with open_photo(data + tail, max_pixels) as image:
            histograms.append(image.histogram())
    if histograms[0] != histograms[1]:
        raise PhotoError("the photo is truncated or damaged: send the whole file", "truncated")
    return data + JPEG_END


def read_exif(data: bytes) -> bytes:
    """Return the EXIF block of a PNG or JPEG, unchecked; empty if there is none."""
    if data.startswith(b"\x89PNG"):
        return next((data[start + 8 : end - 4] for name, start, end in _png_chunks(data) if name == b"eXIf"), b"")
    blocks = (data[start + 4 : end] for marker, start, end in _jpeg_segments(data) if marker == EXIF_MARKER)
    return next((block for block in blocks if block.startswith(b"Exif\0\0")), b"")


def _png_chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Yield name, start and end of each chunk, but of those that a viewer ignores as their checksum is wrong."""
    start = 8
    while start + 8 <= len(data):
        end = start + 12 + int.from_bytes(data[start : start + 4])
        name, checksum = data[start + 4 : start + 8], int.from_bytes(data[end - 4 : end])
        if name[:1].isupper() or name in ANIMATION_CHUNKS or checksum == zlib.crc32(data[start + 4 : end - 4]):
            yield name, start, end
        start = end


def _jpeg_segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Yield marker, start and end of each segment before the first scan, then of all that follows."""
    start = 2
    while start + 4 <= len(data) and data[start] == 0xFF and data[start + 1] != START_OF_SCAN:
        if data[start + 1] == 0xFF:  # a byte of filling
            start += 1
            continue
        end = start + 2 + int.from_bytes(data[start + 2 : start + 4])
        yield data[start + 1], start, end
        start = end
    yield START_OF_SCAN, start, len(data)


def _shows(data: bytes, marker: int, start: int, end: int) -> bool:
    """Return whether a segment of a JPEG changes the picture."""
    if marker not in METADATA_MARKERS:
        return True
    prefix, shortest = COLOUR_MARKERS.get(marker, (b"", len(data)))
    return data.startswith(prefix, start + 4) and end - start - 4 >= shortest
