"""Any part on the page: found, looked at closely, and decided, also one that passed."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from page_helpers import expect, looked_at, open_view, send, tabbed_through
from PIL import Image
from station_helpers import Server, picture, png, wait_until

from flawmap.data.images import decode_pixels
from flawmap.station.client import Client

GOOD = range(100, 106)
PAGE = 24  # parts of a page


@pytest.fixture(scope="module")
def server(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(models, tmp_path_factory.mktemp("parts") / "station")
    yield server
    server.stop()


def passed(server: Server, **query: Any) -> dict[str, Any]:
    """A part that passed."""
    return next(part for part in send(server, *GOOD, **query) if part["verdict"] == "pass")


def part_now(server: Server, ident: str) -> dict[str, Any]:
    with Client(server.url) as client:
        return client.part(ident)


def test_a_pass_is_marked_defective_from_live_parts_and_report(page: Any, server: Server) -> None:
    part = passed(server, label="live ", lot="E-1")
    open_view(page, server, "report")
    page.get_by_label("Report of").select_option("lot")
    page.get_by_label("Lot").fill("E-1")
    page.get_by_role("button", name="Show").click()
    escape = page.locator(".figure", has_text="Escape")
    expect(escape.locator("b")).to_have_text("not known")
    expect(escape).to_contain_text("parts that passed was checked")

    open_view(page, server, "live")
    page.locator(".strip .thumb").filter(has=page.locator(f'img[src*="{part["id"]}"]')).click()
    page.get_by_role("button", name="Decide …").click()
    expect(page.locator("dialog .facts h1")).to_contain_text(part["label"])
    page.get_by_label("Note (optional)").fill("seen at assembly")
    page.keyboard.press("Enter")  # ends a line: it neither decides nor closes
    expect(page.locator("dialog")).to_be_visible()
    looked_at(page, "a part to be decided")
    page.locator("dialog [data-mark=reject]").click()
    expect(page.locator("dialog .decision")).to_contain_text("decided: REJECT – seen at assembly")
    now = part_now(server, part["id"])
    assert (now["verdict"], now["final"], now["decision"]["decision"]) == ("pass", "reject", "overrule")
    page.get_by_role("button", name="Close").click()
    expect(page.locator("dialog")).to_have_count(0)
    expect(page.locator(".facts .decision")).to_contain_text("REJECT")

    open_view(page, server, "report")
    page.get_by_label("Report of").select_option("lot")
    page.get_by_label("Lot").fill("E-1")
    page.get_by_role("button", name="Show").click()
    expect(escape.locator("b")).to_contain_text("%")
    expect(escape).to_contain_text(re.compile(r"1 of \d+ defective parts had passed; 1 of \d+ passed parts"))
    card = page.locator(".paper .part", has_text=part["label"])
    card.get_by_role("button", name="Decide …").click()
    page.get_by_role("button", name="Take the decision back").click()
    expect(page.locator("dialog .decision")).to_have_count(0)
    assert part_now(server, part["id"])["decision"] is None
    page.get_by_role("button", name="Close").click()
    expect(escape.locator("b")).to_have_text("not known")

    page.get_by_role("link", name="All parts of it").click()
    expect(page.get_by_label("Lot")).to_have_value("E-1")
    entry = page.locator(f'.entry[data-id="{part["id"]}"]')
    entry.click()
    page.locator("dialog [data-mark=reject]").click()
    expect(page.locator("dialog .decision")).to_be_visible()
    page.get_by_role("button", name="Close").click()
    expect(entry.locator(".after")).to_contain_text("REJECT")
    page.get_by_label("Verdict").select_option("escaped")
    expect(page.locator(".entry")).to_have_count(1)
    looked_at(page, "an escape found")


def test_escape_at_the_line_is_not_known_where_no_pass_was_checked(page: Any, station: Server) -> None:
    parts = send(station, *range(4), *GOOD)
    bad = next(part for part in parts if part["verdict"] == "reject")
    good = next(part for part in parts if part["verdict"] == "pass")
    figure = page.locator(".threshold .figure").first
    with Client(station.url) as client:
        client.decide(bad["id"], "reject")
        open_view(page, station, "threshold")
        expect(figure.locator("b")).to_have_text("not known")
        expect(figure).to_contain_text("No part that passed was ever checked")
        client.decide(good["id"], "pass")
        page.reload()
        expect(figure.locator("b")).to_have_text("0.0\u00a0%")


def test_parts_are_found_by_number_and_beginning_and_leafed_through(page: Any, server: Server) -> None:
    with Client(server.url) as client:
        for number in range(PAGE + 3):
            client.inspect(png(100), label=f"SN-7{number:02}", lot="P")
        nameless = client.inspect(png(100))
    open_view(page, server, "parts")
    number, find = page.get_by_label("Serial number"), page.get_by_role("button", name="Find")
    entries, where = page.locator(".entry"), page.locator(".pages p")
    number.fill(" sn-7 ")
    number.press("Enter")
    expect(where).to_have_text(f"1 to {PAGE} of {PAGE + 3}")
    expect(entries.first.locator(".number")).to_have_text(f"SN-7{PAGE + 2}")
    page.get_by_role("button", name="Older").click()
    expect(where).to_have_text(f"{PAGE + 1} to {PAGE + 3} of {PAGE + 3}")
    expect(entries).to_have_count(3)
    expect(page.get_by_role("button", name="Older")).to_be_disabled()
    tabbed_through(page, "parts")
    page.get_by_role("button", name="Newer").click()
    expect(where).to_have_text(f"1 to {PAGE} of {PAGE + 3}")
    number.fill("SN-7")
    page.get_by_label("Compare").select_option("exactly")
    expect(page.locator(".found")).to_contain_text("No part found")
    looked_at(page, "nothing found")
    number.fill("SN-711")
    find.click()
    expect(entries).to_have_count(1)
    page.reload()  # the address keeps what was asked
    expect(entries).to_have_count(1)
    expect(number).to_have_value("SN-711")
    page.get_by_label("Compare").select_option("contains")
    number.fill("n-711")
    find.click()
    expect(entries).to_have_count(1)
    page.get_by_label("Compare").select_option("begins")
    expect(page.locator(".found")).to_contain_text("No part found")
    number.fill("sn-711")
    find.click()
    expect(entries).to_have_count(1)
    number.fill(f"#{nameless['seq']}")
    find.click()
    expect(entries.locator(".number")).to_have_text(f"#{nameless['seq']}")
    number.fill("")
    page.get_by_label("Lot").fill("P")
    page.get_by_label("From").fill("2001-01-01T00:00")
    page.get_by_label("To").fill("2001-01-02T00:00")
    find.click()
    expect(page.locator(".found")).to_contain_text("No part found")
    page.set_viewport_size({"width": 390, "height": 844})
    looked_at(page, "parts on a phone")


def _width(page: Any) -> float:
    return float(page.locator(".content").evaluate("node => node.getBoundingClientRect().width"))


def test_a_photo_is_zoomed_by_wheel_keys_buttons_and_drag_with_its_pixels_sharp(page: Any, server: Server) -> None:
    send(server, 7)
    open_view(page, server, "live")
    photo, heat = page.locator(".layers img").first, page.locator(".layers img.over")
    expect(photo).to_be_visible()
    fits = _width(page)
    expect(page.locator(".outlines polygon").first).to_be_attached()
    expect(heat).to_have_css("opacity", "0")
    page.keyboard.press("h")
    expect(heat).to_have_css("opacity", "0.6")
    page.keyboard.press("h")
    expect(heat).to_have_css("opacity", "0")
    page.get_by_role("button", name="Heat map").click()
    expect(page.get_by_role("button", name="Heat map")).to_have_attribute("aria-pressed", "true")

    page.keyboard.press("+")
    assert _width(page) > fits
    expect(photo).to_have_css("image-rendering", "pixelated")
    expect(heat).to_have_css("image-rendering", "auto")
    page.keyboard.press("0")
    assert _width(page) == fits
    box = page.locator(".layers").bounding_box()
    x, y = box["x"] + box["width"] / 4, box["y"] + box["height"] / 2
    inside = "(node, x) => (x - node.getBoundingClientRect().x) / node.getBoundingClientRect().width"
    under = page.locator(".content").evaluate(inside, x)
    page.mouse.move(x, y)
    for _ in range(8):
        page.mouse.wheel(0, -300)
    wait_until(lambda: _width(page) > 3 * fits)
    close = _width(page)
    assert page.locator(".content").evaluate(inside, x) == pytest.approx(under, abs=0.02), "the place under the mouse"
    page.mouse.down()
    page.mouse.move(x + 100, y, steps=4)
    page.mouse.up()
    assert page.locator(".content").evaluate(inside, x + 100) == pytest.approx(under, abs=0.02)
    page.locator(".layers").focus()
    left = page.locator(".content").bounding_box()["x"]
    page.keyboard.press("ArrowRight")
    assert page.locator(".content").bounding_box()["x"] < left and _width(page) == close
    page.get_by_role("button", name="All of the photo").click()
    assert _width(page) == fits
    page.mouse.dblclick(x, y)
    assert _width(page) > fits
    send(server, 8)  # another part is shown whole
    expect(page.locator(".facts h1")).to_contain_text("Part 8")
    wait_until(lambda: _width(page) == fits)


@pytest.mark.parametrize("page", [{"has_touch": True, "viewport": {"width": 390, "height": 844}}], indirect=True)
def test_two_fingers_zoom(page: Any, server: Server) -> None:
    send(server, 7)
    open_view(page, server, "live")
    expect(page.locator(".layers img").first).to_be_visible()
    fits, box = _width(page), page.locator(".layers").bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    browser = page.context.new_cdp_session(page)
    for kind, apart in (("touchStart", 20), ("touchMove", 40), ("touchMove", 80), ("touchEnd", None)):
        points = [] if apart is None else [{"x": x - apart, "y": y}, {"x": x + apart, "y": y}]
        browser.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})
    wait_until(lambda: _width(page) > 3 * fits)


@pytest.mark.parametrize("suffix", ["tiff", "ppm", "jp2"])
def test_a_photo_that_no_browser_shows_is_shown_by_the_station(
    page: Any, server: Server, tmp_path: Path, suffix: str
) -> None:
    file, pixels = tmp_path / f"part.{suffix}", picture(9)
    Image.fromarray(pixels[:, :, ::-1].copy()).save(file)
    with Client(server.url) as client:
        part = client.inspect(file, label=suffix)
        drawn = client.picture(part["id"], "photo")
    assert np.array_equal(decode_pixels(drawn, "photo"), pixels)
    open_view(page, server, "live")
    expect(page.locator(".facts h1")).to_contain_text(suffix)
    expect(page.locator(".layers img").first).to_have_attribute("src", re.compile("/photo$"))
    assert page.locator(".layers img").first.evaluate("image => image.naturalWidth") == 80
    page.route("**/photo", lambda route: route.abort())  # as of a file that this browser does not show
    page.reload()
    expect(page.locator(".layers img").first).to_have_attribute("src", re.compile(r"/photo\?drawn=true$"))
    assert page.locator(".layers img").first.evaluate("image => image.naturalWidth") == 80


@pytest.mark.parametrize("locale", ["en", "de"])
@pytest.mark.parametrize(
    ("share", "count", "english", "german"),
    [
        (1 / 121, 120, "higher than all 120 good parts", "höher als alle 120 guten Teile"),
        (2 / 121, 120, "1.7\u00a0% of good parts score as high", "1,7\u00a0% der guten Teile haben so hohe Werte"),
        (1 / 2, 1, "higher than the one good part", "höher als das eine gute Teil"),
        (1 / 121, None, "0.8\u00a0% of good parts score as high", "0,8\u00a0% der guten Teile haben so hohe Werte"),
        (1.0, 120, "100.0\u00a0% of good parts score as high", "100,0\u00a0% der guten Teile haben so hohe Werte"),
    ],
)
def test_at_the_least_share_that_so_many_good_parts_can_tell_it_is_said_so(
    page: Any, server: Server, locale: str, share: float, count: int | None, english: str, german: str
) -> None:
    page.goto(server.url)
    part = passed(server) | {"p_value": share, "good_parts": count}
    text = page.evaluate(
        """async ([part, language]) => {
            (await import("/strings.js")).speak(language);
            return (await import("/parts.js")).facts(part).textContent;
        }""",
        [part, locale],
    )
    assert (german if locale == "de" else english) in text
