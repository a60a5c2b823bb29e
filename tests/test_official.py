"""The authors' checkpoints give the authors' outputs; foreign files that are not theirs are refused in one line.

reference/official_checkpoints.json lists the authors' files with their keys and shapes. reference/official_outputs.npz
holds what the authors' program computed, in float32 on a CPU, from the seeded weights written here for `images()` used
as they are: both maps, scores, code indices, channel means of the restricted features, commitment losses (weight 0.25
on the coarse and fine grid), every second row and column of both drawings, and the focal loss of the unrefined map
against channel 0 over 0.55.
"""

from __future__ import annotations

import json
import pickle
import shutil
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from flawmap.bundle import Bundle, load_bundle, save_bundle
from flawmap.errors import CheckpointError
from flawmap.model.dsr import DSRResult
from flawmap.official import GENERAL_FILE, import_anomalib_general, import_official, import_official_general
from flawmap.train.losses import focal_loss

REFERENCE = Path(__file__).parent / "reference"
TOLERANCE = 1e-4
State = dict[str, torch.Tensor]


def keys_and_shapes() -> dict[str, dict[str, list[int]]]:
    return json.loads((REFERENCE / "official_checkpoints.json").read_text())


def seeded_weights(file: str, key: str, shape: list[int]) -> torch.Tensor:
    """Made-up weights, the same everywhere: each key of each file has a random stream of its own."""
    values = np.random.Generator(np.random.PCG64(zlib.crc32(f"{file}:{key}".encode()))).standard_normal(
        shape, np.float32
    )
    if key.endswith("_ema_cluster_size"):
        return torch.from_numpy(np.abs(values))
    if "_embedding.weight" in key or key.endswith("_ema_w"):
        return torch.from_numpy(values * np.float32(3.0 if "_top." in key else 1.4))
    scale = 0.05 if len(shape) == 1 else np.float32(np.sqrt(2.0 / np.prod(shape[1:])))
    return torch.from_numpy(values * scale)


def seeded_state(file: str) -> State:
    return {key: seeded_weights(file, key, shape) for key, shape in keys_and_shapes()[file].items()}


def images(count: int = 2, side: int = 256) -> torch.Tensor:
    """(count, 3, side, side) in [0, 1]: coloured squares under noise."""
    rng = np.random.Generator(np.random.PCG64(7))
    squares = rng.random((count, 3, 16, 16), dtype=np.float32)
    noise = rng.random((count, 3, side, side), dtype=np.float32)
    blown_up = squares.repeat(side // 16, axis=2).repeat(side // 16, axis=3)
    return torch.from_numpy((0.7 * blown_up + 0.3 * noise).astype(np.float32))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("official")
    for file in keys_and_shapes():
        torch.save(seeded_state(file), folder / file)
    yield folder
    shutil.rmtree(folder)  # 160 MB


@pytest.fixture(scope="module")
def general_state() -> State:
    return seeded_state(GENERAL_FILE)


@pytest.fixture(scope="module")
def bundle(folder: Path) -> Bundle:
    return import_official(folder, "part")


@pytest.fixture(scope="module")
def ours(bundle: Bundle) -> DSRResult:
    with torch.inference_mode():
        return bundle.model(images())


@pytest.fixture(scope="module")
def theirs() -> dict[str, np.ndarray]:
    with np.load(REFERENCE / "official_outputs.npz") as file:
        return dict(file)


@pytest.mark.parametrize("grid", ["coarse_indices", "fine_indices"])
def test_authors_weights_give_authors_codes(grid: str, ours: DSRResult, theirs: dict[str, np.ndarray]) -> None:
    found = getattr(ours, grid).numpy()
    assert found.shape == theirs[grid].shape
    assert (found == theirs[grid]).mean() >= 0.9995


@pytest.mark.parametrize("name", ["map", "detection_map", "score"])
def test_authors_weights_give_authors_maps(name: str, ours: DSRResult, theirs: dict[str, np.ndarray]) -> None:
    np.testing.assert_allclose(getattr(ours, name).numpy(), theirs[name], rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("name", ["object_image", "general_image"])
def test_authors_weights_give_authors_drawings(name: str, ours: DSRResult, theirs: dict[str, np.ndarray]) -> None:
    np.testing.assert_allclose(getattr(ours, name)[:, :, ::2, ::2].numpy(), theirs[name], rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("grid", ["coarse_restricted", "fine_restricted"])
def test_authors_weights_give_authors_restricted_features(
    grid: str, ours: DSRResult, theirs: dict[str, np.ndarray]
) -> None:
    means = getattr(ours, grid).mean(dim=(2, 3)).numpy()
    np.testing.assert_allclose(means, theirs[f"{grid}_mean"], rtol=0, atol=TOLERANCE)


def test_authors_weights_give_authors_losses(bundle: Bundle, ours: DSRResult, theirs: dict[str, np.ndarray]) -> None:
    with torch.inference_mode():
        encoding = bundle.model.discrete.encode(images())
        logits = bundle.model.detect(ours.object_image, ours.general_image)
    for grid in ("coarse", "fine"):
        features, codes = getattr(encoding, f"{grid}_features"), getattr(encoding, f"{grid}_codes")
        assert 0.25 * float((features - codes).square().mean()) == pytest.approx(
            float(theirs[f"{grid}_commitment"]), abs=TOLERANCE
        )
    focal = float(focal_loss(logits, images()[:, 0] > 0.55))
    assert focal == pytest.approx(float(theirs["focal_loss"]), abs=TOLERANCE)


def test_an_imported_bundle_in_float32_holds_the_authors_numbers_exactly(bundle: Bundle, tmp_path: Path) -> None:
    save_bundle(bundle, tmp_path / "b", dtype="float32")
    again = load_bundle(tmp_path / "b")
    shutil.rmtree(tmp_path / "b")
    for name, value in bundle.model.state_dict().items():
        assert torch.equal(again.model.state_dict()[name], value)
    assert again.threshold is None
    assert again.provenance["object"] == "part"


def test_a_paper_size_bundle_in_float16_takes_at_most_90_mb(bundle: Bundle, tmp_path: Path) -> None:
    save_bundle(bundle, tmp_path / "b")
    size = sum(file.stat().st_size for file in (tmp_path / "b").iterdir())
    shutil.rmtree(tmp_path / "b")
    assert 70e6 < size <= 90e6


def same_model(found: torch.nn.Module, wanted: torch.nn.Module) -> bool:
    return all(torch.equal(found.state_dict()[name], value) for name, value in wanted.state_dict().items())


def test_the_general_model_alone_is_the_same_from_folder_file_and_zip(
    folder: Path, bundle: Bundle, tmp_path: Path
) -> None:
    archive = tmp_path / "dsr_vq_model_pretrained.zip"
    with zipfile.ZipFile(archive, "w") as file:
        file.write(folder / GENERAL_FILE, f"pretrained/{GENERAL_FILE}")
        file.writestr("pretrained/README.txt", "a note")
    for path in (folder, folder / GENERAL_FILE):
        assert same_model(import_official_general(path), bundle.model.discrete)
    assert same_model(import_anomalib_general(archive), bundle.model.discrete)


def test_anomalib_lightning_checkpoints_and_old_pickles_are_read(
    general_state: State, bundle: Bundle, tmp_path: Path
) -> None:
    # anomalib keeps no running statistics, and other modules beside the general model
    kept = {key: value for key, value in general_state.items() if "_ema_" not in key}
    nested = {f"model.discrete_latent_model.{key}": value for key, value in kept.items()}
    lightning = {"state_dict": {**nested, "model.upsampling_module.x": torch.zeros(1)}, "epoch": 3}
    torch.save(lightning, tmp_path / "last.ckpt")
    torch.save(general_state, tmp_path / "old.pckl", _use_new_zipfile_serialization=False)
    for name in ("last.ckpt", "old.pckl"):
        assert same_model(import_anomalib_general(tmp_path / name), bundle.model.discrete)


def refusal(path: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        import_official_general(path)
    message = str(caught.value)
    assert str(path) in message
    assert "\n" not in message
    return message


def test_missing_unknown_and_misshapen_keys_are_refused(general_state: State, tmp_path: Path) -> None:
    path = tmp_path / "general.pckl"
    torch.save({key: value for key, value in general_state.items() if key != "upsample_t.bias"}, path)
    assert "lacks upsample_t.bias" in refusal(path)
    torch.save({**general_state, "extra.weight": torch.zeros(1), "module": torch.zeros(1)}, path)
    assert "unknown extra.weight and 1 more" in refusal(path)
    torch.save({**general_state, "_pre_vq_conv_top.bias": torch.zeros(64)}, path)
    assert "(64,)" in refusal(path)
    torch.save({**general_state, "_vq_vae_top._ema_w": torch.zeros(4096, 64)}, path)
    assert "(4096, 64)" in refusal(path)
    torch.save({**general_state, "upsample_t.bias": torch.full((128,), torch.nan)}, path)
    assert "not finite" in refusal(path)


def test_files_of_another_object_are_named(folder: Path) -> None:
    with pytest.raises(CheckpointError, match="objects there: part") as caught:
        import_official(folder, "carpet")
    assert "dsr_upsample_module_carpet.pckl" in str(caught.value)


class Trap:
    """Unpickled, this would write a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.path,))


def test_a_file_never_runs_code(tmp_path: Path) -> None:
    path, trace = tmp_path / "trap.pckl", tmp_path / "trace"
    torch.save({"upsample_t.weight": Trap(trace)}, path)
    refusal(path)
    path.write_bytes(pickle.dumps({"upsample_t.weight": Trap(trace)}))
    refusal(path)
    assert not trace.exists()


def test_damaged_files_are_refused_in_one_line(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    path = tmp_path / "damaged.pckl"
    for modern in (True, False):
        torch.save({"upsample_t.bias": torch.zeros(128)}, path, _use_new_zipfile_serialization=modern)
        whole = path.read_bytes()
        for length in rng.integers(0, len(whole), 15):
            path.write_bytes(whole[:length])
            refusal(path)
        for _ in range(30):
            noisy = bytearray(whole)
            for place in rng.integers(0, len(whole), 20):
                noisy[place] = rng.integers(0, 256)
            path.write_bytes(noisy)
            refusal(path)
    for value in ([1, 2], {"a": 1}, torch.zeros(3), {}):
        torch.save(value, path)
        refusal(path)
    assert "no checkpoint" in refusal(tmp_path / "nowhere.pckl")


def test_an_archive_with_several_checkpoints_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "many.zip"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("a.pckl", b"a")
        file.writestr("b.pckl", b"b")
    assert "several" in refusal(path)
