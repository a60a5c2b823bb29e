from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from flawmap.station.files import DAY, LEFT_S, Pictures, is_id, new_id, thin
from flawmap.station.settings import KeepSettings

NOW = 1_800_000_000.0


def kept(pictures: Pictures, days: float, size: int = 1000) -> str:
    ident = new_id()
    pictures.write_original(ident, b"x" * (size - 100), "JPEG")
    pictures.write_map(ident, b"y" * 100)
    for file in pictures.folder.rglob(f"{ident}*"):
        os.utime(file, (NOW - days * DAY,) * 2)
    return ident


@pytest.fixture
def pictures(tmp_path: Path) -> Pictures:
    return Pictures(tmp_path / "pictures")


def test_pictures_come_back_as_written_and_are_gone_when_removed(pictures: Pictures) -> None:
    ident = new_id()
    pictures.write_original(ident, b"original", "PNG")
    pictures.write_map(ident, b"map")
    original, found = pictures.original(ident), pictures.map(ident)
    assert original is not None and found is not None
    assert (original.read_bytes(), original.suffix, found.read_bytes()) == (b"original", ".png", b"map")
    assert [(one.ident, one.bytes) for one in pictures.kept()] == [(ident, 11)]
    pictures.remove(ident)
    assert (pictures.original(ident), pictures.map(ident), list(pictures.kept())) == (None, None, [])


@pytest.mark.parametrize(
    "text", ["../../etc/passwd", "a" * 31, "A" * 32, "a" * 33, "a" * 32 + "\n", "", "a" * 30 + "/."]
)
def test_what_is_no_id_never_becomes_a_path(pictures: Pictures, text: str) -> None:
    assert not is_id(text)
    with pytest.raises(AssertionError):
        pictures.original(text)


def test_pictures_are_removed_when_too_old_the_rejected_later(pictures: Pictures) -> None:
    old_good, new_good = kept(pictures, 31), kept(pictures, 29)
    old_bad, new_bad = kept(pictures, 366), kept(pictures, 364)
    ranks = {old_good: 0, new_good: 0, old_bad: 1, new_bad: 1}
    assert set(thin(pictures, KeepSettings(), lambda idents: ranks, NOW)) == {old_good, old_bad}
    assert {one.ident for one in pictures.kept()} == {new_good, new_bad}


def test_when_they_are_too_large_good_ones_go_first_and_oldest_first(pictures: Pictures) -> None:
    bad = [kept(pictures, day) for day in (9, 8)]
    good = [kept(pictures, day) for day in (3, 2, 1)]
    ranks = dict.fromkeys(good, 0) | dict.fromkeys(bad, 1)
    for limit, gone in ((5000, []), (4900, [good[0]]), (2000, good[1:]), (1999, [bad[0]])):
        assert thin(pictures, KeepSettings(gigabytes=limit / 1e9), lambda idents: ranks, NOW) == gone


def test_pictures_without_a_record_go_after_an_hour(pictures: Pictures) -> None:
    left, writing = kept(pictures, 2 * LEFT_S / DAY), kept(pictures, 0.5 * LEFT_S / DAY)
    assert thin(pictures, KeepSettings(gigabytes=1e-9), lambda idents: {}, NOW) == [left]
    assert [one.ident for one in pictures.kept()] == [writing]


def test_half_a_file_that_a_killed_process_left_is_removed(pictures: Pictures) -> None:
    kept(pictures, 0)
    half = next(pictures.folder.iterdir()) / ".half.tmp"
    half.write_bytes(b"x")
    assert len(list(pictures.kept())) == 1 and half.exists()
    os.utime(half, (time.time() - 2 * LEFT_S,) * 2)
    assert len(list(pictures.kept())) == 1 and not half.exists()
