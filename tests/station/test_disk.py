"""Pictures and the record on a disk that loses power, is full, or cannot be written to."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from station_helpers import Server, png

from flawmap.station.audit import audit
from flawmap.station.files import Pictures, new_id
from flawmap.station.record import Record, url_of

Synced = list[tuple[str, bytes]]


@pytest.fixture
def synced(monkeypatch: pytest.MonkeyPatch) -> Synced:
    """What was forced to the disk, in order: name, and what was in it at that moment."""
    found: Synced = []
    usual = os.fsync

    def fsync(opened: int) -> None:
        path = Path(os.readlink(f"/proc/self/fd/{opened}"))
        names = b" ".join(sorted(each.name.encode() for each in path.iterdir())) if path.is_dir() else b""
        found.append((path.name, names if path.is_dir() else path.read_bytes()))
        usual(opened)

    monkeypatch.setattr(os, "fsync", fsync)
    return found


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="it is told by /proc what was forced to the disk")
def test_a_picture_is_on_the_disk_whole_and_under_its_name(tmp_path: Path, synced: Synced) -> None:
    pictures, ident = Pictures(tmp_path / "pictures"), new_id()
    pictures.write_original(ident, b"original", "PNG")
    name = f"{ident}.png"
    folders = [(ident[:2], name.encode()), ("pictures", ident[:2].encode())]
    assert synced[0] == folders[1], "the folder is new"
    assert synced[1][0].startswith(f".{name}.") and synced[1][1] == b"original"
    assert synced[2] == folders[0]
    pictures.write_map(ident, b"map")
    assert [data for _, data in synced[3:]] == [b"map", f"{ident}.map.png {name}".encode()]


def test_a_picture_is_left_to_the_system_where_that_is_asked_for(tmp_path: Path, synced: Synced) -> None:
    pictures = Pictures(tmp_path / "pictures", sync=False)
    pictures.write_original(new_id(), b"original", "PNG")
    assert synced == []


def test_pictures_are_on_the_disk_before_the_record(models: Path, tmp_path: Path) -> None:
    """Told by the calls of the station to the system."""
    if shutil.which("strace") is None or subprocess.run(["strace", "-qq", "true"], capture_output=True).returncode:
        pytest.skip("there is no strace (apt-get install strace), or it may not look")
    server, calls = Server(models, tmp_path / "data"), tmp_path / "calls"
    watch = ["strace", "-f", "-qq", "-y", "-e", "trace=fsync,fdatasync,rename", "-o", calls, "-p", server.process.pid]
    tracer = subprocess.Popen([str(word) for word in watch], stderr=subprocess.DEVNULL)
    try:
        with httpx.Client(base_url=server.url, timeout=60, trust_env=False) as http:
            for number in range(100):  # until the tracer is there
                part = http.post("/api/parts", content=png(number)).json()
                lines = calls.read_text() if calls.exists() else ""
                if part["id"] in lines:
                    break
    finally:
        tracer.terminate()
        tracer.wait()
        assert server.stop() == 0
    original, found, folder = f"/{part['id']}.png", f"/{part['id']}.map.png", f"pictures/{part['id'][:2]}>"
    last = {
        word: max(number for number, line in enumerate(lines.splitlines()) if word in line)
        for word in (f'{original}"', f'{found}"', folder, "record.sqlite-wal")
    }
    assert max(last, key=lambda word: last[word]) == "record.sqlite-wal", lines
    assert last[folder] > last[f'{found}"'], lines


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A folder on a disk of 2 MB of its own."""
    folder = tmp_path / "small"
    folder.mkdir()
    words = ["mount", "-t", "tmpfs", "-o", "size=2m", "none", str(folder)]
    if shutil.which("mount") is None or subprocess.run(words, capture_output=True).returncode:
        pytest.skip("a small disk can be mounted by root alone")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(folder: Path) -> Path:
    """A file that takes all there is."""
    file = folder / "filling"
    with file.open("wb", buffering=0) as stream, pytest.raises(OSError, match="No space"):
        while True:
            stream.write(b"x" * 512)
    return file


@pytest.mark.parametrize("full", ["pictures", "record"])
def test_on_a_full_disk_a_part_is_refused_in_one_line_and_not_half_recorded(
    models: Path, tmp_path: Path, small: Path, full: str
) -> None:
    data, options = tmp_path / "data", []
    if full == "pictures":
        data.mkdir()
        (data / "pictures").symlink_to(small)
    else:
        options = ["--database", f"sqlite:///{small / 'record.sqlite'}"]
    server = Server(models, data, *options)
    files = {"image": ("part.png", png(2))}
    with httpx.Client(base_url=server.url, timeout=60, trust_env=False) as http:
        first = http.post("/api/parts", content=png(1)).json()
        pictures = sorted((data / "pictures").rglob("*.*"))
        filling = fill(small)
        for answer in (http.post("/api/parts", content=png(2)), http.post("/api/parts/batch", files=files)):
            told = answer.json() if answer.status_code != 200 else answer.json()["parts"][0]
            assert (answer.status_code, told.get("status")) in ((503, None), (200, 503)), answer.text
            assert ("No space left" if full == "pictures" else "is full") in told["error"]
            assert "\n" not in told["error"]
        kept = [file for file in sorted((data / "pictures").rglob("*.*")) if file.name != "filling"]
        assert kept == pictures
        assert [part["id"] for part in http.get("/api/parts").json()["parts"]] == [first["id"]]
        filling.unlink()
        assert http.post("/api/parts", content=png(2)).status_code == 201
        assert http.get("/api/audit").json()["whole"]
        assert len(http.get("/api/parts").json()["parts"]) == 2
    assert server.stop() == 0
    assert "Traceback" not in server.log.read_text()


def test_where_pictures_cannot_be_written_nothing_is_recorded(models: Path, tmp_path: Path) -> None:
    server = Server(models, tmp_path / "data")
    folder = tmp_path / "data" / "pictures"
    folder.rename(folder.with_name("away"))
    folder.write_text("in the way")
    with httpx.Client(base_url=server.url, timeout=60, trust_env=False) as http:
        answer = http.post("/api/parts", content=png(1))
        assert answer.status_code == 503 and "cannot keep pictures" in answer.json()["error"]
        assert http.get("/api/parts").json()["parts"] == []
        folder.unlink()
        folder.with_name("away").rename(folder)
        assert http.post("/api/parts", content=png(1)).status_code == 201
    assert server.stop() == 0
    record = Record(url_of(tmp_path / "data", None))
    assert audit(record).whole
    record.close()
