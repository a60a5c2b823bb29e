"""Import of the authors' published checkpoints, and of anomalib's copy of their general model.

Source of the names: the files of github.com/VitjanZ/DSR_anomaly_detection (Zavrtanik et al. 2022). The authors say hi,
bot and b for our fine grid, lo, top and t for our coarse one; these words appear in the tables here and nowhere else.
Files are read with `weights_only=True`, so that none can run code, and every key and shape is checked.
"""

from __future__ import annotations

import io
import pickle
import struct
import warnings
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import IO

import torch
from torch import Tensor, nn

from flawmap.bundle import Bundle, build, fill, sha256
from flawmap.config import Recipe
from flawmap.errors import CheckpointError
from flawmap.model.discrete import DiscreteModel

GENERAL_FILE = "vq_model_pretrained_128_4096.pckl"
LARGEST = 4 << 30  # bytes unpacked from an archive; the authors' largest file has 48 MB
# What torch.load and zipfile raise on damaged files.
DAMAGED = (
    OSError, EOFError, RuntimeError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError,
    AssertionError, struct.error, zlib.error, zipfile.BadZipFile,
)  # fmt: skip
SUFFIXES = (".pckl", ".pkl", ".pt", ".pth", ".ckpt")
NESTED = "model.discrete_latent_model."  # where an anomalib Lightning checkpoint keeps the general model

# Layers, theirs to ours; `.weight` and `.bias` follow. A residual layer's ReLUs are counted in their numbering.
RESIDUAL = {
    f"{i}._block.{theirs}": f"{i}.{ours}" for i in range(2) for theirs, ours in ((1, "conv3x3"), (3, "conv1x1"))
}


def _residual(theirs: str, ours: str) -> dict[str, str]:
    return {f"{theirs}_residual_stack._layers.{a}": f"{ours}residual.layers.{b}" for a, b in RESIDUAL.items()}


GENERAL = {
    "_encoder_b._conv_1": "fine_encoder.conv1",
    "_encoder_b._conv_2": "fine_encoder.conv2",
    "_encoder_b._conv_3": "fine_encoder.conv3",
    **_residual("_encoder_b.", "fine_encoder."),
    "_encoder_t._conv_1": "coarse_encoder.conv1",
    "_encoder_t._conv_2": "coarse_encoder.conv2",
    **_residual("_encoder_t.", "coarse_encoder."),
    "_pre_vq_conv_top": "to_coarse",
    "_pre_vq_conv_bot": "to_fine",
    "upsample_t": "upsample",
    "_decoder_b._conv_1": "decoder.conv",
    **_residual("_decoder_b.", "decoder."),
    "_decoder_b._conv_trans_1": "decoder.up1",
    "_decoder_b._conv_trans_2": "decoder.up2",
}
CODEBOOKS = {
    "_vq_vae_top._embedding.weight": "coarse_codebook.vectors",
    "_vq_vae_bot._embedding.weight": "fine_codebook.vectors",
}
# Running means of the codebooks' training, not needed once they are frozen; anomalib's copy may lack them.
STATISTICS = {
    "_vq_vae_top._ema_w": "coarse_codebook.sums",
    "_vq_vae_top._ema_cluster_size": "coarse_codebook.counts",
    "_vq_vae_bot._ema_w": "fine_codebook.sums",
    "_vq_vae_bot._ema_cluster_size": "fine_codebook.counts",
}


def _pair(theirs: str, ours: str) -> dict[str, str]:
    return {f"{theirs}.0": f"{ours}.0", f"{theirs}.3": f"{ours}.3"}


RESTRICTION = {
    **_pair("unet.encoder.block1", "down1"),
    **_pair("unet.encoder.block2", "down2"),
    **_pair("unet.encoder.block3", "down3"),
    "unet.decoder.up2.1": "up2.0",
    **_pair("unet.decoder.db2", "pair2"),
    "unet.decoder.up3.1": "up1.0",
    **_pair("unet.decoder.db3", "pair1"),
    "unet.decoder.fin_out.0": "out",
}
OBJECT_DECODER = {
    **_pair("block1", "down1"),
    **_pair("block2", "down2"),
    "pre_vq_conv": "narrow",
    "upblock1": "up1",
    "upblock2": "up2",
    "_conv_1": "conv",
    **_residual("", ""),
    "_conv_trans_1": "up3",
    "_conv_trans_2": "up4",
}
DETECTION = {
    **_pair("unet.encoder.block1", "down1"),
    **_pair("unet.encoder.block2", "down2"),
    **_pair("unet.encoder.block3", "down3"),
    **_pair("unet.encoder.block4", "down4"),
    "unet.decoder.up1.1": "up3.1",
    **_pair("unet.decoder.db1", "pair3"),
    "unet.decoder.up2.1": "up2.1",
    **_pair("unet.decoder.db2", "pair2"),
    "unet.decoder.up3.1": "up1.1",
    **_pair("unet.decoder.db3", "pair1"),
    "unet.decoder.fin_out.0": "out",
}
# Part of DSR: (file, names).
PARTS: dict[str, tuple[str, dict[str, str]]] = {
    "fine_restriction": ("dsr_subspace_restriction_hi_{}.pckl", RESTRICTION),
    "coarse_restriction": ("dsr_subspace_restriction_lo_{}.pckl", RESTRICTION),
    "object_decoder": ("dsr_image_recon_module_{}.pckl", OBJECT_DECODER),
    "detection": ("dsr_anomaly_det_module_{}.pckl", DETECTION),
    "refinement": ("dsr_upsample_module_{}.pckl", DETECTION),
}


def import_official(folder: Path, object_name: str) -> Bundle:
    """The authors' six files for an object, as a bundle without a threshold.

    `object_name` is the last part of the five files' names: `part` for dsr_upsample_module_part.pckl. Save the bundle
    with dtype="float32" to get the authors' outputs to the last digits. Raises CheckpointError.
    """
    folder = Path(folder)
    files = {part: folder / pattern.format(object_name) for part, (pattern, _) in PARTS.items()}
    missing = [file.name for file in (folder / GENERAL_FILE, *files.values()) if not file.is_file()]
    if missing:
        there = objects_in(folder)
        known = f"; objects there: {', '.join(there)}" if there else ""
        raise CheckpointError(f"{folder} has no {', '.join(missing)}{known}")
    recipe = Recipe()
    with torch.random.fork_rng(devices=[]):  # first weights are drawn, then replaced
        model = build(recipe.model, with_refinement=True)
    _fill_general(model.discrete, _read(folder / GENERAL_FILE), folder / GENERAL_FILE)
    for part, (_, names) in PARTS.items():
        _fill(model.get_submodule(part), names, _read(files[part]), files[part])
    model.eval().requires_grad_(False)
    provenance = {
        "flawmap": version("flawmap"),
        "imported": "checkpoints of the authors' program",
        "object": object_name,
        "files_sha256": {file.name: sha256(file) for file in (folder / GENERAL_FILE, *files.values())},
    }
    return Bundle(model=model, recipe=recipe, threshold=None, provenance=provenance)


def objects_in(folder: Path) -> list[str]:
    """Names of the objects that have any of the authors' files in `folder`, sorted."""
    found: set[str] = set()
    for pattern, _ in PARTS.values():
        start, end = pattern.split("{}")
        found |= {file.name[len(start) : -len(end)] for file in Path(folder).glob(f"{start}*{end}")}
    return sorted(found)


def import_official_general(path: Path) -> DiscreteModel:
    """The authors' general model: its file, or the folder it is in. Raises CheckpointError."""
    path = Path(path)
    return import_anomalib_general(path / GENERAL_FILE if path.is_dir() else path)


def import_anomalib_general(path: Path) -> DiscreteModel:
    """The authors' general model from anomalib: the .pckl file, the zip that holds it, or a Lightning checkpoint.

    Raises CheckpointError.
    """
    path = Path(path)
    with torch.random.fork_rng(devices=[]):
        model = DiscreteModel()
    _fill_general(model, _read(path), path)
    return model


def _fill_general(model: DiscreteModel, state: Mapping[str, Tensor], file: Path) -> None:
    for key, ours in STATISTICS.items():
        shape = model.get_buffer(ours).shape
        if key in state and state[key].shape != shape:
            raise CheckpointError(f"{file} has {key} of shape {tuple(state[key].shape)}, not {tuple(shape)}")
    _fill(model, GENERAL, {key: tensor for key, tensor in state.items() if key not in STATISTICS}, file)


def _fill(model: nn.Module, layers: Mapping[str, str], state: Mapping[str, Tensor], file: Path) -> None:
    """Check the file's keys against the table, both ways, and put its tensors into `model` under our names."""
    ours = model.state_dict()
    names = {f"{a}.{kind}": f"{b}.{kind}" for a, b in layers.items() for kind in ("weight", "bias")} | CODEBOOKS
    names = {theirs: name for theirs, name in names.items() if name in ours}
    unknown, missing = [key for key in state if key not in names], [key for key in names if key not in state]
    if unknown or missing:
        fault = f"has an unknown {_some(unknown)}" if unknown else f"lacks {_some(missing)}"
        raise CheckpointError(f"{file} {fault}; it is not the authors' file of this name")
    fill(model, {names[key]: tensor for key, tensor in state.items()}, str(file), CheckpointError)


def _some(keys: Sequence[str]) -> str:
    return keys[0] + (f" and {len(keys) - 1} more keys" if len(keys) > 1 else "")


def _read(file: Path) -> dict[str, Tensor]:
    """The tensors of a checkpoint file, or of the one checkpoint inside a zip archive."""
    if not file.is_file():
        raise CheckpointError(f"no checkpoint {file}; give the authors' {GENERAL_FILE}, or the zip that holds it")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's remarks on odd files; what is wrong is said below
            state = torch.load(_opened(file), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as problem:
        raise CheckpointError(
            f"{file} is damaged, or holds more than tensors and could run code; not read"
        ) from problem
    except DAMAGED as problem:
        raise CheckpointError(f"{file} is not a readable checkpoint; download or copy it again") from problem
    if isinstance(state, dict) and isinstance(state.get("state_dict"), dict):
        state = state["state_dict"]
    if isinstance(state, dict) and any(str(key).startswith(NESTED) for key in state):
        state = {str(key).removeprefix(NESTED): value for key, value in state.items() if str(key).startswith(NESTED)}
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise CheckpointError(f"{file} holds no dictionary of tensors; it is not one of the authors' files")
    return {str(key): value for key, value in state.items()}


def _opened(file: Path) -> IO[bytes] | str:
    """The file itself, or the checkpoint inside it: PyTorch's own files are zip archives too."""
    if not zipfile.is_zipfile(file):
        return str(file)
    with zipfile.ZipFile(file) as archive:
        inside = [entry for entry in archive.infolist() if entry.filename.endswith(SUFFIXES) and not entry.is_dir()]
        inside = [entry for entry in inside if Path(entry.filename).name != "data.pkl"]  # PyTorch's own
        named = [entry for entry in inside if Path(entry.filename).name == GENERAL_FILE] or inside
        if not named:
            return str(file)
        if len(named) > 1:
            raise CheckpointError(f"{file} holds several checkpoints; unpack it and give the one that is meant")
        if named[0].file_size > LARGEST:
            raise CheckpointError(f"{file} holds a file larger than any checkpoint of the authors; not unpacked")
        return io.BytesIO(archive.read(named[0]))
