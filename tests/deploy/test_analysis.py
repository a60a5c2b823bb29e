"""What the commands do, from Python: `flawmap.detection_limits` and others do the same, with text for paths."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from command_helpers import rows, succeed

import flawmap
from flawmap.errors import BundleError, ConfigError, DataError, FlawmapError, LayoutError


def test_detection_limits_are_those_of_the_command(trained: Path, metal: Path, tmp_path: Path) -> None:
    good = str(metal / "test" / "good")
    found = flawmap.detection_limits(
        str(trained), good, str(tmp_path / "by function"), sizes=[4, 16], contrasts=[0.4], photos=3, device="cpu"
    )
    succeed("limits", trained, good, "--out", tmp_path / "by command", "--sizes", "4,16", "--contrasts", "40%",
            "--photos", 3, "--device", "cpu")  # fmt: skip
    assert rows(tmp_path / "by function" / "trials.csv") == rows(tmp_path / "by command" / "trials.csv")
    assert len(found.trials) == len(rows(tmp_path / "by function" / "trials.csv"))
    assert str(found).startswith("contrast")
    with pytest.raises(DataError, match="overwrite"):
        flawmap.detection_limits(trained, good, tmp_path / "by function", sizes=[4], contrasts=[0.4])


def test_repeatability_is_that_of_the_command(trained: Path, metal: Path, tmp_path: Path) -> None:
    good = metal / "test" / "good"
    found = flawmap.repeatability(flawmap.load(trained, "cpu"), [str(path) for path in sorted(good.iterdir())], shots=2)
    succeed("repeat", trained, good, "--shots", 2, "--out", tmp_path / "out", "--device", "cpu")
    told = json.loads((tmp_path / "out" / "repeat.json").read_text())
    assert {name: told[name] for name in vars(found)} == pytest.approx(vars(found))
    parts = tmp_path / "parts"
    for name in "ab":
        shutil.copytree(good, parts / name)
    assert flawmap.repeatability(str(trained), str(parts), str(tmp_path / "folders"), device="cpu").parts == 2
    assert (tmp_path / "folders" / "index.html").exists()


def test_a_drift_check_says_what_the_command_says(trained: Path, metal: Path, tmp_path: Path) -> None:
    checked = flawmap.drift_check(str(trained), str(metal / "test"), str(tmp_path / "photos.csv"), device="cpu")
    assert len(checked.photos) == len(rows(tmp_path / "photos.csv")) == 10
    assert f"{len(checked.odd)} of 10 photos are odd by themselves, 0 failed" in str(checked)
    told = succeed("check", trained, metal / "train", "--device", "cpu")
    assert str(flawmap.drift_check(trained, metal / "train", device="cpu")).split(";")[0] in told
    (tmp_path / "broken.png").write_bytes(b"no image")
    assert "not an image" in flawmap.drift_check(trained, [tmp_path / "broken.png"], device="cpu").failed[0].error


def test_explain_writes_a_picture_or_a_sheet(trained: Path, metal: Path, tmp_path: Path) -> None:
    photo = sorted((metal / "test").rglob("*.png"))[0]
    for name in ("why.png", "why.html"):
        found = flawmap.explain(str(trained), str(photo), str(tmp_path / name), device="cpu")
        assert (tmp_path / name).stat().st_size > 1000
    assert found.score == flawmap.load(trained, "cpu").inspect(photo).score
    assert found.provenance["bundle"] == str(trained)
    assert flawmap.explain(flawmap.load(trained, "cpu"), photo).verdict == found.verdict


def test_outliers_are_the_suspects_of_a_bundle_or_of_photos(trained: Path, metal: Path) -> None:
    of_bundle = flawmap.outliers(str(trained))
    assert len(of_bundle) == 12 and of_bundle == sorted(of_bundle, key=lambda each: -each.score)
    assert flawmap.outliers(flawmap.load_bundle(str(trained)), top=3) == of_bundle[:3]
    before = flawmap.outliers(str(metal), 3, config="demo", device="cpu")
    said = succeed("suspects", metal, "--config", "demo", "--top", 3, "--device", "cpu")
    assert [Path(each.image).name for each in before] == [
        Path(line.split()[-1]).name for line in said.splitlines()[-4:-1]
    ]


def test_export_takes_text_for_paths(trained: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no export to tensorrt"):
        flawmap.export(str(trained), "tensorrt", str(tmp_path / "part.engine"))
    assert flawmap.export is flawmap.export_bundle


@pytest.mark.parametrize(
    ("ask", "error", "cure"),
    [
        (lambda bundle, data: flawmap.detection_limits(bundle, data, sizes=[]), ConfigError, "numbers of pixels"),
        (lambda bundle, data: flawmap.detection_limits(bundle, data, sizes=[-1]), ConfigError, "above 0"),
        (lambda bundle, data: flawmap.detection_limits(bundle, data, contrasts=[5]), ConfigError, "between 0 and 1"),
        (lambda bundle, data: flawmap.detection_limits(bundle, data, shape="cube"), ConfigError, "there are: spot"),
        (lambda bundle, data: flawmap.detection_limits(bundle, data, photos=1), ConfigError, "2 or more"),
        (lambda bundle, data: flawmap.detection_limits(bundle, "nowhere"), DataError, "no such file or folder"),
        (lambda bundle, data: flawmap.repeatability(bundle, data, shots=1), ConfigError, "two or more"),
        (lambda bundle, data: flawmap.repeatability(bundle, data, shots=3, noise=2), ConfigError, "below 1"),
        (lambda bundle, data: flawmap.repeatability(bundle, [data]), ConfigError, "folder of shots"),
        (lambda bundle, data: flawmap.repeatability(bundle, data + "/test"), LayoutError, "one photo|folder"),
        (lambda bundle, data: flawmap.explain(bundle, data, "why.pdf"), ConfigError, r"\.png, \.jpg, \.html"),
        (lambda bundle, data: flawmap.explain(bundle, "nowhere.png"), FlawmapError, "no such file"),
        (lambda bundle, data: flawmap.drift_check("nowhere", data), BundleError, "nowhere"),
        (lambda bundle, data: flawmap.outliers("nowhere"), LayoutError, "no such folder"),
    ],
)
def test_mistakes_are_one_line_that_says_what_to_do(
    ask: Callable[[str, str], Any], error: type[FlawmapError], cure: str, trained: Path, metal: Path,
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error, match=cure) as raised:
        ask(str(trained), str(metal))
    assert "\n" not in str(raised.value)


def test_text_serves_as_a_path_in_the_whole_public_api(trained: Path, metal: Path, tmp_path: Path) -> None:
    bundle = flawmap.load_bundle(str(trained))
    flawmap.save_bundle(bundle, str(tmp_path / "copy.bundle"))
    flawmap.save_general(bundle.model.discrete, str(tmp_path / "general.safetensors"))
    flawmap.load_general(str(tmp_path / "general.safetensors"))
    listing = flawmap.read_layout(str(metal))
    flawmap.evaluate(flawmap.load(str(trained), "cpu"), listing, str(tmp_path / "measured"))
    assert (tmp_path / "measured" / "metrics.json").exists()
    recipe = flawmap.load_recipe(str(Path(__file__).parents[1] / "tiny.toml"))
    photos = [str(path) for path in sorted((metal / "train" / "good").iterdir())]
    general = flawmap.pretrain(photos, recipe, str(tmp_path / "pretraining"), quiet=True)
    flawmap.train_bundle(listing, recipe, str(tmp_path / "new.bundle"), general=general, quiet=True)
    assert (tmp_path / "new.bundle" / "weights.safetensors").exists()
