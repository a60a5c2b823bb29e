"""Commands tell what they pass over, and end with 2 where images are among it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from command_helpers import run


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
