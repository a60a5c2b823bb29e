"""`--damaged`: damaged photos are refused, or read all the same and named."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from command_helpers import run

from flawmap.cli import READ_PHOTOS
from flawmap.data import decoding, images


@pytest.fixture
def photos(metal: Path, tmp_path: Path) -> Path:
    """Good photos, of one of which some rows in the middle are overwritten."""
    folder = shutil.copytree(metal / "test" / "good", tmp_path / "photos")
    data = (folder / "001.png").read_bytes()
    middle = len(data) // 2
    (folder / "001.png").write_bytes(data[:middle] + bytes(40) + data[middle + 40 :])
    return folder


def test_a_damaged_photo_is_refused_and_the_others_are_inspected(trained: Path, photos: Path) -> None:
    result = run("inspect", trained, photos)
    assert result.exit_code == 2
    assert "001.png: the image is damaged" in result.stdout
    assert f"1 of {len(list(photos.iterdir()))} images could not be inspected" in result.stderr


def test_a_damaged_photo_is_inspected_where_that_is_accepted_and_named(trained: Path, photos: Path) -> None:
    before = os.environ.get(images.DAMAGED)
    result = run("inspect", trained, photos, "--damaged", "accept")
    assert result.exit_code == 0, result.stderr
    assert "001.png: damaged and read all the same" in result.stderr
    assert os.environ.get(images.DAMAGED) == before, "it holds for one command"


def test_one_photo_too_large_for_memory_does_not_end_the_run(
    trained: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decode = decoding.by_opencv

    def full(data: bytes) -> object:
        if data == (photos / "000.png").read_bytes():
            raise MemoryError
        return decode(data)

    monkeypatch.setattr(decoding, "by_opencv", full)
    result = run("inspect", trained, photos)
    assert result.exit_code == 2
    assert "000.png: it does not fit into this machine's memory" in result.stdout
    assert "002.png" in result.stdout


def test_another_word_is_refused(trained: Path, photos: Path) -> None:
    result = run("inspect", trained, photos, "--damaged", "perhaps")
    assert result.exit_code == 2 and "--damaged perhaps: expected refuse or accept" in result.stderr


@pytest.mark.parametrize("command", READ_PHOTOS)
def test_every_command_that_reads_photos_has_the_option(command: str) -> None:
    assert "--damaged" in run(command, "--help").stdout
