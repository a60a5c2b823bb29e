"""DICOM and DICONDE: white at BitsStored, dark and bright the right way round, or one line with the real reason."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pydicom
import pytest
from PIL import Image as Pillow

from flawmap.data.filekinds import kind_of
from flawmap.data.formats import dicom as reader
from flawmap.data.images import brightness_of, decode_image, decode_pixels, header_of, read_image, read_shape, remarks
from flawmap.data.layouts import gather, read_layout
from flawmap.data.white import White
from flawmap.errors import ImageError

Array = np.ndarray[Any, np.dtype[Any]]
SAMPLES = Path(pydicom.__file__).parent / "data" / "test_files"  # shipped with pydicom
VALUES = np.random.default_rng(0).integers(0, 4096, (20, 30)).astype(np.uint16)
SCENE = np.repeat((VALUES / 4095)[:, :, None], 3, 2)
LITTLE = pydicom.uid.ExplicitVRLittleEndian


def dicom(pixels: Array, bits: int, interpretation: str = "MONOCHROME2", **tags: Any) -> bytes:
    """A DICOM file of (H, W) or (H, W, 3), RGB; `syntax`, `preamble`, `kind` and elements may be given."""
    file = pydicom.Dataset()
    file.file_meta = pydicom.dataset.FileMetaDataset()
    file.file_meta.TransferSyntaxUID = tags.pop("syntax", LITTLE)
    file.file_meta.MediaStorageSOPClassUID = tags.pop("kind", pydicom.uid.SecondaryCaptureImageStorage)
    file.file_meta.MediaStorageSOPInstanceUID = "1.2.3"
    file.preamble = tags.pop("preamble", bytes(128))
    file.Rows, file.Columns = pixels.shape[:2]
    file.SamplesPerPixel = 1 if pixels.ndim == 2 else 3
    file.PhotometricInterpretation = interpretation
    file.BitsAllocated, file.BitsStored, file.HighBit = pixels.itemsize * 8, bits, bits - 1
    file.PixelRepresentation = int(pixels.dtype.kind == "i")
    if pixels.ndim == 3:
        file.PlanarConfiguration = 0
    file.PixelData = pixels.tobytes()
    for name, value in tags.items():
        setattr(file, name, value)
    buffer = io.BytesIO()
    pydicom.dcmwrite(buffer, file, enforce_file_format=True)
    return buffer.getvalue()


def packed(pixels: Array, bits: int, frame: bytes, syntax: str, **tags: Any) -> bytes:
    """The same with compressed pixels."""
    return dicom(pixels, bits, syntax=pydicom.uid.UID(syntax), PixelData=pydicom.encaps.encapsulate([frame]), **tags)


def reason(data: bytes) -> str:
    with pytest.raises(ImageError) as caught:
        decode_pixels(data, "x")
    message = str(caught.value)
    assert message.startswith("x: ") and "\n" not in message
    return message


def test_white_is_at_the_stored_bits_and_turned_where_the_file_says_so() -> None:
    assert np.allclose(decode_image(dicom(VALUES, 12), "x"), SCENE, atol=1e-5)
    assert np.allclose(decode_image(dicom(VALUES, 12, "MONOCHROME1"), "x"), 1 - SCENE, atol=1e-5)
    falling = dict(RescaleSlope="-1", RescaleIntercept="4095")
    assert np.allclose(decode_image(dicom(VALUES, 12, **falling), "x"), 1 - SCENE, atol=1e-5)
    assert np.allclose(decode_image(dicom(VALUES, 12, "MONOCHROME1", **falling), "x"), SCENE, atol=1e-5)
    rising = dicom(VALUES, 12, RescaleSlope="2.5", RescaleIntercept="-1024")
    assert np.allclose(decode_image(rising, "x"), SCENE, atol=1e-5), "another unit"
    signed = (VALUES.astype(int) - 2048).astype(np.int16)
    assert np.allclose(decode_image(dicom(signed, 12), "x"), SCENE, atol=1e-5)
    colour = np.random.default_rng(1).integers(0, 256, (20, 30, 3)).astype(np.uint8)
    assert np.array_equal(decode_pixels(dicom(colour, 8, "RGB"), "x"), colour[:, :, ::-1])
    for bits in (1, 6, 8, 10, 14):
        few = VALUES >> 12 - bits if bits < 12 else VALUES << bits - 12
        found = decode_image(dicom(few, bits), "x", White(1023))
        assert np.abs(found[:, :, 0] - few / ((1 << bits) - 1)).max() < (2e-3 if bits <= 8 else 1e-5), bits


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("high", [11, 13, 15])
def test_bits_below_the_stored_ones_are_left_out(high: int, signed: bool) -> None:
    stored = (VALUES.astype(int) - 2048).astype(np.int16) if signed else VALUES
    shifted = stored << (high - 11)
    noisy = shifted | ((1 << high - 11) - 1)
    for values in (shifted, noisy):
        assert np.allclose(decode_image(dicom(values, 12, HighBit=high), "x"), SCENE, atol=1e-5)
    dark = dicom(shifted, 12, "MONOCHROME1", HighBit=high)
    assert np.allclose(decode_image(dark, "x"), 1 - SCENE, atol=1e-5)
    rle = pydicom.dcmread(io.BytesIO(dicom(shifted, 12, HighBit=high)))
    rle.compress(pydicom.uid.RLELossless)
    buffer = io.BytesIO()
    rle.save_as(buffer)
    assert np.allclose(decode_image(buffer.getvalue(), "x"), SCENE, atol=1e-5)
    eight = dicom((VALUES >> 4).astype(np.uint8) & 0xF0, 4, HighBit=7)
    assert np.abs(decode_image(eight, "x")[:, :, 0] - (VALUES >> 8) / 15).max() < 2e-3


def test_bits_below_the_stored_ones_are_left_out_of_compressed_pixels_too() -> None:
    frame = imagecodecs.jpegls_encode(VALUES << 4)
    assert np.allclose(decode_image(packed(VALUES, 12, frame, LS, HighBit=15), "x"), SCENE, atol=1e-5)
    plain = imagecodecs.jpegls_encode(VALUES)  # its own bits say where they lie
    assert np.allclose(decode_image(packed(VALUES, 12, plain, LS, HighBit=15), "x"), SCENE, atol=1e-5)


@pytest.mark.parametrize("high", [8, 10, 16, 40])
def test_a_high_bit_that_leaves_no_room_is_damage(high: int) -> None:
    assert f"its high bit {high} does not suit 12 of 16 bits" in reason(dicom(VALUES, 12, HighBit=high))


def test_values_above_the_stored_bits_are_damage_and_a_carried_sign_is_none() -> None:
    for bits in (10, 11):
        assert f"its values exceed the {bits} bits that it states" in reason(dicom(VALUES, bits))
    assert "its values exceed the 12 bits" in reason(dicom(VALUES | 0x8000, 12))
    assert "its values exceed the 6 bits" in reason(dicom((VALUES >> 4).astype(np.uint8), 6))
    assert "its values exceed the 10 bits" in reason(dicom(VALUES << 2, 10, HighBit=11))
    signed = (VALUES.astype(int) - 2048).astype(np.int16)
    for cells in (signed, signed & 0x0FFF):  # the sign carried into the unused bits, or not
        assert np.allclose(decode_image(dicom(cells, 12), "x"), SCENE, atol=1e-5)
    assert "its values exceed the 11 bits" in reason(dicom(signed, 11))


def test_drawings_in_unused_bits_are_left_out() -> None:
    """As older files have them: the overlay says in which bit it lies."""
    data = pydicom.dcmread(io.BytesIO(dicom(VALUES | 0x8000, 12)))
    data.add_new((0x6000, 0x0102), "US", 15)
    buffer = io.BytesIO()
    data.save_as(buffer)
    assert np.allclose(decode_image(buffer.getvalue(), "x"), SCENE, atol=1e-5)


def test_the_shape_inverse_turns_dark_and_bright_round_once() -> None:
    """MONOCHROME1 asks for it, and means the same thing by it."""
    shape = dict(PresentationLUTShape="INVERSE")
    assert np.allclose(decode_image(dicom(VALUES, 12, **shape), "x"), 1 - SCENE, atol=1e-5)
    assert np.allclose(decode_image(dicom(VALUES, 12, "MONOCHROME1", **shape), "x"), 1 - SCENE, atol=1e-5)
    assert np.allclose(decode_image(dicom(VALUES, 12, PresentationLUTShape="IDENTITY"), "x"), SCENE, atol=1e-5)
    turned = dicom(VALUES, 16, **shape)
    assert np.allclose(decode_image(turned, "x", White(4095)), 1 - SCENE, atol=1e-5)
    colour = np.random.default_rng(1).integers(0, 256, (20, 30, 3)).astype(np.uint8)
    assert np.array_equal(decode_pixels(dicom(colour, 8, "RGB", **shape), "x"), colour[:, :, ::-1])


@pytest.mark.parametrize("turned", [False, True])
def test_16_stored_bits_say_nothing_of_white(turned: bool) -> None:
    """Cameras with 12 bits state 16, as the container has."""
    data = dicom(VALUES, 16, "MONOCHROME1" if turned else "MONOCHROME2")
    assert brightness_of(data, "x").largest == VALUES.max()
    want = 1 - SCENE if turned else SCENE
    assert np.allclose(decode_image(data, "x", White(4095)), want, atol=1e-5)
    with pytest.raises(ImageError, match=r"above the full white 1023 of image\.white"):
        decode_image(data, "x", White(1023))
    assert brightness_of(dicom(VALUES, 12), "x").largest is None


def test_signed_values_that_use_few_levels_are_told() -> None:
    remarks()
    decode_pixels((SAMPLES / "CT_small.dcm").read_bytes(), "x")
    assert remarks() == [
        "x: signed values that use few of their 65536 levels, so that it is nearly grey; save it unsigned"
    ]
    signed = (VALUES.astype(int) - 2048).astype(np.int16)
    decode_pixels(dicom(signed, 12), "x")
    decode_pixels(dicom(signed * 16, 16), "x")
    assert not remarks()


def test_it_is_read_wherever_images_are(tmp_path: Path) -> None:
    for name in ("a.dcm", "B.DCM", "c.dicom", "IM000001", "1.2.840.10008.77"):
        (tmp_path / name).write_bytes(dicom(VALUES, 12))
        assert read_shape(tmp_path / name) == (20, 30)
    assert header_of(dicom(VALUES, 12), "x") == ("DICOM", 30, 20)
    (tmp_path / "README").write_text("words")
    listing = read_layout(tmp_path)
    assert len(listing.samples) == 5 and not listing.passed_over
    assert len(gather([tmp_path]).images) == 5


def test_directories_and_reports_of_a_disc_are_passed_over(tmp_path: Path) -> None:
    (tmp_path / "IM000001").write_bytes(dicom(VALUES, 12))
    for name, number in (("DICOMDIR", "1.2.840.10008.1.3.10"), ("SR000001", "1.2.840.10008.5.1.4.1.1.88.11")):
        (tmp_path / name).write_bytes(dicom(VALUES, 12, kind=number))
        assert kind_of(tmp_path / name) == ("DICOM file without a picture", "document")
    assert [path.name for path in gather([tmp_path]).images] == ["IM000001"]
    assert [sample.image.name for sample in read_layout(tmp_path).samples] == ["IM000001"]
    assert "among them a DICOM file without a picture" in "\n".join(read_layout(tmp_path).notes)


def test_a_file_that_also_begins_as_a_tiff_is_read_as_dicom() -> None:
    for start in (b"II*\0\x08\0\0\0", b"MM\0*\0\0\0\x08"):
        assert np.allclose(decode_image(dicom(VALUES, 12, preamble=start.ljust(128, b"\0")), "x"), SCENE, atol=1e-5)
    assert read_image(SAMPLES / "CT_small.dcm").shape == (128, 128, 3)


LS, LOSSLESS = (f"1.2.840.10008.1.2.4.{number}" for number in (80, 70))


@pytest.mark.parametrize("bits", [8, 12, 16])
@pytest.mark.parametrize("signed", [False, True])
def test_jpeg_ls_and_lossless_jpeg_are_read_by_the_extra(bits: int, signed: bool) -> None:
    unsigned = (VALUES >> 4).astype(np.uint8) if bits == 8 else (VALUES if bits == 12 else VALUES * 16)
    lowest = -(1 << bits - 1) if signed else 0
    values = (unsigned.astype(int) + lowest).astype(f"{'i' if signed else 'u'}{unsigned.itemsize}")
    want = decode_pixels(dicom(values, bits), "x")
    stored = (values.astype(int) & ((1 << bits) - 1)).astype(unsigned.dtype)
    frames = {
        LS: imagecodecs.jpegls_encode(stored),
        LOSSLESS: imagecodecs.jpeg8_encode(stored, lossless=True, bitspersample=bits),
    }
    for syntax, frame in frames.items():
        assert np.array_equal(decode_pixels(packed(values, bits, frame, syntax), "x"), want), syntax


def test_compressions_of_real_files_give_the_pixels_of_the_uncompressed_ones() -> None:
    want = decode_pixels((SAMPLES / "MR_small.dcm").read_bytes(), "x")
    for name in ("RLE", "jp2klossless", "jpeg_ls_lossless", "bigendian", "implicit", "padded"):
        assert np.array_equal(decode_pixels((SAMPLES / f"MR_small_{name}.dcm").read_bytes(), "x"), want), name
    plain = decode_pixels((SAMPLES / "SC_rgb_rle.dcm").read_bytes(), "x")
    assert np.array_equal(decode_pixels((SAMPLES / "SC_rgb_jpeg_gdcm.dcm").read_bytes(), "x"), plain)


def jpeg(pixels: Array) -> bytes:
    buffer = io.BytesIO()
    Pillow.fromarray(pixels).save(buffer, "JPEG", quality=95)
    return buffer.getvalue()


def test_a_jpeg_inside_with_a_piece_missing_is_damaged() -> None:
    grey = np.asarray(Pillow.fromarray((VALUES >> 4).astype(np.uint8)).resize((300, 200)))
    whole, syntax = jpeg(grey), "1.2.840.10008.1.2.4.50"
    assert np.abs(decode_image(packed(grey, 8, whole, syntax), "x")[:, :, 0] - grey / 255).max() < 0.1
    half = whole[: len(whole) // 2] + whole[len(whole) // 2 + 900 :]
    assert "the image is damaged" in reason(packed(grey, 8, half, syntax))
    for other in (LS, LOSSLESS, "1.2.840.10008.1.2.4.90"):
        assert "its compressed pixels cannot be decoded" in reason(packed(grey, 8, b"\xff\xd8no pixels at all", other))


@pytest.mark.parametrize("predictor", range(1, 8))
@pytest.mark.parametrize("channels", [1, 3])
def test_lossless_jpeg_inside_is_damaged_where_its_bits_are_not_those_of_its_pixels(
    predictor: int, channels: int
) -> None:
    rng = np.random.default_rng(predictor)
    shape = (70, 90) if channels == 1 else (70, 90, 3)
    smooth = Pillow.fromarray(rng.integers(0, 256, (5, 7), np.uint8)).resize((90, 70))
    steps = rng.integers(-3, 4, shape)
    grey = np.clip(np.asarray(smooth).reshape(70, 90, *[1] * (channels == 3)).astype(int) + steps, 0, 255)
    pixels = grey.astype(np.uint8)
    frame = imagecodecs.jpeg8_encode(pixels, lossless=True, predictor=predictor)
    kind = "MONOCHROME2" if channels == 1 else "RGB"
    whole = packed(pixels, 8, frame, LOSSLESS, interpretation=kind)
    assert np.array_equal(decode_pixels(whole, "x"), decode_pixels(dicom(pixels, 8, kind), "x"))
    for number in range(20):
        at = int(rng.integers(300, len(frame) - 300))
        for broken in (frame[:at] + bytes(200) + frame[at + 200 :], frame[:at] + frame[at + 100 :], frame[:at]):
            assert "the image is" in reason(packed(pixels, 8, broken, LOSSLESS, interpretation=kind)), number


def test_what_is_not_read_is_told() -> None:
    grey = (VALUES >> 4).astype(np.uint8)
    assert "it holds 5 images; save each as a file of its own" in reason(dicom(grey, 8, NumberOfFrames="5"))
    assert "it holds 2 images" in reason((SAMPLES / "SC_rgb_rle_2frame.dcm").read_bytes())
    assert "with a palette; save it as PNG or TIFF" in reason((SAMPLES / "examples_palette.dcm").read_bytes())
    assert "with more than 16 bits; save it as PNG or TIFF" in reason((SAMPLES / "rtdose_1frame.dcm").read_bytes())
    assert "a DICOM file without a picture of integers" in reason((SAMPLES / "reportsi.dcm").read_bytes())
    assert "the image is truncated" in reason((SAMPLES / "MR_truncated.dcm").read_bytes())
    assert "a DICOM file without its preamble" in reason(dicom(grey, 8)[132:])
    words = "compressed by JPEG Extended (Process 2 and 4) of 12 bits, which is not read; save it without compression"
    assert words in reason((SAMPLES / "JPGExtended.dcm").read_bytes())
    video = packed(grey, 8, b"\0\0\0\1" * 9, "1.2.840.10008.1.2.4.102")
    assert "compressed by MPEG-4 AVC/H.264 High Profile / Level 4.1, which is not read; save it without" in reason(
        video
    )


def test_its_size_is_bounded_before_pixels_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    grey = (VALUES >> 4).astype(np.uint8)
    assert "60000x60000 is over the limit of 200000000 pixels" in reason(dicom(grey, 8, Rows=60000, Columns=60000))
    assert "is truncated" in reason(dicom(grey, 8, Rows=9000, Columns=9000))
    deflated = dicom(np.zeros((900, 900), np.uint8), 8, syntax=pydicom.uid.DeflatedExplicitVRLittleEndian)
    assert decode_pixels(deflated, "x").shape == (900, 900, 3)
    monkeypatch.setattr(reader, "MOST_UNPACKED", 100_000)
    assert "very large once unpacked; save it without compression" in reason(deflated)
    assert len(zlib.compress(bytes(900 * 900))) < len(deflated) < 9000


def test_its_elements_are_counted_with_a_bound() -> None:
    data = dicom((VALUES >> 4).astype(np.uint8), 8)
    at = data.find(b"\x28\0\x02\0US")  # an empty element takes 8 bytes
    many = b"".join(struct.pack("<HH2sH", 9, 0x1000 + number, b"LO", 0) for number in range(reader.MAX_ELEMENTS))
    assert "with more than 20000 elements; save it anew" in reason(data[:at] + many + data[at:])
    assert np.array_equal(decode_pixels(data[:at] + many[:8000] + data[at:], "x"), decode_pixels(data, "x"))


def test_without_the_extra_its_name_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    data = dicom(VALUES, 12)
    monkeypatch.setattr(reader, "find_spec", lambda _: None)
    assert reason(data) == "x: a DICOM file; install what reads it: pip install 'flawmap[formats]'"
    with pytest.raises(ImageError, match=r"pip install 'flawmap\[formats\]'"):
        header_of(data, "x")
