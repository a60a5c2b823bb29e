"""Whether the page can be read, hit and walked through: measured in a real browser, view by view."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from page_helpers import DEFECTIVE, GOOD, PANEL, TABS, expect, looked_at, looks, open_view, send, tabbed_through
from station_helpers import Server, png

from flawmap.station.client import Client

LONG = "SN-2026-11-26-LINE3-STATION12-BRACKET-LEFT-000000000000000417-REWORK-B, a long serial number of a part"[:100]
VERDICTS = ("pass", "reject", "doubt")
MEASURES = ("texts", "edges", "targets")
# What a view shows once it has loaded.
THERE = {
    "live": ".layers img",
    "review": ".choices",
    "parts": ".entry img",
    "threshold": ".around .thumb img",
    "train": ".train:has(section:first-child .field):has(option)",  # its parts load on their own
    "report": ".paper .part img",
}
BOTH = pytest.mark.parametrize("page", [{"locale": "en-GB"}, {"locale": "de-DE"}], ids=["en", "de"], indirect=True)
TOUCHED = pytest.mark.parametrize("page", [{"has_touch": True}], ids=["touch"], indirect=True)


@pytest.fixture(scope="module")
def server(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A station with parts of each verdict, some of them decided, and a long name."""
    name = "Line 3, station 12: brackets left and right, second shift"
    data = tmp_path_factory.mktemp("looks") / "station"
    server = Server(models, data, "--set", f"name={name}", "--set", "verdict.doubt=0.00003")
    with Client(server.url) as client:
        sent = [client.inspect(png(number), label=str(number), lot="A17") for number in (*range(12), *range(100, 112))]
        assert {part["verdict"] for part in sent} == {"pass", "reject", "doubt"}
        client.decide(sent[0]["id"], "pass", note="dust")
        client.inspect(png(DEFECTIVE), label=LONG, lot=LONG[::-1], camera="camera-station-12-left-hand-side-upper-row")
    yield server
    server.stop()


def opened(page: Any, server: Server, view: str) -> None:
    open_view(page, server, view)
    expect(page.locator(THERE[view]).first).to_be_visible()


@BOTH
def test_every_view_can_be_read_and_hit(page: Any, server: Server) -> None:
    for view in TABS:
        opened(page, server, view)
        looked_at(page, view)


@BOTH
def test_every_sheet_and_word_at_the_foot_can_be_read_and_hit(page: Any, server: Server) -> None:
    opened(page, server, "threshold")
    page.locator(".around .thumb").first.click()
    expect(page.locator("dialog .layers img").first).to_be_visible()
    looked_at(page, "one part large")
    page.keyboard.press("Escape")
    expect(page.locator("dialog")).to_have_count(0)
    page.locator(".handle").press("ArrowRight")
    page.locator(".apply").click()
    looked_at(page, "a question")
    page.keyboard.press("Escape")
    expect(page.locator("dialog")).to_have_count(0)
    opened(page, server, "live")
    page.locator("input[type=file]").set_input_files({"name": "x.png", "mimeType": "image/png", "buffer": b"none"})
    expect(page.locator(".told.bad")).to_be_visible()
    looked_at(page, "what went wrong")
    page.locator(".strip .thumb").nth(2).click()
    expect(page.locator(".hold button")).to_be_visible()
    looked_at(page, "a part held")


def test_tab_goes_through_every_view_in_order(page: Any, server: Server) -> None:
    for view in TABS:
        opened(page, server, view)
        tabbed_through(page, view)
    opened(page, server, "threshold")
    page.locator(".handle").press("ArrowRight")
    page.locator(".apply").focus()
    page.keyboard.press("Enter")
    tabbed_through(page, "a question")
    page.keyboard.press("Escape")
    expect(page.locator("dialog")).to_have_count(0)
    expect(page.locator(".apply")).to_be_focused()


def test_parts_within_the_band_of_doubt_are_marked_so(page: Any, server: Server) -> None:
    opened(page, server, "threshold")
    asked = page.request.get(f"{server.url}/api/threshold").json()
    for moved in (False, True):
        with page.expect_response("**/api/threshold/around*") as answer:
            page.locator(".handle").press("ArrowRight" if moved else "ArrowLeft")
        line = float(re.search(r"score=([^&]+)", answer.value.url)[1])
        around = answer.value.json()
        expected = []
        for side in (around["below"][::-1], around["above"]):
            expected += [abs(part["score"] - line) <= asked["doubt"] for part in side]
        assert True in expected and False in expected
        figures = page.locator(".around figure")
        expect(figures).to_have_count(len(expected))
        expect(page.locator(".around .mark")).to_have_text(["DOUBT"] * sum(expected))
        assert [figures.nth(n).locator(".mark .symbol.doubt").count() == 1 for n in range(len(expected))] == expected
    looked_at(page, "threshold, in doubt")


def test_signs_of_verdicts_have_shapes_of_their_own(page: Any, server: Server) -> None:
    opened(page, server, "report")
    signs = {kind: page.locator(f".figure .symbol.{kind}").evaluate("node => node.innerHTML") for kind in VERDICTS}
    shapes = [re.sub(r' (class|fill|stroke)="[^"]*"', "", sign) for sign in signs.values()]
    assert len(set(shapes)) == 3
    words = page.locator(".part .word").all_inner_texts()
    assert set(words) <= {"PASS", "REJECT", "DOUBT"}


def test_measuring_finds_what_is_wrong(page: Any, server: Server) -> None:
    """The measure itself: pale text, a pale edge, a small target, a verdict without a sign."""
    opened(page, server, "report")
    bad = '<p class="a">pale</p><p class="b">faded</p><button class="c">x</button><b class="word">PASS</b>'
    page.evaluate(f"document.querySelector('main').insertAdjacentHTML('afterbegin', `<div id=bad>{bad}</div>`)")
    page.evaluate("""() => {
        const style = (name, rules) => Object.assign(document.querySelector(`#bad .${name}`).style, rules);
        style('a', {color: '#999', background: '#fff'});
        style('b', {color: '#000', opacity: .3});
        style('c', {border: '1px solid #ccc', background: '#eef1f4', minHeight: '20px', height: '20px'});
    }""")
    found = {name: [one["what"][:8] for one in looks(page, name) if one["value"] < one["least"]] for name in MEASURES}
    assert found == {"texts": ['p.a "pal', 'p.b "fad'], "edges": ["button.c"], "targets": ["button.c"]}
    assert looks(page, "mute") == ["b.word"]


@TOUCHED
def test_a_long_name_leaves_the_counters_on_the_panel(page: Any, server: Server) -> None:
    opened(page, server, "live")
    expect(page.locator(".facts h1")).to_contain_text(LONG[:20])
    assert page.evaluate("(box => box.scrollHeight <= box.clientHeight)(document.querySelector('.column'))")
    assert page.evaluate("document.documentElement.scrollHeight") == PANEL["height"]


@TOUCHED
def test_the_choices_stay_where_they_are_from_part_to_part(page: Any, server: Server) -> None:
    opened(page, server, "review")
    places = set()
    for _ in range(page.locator(".strip .thumb").count()):
        box = page.locator("[data-choice=confirm]").bounding_box()
        places.add((round(box["x"]), round(box["y"]), round(box["width"]), round(box["height"])))
        page.get_by_role("button", name="Next part").tap()
    assert len(places) == 1


@TOUCHED
def test_a_finger_reviews_takes_back_and_leafs(page: Any, server: Server) -> None:
    sent = {part["label"]: part for part in send(server, *range(12, 24), label="touched ")}
    opened(page, server, "review")
    first = next(label for label, part in sent.items() if part["verdict"] == "reject")
    thumb = page.get_by_role("button", name=f"Part {first}:", exact=False)
    thumb.tap()
    expect(page.locator(".facts h1")).to_contain_text(first)
    page.locator("[data-choice=overrule]").tap()
    expect(page.locator(".told")).to_contain_text(f"Part {first}: PASS")
    with Client(server.url) as client:
        assert client.part(sent[first]["id"])["final"] == "pass"
    expect(page.locator(".facts h1")).not_to_contain_text(f"Part {first}")
    page.locator(".take-back button").tap()
    expect(page.locator(".told")).to_contain_text(f"Part {first} is open again")
    with Client(server.url) as client:
        part = client.part(sent[first]["id"])
        assert part["final"] == "reject" and part["decision"] is None
    before = page.locator(".facts h1").inner_text()
    page.get_by_role("button", name="Previous part").tap()
    expect(page.locator(".facts h1")).not_to_have_text(before)


@pytest.mark.parametrize("size", [PANEL, {"width": 800, "height": 1280}, {"width": 390, "height": 844}], ids=str)
def test_what_is_told_covers_no_control_and_ends_with_its_view(page: Any, server: Server, size: Any) -> None:
    page.set_viewport_size(size)
    send(server, *range(24, 30), label="told ")
    opened(page, server, "review")
    page.keyboard.press("Enter")
    expect(page.locator(".told")).to_be_visible()
    assert looks(page, "covered") == []
    left = """new Promise((tell) => {
        addEventListener("hashchange", () => tell(document.querySelectorAll(".told").length));
        location.hash = "live";
    })"""
    assert page.evaluate(left) == 0
    opened(page, server, "live")
    page.locator("input[type=file]").set_input_files({"name": "x.png", "mimeType": "image/png", "buffer": b"none"})
    expect(page.locator(".told.bad")).to_be_visible()
    assert looks(page, "covered") == []


def test_no_view_tells_of_one_part_and_shows_another(page: Any, server: Server) -> None:
    send(server, GOOD, DEFECTIVE, label="slow ")
    opened(page, server, "live")
    expect(page.locator(".facts h1")).to_contain_text(f"slow {DEFECTIVE}")
    page.route("**/photo", lambda route: (page.wait_for_timeout(600), route.continue_()))
    page.locator(".strip .thumb").nth(5).click()
    expect(page.locator(".facts h1")).not_to_contain_text("slow")
    told = page.locator(".facts h1 span").inner_text()
    expect(page.locator(".layers .gone")).to_have_text("Loading …")
    expect(page.locator(".layers img").first).to_have_attribute("alt", f"Picture of {told.replace('Part', 'part')}")
