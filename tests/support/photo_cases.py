"""Photo files that users of image libraries have met, with the verdict that is right."""

from __future__ import annotations

import struct
import zlib
from io import BytesIO
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

RED, BLUE, CLEAR, SIDE = (255, 0, 0), (0, 0, 255), (0, 0, 255, 0), 60
SQUARE = (10, 10, 49, 49)


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def red_square(mode: str = "RGB", background: Any = "white") -> Image.Image:
    image = Image.new(mode, (SIDE, SIDE), background)
    ImageDraw.Draw(image).rectangle(SQUARE, fill=RED)
    return image


def png_chunk(name: bytes, body: bytes, checksum: int | None = None) -> bytes:
    checksum = zlib.crc32(name + body) if checksum is None else checksum
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", checksum)


def in_png(*chunks: bytes, png: bytes = encoded(red_square())) -> bytes:
    """The PNG with chunks after its header."""
    return png[:33] + b"".join(chunks) + png[33:]


def small_png(width: int, depth: int, colours: int, row: bytes, *chunks: bytes) -> bytes:
    """A PNG of one row. colours: the number of its colour type."""
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, 1, depth, colours, 0, 0, 0))
    pixels = png_chunk(b"IDAT", zlib.compress(row))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(chunks) + pixels + png_chunk(b"IEND", b"")


def in_jpeg(marker: int, body: bytes) -> bytes:
    """A JPEG with a segment at its start."""
    jpeg = encoded(red_square(), "JPEG", quality=95)
    return jpeg[:2] + bytes([0xFF, marker]) + struct.pack(">H", len(body) + 2) + body + jpeg[2:]


def exif(*entries: bytes) -> bytes:
    return b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<H", len(entries)) + b"".join(entries) + bytes(4)


def bmp(alpha: int) -> bytes:
    """A red 32-bit BMP with a mask of alpha."""
    pixels = bytes([0, 0, 255, alpha]) * SIDE**2
    header = struct.pack("<IiiHHIIiiII", 108, SIDE, SIDE, 1, 32, 3, len(pixels), 2835, 2835, 0, 0)
    masks = struct.pack("<IIII", 0xFF0000, 0xFF00, 0xFF, 0xFF000000) + b"BGRs" + bytes(48)
    return b"BM" + struct.pack("<IHHI", 122 + len(pixels), 0, 0, 122) + header + masks + pixels


def animated(kind: str, *frames: Image.Image, **options: object) -> bytes:
    return encoded(frames[0], kind, save_all=True, append_images=frames[1:], **options)


def partial_gif() -> bytes:
    """A GIF whose only frame, a red square, covers a part of the screen; colour 0, blue, is not used."""
    image = Image.new("P", (40, 40), 1)
    image.putpalette([*BLUE, *RED])
    gif = bytearray(encoded(image, "GIF", optimize=False))
    gif[6:10] = struct.pack("<HH", SIDE, SIDE)
    start = gif.index(b",\0\0\0\0\x28\0\x28\0")
    gif[start + 1 : start + 5] = struct.pack("<HH", 10, 10)
    return bytes(gif)


def _sixteen_bits() -> bytes:
    grey = np.full((SIDE, SIDE), 65535, np.uint16)
    grey[10:50, 10:50] = 1000
    return encoded(Image.fromarray(grey))


clear, shown = Image.new("RGBA", (SIDE, SIDE), CLEAR), red_square("RGBA", CLEAR)
_ORDER = png_chunk(b"acTL", struct.pack(">II", 2, 0)) + png_chunk(
    b"fcTL", struct.pack(">IIIIIHHBB", 7, *[60] * 4, 1, 1, 0, 0)
)
_JPEG = encoded(red_square(), "JPEG", quality=95)
_MPO = animated("MPO", red_square(), red_square(), quality=95)
_CLEAR_GIF = animated("GIF", clear, shown, disposal=2)

# each shows a red square on white, which fills the cropped photo
RED_SQUARES = {
    "text over 1 MB": in_png(png_chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(3_000_000)))),
    "international text over 1 MB": in_png(png_chunk(b"iTXt", b"a\0\1\0\0\0" + zlib.compress(bytes(3_000_000)))),
    "texts over 64 MB": in_png(*[png_chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(1_000_000)))] * 70),
    "ICC profile over 1 MB": in_png(png_chunk(b"iCCP", b"a\0\0" + zlib.compress(bytes(5_000_000)))),
    "ICC profile of unknown compression": in_png(png_chunk(b"iCCP", b"a\0\7xyz")),
    "gamma of a byte": in_png(png_chunk(b"gAMA", b"x")),
    "wrong checksum of metadata": in_png(png_chunk(b"pHYs", bytes(9), checksum=7)),
    "PNG with a broken EXIF": in_png(png_chunk(b"eXIf", b"b'Exif\\x00")),
    "frames of an APNG out of order": in_png(_ORDER),
    "JPEG with an empty EXIF": in_jpeg(0xE1, b"Exif\0\0"),
    "JPEG with a broken EXIF": in_jpeg(0xE1, b"Exif\0\0II*\0\xff\xff\xff\xff"),
    "EXIF resolution without a value": in_jpeg(
        0xE1, exif(struct.pack("<HHII", 0x128, 3, 1, 2), struct.pack("<HHII", 0x11A, 5, 0, 0))
    ),
    "EXIF orientation as a text": in_jpeg(0xE1, exif(struct.pack("<HHI4s", 0x112, 2, 2, b"6"))),
    "EXIF orientation of 9": in_jpeg(0xE1, exif(struct.pack("<HHII", 0x112, 3, 1, 9))),
    "XMP that is no UTF-8": in_jpeg(0xE1, b"http://ns.adobe.com/xap/1.0/\0\xa8\xff"),
    "short JFIF block": in_jpeg(0xE0, b"JFIF\0"),
    "short Photoshop block": in_jpeg(0xED, b"Photoshop 3.0\x008BIM\4\4"),
    "broken directory of pictures": in_jpeg(0xE2, b"MPF\0II*\0\x08\0\0\0\xff\xff"),
    "MPO": _MPO,
    "MPO whose second picture is cut": _MPO[: -len(_MPO) // 4],
    "JPEG without its end": _JPEG[:-2],
    "JPEG with half of its end": _JPEG[:-1],
    "JPEG without its end, in a larger file": _JPEG[:-2] + bytes(4096),
    "JPEG without its end, before a line break": _JPEG[:-2] + b"\r\n",
    "progressive JPEG without its end": encoded(red_square(), "JPEG", quality=95, progressive=True)[:-2],
    "bytes after the end": encoded(red_square(), "JPEG", quality=95) + bytes(5000),
    "PNG without its end": encoded(red_square())[:-12],
    "GIF whose first frame is clear": _CLEAR_GIF,
    "GIF whose first frame is white": animated("GIF", Image.new("RGB", (SIDE, SIDE), "white"), red_square()),
    "GIF whose frame covers a part": partial_gif(),
    "APNG whose first frame is clear": animated("PNG", clear, shown),
    "APNG whose default image is clear": animated("PNG", clear, shown, shown, default_image=True),
    "WebP whose first frame is clear": animated("WEBP", clear, shown, lossless=True),
    "BMP whose alpha is 0 throughout": bmp(0),
    "BMP with alpha": bmp(255),
}

GREY_SQUARES = {
    "16 bits": _sixteen_bits(),
    "grey with alpha": encoded(shown.convert("LA")),
}

# with photo_status
REFUSED = {
    "transparent PNG": (encoded(clear), "not_an_image"),
    "transparent animation": (animated("GIF", clear, clear.copy(), clear.copy(), disposal=2), "not_an_image"),
    "16 bits of the transparent colour": (
        in_png(png_chunk(b"tRNS", b"\3\xe8"), png=encoded(Image.fromarray(np.full((9, 9), 1000, np.uint16)))),
        "not_an_image",
    ),
    "16 bits RGB of the transparent colour": (
        small_png(3, 16, 2, b"\0" + b"\x12\x34" * 9, png_chunk(b"tRNS", b"\x12\x34" * 3)),
        "not_an_image",
    ),
    "4 bits of the transparent level": (
        small_png(4, 4, 0, b"\0\x88\x88", png_chunk(b"tRNS", b"\0\x08")),
        "not_an_image",
    ),
    "clear frame, then a cut one": (_CLEAR_GIF[:-20], "truncated"),
    "text that begins with BM": (b"BMW serie 3, tres bon etat, " * 9, "not_an_image"),
    "sound": (b"RIFF\x24\0\0\0WAVEfmt " + bytes(400), "not_an_image"),
    "HEIC": (b"\0\0\0\x18ftypheic" + bytes(400), "not_an_image"),
    "PNG cut in its pixels": (encoded(Image.effect_noise((90, 90), 99))[:-2000], "truncated"),
    "JPEG cut in its pixels": (encoded(Image.effect_noise((90, 90), 99), "JPEG")[:-1000], "truncated"),
    "progressive JPEG cut in its pixels": (
        encoded(Image.effect_noise((90, 90), 99), "JPEG", progressive=True)[:-1000],
        "truncated",
    ),
    "JPEG cut, in a larger file": (
        encoded(Image.effect_noise((90, 90), 99), "JPEG")[:-1000] + bytes(4096),
        "truncated",
    ),
    "WebP cut": (encoded(red_square(), "WEBP")[:-20], "truncated"),
    "wrong checksum of the header": (encoded(red_square())[:29] + b"abcd" + encoded(red_square())[33:], "truncated"),
    "no pixels": (b"GIF89a" + bytes(7) + b";", "truncated"),
    "too many pixels": (encoded(Image.new("1", (10_000, 6000))), "too_large"),
}
