"""A file from elsewhere: is it an image, which one, and what does it say of itself.

Only PNG, JPEG and WebP are taken, and only those that decode whole. Anything else is a reason, never a traceback: the
file may be a stranger's attack. What a file says of itself is a claim: it is bounded, made safe for a terminal and
kept as text. It is opened for reading alone. What it does not know: whether a claim is true.
"""

from __future__ import annotations

import io
import os
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runner import store
from runner.contract.shown import shown
from runner.errors import first_line

MAX_BYTES = 256 << 20  # of a file
MAX_CHARS = 8_000  # of one text that a file says
MAX_NAME_CHARS = 200
FORMATS = ("PNG", "JPEG", "WEBP")
PHONE_JPEG = "MPO"  # a JPEG with more pictures behind it
MEDIA_TYPES = {"PNG": "image/png", "JPEG": "image/jpeg", PHONE_JPEG: "image/jpeg", "WEBP": "image/webp"}
TEXT_CHUNKS = ("parameters", "prompt", "runner", "Author", "Copyright", "Description", "Software", "Creation Time")
EXIF_TAGS = {270: "ImageDescription", 305: "Software", 306: "DateTime", 315: "Artist", 33432: "Copyright"}
EXIF_IFD, USER_COMMENT = 0x8769, 0x9286  # where web UIs of this field write a prompt into a JPEG
BEGINNINGS = {
    b"GIF8": "a GIF", b"BM": "a BMP", b"II*\0": "a TIFF", b"MM\0*": "a TIFF", b"%PDF": "a PDF", b"<svg": "an SVG",
    b"8BPS": "a Photoshop file", b"PK\3\4": "a zip archive", b"version https://git-lfs": "a Git LFS pointer",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class ForeignImage:
    """An image file that decodes: its digest, and what it is and says."""

    digest: str
    num_bytes: int
    width: int  # px
    height: int
    media_type: str
    name: str  # of the file, without its folder
    says: Mapping[str, str]


def examine(path: Path) -> ForeignImage | str:
    """The image in a file, or why it is none."""
    try:
        data = store.read_regular(path, MAX_BYTES)
    except OSError as error:
        return f"cannot be read ({error.strerror or error})"
    decoded = _decode(data)
    if isinstance(decoded, str):
        return decoded
    width, height, media_type, says = decoded
    return ForeignImage(store.digest(data), len(data), width, height, media_type, file_name(path), says)


def read_again(path: Path, image: ForeignImage) -> bytes | str:
    """The bytes that were examined; a reason when the file holds others by now."""
    try:
        data = store.read_regular(path, MAX_BYTES)
    except OSError as error:
        return f"cannot be read ({error.strerror or error})"
    return data if store.digest(data) == image.digest else "changed while it was being imported"


def file_name(path: Path) -> str:
    """The file's own name as safe text, never its folder."""
    return shown(path.name, MAX_NAME_CHARS)


def safe(text: str, limit: int = MAX_CHARS) -> str:
    """Text with its lines kept; what a terminal would obey is an escape."""
    cut = text if len(text) <= limit else text[: limit - 1] + "…"
    return "\n".join(shown(line, 6 * limit) for line in cut.splitlines())


def _decode(data: bytes) -> tuple[int, int, str, dict[str, str]] | str:
    from PIL import Image, UnidentifiedImageError

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(data), formats=FORMATS) as image:
                if reason := _several_frames(image):
                    return reason
                image.load()
                if image.format == "PNG":  # its decoder passes over checksums
                    Image.open(io.BytesIO(data), formats=FORMATS).verify()
                return *image.size, MEDIA_TYPES[str(image.format)], dict(_says(image))
    except UnidentifiedImageError:
        return _unknown(data)
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        return f"claims too many pixels ({first_line(error).partition(',')[0]})"
    except Exception as error:  # a decoder answers hostile bytes with errors of nearly every kind
        return f"does not decode ({shown(first_line(error))})"


def _several_frames(image: Any) -> str | None:
    frames = getattr(image, "n_frames", 1)
    return f"is an animation of {frames} frames" if frames > 1 and image.format != PHONE_JPEG else None


def _unknown(data: bytes) -> str:
    if not data:
        return "is empty"
    for beginning, kind in BEGINNINGS.items():
        if data.startswith(beginning):
            return f"is {kind}; PNG, JPEG and WebP are taken"
    return f"is no PNG, JPEG or WebP: it begins with '{shown(data[:20].decode('utf-8', 'backslashreplace'), 60)}'"


def _says(image: Any) -> Iterator[tuple[str, str]]:
    chunks = getattr(image, "text", None) or {}
    yield from ((name, safe(str(chunks[name]))) for name in TEXT_CHUNKS if chunks.get(name))
    try:
        exif = image.getexif()
        tags = {name: exif.get(number) for number, name in EXIF_TAGS.items()}
        tags["UserComment"] = exif.get_ifd(EXIF_IFD).get(USER_COMMENT)
    except Exception as error:  # EXIF of strangers breaks the reader in many ways; the picture is sound all the same
        yield "exif", f"cannot be read ({type(error).__name__})"
        return
    yield from ((f"exif.{name}", text) for name, value in tags.items() if value and (text := _text(value)))


def _text(value: Any) -> str:
    if isinstance(value, bytes):
        encoding = "utf-16-be" if value.startswith(b"UNICODE\0") else "utf-8"
        body = value[8:] if value[:8] in (b"UNICODE\0", b"ASCII\0\0\0") else value
        value = body[: 4 * MAX_CHARS].decode(encoding, "backslashreplace")
    return safe(str(value).strip("\0 "))


def files_in(place: Path) -> Iterator[Path]:
    """A file itself; of a folder every file below it, by name, but hidden ones.

    Folders that cannot be read and links to folders come out as they are, and are told as what they are.
    """
    if not place.is_dir():
        yield place
        return
    closed: list[Path] = []
    for folder, inner, names in os.walk(place, onerror=lambda error: closed.append(Path(str(error.filename)))):
        inner[:] = sorted(name for name in inner if not name.startswith("."))
        links = [name for name in inner if Path(folder, name).is_symlink()]
        yield from (Path(folder) / name for name in sorted([*names, *links]) if not name.startswith("."))
    yield from closed
