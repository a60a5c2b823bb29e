"""Commands tell what they pass over, and end with 2 where images are among it."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from command_helpers import run
from PIL import Image

import flawmap


def test_inspect_and_check_try_any_image_and_tell_the_rest(trained: Path, metal: Path, tmp_path: Path) -> None:
    good = sorted((metal / "test" / "good").glob("*.png"))
    for photo, name in zip(good, ("a.png", "none", "b.scan"), strict=False):
        shutil.copy(photo, tmp_path / name)
    (tmp_path / "notes.txt").write_text("words")
    for command in ("inspect", "check"):
        result = run(command, trained, tmp_path)
        assert result.exit_code == 0, result.output
        assert f"passed over 1 files that are no images: {tmp_path / 'notes.txt'}" in result.stdout.splitlines()
    assert "3 good, 0 failed" in run("inspect", trained, tmp_path).stdout.replace("0 defective, ", "")
    (tmp_path / ".cam2").mkdir()
    shutil.copy(good[3], tmp_path / ".cam2" / "c.png")
    for command in ("inspect", "check"):
        result = run(command, trained, tmp_path)
        assert result.exit_code == 2
        assert "1 images were passed over, as they are hidden" in result.stderr
        assert str(tmp_path / ".cam2" / "c.png") in result.stderr
    (tmp_path / "p.pgm").write_bytes(b"P5\n1 1\n9999999\n")
    result = run("inspect", trained, tmp_path, "--out", tmp_path / "out")
    assert result.exit_code == 2 and "p.pgm" in result.stderr
    result = run("inspect", trained, tmp_path, "--out", tmp_path / "out", "--overwrite")
    told = [line for line in result.stdout.splitlines() if line.startswith("passed over")]
    assert "results.csv" not in "".join(told) and "notes.txt" in "".join(told)


@pytest.mark.parametrize("command", ["inspect", "check"])
def test_an_archive_or_a_video_is_told_as_what_it_is(trained: Path, tmp_path: Path, command: str) -> None:
    (tmp_path / "photos.zip").write_bytes(b"PK\x03\x04\x14\0")
    result = run(command, trained, tmp_path / "photos.zip")
    assert result.exit_code == 2
    assert result.stderr.splitlines() == [
        f"flawmap: {tmp_path / 'photos.zip'} is a zip archive, no image; unpack it and give the folder"
    ]


def with_rest(folder: Path, photos: list[Path], hide: bool) -> Path:
    """A folder of photos with a text and a PDF among them, and where it is to `hide` one an image out of sight."""
    folder.mkdir()
    for photo in photos:
        shutil.copy(photo, folder)
    (folder / "notes.txt").write_text("words")
    (folder / "plan.pdf").write_bytes(b"%PDF-1.7\n")
    if hide:
        (folder / ".cam2").mkdir()
        shutil.copy(photos[0], folder / ".cam2" / "h.png")
    return folder


@pytest.mark.parametrize(
    "words",
    [
        ("limits", "--sizes", "4", "--contrasts", "40%", "--photos", "2"),
        ("repeat", "--shots", "2"),
        ("check",),
        ("inspect",),
    ],
    ids=lambda words: words[0],
)
@pytest.mark.parametrize("hide", [False, True])
def test_a_command_over_a_folder_tells_what_it_passes_over(
    words: tuple[str, ...], hide: bool, trained: Path, metal: Path, tmp_path: Path
) -> None:
    folder = with_rest(tmp_path / "photos", sorted((metal / "test" / "good").glob("*.png"))[:3], hide)
    command, *options = words
    out = ["--out", tmp_path / "out"] if command in ("limits", "repeat") else []
    result = run(command, trained, folder, *options, *out, "--device", "cpu")
    told = result.stdout.splitlines()
    assert f"passed over 1 documents: {folder / 'plan.pdf'}" in told
    assert f"passed over 1 files that are no images: {folder / 'notes.txt'}" in told
    assert sum(line.startswith("passed over") for line in told) == 2 + hide, "each once"
    assert result.exit_code == (2 if hide else 0), result.output
    assert ("1 images were passed over, as they are hidden" in result.stderr) == hide
    assert not out or (tmp_path / "out" / "index.html").exists(), "what could be done is done"


def test_repeat_tells_images_that_lie_in_no_part_s_folder(trained: Path, metal: Path, tmp_path: Path) -> None:
    good = sorted((metal / "test" / "good").glob("*.png"))
    parts = tmp_path / "parts"
    parts.mkdir()
    for name in "ab":
        with_rest(parts / name, good[:2], hide=False)
    assert run("repeat", trained, parts, "--out", tmp_path / "one", "--device", "cpu").exit_code == 0
    shutil.copy(good[2], parts / "loose.png")
    result = run("repeat", trained, parts, "--out", tmp_path / "two", "--device", "cpu")
    assert result.exit_code == 2
    assert f"passed over 1 images in no part's folder: {parts / 'loose.png'}" in result.stdout
    assert "passed over 2 documents" in result.stdout
    assert "1 images were passed over, as they are hidden or in no part's folder" in result.stderr


def test_functions_tell_what_they_pass_over(trained: Path, metal: Path, tmp_path: Path) -> None:
    folder = with_rest(tmp_path / "photos", sorted((metal / "test" / "good").glob("*.png"))[:3], hide=True)
    inspector = flawmap.load(trained, "cpu")
    for does in (
        lambda say: flawmap.detection_limits(inspector, folder, sizes=[4], contrasts=[0.4], photos=2, say=say),
        lambda say: flawmap.repeatability(inspector, folder, shots=2, say=say),
        lambda say: flawmap.drift_check(inspector, folder, say=say),
    ):
        said: list[str] = []
        does(said.append)
        kinds = [line.partition(":")[0] for line in said]
        for what in ("1 hidden images", "1 documents", "1 files that are no images"):
            assert f"passed over {what}" in kinds


def test_export_tells_what_it_passes_over_among_its_photos(trained: Path, metal: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    folder = with_rest(tmp_path / "photos", sorted((metal / "test" / "good").glob("*.png"))[:3], hide=True)
    out = tmp_path / "part.onnx"
    result = run("export", trained, "--to", "onnx", "--out", out, "--images", folder)
    assert f"passed over 1 documents: {folder / 'plan.pdf'}" in result.stdout.splitlines()
    assert result.exit_code == 2 and "1 images were passed over, as they are hidden" in result.stderr
    assert out.exists()


def test_masks_tell_hidden_photos(metal: Path, tmp_path: Path) -> None:
    folder = with_rest(tmp_path / "photos", sorted((metal / "test" / "good").glob("*.png"))[:1], hide=True)
    (photo,) = folder.glob("*.png")
    (tmp_path / f"{photo.stem}.txt").write_text("0 0.5 0.5 0.2 0.2\n")
    result = run("masks", tmp_path / f"{photo.stem}.txt", folder, "--out", tmp_path / "masks")
    assert result.exit_code == 0, result.output
    assert f"passed over 1 hidden images: {folder / '.cam2' / 'h.png'}" in result.stderr


def test_pictures_of_suspects_tell_what_lies_beside_the_photos(trained: Path, metal: Path, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    shutil.copytree(metal / "train", tmp_path / "data" / "train")
    (tmp_path / "data" / "notes.txt").write_text("words")
    result = run("suspects", trained, tmp_path / "data", "--top", 2, "--out", tmp_path / "out", "--device", "cpu")
    assert result.exit_code == 0, result.output
    assert f"passed over 1 files that are no images: {tmp_path / 'data' / 'notes.txt'}" in result.stdout.splitlines()


def test_outliers_of_photos_with_12_bits_are_read_at_their_white(metal: Path, tmp_path: Path) -> None:
    for photo in sorted((metal / "train" / "good").glob("*.png"))[:6]:
        deep = np.asarray(Image.open(photo).convert("L"), np.uint16) * 16
        Image.fromarray(deep).save(tmp_path / photo.name)
    said: list[str] = []
    found = flawmap.outliers(tmp_path, config="demo", settings=["image.white=4095"], device="cpu", say=said.append)
    assert len(found) == 6
    told = run("suspects", tmp_path, "--config", "demo", "--set", "image.white=4095", "--device", "cpu")
    assert [f"{one.score:7.1f}  {one.image}" for one in found] == told.stdout.splitlines()[-7:-1]
