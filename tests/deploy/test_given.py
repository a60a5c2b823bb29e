"""What the public functions are given: folders, text and arrays where they serve, one line for all else."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import flawmap
from flawmap.data.images import read_pixels
from flawmap.errors import BundleError, ConfigError, DataError, FlawmapError, ImageError, LayoutError

TINY = str(Path(__file__).parents[1] / "tiny.toml")


def test_evaluate_takes_folders_for_bundle_and_photos(trained: Path, metal: Path, tmp_path: Path) -> None:
    listing = flawmap.read_layout(metal)
    want = flawmap.evaluate(flawmap.load(trained, "cpu"), listing).to_json()
    told: list[str] = []
    for bundle in (str(trained), trained, flawmap.load_bundle(trained)):
        for photos in (str(metal), metal, listing):
            assert flawmap.evaluate(bundle, photos, say=told.append).to_json() == want
    assert told == [*listing.notes] * 6
    flawmap.evaluate(str(trained), str(metal), str(tmp_path / "out"))
    assert json.loads((tmp_path / "out" / "metrics.json").read_text()) == json.loads(json.dumps(want))


def test_train_bundle_takes_folders_and_names(metal: Path, tmp_path: Path) -> None:
    (tmp_path / "bad").mkdir()
    for path in (metal / "test").rglob("*.png"):
        if path.parent.name != "good":
            (tmp_path / "bad" / f"{path.parent.name}.png").write_bytes(path.read_bytes())
    recipe = flawmap.load_recipe(TINY)
    photos = metal / "train" / "good"
    general = flawmap.pretrain(str(photos), recipe, str(tmp_path / "pretraining"), quiet=True)
    flawmap.save_general(general, str(tmp_path / "general.safetensors"), dtype="float32")
    told: list[str] = []
    made = flawmap.train_bundle(
        str(metal), TINY, str(tmp_path / "a.bundle"), general=str(tmp_path / "general.safetensors"),
        defects=str(tmp_path / "bad"), quiet=True, say=told.append,
    )  # fmt: skip
    listing = flawmap.read_layout(metal)
    assert all(note in told for note in listing.notes)
    assert len(made.provenance["real_defects"]) == 6
    assert made.recipe == flawmap.load_bundle(str(tmp_path / "a.bundle")).recipe


def test_explain_takes_what_inspect_takes(trained: Path, metal: Path, tmp_path: Path) -> None:
    photo = sorted((metal / "test").rglob("*.png"))[0]
    inspector = flawmap.load(trained, "cpu")
    want = inspector.inspect(photo).score
    pixels = read_pixels(photo)
    with Image.open(photo) as image:
        of_file = flawmap.explain(inspector, image)
    forms = [photo.read_bytes(), pixels, flawmap.load_bundle(trained)]
    for form in forms[:2]:
        assert flawmap.explain(inspector, form, str(tmp_path / "why.png"), overwrite=True).score == want
    assert flawmap.explain(forms[2], np.ascontiguousarray(pixels[:, :, ::-1]), order="rgb", device="cpu").score == want
    assert of_file.score == want and of_file.sha256 == flawmap.explain(inspector, photo).sha256
    assert flawmap.explain(inspector, pixels).image == "image array"
    with pytest.raises(ImageError, match="not list"):
        flawmap.explain(inspector, [1, 2])  # type: ignore[arg-type]


def test_a_bundle_in_memory_serves_where_its_folder_does(trained: Path, metal: Path) -> None:
    bundle, good = flawmap.load_bundle(trained), metal / "test" / "good"
    assert flawmap.detection_limits(bundle, good, sizes=[4], contrasts=[0.4], photos=2, device="cpu").trials
    assert flawmap.repeatability(bundle, good, shots=2, device="cpu").parts == 4
    assert flawmap.drift_check(bundle, [good], device="cpu").photos and flawmap.outliers(bundle)


def test_an_evaluation_that_is_refused_leaves_no_folder(trained: Path, metal: Path, tmp_path: Path) -> None:
    shutil.copytree(metal, tmp_path / "metal")
    broken = sorted((tmp_path / "metal" / "test").rglob("*.png"))[0]
    broken.write_bytes(b"no image")
    (tmp_path / "kept").mkdir()
    for out in ("a", "b/c", "kept"):
        with pytest.raises(ImageError):
            flawmap.evaluate(trained, tmp_path / "metal", tmp_path / out)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["kept", "metal"]


LONG = "x" * 300
BASE64 = "iVBORw0KGgo" * 400

NAMES: dict[str, tuple[Callable[[str, str, Any], Any], type[FlawmapError]]] = {
    "load": (lambda b, d, x: flawmap.load(x), BundleError),
    "load_bundle": (lambda b, d, x: flawmap.load_bundle(x), BundleError),
    "load_general": (lambda b, d, x: flawmap.load_general(x), BundleError),
    "load_recipe": (lambda b, d, x: flawmap.load_recipe(x), ConfigError),
    "read_layout": (lambda b, d, x: flawmap.read_layout(x), LayoutError),
    "category": (lambda b, d, x: flawmap.read_layout(d, category=x), LayoutError),
    "evaluate bundle": (lambda b, d, x: flawmap.evaluate(x, d), BundleError),
    "evaluate photos": (lambda b, d, x: flawmap.evaluate(b, x), LayoutError),
    "train photos": (lambda b, d, x: flawmap.train_bundle(x, TINY, "new.bundle"), LayoutError),
    "train recipe": (lambda b, d, x: flawmap.train_bundle(d, x, "new.bundle"), ConfigError),
    "train out": (lambda b, d, x: flawmap.train_bundle(d, TINY, x), FlawmapError),
    "train defects": (lambda b, d, x: flawmap.train_bundle(d, TINY, "new.bundle", defects=x), LayoutError),
    "train general": (lambda b, d, x: flawmap.train_bundle(d, TINY, "new.bundle", general=x), BundleError),
    "pretrain": (lambda b, d, x: flawmap.pretrain([x], flawmap.load_recipe(TINY), "run"), DataError),
    "limits bundle": (lambda b, d, x: flawmap.detection_limits(x, d), BundleError),
    "limits photos": (lambda b, d, x: flawmap.detection_limits(b, x), DataError),
    "repeat": (lambda b, d, x: flawmap.repeatability(b, x), DataError),
    "repeat shots": (lambda b, d, x: flawmap.repeatability(b, x, shots=2), DataError),
    "check": (lambda b, d, x: flawmap.drift_check(b, x), DataError),
    "check bundle": (lambda b, d, x: flawmap.drift_check(x, d), BundleError),
    "outliers": (lambda b, d, x: flawmap.outliers(x), DataError),
    "export": (lambda b, d, x: flawmap.export(x, "onnx"), BundleError),
    "explain": (lambda b, d, x: flawmap.explain(b, x), ImageError),
    "masks labels": (lambda b, d, x: flawmap.write_masks(x, d, "masks"), DataError),
    "masks photos": (lambda b, d, x: flawmap.write_masks(d, x, "masks"), DataError),
    "inspect": (lambda b, d, x: flawmap.load(b, "cpu").inspect(x), ImageError),
}  # fmt: skip


@pytest.mark.parametrize("given", [LONG, BASE64, "nowhere", "no\0where", 5, True, None, 2.5])
@pytest.mark.parametrize("name", NAMES)
def test_what_is_no_place_is_one_line(
    name: str, given: Any, trained: Path, metal: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if given is None and name in ("category", "train general", "train defects", "load_general", "load_recipe"):
        pytest.skip("none is meant")
    if given == "nowhere" and name == "train out":
        pytest.skip("a place for it")
    monkeypatch.chdir(tmp_path)
    ask, error = NAMES[name]
    with pytest.raises(error) as raised:
        ask(str(trained), str(metal), given)
    message = str(raised.value)
    assert "\n" not in message and "\0" not in message and len(message) < 300, message
    assert not list(tmp_path.glob("new.bundle*"))


@pytest.mark.parametrize(
    "ask",
    [
        lambda b, d: flawmap.load(b, smallest=True),
        lambda b, d: flawmap.load(b, smallest=-1),
        lambda b, d: flawmap.load(b, smallest=2.5),
        lambda b, d: flawmap.load(b, smallest="20"),
        lambda b, d: flawmap.load(b, threads=True),
        lambda b, d: flawmap.load(b, "cpu").inspect_many([d], batch=True),
        lambda b, d: flawmap.detection_limits(b, d, photos=True),
        lambda b, d: flawmap.detection_limits(b, d, seed=True),
        lambda b, d: flawmap.detection_limits(b, d, sizes=[True]),
        lambda b, d: flawmap.detection_limits(b, d, sizes="4"),
        lambda b, d: flawmap.detection_limits(b, d, contrasts=0.4),
        lambda b, d: flawmap.repeatability(b, d, shots=True),
        lambda b, d: flawmap.repeatability(b, d, shots=2, shift=True),
        lambda b, d: flawmap.repeatability(b, d, shots=2, noise="a"),
        lambda b, d: flawmap.outliers(b, top=True),
        lambda b, d: flawmap.train_bundle(d, TINY, "new.bundle", minutes=True),
        lambda b, d: flawmap.train_bundle(d, TINY, "new.bundle", minutes="3"),
    ],
)
def test_true_is_no_number(
    ask: Callable[[str, str], Any], trained: Path, metal: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=r"expected a (whole )?(number|list of numbers)") as raised:
        ask(str(trained), str(metal))
    assert "\n" not in str(raised.value)
