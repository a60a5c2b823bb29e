"""One training from a folder of good parts to a bundle: stages 2 and 3, then the threshold from parts held out."""

from __future__ import annotations

import copy
import dataclasses
import datetime
import json
import math
import resource
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from importlib.metadata import version
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from flawmap.backbones.read import described, noted, read_backbone, summary
from flawmap.bundle import Bundle, build, load_general, load_imagenet, load_prior, round_weights, save_bundle, sha256
from flawmap.config import ModelSettings, Recipe, dump_recipe, load_recipe, recipe_from_text
from flawmap.data.defects import read_defects
from flawmap.data.layouts import Listing, Sample
from flawmap.data.layouts.read import listing_of
from flawmap.data.real import MILD, RealDefects
from flawmap.data.scope import Scope, read_scope
from flawmap.data.white import White
from flawmap.errors import BundleError, CheckpointError, ConfigError, DataError, FlawmapError, TrainingError, first_line
from flawmap.given import place_given, refuse_odd_number
from flawmap.measure.orientation import ORIENTATION, Orientation, orientation_of
from flawmap.measure.photos import TILES, GoodPhotos, learn, take
from flawmap.measure.reconstruction import DETAIL
from flawmap.measure.threshold import Groups, choose_threshold
from flawmap.model.discrete import DiscreteModel
from flawmap.model.dsr import DSR
from flawmap.model.familiarity import PRETRAINED
from flawmap.model.imagenet import ImageNetFeatures
from flawmap.model.onnx_backbone import OnnxBackbone
from flawmap.train.budget import LOOKS, TRIED_PHOTOS, Plan, plan_steps, planned
from flawmap.train.contamination import Floats, allowed, divided, keep_in, kept_in, most, oddness, to_look_with
from flawmap.train.detect import train_detection
from flawmap.train.familiar import PHOTOS, REMEMBERED_PHOTOS, CrossFit, evenly, in_whole_folders
from flawmap.train.loop import METRICS, Machine, initial_weights, write_atomically
from flawmap.train.orientation import asks_for_orientation, recognise, settled
from flawmap.train.reconstruction import reconstruction_detail
from flawmap.train.refine import train_refinement
from flawmap.train.resume import UNCHECKED, Given, check_recipe, check_same, given_to, note_given
from flawmap.train.size import size_line
from flawmap.train.sources import GoodParts, Varied, good_images, names_of, photo_size, reduced, sized
from flawmap.train.split import BEFORE, cross_fitted, few_line, held_out_count, hold_out
from flawmap.train.white import settled_white

RECIPE, DEFECTS, CHOICE = "recipe.toml", "defects.json", "choice.json"
ANGLES = "orientation.json"
LEARNT_FROM = "good, learnt from"  # how a threshold is set where no photo is held out and no source compares them
NO_OTHERS = (
    "No promise: no score source serves here, and all photos were learnt from, so that new good parts may score "
    "higher; with threshold.calibration = held-out some are held out."
)
# What `model.warm` takes from a prior besides its discrete model, and the settings that must then be the prior's.
DRAWING = ("coarse_restriction", "fine_restriction", "object_decoder")
WARM = {"all": (*DRAWING, "detection"), "drawing": DRAWING, "none": ()}
_DISCRETE = ("codes", "code_length", "discrete_width", "discrete_hidden")
_DRAWING = (*_DISCRETE, "restriction_widths", "decoder", "decoder_widths", "norm")
_ABLATIONS = ("restriction", "quantize", "compared_with")
_FREE = (
    "prior",
    "warm",
    "refinement_width",
    "score_side",
    "score_pixels",
    "guided",
    "familiarity",
    "fusion",
    "memory",
    "turned_patches",
    "backbone",
    "backbone_mean",
    "backbone_deviation",
    "backbone_order",
    "backbone_sha256",
    "neighbourhood",
    "components",
    "source_weights",
    "reduction",
    *_ABLATIONS,
)
SIZES = {
    "all": tuple(name for name in ModelSettings.model_fields if name not in _FREE),
    "drawing": _DRAWING,
    "none": _DISCRETE,
}


def own_backbone(recipe: Recipe) -> OnnxBackbone | None:
    """The backbone that a recipe names, None where it names none. Raises ConfigError, as `read_backbone` does too."""
    if not recipe.model.backbone:
        return None
    if not {*PRETRAINED} & {*recipe.model.familiarity}:
        raise ConfigError(
            "model.backbone takes the place of EfficientNet-Lite0, whose features model.familiarity does not name; add "
            '"imagenet" to it, or leave out model.backbone'
        )
    return read_backbone(recipe.model, (recipe.image.height, recipe.image.width))


def few_share(recipe: Recipe, count: int) -> float:
    """How far `recipe.few` holds for so many photos, in [0, 1]: 1 below `few.below`, 0 from `few.until` on."""
    few = recipe.few
    if count < few.below or few.until <= few.below or not few.below:
        return float(count < few.below)
    return max(math.log(few.until / count) / math.log(few.until / few.below), 0.0)


def for_few(recipe: Recipe, count: int) -> Recipe:
    """The recipe for so many photos to train on: with `recipe.few`'s rate, steps and prior as far as they are few."""
    share = few_share(recipe, count)
    if not share:
        return recipe
    model = recipe.model.model_copy(update={"warm": recipe.few.warm}) if recipe.model.prior else recipe.model
    rate = recipe.few.rate if share == 1 else recipe.few.rate**share * recipe.detect.rate ** (1 - share)
    detect = recipe.detect.model_copy(update={"rate": rate})
    return with_steps(recipe.model_copy(update={"model": model, "detect": detect}), recipe.detect.steps, share)


def with_steps(recipe: Recipe, steps: int, few: float) -> Recipe:
    """The recipe with so many steps of detection, as far as photos are few (`few_share`) no more than `few.steps`."""
    most = min(steps, recipe.few.steps or steps)
    chosen = most if few == 1 else round(most**few * steps ** (1 - few))
    return recipe.model_copy(update={"detect": recipe.detect.model_copy(update={"steps": chosen})})


def _few_until(recipe: Recipe) -> str:
    """The setting below which photos are few, and its value."""
    name = "until" if recipe.few.until > recipe.few.below else "below"
    return f"few.{name} = {getattr(recipe.few, name)}"


def _noted_size(folder: Path, recipe: Recipe) -> Recipe | None:
    """`recipe` at the size that an unfinished training in `folder` had measured; None where there is none to take up.

    What it was measured by may differ in the last digit from one machine to the next; the size must not.
    """
    if recipe.image.size != "measured" or not (folder / RECIPE).exists():
        return None
    try:
        noted = recipe_from_text((folder / RECIPE).read_text(encoding="utf-8"))
    except (ConfigError, OSError, UnicodeDecodeError):
        return None
    settled = {"height", "width", "aspect"}
    if noted.image.model_dump(exclude=settled) != recipe.image.model_dump(exclude=settled):
        return None
    model = recipe.model.model_copy(update={"reduction": noted.model.reduction})
    return recipe.model_copy(update={"image": noted.image, "model": model})


def _as_split(folder: Path, recipe: Recipe) -> Recipe:
    """`recipe` with the largest share held out of few photos as an unfinished training in `folder` noted it.

    One of an earlier flawmap, without that setting, held out more: the same photos must be learnt from.
    """
    if "held_out_most" in recipe.threshold.model_fields_set:
        return recipe
    try:
        text = (folder / RECIPE).read_text(encoding="utf-8")
        noted = recipe_from_text(text).threshold
    except (ConfigError, OSError, UnicodeDecodeError):
        return recipe  # what is wrong with the note is told by what follows
    most = noted.held_out_most if "held_out_most" in noted.model_fields_set else BEFORE
    threshold = recipe.threshold.model_copy(update={"held_out_most": most})
    return recipe.model_copy(update={"threshold": threshold})


def _orientation(folder: Path, recipe: Recipe, good: Sequence[Path], device: torch.device) -> Orientation | None:
    """Whether parts lie at varying angles, as an unfinished training in `folder` noted or by the photos; None where the
    recipe does not ask."""
    if not asks_for_orientation(recipe):
        return None
    with suppress(OSError, ValueError, TypeError):
        if noted := orientation_of({ORIENTATION: json.loads((folder / ANGLES).read_text(encoding="utf-8"))}):
            return noted
    return recognise(good, device, White.of(recipe.image))


def _note(text: str) -> None:
    """One line for whoever looks on, beside the progress."""
    Console(stderr=True).print(text, highlight=False, soft_wrap=True)


def _say_plan(plan: Plan, recipe: Recipe) -> None:
    steps = recipe.detect.steps
    enough = f", of which {steps} are enough for so few photos" if steps < plan.steps else ""
    Console(stderr=True).print(
        f"{plan.minutes:g} minutes: {plan.steps} steps of {plan.step_s:.2g} s fit in{enough}, and "
        f"{plan.after_s / 60:.1f} minutes for the threshold; the same training again: --set detect.steps={steps}",
        highlight=False, soft_wrap=True,
    )  # fmt: skip


def start_weights(model: DSR, settings: ModelSettings, general: DiscreteModel | None) -> None:
    """Put the weights a training starts from into `model`: of the prior, or of the general discrete model.

    Raises ConfigError when the prior or `general` has other sizes than the recipe, or both are given.
    """
    if settings.prior:
        if general is not None:
            raise ConfigError('model.prior brings its own discrete model; leave out --general, or set model.prior=""')
        prior = load_prior(settings.prior)
        for name in SIZES[settings.warm]:
            wanted, found = getattr(settings, name), getattr(prior.settings, name)
            if wanted != found and (name, wanted) != ("decoder", "frozen"):
                raise ConfigError(f"model.{name} is {wanted}, and {found} in the prior {settings.prior}; use the same")
        for part in WARM[settings.warm]:
            if part == "object_decoder" and settings.decoder == "frozen":
                continue
            getattr(model, part).load_state_dict(getattr(prior.model, part).state_dict())
        general = prior.model.discrete
    general = general if general is not None else load_general()
    try:
        model.discrete.load_state_dict(general.state_dict())
    except RuntimeError as problem:
        sizes = ", ".join(f"model.{name} = {getattr(settings, name)}" for name in _DISCRETE)
        raise ConfigError(
            f"the general discrete model has other sizes than the recipe ({sizes}); give one of these with --general, "
            "or change them"
        ) from problem
    if isinstance(model.imagenet, ImageNetFeatures):  # a backbone of the user's own has its weights
        load_imagenet(model.imagenet)
    warm = settings.prior and settings.warm != "none"
    if settings.decoder == "frozen" or (settings.decoder == "general" and not warm):
        model.object_decoder.load_state_dict(general.decoder.state_dict())


def train(
    listing: Listing | str | PathLike[str],
    recipe: Recipe | str | PathLike[str],
    out: str | PathLike[str],
    *,
    general: DiscreteModel | str | PathLike[str] | None = None,
    resume: bool = False,
    overwrite: bool = False,
    quiet: bool = False,
    defects: Listing | str | PathLike[str] | None = None,
    minutes: float | None = None,
    say: Callable[[str], object] = lambda line: None,
    choice: Mapping[str, Any] | None = None,
) -> Bundle:
    """Train on the good training images of `listing`, or of a folder or csv, and write the bundle to the folder `out`.

    `recipe` may be a file or the name of a shipped one. `general` is the discrete model, or its file; None takes the
    one shipped with flawmap. Of `defects` the defective images are
    learnt from too, with their masks where they have some (data/real.py). `minutes`: as many steps as fit into so many
    on this machine, told by trying some, instead of `recipe.detect.steps`; the bundle's recipe has their number. `say`
    is given, a line each, at which size photos are inspected and what it was chosen by. `choice`: how the recipe was
    chosen, for the bundle's provenance; a training that goes on keeps what it was begun with. Until the bundle is
    whole, checkpoints and metrics.jsonl are in `out`.run, from where `resume` goes on to the weights an uninterrupted
    run gives. Raises TrainingError when there are too few images or minutes, a run is in the way, or `out` exists and
    `overwrite` is not given, ImageError for a broken file.
    """
    out = place_given(out, "a bundle's place", BundleError)
    check_place(out, resume=resume, overwrite=overwrite)
    if minutes is not None and not isinstance(minutes, float):
        refuse_odd_number("minutes", minutes)
    listing = listing_of(listing, say)
    recipe = recipe if isinstance(recipe, Recipe) else load_recipe(place_given(recipe, "a recipe", ConfigError))
    if defects is not None and not isinstance(defects, Listing):
        defects = read_defects(defects)
        for note in defects.notes:
            say(note)
    if general is not None and not isinstance(general, DiscreteModel):
        general = load_general(place_given(general, "a general model", BundleError))
    if minutes is not None and not math.isfinite(minutes):
        raise TrainingError(f"{minutes:g} minutes cannot be planned; give a number, as --minutes 15")
    good = sorted(sample.image for sample in listing.train_good)
    # Too few photos are refused before any is read.
    held_out_count(len(good), recipe.threshold, cross_fitted(recipe))
    folder = run_of(out)
    chosen = known_choice(out) if choice is None else dict(choice)
    machine = Machine(recipe.run)
    started = time.monotonic()
    samples = [sample for sample in defects.samples if sample.defective] if defects is not None else []
    given = given_to(good, samples, recipe, general)
    begun = (folder / RECIPE).exists()
    recipe = _as_split(folder, recipe) if begun else recipe
    if resume and not begun:
        say(f"there is no unfinished training in {folder}: it begins anew")
    if not check_same(folder, given) and begun:
        say(f"{folder} {UNCHECKED}")
    image, white = settled_white(recipe.image, good, [sample.image for sample in samples], say)
    recipe = recipe.model_copy(update={"image": image})
    asked, recipe = recipe, _noted_size(folder, recipe) or sized(recipe, good, say)
    photo = photo_size(good)
    say(size_line(asked, recipe, photo))
    orientation = _orientation(folder, recipe, good, machine.device)
    if orientation is not None:
        recipe = settled(recipe, orientation)
        say(orientation.words)
    backbone = own_backbone(recipe)
    if backbone is not None:
        recipe = recipe.model_copy(update={"model": noted(recipe.model, backbone)})
        if not quiet:
            Console(stderr=True).print(summary(recipe.model.backbone, backbone), highlight=False, soft_wrap=True)
    scope = read_scope(recipe.image)
    learnt = hashes(samples)
    small = reduced(recipe.image, recipe.model.reduction)
    real = RealDefects(samples, small, scope) if defects is not None else None
    for note in real.mask_notes if real else ():
        say(note)
    aside = _set_aside(good, recipe, scope, folder, general, machine.device, quiet, backbone)
    kept = [path for path in good if path not in aside]
    train_paths, held_out_paths = hold_out(kept, recipe.threshold, recipe.run.seed, cross_fitted(recipe))
    if few := few_line(len(kept), len(held_out_paths), recipe):
        say(few)
    recipe = for_few(recipe, len(train_paths))
    learning = recipe.model_copy(update={"image": small})
    fresh = not folder.exists()
    resumed = _take_up(folder, recipe, learnt, names_of(aside, good), chosen, orientation, given)
    with _removed_unless_begun(folder, fresh):
        plan = planned(folder, minutes, resumed)
        with initial_weights(recipe.run.seed):
            model = build(recipe.model, with_refinement=recipe.refine.steps > 0, backbone=backbone)
        start_weights(model, recipe.model, general)
        model.to(machine.device, torch.float32, memory_format=torch.channels_last)  # type: ignore[call-overload]
        model.train()
        if recipe.model.decoder == "frozen":
            model.object_decoder.requires_grad_(False)
        varied = few_share(recipe, len(train_paths))
        variation = recipe.few if varied else MILD
        if plan is None and minutes is not None:
            say(f"some steps are tried, to see how many fit into {minutes:g} minutes")
            since = time.monotonic()
            some = evenly(train_paths, TRIED_PHOTOS)
            tried = good_images(some, learning, scope, folder, quiet=True)
            to_read_s = (time.monotonic() - since) / len(some) * (len(good) - len(aside) - len(some))
            plan = plan_steps(
                minutes, time.monotonic() - started, model, Varied(tried, recipe.few, varied) if varied else tried,
                GoodParts(some[:LOOKS], recipe, scope), learning, machine, folder,
                photos=len(good), real=real, variation=variation, to_read_s=to_read_s,
            )  # fmt: skip
        # After the plan: whoever gave too few minutes need not wait until all photos are read.
        images = good_images(train_paths, learning, scope, folder, quiet)
        held_out = GoodParts(held_out_paths, recipe, scope)
        source = Varied(images, recipe.few, varied) if varied else images
    if plan is not None:
        recipe, learning = (with_steps(each, plan.steps, varied) for each in (recipe, learning))
        if not quiet:
            _say_plan(plan, recipe)
    if varied and not quiet:
        Console(stderr=True).print(
            f"{len(images)} photos are few (under {_few_until(recipe)}): they are varied, and learnt from at "
            f"the rate {recipe.detect.rate:g} for {recipe.detect.steps} steps (few.rate, few.steps)",
            highlight=False, soft_wrap=True,
        )  # fmt: skip
    train_detection(
        model, source, learning, machine, folder, resume=resume, quiet=quiet, real=real, variation=variation
    )
    if recipe.refine.steps > 0:
        model.requires_grad_(False)
        assert model.refinement is not None
        model.refinement.requires_grad_(True)
        train_refinement(model, images, learning, machine, folder, resume=resume, quiet=quiet)
    if not quiet:
        _note("all steps are done; good photos are inspected to set the threshold")
    model.eval().requires_grad_(False)
    round_weights(model)  # the threshold belongs to the weights as they are stored
    evidence: dict[str, float] = {}
    known = GoodParts(train_paths, recipe, scope, images if recipe.model.reduction == 1 else None)
    fitting: CrossFit | None = None
    if model.familiarity is not None:
        fitting, evidence, aside = _fitted(model, known, held_out, aside, recipe, machine.device)
        known, held_out = fitting.trained, fitting.held_out
        sources = model.familiarity.sources if model.familiarity is not None else ()
        recipe = recipe.model_copy(update={"model": recipe.model.model_copy(update={"familiarity": sources})})
    photos = learn_photos(model, (known, held_out), machine.device)
    detail = reconstruction_detail(model, held_out if len(held_out) else known, machine.device)
    if fitting is not None and model.familiarity is not None:
        scores, peaks = fitting.scores()
        told = [parts.paths[index] for parts, index in fitting.places]
        folders, method = fitting.folders, f"{recipe.threshold.calibration} good"
        independent = fitting.independent.facts() if fitting.independent is not None else {}
        aside_scores = fitting.scores_of(GoodParts(aside, recipe, scope))
    else:
        telling = held_out if len(held_out) else known
        scores, peaks = telling.scores(model, machine.device)
        told = telling.paths
        aside_scores = GoodParts(aside, recipe, scope).scores(model, machine.device)[0]
        whole = in_whole_folders(known.paths, held_out.paths)
        folders, method = len({path.parent for path in held_out.paths}) if whole else 0, "held-out good"
        if not len(held_out):
            method = LEARNT_FROM
        independent = {}
    settings = recipe.threshold
    threshold = choose_threshold(
        scores, peaks, settings.overkill, method, folders, settings.tail, len(aside) / len(good),
        Groups.of({"groups": independent}),
    )  # fmt: skip
    if method == LEARNT_FROM:
        threshold = dataclasses.replace(threshold, supported=False, note=" ".join([NO_OTHERS, threshold.note]).strip())
    provenance = {
        "flawmap": version("flawmap"),
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "data": listing.name,
        "layout": listing.layout,
        **chosen,
        "photo_size": [*photo],
        "white": white,
        "inspected_at": [recipe.image.height, recipe.image.width],
        ORIENTATION: None if orientation is None else orientation.to_json(),
        "trained_on": len(images),
        "varied": varied > 0,
        "held_out": len(held_out),
        "calibration": method,
        "held_out_folders": folders,
        "backbone": None if backbone is None else described(recipe.model.backbone, backbone),
        "groups": independent,
        DETAIL: detail,
        "seed": recipe.run.seed,
        "machine": machine.describe(),
        "minutes_asked": None if plan is None else plan.minutes,
        "minutes": round((time.monotonic() - started) / 60, 2),
        "resumed": resumed,
        "peak_memory_mb": peak_memory_mb(),
        "real_defects": [image for image, _ in learnt],
        "evidence": {name: round(value, 3) for name, value in evidence.items()},
        "held_out_scores": scores,
        "held_out_peaks": peaks,
        "good_photos": names_of(told, good),
        "set_aside": names_of(aside, good),
        "set_aside_scores": aside_scores,
        "set_aside_sha256": [sha256(path) for path in aside],
        "set_aside_share": len(aside) / len(good),
    }
    bundle = Bundle(
        model=model,
        recipe=recipe,
        threshold=threshold,
        provenance=provenance,
        ignore=scope.ignore,
        photos=photos,
        evidence=fitting.told if fitting is not None and model.familiarity is not None else None,
    )
    save_bundle(bundle, out, overwrite=overwrite, metrics=folder / METRICS)
    for file in folder.iterdir():
        file.unlink()
    folder.rmdir()
    return bundle


def look_before(
    good: Sequence[Path],
    recipe: Recipe,
    scope: Scope,
    general: DiscreteModel | None,
    device: torch.device,
    backbone: OnnxBackbone | None = None,
) -> Floats:
    """How unlike the others each photo is by features that learnt nothing of the part: (P,), as of `oddness`.

    Raises ConfigError as `start_weights`, ImageError for a broken photo.
    """
    looking = to_look_with(recipe)
    with initial_weights(recipe.run.seed):
        model = build(looking.model, with_refinement=False, backbone=backbone)
    start_weights(model, looking.model, general)
    model.to(device, torch.float32, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return oddness(model.eval(), good, looking, scope, device)


def _set_aside(
    good: Sequence[Path],
    recipe: Recipe,
    scope: Scope,
    folder: Path,
    general: DiscreteModel | None,
    device: torch.device,
    quiet: bool,
    backbone: OnnxBackbone | None,
) -> list[Path]:
    """The photos that are not to be learnt from, as an unfinished training in `folder` noted or by their oddness."""
    contamination = recipe.clean.contamination
    if not contamination:
        return []
    noted = kept_in(folder, dict(zip(names_of(good, good), good, strict=True)))
    if noted is not None:
        return noted
    if (folder / RECIPE).exists():
        raise TrainingError(f"{folder} was started without clean.contamination; resume without it")
    found = look_before(good, recipe, scope, general, device, backbone)
    aside = [good[index] for index in most(found.tolist(), allowed(contamination, len(good)))]
    if not quiet:
        Console(stderr=True).print(
            f"{len(aside)} of {len(good)} good photos are set aside, those most unlike the others "
            f"(clean.contamination = {100 * contamination:g} %)",
            highlight=False, soft_wrap=True,
        )  # fmt: skip
    return aside


def _fitted(
    model: DSR, known: GoodParts, held_out: GoodParts, aside: list[Path], recipe: Recipe, device: torch.device
) -> tuple[CrossFit, dict[str, float], list[Path]]:
    """What is familiar of good photos, fitted, with the AUROC of each kind of evidence, and which photos are set aside.

    These are `aside`, unless the scores of all, by what is familiar of the others, tell of more suspicious ones; then
    these, and all is fitted anew.
    """
    untold = copy.deepcopy(model.familiarity), model.imagenet
    photos = REMEMBERED_PHOTOS if aside else 0
    fitting = CrossFit(model, known, held_out, recipe, device, photos)
    evidence = fitting.fit()
    if not aside or model.familiarity is None or recipe.threshold.calibration != "cross-fitted":
        return fitting, evidence, aside
    told = [parts.paths[index] for parts, index in fitting.places]
    found = dict(zip(told, fitting.scores()[0], strict=True))
    theirs = fitting.scores_of(GoodParts(aside, recipe, known.scope))
    anew = divided(
        found, dict(zip(aside, theirs, strict=True)), recipe.clean.contamination, known.paths, held_out.paths
    )
    if {*anew.aside} == {*aside} or not (anew.held_out if len(held_out) else anew.trained):
        return fitting, evidence, aside
    model.familiarity, model.imagenet = untold
    known, held_out = (GoodParts(paths, recipe, known.scope) for paths in (anew.trained, anew.held_out))
    fitting = CrossFit(model, known, held_out, recipe, device, photos)
    return fitting, fitting.fit(), anew.aside


def learn_photos(model: DSR, known: Sequence[GoodParts], device: torch.device) -> GoodPhotos:
    """What good photos are like, of up to PHOTOS of them: those trained on and those held out, evenly."""
    places = [(parts, index) for parts in known for index in range(len(parts))]
    places = places[:: -(-len(places) // PHOTOS)]
    return learn(
        [take(parts.pictures(index, TILES), model.discrete, device, model.reduction) for parts, index in places]
    )


def peak_memory_mb() -> int:
    """Largest resident memory of this process so far, in MiB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / (1 << 20 if sys.platform == "darwin" else 1 << 10))


def hashes(samples: Sequence[Sample]) -> list[tuple[str, str]]:
    """SHA-256 of each image and of its mask, "" without one. Raises DataError for a file that cannot be read."""
    try:
        return [(sha256(sample.image), "+".join(map(sha256, sample.mask_files))) for sample in samples]
    except OSError as problem:
        raise DataError(f"{problem.filename} cannot be read ({problem.strerror}); correct or remove it") from problem


def run_of(out: Path) -> Path:
    """The folder of an unfinished training of the bundle `out`."""
    return out.with_name(out.name + ".run")


def check_place(out: Path, *, resume: bool, overwrite: bool) -> None:
    """Raises TrainingError when the bundle `out` exists and is not to be replaced, or an unfinished training of it does
    and is not to be gone on with."""
    if out.exists() and not overwrite:
        raise TrainingError(f"{out} exists; choose another --out, or --overwrite it")
    folder = run_of(out)
    if folder.exists() and any(folder.iterdir()) and not resume:
        raise TrainingError(f"{folder} holds an unfinished training; go on with --resume, or delete it to start anew")


def known_choice(out: Path) -> dict[str, Any]:
    """How the recipe of an unfinished training of `out` was chosen; empty where there is none, or it was named.

    Raises CheckpointError when the note cannot be read.
    """
    file = run_of(out) / CHOICE
    if not file.exists():
        return {}
    try:
        return dict(json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as problem:
        raise CheckpointError(
            f"{file} is not readable ({first_line(problem)}); delete {file.parent} to start anew"
        ) from problem


@contextmanager
def _removed_unless_begun(folder: Path, fresh: bool) -> Iterator[None]:
    """Of a training that is refused before its first step nothing is left, so that the next try need not resume it."""
    try:
        yield
    except FlawmapError:
        if fresh:
            shutil.rmtree(folder, ignore_errors=True)
        raise


def _take_up(
    folder: Path,
    recipe: Recipe,
    learnt: Sequence[tuple[str, str]],
    aside: Sequence[str],
    choice: Mapping[str, Any],
    orientation: Orientation | None,
    given: Given,
) -> bool:
    """Make or take up the folder of an unfinished training; whether there is a checkpoint to go on from.

    `learnt`: the real defects it learns from, as `hashes` gives them, which must stay the same. `aside`: the names of
    the photos that are set aside. `choice`: how the recipe was chosen. `orientation`: how parts lie, where it counts.
    `given`: hashes of all that the training is given.
    """
    note, defects = folder / RECIPE, folder / DEFECTS
    known = json.dumps(learnt)
    if note.exists():
        _same_backbone(note, recipe.model, folder)
    if note.exists():
        check_recipe(_noted_recipe(note), recipe, note)
    if note.exists() and (defects.read_text(encoding="utf-8") if defects.exists() else "[]") != known:
        raise TrainingError(f"{folder} learnt from other real defects; resume with the --defects it was started with")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if aside:
            keep_in(folder, aside)
        note_given(folder, given)
        write_atomically(note, dump_recipe(recipe))
        if learnt:
            write_atomically(defects, known)
        if choice:
            write_atomically(folder / CHOICE, json.dumps(choice))
        if orientation is not None:
            write_atomically(folder / ANGLES, json.dumps(orientation.to_json()))
    except OSError as problem:
        raise TrainingError(f"cannot write to {folder}: {problem.strerror}") from problem
    return any(folder.glob("*.safetensors"))


def _noted_recipe(note: Path) -> Recipe:
    """The recipe of an unfinished training. Raises CheckpointError when it cannot be read."""
    try:
        noted = recipe_from_text(note.read_text(encoding="utf-8"), str(note))
        if "held_out_most" not in noted.threshold.model_fields_set:
            threshold = noted.threshold.model_copy(update={"held_out_most": BEFORE})
            noted = noted.model_copy(update={"threshold": threshold})
        return noted
    except (ConfigError, OSError, UnicodeDecodeError) as problem:
        raise CheckpointError(
            f"{note} is not readable ({first_line(problem)}); delete {note.parent} to start anew"
        ) from problem


def _same_backbone(note: Path, settings: ModelSettings, folder: Path) -> None:
    """Raises TrainingError when the training in `folder` began with the same file of a backbone, which changed."""
    try:
        begun = recipe_from_text(note.read_text(encoding="utf-8"), str(note)).model
    except (ConfigError, OSError, UnicodeDecodeError):
        return  # what differs is told by what follows
    if begun.backbone == settings.backbone and begun.backbone_sha256 != settings.backbone_sha256:
        raise TrainingError(
            f"{settings.backbone} changed since {folder} was started with it; put back the file it was, or delete "
            f"{folder} to start anew"
        )
