"""Full white of 16 bits: what files say, what is told from training photos, and photos at another level."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
import tifffile
from PIL import Image as Pillow
from PIL import TiffImagePlugin

from flawmap.config import ImageSettings, load_recipe
from flawmap.data.dataset import GoodImages
from flawmap.data.images import Stored, decode_pixels, pixels_to_show, read_image, read_pixels, to_float, write_image
from flawmap.data.large import GoodTiles
from flawmap.data.layouts import Sample
from flawmap.data.pictures import pictures_of
from flawmap.data.real import RealDefects
from flawmap.data.scope import Scope
from flawmap.data.white import FULL_SCALE, White, at_white, likely_white, stated_white
from flawmap.errors import ConfigError, ImageError
from flawmap.train.white import settled_white

Array = np.ndarray[Any, np.dtype[Any]]
TWELVE = White(4095)
SCENE = np.random.default_rng(3).uniform(0.1, 1.0, (40, 56, 3))  # as light falls on a sensor


def stored(level: int, dtype: type = np.uint16, scene: Array = SCENE) -> Array:
    """The scene as a camera stores it."""
    return np.asarray(np.rint(scene * level), dtype)


def save(path: Path, pixels: Array) -> Path:
    write_image(path, pixels)
    return path


@pytest.mark.parametrize("level", [255, 1023, 4095, 16383, 65535])
@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_one_scene_is_read_alike_from_every_level(tmp_path: Path, level: int, suffix: str) -> None:
    photo = save(tmp_path / f"a.{suffix}", stored(level))
    assert np.abs(read_image(photo, White(level)) - SCENE).max() <= 0.5 / level + 1e-5
    pixels = read_pixels(photo, White(level))
    assert pixels.dtype == np.uint16
    assert np.array_equal(to_float(pixels), read_image(photo, White(level)))


def test_8_bits_are_read_to_the_bit_whatever_the_level(tmp_path: Path) -> None:
    photo = save(tmp_path / "a.png", stored(255, np.uint8))
    trained = White(4095, reach=0.9, trained=True)
    assert np.array_equal(read_pixels(photo, trained), read_pixels(photo))
    assert np.array_equal(read_image(photo, trained), stored(255, np.uint8).astype(np.float32) / np.float32(255))


def test_full_scale_is_read_to_the_bit_as_ever(tmp_path: Path) -> None:
    photo = save(tmp_path / "a.png", stored(65535))
    assert np.array_equal(read_pixels(photo, FULL_SCALE), stored(65535))


def test_grey_keeps_one_number_a_pixel(tmp_path: Path) -> None:
    pixels = read_pixels(save(tmp_path / "a.png", stored(4095)[:, :, 0]), TWELVE)
    assert pixels.strides[2] == 0
    assert np.abs(to_float(pixels)[:, :, 1] - SCENE[:, :, 0]).max() < 2e-4
    seen = np.broadcast_to(stored(4095)[:, :, :1], SCENE.shape)
    assert np.array_equal(at_white(seen, TWELVE, "x"), pixels)


@pytest.mark.parametrize("opaque", [4095, 65535])
def test_alpha_of_either_level_is_laid_over_black(tmp_path: Path, opaque: int) -> None:
    alpha = np.full(SCENE.shape[:2], opaque, np.uint16)
    alpha[:20] = 0
    photo = save(tmp_path / "a.png", np.dstack([stored(4095), alpha]))
    found = read_image(photo, TWELVE)
    assert not found[:20].any()
    assert np.abs(found[20:] - SCENE[20:]).max() < 2e-4


@pytest.mark.parametrize("opaque", [4095, 65535])
@pytest.mark.parametrize("kind", ["TIFF", "TIFF from white", "PAM", "PNG"])
def test_the_level_of_grey_with_alpha_is_applied_in_every_format(kind: str, opaque: int, tmp_path: Path) -> None:
    grey = np.linspace(0, 4095, 64 * 64).reshape(64, 64).astype(np.uint16)
    both = np.dstack([4095 - grey if kind == "TIFF from white" else grey, np.full_like(grey, opaque // 2)])
    path = tmp_path / "part"
    if kind == "PAM":
        head = b"P7\nWIDTH 64\nHEIGHT 64\nDEPTH 2\nMAXVAL 65535\nTUPLTYPE GRAYSCALE_ALPHA\nENDHDR\n"
        path.write_bytes(head + both.astype(">u2").tobytes())
    elif kind == "PNG":
        path.write_bytes(imagecodecs.png_encode(both))
    else:
        photometric = "miniswhite" if kind == "TIFF from white" else "minisblack"
        tifffile.imwrite(path, both, photometric=photometric, planarconfig="contig", extrasamples=["unassalpha"])
    shown = grey / np.float32(4095) * (opaque // 2) / opaque
    assert np.abs(read_image(path, White(4095)) - shown[:, :, None]).max() < 1e-4


def test_the_level_is_that_of_the_image_behind_a_preview(tmp_path: Path) -> None:
    grey = np.linspace(0, 4095, 64 * 64).reshape(64, 64).astype(np.uint16)
    path = tmp_path / "part.tif"
    with tifffile.TiffWriter(path) as file:
        file.write((grey[::4, ::4] >> 4).astype(np.uint8), subfiletype=1, metadata=None)
        file.write(4095 - grey, photometric="miniswhite", metadata=None, extratags=[(281, 3, 1, 4095, True)])
    assert np.abs(read_image(path) - (grey / np.float32(4095))[:, :, None]).max() < 1e-4


def tiff(pixels: Array, bits: int, order: str = "<", largest: int | None = None, large: bool = False) -> bytes:
    """A grey TIFF by hand: packed, or 16 bits; MaxSampleValue as given."""
    height, width = pixels.shape
    if bits == 16:
        data = pixels.astype(f"{order}u2").tobytes()
    else:
        rows = ["".join(format(int(value), f"0{bits}b") for value in row) for row in pixels]
        data = b"".join(
            int(row.ljust(-(-len(row) // 8) * 8, "0"), 2).to_bytes(-(-len(row) // 8), "big") for row in rows
        )
    data += b"\0" * (-len(data) % 8)
    start = 16
    tags = {256: width, 257: height, 258: bits, 259: 1, 262: 1, 273: start, 277: 1, 278: height, 279: len(data)}
    tags |= {} if largest is None else {281: largest}
    shape = ("Q", "HHQ", "Q") if large else ("H", "HHI", "I")
    entries = b""
    for tag, value in sorted(tags.items()):
        entries += struct.pack(order + shape[1], tag, 4 if tag in (273, 279) else 3, 1)
        field = struct.pack(order + ("I" if tag in (273, 279) else "H"), value)
        entries += field.ljust(struct.calcsize(order + shape[2]), b"\0")
    mark = b"II" if order == "<" else b"MM"
    head = mark + (
        struct.pack(order + "HHHQ", 43, 8, 0, start + len(data))
        if large
        else struct.pack(order + "HI", 42, start + len(data))
    )
    ifd = struct.pack(order + shape[0], len(tags)) + entries + struct.pack(order + shape[2], 0)
    return head.ljust(start, b"\0") + data + ifd


GREY = SCENE[:, :, 0]


@pytest.mark.parametrize("bits", [12])
@pytest.mark.parametrize("white", [FULL_SCALE, TWELVE, White(4095, 0.9, trained=True)])
def test_packed_samples_of_a_tiff_say_their_level(bits: int, white: White) -> None:
    found = decode_pixels(tiff(stored((1 << bits) - 1, scene=GREY), bits), "x", white)
    assert np.abs(to_float(found)[:, :, 0] - GREY).max() <= 1.6 / (1 << bits)


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("large", [False, True])
def test_max_sample_value_is_believed_where_it_is_a_level(order: str, large: bool) -> None:
    data = tiff(stored(4095, scene=GREY), 16, order, 4095, large)
    assert stated_white(data, 4095) == 4095
    if large and order == ">":
        return  # Pillow does not open it
    assert np.abs(to_float(decode_pixels(data, "x"))[:, :, 0] - GREY).max() < 2e-4
    trained = White(1023, 0.9, trained=True)
    assert np.array_equal(decode_pixels(data, "x", trained), decode_pixels(data, "x")), "the file wins"


@pytest.mark.parametrize("largest", [1023, 4000, 65535, 1, 0])
def test_max_sample_value_that_is_no_level_or_exceeded_is_not(largest: int) -> None:
    pixels = stored(4095, scene=GREY)
    found = decode_pixels(tiff(pixels, 16, largest=largest), "x")
    assert np.array_equal(found[:, :, 0], pixels)


def test_max_sample_value_of_each_channel_is_read() -> None:
    """Three values do not fit into the tag, which then says where they are."""
    tags = TiffImagePlugin.ImageFileDirectory_v2(prefix=b"II")
    tags[258], tags[281] = (16, 16, 16), (4095, 4095, 4095)
    assert stated_white(b"II*\0\x08\0\0\0" + tags.tobytes(8), 4000) == 4095


def test_sbit_of_a_png_never_rescales(tmp_path: Path) -> None:
    import zlib

    data = save(tmp_path / "a.png", stored(4095, scene=GREY)).read_bytes()
    body = b"sBIT" + bytes([12])
    chunk = struct.pack(">I", 1) + body + struct.pack(">I", zlib.crc32(body))
    found = decode_pixels(data[:33] + chunk + data[33:], "x")
    assert np.array_equal(found[:, :, 0], stored(4095, scene=GREY))


@pytest.mark.parametrize(
    ("head", "level"),
    [(b"P5\n8 4\n4095\n", 4095), (b"P6 # a camera\n 8 4 1023 ", 1023), (b"P5 8 4 65535\n", None), (b"P5", None)],
)
def test_the_maxval_of_pgm_and_ppm_is_believed_below_65535(head: bytes, level: int | None) -> None:
    assert stated_white(head, 1000) == level


def test_the_precision_of_jpeg_2000_is_believed_below_16_bits(tmp_path: Path) -> None:
    data = save(tmp_path / "a.jp2", stored(65535)).read_bytes()
    assert stated_white(data, 65535) is None
    at = data.find(b"\xff\x4f\xff\x51") + 42
    assert stated_white(data[:at] + bytes([11]) + data[at + 1 :], 4000) == 4095


@pytest.mark.parametrize("cut", [2, 8, 10, 300])
def test_a_header_cut_short_says_nothing(cut: int) -> None:
    assert stated_white(tiff(stored(4095, scene=GREY), 16, largest=4095)[:cut], 4000) is None
    assert stated_white(b"\xff\x4f\xff\x51"[:cut], 4000) is None


@pytest.mark.parametrize(
    ("largest", "level"),
    [
        (1023, 1023),
        (512, 1023),
        (511, 65535),
        (1024, 65535),
        (2048, 4095),
        (4096, 65535),
        (9000, 16383),
        (16384, 65535),
    ],
)
def test_the_level_is_the_smallest_that_is_not_exceeded_and_come_near(largest: int, level: int) -> None:
    assert likely_white(largest) == level


def test_a_photo_brighter_than_full_white_is_refused(tmp_path: Path) -> None:
    photo = save(tmp_path / "a.png", stored(16383))
    with pytest.raises(
        ImageError, match=r"a\.png: 16-bit pixels reach 16\d+, above the full white 4095 of image\.white"
    ):
        read_image(photo, TWELVE)
    with pytest.raises(ImageError, match=r"flawmap white BUNDLE 16383"):
        read_image(photo, White(4095, 0.5, trained=True))


@pytest.mark.parametrize(("level", "bits"), [(1023, 10), (4095, 12), (16383, 14)])
def test_a_photo_far_darker_than_training_photos_is_refused(tmp_path: Path, level: int, bits: int) -> None:
    photo = save(tmp_path / "a.png", stored(level))
    with pytest.raises(ImageError, match=rf"if they hold {bits} bits, say so once: flawmap white BUNDLE {level}"):
        read_image(photo, White(65535, reach=0.8, trained=True))


def test_a_photo_as_dark_as_training_photos_is_read(tmp_path: Path) -> None:
    photo = save(tmp_path / "a.png", stored(4095))
    assert read_image(photo, White(65535, reach=0.08, trained=True)).max() < 0.07


def test_one_hot_pixel_does_not_make_a_dark_photo_bright() -> None:
    pixels = stored(4095, scene=np.full((80, 80), 0.5))
    pixels[3, 4] = 4095
    with pytest.raises(ImageError, match="12 bits"):
        at_white(pixels, White(65535, reach=0.5, trained=True), "x")


def test_pictures_to_look_at_are_bright_whatever_the_level(tmp_path: Path) -> None:
    for level in (1023, 4095, 65535):
        data = save(tmp_path / "a.png", stored(level)).read_bytes()
        for known in (None, 4095):
            shown = to_float(pixels_to_show(data, "x", known))
            assert shown.mean() == pytest.approx(SCENE.mean(), abs=0.01) or (level == 1023 and known == 4095)


def photos(folder: Path, levels: list[int], bright: float = 1.0, dtype: type = np.uint16) -> list[Path]:
    folder.mkdir(exist_ok=True)
    return [save(folder / f"{i}.png", stored(level, dtype, SCENE * bright)) for i, level in enumerate(levels)]


def settle(
    settings: ImageSettings, good: list[Path], others: list[Path] | None = None
) -> tuple[int | str, Any, list[str]]:
    said: list[str] = []
    found, facts = settled_white(settings, good, others or [], say=said.append)
    return found.white, facts, said


def test_auto_takes_the_level_of_the_training_photos_and_says_so(tmp_path: Path) -> None:
    white, facts, (line,) = settle(ImageSettings(), photos(tmp_path, [4095, 4095, 4095]))
    assert white == 4095
    assert line.startswith("3 photos have 16 bits and no pixel above 40")
    assert line.endswith(": taken for 12 bits, full white is 4095 (image.white)")
    assert facts["level"] == 4095
    assert facts["photos"] == 3
    assert 0.95 < facts["reach"] <= 1


def test_one_photo_above_decides(tmp_path: Path) -> None:
    white, _, (line, dark) = settle(ImageSettings(), photos(tmp_path, [65535, 65535, 4095]))
    assert white == 65535
    assert "full white is 65535" in line
    assert dark.startswith("1 of the photos with 16 bits, as 2.png, are less than half as bright as most")
    defects = photos(tmp_path / "bad", [16383])
    assert settle(ImageSettings(), photos(tmp_path, [4095, 4095]), defects)[0] == 16383


@pytest.mark.parametrize(("level", "hot", "taken"), [(4095, 65535, 65535), (1023, 2500, 4095), (1023, 1100, 65535)])
def test_a_hot_pixel_that_decides_alone_is_named(level: int, hot: int, taken: int, tmp_path: Path) -> None:
    good = photos(tmp_path, [level] * 11)
    pixels = stored(level)
    pixels[2, 3] = hot
    good.append(save(tmp_path / "hot.png", pixels))
    white, _, said = settle(ImageSettings(), good)
    assert white == taken, "the rule stays"
    (line,) = [line for line in said if "hot.png" in line]
    assert f"11 of 12 photos with 16 bits stay below {level + 1}; hot.png alone reaches {hot}" in line
    assert f"image.white={level}" in line and "correct or remove it" in line
    white, _, said = settle(ImageSettings(), good[:11], [good[11]])
    assert white == taken and any("hot.png alone" in line for line in said), "also among defective ones"
    assert not any("alone" in line for line in settle(ImageSettings(white=level), good)[2]), "nothing to decide"


def test_no_photo_is_named_where_the_level_is_not_decided_by_few(tmp_path: Path) -> None:
    for levels, bright in (([4095] * 8 + [65535] * 2, 1.0), ([4095] * 11 + [65535], 0.4), ([4095] * 12, 1.0)):
        _, _, said = settle(ImageSettings(), photos(tmp_path, levels, bright=bright))
        assert not any("stay below" in line for line in said), levels


def test_dark_photos_are_full_scale_and_that_is_said(tmp_path: Path) -> None:
    white, _, (line,) = settle(ImageSettings(), photos(tmp_path, [4095], bright=0.4))
    assert white == 65535
    assert "too dark to tell their level: full white is 65535; if they hold 12 bits, as 0 to 4095" in line


def test_8_bits_settle_and_say_nothing(tmp_path: Path) -> None:
    white, facts, said = settle(ImageSettings(), photos(tmp_path, [255] * 3, bright=0.6, dtype=np.uint8))
    assert (white, said) == ("auto", [])
    assert facts == {"level": 65535, "photos": 0, "largest": 0, "reach": pytest.approx(0.6, abs=0.02)}


def test_dark_12_bits_among_8_bits_are_told(tmp_path: Path) -> None:
    good = [*photos(tmp_path, [255] * 3, dtype=np.uint8), *photos(tmp_path / "deep", [4095], bright=0.4)]
    _, _, said = settle(ImageSettings(), good)
    assert "are less than half as bright as most" in said[1]


def test_files_that_state_their_level_settle_nothing(tmp_path: Path) -> None:
    photo = tmp_path / "a.tif"
    photo.write_bytes(tiff(stored(4095, scene=GREY), 16, largest=4095))
    white, facts, said = settle(ImageSettings(), [photo])
    assert (white, said) == ("auto", [])
    assert facts["reach"] > 0.9


def test_a_stated_level_stays_and_a_wrong_one_is_told(tmp_path: Path) -> None:
    good = photos(tmp_path, [4095, 4095])
    assert settle(ImageSettings(white=4095), good)[0] == 4095
    white, _, (line,) = settle(ImageSettings(white=65535), good)
    assert white == 65535
    assert "if they hold 12 bits" in line


def test_a_broken_photo_is_left_to_who_reads_it(tmp_path: Path) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"\x89PNG\r\n\x1a\n")
    assert settle(ImageSettings(), [*photos(tmp_path, [4095]), broken, tmp_path / "missing.png"])[0] == 4095


def test_the_setting_is_auto_or_a_level() -> None:
    assert load_recipe("fast").image.white == "auto"
    assert load_recipe("fast", ["image.white=4095"]).image.white == 4095
    for wrong in ("254", "65536", "true", "4095.5", "bright", "70000", "0", "-1", "Auto", "[4095]"):
        with pytest.raises(ConfigError) as raised:
            load_recipe("fast", [f"image.white={wrong}"])
        message = str(raised.value)
        assert message.startswith(
            f"--set image.white={wrong}: image.white: expected 'auto' or a whole number from 255 to "
        )
        assert "65535, not " in message and "literal" not in message
    with pytest.raises(
        ConfigError, match=r"^--set image\.size=9: image\.size: expected 'given', 'auto', 'measured' or "
    ):
        load_recipe("fast", ["image.size=9"])


def test_a_wrong_level_in_a_file_names_the_file(tmp_path: Path) -> None:
    (tmp_path / "own.toml").write_text("[image]\nwhite = 70000\n")
    with pytest.raises(ConfigError, match=r"own\.toml: image\.white: expected 'auto' or a whole number"):
        load_recipe(tmp_path / "own.toml", ["image.height=64"])


def test_every_way_into_a_training_reads_the_level(tmp_path: Path) -> None:
    settings = ImageSettings(height=32, width=48, white=4095)
    (photo,) = photos(tmp_path, [4095])
    mean = SCENE.mean()
    assert float(GoodImages([photo], settings).get([0]).mean()) == pytest.approx(mean, abs=0.02)
    tiled = settings.model_copy(update={"policy": "tile"})
    for disk in (10**9, 0):  # from the scratch file, and decoded anew
        tiles = GoodTiles([photo], tiled, Scope(tiled), tmp_path, disk)
        assert to_float(tiles.window(0, 0, 0, 32, 48)).mean() == pytest.approx(mean, abs=0.02)
    for one in (settings, tiled):
        ((picture, _), *_) = pictures_of(photo, one, Scope(one))
        assert float(picture.mean()) == pytest.approx(mean, abs=0.02)
    mask = save(tmp_path / "mask.png", np.pad(np.full((4, 4), 255, np.uint8), ((10, 26), (10, 42))))
    real = RealDefects([Sample(photo, "test", True, "bad", mask)], settings, Scope(settings))
    assert real.images[0].mean() == pytest.approx(mean, abs=0.02)


def test_pillow_and_opencv_agree_on_what_was_saved(tmp_path: Path) -> None:
    """A 16-bit TIFF of a camera's program, not of OpenCV."""
    Pillow.fromarray(stored(4095, scene=GREY)).save(tmp_path / "a.tif")
    found: Stored = read_pixels(tmp_path / "a.tif", TWELVE)
    assert np.abs(to_float(found)[:, :, 0] - GREY).max() < 2e-4


def from_white(level: int, largest: int = 0, order: str = "<") -> bytes:
    """The grey scene as film is digitised: 0 is white, `level` black."""
    data = bytearray(tiff(level - stored(level, scene=GREY), 16, order, largest))
    kind = data.find(struct.pack(order + "HHI", 262, 3, 1)) + 8
    data[kind : kind + 2] = bytes(2)
    return bytes(data)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("level", [1023, 4095, 16383, 65535])
def test_what_counts_from_white_is_turned_about_its_own_white(level: int, order: str) -> None:
    data = from_white(level, order=order)
    found = to_float(decode_pixels(data, "x", White(level)))
    assert np.abs(found[:, :, 1] - GREY).max() <= 0.5 / level + 1e-5
    assert np.abs(to_float(pixels_to_show(data, "x"))[:, :, 1] - GREY).max() <= 0.5 / level + 1e-5


def test_a_level_stated_by_a_file_that_counts_from_white_is_believed() -> None:
    found = to_float(decode_pixels(from_white(4095, largest=4095), "x"))
    assert np.abs(found[:, :, 1] - GREY).max() < 2e-4


def test_the_level_of_what_counts_from_white_is_told_by_its_darkest_pixel(tmp_path: Path) -> None:
    for number in range(3):
        (tmp_path / f"{number}.tif").write_bytes(from_white(4095))
    lines: list[str] = []
    settings, facts = settled_white(ImageSettings(white="auto"), sorted(tmp_path.iterdir()), say=lines.append)
    assert settings.white == 4095 and "taken for 12 bits, full white is 4095" in lines[0]
    assert facts["reach"] == pytest.approx(np.quantile(GREY, 0.999), abs=0.01)


def test_what_counts_from_white_at_another_level_than_the_bundle_is_refused() -> None:
    data = from_white(4095)
    with pytest.raises(ImageError, match=r"above the full white 1023 that .* flawmap white BUNDLE 4095"):
        decode_pixels(data, "x", White(1023, 0.9, trained=True))
    with pytest.raises(ImageError, match=r"nearly white: if they hold 12 bits, say so once: flawmap white BUNDLE 4095"):
        decode_pixels(data, "x", White(65535, 0.9, trained=True))
