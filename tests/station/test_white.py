"""Photos with 12 bits in 16 at a station: told, not scored, until a version reads them; and pictures one can see."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from station_helpers import Server, dataset, picture, png

from flawmap.bundle import copy_with_white, load_bundle
from flawmap.data.images import decode_image, decode_pixels, encode_jpeg, encode_png, write_image
from flawmap.errors import BundleError, StationError
from flawmap.station.client import Client
from flawmap.station.seen import Arrived
from flawmap.station.watch import by_server

ALIKE = 1e-3  # of a score: rounding of 12 bits


def pixels(number: int, level: int) -> Any:
    """The drawn part of `png` as a camera with so many levels stores it in 16 bits."""
    return np.rint(picture(number) * (level / 255)).astype(np.uint16)


def deep(number: int, level: int) -> bytes:
    """The same as a PNG."""
    return encode_png(pixels(number, level))


@pytest.fixture(scope="module")
def server(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("station")
    shutil.copytree(models, folder / "models")
    started = Server(folder / "models", folder / "data")
    yield started
    assert started.stop() == 0
    assert "Traceback" not in started.log.read_text()


@pytest.fixture
def client(server: Server) -> Iterator[Client]:
    with Client(server.url) as opened:
        yield opened


def brightness(client: Client, ident: str, name: str) -> float:
    return float(decode_image(client.picture(ident, name), "x").mean())


def test_12_bits_are_told_and_scored_by_a_version_that_reads_them(
    server: Server, client: Client, tmp_path: Path
) -> None:
    seen = client.inspect(png(3))
    assert client.inspect(deep(3, 65535))["score"] == pytest.approx(seen["score"], abs=ALIKE)
    before = len(list(client.parts()))
    advice = r"if they hold 12 bits, say so once: (flawmap white \S+ 4095 --out (\S+)), and use (part@\d+) then"
    with pytest.raises(StationError, match=advice) as told:
        client.inspect(deep(3, 4095))
    assert told.value.status == 422
    said = re.search(advice, str(told.value))
    assert said is not None
    assert len(list(client.parts())) == before, "nothing is recorded as inspected"
    (one,) = client.inspect_batch([deep(3, 4095)])
    assert one["status"] == 422
    with pytest.raises(StationError, match=advice):
        by_server(client, None)(Arrived(Path("a.png"), "a.png", 1, 1), deep(3, 4095))

    _, place, free = said.groups()
    before_it = (server.models / "part.bundle" / "bundle.json").read_bytes()
    done = subprocess.run([sys.executable, "-m", *said[1].split()], capture_output=True, text=True)
    assert done.returncode == 0 and "read with 4095 as full white" in done.stdout, done.stderr
    assert Path(place) == server.models / f"{free}.bundle" and Path(place).is_dir()
    assert (server.models / "part.bundle" / "bundle.json").read_bytes() == before_it, "a version never changes"
    assert not [path for path in server.models.iterdir() if path.name.startswith(".")]
    with pytest.raises(StationError, match=advice):
        client.inspect(deep(3, 4095))  # not before it is used
    assert {one["ref"]: one["white"] for one in client.models()["models"]} == {free: 4095, "part@1": 65535}
    assert client.station()["model"]["white"] == 65535
    client.use(free)
    assert client.station()["model"]["white"] == 4095
    found = client.inspect(deep(3, 4095))
    assert found["model"]["ref"] == free
    assert found["score"] == pytest.approx(seen["score"], abs=ALIKE)
    assert client.inspect(png(3))["score"] == seen["score"], "8 bits stay to the bit"
    with pytest.raises(StationError, match="above the full white 4095"):
        client.inspect(deep(3, 65535))

    for name in ("photo", "thumbnail", "overlay"):
        assert brightness(client, found["id"], name) == pytest.approx(brightness(client, seen["id"], name), abs=0.01)
    assert client.picture(found["id"], "original") == deep(3, 4095), "the file as it came"
    assert client.picture(seen["id"], "photo") == png(3), "what a browser shows is not drawn anew"
    file = encode_jpeg(picture(3))
    jpeg = client.inspect(file)
    drawn = client.picture(jpeg["id"], "photo?drawn=true")
    assert client.picture(jpeg["id"], "photo") == file and drawn.startswith(b"\x89PNG")
    assert np.array_equal(decode_pixels(drawn, "x"), decode_pixels(file, "x"))
    write_image(tmp_path / "part.tif", pixels(3, 4095))
    tiff = client.inspect(tmp_path / "part.tif")
    assert brightness(client, tiff["id"], "photo") == pytest.approx(brightness(client, seen["id"], "photo"), abs=0.01)
    assert tiff["links"]["photo"] == f"/api/parts/{tiff['id']}/photo"

    client.use("part@1")  # pictures stay as they were inspected
    assert brightness(client, found["id"], "thumbnail") == pytest.approx(
        brightness(client, seen["id"], "thumbnail"), abs=0.01
    )


def test_a_copy_at_another_level_is_whole_or_not_there(models: Path, tmp_path: Path) -> None:
    bundle, out = tmp_path / "part.bundle", tmp_path / "new" / "part@2.bundle"
    shutil.copytree(models / "part.bundle", bundle)
    (bundle / "station.json").write_text("{}")
    copy_with_white(bundle, 4095, out)
    assert load_bundle(out).white.level == 4095 and load_bundle(bundle).white.level == 65535
    assert not (out / "station.json").exists()
    for wrong, match in ((out, "exists; choose another --out, or --overwrite it"), (bundle, "is the bundle itself")):
        with pytest.raises(BundleError, match=match):
            copy_with_white(bundle, 1023, wrong)
    copy_with_white(bundle, 1023, out, overwrite=True)
    assert load_bundle(out).white.level == 1023
    (tmp_path / "photos").mkdir()
    with pytest.raises(BundleError, match=r"exists; choose another --out$"):
        copy_with_white(bundle, 1023, tmp_path / "photos", overwrite=True)
    with pytest.raises(BundleError, match="full white is 255 to 65535"):
        copy_with_white(bundle, 7, tmp_path / "third.bundle")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["new", "part.bundle", "photos"]
    assert [path.name for path in out.parent.iterdir()] == [out.name]


def test_photos_to_train_on_are_shown_bright(server: Server, http: httpx.Client) -> None:
    ident = dataset(http, range(0))
    files = [("image", (f"{n}.png", deep(n, 4095), "image/png")) for n in range(100, 102)]
    assert http.post(f"/api/datasets/{ident}/photos", files=files).status_code == 200
    for photo in http.get(f"/api/datasets/{ident}").json()["photos"]:
        small = http.get(f"/api/datasets/{ident}/photos/{photo['id']}?thumbnail=true").content
        assert decode_image(small, "x").mean() == pytest.approx(picture(100).mean() / 255, abs=0.03)


def as_ppm(number: int) -> bytes:
    """The drawn part as a camera of 12 bits stores it, in a format whose header says that white is 4095."""
    values = pixels(number, 4095)[:, :, ::-1]
    height, width = values.shape[:2]
    return f"P6\n{width} {height}\n4095\n".encode() + values.astype(">u2").tobytes()


def test_what_browsers_do_not_show_is_inspected_kept_and_drawn(client: Client, http: httpx.Client) -> None:
    seen, found = client.inspect(png(4)), client.inspect(as_ppm(4))
    assert found["score"] == pytest.approx(seen["score"], abs=ALIKE)
    assert client.picture(found["id"], "original") == as_ppm(4)
    for name in ("photo", "thumbnail", "overlay"):
        assert brightness(client, found["id"], name) == pytest.approx(brightness(client, seen["id"], name), abs=0.02)
    assert client.picture(found["id"], "photo").startswith(b"\x89PNG")
    ident = dataset(http, range(0))
    files = [("image", ("a.ppm", as_ppm(4), "application/octet-stream"))]
    answer = http.post(f"/api/datasets/{ident}/photos", files=files).json()
    assert not answer["refused"] and answer["added"][0]["width"] == picture(4).shape[1]
    whole = http.get(f"/api/datasets/{ident}/photos/{answer['added'][0]['id']}")
    assert whole.headers["content-type"] == "image/x-portable-anymap" and whole.content == as_ppm(4)
