"""What a training hands over: weights, recipe, threshold and provenance in one folder, a bundle; and general models.

A bundle holds weights.safetensors (half precision unless asked otherwise), recipe.toml, bundle.json, the training's
metrics.jsonl, photos.safetensors, by which new photos are compared with the good ones trained on, evidence.safetensors,
by which more of them can be taken in, ignore.png where the recipe named such a mask, and backbone.json, the layers of a
backbone of the user's own. It appears whole or not at all: it is written beside its place and then moved there. Nothing
is ever unpickled. The authors' files are read by official.py.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import resources
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from flawmap.bundle_facts import (
    ABOUT,
    FORMAT,
    NOTE,
    check_format,
    check_texts,
    facts_of,
    read_facts,
    sealed,
    smallest_place,
    threshold_of,
)
from flawmap.config import ModelSettings, PlaceSettings, Recipe, checked, dump_recipe, recipe_from_text
from flawmap.data.images import read_mask, write_image
from flawmap.data.white import FULL, UNKNOWN_REACH, White, level_in, reach_in
from flawmap.errors import BundleError, ConfigError, ImageError, first_line
from flawmap.given import place_given
from flawmap.measure.evidence import GoodEvidence
from flawmap.measure.photos import BRIGHTNESS, GoodPhotos
from flawmap.measure.threshold import Threshold
from flawmap.model.blocks import start_from_normal
from flawmap.model.decoder import ObjectDecoder
from flawmap.model.detection import DetectionUNet
from flawmap.model.discrete import DiscreteModel, GeneralDecoder
from flawmap.model.dsr import DSR, detection_channels
from flawmap.model.familiarity import AROUND, HIGH, LOW, MAP, PRETRAINED, SOFTNESS, Familiarity
from flawmap.model.imagenet import ImageNetFeatures
from flawmap.model.onnx_backbone import BackboneFeatures, OnnxBackbone, Program
from flawmap.model.restriction import SubspaceRestriction

WINDOW = "imagenet_around"  # in bundle.json: `familiarity.AROUND` of ImageNet's features
SOFT = "evidence_softness"  # in bundle.json: `familiarity.SOFTNESS` where kinds of evidence add up
WEIGHTS, RECIPE, METRICS = "weights.safetensors", "recipe.toml", "metrics.jsonl"
IMAGENET = "imagenet.safetensors"  # among the weights that are shipped
IGNORE, PHOTOS, EVIDENCE = "ignore.png", "photos.safetensors", "evidence.safetensors"
BACKBONE = (
    "backbone.json"  # the program of a backbone of the user's own (model/onnx_backbone.py); weights lie with others
)
Precision = Literal["float16", "float32"]
DTYPES: dict[str, torch.dtype] = {"float16": torch.float16, "float32": torch.float32}


@dataclass
class Bundle:
    """A trained DSR, the recipe it was trained with, where good ends (None: not set), and where it comes from.

    ignore: (H, W) bool, True where images do not count; None without such a mask
    photos: what the good photos were like (measure/photos.py); None when it is not known
    evidence: what they told of each kind of evidence (measure/evidence.py); None without familiarity
    """

    model: DSR
    recipe: Recipe
    threshold: Threshold | None
    provenance: dict[str, Any]
    ignore: np.ndarray[Any, np.dtype[np.bool_]] | None = None
    photos: GoodPhotos | None = None
    evidence: GoodEvidence | None = None

    def __repr__(self) -> str:
        sizes = self.recipe.image
        limit = "no threshold" if self.threshold is None else f"threshold {self.threshold.score:.4g}"
        photos = self.provenance.get("trained_on")
        learnt = f", trained on {photos} photos" if isinstance(photos, int) else ""
        return f"<Bundle at {sizes.width}x{sizes.height} pixels, {limit}{learnt}>"

    @property
    def white(self) -> White:
        """How new photos with 16 bits are read, and how dark they may be.

        Of a bundle that did not note how bright its photos are, the mean of the darkest is the least that bright
        pixels reach; of one that knows nothing of them, a share that 12 bits in 16 do not reach.
        """
        level, reach = level_in(self.provenance, self.recipe.image), reach_in(self.provenance)
        if reach is None:
            known = self.photos is not None
            reach = (
                float(self.photos.figures[:, BRIGHTNESS].min()) if known and self.photos is not None else UNKNOWN_REACH
            )
        return White(level, reach, trained=True)

    @property
    def smallest(self) -> int:
        """The smallest area of a place, in pixels of the photo."""
        return smallest_place(self.provenance, self.recipe.verdict)


def build(settings: ModelSettings, with_refinement: bool, backbone: OnnxBackbone | None = None) -> DSR:
    """A DSR of these sizes, untrained; its first weights come from torch's global random state.

    `backbone`: the one that `settings.backbone` names, as backbones/read.py reads it; it brings its weights.

    With InstanceNorm, detection and the object decoder start from N(0, 0.02), as the authors' do; the rest as PyTorch
    does. With BatchNorm so small a start hardly learns (docs/speed.md).
    """
    length, width, hidden = settings.code_length, settings.discrete_width, settings.discrete_hidden
    object_decoder = (
        GeneralDecoder(2 * length, width, hidden)
        if settings.decoder in ("general", "frozen")
        else ObjectDecoder(2 * length, settings.decoder_widths, hidden, width, hidden)
    )
    norm = settings.norm
    scale, fold = settings.detection_scale, settings.detection_fold
    inputs = detection_channels(settings.detection_sees_image, scale, fold)
    detection_norm = norm if settings.detection_norm == "same" else settings.detection_norm
    detection = DetectionUNet(inputs, settings.detection_width, detection_norm, 2 * scale**2 if fold else 2)
    if norm == "instance":
        start_from_normal(object_decoder)
    if detection_norm == "instance":
        start_from_normal(detection)
    imagenet = _pretrained(settings, backbone)
    return DSR(
        discrete=DiscreteModel(settings.codes, length, width, hidden),
        coarse_restriction=SubspaceRestriction(length, settings.restriction_widths, norm),
        fine_restriction=SubspaceRestriction(length, settings.restriction_widths, norm),
        object_decoder=object_decoder,
        detection=detection,
        refinement=DetectionUNet(8, settings.refinement_width, norm) if with_refinement else None,
        detection_scale=scale,
        sees_image=settings.detection_sees_image,
        standardise=settings.detection_standardise,
        fold=fold,
        score_side=settings.score_side,
        score_pixels=settings.score_pixels,
        familiarity=_familiarity(settings, imagenet),
        imagenet=imagenet,
        restricts=settings.restriction == "learned",
        quantizes=settings.quantize,
        against_image=settings.compared_with == "image",
        reduction=settings.reduction,
    )


def _pretrained(settings: ModelSettings, backbone: OnnxBackbone | None) -> ImageNetFeatures | BackboneFeatures | None:
    """What gives the features that were learnt elsewhere."""
    if not {*PRETRAINED} & {*settings.familiarity}:
        return None
    if not settings.backbone:
        return ImageNetFeatures()
    assert backbone is not None, "a model with a backbone of its own is built with it"
    return BackboneFeatures(backbone)


def _familiarity(settings: ModelSettings, pretrained: ImageNetFeatures | BackboneFeatures | None) -> Familiarity | None:
    if not settings.familiarity:
        return None
    early = settings.discrete_width
    channels = {"encoder": early, "local": early, "detection": 4 * settings.detection_width}
    if pretrained is not None:
        channels |= {LOW: pretrained.low_channels, HIGH: pretrained.high_channels}
    return Familiarity(
        {name: channels[name] for name in settings.familiarity},
        settings.fusion,
        settings.guided,
        settings.neighbourhood,
        settings.components,
        bounded=settings.source_weights == "cubed",
    )


def _adds_up(settings: ModelSettings) -> bool:
    """Whether kinds of evidence that agree add up to a score."""
    return bool(settings.familiarity) and settings.fusion == "log-mean-exp"


def save_bundle(
    bundle: Bundle,
    path: str | os.PathLike[str],
    overwrite: bool = False,
    *,
    metrics: Path | None = None,
    dtype: Precision = "float16",
) -> None:
    """Write `bundle` as the folder `path`, with a copy of the file `metrics`; weights are stored as `dtype`.

    A save that is killed or fails leaves `path` as it was; killed in the very instant in which two whole bundles change
    places, it leaves the old one beside it as .NAME.old. Raises BundleError when `path` exists and `overwrite` is not
    given, when it is something else than a bundle, when weights do not fit `dtype`, or when it cannot be written.
    """
    path = place_given(path, "a bundle's place", BundleError)
    if path.exists():
        if not overwrite:
            raise BundleError(f"{path} exists; choose another place, or overwrite it")
        if not (path / NOTE).is_file():
            raise BundleError(f"{path} is not a bundle and is left alone; choose another place")
    place = path.absolute()
    saving, old = (place.with_name(f".{place.name}.{word}") for word in ("saving", "old"))
    with _writing(path, saving):
        _remove(saving)  # left by a killed save
        saving.mkdir(parents=True)
        _save_tensors(saving / WEIGHTS, bundle.model, dtype, {})
        (saving / RECIPE).write_text(dump_recipe(bundle.recipe), encoding="utf-8")
        if metrics is not None:
            shutil.copyfile(metrics, saving / METRICS)
        if bundle.ignore is not None:
            write_image(saving / IGNORE, bundle.ignore.astype(np.uint8) * np.uint8(255))
        if bundle.photos is not None:
            _write_tensors(saving / PHOTOS, bundle.photos.tensors(), {})
        if bundle.evidence is not None:
            _write_tensors(saving / EVIDENCE, bundle.evidence.tensors(), {})
        own = isinstance(bundle.model.imagenet, BackboneFeatures)
        if isinstance(bundle.model.imagenet, BackboneFeatures):
            (saving / BACKBONE).write_text(bundle.model.imagenet.backbone.program.to_json(), encoding="utf-8")
        note = {
            "format": FORMAT,
            "flawmap": version("flawmap"),
            "refinement": bundle.model.refinement is not None,
            **({WINDOW: AROUND} if bundle.model.imagenet is not None else {}),
            **({SOFT: SOFTNESS} if _adds_up(bundle.recipe.model) else {}),
            "weights_dtype": dtype,
            "weights_sha256": sha256(saving / WEIGHTS),
            "threshold": facts_of(bundle.threshold),
            "ignore_sha256": None if bundle.ignore is None else sha256(saving / IGNORE),
            "photos_sha256": None if bundle.photos is None else sha256(saving / PHOTOS),
            "evidence_sha256": None if bundle.evidence is None else sha256(saving / EVIDENCE),
            **({"backbone_json_sha256": sha256(saving / BACKBONE)} if own else {}),
            "provenance": bundle.provenance,
        }
        _write_note(saving / NOTE, note)
        if path.exists():
            _remove(old)
            path.rename(old)
            try:
                saving.rename(path)
            except OSError:
                old.rename(path)
                raise
            _remove(old)
        else:
            saving.rename(path)


def load_bundle(path: str | os.PathLike[str]) -> Bundle:
    """Read the bundle at `path`: model in float32 on the CPU, frozen, in evaluation mode.

    Raises BundleError when it is missing, damaged, incomplete, of a newer format, or does not fit its recipe.
    """
    path = place_given(path, "a bundle's folder", BundleError)
    note = read_facts(path)
    for name in (WEIGHTS, RECIPE):
        if not (path / name).is_file():
            raise BundleError(f"{path} has no {name}; the bundle is incomplete, train or copy it again")
    check_texts(note, path)
    recipe = _recipe_of(path)
    try:
        found = sha256(path / WEIGHTS)
    except OSError as problem:
        raise BundleError(f"{path / WEIGHTS} cannot be read: {first_line(problem)}") from problem
    if found != note["weights_sha256"]:
        raise BundleError(
            f"{path / WEIGHTS} is not the file that {NOTE} describes; copy the bundle again, or train it anew"
        )
    tensors, _ = _load_tensors(path / WEIGHTS)
    unlike = "imagenet" in recipe.model.familiarity and note.get(WINDOW) != AROUND
    unlike = unlike or (_adds_up(recipe.model) and note.get(SOFT) != SOFTNESS)
    if "familiarity.levels" in tensors or unlike:
        raise BundleError(
            f"{path} was trained by an earlier flawmap, which weighed evidence in another way; train it again"
        )
    backbone = _backbone(note, recipe.model, path)
    with torch.random.fork_rng(devices=[]):  # first weights are drawn, then replaced
        model = build(recipe.model, with_refinement=note["refinement"], backbone=backbone)
    if model.familiarity is not None:
        model.familiarity.make_room(tensors, "familiarity.")
    fill(model, tensors, str(path / WEIGHTS))
    threshold, ignore = threshold_of(note), _ignore(note, path)
    photos, evidence = _photos(note, path), _evidence(note, path, model)
    return Bundle(model, recipe, threshold, note["provenance"], ignore, photos, evidence)


def _backbone(note: Mapping[str, Any], settings: ModelSettings, path: Path) -> OnnxBackbone | None:
    """The backbone of a bundle whose features are of one, its weights still to be filled in. Raises BundleError."""
    if not (settings.backbone and {*PRETRAINED} & {*settings.familiarity}):
        return None
    try:
        if sha256(path / BACKBONE) != note.get("backbone_json_sha256"):
            raise BundleError(f"{path / BACKBONE} is not the file that {NOTE} describes; copy the bundle again")
        return OnnxBackbone(Program.from_json((path / BACKBONE).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError, LookupError, AttributeError) as problem:
        raise BundleError(
            f"{path / BACKBONE} cannot be read: {first_line(problem)}; copy the bundle again, or update flawmap"
        ) from problem


def _recipe_of(path: Path) -> Recipe:
    try:
        return recipe_from_text((path / RECIPE).read_text(encoding="utf-8-sig"), str(path / RECIPE))
    except (ConfigError, OSError, UnicodeDecodeError) as problem:
        raise BundleError(f"{path / RECIPE} cannot be read: {first_line(problem)}") from problem


def update_threshold(path: Path, threshold: Threshold | None) -> None:
    """Set the threshold of the bundle at `path`; a reader sees the old or the new one. Raises BundleError."""
    note = read_facts(Path(path))
    check_texts(note, Path(path))
    note["threshold"] = facts_of(threshold)
    _replace_note(Path(path), note)


def update_white(path: Path, level: int) -> None:
    """Set the pixel value that is full white in new photos with 16 bits, 255 to 65535, in the bundle at `path`.

    A reader sees the old or the new one. Raises BundleError.
    """
    if not 255 <= level <= FULL:
        raise BundleError(f"full white is 255 to {FULL}, as 4095 for 12 bits; not {level}")
    noted = read_facts(Path(path))["provenance"].get("white")
    update_provenance(path, {"white": {**(noted if isinstance(noted, dict) else {}), "set": level}})


def update_smallest(path: Path, smallest: float | str, mm_per_pixel: float | None = None) -> None:
    """Set the smallest area of a place in the bundle at `path`, as `verdict.smallest`: `20`, `0.5 mm`, `0.2 mm2`.

    mm_per_pixel: what a pixel of the photo measures; None: as the bundle knows it. A reader sees the old or the new
    one. Raises BundleError, and ConfigError for what is no area.
    """
    place = Path(path)
    settings, noted = _recipe_of(place).verdict, read_facts(place)["provenance"].get("place")
    known = settings.mm_per_pixel if noted is None else noted["mm_per_pixel"]
    asked = {"smallest": smallest, "mm_per_pixel": known if mm_per_pixel is None else mm_per_pixel}
    made = checked(PlaceSettings, asked, "the smallest place")
    update_provenance(place, {"place": made.model_dump()})


def copy_with_white(path: Path, level: int, out: Path, overwrite: bool = False) -> None:
    """Write a copy of the bundle at `path` to `out` that reads new photos with `level` as full white.

    A reader sees nothing or the whole copy; `path` stays as it is. What a station noted of where the bundle comes from
    is not copied. Raises BundleError.
    """
    path, out = Path(path), Path(out)
    if path.resolve() == out.resolve():
        raise BundleError(f"{out} is the bundle itself; leave out --out to change it, or choose another --out")
    if out.exists() and not (overwrite and (out / NOTE).is_file()):
        kept = "choose another --out" + (", or --overwrite it" if (out / NOTE).is_file() else "")
        raise BundleError(f"{out} exists; {kept}")
    read_facts(path)
    saving, before = (out.with_name(f".{out.name}.{word}") for word in ("saving", "before"))
    try:
        for left in (saving, before):
            shutil.rmtree(left, ignore_errors=True)
        out.parent.mkdir(parents=True, exist_ok=True)
        shutil.copytree(path, saving, ignore=shutil.ignore_patterns(ABOUT, ".*"))
        update_white(saving, level)
        if out.exists():
            out.rename(before)
        saving.rename(out)
    except OSError as problem:
        raise BundleError(f"{out}: cannot be written ({problem.strerror or problem})") from problem
    finally:
        if before.exists() and not out.exists():
            before.rename(out)
        for left in (saving, before):
            shutil.rmtree(left, ignore_errors=True)


def update_provenance(path: Path, facts: Mapping[str, Any]) -> None:
    """Add facts to the provenance of the bundle at `path`; a reader sees the old or the new one. Raises BundleError."""
    note = read_facts(Path(path))
    check_texts(note, Path(path))
    note["provenance"] = {**note["provenance"], **facts}
    _replace_note(Path(path), note)


def _replace_note(path: Path, note: Mapping[str, Any]) -> None:
    saving = path / f".{NOTE}.saving"
    with _writing(path / NOTE, saving):
        _write_note(saving, note)
        saving.replace(path / NOTE)


def save_general(
    model: DiscreteModel,
    path: str | os.PathLike[str],
    card: Mapping[str, Any] | None = None,
    *,
    dtype: Precision = "float16",
) -> None:
    """Write a general discrete model as one safetensors file, in place of one that is there.

    `card`, the model card, is kept in the file as JSON: data and its terms, steps, PSNR, codebook use, command, seed.
    The codebooks' running statistics are left out. Raises BundleError.
    """
    _save_carded(
        model,
        place_given(path, "a model's file", BundleError),
        dtype,
        {"card": json.dumps(dict(card or {}), allow_nan=False)},
    )


def load_general(path: str | os.PathLike[str] | None = None) -> DiscreteModel:
    """Read a general discrete model, float32, frozen; None is the one shipped. Sizes are read off its tensors.

    Raises BundleError.
    """
    file = _general_file(None if path is None else place_given(path, "a general model", BundleError))
    tensors, metadata = _load_tensors(file)
    if "model" in metadata:  # a general prior, which holds a discrete model too
        part = "discrete."
        tensors = {name.removeprefix(part): tensor for name, tensor in tensors.items() if name.startswith(part)}
    try:
        codes, length = tensors["coarse_codebook.vectors"].shape
        width = tensors["fine_encoder.conv2.weight"].shape[0]
        hidden = tensors["fine_encoder.residual.layers.0.conv3x3.weight"].shape[0]
    except (KeyError, ValueError, IndexError) as problem:
        raise BundleError(
            f"{file} is not a general model; make one with flawmap pretrain or flawmap import"
        ) from problem
    with torch.random.fork_rng(devices=[]):
        model = DiscreteModel(codes, length, width, hidden)
    fill(model, tensors, str(file))
    return model


def load_imagenet(model: ImageNetFeatures) -> None:
    """Put the shipped weights of EfficientNet-Lite0 (lite0.py) into `model`. Raises BundleError."""
    file = _weights_folder() / IMAGENET
    fill(model, _load_tensors(file)[0], str(file))


def save_imagenet(model: ImageNetFeatures, path: Path, card: Mapping[str, Any]) -> None:
    """Write weights of EfficientNet-Lite0 as one file, in place of one that is there. Raises BundleError."""
    _save_carded(model, path, "float16", {"card": json.dumps(dict(card), allow_nan=False)})


class Prior(NamedTuple):
    """A DSR trained on natural images, its sizes, and its model card: what a training for an object starts from."""

    model: DSR
    settings: ModelSettings
    card: dict[str, Any]


def save_prior(prior: Prior, path: Path, *, dtype: Precision = "float16") -> None:
    """Write a general prior as one safetensors file, in place of one that is there. Raises BundleError."""
    metadata = {"model": prior.settings.model_dump_json(), "card": json.dumps(prior.card, allow_nan=False)}
    _save_carded(prior.model, path, dtype, metadata)


def load_prior(name: str | Path) -> Prior:
    """Read a general prior, float32, frozen: a file, or the name of a shipped one (`lean`). Raises BundleError."""
    shipped = _weights_folder() / f"{name}.safetensors"
    file = shipped if Path(name).parent == Path() and shipped.is_file() and not Path(name).is_file() else Path(name)
    if not file.is_file():
        raise BundleError(f"no general prior {name}; make one with flawmap pretrain --config lean")
    tensors, metadata = _load_tensors(file)
    try:
        settings = ModelSettings.model_validate_json(metadata["model"])
    except (KeyError, ValueError) as problem:
        raise BundleError(f"{file} is not a general prior; make one with flawmap pretrain --config lean") from problem
    with torch.random.fork_rng(devices=[]):
        model = build(settings, with_refinement=False)
    fill(model, tensors, str(file))
    return Prior(model, settings, json.loads(metadata.get("card", "{}")))


def general_card(path: Path | None = None) -> dict[str, Any]:
    """The model card inside a general model's file; None is the one shipped. Raises BundleError."""
    file = _general_file(path)
    card: dict[str, Any] = json.loads(_load_tensors(file)[1].get("card", "{}"))
    return card


def round_weights(model: nn.Module, dtype: Precision = "float16") -> None:
    """Round weights in place to what a bundle will hold, so that a threshold is set on the model it is used with."""
    with torch.no_grad():
        for tensor in model.state_dict().values():
            tensor.copy_(tensor.to(DTYPES[dtype]))


def fill(model: nn.Module, tensors: Mapping[str, Tensor], file: str, error: type[BundleError] = BundleError) -> None:
    """Put `tensors` into `model`, freeze it and set it to evaluation; every name and shape must be right.

    `file` is named in the error.
    """
    wanted = model.state_dict()
    problems = [f"lacks {name}" for name in wanted if name not in tensors]
    problems += [f"has an unknown {name}" for name in tensors if name not in wanted]
    problems += [
        f"has {name} of shape {tuple(tensors[name].shape)} where {tuple(tensor.shape)} is needed"
        for name, tensor in wanted.items()
        if name in tensors and tensors[name].shape != tensor.shape
    ]
    problems = problems or [
        f"has {name} that is not finite numbers"
        for name, tensor in tensors.items()
        if not (tensor.is_floating_point() and tensor.isfinite().all())
    ]
    if problems:
        more = f", and {len(problems) - 1} more such faults" if len(problems) > 1 else ""
        raise error(f"{file} {problems[0]}{more}; it does not fit the sizes it is read with, or is damaged")
    model.load_state_dict(dict(tensors))
    model.eval().requires_grad_(False)


def sha256(file: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _general_file(path: str | Path | None) -> Path:
    if path is not None:
        file = Path(path)
        if not file.is_file():
            raise BundleError(f"no general model {file}; make one with flawmap pretrain or flawmap import")
        return file
    shipped = _weights_folder() / "general.safetensors"
    if not shipped.is_file():
        raise BundleError(
            "this installation has no general model; make one with flawmap pretrain and pass it with --general"
        )
    return shipped


def _weights_folder() -> Path:
    return Path(str(resources.files("flawmap"))) / "weights"


def _save_tensors(file: Path, model: nn.Module, dtype: Precision, metadata: Mapping[str, str]) -> None:
    tensors: dict[str, Tensor] = {}
    for name, tensor in model.state_dict().items():
        # copy: safetensors refuses tensors that share memory; contiguous: it refuses channels-last.
        tensors[name] = (
            tensor.detach().to("cpu", DTYPES[dtype], copy=True).contiguous(memory_format=torch.contiguous_format)
        )
        if not tensors[name].isfinite().all():
            raise BundleError(f"{file}: weights {name} are not finite in {dtype}; the training failed, start it anew")
    _write_tensors(file, tensors, metadata)


def _save_carded(model: nn.Module, path: Path, dtype: Precision, metadata: Mapping[str, str]) -> None:
    """One file of weights with a card, whole or not at all."""
    path = Path(path)
    saving = path.with_name(f".{path.name}.saving")
    with _writing(path, saving):
        path.parent.mkdir(parents=True, exist_ok=True)
        _save_tensors(saving, model, dtype, metadata)
        saving.replace(path)


def _write_tensors(file: Path, tensors: dict[str, Tensor], metadata: Mapping[str, str]) -> None:
    save_file(tensors, file, metadata={"format": str(FORMAT), **metadata})
    os.chmod(file, 0o644)  # safetensors writes 0600


def _load_tensors(file: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a safetensors file of ours."""
    try:
        with safe_open(file, framework="pt") as opened:
            metadata: dict[str, str] = opened.metadata() or {}
            check_format(int(metadata.get("format", "0")), file)
            return {name: opened.get_tensor(name) for name in opened.keys()}, metadata  # noqa: SIM118, not a mapping
    except (OSError, SafetensorError, ValueError) as problem:
        raise BundleError(f"{file} is not readable weights ({first_line(problem)}); copy or make it again") from problem


def _write_note(file: Path, note: Mapping[str, Any]) -> None:
    """Write bundle.json, sealed. A name that is not valid Unicode may be in it, which JSON can escape."""
    file.write_text(sealed(note, file.parent), encoding="utf-8", errors="backslashreplace")


def _ignore(note: Mapping[str, Any], path: Path) -> np.ndarray[Any, np.dtype[np.bool_]] | None:
    if note.get("ignore_sha256") is None:  # bundles of 0.1 have no such entry
        return None
    try:
        if sha256(path / IGNORE) != note["ignore_sha256"]:
            raise BundleError(f"{path / IGNORE} is not the file that {NOTE} describes; copy the bundle again")
        return read_mask(path / IGNORE)
    except (OSError, ImageError) as problem:
        raise BundleError(f"{path / IGNORE} cannot be read: {first_line(problem)}; copy the bundle again") from problem


def _photos(note: Mapping[str, Any], path: Path) -> GoodPhotos | None:
    tensors = _described(note, "photos_sha256", path / PHOTOS)
    try:
        return None if tensors is None else GoodPhotos.from_tensors(tensors)
    except (KeyError, ValueError) as problem:
        raise BundleError(f"{path / PHOTOS} cannot be read: {first_line(problem)}; copy the bundle again") from problem


def _evidence(note: Mapping[str, Any], path: Path, model: DSR) -> GoodEvidence | None:
    tensors = _described(note, "evidence_sha256", path / EVIDENCE)
    if tensors is None or model.familiarity is None:
        return None
    try:
        return GoodEvidence.from_tensors(tensors, (MAP, *model.familiarity.sources))
    except (KeyError, ValueError, IndexError) as problem:
        raise BundleError(
            f"{path / EVIDENCE} cannot be read: {first_line(problem)}; copy the bundle again"
        ) from problem


def _described(note: Mapping[str, Any], entry: str, file: Path) -> dict[str, Tensor] | None:
    """The tensors of a file that the note has the hash of; None where it has none, as older bundles."""
    if note.get(entry) is None:
        return None
    try:
        if sha256(file) != note[entry]:
            raise BundleError(f"{file} is not the file that {NOTE} describes; copy the bundle again")
        return _load_tensors(file)[0]
    except OSError as problem:
        raise BundleError(f"{file} cannot be read: {first_line(problem)}; copy the bundle again") from problem


@contextlib.contextmanager
def _writing(path: Path, saving: Path) -> Iterator[None]:
    """What fails inside leaves no half-written `saving`; the system's complaint becomes a BundleError."""
    try:
        yield
    except BaseException as problem:
        _remove(saving)
        if isinstance(problem, OSError | SafetensorError | ImageError):
            raise BundleError(f"cannot write {path}: {first_line(problem)}") from problem
        raise


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            path.unlink()
