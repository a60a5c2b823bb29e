"""What decoding remarks on a photo goes with its verdict: from Python, in results, at a station, in record and log."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from page_helpers import expect, open_view
from station_helpers import Server, picture, png

import flawmap
from flawmap.data.images import DAMAGED, decode_pixels, encode_jpeg
from flawmap.data.remarks import collected
from flawmap.deploy.batch import inspect_to_folder
from flawmap.station.client import Client
from flawmap.station.seen import Arrived
from flawmap.station.watch import by_bundle, by_server

INFRARED = "channels that are neither colour nor alpha were left out"


def cut() -> bytes:
    """A JPEG of which some bytes in the middle are missing."""
    whole = encode_jpeg(picture(100, 320, 400))
    middle = len(whole) // 2
    return whole[:middle] + whole[middle + 600 :]


def infrared(folder: Path) -> bytes:
    """A colour TIFF with near infrared as a fourth channel."""
    tifffile = pytest.importorskip("tifffile")
    colours = picture(100)
    tifffile.imwrite(
        folder / "nir.tif", np.dstack([colours, colours[:, :, 0] // 3]), photometric="rgb", extrasamples=["unspecified"]
    )
    return (folder / "nir.tif").read_bytes()


@pytest.fixture(scope="module")
def server(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    made = Server(models, tmp_path_factory.mktemp("remarks") / "station", "--damaged", "accept")
    yield made
    assert made.stop() == 0


def told_of(remarks: list[str]) -> None:
    (remark,) = remarks
    assert remark.startswith("damaged and read all the same ("), remark


def test_a_station_tells_them_with_the_part_and_keeps_them(server: Server, tmp_path: Path) -> None:
    nir = infrared(tmp_path)
    with Client(server.url) as client:
        part = client.inspect(cut(), label="cut")
        told_of(part["remarks"])
        assert client.part(part["id"])["remarks"] == part["remarks"]
        assert client.inspect(nir, label="nir")["remarks"] == [INFRARED]
        assert client.inspect(png(100), label="whole")["remarks"] == []
        batch = client.inspect_batch([png(100), cut(), nir])
        assert [len(one["remarks"]) for one in batch] == [0, 1, 1] and batch[2]["remarks"] == [INFRARED]
        events = client.events(part["seq"] - 1)
        told_of(next(data for name, data in events if name == "verdict")["remarks"])
        test = client.inspect(cut(), label="trial", test=True)
        told_of(test["remarks"])
        assert client._ask("GET", "/api/audit")["whole"]
        watched = by_server(client, None)(Arrived(Path("a.tif"), "a.tif", 1, 1), nir)
        assert watched["remarks"] == [INFRARED]
    with sqlite3.connect(server.data / "record.sqlite") as record:
        (body,) = record.execute(
            "SELECT body FROM records WHERE kind = 'verdict' AND part = ?", (part["id"],)
        ).fetchone()
        assert json.loads(body)["remarks"] == part["remarks"]
        (whole,) = record.execute("SELECT body FROM records WHERE label = 'whole'").fetchone()
        assert "remarks" not in json.loads(whole)
    lines = [line for line in server.log.read_text().splitlines() if "remarks on" in line]
    assert [part["id"] in line for line in lines] == [True, *[False] * (len(lines) - 1)], "once for each part"
    assert "label 'cut': damaged and read all the same" in lines[0]


def test_the_page_shows_them_with_the_part(page: Any, server: Server) -> None:
    with Client(server.url) as client:
        client.inspect(cut(), label="shown")
    open_view(page, server, "live")
    expect(page.locator(".facts h1")).to_contain_text("shown")
    expect(page.locator(".facts .remarks")).to_contain_text("Its file: damaged, and read all the same")
    page.get_by_role("button", name="DE", exact=True).click()
    expect(page.locator(".facts .remarks")).to_contain_text("Zur Datei: beschädigt und trotzdem gelesen")


def test_python_and_results_tell_them(models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(DAMAGED, "accept")
    inspector = flawmap.load(models / "part.bundle", "cpu")
    hurt, nir, whole = tmp_path / "hurt.jpg", infrared(tmp_path), png(100)
    hurt.write_bytes(cut())
    found = inspector.inspect(hurt)
    told_of(list(found.remarks))
    assert found.to_dict()["remarks"] == list(found.remarks)
    assert "damaged and read all the same" in repr(found) and "damaged and read all the same" in found._repr_html_()
    assert inspector.inspect(nir).remarks == (INFRARED,)
    assert inspector.inspect(whole).remarks == inspector.inspect(picture(100)).remarks == ()
    many = [one.remarks for one in inspector.inspect_many([whole, hurt, nir], batch=3)]  # type: ignore[union-attr]
    assert [len(each) for each in many] == [0, 1, 1]
    (tmp_path / "whole.png").write_bytes(whole)
    paths = [tmp_path / name for name in ("whole.png", "hurt.jpg", "nir.tif")]
    results = list(inspect_to_folder(inspector, paths, tmp_path / "out"))
    assert [len(result.remarks) for result in results] == [0, 1, 1]
    lines = [json.loads(line) for line in (tmp_path / "out" / "results.jsonl").read_text().splitlines()]
    assert [line["remarks"] for line in lines] == [list(result.remarks) for result in results]
    table = (tmp_path / "out" / "results.csv").read_text().splitlines()
    assert table[0].endswith('"remarks"') and table[1].endswith('""') and table[3].endswith(f'"{INFRARED}"')
    watched = by_bundle(models / "part.bundle", "torch", "cpu", 0.0, print)
    assert watched(Arrived(hurt, "hurt.jpg", 1, 1), hurt.read_bytes())["remarks"] == list(found.remarks)


def test_remarks_are_collected_within_and_by_thread(tmp_path: Path) -> None:
    nir = infrared(tmp_path)
    with collected() as outer:
        decode_pixels(nir, "a")
        with collected() as inner:
            decode_pixels(nir, "b")
            decode_pixels(nir, "c")
    assert outer == inner == [INFRARED]
