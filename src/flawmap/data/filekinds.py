"""What a file is by its first bytes, whatever its name says: what is passed over must be told by name and kind."""

from __future__ import annotations

import os
import re
import stat
import struct
from pathlib import Path
from typing import Literal, NamedTuple

Group = Literal["image", "video", "archive", "document", "other"]

SPECIAL = frozenset({"named pipe", "socket", "device"})
_HEAD = 264  # bytes: tar and DICOM have their marks the farthest in
_ISO = {  # brands of the container that phones and cameras write both photos and videos in
    "image": (b"heic", b"heix", b"heim", b"heis", b"hevc", b"mif1", b"msf1", b"avif", b"avis", b"jxl "),
}
_MARKS: tuple[tuple[bytes, str, Group], ...] = (
    (b"\x89PNG\r\n", "PNG image", "image"),
    (b"\xff\xd8\xff\xf7", "JPEG-LS image", "image"),
    (b"\xff\xd8\xff", "JPEG image", "image"),
    (b"II*\0", "TIFF image", "image"),
    (b"MM\0*", "TIFF image", "image"),
    (b"II+\0", "BigTIFF image", "image"),
    (b"MM\0+", "BigTIFF image", "image"),
    (b"GIF8", "GIF image", "image"),
    (b"\0\0\0\x0cjP  ", "JPEG 2000 image", "image"),
    (b"\xff\x4f\xff\x51", "JPEG 2000 image", "image"),
    (b"\xff\x0a", "JPEG XL image", "image"),
    (b"\xff\x10\xff\x50", "JPEG XS image", "image"),
    (b"\0\0\0\x0cJXL ", "JPEG XL image", "image"),
    (b"v/1\x01", "OpenEXR image", "image"),
    (b"8BPS", "Photoshop image", "image"),
    (b"\0\0\x01\0", "icon", "image"),
    (b"DDS ", "DDS image", "image"),
    (b"SIMPLE  =", "FITS image", "image"),
    (b"\x01\xda\0\x01", "SGI image", "image"),
    (b"\x01\xda\x01\x01", "SGI image", "image"),
    (b"\x01\xda\0\x02", "SGI image", "image"),
    (b"\x01\xda\x01\x02", "SGI image", "image"),
    (b"gimp xcf", "GIMP image", "image"),
    (b"II\xbc", "JPEG XR image", "image"),
    (b"SDPX", "DPX image", "image"),
    (b"XPDS", "DPX image", "image"),
    (b"\x59\xa6\x6a\x95", "Sun raster image", "image"),
    (b"qoif", "QOI image", "image"),
    (b"farbfeld", "farbfeld image", "image"),
    (b"/* XPM */", "XPM image", "image"),
    (b"AT&TFORM", "DjVu document", "document"),
    (b"#?RADIANCE", "Radiance image", "image"),
    (b"FUJIFILM", "raw photo of a camera", "image"),
    (b"%PDF", "PDF", "document"),
    (b"\x1aE\xdf\xa3", "video (Matroska or WebM)", "video"),
    (b"\0\0\x01\xba", "video (MPEG)", "video"),
    (b"\0\0\x01\xb3", "video (MPEG)", "video"),
    (b"0&\xb2u\x8ef\xcf\x11", "video (WMV)", "video"),
    (b"FLV\x01", "video (Flash)", "video"),
    (b"PK\x03\x04", "zip archive", "archive"),
    (b"PK\x05\x06", "zip archive", "archive"),
    (b"\x1f\x8b", "gzip archive", "archive"),
    (b"BZh", "bzip2 archive", "archive"),
    (b"\xfd7zXZ\0", "xz archive", "archive"),
    (b"7z\xbc\xaf\x27\x1c", "7z archive", "archive"),
    (b"Rar!\x1a\x07", "rar archive", "archive"),
    (b"\x28\xb5\x2f\xfd", "Zstandard archive", "archive"),
)
_SUFFIXES: dict[str, tuple[str, Group]] = {
    **dict.fromkeys((".xlsx", ".ods"), ("spreadsheet", "document")),
    **dict.fromkeys((".docx", ".pptx", ".odt", ".odp"), ("office document", "document")),
    **dict.fromkeys((".cr2", ".nef", ".arw", ".dng", ".orf", ".rw2"), ("raw photo of a camera", "image")),
}
_PLAIN = {".pbm", ".pgm", ".ppm", ".pnm", ".pam", ".pfm"}
# Only their names tell these; the bytes of a picture without a header may be anything.
_BY_NAME: dict[str, tuple[str, Group]] = {
    **dict.fromkeys((".tga", ".targa", ".icb", ".vda", ".vst"), ("TGA image", "image")),
    **dict.fromkeys((".raw", ".svg", ".cr3", ".pict", ".wbmp", ".fit", ".fits"), ("picture that is not read", "image")),
    **dict.fromkeys((".m2ts", ".mts"), ("video", "video")),
}
_SIDES = re.compile(rb"P[1-7Ff]\s+(#|\d|WIDTH)")
# Classes of DICOM objects: directories of a disc, reports, presentation states.
_NO_PICTURE = re.compile(rb"\x02\0\x02\0UI..1\.2\.840\.10008\.(1\.3\.10|5\.1\.4\.1\.1\.(11|88)\.)", re.DOTALL)
# PCX: its version, that it is run-length encoded, the bits of a plane.
_PCX = re.compile(rb"\x0a[\0\x02-\x05]\x01[\x01\x02\x04\x08]")
_BMP_HEADERS = (12, 16, 40, 52, 56, 64, 108, 124)


class FileKind(NamedTuple):
    """words: with an article left out ("PNG image", "zip archive", "file"); group: what sort of thing that is."""

    words: str
    group: Group

    @property
    def a(self) -> str:
        """The words with their article."""
        return f"{'an' if self.words[0].lower() in 'aeio' else 'a'} {self.words}"


def special(path: str | Path) -> str | None:
    """What a path is that is neither a file nor a folder: "named pipe", "socket" or "device"; it must not be opened, as
    reading it may never end. None for a file, a folder, and what is not there."""
    try:
        mode = os.stat(path).st_mode
    except (OSError, ValueError):
        return None
    if stat.S_ISFIFO(mode):
        return "named pipe"
    if stat.S_ISSOCK(mode):
        return "socket"
    return None if stat.S_ISREG(mode) or stat.S_ISDIR(mode) else "device"


def kind_of(path: Path) -> FileKind:
    """What a file is, by its first bytes; a file that cannot be read is of the group `other`, and so is what is none,
    which is not opened."""
    if (what := special(path)) is not None:
        return FileKind(what, "other")
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD)
    except (OSError, ValueError):
        return FileKind("file that cannot be read", "other")
    return kind_of_bytes(head, path.suffix.lower())


def kind_of_bytes(head: bytes, suffix: str = "") -> FileKind:
    """The same for a file's first bytes and its suffix in lower case."""
    if head[128:132] == b"DICM":  # first: it may begin as a TIFF
        bare = _NO_PICTURE.search(head) is not None
        return FileKind("DICOM file without a picture", "document") if bare else FileKind("DICOM image", "image")
    for mark, words, group in _MARKS:
        if head.startswith(mark):
            return FileKind(*_SUFFIXES.get(suffix, (words, group)))
    if head[4:8] == b"ftyp":
        brand = head[8:12]
        if brand in _ISO["image"]:
            return FileKind("AVIF image" if brand.startswith(b"avi") else "HEIC photo", "image")
        return FileKind("raw photo of a camera", "image") if brand == b"crx " else FileKind("video (MP4)", "video")
    if head.startswith(b"RIFF") and head[8:12] in (b"WEBP", b"AVI "):
        return FileKind("WebP image", "image") if head[8:12] == b"WEBP" else FileKind("video (AVI)", "video")
    if head.startswith(b"BM") and int.from_bytes(head[14:18], "little") in _BMP_HEADERS:
        return FileKind("BMP image", "image")
    if _SIDES.match(head) and (suffix in _PLAIN or head[1:2] in b"4567"):
        return FileKind("PGM or PPM image", "image")
    if is_pcx(head):
        return FileKind("PCX image", "image")
    if head[257:262] == b"ustar":
        return FileKind("tar archive", "archive")
    return FileKind(*_BY_NAME.get(suffix, ("file", "other")))


def is_pcx(head: bytes) -> bool:
    """Whether a file's first bytes are the header of a PCX image: its corners come in order, byte 64 is 0."""
    if _PCX.match(head) is None or len(head) < 128 or head[64]:
        return False
    left, top, right, bottom = struct.unpack_from("<4H", head, 4)
    return bool(left <= right and top <= bottom)


def is_tga(data: bytes) -> bool:
    """Whether the bytes of a whole file are a TGA image: its footer says so, or its header fits in every field."""
    if data.endswith(b"TRUEVISION-XFILE.\0"):
        return True
    if len(data) < 19 or data[1] > 1 or data[2] not in (1, 2, 3, 9, 10, 11) or data[16] not in (8, 15, 16, 24, 32):
        return False
    mapped, (first, colours), width, height = data[2] & 7 == 1, struct.unpack_from("<HH", data, 3), *_sides(data)
    bare = not any(data[3:8]) if not data[1] else first < colours and data[7] in (15, 16, 24, 32)
    needed = 18 + data[0] + width * height * ((data[16] + 7) // 8)
    whole = data[2] > 8 or len(data) >= needed
    return mapped == bool(data[1]) and bare and width > 0 and height > 0 and not data[17] & 0xC0 and whole


def _sides(data: bytes) -> tuple[int, int]:
    width, height = struct.unpack_from("<HH", data, 12)
    return width, height
