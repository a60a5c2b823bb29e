"""`flawmap export`: one artefact that inspects without flawmap, checked against PyTorch before it is handed over.

ONNX: a file NAME.onnx. OpenVINO: a folder with NAME.xml and NAME.bin. An artefact that does not agree is deleted, and
what was at its place before stays.
"""

from __future__ import annotations

import dataclasses
import datetime
import json
import shutil
from collections.abc import Callable, Sequence
from importlib.metadata import version
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch

from flawmap.bundle import WEIGHTS, Bundle, load_bundle, sha256
from flawmap.config import dump_recipe
from flawmap.data.images import read_image, read_pixels, to_float, to_uint8
from flawmap.data.layouts import gather
from flawmap.data.surfaces import SURFACES, draw_good
from flawmap.data.tiles import at_scale, cut
from flawmap.deploy.agreement import Agreement, Pixels, Ranking, compare, rank
from flawmap.deploy.artefact import BFLOAT16, PACKAGES, open_session, openvino_core, package, read_about
from flawmap.deploy.graph import ABOUT, CHOICES, VERDICT, inspection_graph, network_graph, write_about
from flawmap.deploy.inspector import Inspector
from flawmap.deploy.mixed import in_float32, mark
from flawmap.devices import has_fast_bfloat16
from flawmap.errors import BundleError, ConfigError, DataError, DisagreementError
from flawmap.given import place_given

COMPARED = 8  # images that an artefact in full precision is compared on
CALIBRATED, RANKED = 64, 48  # good images that INT8 is fitted to, and that it is judged on
FEWEST = 16  # good images without which INT8 is not tried; half of it, and bfloat16 is not


@dataclasses.dataclass(frozen=True)
class Exported:
    """An artefact that was handed over: its file, what it says of itself, and how it agrees with PyTorch."""

    file: Path
    about: dict[str, Any]
    check: Agreement | Ranking


def export(
    source: str | PathLike[str] | Inspector,
    to: str,
    out: str | PathLike[str] | None = None,
    *,
    int8: bool = False,
    bfloat16: bool = False,
    dynamic_batch: bool = False,
    images: str | PathLike[str] | None = None,
    overwrite: bool = False,
    say: Callable[[str], object] = lambda line: None,
) -> Exported:
    """Export the bundle at `source`, or that of an inspector, to `out`; None is beside the bundle, by its name.

    `images`: a folder of good images of the part; without it the check runs on surfaces that flawmap draws. `say` is
    told what is passed over in it. INT8 is
    fitted to half of them and judged on the other half. `bfloat16`: networks, or what INT8 leaves of them, compute in
    it, by OpenVINO alone and on CPUs that multiply it. Raises ConfigError when a package is missing, `int8` has no
    images or `bfloat16` cannot be had, DisagreementError when the artefact disagrees with PyTorch, BundleError when its
    place is taken, DataError for the images.
    """
    if isinstance(source, Inspector):
        if not source.source:
            raise BundleError("the inspector's bundle lies in no folder; give that which flawmap.save_bundle wrote")
        source = source.source
    source, out, images = place_given(source, "a bundle's folder", BundleError), _path(out), _path(images)
    if to not in PACKAGES:
        raise ConfigError(f"no export to {to}; there are: {', '.join(PACKAGES)}")
    for name in (*PACKAGES[to], *(["nncf"] if int8 else [])):
        package(name)
    if int8 and images is None:
        raise ConfigError("--int8 is fitted to good images of the part; give at least 16 with --images FOLDER")
    if bfloat16 and to != "openvino":
        raise ConfigError(f"--bfloat16 is for OpenVINO: --to {to} has none on a CPU")
    if bfloat16 and not has_fast_bfloat16(torch.device("cpu")):
        raise ConfigError("the processor here does not multiply bfloat16, so it could not be checked; leave it out")
    precision = "-".join(["int8"] * int8 + [BFLOAT16] * bfloat16) or "float32"
    place = out if out is not None else source.with_name(_usual_name(source, to, precision))
    _check_place(place, to, overwrite)
    bundle = load_bundle(source)
    lower = int8 or bfloat16
    shown, whose = _images(bundle, images, int8, bfloat16, say)
    fitted, judged = (shown[::2][:CALIBRATED], shown[1::2][:RANKED]) if int8 else ([], shown)
    about = describe(bundle, sha256(source / WEIGHTS), precision, dynamic_batch)
    saving = place.absolute().with_name(f".{place.name}.saving")
    _remove(saving)
    try:
        saving.mkdir(parents=True)
        # INT8 that detection does not bear is tried once more without it: what familiarity says of its features
        # magnifies what quantization does to them.
        for detection in (True, False) if int8 else (True,):
            file = _build(bundle, to, saving / place.stem, fitted, dynamic_batch, detection)
            session = open_session(file, bfloat16=bfloat16)
            check = rank(session, bundle, judged) if lower else compare(session, bundle, judged)
            if not check.fault:
                break
        else:
            doubt = "drawn surfaces; --images FOLDER checks on good photos of the part" if images is None else images
            raise DisagreementError(f"{place} is refused and was not written: {check.fault}, on {doubt}", check.fault)
        if lower:
            familiar = ("familiarity",) if bundle.model.familiarity is not None else ()
            networks = () if bfloat16 else ("encoder",) if detection else ("encoder", "detection")
            about["full_precision"] = [*networks, "code search", *familiar]
        about |= {"check": {"on": whose, **dataclasses.asdict(check)}}
        _stamp(file, about)
        _same(session, file, judged[0])
        return Exported(_hand_over(file, saving, place), about, check)
    except OSError as problem:
        raise BundleError(f"cannot write {place}: {problem.strerror or problem}") from problem
    finally:
        _remove(saving)


def _path(name: str | PathLike[str] | None) -> Path | None:
    return None if name is None else place_given(name, "a folder", ConfigError)


def describe(bundle: Bundle, weights_sha256: str, precision: str, dynamic_batch: bool) -> dict[str, Any]:
    """What an artefact says of itself."""
    settings, rule, threshold = bundle.recipe.image, bundle.model.score_rule, bundle.threshold
    return {
        "format": 1,
        "input": "image: uint8 (B, H, W, 3), BGR, photos with 16 bits times 255 / white, "
        + ("any H and W" if settings.policy == "resize" else f"one {settings.height}x{settings.width} tile of a photo"),
        "outputs": {
            "map": f"float32 (B, {settings.height}, {settings.width}), probability of a defect in [0, 1]",
            "score": f"float32 (B,), mean by log-odds of detection_map's {rule.pixels} largest pixels"
            if rule.pixels
            else f"float32 (B,), largest mean of detection_map over {rule.side}x{rule.side} pixels",
            VERDICT: "bool (B,), score > threshold: defective; absent without a threshold, and where image.include, "
            "exclude or ignore leave out part of the image, which map and score here do not",
            "object_image, general_image": "float32 (B, h, w, 3), BGR in [0, 1], as a good part and as it is",
            "detection_map": "float32 like map, before refinement, or of all evidence as one",
            ", ".join(CHOICES): "the code of each cell, for comparison with PyTorch",
        },
        "white": bundle.white.level,
        "classes": ["good", "defective"],
        "threshold": None if threshold is None else dataclasses.asdict(threshold),
        "height": settings.height,
        "width": settings.width,
        "dynamic_batch": dynamic_batch,
        "precision": precision,
        "weights_sha256": weights_sha256,
        "recipe": dump_recipe(bundle.recipe),
        "provenance": bundle.provenance,
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "versions": {name: version(name) for name in ("flawmap", "torch", "onnx", "onnxruntime", "openvino", "nncf")
                     if _installed(name)},
    }  # fmt: skip


def unchecked(bundle: Bundle, to: str, stem: Path, fitted: Sequence[Pixels] = (), precision: str = "float32") -> Path:
    """Write an artefact as `stem` with its suffix that is not compared with PyTorch: right for its time alone.

    Of an untrained bundle there is no other: it has no ranking to keep, and its maps magnify rounding. `fitted`: images
    (H, W, 3) uint8 to fit INT8 to. Returns its file. Raises ConfigError when a package is missing.
    """
    file = _build(bundle, to, stem, fitted, False, True)
    _stamp(file, describe(bundle, "", precision, dynamic_batch=False))
    return file


def _build(bundle: Bundle, to: str, stem: Path, fitted: Sequence[Pixels], dynamic_batch: bool, detection: bool) -> Path:
    """Write the artefact as `stem` with its suffix; INT8 when there are images to fit it to, of `detection` too."""
    onnx = package("onnx")
    settings = bundle.recipe.image
    network = network_graph(
        bundle.model, settings.height, settings.width, dynamic_batch, exact=not fitted, sub_pixel=to == "openvino"
    )
    whole = inspection_graph(network, bundle)
    if to == "onnx":
        if fitted:
            from flawmap.deploy.quantize import quantize_onnx

            whole = quantize_onnx(whole, fitted, detection=detection)
        file = stem.with_name(stem.name + ".onnx")
        onnx.save(whole, file)
        return file
    openvino = package("openvino")
    with openvino_core() as core:
        model = core.read_model(whole.SerializeToString(), b"")
    if fitted:
        from flawmap.deploy.quantize import quantize_openvino

        model = quantize_openvino(model, fitted, detection=detection)
    file = stem.with_name(stem.name + ".xml")
    openvino.save_model(model, file, compress_to_fp16=False)
    mark(file, in_float32(model))
    return file


def _stamp(file: Path, about: dict[str, Any]) -> None:
    if file.suffix == ".onnx":
        onnx = package("onnx")
        whole = onnx.load(file)
        write_about(whole, about)
        onnx.save(whole, file)
        return
    openvino = package("openvino")
    with openvino_core() as core:
        model = core.read_model(file)
    model.set_rt_info(json.dumps(about, ensure_ascii=True, allow_nan=False), ABOUT)
    stamped = file.with_name("stamped.xml")  # the weights of the model just read may still be in use
    openvino.save_model(model, stamped, compress_to_fp16=False)
    del model
    for suffix in (".xml", ".bin"):
        stamped.with_suffix(suffix).replace(file.with_suffix(suffix))


def _same(session: Any, file: Path, image: Pixels) -> None:
    """The file as it will be handed over, opened once more, finds what the checked one found."""
    read_about(file)
    first, second = session(image[None]), open_session(file)(image[None])
    assert np.allclose(first["score"], second["score"], atol=1e-3), "writing the metadata changed the artefact"


def _hand_over(file: Path, saving: Path, place: Path) -> Path:
    """Move what was built to its place."""
    if file.suffix == ".onnx":
        file.replace(place)
        return place
    old = place.absolute().with_name(f".{place.name}.old")
    _remove(old)
    if place.exists():
        place.rename(old)
    try:
        saving.rename(place)
    except OSError:
        if old.exists():
            old.rename(place)
        raise
    _remove(old)
    return place / file.name


def _usual_name(source: Path, to: str, precision: str) -> str:
    stem = source.absolute().name.removesuffix(".bundle") + ("" if precision == "float32" else f".{precision}")
    return stem + (".onnx" if to == "onnx" else ".openvino")


def _check_place(place: Path, to: str, overwrite: bool) -> None:
    if to == "onnx" and place.suffix != ".onnx":
        raise ConfigError(f"--out {place}: an ONNX artefact is a file ending in .onnx")
    if not place.exists():
        return
    if not overwrite:
        raise BundleError(f"{place} exists; choose another --out, or --overwrite it")
    ours = place.is_file() if to == "onnx" else place.is_dir() and len(list(place.glob("*.xml"))) == 1
    if not ours:
        raise BundleError(f"{place} is not an artefact and is left alone; choose another --out")


def _images(
    bundle: Bundle, folder: Path | None, int8: bool, bfloat16: bool, say: Callable[[str], object]
) -> tuple[list[Pixels], str]:
    """Images (H, W, 3) uint8 to check on, spread over the folder, and whose they are."""
    wanted = CALIBRATED + RANKED if int8 else RANKED if bfloat16 else COMPARED
    if folder is None:
        side = max(bundle.recipe.image.height, bundle.recipe.image.width)
        random = np.random.default_rng(0)
        names = sorted(SURFACES)
        drawn = [to_uint8(draw_good(names[i % len(names)], side + 16 * i, random)) for i in range(wanted)]
        return drawn, "drawn"
    found = gather([folder])
    for line in found.sentences():
        say(line)
    files = found.images
    if int8 and len(files) < FEWEST:
        raise DataError(f"{folder} holds {len(files)} images; INT8 is fitted to at least {FEWEST} good ones")
    if bfloat16 and len(files) < FEWEST // 2:
        raise DataError(f"{folder} holds {len(files)} images; bfloat16 is judged on at least {FEWEST // 2} good ones")
    step = max(1, len(files) // wanted)
    return [_pixels(file, bundle) for file in files[::step][:wanted]], "given"


def _pixels(file: Path, bundle: Bundle) -> Pixels:
    """What an artefact is shown of a file: all of it, or the tile in its middle."""
    settings = bundle.recipe.image
    if settings.policy == "resize":
        return to_uint8(read_image(file, bundle.white))
    pixels, size = at_scale(read_pixels(file, bundle.white), settings), (settings.height, settings.width)
    top, left = (max(0, length - side) // 2 for length, side in zip(pixels.shape[:2], size, strict=True))
    return to_uint8(to_float(cut(pixels, top, left, *size)))


def _installed(name: str) -> bool:
    try:
        return bool(version(name))
    except ImportError:
        return False


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
