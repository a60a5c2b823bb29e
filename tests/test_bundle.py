"""Bundles and general models on disk: whole or not at all, and refused in one line when they are not right."""

from __future__ import annotations

import dataclasses
import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from flawmap import bundle as module
from flawmap.bundle import (
    Bundle,
    Prior,
    build,
    general_card,
    load_bundle,
    load_general,
    load_prior,
    round_weights,
    save_bundle,
    save_general,
    save_prior,
    sha256,
    update_threshold,
)
from flawmap.config import Recipe, load_recipe
from flawmap.errors import BundleError
from flawmap.measure.threshold import Threshold
from flawmap.model.decoder import ObjectDecoder
from flawmap.model.discrete import DiscreteModel, GeneralDecoder

TINY = [
    "image.height=32", "image.width=32", "model.codes=16", "model.code_length=8", "model.discrete_width=8",
    "model.discrete_hidden=4", "model.restriction_widths=[8, 8, 8]", "model.decoder_widths=[8, 8, 8]",
    "model.detection_width=4", "model.refinement_width=4",
]  # fmt: skip
THRESHOLD = Threshold(
    score=0.31, pixel=0.5, overkill=0.01, held_out=8, supported=False, method="held-out good", note="Few."
)


def tiny_recipe(*more: str) -> Recipe:
    return load_recipe(None, [*TINY, *more])


def tiny_bundle(*more: str, refinement: bool = True, seed: int = 0) -> Bundle:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = build(tiny_recipe(*more).model, with_refinement=refinement)
    return Bundle(model, tiny_recipe(*more), THRESHOLD, {"data": "Blech für Ü", "seed": seed})


@pytest.fixture
def path(tmp_path: Path) -> Path:
    save_bundle(tiny_bundle(), tmp_path / "part.bundle")
    return tmp_path / "part.bundle"


def same(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    states = one.state_dict(), other.state_dict()
    return states[0].keys() == states[1].keys() and all(
        torch.equal(states[0][name], states[1][name]) for name in states[0]
    )


def refusal(action: Callable[[], Any]) -> str:
    with pytest.raises(BundleError) as caught:
        action()
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("refinement", [True, False])
@pytest.mark.parametrize("decoder", ["paper", "general"])
@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_a_bundle_comes_back_as_it_was(refinement: bool, decoder: str, dtype: Any, tmp_path: Path) -> None:
    bundle = tiny_bundle(f"model.decoder={decoder}", refinement=refinement)
    (tmp_path / "log").write_text('{"step": 1}\n')
    save_bundle(bundle, tmp_path / "b", metrics=tmp_path / "log", dtype=dtype)
    again = load_bundle(tmp_path / "b")
    assert again.recipe == bundle.recipe
    assert again.threshold == THRESHOLD
    assert again.provenance == bundle.provenance
    assert (again.model.refinement is not None) == refinement
    assert (tmp_path / "b" / "metrics.jsonl").read_text() == '{"step": 1}\n'
    assert not any(part.training or any(p.requires_grad for p in part.parameters()) for part in again.model.modules())
    assert all(value.dtype == torch.float32 for value in again.model.state_dict().values())
    round_weights(bundle.model, dtype)
    assert same(again.model, bundle.model)


def test_a_bundle_in_float16_takes_half_the_room(tmp_path: Path) -> None:
    save_bundle(tiny_bundle(), tmp_path / "half")
    save_bundle(tiny_bundle(), tmp_path / "full", dtype="float32")
    half, full = (
        sum(t.nbytes for t in load_file(tmp_path / name / "weights.safetensors").values()) for name in ("half", "full")
    )
    assert full == 2 * half


def test_rounded_weights_give_the_map_of_the_stored_bundle(tmp_path: Path) -> None:
    bundle = tiny_bundle()
    round_weights(bundle.model)
    save_bundle(bundle, tmp_path / "b")
    image = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(load_bundle(tmp_path / "b").model(image).map, bundle.model.eval()(image).map)


def test_a_channels_last_model_is_saved_like_any_other(path: Path, tmp_path: Path) -> None:
    bundle = tiny_bundle()
    bundle.model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    save_bundle(bundle, tmp_path / "b")
    assert sha256(tmp_path / "b" / "weights.safetensors") == sha256(path / "weights.safetensors")


def test_saving_and_loading_leave_the_random_state_alone(path: Path) -> None:
    torch.manual_seed(5)
    load_bundle(path)
    after = torch.rand(3)
    torch.manual_seed(5)
    assert torch.equal(torch.rand(3), after)


def test_files_can_be_read_by_others(path: Path) -> None:
    assert all(file.stat().st_mode & 0o044 == 0o044 for file in path.iterdir())


def test_a_bundle_is_overwritten_only_when_asked(path: Path) -> None:
    other = tiny_bundle(seed=1)
    assert "exists" in refusal(lambda: save_bundle(other, path))
    assert load_bundle(path).provenance["seed"] == 0
    save_bundle(other, path, overwrite=True)
    assert load_bundle(path).provenance["seed"] == 1
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


def test_what_is_not_a_bundle_is_never_overwritten(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.png").write_bytes(b"precious")
    (tmp_path / "file").write_bytes(b"precious")
    for name in ("photos", "file"):
        assert "not a bundle" in refusal(lambda name=name: save_bundle(tiny_bundle(), tmp_path / name, overwrite=True))
    assert (tmp_path / "photos" / "a.png").read_bytes() == (tmp_path / "file").read_bytes() == b"precious"


@pytest.mark.parametrize("problem", [KeyboardInterrupt(), OSError(28, "No space left on device")])
def test_a_failed_save_leaves_what_was_there(
    problem: BaseException, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> str:
        raise problem

    before = {file.name: file.read_bytes() for file in path.iterdir()}
    monkeypatch.setattr(module, "dump_recipe", fail)  # after the weights are written
    with pytest.raises((KeyboardInterrupt, BundleError)):
        save_bundle(tiny_bundle(seed=1), path, overwrite=True)
    with pytest.raises((KeyboardInterrupt, BundleError)):
        save_bundle(tiny_bundle(seed=1), path.with_name("new"))
    assert {file.name: file.read_bytes() for file in path.iterdir()} == before
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


KILLED = """
import os, signal, sys
from pathlib import Path
from flawmap import bundle
opened = bundle.load_bundle(Path(sys.argv[1]))
bundle.dump_recipe = lambda _: os.kill(os.getpid(), signal.SIGKILL)
bundle.save_bundle(opened, Path(sys.argv[2]), overwrite=True)
"""


def test_a_killed_save_leaves_nothing_half_written_and_the_next_one_works(path: Path) -> None:
    new = path.with_name("new")
    for target in (new, path):
        process = subprocess.run([sys.executable, "-c", KILLED, str(path), str(target)], check=False)
        assert process.returncode == -signal.SIGKILL
    assert not new.exists()
    assert load_bundle(path).provenance["seed"] == 0
    for target in (new, path):
        save_bundle(tiny_bundle(seed=2), target, overwrite=True)
        assert load_bundle(target).provenance["seed"] == 2
    assert sorted(entry.name for entry in path.parent.iterdir()) == ["new", "part.bundle"]


def test_the_threshold_can_be_changed_and_taken_away(path: Path) -> None:
    weights = sha256(path / "weights.safetensors")
    for threshold in (dataclasses.replace(THRESHOLD, score=0.7), None):
        update_threshold(path, threshold)
        assert load_bundle(path).threshold == threshold
    assert sha256(path / "weights.safetensors") == weights


def test_a_folder_that_is_no_bundle_is_named(tmp_path: Path) -> None:
    (tmp_path / "photo.png").write_bytes(b"\x89PNG")
    for action in (
        lambda: load_bundle(tmp_path),
        lambda: load_bundle(tmp_path / "photo.png"),
        lambda: load_bundle(tmp_path / "none"),
        lambda: update_threshold(tmp_path / "none", THRESHOLD),
    ):
        message = refusal(action)
        assert str(tmp_path) in message and "not a bundle" in message


@pytest.mark.parametrize("name", ["weights.safetensors", "recipe.toml", "bundle.json"])
def test_a_file_cut_short_is_named(name: str, path: Path) -> None:
    data = (path / name).read_bytes()
    (path / name).write_bytes(data[: len(data) * 6 // 10])
    assert name in refusal(lambda: load_bundle(path))


@pytest.mark.parametrize("values", [{"format": 1}, {"flawmap": "9.9.9"}])
def test_a_bundle_of_an_earlier_format_or_another_version_loads(values: dict[str, Any], path: Path) -> None:
    before = load_bundle(path)
    edit_note(path, **values)
    assert same(load_bundle(path).model, before.model) and load_bundle(path).threshold == THRESHOLD


def test_a_bundle_that_may_not_be_written_and_holds_a_stray_file_loads(path: Path) -> None:
    before = load_bundle(path)
    (path / ".DS_Store").write_bytes(b"x")
    for file in (*path.iterdir(), path):
        file.chmod(0o500)
    try:
        assert same(load_bundle(path).model, before.model)
    finally:
        path.chmod(0o700)


@pytest.mark.parametrize("name", ["weights.safetensors", "recipe.toml", "bundle.json"])
def test_a_missing_file_is_named(name: str, path: Path) -> None:
    (path / name).unlink()
    assert name in refusal(lambda: load_bundle(path))


def edit_note(path: Path, **values: Any) -> None:
    """As an earlier flawmap would have written it, without hashes of its texts and of itself."""
    note = json.loads((path / "bundle.json").read_text())
    note.update({"recipe_sha256": "drop", "facts_sha256": "drop", **values})
    (path / "bundle.json").write_text(json.dumps({name: value for name, value in note.items() if value != "drop"}))


@pytest.mark.parametrize("told", [None, 3])
@pytest.mark.parametrize("entry", ["imagenet_around", "evidence_softness"])
def test_a_bundle_that_weighed_evidence_otherwise_is_refused(entry: str, told: int | None, tmp_path: Path) -> None:
    kinds = ("refine.steps=0", 'model.familiarity=["imagenet"]', "model.fusion=log-mean-exp")
    save_bundle(tiny_bundle(*kinds, refinement=False), tmp_path / "part.bundle")
    load_bundle(tmp_path / "part.bundle")
    edit_note(tmp_path / "part.bundle", **{entry: told or "drop"})
    assert "earlier flawmap, which weighed evidence in another way; train it again" in refusal(
        lambda: load_bundle(tmp_path / "part.bundle")
    )


def test_a_newer_format_asks_for_an_update(path: Path) -> None:
    edit_note(path, format=99, provenance="drop")
    assert "update flawmap" in refusal(lambda: load_bundle(path))


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"format": "drop"}, "format"),
        ({"format": 0}, "format"),
        ({"provenance": "drop"}, "provenance"),
        ({"threshold": "drop"}, "threshold"),
        ({"threshold": {"score": 1}}, "threshold"),
        ({"threshold": {**dataclasses.asdict(THRESHOLD), "score": float("nan")}}, "threshold"),
        ({"refinement": 3}, "refinement"),
    ],
)
def test_a_damaged_note_is_refused(values: dict[str, Any], said: str, path: Path) -> None:
    edit_note(path, **values)
    assert said in refusal(lambda: load_bundle(path))


@pytest.mark.parametrize("text", ["", "{", "[]", "\xff", '{"format": 1}'])
def test_a_note_that_is_no_json_object_is_refused(text: str, path: Path) -> None:
    (path / "bundle.json").write_text(text, encoding="latin-1")
    assert "bundle.json" in refusal(lambda: load_bundle(path))


def test_a_changed_byte_of_the_weights_is_noticed(path: Path) -> None:
    weights = bytearray((path / "weights.safetensors").read_bytes())
    weights[-1] ^= 1
    (path / "weights.safetensors").write_bytes(weights)
    assert "weights.safetensors" in refusal(lambda: load_bundle(path))


def test_a_recipe_of_other_sizes_is_refused(path: Path) -> None:
    edit_note(path)
    text = (path / "recipe.toml").read_text()
    (path / "recipe.toml").write_text(text.replace("detection_width = 4", "detection_width = 8"))
    assert "does not fit" in refusal(lambda: load_bundle(path))
    (path / "recipe.toml").write_text("[model]\nwheels = 4\n")
    assert "recipe.toml" in refusal(lambda: load_bundle(path))


@pytest.mark.parametrize("change", ["missing", "extra", "shape", "integers", "format", "newer", "not safetensors"])
def test_weights_that_do_not_fit_are_refused(change: str, path: Path) -> None:
    file, name, metadata = path / "weights.safetensors", "detection.out.bias", {"format": "1"}
    tensors = load_file(file)
    if change == "missing":
        del tensors[name]
    elif change == "extra":
        tensors["wheels"] = torch.zeros(4)
    elif change == "shape":
        tensors[name] = torch.zeros(3)
    elif change == "integers":
        tensors[name] = torch.zeros(2, dtype=torch.int32)
    elif change in ("format", "newer"):
        metadata = {"format": "99" if change == "newer" else "pt"}
    save_file(tensors, file, metadata=metadata)
    if change == "not safetensors":
        file.write_bytes(b"PK")
    edit_note(path, weights_sha256=sha256(file))
    message = refusal(lambda: load_bundle(path))
    assert str(file) in message
    assert change not in ("missing", "shape", "integers") or name in message
    assert change != "newer" or "update" in message


def test_weights_that_are_no_numbers_are_not_saved(tmp_path: Path) -> None:
    bundle = tiny_bundle()
    assert bundle.model.refinement is not None
    bundle.model.refinement.out.bias.data[0] = torch.nan
    assert "refinement.out.bias" in refusal(lambda: save_bundle(bundle, tmp_path / "b"))
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    place = tmp_path / "file" / "b"
    assert str(place) in refusal(lambda: save_bundle(tiny_bundle(), place))
    assert str(place) in refusal(lambda: save_general(DiscreteModel(16, 8, 8, 4), place))


def test_a_general_model_comes_back_with_its_card(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, file = DiscreteModel(16, 8, 12, 4), tmp_path / "deep" / "general.safetensors"
    card = {"data": "Fotos für Ü", "steps": 3, "psnr": 28.5}
    save_general(model, file, card)
    save_general(model, file, card)  # in place of the old one
    again = load_general(file)
    round_weights(model)
    assert same(again, model)
    assert general_card(file) == card
    assert [entry.name for entry in file.parent.iterdir()] == ["general.safetensors"]
    with safe_open(file, framework="pt") as opened:
        assert not any("counts" in name or "sums" in name for name in opened.keys())  # noqa: SIM118


def test_what_is_no_general_model_is_refused(path: Path, tmp_path: Path) -> None:
    assert "none.safetensors" in refusal(lambda: load_general(tmp_path / "none.safetensors"))
    assert "not a general model" in refusal(lambda: load_general(path / "weights.safetensors"))
    (tmp_path / "text").write_text("hello")
    assert "text" in refusal(lambda: load_general(tmp_path / "text"))


def test_decoder_kind_and_refinement_follow_the_settings() -> None:
    assert isinstance(tiny_bundle().model.object_decoder, ObjectDecoder)
    assert isinstance(tiny_bundle("model.decoder=general").model.object_decoder, GeneralDecoder)
    assert tiny_bundle(refinement=False).model.refinement is None


def test_detection_and_object_decoder_start_from_narrow_weights() -> None:
    model = build(Recipe().model, with_refinement=False)
    for part in (model.detection.down3[3], model.object_decoder.get_submodule("down2.0")):
        assert float(part.weight.detach().std()) == pytest.approx(0.02, rel=0.05)
        assert float(part.bias.detach().abs().max()) == 0


def test_batch_norm_comes_back_with_its_statistics(tmp_path: Path) -> None:
    bundle = tiny_bundle("model.norm=batch", refinement=False)
    statistics = [buffer for name, buffer in bundle.model.named_buffers() if "running" in name]
    assert len(statistics) > 20
    for index, buffer in enumerate(statistics):
        buffer.fill_(0.25 + index / 256)  # exact in float16
    bundle.model.eval()
    round_weights(bundle.model)
    save_bundle(bundle, tmp_path / "b")
    again = load_bundle(tmp_path / "b").model
    image = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        assert torch.equal(bundle.model(image).map, again(image).map)
    assert same(bundle.model, again)


def tiny_prior(*more: str) -> Prior:
    bundle = tiny_bundle("model.norm=batch", "model.decoder=general", *more, refinement=False)
    return Prior(bundle.model, bundle.recipe.model, {"psnr": 27.0})


def test_a_prior_comes_back_as_it_was_and_gives_its_discrete_model(tmp_path: Path) -> None:
    prior = tiny_prior()
    round_weights(prior.model)
    file = tmp_path / "tiny.safetensors"
    save_prior(prior, file)
    again = load_prior(file)
    assert again.settings == prior.settings
    assert again.card == prior.card == general_card(file)
    assert same(again.model, prior.model)
    assert not again.model.training
    assert same(load_general(file), prior.model.discrete)


def test_a_prior_that_is_none_is_refused_in_one_line(tmp_path: Path) -> None:
    assert "no general prior nowhere" in refusal(lambda: load_prior("nowhere"))
    save_general(tiny_bundle().model.discrete, tmp_path / "g.safetensors")
    assert "is not a general prior" in refusal(lambda: load_prior(tmp_path / "g.safetensors"))
    short = tiny_prior()
    save_prior(short._replace(settings=tiny_recipe("model.detection_width=8").model), tmp_path / "s.safetensors")
    assert "does not fit" in refusal(lambda: load_prior(tmp_path / "s.safetensors"))
