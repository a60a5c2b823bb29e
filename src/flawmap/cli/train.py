"""Commands that make a model: pretrain, train, import."""

from __future__ import annotations

import json
import math
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flawmap.cli import console
from flawmap.cli.options import Category, Config, Data, Layout, Overwrite, Quiet, Resume, Set
from flawmap.errors import BundleError, ConfigError, FlawmapError

if TYPE_CHECKING:
    from flawmap.bundle import Bundle
    from flawmap.config import Recipe
    from flawmap.data.layouts import Listing

BY_ACCURACY = ("accurate", "fast")  # recipes that `train --ms` chooses from, the better one first


@console.command("pretrain", "go on with the same command and --resume")
def pretrain_command(
    images: Annotated[list[Path], typer.Argument(metavar="IMAGES…", help="Folders or files of natural images.")],
    out: Annotated[Path, typer.Option("--out", help="The model, a .safetensors file.")],
    config: Config = "general",
    settings: Set = None,
    general: Annotated[
        Path | None, typer.Option("--general", help="A discrete model to make a prior for, instead of training one.")
    ] = None,
    resume: Resume = False,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> None:
    """Train the general discrete model on natural images; with the recipe `lean`, a whole general prior.

    Done once, for all objects; flawmap ships both.
    """
    import torch.distributed as dist

    from flawmap.bundle import Prior, general_card, load_general, load_prior, save_general, save_prior
    from flawmap.config import load_recipe
    from flawmap.train.pretrain import pretrain
    from flawmap.train.prior import train_prior
    from flawmap.train.resume import UNCHECKED, check_same, given_to_pretraining, note_given

    leader = os.environ.get("RANK", "0") == "0"  # under torchrun every process runs this; one writes and speaks
    folder = out.with_name(out.name + ".run")
    if leader and out.exists() and not overwrite:
        raise BundleError(f"{out} exists; choose another --out, or --overwrite it")
    if leader and not resume and folder.exists() and any(folder.iterdir()):
        raise BundleError(f"{folder} holds an unfinished training; go on with --resume, or delete it to start anew")
    recipe = load_recipe(config, settings)
    if general is not None and not recipe.pretrain.prior:
        raise ConfigError("--general is of use for a prior alone; this recipe trains a discrete model")
    if recipe.model.backbone:
        raise ConfigError("what is trained here is for any backbone; leave out model.backbone")
    start = recipe.model.prior if recipe.pretrain.prior else ""
    if start and general is not None:
        raise ConfigError("the prior that model.prior names brings its own discrete model; leave out --general")
    found, _ = console.images(images)
    if leader:
        console.say(f"{len(found)} images, {recipe.pretrain.held_out:.0%} held out")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as problem:
        raise BundleError(f"cannot write to {folder}: {problem.strerror}") from problem
    if leader:
        given = given_to_pretraining(found, recipe, general)
        if not check_same(folder, given) and any(folder.iterdir()):
            console.remark(f"{folder} {UNCHECKED}")
        note_given(folder, given)
    begun = load_prior(start) if start else None
    if begun is not None:
        model = begun.model.discrete
    else:
        model = load_general(general) if general else pretrain(found, recipe, folder, resume=resume, quiet=quiet)
    if dist.is_initialized():
        dist.barrier()  # the others may still be writing their checkpoints
        dist.destroy_process_group()
    if leader:
        card = begun.card if begun else general_card(general) if general else _card(folder, len(found), recipe)
        if recipe.pretrain.prior:
            prior = train_prior(found, recipe, model, folder, resume=resume, quiet=quiet)
            save_prior(Prior(prior, recipe.model.model_copy(update={"prior": ""}), card), out)
        else:
            save_general(model, out, card)
        log = out.with_name(out.stem + ".metrics.jsonl")
        (folder / "metrics.jsonl").replace(log)
        shutil.rmtree(folder)
        used = f"{card['coarse_used']:.0%} of the coarse and {card['fine_used']:.0%} of the fine codes"
        console.say(f"on held-out images: PSNR {card['psnr']:.2f} dB, {used} used")
        console.say(f"wrote {out}; the course of its losses is in {log}")


@console.command("train", "go on with the same command and --resume")
def train_command(
    data: Data,
    out: Annotated[Path, typer.Option("--out", help="The bundle, a folder.")],
    config: Annotated[
        str | None,
        typer.Option("--config", help="A recipe: a TOML file, or a shipped one (`flawmap recipes`); default: fast."),
    ] = None,
    settings: Set = None,
    layout: Layout = "auto",
    category: Category = None,
    general: Annotated[
        Path | None, typer.Option("--general", help="A general discrete model; default: the shipped one.")
    ] = None,
    defects: Annotated[
        Path | None,
        typer.Option(
            "--defects", metavar="FOLDER", help="Some defective photos to learn from too, masks beside them if any."
        ),
    ] = None,
    minutes: Annotated[
        float | None,
        typer.Option("--minutes", min=0, help="As many steps as fit into so many minutes on this machine."),
    ] = None,
    ms: Annotated[
        float | None,
        typer.Option(
            "--ms",
            min=0,
            help="By the better of `accurate` and `fast` that takes at most so many milliseconds a part here.",
        ),
    ] = None,
    contamination: Annotated[
        str | None,
        typer.Option(
            "--contamination", metavar="SHARE", help="Up to so many of the good photos may show defects, as 5% or 0.05."
        ),
    ] = None,
    resume: Resume = False,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> None:
    """Learn from good parts alone, and set the threshold.

    Some of the good parts are held out of the learning. The threshold is set by the scores of these or, with
    threshold.calibration = cross-fitted as in fast, of up to 256, most of them learnt from, each held
    against what the others tell.
    """
    from flawmap.bundle import load_general
    from flawmap.config import load_recipe
    from flawmap.data.defects import read_defects
    from flawmap.train.run import train

    if contamination is not None:
        share = console.parse_share(contamination, "--contamination", "of the good photos")
        settings = [*(settings or []), f"clean.contamination={share!r}"]
    if ms is not None and config is not None:
        raise ConfigError("--ms chooses the recipe by itself; leave out --config, or leave out --ms")
    recipe = load_recipe(config or "fast", settings)
    listing = console.listing(data, layout, category)
    choice = None
    if ms is not None:
        recipe, choice = _chosen_recipe(ms, settings, listing, out, resume=resume, overwrite=overwrite)
    model = None if general is None else load_general(general)  # None: train takes the shipped one, once all is checked
    bad = None if defects is None else read_defects(defects)
    if bad is not None:
        for note in bad.notes:
            console.say(note)
        masked = sum(sample.mask is not None for sample in bad.samples)
        console.say(f"{len(bad.samples)} defective images to learn from too, {masked} of them with a mask")
    bundle = train(
        listing, recipe, out,
        general=model, resume=resume, overwrite=overwrite, quiet=quiet, defects=bad, minutes=minutes,
        say=console.say, choice=choice,
    )  # fmt: skip
    facts = bundle.provenance
    console.say(f"trained in {facts['minutes']} min, peak memory {facts['peak_memory_mb']} MB")
    console.say_threshold(bundle.threshold)
    _say_smallest(bundle, listing, out)
    if facts["set_aside"]:
        console.say(
            f"{len(facts['set_aside'])} photos were set aside as suspicious; look at them: flawmap suspects {out}"
        )
    by = "" if choice is None else f" --runtime {choice['runtime']} --precision {choice['precision']}"
    console.say(f"wrote {out}; inspect with: flawmap inspect {out} IMAGES{by}")


@console.command("import", "nothing was written")
def import_command(
    source: Annotated[Path, typer.Argument(metavar="DIR", help="The folder of the authors' files, or one file.")],
    out: Annotated[Path, typer.Option("--out", help="The bundle, or without --object the general model's file.")],
    name: Annotated[
        str | None,
        typer.Option("--object", help="The object in the files' names; without it, the general model alone."),
    ] = None,
    half: Annotated[bool, typer.Option("--half", help="Store half-precision weights: half the size.")] = False,
    overwrite: Overwrite = False,
) -> None:
    """Read checkpoints of the method's authors."""
    from flawmap.bundle import save_bundle, save_general
    from flawmap.official import import_official, import_official_general

    if out.exists() and not overwrite:
        raise BundleError(f"{out} exists; choose another --out, or --overwrite it")
    if name is None:
        save_general(import_official_general(source), out, dtype="float16" if half else "float32")
        console.say(
            f"wrote {out}, a general model; train on it with: flawmap train DATA --config paper --general {out}"
        )
        return
    save_bundle(import_official(source, name), out, overwrite, dtype="float16" if half else "float32")
    console.say(f"wrote {out}; it has no threshold yet, set one with: flawmap threshold {out} --from LABELLED_FOLDER")


def _card(folder: Path, images: int, recipe: Recipe) -> dict[str, Any]:
    """The model card of a general model: what it was trained on, and the last measurement on held-out images."""
    from flawmap.config import dump_recipe

    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    measured = [record for record in records if "psnr" in record][-1]
    return {"images": images, "recipe": dump_recipe(recipe), **measured}


def _chosen_recipe(
    ms: float, settings: list[str] | None, listing: Listing, out: Path, *, resume: bool, overwrite: bool
) -> tuple[Recipe, dict[str, Any]]:
    """The better of the two recipes that takes at most `ms` a part here, and how it was chosen."""
    from flawmap.config import load_recipe
    from flawmap.deploy.recipe_choice import choose_recipe
    from flawmap.train.run import check_place, known_choice, run_of
    from flawmap.train.sources import sized
    from flawmap.train.split import cross_fitted, held_out_count

    if not 0 < ms < math.inf:
        raise ConfigError(f"--ms {ms:g}: expected milliseconds above 0, as 60")
    check_place(out, resume=resume, overwrite=overwrite)
    if known := known_choice(out):
        if known["asked_ms"] != ms:
            raise ConfigError(f"{run_of(out)} was started with --ms {known['asked_ms']:g}; resume with the same")
        return load_recipe(known["recipe"], settings), known
    if run_of(out).exists() and any(run_of(out).iterdir()):
        raise ConfigError(f"{run_of(out)} was started without --ms; resume without it")
    good = sorted(sample.image for sample in listing.train_good)
    recipes = {name: load_recipe(name, settings) for name in BY_ACCURACY}
    # Too few photos are refused before that.
    held_out_count(len(good), recipes["fast"].threshold, cross_fitted(recipes["fast"]))
    timing = choose_recipe(BY_ACCURACY, lambda name: sized(recipes[name], good), ms, good[0], console.say)
    return recipes[timing.recipe], timing.facts(ms)


def _say_smallest(bundle: Bundle, listing: Listing, out: Path) -> None:
    """Measure the smallest spot that the new bundle at `out` finds, say it, and keep it in the bundle.

    The bundle is whole already: what goes wrong here is said, and no more.
    """
    from flawmap.bundle import update_provenance
    from flawmap.deploy.smallest import measure_smallest
    from flawmap.measure.smallest import LABEL, SMALLEST_FOUND
    from flawmap.train.sources import names_of

    if not bundle.recipe.threshold.smallest_found or bundle.threshold is None:
        return
    good = [sample.image for sample in listing.train_good]
    paths = dict(zip(names_of(good, good), good, strict=True))
    try:
        found = measure_smallest(bundle, [paths[name] for name in bundle.provenance["good_photos"]])
        update_provenance(out, {SMALLEST_FOUND: found.to_json()})
    except (FlawmapError, KeyboardInterrupt) as problem:
        console.say(f"{LABEL}: not measured, {str(problem) or 'stopped'}")
        return
    console.say(found)
