"""What lies beside the images of a folder is told by kind and name; an image is one by its content too."""

from __future__ import annotations

import os
import socket
import struct
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from flawmap import cli
from flawmap.data.defects import read_defects
from flawmap.data.filekinds import kind_of, kind_of_bytes, special
from flawmap.data.images import encode_jpeg, encode_png, read_image
from flawmap.data.labels.read import read_labels
from flawmap.data.layouts import find_images, gather, read_layout
from flawmap.deploy.repeat import shots_of_folders
from flawmap.errors import DataError, ImageError, LayoutError, StationError
from flawmap.station.client import _encoded

PIXELS = np.random.default_rng(0).integers(0, 255, (8, 9, 3)).astype(np.uint8)
HEADS = {
    "a.pgm": (b"P5\n9 8\n255\n" + bytes(72), "PGM or PPM image", "image"),
    "a.ppm": (b"P6\n# by hand\n9 8\n255\n", "PGM or PPM image", "image"),
    "a.jp2": (b"\0\0\0\x0cjP  \r\n\x87\n", "JPEG 2000 image", "image"),
    "a.jxl": (b"\xff\x0a\0", "JPEG XL image", "image"),
    "a.heic": (b"\0\0\0\x18ftypheic\0\0\0\0", "HEIC photo", "image"),
    "a.avif": (b"\0\0\0\x18ftypavif\0\0\0\0", "AVIF image", "image"),
    "a.dcm": (bytes(128) + b"DICM", "DICOM image", "image"),
    "a.gif": (b"GIF89a", "GIF image", "image"),
    "a.nef": (b"MM\0*\0\0\0\x08", "raw photo of a camera", "image"),
    "a.ico": (b"\0\0\x01\0\x01\0", "icon", "image"),
    "a.dds": (b"DDS |\0\0\0", "DDS image", "image"),
    "a.fits": (b"SIMPLE  =                    T", "FITS image", "image"),
    "a.sgi": (b"\x01\xda\x01\x01\0\x03", "SGI image", "image"),
    "a.xcf": (b"gimp xcf v011", "GIMP image", "image"),
    "a.wdp": (b"II\xbc\x01", "JPEG XR image", "image"),
    "a.tga": (b"\0\0\x02" + bytes(9) + b"\x09\0\x08\0\x18\0", "TGA image", "image"),
    "a.pcx": (b"\x0a\x05\x01\x08" + struct.pack("<4H", 0, 0, 8, 7) + bytes(116), "PCX image", "image"),
    "a line": (b"\n\x05\x01\x08 is no picture", "file", "other"),
    "a.mp4": (b"\0\0\0\x18ftypisom\0\0\0\0", "video (MP4)", "video"),
    "a.avi": (b"RIFF\0\0\0\0AVI LIST", "video (AVI)", "video"),
    "a.pdf": (b"%PDF-1.7", "PDF", "document"),
    "a.zip": (b"PK\x03\x04\x14\0", "zip archive", "archive"),
    "a.tar": (bytes(257) + b"ustar\0", "tar archive", "archive"),
    "a.xlsx": (b"PK\x03\x04\x14\0", "spreadsheet", "document"),
    "BMW.txt": (b"BMW and others are cars", "file", "other"),
    "P1.txt": (b"P1 2024 is no picture", "file", "other"),
    "empty": (b"", "file", "other"),
}


@pytest.mark.parametrize("name", HEADS)
def test_a_file_is_told_by_its_first_bytes(name: str) -> None:
    head, words, group = HEADS[name]
    assert kind_of_bytes(head, Path(name).suffix) == (words, group)


def folder(root: Path) -> Path:
    root.mkdir(exist_ok=True)
    for name in ("a.png", "none", "b.scan"):
        (root / name).write_bytes(encode_png(PIXELS))
    for name in ("c.jfif", "d.JPE"):
        (root / name).write_bytes(encode_jpeg(PIXELS))
    (root / "p.pgm").write_bytes(b"P5\n9 8\n255\n" + PIXELS[:, :, 0].tobytes())
    for name in ("a.heic", "a.mp4", "a.pdf", "a.zip", "BMW.txt"):
        (root / name).write_bytes(HEADS[name][0])
    (root / ".cam2").mkdir()
    (root / ".cam2" / "g.png").write_bytes(encode_png(PIXELS))
    (root / ".thumbnails").mkdir()
    (root / ".thumbnails" / "g.png").write_bytes(encode_png(PIXELS))
    return root


def test_images_are_tried_whatever_their_suffix_and_the_rest_is_told(tmp_path: Path) -> None:
    found = gather([folder(tmp_path / "in")])
    names = [path.name for path in found.images]
    assert names == ["a.heic", "a.png", "b.scan", "c.jfif", "d.JPE", "none", "p.pgm"]
    assert find_images([tmp_path / "in"]) == found.images
    for name in ("none", "b.scan", "c.jfif", "d.JPE", "p.pgm"):
        assert read_image(tmp_path / "in" / name).shape == (8, 9, 3)
    assert found.hidden == [tmp_path / "in" / ".cam2" / "g.png"]
    assert found.sentences() == [
        f"passed over 1 {what}: {tmp_path / 'in' / name}"
        for what, name in (
            ("hidden images", ".cam2/g.png"),
            ("videos", "a.mp4"),
            ("archives", "a.zip"),
            ("documents", "a.pdf"),
            ("files that are no images", "BMW.txt"),
        )
    ]


def test_a_hidden_image_named_outright_is_tried(tmp_path: Path) -> None:
    hidden = folder(tmp_path) / ".cam2" / "g.png"
    found = gather([tmp_path, hidden])
    assert (
        found.images[-1] == hidden
        and found.hidden == []
        and not any("hidden images" in line for line in found.sentences())
    )


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("a.zip", "is a zip archive, no image; unpack it and give the folder"),
        ("a.mp4", "is a video (MP4), no image; save its frames as images and give their folder"),
        ("a.pdf", "is a PDF, no image; save its pictures as images and give their folder"),
    ],
)
def test_what_holds_no_image_is_refused_where_it_is_named_outright(tmp_path: Path, name: str, words: str) -> None:
    file = folder(tmp_path) / name
    with pytest.raises(DataError) as caught:
        gather([tmp_path / "a.png", file])
    assert str(caught.value) == f"{file} {words}"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("a.zip", "is a zip archive, not a folder of photos; unpack it and give the folder"),
        ("a.mp4", "is a video (MP4), not a folder of photos; save its frames as images and give their folder"),
        ("a.pdf", "is a PDF, not a folder of photos; save its pictures as images and give their folder"),
        ("a.png", "is one photo (PNG image), not a folder of photos; give the folder that holds it and the others"),
        ("none", "is one photo (PNG image), not a folder of photos; give the folder that holds it and the others"),
    ],
)
def test_a_file_given_to_learn_from_is_told_what_it_is(tmp_path: Path, name: str, words: str) -> None:
    file = folder(tmp_path) / name
    for read in (read_layout, read_defects):
        with pytest.raises(LayoutError) as caught:
            read(file)
        assert str(caught.value) == f"{file} {words}"


def test_what_a_layout_leaves_out_is_told_by_its_kind(tmp_path: Path) -> None:
    folder(tmp_path / "parts")
    listing = read_layout(tmp_path / "parts")
    notes = "\n".join(listing.notes)
    assert "4 files are not images and left out (BMW.txt, …); among them a PDF, a video (MP4), a zip archive" in notes
    assert "3 images are left out for their suffix (a.heic, a HEIC photo, …): save or rename them as .bmp" in notes
    assert "2 hidden files or folders are left out (.cam2, …); 1 of what is in them are images" in notes
    assert {path.name for path in listing.passed_over} == {"a.heic", "b.scan", "none", "g.png"}
    assert "left out for their suffix" in "\n".join(read_defects(tmp_path / "parts").notes)


def test_a_folder_without_an_image_tells_what_is_there(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(HEADS["a.mp4"][0])
    with pytest.raises(DataError, match=r"no images in .* \(passed over 1 videos: .*a\.mp4\)"):
        gather([tmp_path])
    with pytest.raises(LayoutError, match=r"no images in .*among them a video \(MP4\)"):
        read_layout(tmp_path)


def odd_files(root: Path) -> tuple[Path, ...]:
    """A named pipe, a socket and a link to a device, all named as images: opening them may wait for ever."""
    root.mkdir(parents=True, exist_ok=True)
    paths = root / "pipe.png", root / "s.png", root / "device.png"
    os.mkfifo(paths[0])
    before = Path.cwd()
    os.chdir(root)  # a socket's path is short
    try:
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind("s.png")
    finally:
        os.chdir(before)
    paths[2].symlink_to("/dev/zero")
    return paths


def test_what_is_no_file_is_told_and_never_opened(tmp_path: Path) -> None:
    paths = odd_files(tmp_path / "in")
    assert [special(path) for path in paths] == ["named pipe", "socket", "device"] == [kind_of(p).words for p in paths]
    (tmp_path / "in" / "a.png").write_bytes(encode_png(PIXELS))
    found = gather([tmp_path / "in"])
    assert [path.name for path in found.images] == ["a.png"]
    (line,) = found.sentences()
    assert line.startswith("passed over 3 named pipes, sockets or devices: ")
    listing = read_layout(tmp_path / "in")
    assert [sample.image.name for sample in listing.samples] == ["a.png"]
    assert any("3 files are not images" in note and "a named pipe, a socket" in note for note in listing.notes)
    for path, what in zip(paths, ("named pipe", "socket", "device"), strict=True):
        for call in (lambda path=path: gather([path]), lambda path=path: read_layout(path)):
            with pytest.raises((DataError, LayoutError), match=f"is a {what}, .*save what comes from it as files"):
                call()
        with pytest.raises(ImageError, match=f"is a {what}, not a file"):
            read_image(path)
        with pytest.raises(StationError, match=f"is a {what}, not a file"):
            _encoded(path, None)
        with pytest.raises(DataError, match=f"is a {what}, no label file"):
            read_labels([path])


def test_masks_and_tables_that_are_no_files_are_told_and_never_opened(tmp_path: Path) -> None:
    for number in range(5):
        for kind in ("good", "bad"):
            (tmp_path / kind).mkdir(exist_ok=True)
            (tmp_path / kind / f"{kind}{number}.png").write_bytes(encode_png(PIXELS))
    (tmp_path / "masks").mkdir()
    for place in ("masks/bad0.png", "bad/bad1_mask.png", "split.csv"):
        os.mkfifo(tmp_path / place)
    listing = read_layout(tmp_path)
    assert [len(sample.masks) for sample in listing.test if sample.defective] == [0] * 5
    assert any("2 files are not images" in note or "3 files are not images" in note for note in listing.notes)
    (tmp_path / "labels").mkdir()
    os.mkfifo(tmp_path / "labels" / "a.json")
    (tmp_path / "labels" / "b.txt").write_text("0 .1 .1 .5 .1 .5 .5\n")
    assert "a.json: a named pipe, no file" in read_labels([tmp_path / "labels"])[1][0]


def test_a_link_to_nothing_is_tried_wherever_it_is_given(tmp_path: Path) -> None:
    (tmp_path / "gone.png").symlink_to(tmp_path / "nowhere.png")
    (tmp_path / "loop.png").symlink_to(tmp_path / "loop.png")
    (tmp_path / "a.png").write_bytes(encode_png(PIXELS))
    inside = gather([tmp_path]).images
    assert [path.name for path in inside] == ["a.png", "gone.png", "loop.png"] and gather(inside).images == inside
    with pytest.raises(ImageError, match=r"gone\.png: there is no such file"):
        read_image(tmp_path / "gone.png")


@pytest.mark.parametrize(("name", "data", "what"), [
    ("x.zip", b"PK\x03\x04\x14\0", "a zip archive"), ("x.mp4", b"\0\0\0\x18ftypisom\0\0\0\0", "a video (MP4)"),
    ("x.jpg", encode_jpeg(PIXELS), "JPEG image"), ("x.pdf", b"%PDF-1.4\n", "a PDF"), ("x.toml", b"x = 1\n", "a file"),
])  # fmt: skip
def test_a_file_in_place_of_a_folder_is_told_as_what_it_is(tmp_path: Path, name: str, data: bytes, what: str) -> None:
    file = tmp_path / name
    file.write_bytes(data)
    with pytest.raises(LayoutError) as caught:
        shots_of_folders(file)
    assert f"{file} is " in str(caught.value) and what in str(caught.value) and "; " in str(caught.value)
    for words in (["watch", str(file), "--model", str(tmp_path / "b.bundle"), "--once"], ["suspects", str(file)]):
        result = CliRunner().invoke(cli.app, words)
        assert result.exit_code == 2 and f"{file} is " in result.stderr and what in result.stderr, result.output
    if name != "x.toml":
        with pytest.raises(DataError, match=r"no label file; ") as refused:
            read_labels([file])
        assert what in str(refused.value)
