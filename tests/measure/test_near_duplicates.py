"""Which training photos are near a test photo: by folder, by number in the name, by distance."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from flawmap.errors import ConfigError
from flawmap.measure.near_duplicates import (
    LeftOut,
    Near,
    by_distance,
    by_folder,
    by_number,
    number_in,
    parse_near,
    usual_rule,
)


def paths(*names: str) -> list[Path]:
    return [Path("data", name) for name in names]


@pytest.mark.parametrize(
    ("text", "rules", "tags"),
    [
        ("folder", [Near("folder")], ["folder"]),
        ("number:50,200,400", [Near("number", n) for n in (50, 200, 400)], ["50", "200", "400"]),
        ("number:200,200", [Near("number", 200)], ["200"]),
        ("number:0", [Near("number", 0)], ["0"]),
        ("features:0.01,0.5", [Near("features", q) for q in (0.01, 0.5)], ["features-0.01", "features-0.5"]),
    ],
)
def test_a_rule_is_read_and_names_its_files(text: str, rules: list[Near], tags: list[str]) -> None:
    found = parse_near(text)
    assert found == rules and [near.tag for near in found] == tags
    assert [parse_near(str(near)) for near in found] == [[near] for near in found]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "expected folder, number:200 or features:0.01"),
        ("folder:3", "expected folder"),
        ("numbers:200", "expected folder"),
        ("number", "whole numbers"),
        ("number:", "whole numbers"),
        ("number:-1", "whole numbers"),
        ("number:1.5", "whole numbers"),
        ("number:inf", "whole numbers"),
        ("number:50,many", "whole numbers"),
        ("features:0", "above 0 and below 1"),
        ("features:1", "above 0 and below 1"),
        ("features:nan", "above 0 and below 1"),
        ("features:0.01,2", "above 0 and below 1"),
    ],
)
def test_what_is_no_rule_is_refused_in_one_line(text: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said) as refused:
        parse_near(text)
    assert "\n" not in str(refused.value)


def test_the_last_number_counts_whatever_the_rest() -> None:
    assert number_in(Path("exp1_num_10181.jpg")) == 10181
    assert number_in(Path("2024/tile 7 (3).v2.png")) == 2
    train = paths("MT_Free/exp1_num_100.jpg", "MT_Free/exp6_num_300.jpg", "MT_Free/exp1_num_501.jpg")
    near = by_number(paths("MT_Crack/exp3_num_300.jpg"), train, 200)
    assert near.tolist() == [[True, True, False]]
    with pytest.raises(ConfigError, match=r"part\.png has no number in its name"):
        by_number(paths("part.png"), train, 200)
    with pytest.raises(ConfigError, match="no number"):
        by_number(train, paths("part.png"), 200)


def test_photos_of_one_folder_are_near() -> None:
    train = paths("a/1.png", "a/2.png", "b/1.png", "1.png")
    assert by_folder(paths("a/3.png", "c/1.png", "b/2.png"), train).tolist() == [
        [True, True, False, False],
        [False] * 4,
        [False, False, True, False],
    ]


def test_photos_closer_than_a_quantile_are_near_and_copies_always_are() -> None:
    away = np.array([[0.0, 1.0, 2.0], [3.0, 0.5, 9.0]])
    assert by_distance(away, np.arange(101.0) / 100, 0.5).tolist() == [[True, False, False], [False, True, False]]
    assert by_distance(away, np.zeros(10), 0.01)[0].tolist() == [True, False, False]
    assert by_distance(away[:, :1], np.zeros(0), 0.01)[:, 0].tolist() == [True, False], "of one training photo"


def test_folders_are_gone_by_where_there_are_several_and_test_photos_lie_beside_training_photos() -> None:
    several = paths("a/1.png", "b/1.png")
    assert usual_rule(paths("c/1.png", "b/2.png"), several) == Near("folder")
    assert usual_rule(paths("c/1.png"), several) == Near("features", 0.01)
    assert usual_rule(paths("a/2.png"), paths("a/1.png", "a/3.png")) == Near("features", 0.01)


def test_what_was_left_out_is_said() -> None:
    found = LeftOut(Near("number", 200), (0, 1, 5, 2, 0))
    assert "differs from its own by at most 200 (1 to 5, median 2, for 3 of 5 test photos)" in found.sentence
    assert "threshold are as trained" in found.sentence
    assert found.to_json() == {
        "near": "number:200", "photos": 5, "with_near_ones": 3, "left_out_median": 2, "left_out_most": 5,
        "note": found.sentence,
    }  # fmt: skip
    assert "in the same folder (3 for 2 of 2 test photos)" in LeftOut(Near("folder"), (3, 3)).sentence
    assert "1 % of all pairs" in LeftOut(Near("features", 0.01), (0,)).sentence
    assert "(there are none)" in LeftOut(Near("features", 0.01), (0,)).sentence
