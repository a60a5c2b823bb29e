"""`inspect --false-discovery`: all parts judged as one lot, as measure/conformal.py says, or refused in one line."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from command_helpers import refuse, rows, run, succeed

from flawmap.bundle import Bundle, load_bundle, save_bundle
from flawmap.deploy.lot import FILE, check_lot, judge_lot
from flawmap.errors import BundleError, DataError
from flawmap.measure.conformal import false_discoveries, p_value


@pytest.fixture(scope="module")
def knowing(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle with enough good parts for a lot of ten: 99 scores, below those of defective parts."""
    opened = load_bundle(trained)
    assert opened.threshold is not None
    scores = [opened.threshold.score * (number + 1) / 99 for number in range(99)]
    out = tmp_path_factory.mktemp("knowing") / "part.bundle"
    save_bundle(Bundle(opened.model, opened.recipe, opened.threshold, {"held_out_scores": scores}), out)
    return out


@pytest.mark.parametrize("share", ["10%", "0.3"])
def test_a_lot_is_judged_by_the_p_values_written(knowing: Path, metal: Path, tmp_path: Path, share: str) -> None:
    out = tmp_path / "found"
    shown = succeed("inspect", knowing, metal / "test", "--out", out, "--false-discovery", share)
    lot, results = rows(out / FILE), rows(out / "results.csv")
    assert list(lot[0]) == ["image", "p_value", "rejected"]
    assert [row["image"] for row in lot] == [row["image"] for row in results]
    assert [f"{float(row['p_value']):.6g}" for row in lot] == [row["p_value"] for row in results]
    good = load_bundle(knowing).provenance["held_out_scores"]
    chances = [p_value(float(row["score"]), good) for row in results]
    assert [float(row["p_value"]) for row in lot] == chances, "in full, as rounded ones need not add up to the verdicts"
    rate = 0.1 if share == "10%" else 0.3
    rejected = false_discoveries([float(row["p_value"]) for row in lot], rate)
    assert [row["rejected"] for row in lot] == [str(verdict).lower() for verdict in rejected]
    assert 5 <= sum(rejected) < 10  # both verdicts: all but the faintest defect are found
    wanted = f"as a lot: {sum(rejected)} of 10 parts rejected, at most {100 * rate:.0f} % of them good on average"
    assert f"{wanted}; {out / FILE}" in shown.splitlines()
    assert "are few for this lot" not in shown


def test_without_out_the_lot_is_said_and_no_file_written(knowing: Path, metal: Path, tmp_path: Path) -> None:
    images = shutil.copytree(metal / "test", tmp_path / "images")
    before = sorted(tmp_path.rglob("*"))
    (line,) = (
        line
        for line in succeed("inspect", knowing, images, "--false-discovery", "10%").splitlines()
        if line.startswith("as a lot: ")
    )
    assert line.endswith("of 10 parts rejected, at most 10 % of them good on average")
    assert sorted(tmp_path.rglob("*")) == before


def test_a_smaller_share_rejects_no_more(trained: Path, metal: Path, tmp_path: Path) -> None:
    found = []
    for number, share in enumerate(("1%", "30%", "60%")):
        out = tmp_path / str(number)
        succeed("inspect", trained, metal / "test", "--out", out, "--false-discovery", share)
        found.append({row["image"] for row in rows(out / FILE) if row["rejected"] == "true"})
    assert not found[0]  # 12 good parts never speak for one in a hundred
    assert found[1]
    assert found[1] <= found[2]


def test_an_image_that_cannot_be_read_takes_no_part_in_the_lot(knowing: Path, metal: Path, tmp_path: Path) -> None:
    images = shutil.copytree(metal / "test" / "good", tmp_path / "images")
    (images / "001.png").write_bytes(b"")
    result = run("inspect", knowing, images, "--out", tmp_path / "found", "--false-discovery", "10%")
    assert result.exit_code == 2
    assert "1 of 4 images could not be inspected" in result.stderr
    assert "as a lot: 0 of 3 parts rejected" in result.stdout
    names = [Path(row["image"]).name for row in rows(tmp_path / "found" / FILE)]
    assert names == ["000.png", "002.png", "003.png"]


def test_the_lot_of_an_earlier_run_does_not_stay_beside_new_results(knowing: Path, metal: Path, tmp_path: Path) -> None:
    words = ("inspect", knowing, metal / "test" / "good", "--out", tmp_path / "found")
    succeed(*words, "--false-discovery", "10%")
    assert (tmp_path / "found" / FILE).exists()
    succeed(*words, "--overwrite")
    assert not (tmp_path / "found" / FILE).exists()


def test_few_good_parts_are_remarked_on(trained: Path, metal: Path) -> None:
    """12 good parts give no p-value under 1/13."""
    words = ("inspect", trained, metal / "test", "--false-discovery")
    first = succeed(*words, "10%").splitlines()[0]
    assert first.startswith("12 good images are few for this lot, of which fewer than 8 of 10 parts are never")
    assert "none is ever rejected" in succeed(*words, "1%").splitlines()[0]


def test_a_bundle_without_scores_of_good_parts_judges_no_lot(trained: Path, metal: Path, tmp_path: Path) -> None:
    opened = load_bundle(trained)
    bare = tmp_path / "bare.bundle"
    save_bundle(Bundle(opened.model, opened.recipe, opened.threshold, {}), bare)
    words = ("inspect", bare, metal / "test", "--out", tmp_path / "found")
    assert "holds no scores of good images" in refuse(*words, "--false-discovery", "10%")
    assert not (tmp_path / "found").exists()
    succeed(*words)


@pytest.mark.parametrize("share", ["0", "1", "100%", "-5%", "nan", "few", "%", ""])
def test_what_is_no_share_is_refused_before_anything_is_inspected(
    knowing: Path, metal: Path, tmp_path: Path, share: str
) -> None:
    out = tmp_path / "found"
    line = refuse("inspect", knowing, metal / "test", "--out", out, f"--false-discovery={share}")
    assert line == f"flawmap: --false-discovery {share}: expected a share of rejected parts, as 0.5% or 0.005"
    assert not out.exists()


@pytest.mark.parametrize(
    ("good", "parts", "rate", "remark"),
    [
        (99, 10, 0.1, ""),
        (98, 10, 0.1, "fewer than 2 of 10 parts are never rejected"),
        (9, 10, 0.1, "fewer than 10 of 10 parts are never rejected"),
        (8, 10, 0.1, "none is ever rejected"),
    ],
)
def test_the_remark_says_how_few_parts_are_never_rejected(good: int, parts: int, rate: float, remark: str) -> None:
    said: list[str] = []
    check_lot([0.1] * good, parts, rate, said.append)
    assert len(said) == bool(remark)
    assert all(remark in line and line.startswith(f"{good} good images are few") for line in said)


def test_no_scores_and_no_room_are_errors_of_flawmap(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="no scores of good images"):
        check_lot([], 10, 0.1, print)
    with pytest.raises(DataError, match=r"cannot write .*lot\.csv: No such file"):
        judge_lot({"a.png": 0.1}, 0.1, tmp_path / "nowhere")


def test_a_file_name_that_is_no_unicode_is_written_as_it_is(tmp_path: Path) -> None:
    judge_lot({"\udcff.png": 0.01, "b.png": 0.9}, 0.1, tmp_path)
    lines = (tmp_path / FILE).read_bytes().split()
    assert lines == [b'"image","p_value","rejected"', b'"\xff.png","0.01","true"', b'"b.png","0.9","false"']
