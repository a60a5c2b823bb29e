"""What happens at a line, seen in the page: a silent camera, other light, a cut cable, photos dropped, reports."""

from __future__ import annotations

import datetime
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from page_helpers import Cable, expect, looked_at, open_view, send
from station_helpers import Server, picture, png, wait_until

from flawmap.data.images import encode_png
from flawmap.station.client import Client

COMPARED = 20  # parts, each of them measured
UNLIKE = 10  # in other light, enough to be told whatever came before


@pytest.fixture(scope="module")
def server(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A station that soon misses its camera, and looks at every part's light."""
    data = tmp_path_factory.mktemp("line") / "station"
    wanted = ("shift.silent_s=1.0", f"drift.parts={COMPARED}", "drift.every=1")
    server = Server(models, data, *(word for each in wanted for word in ("--set", each)))
    yield server
    server.stop()


@pytest.fixture(scope="module")
def calm(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A station that soon misses its camera, and looks at no part's light: its notices are those of the camera."""
    wanted = ("shift.silent_s=1.0", "drift.every=1000")
    data = tmp_path_factory.mktemp("calm") / "station"
    server = Server(models, data, *(word for each in wanted for word in ("--set", each)))
    yield server
    server.stop()


def test_a_silent_camera_is_told_once_a_part_has_come_and_until_a_part_comes(page: Any, server: Server) -> None:
    open_view(page, server, "live")
    with Client(server.url) as client:
        first = client.station()  # long after `shift.silent_s`: a line that has not begun is no fault of the camera
        assert (first["last_part"], first["silent"], first["silent_s"]) == (None, False, None)
    page.wait_for_timeout(6000)  # the station tells its state every 5 s
    expect(page.locator(".layers .gone")).to_have_text("Waiting for the first part")
    expect(page.locator(".notice")).to_have_count(0)
    send(server, 100)
    expect(page.locator(".notice.silent")).to_contain_text("Camera silent: no part for")
    send(server, 101)
    expect(page.locator(".notice.silent")).to_have_count(0)
    looked_at(page, "a silent camera")


@pytest.mark.parametrize("size", [(1280, 800), (1024, 768), (800, 1280)], ids=str)
@pytest.mark.parametrize("page", [{"locale": "en-GB"}, {"locale": "de-DE"}], ids=["en", "de"], indirect=True)
def test_below_a_notice_live_has_room_for_all_it_tells(page: Any, calm: Server, size: tuple[int, int]) -> None:
    width, height = size
    page.set_viewport_size({"width": width, "height": height})
    (part,) = send(calm, 7, lot="A17", camera="camera-1")
    assert part["verdict"] == "reject" and part["regions"] and part["p_value"] is not None
    open_view(page, calm, "live")
    expect(page.locator(".notice.silent")).to_be_visible()
    expect(page.locator(".facts h1")).to_contain_text("7")
    expect(page.locator(".facts")).to_contain_text(re.compile("place|Stelle"))
    whole = "box => box.scrollHeight <= box.clientHeight"
    for told in page.locator(".facts p").all():
        assert told.evaluate(whole), told.inner_text()
    assert page.locator(".column").evaluate(whole)
    assert page.evaluate("document.documentElement.scrollHeight") == height


def test_parts_in_other_light_are_told_until_they_look_as_trained(page: Any, server: Server) -> None:
    with Client(server.url) as client:
        wait_until(lambda: client.station()["drift"]["verdict"] != "unknown")  # the model in use is watched
        open_view(page, server, "live")
        for number in range(100, 100 + UNLIKE):
            client.inspect(encode_png((picture(number) // 4).astype(np.uint8)))
        expect(page.locator(".notice.drift")).to_contain_text("Parts look unlike the good ones trained on")
        expect(page.locator(".notice.drift")).to_contain_text(re.compile(r"the last \d+ parts"))
        looked_at(page, "a drift")
        for number in range(100, 100 + COMPARED):
            client.inspect(png(number))
        expect(page.locator(".notice.drift")).to_have_count(0)


def test_after_a_cut_cable_the_parts_that_came_meanwhile_are_shown(page: Any, server: Server) -> None:
    cable = Cable(server.url)
    page.goto(f"{cable.url}/#live")
    send(server, 100, label="before ")
    expect(page.locator(".facts h1")).to_contain_text("before 100")
    page.evaluate("window.same = true")
    cable.cut()
    expect(page.locator(".notice.lost")).to_contain_text("Connection lost")
    send(server, *range(100, 125), label="meanwhile ")
    expect(page.locator(".facts h1")).to_contain_text("before 100")
    cable.mend()
    expect(page.locator(".notice.lost")).to_have_count(0)
    expect(page.locator(".facts h1")).to_contain_text("meanwhile 124")
    thumbs = page.locator(".strip button.thumb")
    expect(thumbs).to_have_count(20)
    shown = [thumbs.nth(n).get_attribute("title").split(" · ")[0] for n in (0, 19)]
    assert shown == ["meanwhile 124", "meanwhile 105"]
    with Client(server.url) as client:
        counts = client.station()["counts"]
    expect(page.locator(".counter b").first).to_have_text(str(counts["pass"]))
    expect(page.locator(".counter b").nth(1)).to_have_text(str(counts["reject"]))
    assert page.evaluate("window.same"), "the page was loaded anew"
    cable.cut()
    page.goto("about:blank")


def drop(page: Any, path: Path, where: str) -> None:
    """Let go of a file or folder over an element, as a file manager would."""
    box = page.locator(where).bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    browser = page.context.new_cdp_session(page)
    data = {"items": [], "files": [str(path)], "dragOperationsMask": 1}
    for step in ("dragEnter", "dragOver", "drop"):
        browser.send("Input.dispatchDragEvent", {"type": step, "x": x, "y": y, "data": data})
        if step == "dragOver":
            expect(page.locator(f"{where}.over")).to_be_visible()


def test_a_dropped_folder_is_walked_through(page: Any, server: Server, tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    (folder / "monday" / "late").mkdir(parents=True)
    (folder / "notes.txt").write_text("no photo")
    for number, place in enumerate(["", "monday", "monday", "monday/late"]):
        (folder / place / f"{number}.png").write_bytes(png(100 + number))
    pixels = picture(104)
    (folder / "4.ppm").write_bytes(b"P6 %d %d 255\n" % pixels.shape[1::-1] + pixels[:, :, ::-1].tobytes())
    (folder / "IM5").write_bytes(png(105))
    open_view(page, server, "train")
    page.get_by_label("New data set").fill("dropped")
    page.get_by_role("button", name="Create").click()
    expect(page.locator(".drop.good b")).to_have_text("0 good")
    drop(page, folder, ".drop.good")
    expect(page.locator(".drop.good b")).to_have_text("6 good")
    expect(page.locator(".refused")).to_have_text("1 file left out, no photo: notes.txt")
    drop(page, folder / "monday" / "late", ".drop.defective")
    expect(page.locator(".drop.defective b")).to_have_text("1 defective")
    expect(page.locator(".drop.over")).to_have_count(0)
    drop(page, folder / "notes.txt", ".drop.good")
    expect(page.locator(".told.bad")).to_have_text("No image files among these.")
    looked_at(page, "train, with photos")


def test_a_report_of_a_period_and_of_a_lot(page: Any, server: Server) -> None:
    send(server, 100, 101, 7, lot="Z-9")
    with Client(server.url) as client:
        every = list(client.parts(limit=500))
    open_view(page, server, "report")
    inspected = page.locator(".paper .figure b").first
    expect(inspected).to_have_text(str(len(every)))
    what = page.get_by_label("Report of")
    show = page.get_by_role("button", name="Show")

    what.select_option("lot")
    page.get_by_label("Lot").fill("Z-9")
    show.click()
    expect(page.locator(".paper h1")).to_have_text("Lot Z-9")
    expect(inspected).to_have_text("3")
    expect(page.locator(".paper")).to_contain_text("switched to part@1, in use at the start")
    csv = page.request.get(server.url + page.get_by_role("link", name="Records as CSV").get_attribute("href")).text()
    assert len(csv.splitlines()) == 1 + 3
    page.get_by_label("Lot").fill("nobody's")
    show.click()
    expect(page.locator(".paper")).to_contain_text("No parts of lot nobody's.")
    looked_at(page, "a report of nothing")

    what.select_option("period")
    today = datetime.datetime.now().replace(second=0, microsecond=0)
    for label, days in (("From", -1), ("To", 1)):
        page.get_by_label(label).fill((today + datetime.timedelta(days=days)).strftime("%Y-%m-%dT%H:%M"))
    show.click()
    expect(inspected).to_have_text(str(len(every)))
    page.get_by_label("To").fill((today - datetime.timedelta(hours=20)).strftime("%Y-%m-%dT%H:%M"))
    show.click()
    expect(page.locator(".paper")).to_contain_text("No parts in this period.")
