"""The jury's table: means over seeds and sets, what is missing, what is kept, and the choice without a set."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

import jury
from jury_figures import MASKED, SETS, drawn_sets
from jury_states import (
    AUROC,
    State,
    compare,
    judged,
    leave_one_set_out,
    promise,
    rejection_limit,
    states,
    strict,
)
from jury_table import block, choices, comparison, put, report

EPYC, XEON = "AMD EPYC, 1 core, Python 3.11.7", "Intel(R) Xeon(R) Processor, 1 core, Python 3.11.7"
EVEN = dict.fromkeys(SETS, 0.8)


def run(name: str, seed: int, auroc: float, tag: str = "", recipe: str = "fast", **changed: Any) -> dict[str, Any]:
    """A result as bench/jury.py writes it; pixel AP is half the image AUROC."""
    masked = name in MASKED
    figures = {"image_auroc": auroc, "pixel_ap": auroc / 2 if masked else None, "aupro": 0.9 if masked else None}
    found = {
        "what": "jury", "measured": "2026-11-30T08:00:00+00:00",
        "set": name, "recipe": recipe, "tag": tag, "seed": seed,
        "commit": "abc1234", "machine": EPYC, "trained_by": "1 CPU threads", "good": 20, "defective": 10,
        "metrics": {name: {"value": value} for name, value in (figures | {"escape": 0.5, "overkill": 0.1}).items()},
        "at_overkill": {"1": {"escape": 0.6, "overkill": 0.0}}, "rejected_good": 2, "groups": 40,
        "threshold": {"supported": True, "note": ""}, "image": {"height": 256, "width": 256},
        "minutes": 6.0, "peak_memory_mb": 1000,
    }  # fmt: skip
    return found | changed


def state(aurocs: Mapping[str, float], tag: str = "", seeds: tuple[int, ...] = (0, 1, 2), **changed: Any) -> State:
    """A state with the same image AUROC for each seed."""
    results = [run(name, seed, auroc, tag, **changed) for name, auroc in aurocs.items() for seed in seeds]
    return State("fast", tag, results)


def cells(lines: list[str], first: str) -> list[str]:
    """What stands behind this first cell of the only row of a table that begins with it."""
    (found,) = (line for line in lines if line.startswith(f"| {first} |"))
    return [cell.strip() for cell in found.split("|")[2:-1]]


def tables(found: State) -> tuple[list[str], list[str]]:
    """The lines of a state's block about quality, and about thresholds."""
    lines = block(found)
    quality, limits = (number for number, line in enumerate(lines) if line.startswith("| set |"))
    return lines[quality:limits], lines[limits:]


def test_a_set_is_the_mean_over_its_seeds_with_their_range() -> None:
    found = State("fast", "", [run("mtoc", seed, auroc) for seed, auroc in ((0, 0.7), (1, 0.8), (2, 0.96))])
    mean = found.over_seeds("mtoc", AUROC)
    assert mean is not None
    assert mean == pytest.approx((0.82, 0.7, 0.96, 3, 3))
    outlines = ["0.410 [0.350, 0.480]", "0.900", "–"]  # SegF1 is not known
    row = ["256 × 256", "0.820 [0.700, 0.960]", *outlines, "6.0", "1000", "0, 1, 2"]
    assert cells(tables(found)[0], "mtoc") == row


def test_pixel_metrics_of_two_protocols_are_not_compared() -> None:
    old, new = (State("fast", tag, [run("mtoc", 0, 0.8)]) for tag in ("old", "new"))
    assert compare(old, new).differences == {"mtoc": (0.0, 0.0)}
    at_photo_size = State("fast", "new", [run("mtoc", 0, 0.8) | {"protocol": "full"}])
    assert compare(old, at_photo_size).differences == {"mtoc": (0.0, None)}
    assert any("protocol full" in line for line in block(at_photo_size))
    assert any("protocol network" in line for line in block(old)), "where a result does not say so"


def test_the_mean_weighs_sets_alike_however_many_seeds_they_have() -> None:
    results = [run("mtoc", seed, 0.6) for seed in (0, 1, 2)] + [run("kolektor", 0, 0.9), run("kolektor", 1, 1.0)]
    found = State("fast", "", results).over_sets(SETS, AUROC)
    assert found is not None
    assert found.value == pytest.approx((0.6 + 0.95) / 2)
    # over the seeds that both have: (0.6 + 0.9) / 2 and (0.6 + 1.0) / 2
    assert (found.low, found.high) == pytest.approx((0.75, 0.8))
    assert (found.measured, found.wanted) == (2, 6)


def test_pixel_ap_is_of_the_four_sets_with_masks_and_drawn_surfaces_stand_outside_the_mean() -> None:
    aurocs = dict(zip(SETS, (0.9, 0.8, 0.7, 0.6, 0.5, 0.4), strict=True))
    quality, limits = tables(state(aurocs | dict.fromkeys(drawn_sets(), 0.1)))
    mean = cells(quality, "**mean of six**")
    # kolektor 0.8, mtoc 0.7, bsdata 0.5, magnetic_tile 0.4, each halved
    assert (mean[1], mean[2], mean[-1]) == ("0.650", "0.300", "18 of 18 runs")
    for name in drawn_sets():
        assert cells(quality, name)[1] == "0.100"
        assert cells(limits, name)[0] == "50.0 % / 10.0 %"


def test_missing_runs_are_shown_and_the_mean_says_of_what_it_is() -> None:
    quality, limits = tables(State("fast", "", [run("mtoc", 1, 0.7), run("kolektor", 0, 0.9), run("kolektor", 2, 0.9)]))
    for lines in (quality, limits):
        for name in ("toy_figures", "bsdata", "elpv_poly", "magnetic_tile", ", ".join(drawn_sets())):
            assert cells(lines, name)[0] == "missing"
    assert (cells(quality, "mtoc")[-1], cells(quality, "kolektor")[-1]) == ("1; 0, 2 missing", "0, 2; 1 missing")
    mean = cells(quality, "**mean of six**")
    assert (mean[1], mean[2], mean[-1]) == ("0.800 (2 of 6 sets)", "0.400 (2 of 4 sets)", "3 of 18 runs")
    assert cells(limits, "**mean of six**")[-2] == "2 of 6 sets"


def test_magnetic_tile_counts_without_photos_of_the_same_tile_where_all_its_runs_know_that() -> None:
    near = {"without_near_duplicates": {"200": {"image_auroc": {"value": 0.5}, "pixel_ap": {"value": 0.1}}}}
    others = [run(name, 0, 0.8) for name in SETS if name != "magnetic_tile"]
    known = State("fast", "", [*others, run("magnetic_tile", 0, 0.8, **near)])
    assert known.has_strict()
    mean = known.over_sets(judged(SETS, True), AUROC)
    assert mean is not None
    assert mean.value == pytest.approx((5 * 0.8 + 0.5) / 6)
    quality, _ = tables(known)
    assert cells(quality, strict(200))[1:3] == ["0.500", "0.100"]
    # (5 × 0.8 + 0.5) / 6, (3 × 0.4 + 0.1) / 4
    assert cells(quality, f"**mean of six**, {strict(200)}")[1:3] == ["0.750", "0.325"]
    assert cells(quality, "**mean of six**")[1:3] == ["0.800", "0.400"]
    half = State("fast", "", [*others, run("magnetic_tile", 0, 0.8, **near), run("magnetic_tile", 1, 0.8)])
    assert not half.has_strict()
    found = compare(known, state(EVEN, "new", (0,)))
    assert not found.by_tile  # only one of them knows it
    assert found.mean(0) == pytest.approx(0)
    both = compare(known, State("fast", "new", [*others, run("magnetic_tile", 0, 0.9, **near)]))
    assert both.by_tile
    assert both.mean(0) == pytest.approx(0)


@pytest.mark.parametrize("good", [20, 41, 95, 113])
def test_the_limit_is_the_95_percent_point_of_the_binomial(good: int) -> None:
    chance = [math.comb(good, k) * 0.15**k * 0.85 ** (good - k) for k in range(good + 1)]
    limit = rejection_limit(good)
    assert sum(chance[:limit]) < 0.95 <= sum(chance[: limit + 1])


def test_a_promise_is_kept_by_each_seed_or_refused_with_too_few_groups() -> None:
    def found(*runs: dict[str, Any]) -> str:
        results = [run("mtoc", seed, 0.8, **changed) for seed, changed in enumerate(runs)]
        return promise(State("fast", "", results), "mtoc")

    unsupported = {"supported": False, "note": "too few"}
    assert rejection_limit(20) == 6
    assert found({"rejected_good": 5}, {"rejected_good": 0}) == "yes"
    assert found({"rejected_good": 5}, {"rejected_good": 6}) == "no"
    assert found({"rejected_good": 20, "threshold": unsupported, "groups": 18}) == "refused"
    assert found({"rejected_good": 20, "threshold": unsupported, "groups": 19}) == "no"
    assert found({"rejected_good": 20, "groups": 18}) == "no"  # it was promised all the same
    assert found({"rejected_good": None}) == ""
    _, limits = tables(state(EVEN | {"drawn-wood": 0.9}))
    shares = ["50.0 % / 10.0 %", "60.0 % / 0.0 %", "– / –", "– / –"]  # at the threshold, at 1, 2 and 5 %
    assert cells(limits, "mtoc") == [*shares, "2, 2, 2 of 20 (limit 6)", "yes"]
    assert cells(limits, "**mean of six**") == [*shares, "6 of 6 sets", "6 yes, 0 no, 0 refused"]


def test_a_change_is_kept_if_it_helps_in_the_mean_and_costs_no_row_much() -> None:
    drawn = dict.fromkeys(drawn_sets(), 0.9)
    old = state(EVEN | drawn, "before")

    def with_(changed: Mapping[str, float]) -> str:
        return compare(old, state(EVEN | drawn | dict(changed))).verdict()

    assert with_({"mtoc": 0.9}) == "kept"
    assert with_({"mtoc": 0.9, "kolektor": 0.79}) == "kept"
    assert with_({"mtoc": 0.9, "kolektor": 0.789}) == "not kept"
    assert with_({"mtoc": 0.9, "drawn-wood": 0.88}) == "not kept"
    assert with_({"mtoc": 0.79}) == "not kept"
    assert with_({}) == "not kept"


def test_a_better_outline_is_kept_where_image_auroc_stays() -> None:
    def outlined(pixel_ap: float) -> State:
        results = [run(name, seed, 0.8) for name in (*SETS, *drawn_sets()) for seed in (0, 1, 2)]
        for result in results:
            result["metrics"]["pixel_ap"]["value"] = pixel_ap if result["set"] in MASKED else None
        return State("fast", "", results)

    assert compare(outlined(0.4), outlined(0.5)).verdict() == "kept"
    assert compare(outlined(0.5), outlined(0.4)).verdict() == "not kept"


def test_a_comparison_is_open_while_runs_are_missing_and_pairs_seeds() -> None:
    old = state(EVEN, "before")
    five = {name: value for name, value in EVEN.items() if name != "mtoc"}
    assert compare(old, state(five)).verdict() == "open: no common run on mtoc"
    one = compare(old, state(EVEN | {"mtoc": 0.9}, "new", (1,)))
    assert one.verdict() == "open, 1 of 3 seeds; by these alone kept"
    assert compare(old, state(EVEN | {"mtoc": 0.9})).verdict().startswith("kept, but not measured on drawn-")
    uneven = State("fast", "before", [run("mtoc", 0, 0.2), run("mtoc", 1, 0.8)])
    found = compare(uneven, State("fast", "", [run("mtoc", 1, 0.9), run("mtoc", 2, 0.1)]))
    assert found.differences["mtoc"] == pytest.approx((0.1, 0.05))  # seed 1 alone
    text = comparison(found)
    assert cells(text, "mtoc") == ["0.800", "0.900", "+0.100", "0.400 → 0.450", "+0.050", "1"]
    assert cells(text, "bsdata")[0] == "missing"


def test_a_comparison_says_how_far_and_if_processors_differ() -> None:
    old, new = state(EVEN, "before"), state(dict.fromkeys(SETS, 0.9))
    text = comparison(compare(old, new))
    # from 0.8 to 0.9 is half of what lacks; 0.45 / 0.40
    assert "Mean image AUROC closes 50 % of its distance to 1; mean pixel AP is 1.12 times as high." in text
    assert cells(text, "**mean of six**") == ["", "", "+0.100", "", "+0.050", ""]
    assert "Least favourable row: toy_figures, +0.100 image AUROC." in text
    assert not any("kind of processor" in line for line in text)
    other = state(dict.fromkeys(SETS, 0.9), machine=XEON)
    assert "**They were not measured on one kind of processor.**" in comparison(compare(old, other))


def test_each_set_is_measured_with_what_the_others_choose() -> None:
    # a is 0.80 everywhere; b wins by mtoc alone: 0.79 elsewhere and 0.95 on mtoc
    a, b = state(EVEN, "a"), state(dict.fromkeys(SETS, 0.79) | {"mtoc": 0.95}, "b")
    found = leave_one_set_out([a, b])
    assert found.overall == "fast-b"  # (5 × 0.79 + 0.95) / 6 = 0.817
    by_set = {choice.left_out: choice for choice in found.by_set}
    assert list(by_set) == list(SETS)
    assert by_set["mtoc"].chosen == "fast-a"  # without mtoc 0.80 against 0.79
    assert by_set["mtoc"][2:4] == pytest.approx((0.8, 0.8))
    assert by_set["mtoc"].best == "fast-b"
    assert by_set["mtoc"].best_auroc == pytest.approx(0.95)
    assert by_set["bsdata"].chosen == "fast-b"  # (4 × 0.79 + 0.95) / 5 = 0.822
    assert by_set["bsdata"][2:5] == pytest.approx((0.822, 0.79, 0.395))
    assert by_set["toy_figures"].pixel_ap is None
    text = choices(found)
    assert cells(text, "mtoc") == ["fast-a", "0.800", "0.800", "0.400", "0.950 (fast-b)"]
    # (5 × 0.79 + 0.80) / 6, pixel AP (3 × 0.395 + 0.40) / 4, best (5 × 0.80 + 0.95) / 6
    assert cells(text, "**mean of six**")[2:] == ["0.792", "0.396", "0.825"]
    assert text[-1] == "By all six: fast-b. Seeds that all candidates have: 0, 1, 2."


def test_candidates_are_chosen_from_by_common_seeds_and_with_all_sets() -> None:
    a = State("fast", "a", [run(name, seed, 0.8 if seed == 0 else 0.1) for name in SETS for seed in (0, 1)])
    b = state(dict.fromkeys(SETS, 0.7), "b", (0, 2))
    part = state({"mtoc": 1.0}, "c", (0,))
    found = leave_one_set_out([a, b, part])
    assert (found.overall, found.seeds) == ("fast-a", [0])
    assert list(found.lacking) == ["fast-c"]
    text = choices(found)
    assert "Not chosen from: fast-c, which lacks toy_figures, kolektor, elpv_poly, bsdata, magnetic_tile." in text
    none = choices(leave_one_set_out([b, part]))
    assert none[-1] == "Missing: no two candidates with a common seed on all six sets."


def test_states_are_compared_with_the_one_before_them() -> None:
    names = [("fast", "before"), ("fast", ""), ("fast", "bank"), ("accurate", ""), ("accurate", "fine")]
    found = states(run("mtoc", 0, 0.8, tag, recipe) for recipe, tag in names)
    assert jury.against_before(found) == [
        ("fast", "accurate"),
        ("accurate", "accurate-fine"),
        ("fast-before", "fast"),
        ("fast-before", "fast-bank"),
    ]
    assert jury.against_before(states([run("mtoc", 0, 0.8)])) == []


def test_what_is_written_by_hand_stays_around_the_generated_parts(tmp_path: Path) -> None:
    page = tmp_path / "jury.md"
    put(page, {"states": ["old"], "choices": ["one"]})
    text = page.read_text(encoding="utf-8")
    page.write_text(f"Before.\n\n{text}\nAfter.\n".replace("<!-- end: states -->", "<!-- end: states -->\nBetween."))
    put(page, {"states": ["new", "lines"], "choices": ["two"], "comparisons": ["more"]})
    assert page.read_text(encoding="utf-8") == (
        "Before.\n\n# The jury\n\n<!-- generated: states -->\n\nnew\nlines\n\n<!-- end: states -->\nBetween.\n\n"
        "<!-- generated: choices -->\n\ntwo\n\n<!-- end: choices -->\n\nAfter.\n\n"
        "<!-- generated: comparisons -->\n\nmore\n\n<!-- end: comparisons -->\n"
    )
    page.write_text("<!-- generated: states -->\nmine\n", encoding="utf-8")
    with pytest.raises(SystemExit, match="must stand there once"):
        put(page, {"states": ["new"]})
    assert page.read_text(encoding="utf-8") == "<!-- generated: states -->\nmine\n"


def test_without_data_the_table_is_printed_and_written_when_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "jury.md"
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(jury.signal, "signal", lambda *_: None)

    def main(*words: str) -> str:
        monkeypatch.setattr(sys, "argv", ["jury.py", "--out", str(tmp_path / "out"), "--page", str(page), *words])
        assert jury.main() == 0
        return capsys.readouterr().out

    assert "Nothing is measured yet." in main()
    (tmp_path / "out").mkdir()
    for tag, auroc in (("before", 0.7), ("", 0.8)):
        text = json.dumps(run("mtoc", 0, auroc, tag))
        (tmp_path / "out" / f"mtoc-fast-{tag}-seed0.json").write_text(text, encoding="utf-8")
    shown = main()
    assert not page.exists()
    assert "### fast against fast-before: open: no common run on toy_figures, kolektor" in shown
    main("--write", "--compare", "fast,fast-before")
    assert "### fast-before against fast: open" in page.read_text(encoding="utf-8")
    with pytest.raises(SystemExit, match="no results of slow; there are: fast, fast-before"):
        main("--candidates", "slow,fast")


def test_the_page_of_the_project_has_its_parts_to_be_generated() -> None:
    text = jury.PAGE.read_text(encoding="utf-8")
    for name in report({}, [], []):
        assert text.count(f"<!-- generated: {name} -->") == text.count(f"<!-- end: {name} -->") == 1
