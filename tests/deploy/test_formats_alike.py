"""One photo in every format without loss gets one score, from every command that takes photos, and trains one model."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from pathlib import Path

import imagecodecs
import numpy as np
import pydicom
import pytest
import torch
from command_helpers import run, succeed
from deploy_helpers import TINY

from flawmap.bundle import load_bundle
from flawmap.config import load_recipe
from flawmap.data.images import read_pixels
from flawmap.data.layouts import read_layout
from flawmap.model.discrete import DiscreteModel
from flawmap.train.run import train


def ppm(rgb: np.ndarray, white: int) -> bytes:
    values = np.rint(rgb / 255 * white).astype(np.uint8 if white < 256 else ">u2")
    return b"P6\n%d %d\n%d\n" % (*rgb.shape[1::-1], white) + values.tobytes()


def dicom(rgb: np.ndarray) -> bytes:
    file = pydicom.Dataset()
    file.file_meta = pydicom.dataset.FileMetaDataset()
    file.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    file.file_meta.MediaStorageSOPClassUID = pydicom.uid.SecondaryCaptureImageStorage
    file.file_meta.MediaStorageSOPInstanceUID = "1.2.3"
    file.Rows, file.Columns = rgb.shape[:2]
    file.SamplesPerPixel, file.PlanarConfiguration, file.PhotometricInterpretation = 3, 0, "RGB"
    file.BitsAllocated, file.BitsStored, file.HighBit, file.PixelRepresentation = 8, 8, 7, 0
    file.PixelData = rgb.tobytes()
    buffer = io.BytesIO()
    pydicom.dcmwrite(buffer, file, enforce_file_format=True)
    return buffer.getvalue()


def jp2(rgb: np.ndarray, bits: int = 8) -> bytes:
    values = rgb if bits == 8 else np.rint(rgb / 255 * ((1 << bits) - 1)).astype(np.uint16)
    return bytes(imagecodecs.jpeg2k_encode(values, level=0, codecformat="jp2", bitspersample=bits))


WAYS: dict[str, Callable[[np.ndarray], bytes]] = {
    "8.ppm": lambda rgb: ppm(rgb, 255), "12.ppm": lambda rgb: ppm(rgb, 4095), "10.PNM": lambda rgb: ppm(rgb, 1023),
    "8.jp2": jp2, "12.jp2": lambda rgb: jp2(rgb, 12), "8.dcm": dicom, "IM1": dicom, "no-suffix": jp2,
}  # fmt: skip


@pytest.fixture
def photos(metal: Path, tmp_path: Path) -> Path:
    """One defective photo, as PNG and in other ways."""
    file = next((metal / "test" / "crack").glob("*.png"), None) or next((metal / "test").glob("[!g]*/*.png"))
    rgb = np.ascontiguousarray(read_pixels(file)[:, :, ::-1])
    folder = tmp_path / "photos"
    folder.mkdir()
    (folder / "0.png").write_bytes(file.read_bytes())
    for name, write in WAYS.items():
        (folder / name).write_bytes(write(rgb))
    return folder


def test_a_photo_scores_alike_in_every_format(trained: Path, photos: Path, tmp_path: Path) -> None:
    succeed("inspect", trained, photos, "--out", tmp_path / "found")
    with (tmp_path / "found" / "results.csv").open(newline="", encoding="utf-8") as file:
        scores = {Path(row["image"]).name: float(row["score"]) for row in csv.DictReader(file)}
    assert set(scores) == {"0.png", *WAYS}
    for name, score in scores.items():
        exact = name.startswith(("8", "IM1", "no"))
        assert score == (scores["0.png"] if exact else pytest.approx(scores["0.png"], abs=1e-3)), name


@pytest.mark.parametrize("command", ["check", "suspects"])
def test_other_commands_take_them_too(trained: Path, photos: Path, command: str) -> None:
    if command == "suspects":  # to learn from, images are found by their suffix
        (photos / "no-suffix").unlink()
    result = run("check", trained, photos) if command == "check" else run("suspects", photos)
    assert "failed" not in result.output.replace("0 failed", "") and "passed over" not in result.output
    if command == "check":
        assert f"of {len(WAYS) + 1} photos" in result.output


def test_training_on_them_is_training_on_png(metal: Path, tmp_path: Path) -> None:
    """The photos of one folder in four formats of 8 bits, and of another as PNG: the same weights."""
    recipe = load_recipe(TINY, ["refine.steps=0", "model.norm=batch", "model.discrete_width=16"])
    bundles = []
    for kind in ("png", "other"):
        folder = tmp_path / kind / "good"
        folder.mkdir(parents=True)
        for number, file in enumerate(sorted((metal / "train" / "good").glob("*.png"))):
            rgb = np.ascontiguousarray(read_pixels(file)[:, :, ::-1])
            suffix, write = [("ppm", WAYS["8.ppm"]), ("jp2", jp2), ("dcm", dicom), ("j2k", jp2)][number % 4]
            name, data = (f"{number:03}.{suffix}", write(rgb)) if kind == "other" else (file.name, file.read_bytes())
            (folder / name).write_bytes(data)
        bundles.append(tmp_path / f"{kind}.bundle")
        with torch.random.fork_rng():
            torch.manual_seed(0)
            general = DiscreteModel(width=16, hidden=4, codes=32, code_length=8)
        train(read_layout(tmp_path / kind), recipe, bundles[-1], general=general, quiet=True)
    png, other = (load_bundle(bundle) for bundle in bundles)
    mine = dict(other.model.state_dict())
    assert all(torch.equal(value, mine[name]) for name, value in png.model.state_dict().items())
    assert png.threshold == other.threshold
