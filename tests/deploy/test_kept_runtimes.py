"""`--runtime`: exports are kept and never stale, and `auto` takes the fastest. Networks are the smallest there are."""

from __future__ import annotations

import csv
import dataclasses
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import flawmap
from flawmap import cli
from flawmap.bundle import Bundle, build, load_bundle, save_bundle, sha256, update_threshold
from flawmap.config import dump_recipe, load_recipe
from flawmap.data.surfaces import write_sample_parts
from flawmap.deploy import export as export_module
from flawmap.deploy import fastest, kept
from flawmap.deploy.inspector import Inspector
from flawmap.errors import BundleError, ConfigError, DisagreementError
from flawmap.measure.threshold import choose_threshold
from flawmap.model.detection import DetectionUNet

TINY = Path(__file__).parents[1] / "tiny.toml"
THRESHOLD = dataclasses.replace(choose_threshold([0.1] * 99, [0.1] * 99, 0.1), score=0.5)
REFUSAL = DisagreementError("network.onnx is refused: its map differs", "its map differs")


def make_bundle(path: Path, *settings: str) -> Path:
    recipe = load_recipe(TINY, ['model.norm="batch"', *settings])
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(3)
        model = build(recipe.model, with_refinement=True).eval()
        for part in model.modules():
            if isinstance(part, DetectionUNet):  # untrained, it sees little; a flat map would agree with anything
                part.out.weight.mul_(20)
    save_bundle(Bundle(model, recipe, THRESHOLD, {}), path, overwrite=True)
    return path


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bundle(tmp_path_factory.mktemp("bundles") / "part.bundle")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "flawmap"


@pytest.fixture
def photo() -> np.ndarray:
    return np.random.default_rng(2).integers(0, 256, (90, 70, 3), dtype=np.uint8)


class Exports:
    """Stands in for exporting, which takes seconds: counts, and does what a test asks for."""

    def __init__(self) -> None:
        self.made: list[str] = []
        self.problems: dict[str, BaseException] = {}

    def __call__(self, source: Path, kind: str, out: Path, *, bfloat16: bool) -> Any:
        assert not bfloat16
        self.made.append(kind)
        opened = load_bundle(source)
        file = out if kind == "onnx" else out / "network.xml"
        file.parent.mkdir(parents=True)
        file.write_bytes(b"half")
        if kind in self.problems:
            raise self.problems[kind]
        file.write_bytes(b"whole")
        about = {"weights_sha256": sha256(source / "weights.safetensors"), "recipe": dump_recipe(opened.recipe)}
        return SimpleNamespace(file=file, about=about, check="agrees")


@pytest.fixture
def exports(monkeypatch: pytest.MonkeyPatch) -> Exports:
    stand_in = Exports()
    monkeypatch.setattr(export_module, "export", stand_in)
    monkeypatch.setattr(kept, "GraphRuntime", lambda file, threads: SimpleNamespace(file=file, usual_batch=1))
    monkeypatch.setattr(kept, "versions", lambda names: dict.fromkeys(names, "1"))
    monkeypatch.setattr(kept, "package", lambda name: None)
    monkeypatch.setattr(fastest, "versions", lambda names: dict.fromkeys(names, "1"))
    return stand_in


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch, exports: Exports) -> list[str]:
    """What was measured, where PyTorch is slow and OpenVINO fast."""
    names: list[str] = []

    def seconds(runtime: Any, pixels: Any) -> float:
        name = runtime.name if hasattr(runtime, "name") else {".onnx": "onnx", ".xml": "openvino"}[runtime.file.suffix]
        names.append(name)
        return {"torch": 0.3, "onnx": 0.2, "openvino": 0.1}[name]

    monkeypatch.setattr(fastest, "_seconds", seconds)
    return names


def load(bundle: Path, runtime: str, **more: Any) -> tuple[Inspector, list[str]]:
    said: list[str] = []
    inspector = flawmap.load(bundle, more.pop("device", "cpu"), runtime=runtime, say=said.append, **more)
    assert not [line for line in said if "\n" in line]
    return inspector, said


def file_of(inspector: Inspector) -> Path:
    return Path(inspector.runtime.file)  # type: ignore[attr-defined]


@pytest.mark.parametrize("runtime", ["onnx", "openvino"])
def test_a_kept_export_finds_what_pytorch_finds(bundle: Path, runtime: str, photo: np.ndarray) -> None:
    for package in ("onnxscript", "onnxruntime", "openvino"):
        pytest.importorskip(package)
    wanted = flawmap.load(bundle, "cpu").inspect(photo)
    for exporting in (True, False):
        inspector, said = load(bundle, runtime)
        assert [line.startswith("exporting") for line in said] == [True] * exporting
        found = inspector.inspect(photo)
        assert inspector.runtime.name == runtime
        assert np.ptp(wanted.map) > 0.05
        assert found.map == pytest.approx(wanted.map, abs=1e-4)
        assert (found.score, found.defective) == (pytest.approx(wanted.score, abs=1e-4), wanted.defective)


def test_the_command_line_inspects_and_measures_tiles_by_an_export_as_by_pytorch(tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    pytest.importorskip("onnxruntime")
    tiles = make_bundle(tmp_path / "tiles.bundle", "image.policy=tile")
    parts = tmp_path / "parts"
    write_sample_parts(parts, "brushed-metal", 96, 1, 2, 2, 0)
    scores: dict[str, list[float]] = {}
    measures: dict[str, Any] = {}
    for runtime in ("onnx", "torch"):
        out = tmp_path / runtime
        for command, data in (("inspect", parts / "test"), ("evaluate", parts)):
            words = [
                command,
                str(tiles),
                str(data),
                "--runtime",
                runtime,
                "--device",
                "cpu",
                "--out",
                str(out / command),
            ]
            result = CliRunner().invoke(cli.app, words)
            assert result.exit_code == 0, result.output
            exporting = runtime == "onnx" and command == "inspect"
            assert result.stderr == (
                f"flawmap: exporting {tiles} to onnx, which is done once and takes a while\n" if exporting else ""
            )
        with (out / "inspect" / "results.csv").open(newline="") as file:
            scores[runtime] = [float(row["score"]) for row in csv.DictReader(file)]
        measures[runtime] = json.loads((out / "evaluate" / "metrics.json").read_text())["image_auroc"]["value"]
    assert len(scores["torch"]) == 4
    assert scores["onnx"] == pytest.approx(scores["torch"], abs=1e-4)
    assert measures["onnx"] == measures["torch"]


@pytest.mark.parametrize("kind", ["onnx", "openvino"])
def test_an_export_is_kept_whole_and_made_once(bundle: Path, exports: Exports, cache: Path, kind: str) -> None:
    file = file_of(load(bundle, kind)[0])
    assert file_of(load(bundle, kind)[0]) == file and file.read_bytes() == b"whole"
    assert exports.made == [kind]
    (folder,) = (cache / "exports").iterdir()
    note = json.loads((folder / "kept.json").read_text())
    assert note["facts"]["weights_sha256"] == sha256(bundle / "weights.safetensors") and note["check"] == "agrees"


def test_the_bundle_and_its_folder_stay_as_they_were(bundle: Path, exports: Exports) -> None:
    before = sorted(bundle.parent.rglob("*"))
    load(bundle, "onnx")
    assert sorted(bundle.parent.rglob("*")) == before


def test_a_new_threshold_holds_at_once_and_needs_no_new_export(tmp_path: Path, exports: Exports) -> None:
    source = make_bundle(tmp_path / "part.bundle")
    load(source, "onnx")
    update_threshold(source, dataclasses.replace(THRESHOLD, score=0.25))
    inspector, _ = load(source, "onnx")
    assert inspector.bundle.threshold is not None and inspector.bundle.threshold.score == 0.25
    assert exports.made == ["onnx"]


CHANGES: list[Callable[[pytest.MonkeyPatch], None]] = [
    lambda patch: patch.setattr(kept, "__version__", "99"),
    lambda patch: patch.setattr(kept, "_code", lambda: "other"),
    lambda patch: patch.setattr(kept, "cpu", lambda: "another CPU"),
    lambda patch: patch.setattr(kept, "versions", lambda names: dict.fromkeys(names, "2")),
]


@pytest.mark.parametrize("change", CHANGES, ids=["version", "code", "cpu", "packages"])
def test_an_export_is_not_used_where_anything_is_other_than_when_it_was_made(
    bundle: Path, exports: Exports, monkeypatch: pytest.MonkeyPatch, change: Callable[[pytest.MonkeyPatch], None]
) -> None:
    first = file_of(load(bundle, "onnx")[0])
    change(monkeypatch)
    assert file_of(load(bundle, "onnx")[0]) != first
    assert exports.made == ["onnx", "onnx"]


def test_a_bundle_trained_anew_in_the_same_place_is_exported_anew(tmp_path: Path, exports: Exports) -> None:
    files = []
    for setting in ("image.height=64", "model.codes=16", "image.height=32"):
        files.append(file_of(load(make_bundle(tmp_path / "part.bundle", setting), "onnx")[0]))
    assert len(set(files)) == 3 and len(exports.made) == 3


@pytest.mark.parametrize("harm", ["cut", "note", "gone"])
def test_a_damaged_export_is_made_again(bundle: Path, exports: Exports, harm: str) -> None:
    file = file_of(load(bundle, "onnx")[0])
    if harm == "cut":
        file.write_bytes(b"wh")
    elif harm == "note":
        (file.parent / "kept.json").write_text("{")
    else:
        file.unlink()
    again = file_of(load(bundle, "onnx")[0])
    assert again == file and again.read_bytes() == b"whole"
    assert len(exports.made) == 2


@pytest.mark.parametrize("problem", [KeyboardInterrupt(), OSError(28, "No space left on device"), REFUSAL], ids=repr)
def test_an_export_that_fails_leaves_nothing(
    bundle: Path, exports: Exports, cache: Path, problem: BaseException
) -> None:
    exports.problems["onnx"] = problem
    with pytest.raises((KeyboardInterrupt, BundleError)):
        load(bundle, "onnx")
    assert list((cache / "exports").iterdir()) == []


def test_what_a_killed_process_left_half_written_is_removed_the_next_day(
    bundle: Path, exports: Exports, cache: Path
) -> None:
    old, new = (cache / "exports" / f".saving-{name}" for name in ("old", "new"))
    for folder in (old, new):
        folder.mkdir(parents=True)
    os.utime(old, (0, 0))
    load(bundle, "onnx")
    assert not old.exists() and new.exists()


def test_what_nobody_used_for_long_is_removed_when_something_new_is_kept(
    bundle: Path, exports: Exports, cache: Path
) -> None:
    used = file_of(load(bundle, "onnx")[0]).parent
    forgotten = cache / "exports" / "onnx-forgotten"
    forgotten.mkdir()
    (forgotten / "kept.json").write_text("{}")
    long_ago = time.time() - 91 * 24 * 60 * 60
    for folder in (used, forgotten):
        os.utime(folder / "kept.json", (long_ago, long_ago))
    load(bundle, "onnx")  # is used
    load(bundle, "openvino")  # is new
    assert used.exists() and not forgotten.exists()


def test_of_two_processes_that_export_at_once_both_go_on(
    bundle: Path, exports: Exports, monkeypatch: pytest.MonkeyPatch, cache: Path
) -> None:
    def slow(source: Path, kind: str, out: Path, **more: Any) -> Any:
        monkeypatch.setattr(export_module, "export", exports)
        load(source, kind)  # the other one, which is done first
        return exports(source, kind, out, **more)

    monkeypatch.setattr(export_module, "export", slow)
    assert file_of(load(bundle, "onnx")[0]).read_bytes() == b"whole"
    assert len(exports.made) == 2 and len(list((cache / "exports").iterdir())) == 1


def test_a_refused_export_is_one_line_that_names_the_bundle_and_the_way_out(bundle: Path, exports: Exports) -> None:
    exports.problems["onnx"] = REFUSAL
    with pytest.raises(DisagreementError) as caught:
        load(bundle, "onnx")
    assert str(caught.value) == f"the export of {bundle} to onnx is refused: its map differs; use the runtime torch"


def test_a_cache_that_cannot_be_written_is_one_line_that_says_what_to_set(
    bundle: Path, exports: Exports, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(BundleError, match="set XDG_CACHE_HOME to a folder that can be written") as caught:
        load(bundle, "onnx")
    assert "\n" not in str(caught.value)


def test_the_cache_is_where_the_system_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for given, expected in (
        (str(tmp_path / "x"), tmp_path / "x"),
        ("", tmp_path / ".cache"),
        ("x", tmp_path / ".cache"),
    ):
        monkeypatch.setenv("XDG_CACHE_HOME", given)
        assert kept.cache_folder() == expected / "flawmap"


def test_a_missing_package_is_one_line_that_says_what_to_install(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "onnxruntime", None)
    with pytest.raises(ConfigError, match=r"pip install 'flawmap\[export\]'"):
        load(bundle, "onnx")


def test_an_unknown_runtime_is_one_line_that_lists_the_known(bundle: Path, tmp_path: Path) -> None:
    write_sample_parts(tmp_path / "parts", "brushed-metal", 64, 1, 1, 1, 0)
    result = CliRunner().invoke(cli.app, ["inspect", str(bundle), str(tmp_path / "parts"), "--runtime", "abacus"])
    assert result.exit_code == 2
    assert result.stderr == "flawmap: no runtime abacus; there are: auto, torch, onnx, openvino\n"


def test_auto_takes_the_fastest_and_measures_once(bundle: Path, exports: Exports, measured: list[str]) -> None:
    for _ in range(3):
        inspector, said = load(bundle, "auto")
        assert file_of(inspector).suffix == ".xml"
        assert said[-1] == "runtime openvino (an image took: openvino 100.0 ms, onnx 200.0 ms, torch 300.0 ms)"
    assert measured == ["torch", "onnx", "openvino"] and exports.made == ["onnx", "openvino"]


def test_auto_says_what_its_choice_holds_for(bundle: Path, measured: list[str], cache: Path) -> None:
    load(bundle, "auto", threads=1)
    (file,) = (cache / "choices").iterdir()
    facts = json.loads(file.read_text())["facts"]
    assert facts["cpu"] == kept.cpu() and facts["cores"] >= 1 and facts["threads"] == 1
    assert facts["network"] == [64, 64]
    assert facts["versions"]["torch"] and facts["versions"]["openvino"]["openvino"]


AUTO_CHANGES = [
    *CHANGES[:3],
    lambda patch: patch.setattr(fastest, "available_cores", lambda: 77),
    lambda patch: patch.setattr(fastest, "versions", lambda names: dict.fromkeys(names, "2")),
]


@pytest.mark.parametrize("change", AUTO_CHANGES, ids=["version", "code", "cpu", "cores", "packages"])
def test_auto_measures_again_when_what_it_holds_for_changes(
    bundle: Path, measured: list[str], monkeypatch: pytest.MonkeyPatch, change: Callable[[pytest.MonkeyPatch], None]
) -> None:
    load(bundle, "auto")
    change(monkeypatch)
    load(bundle, "auto")
    assert measured == ["torch", "onnx", "openvino"] * 2


def test_auto_measures_again_when_its_note_is_damaged(bundle: Path, measured: list[str], cache: Path) -> None:
    load(bundle, "auto")
    (file,) = (cache / "choices").iterdir()
    for damage in (
        "",
        "[]",
        '{"choice": {}}',
        file.read_text().replace('"runtime": "openvino"', '"runtime": "abacus"'),
    ):
        file.write_text(damage)
        load(bundle, "auto")
    assert measured == ["torch", "onnx", "openvino"] * 5
    assert [path.name for path in (cache / "choices").iterdir()] == [file.name]


def test_auto_leaves_out_what_is_refused_says_so_and_remembers(
    bundle: Path, exports: Exports, measured: list[str]
) -> None:
    exports.problems |= {"onnx": REFUSAL, "openvino": REFUSAL}
    for _ in range(2):
        inspector, said = load(bundle, "auto")
        assert inspector.runtime.name == "torch"
        assert said[-1] == (
            "runtime torch (an image took: torch 300.0 ms); onnx is left out: its map differs; "
            "openvino is left out: its map differs"
        )
    assert exports.made == ["onnx", "openvino"] and measured == ["torch"]


def test_auto_tries_again_what_failed_by_chance(bundle: Path, exports: Exports, measured: list[str]) -> None:
    exports.problems |= {"onnx": OSError(28, "No space left on device"), "openvino": RuntimeError("odd\ntrace")}
    inspector, said = load(bundle, "auto")
    assert inspector.runtime.name == "torch"
    assert "No space left" in said[-1] and said[-1].endswith("openvino is left out: odd")
    exports.problems.clear()
    assert file_of(load(bundle, "auto")[0]).suffix == ".xml"


def test_auto_makes_its_choice_again_when_the_chosen_export_is_gone_and_refused(
    bundle: Path, exports: Exports, measured: list[str]
) -> None:
    file_of(load(bundle, "auto")[0]).unlink()
    exports.problems["openvino"] = REFUSAL
    inspector, said = load(bundle, "auto")
    assert file_of(inspector).suffix == ".onnx"
    assert said[-1].endswith("openvino is left out: its map differs")


def test_auto_is_pytorch_where_nothing_else_is_installed(
    bundle: Path, measured: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(names: Any) -> Any:
        raise ConfigError("not installed")

    monkeypatch.setattr(fastest, "versions", missing)
    inspector, (line,) = load(bundle, "auto")
    assert inspector.runtime.name == "torch" and "pip install 'flawmap[export]'" in line
    assert measured == []


def test_auto_is_pytorch_where_the_cache_cannot_be_written(
    bundle: Path, exports: Exports, measured: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    inspector, said = load(bundle, "auto")
    assert inspector.runtime.name == "torch" and "set XDG_CACHE_HOME" in said[-1]


def test_on_a_gpu_auto_is_pytorch_without_a_measurement(
    bundle: Path, exports: Exports, measured: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    placed: list[tuple[str, str]] = []
    monkeypatch.setattr(fastest, "pick_device", lambda name: torch.device("cuda"))
    monkeypatch.setattr(fastest, "TorchRuntime", lambda model, device, _, precision: placed.append((device, precision)))
    _, said = load(bundle, "auto", device="auto", precision="bfloat16")
    assert said == ["runtime torch, as there is a GPU"]
    assert (placed, measured, exports.made) == ([("auto", "bfloat16")], [], [])


def test_an_export_is_not_asked_to_compute_on_a_gpu(
    bundle: Path, exports: Exports, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fastest, "pick_device", lambda name: torch.device("cuda"))
    with pytest.raises(ConfigError, match="onnx computes on the CPU, not on cuda"):
        load(bundle, "onnx", device="cuda")
    load(bundle, "onnx", device="auto")
    assert exports.made == ["onnx"]


def test_a_measurement_warms_up_and_is_short(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    monkeypatch.setattr(fastest, "BUDGET", 0.0)
    assert fastest._seconds(seen.append, np.zeros((1, 3, 8, 8), np.float32)) >= 0  # type: ignore[arg-type]
    assert len(seen) == fastest.WARM + fastest.FEWEST


def test_onnx_runtime_leaves_nothing_of_its_own_in_the_cache(bundle: Path, cache: Path) -> None:
    """By itself it would write an identifier of the device there, and report to its makers."""
    if find_spec("onnxruntime") is None:
        pytest.skip("onnxruntime is not installed")
    program = "from flawmap.deploy.artefact import package; package('onnxruntime').get_available_providers()"
    environment = os.environ | {"PYTHONPATH": str(Path(flawmap.__file__).parents[1])}
    environment.pop("ORT_DISABLE_TELEMETRY", None)
    subprocess.run([sys.executable, "-c", program], check=True, env=environment)
    assert not cache.parent.exists()
