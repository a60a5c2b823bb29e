"""`train --ms`: the better recipe that is fast enough here, measured untrained, said, and kept in the bundle."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from command_helpers import refuse, run, succeed
from deploy_helpers import TINY

from flawmap.bundle import load_bundle
from flawmap.config import Recipe, load_recipe
from flawmap.data.images import write_image
from flawmap.data.surfaces import write_sample_parts
from flawmap.deploy import recipe_choice
from flawmap.deploy.recipe_choice import Timing, choose_recipe, measure, untrained
from flawmap.deploy.runtimes import TorchRuntime
from flawmap.devices import has_fast_bfloat16
from flawmap.errors import BundleError, ConfigError
from flawmap.model.familiarity import HIGH, LOW

REMEMBERING = ['model.norm="batch"', "refine.steps=0", 'model.familiarity=["imagenet", "imagenet_high"]']
# `accurate` and `fast` of the smallest size that their prior allows.
SMALL = [
    "image.height=64", "image.width=64", "detect.steps=2", "detect.batch=2", "detect.crop=64", "few.steps=2",
    "model.memory=20", "run.threads=1", "run.device=cpu", "threshold.held_out_min=2", "threshold.smallest_found=false",
]  # fmt: skip


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    write_image(tmp_path / "part.png", np.random.default_rng(0).integers(0, 255, (70, 90, 3), np.uint8))
    return tmp_path / "part.png"


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """`accurate` takes 80 ms and `fast` 40; the names of what was measured."""
    measured: list[str] = []

    def told(name: str, recipe: Recipe, photo: Path, say: object) -> Timing:
        measured.append(name)
        return Timing(name, {"accurate": 80.0, "fast": 40.0}[name], "openvino", "bfloat16")

    monkeypatch.setattr(recipe_choice, "measure", told)
    return measured


@pytest.mark.parametrize(
    ("ms", "recipe", "measured"),
    [(80.0, "accurate", ["accurate"]), (79.9, "fast", ["accurate", "fast"]), (40.0, "fast", ["accurate", "fast"])],
)
def test_the_first_that_is_fast_enough_is_taken(
    ms: float, recipe: str, measured: list[str], photo: Path, scripted: list[str]
) -> None:
    said: list[str] = []
    found = choose_recipe(("accurate", "fast"), load_recipe, ms, photo, said.append)
    assert (found.recipe, scripted) == (recipe, measured)
    assert said[-1] == (
        f"{recipe} takes {found.ms:.1f} ms a part by openvino in bfloat16, from file to verdict "
        f"(asked for: {ms:g} ms at most)"
    )
    assert found.facts(ms) == {
        "recipe": recipe, "asked_ms": ms, "measured_ms": found.ms, "runtime": "openvino", "precision": "bfloat16",
    }  # fmt: skip


def test_where_none_is_fast_enough_one_line_has_the_time_of_the_fastest(photo: Path, scripted: list[str]) -> None:
    with pytest.raises(ConfigError) as raised:
        choose_recipe(("accurate", "fast"), load_recipe, 39.0, photo, lambda line: None)
    assert str(raised.value) == (
        "no recipe needs at most 39 ms a part on this machine: fast takes 40.0 ms a part by openvino in bfloat16, the "
        "least of all; give more --ms, or a smaller --set image.size"
    )


def test_an_untrained_bundle_has_full_memory_banks_and_the_same_weights_each_time() -> None:
    recipe = load_recipe(TINY, [*REMEMBERING, "model.memory=30", "model.components=16"])
    bundle = untrained(recipe)
    assert bundle.model.familiarity is not None and bundle.threshold is not None
    banks = {name: density.memory for name, density in bundle.model.familiarity.named_densities()}
    assert {name: tuple(bank.shape) for name, bank in banks.items() if bank is not None} == {
        LOW: (30, 16),
        HIGH: (30, 16),
    }
    again = untrained(recipe).model.state_dict()
    assert all(torch.equal(tensor, again[name]) for name, tensor in bundle.model.state_dict().items())


def test_the_fastest_runtime_and_precision_count(photo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([30.0, 10.0, 20.0])

    def runtimes(bundle: Any, say: object) -> Iterator[tuple[TorchRuntime, str]]:
        for precision in ("float32", "bfloat16", "float32"):
            yield TorchRuntime(bundle.model, "cpu"), precision

    monkeypatch.setattr(recipe_choice, "_runtimes", runtimes)
    monkeypatch.setattr(recipe_choice, "_milliseconds", lambda bundle, runtime, photo: next(times))
    found = measure("fast", load_recipe(TINY), photo, lambda line: None)
    assert found == Timing("fast", 10.0, "torch", "bfloat16")


def test_exports_are_timed_beside_pytorch_from_the_file_on(photo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    timed: list[tuple[str, Path]] = []
    whole = recipe_choice._milliseconds

    def watched(bundle: Any, runtime: Any, photo: Path) -> float:
        timed.append((runtime.name, photo))
        taken = whole(bundle, runtime, photo)
        assert taken > 0
        return taken

    monkeypatch.setattr(recipe_choice, "KINDS", ("onnx",))
    monkeypatch.setattr(recipe_choice, "BUDGET", 0.0)
    monkeypatch.setattr(recipe_choice, "_milliseconds", watched)
    said: list[str] = []
    recipe = load_recipe(TINY, [*REMEMBERING, "model.memory=20", "model.codes=1024", "model.code_length=32"])
    measure("fast", recipe, photo, said.append)
    lower = has_fast_bfloat16(torch.device("cpu"))
    assert timed == [("torch", photo)] * (2 if lower else 1) + [("onnx", photo)]
    assert said == []


def test_exports_that_take_too_long_are_left_out_and_that_is_said(photo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recipe_choice, "EXPORT_SECONDS", 0.0)
    monkeypatch.setattr(recipe_choice, "BUDGET", 0.0)
    said: list[str] = []
    assert measure("fast", load_recipe(TINY), photo, said.append).runtime == "torch"
    assert said == [
        "openvino is not measured: the exports take more than 0 s",
        "onnx is not measured: the exports take more than 0 s",
        "PyTorch alone is measured",
    ]


def test_an_export_that_fails_says_why(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"the export failed: .*nowhere is not a bundle") as raised:
        recipe_choice._export(tmp_path / "nowhere", "onnx", tmp_path / "onnx" / "x.onnx", 60)
    assert "\n" not in str(raised.value)


def test_where_no_runtime_is_installed_pytorch_is_measured(photo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(names: object) -> dict[str, str]:
        raise ConfigError("not installed")

    monkeypatch.setattr(recipe_choice, "versions", missing)
    monkeypatch.setattr(recipe_choice, "BUDGET", 0.0)
    said: list[str] = []
    assert measure("fast", load_recipe(TINY), photo, said.append).runtime == "torch"
    assert said == ["PyTorch alone is measured; others take pip install 'flawmap[export]'"]


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("drawn") / "metal"
    write_sample_parts(folder, "brushed-metal", size=64, train=10, good=1, bad=1, seed=0)
    return folder


def command(parts: Path, out: Path, *more: object) -> tuple[object, ...]:
    settings = [word for setting in SMALL for word in ("--set", setting)]
    return ("train", parts, "--out", out, "--quiet", *settings, *more)


@pytest.mark.parametrize(("ms", "recipe", "size"), [("100", "accurate", 640), ("60", "fast", "auto")])
def test_a_training_goes_by_the_chosen_recipe_and_keeps_how_it_was_chosen(
    ms: str, recipe: str, size: int | str, parts: Path, tmp_path: Path, scripted: list[str]
) -> None:
    out = tmp_path / "part.bundle"
    shown = succeed(*command(parts, out, "--ms", ms))
    bundle = load_bundle(out)
    assert bundle.recipe.image.size == size == load_recipe(recipe).image.size
    measured = {"accurate": 80.0, "fast": 40.0}[recipe]
    expected = {"recipe": recipe, "asked_ms": float(ms), "measured_ms": measured, "runtime": "openvino"}
    assert {name: bundle.provenance[name] for name in expected} == expected
    assert bundle.provenance["precision"] == "bfloat16"
    assert f"{recipe} takes {measured} ms a part by openvino in bfloat16" in shown
    assert shown.rstrip().endswith("IMAGES --runtime openvino --precision bfloat16")


def test_where_none_is_fast_enough_nothing_is_trained_and_nothing_written(
    parts: Path, tmp_path: Path, scripted: list[str]
) -> None:
    line = refuse(*command(parts, tmp_path / "part.bundle", "--ms", "5"))
    assert line.startswith("flawmap: no recipe needs at most 5 ms a part on this machine: fast takes 40.0 ms")
    assert list(tmp_path.iterdir()) == []


def test_milliseconds_and_a_recipe_exclude_each_other(parts: Path, tmp_path: Path, scripted: list[str]) -> None:
    line = refuse(*command(parts, tmp_path / "part.bundle", "--ms", "60", "--config", "fast"))
    assert line == "flawmap: --ms chooses the recipe by itself; leave out --config, or leave out --ms"
    assert scripted == []


@pytest.mark.parametrize("ms", ["0", "inf", "nan"])
def test_what_are_no_milliseconds_is_refused(ms: str, parts: Path, tmp_path: Path, scripted: list[str]) -> None:
    assert "--ms" in run(*command(parts, tmp_path / "part.bundle", "--ms", ms)).stderr
    assert (scripted, list(tmp_path.iterdir())) == ([], [])


def test_a_bundle_in_the_way_is_refused_before_anything_is_measured(
    parts: Path, tmp_path: Path, scripted: list[str]
) -> None:
    (tmp_path / "part.bundle").mkdir()
    assert "--overwrite" in refuse(*command(parts, tmp_path / "part.bundle", "--ms", "60"))
    assert scripted == []


def test_a_training_that_goes_on_keeps_its_recipe_without_measuring_again(
    parts: Path, tmp_path: Path, scripted: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "part.bundle"
    words = command(parts, out, "--ms", "100")

    def stopped(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("flawmap.train.run.round_weights", stopped)
        assert run(*words).exit_code == 130
    assert json.loads((tmp_path / "part.bundle.run" / "choice.json").read_text())["recipe"] == "accurate"
    assert "was started with --ms 100" in refuse(*command(parts, out, "--ms", "60", "--resume"))
    assert "differs from the recipe given" in refuse(*command(parts, out, "--resume"))
    succeed(*words, "--resume")
    assert scripted == ["accurate"]
    kept = load_bundle(out).provenance
    assert (kept["recipe"], kept["measured_ms"]) == ("accurate", 80.0)
    assert list(tmp_path.iterdir()) == [out]


def test_a_training_by_a_named_recipe_does_not_go_on_by_milliseconds(
    parts: Path, tmp_path: Path, scripted: list[str]
) -> None:
    (tmp_path / "part.bundle.run").mkdir()
    (tmp_path / "part.bundle.run" / "recipe.toml").write_text("")
    line = refuse(*command(parts, tmp_path / "part.bundle", "--ms", "60", "--resume"))
    assert line.endswith("was started without --ms; resume without it")
    assert scripted == []
