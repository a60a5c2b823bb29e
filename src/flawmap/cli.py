"""The command line: thin commands over the public functions. A user's mistake is one line and exit code 2.

Everything heavy is imported inside the command that needs it, so that `flawmap --help` answers at once.
"""

from __future__ import annotations

import functools
import inspect
import json
import math
import os
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from importlib import resources
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from flawmap import __version__
from flawmap.errors import BundleError, ConfigError, DataError, FlawmapError

if TYPE_CHECKING:
    from flawmap.bundle import Bundle
    from flawmap.config import Recipe
    from flawmap.data.layouts import Listing
    from flawmap.measure.near_duplicates import Without
    from flawmap.measure.smallest import Smallest
    from flawmap.measure.threshold import Threshold
    from flawmap.station.record import Record

BY_ACCURACY = ("accurate", "fast")  # recipes that `train --ms` chooses from, the better one first
EXIT_MISTAKE = 2
EXIT_INTERRUPTED = 130  # what a shell reports for a program stopped by Ctrl-C

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    add_completion=False,
    help="Learns from images of good parts alone, then finds and outlines defects on new ones.",
    epilog="Start with: flawmap train GOOD_PARTS --out part.bundle, then flawmap inspect part.bundle NEW_IMAGES",
)

Bundle_ = Annotated[
    Path, typer.Argument(metavar="BUNDLE", help="A folder written by `flawmap train` or `flawmap import`.")
]
Data = Annotated[
    Path, typer.Argument(metavar="DATA", help="A data set or a folder of images; the layout is recognised.")
]
Config = Annotated[
    str, typer.Option("--config", help="A recipe: a TOML file, or the name of a shipped one (`flawmap recipes`).")
]
Set = Annotated[
    list[str] | None, typer.Option("--set", metavar="SECTION.NAME=VALUE", help="Change one setting; repeatable.")
]
Layout = Annotated[str, typer.Option("--layout", help="Force a layout instead of recognising it.")]
Category = Annotated[str | None, typer.Option("--category", help="Which object of a data set that holds several.")]
Resume = Annotated[bool, typer.Option("--resume", help="Go on with a training that was stopped.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace what is at --out.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="No progress on the terminal.")]
Device = Annotated[str, typer.Option("--device", help="`auto` (a GPU if there is one), `cpu`, `cuda`, ….")]
Runtime_ = Annotated[
    str,
    typer.Option("--runtime", help="`torch`; `onnx` or `openvino`, exported on first use; `auto`, the fastest here."),
]
Precision = Annotated[
    str,
    typer.Option("--precision", help="`float32`; `bfloat16`, faster where the CPU has it (not with runtime onnx)."),
]
Damaged = Annotated[
    str | None,
    typer.Option("--damaged", metavar="refuse|accept", help="Photos that are damaged; accept fills what is missing."),
]
READ_PHOTOS = (  # each of these has the option --damaged
    "pretrain", "train", "inspect", "refine", "suspects", "evaluate", "check", "limits", "repeat", "explain",
    "threshold", "export", "benchmark", "serve", "watch",
)  # fmt: skip
Item = TypeVar("Item")
Batch = Annotated[int, typer.Option("--batch", min=0, help="Images (or tiles) at a time; 0: 1 on a CPU, 8 on a GPU.")]


def _command(name: str, when_stopped: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Register a command whose FlawmapError and Ctrl-C each become one line."""

    def register(function: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(function)
        def speaking(*args: Any, **kwargs: Any) -> None:
            try:
                with _damaged(kwargs.pop("damaged", None)):
                    function(*args, **kwargs)
            except FlawmapError as problem:
                _fail(str(problem))
            except KeyboardInterrupt:
                typer.echo(f"\nflawmap: stopped; {when_stopped}", err=True)
                raise typer.Exit(EXIT_INTERRUPTED) from None

        if name in READ_PHOTOS:
            signature = inspect.signature(function, eval_str=True)
            option = inspect.Parameter("damaged", inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Damaged)
            speaking.__signature__ = signature.replace(  # type: ignore[attr-defined]
                parameters=[*signature.parameters.values(), option]
            )
            speaking.__annotations__ = {**function.__annotations__, "damaged": Damaged}
        return app.command(name)(speaking)

    return register


@contextmanager
def _damaged(choice: str | None) -> Iterator[None]:
    """Hold to --damaged meanwhile, and tell at the end what was remarked on the photos read."""
    if choice not in (None, "refuse", "accept"):
        raise ConfigError(f"--damaged {choice}: expected refuse or accept")
    before = os.environ.get("FLAWMAP_DAMAGED")
    if choice is not None:
        os.environ["FLAWMAP_DAMAGED"] = choice  # read by data.images, and by processes started from here
    try:
        yield
    finally:
        if choice is not None:
            os.environ.pop("FLAWMAP_DAMAGED")
            if before is not None:
                os.environ["FLAWMAP_DAMAGED"] = before
        read = sys.modules.get("flawmap.data.images")
        for line in read.remarks() if read else ():
            _remark(line)


def _fail(message: str) -> None:
    typer.echo(f"flawmap: {printable(message)}", err=True)
    raise typer.Exit(EXIT_MISTAKE) from None


def printable(text: object) -> str:
    """Text that any terminal can show: file names need not be valid Unicode, nor in the terminal's encoding."""
    encoding = sys.stdout.encoding or "utf-8"
    return str(text).encode(encoding, "backslashreplace").decode(encoding)


def _say(text: object) -> None:
    typer.echo(printable(text))


def _remark(text: str) -> None:
    typer.echo(f"flawmap: {printable(text)}", err=True)


@app.callback(invoke_without_command=True)
def _options(
    version: Annotated[bool, typer.Option("--version", help="Show the version and stop.", is_eager=True)] = False,
    table_language: Annotated[
        str | None,
        typer.Option(
            "--table-language", envvar="FLAWMAP_TABLES", metavar="LANGUAGE",
            help="Write csv for the spreadsheet of a language, as `de`: before the command.",
        ),
    ] = None,
) -> None:  # fmt: skip
    if table_language is not None:
        os.environ["FLAWMAP_TABLES"] = table_language
    if version:
        typer.echo(f"flawmap {__version__}")
        raise typer.Exit


@_command("pretrain", "go on with the same command and --resume")
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
    found, _ = _images(images)
    if leader:
        _say(f"{len(found)} images, {recipe.pretrain.held_out:.0%} held out")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as problem:
        raise BundleError(f"cannot write to {folder}: {problem.strerror}") from problem
    if leader:
        given = given_to_pretraining(found, recipe, general)
        if not check_same(folder, given) and any(folder.iterdir()):
            _remark(f"{folder} {UNCHECKED}")
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
        _say(f"on held-out images: PSNR {card['psnr']:.2f} dB, {used} used")
        _say(f"wrote {out}; the course of its losses is in {log}")


@_command("train", "go on with the same command and --resume")
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
        share = parse_share(contamination, "--contamination", "of the good photos")
        settings = [*(settings or []), f"clean.contamination={share!r}"]
    if ms is not None and config is not None:
        raise ConfigError("--ms chooses the recipe by itself; leave out --config, or leave out --ms")
    recipe = load_recipe(config or "fast", settings)
    listing = _listing(data, layout, category)
    choice = None
    if ms is not None:
        recipe, choice = _chosen_recipe(ms, settings, listing, out, resume=resume, overwrite=overwrite)
    model = None if general is None else load_general(general)  # None: train takes the shipped one, once all is checked
    bad = None if defects is None else read_defects(defects)
    if bad is not None:
        for note in bad.notes:
            _say(note)
        masked = sum(sample.mask is not None for sample in bad.samples)
        _say(f"{len(bad.samples)} defective images to learn from too, {masked} of them with a mask")
    bundle = train(
        listing, recipe, out,
        general=model, resume=resume, overwrite=overwrite, quiet=quiet, defects=bad, minutes=minutes,
        say=_say, choice=choice,
    )  # fmt: skip
    facts = bundle.provenance
    _say(f"trained in {facts['minutes']} min, peak memory {facts['peak_memory_mb']} MB")
    _say_threshold(bundle.threshold)
    _say_smallest(bundle, listing, out)
    if facts["set_aside"]:
        _say(f"{len(facts['set_aside'])} photos were set aside as suspicious; look at them: flawmap suspects {out}")
    by = "" if choice is None else f" --runtime {choice['runtime']} --precision {choice['precision']}"
    _say(f"wrote {out}; inspect with: flawmap inspect {out} IMAGES{by}")


@_command("import", "nothing was written")
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
        _say(f"wrote {out}, a general model; train on it with: flawmap train DATA --config paper --general {out}")
        return
    save_bundle(import_official(source, name), out, overwrite, dtype="float16" if half else "float32")
    _say(f"wrote {out}; it has no threshold yet, set one with: flawmap threshold {out} --from LABELLED_FOLDER")


@_command("inspect", "the images inspected so far are in --out")
def inspect_command(
    bundle: Bundle_,
    images: Annotated[list[Path], typer.Argument(metavar="IMAGES…", help="Files and folders.")],
    out: Annotated[
        Path | None, typer.Option("--out", help="A folder for results, maps, overlays and a report.")
    ] = None,
    overwrite: Overwrite = False,
    device: Device = "auto",
    runtime: Runtime_ = "torch",
    precision: Precision = "float32",
    batch: Batch = 0,
    false_discovery: Annotated[
        str | None,
        typer.Option(
            "--false-discovery",
            metavar="SHARE",
            help="Also judge all images as one lot, so that at most this share of the rejected are good: 10% or 0.1.",
        ),
    ] = None,
) -> None:
    """Say for each image how likely it is defective, and where."""
    from flawmap.deploy.batch import inspect_files, inspect_to_folder, own_images
    from flawmap.deploy.inspector import load
    from flawmap.deploy.lot import check_lot, judge_lot

    rate = None if false_discovery is None else parse_share(false_discovery, "--false-discovery", "of rejected parts")
    found, hidden = _images(images, out)
    if out is not None and (own := own_images(found, out)):
        found = [path for path in found if path not in own]
        _say(f"left out {len(own)} images: the maps and overlays of an earlier run in {out}")
        if not found:
            raise DataError(f"no images besides what an earlier run left in {out}; give the images to inspect")
    inspector = load(bundle, device, runtime=runtime, precision=precision, say=_remark)
    if inspector.bundle.threshold is None:
        _say(
            f"{bundle} has no threshold, so there are scores but no verdicts; set one with: flawmap threshold {bundle}"
        )
    results = (
        inspect_files(inspector, found, batch)
        if out is None
        else inspect_to_folder(inspector, found, out, batch, overwrite)
    )
    if rate is not None:
        check_lot(inspector.good_scores, len(found), rate, _say)
    failed: list[str] = []
    lot: dict[str, float] = {}
    counts = {True: 0, False: 0, None: 0}
    for result in results:
        if result.error:
            failed.append(str(result.image))
            _say(f"failed              {result.error}")
            continue
        assert result.score is not None
        counts[result.defective] += 1
        if rate is not None and result.p_value is not None:
            lot[str(result.image)] = result.p_value
        word = {True: "defective", False: "good", None: "-"}[result.defective]
        _say(f"{word:<9}  {result.score:.4f}  {len(result.regions):>2} regions  {result.image}")
    limit = inspector.bundle.threshold
    summary = f"{counts[True]} defective, {counts[False]} good" if limit else f"{counts[None]} scored"
    _say(f"{summary}, {len(failed)} failed" + (f"; threshold {limit.score:.4f}" if limit else ""))
    if rate is not None:
        _say(judge_lot(lot, rate, out))
    if out is not None:
        _say(f"wrote {out / 'results.csv'}, results.jsonl, maps, overlays and report.html")
    if failed:
        named = ", ".join(failed[:3]) + (f" and {len(failed) - 3} more" if len(failed) > 3 else "")
        _fail(f"{len(failed)} of {len(found)} images could not be inspected: {named}")
    _refuse_hidden(hidden)


@_command("refine", "the bundle is as it was")
def refine_command(
    bundle: Bundle_,
    good: Annotated[
        list[Path],
        typer.Option("--good", help="More good photos: files and folders; may be repeated.", show_default=False),
    ],
    out: Annotated[Path, typer.Option("--out", help="The new bundle; the old one stays.")],
    defects: Annotated[
        list[Path] | None,
        typer.Option(
            "--defects", help="Defective photos, to see whether they are still found; nothing learns from them."
        ),
    ] = None,
    overwrite: Overwrite = False,
    device: Device = "auto",
) -> None:
    """Take more good photos into a trained bundle, in a minute or two: confirmed false alarms, or new material."""
    from flawmap.bundle import load_bundle, save_bundle
    from flawmap.data.defects import defective_photos
    from flawmap.data.layouts import refuse_doubtful_among_good
    from flawmap.train.renew import renew

    if out.exists() and not overwrite:
        raise ConfigError(f"{out} exists; choose another --out, or --overwrite it")
    for folder in (path for path in good if path.is_dir()):
        refuse_doubtful_among_good(folder)
    opened = load_bundle(bundle)
    bad, left = defective_photos(_images(defects)[0] if defects else [], defects or [])
    if left:
        _say(f"{left} images in --defects are masks, and left out")
    renewed, change = renew(opened, bundle, _images(good)[0], bad, device)
    save_bundle(renewed, out, overwrite=overwrite)
    for line in change.lines():
        _say(line)
    _say_threshold(renewed.threshold)
    _say(f"wrote {out}")


@_command("suspects", "the images inspected so far are in --out")
def suspects_command(
    bundle: Annotated[
        Path,
        typer.Argument(metavar="BUNDLE", help="A folder written by `flawmap train`; or a folder of good photos."),
    ],
    data: Annotated[
        Path | None, typer.Argument(metavar="[DATA]", help="The folder of the good photos, for pictures.")
    ] = None,
    top: Annotated[int, typer.Option("--top", min=1, help="How many to list, besides those set aside.")] = 20,
    out: Annotated[Path | None, typer.Option("--out", help="A folder for a report with pictures; needs DATA.")] = None,
    overwrite: Overwrite = False,
    device: Device = "auto",
    config: Config = "fast",
    settings: Set = None,
    layout: Layout = "auto",
    category: Category = None,
) -> None:
    """List the good photos trained on that look most like defective ones, to sort them out and train again.

    Or, before any training, those of a folder of good photos that are most unlike the others, as the recipe sees them.
    """
    from flawmap.bundle import load_bundle
    from flawmap.bundle_facts import NOTE
    from flawmap.deploy.suspects import find_photos, suspects

    if bundle.suffix.lower() == ".csv" or (bundle.is_dir() and not (bundle / NOTE).exists()):
        if data is not None or out is not None:
            raise ConfigError(f"{bundle} is no bundle, and without one there are no pictures; give the photos alone")
        listing = _listing(bundle, layout, category)
        _say_odd(listing, config, settings, top, device)
        if listing.passed_over:
            first, more = listing.passed_over[0], ", …" * (len(listing.passed_over) > 1)
            _fail(f"{len(listing.passed_over)} images were passed over, hidden or of another suffix: {first}{more}")
        return
    if settings or category is not None or config != "fast" or layout != "auto":
        raise ConfigError("a bundle has its recipe and its photos; leave out --config, --set, --layout and --category")
    if (data is None) != (out is None):
        raise ConfigError("pictures need both the folder of the good photos and --out")
    opened = load_bundle(bundle)
    every = suspects(opened, bundle)
    chosen = [*every[:top], *(suspect for suspect in every[top:] if suspect.set_aside)]
    limit = opened.threshold
    for suspect in chosen:
        word = "suspect" if limit is not None and suspect.score > limit.score else "-"
        word = "set aside" if suspect.set_aside else word
        _say(f"{word:<9}  {suspect.score:.4f}  {suspect.image}")
    above = sum(limit is not None and suspect.score > limit.score for suspect in chosen)
    _say(f"{above} of these are above the threshold; what shows a defect, move away and train again")
    if data is not None and out is not None:
        from flawmap.deploy.batch import inspect_to_folder
        from flawmap.deploy.inspector import Inspector

        photos = find_photos(chosen, data)
        found = list(inspect_to_folder(Inspector(opened, device), photos, out, 0, overwrite))
        failed = [result.error for result in found if result.error]
        if failed:
            _fail(f"{len(failed)} of {len(found)} photos could not be inspected: {failed[0]}")
        _say(f"wrote {out / 'report.html'}: scored with all photos known, so somewhat lower than here")


@_command("evaluate", "nothing was written")
def evaluate_command(
    bundle: Bundle_,
    data: Data,
    out: Annotated[
        Path | None, typer.Option("--out", help="A folder for metrics.json, images.csv and a report.")
    ] = None,
    protocol: Annotated[
        str,
        typer.Option("--protocol", help="`full`, at the photos' size; `network`, at its own; `authors`, its middle."),
    ] = "full",
    layout: Layout = "auto",
    category: Category = None,
    without: Annotated[
        bool,
        typer.Option(
            "--without-near-duplicates",
            help="Score each photo as if the training photos near it, as --near says, were not known.",
        ),
    ] = False,
    near: Annotated[
        str,
        typer.Option(
            "--near",
            metavar="RULE",
            help="`folder`; `number:200`, in the file name; `features:0.01`, of all distances.",
        ),
    ] = "",
    overwrite: Overwrite = False,
    device: Device = "auto",
    runtime: Runtime_ = "torch",
    precision: Precision = "float32",
) -> None:
    """Measure detection and localization on labelled images.

    Each figure comes with its 95 % interval. With --without-near-duplicates, for each test photo the memory bank,
    Gaussians and calibration leave out the training photos near it; networks and threshold stay as trained. Without
    --near these are those of the same folder where there are several, else those with the most similar features.
    """
    from flawmap.deploy.evaluation import check_protocol, evaluate, files_without, prepare_beside, table
    from flawmap.deploy.inspector import load
    from flawmap.measure.near_duplicates import parse_near, usual_rule

    if near and not without:
        raise ConfigError(f"--near {near} says which training photos are left out; add --without-near-duplicates")
    if without and runtime != "torch":
        raise ConfigError("--without-near-duplicates is computed by PyTorch alone; leave out --runtime")
    rules = parse_near(near) if near else []
    check_protocol(protocol)
    listing = _listing(data, layout, category)
    inspector = load(bundle, device, runtime=runtime, precision=precision, say=_remark)
    ways: list[Without | None] = [None]
    if without:
        from flawmap.train.leave_out import LeaveOut

        good = [sample.image for sample in listing.train_good]
        test = [sample.image for sample in listing.test if sample.defective is not None]
        rules = rules or [usual_rule(test, good)]
        if out is not None:
            prepare_beside(out, [name for rule in rules for name in files_without(rule)], overwrite)
        leave_out = LeaveOut(inspector.bundle, bundle, good)
        ways = [leave_out.without(rule, test) for rule in rules]
    for way in ways:
        evaluation = evaluate(inspector, listing, out, protocol=protocol, overwrite=overwrite, without=way)
        for line in table(evaluation):
            _say(line)
        if way is None and (found := _smallest(inspector.bundle)):
            _say(found)
        if evaluation.learnt_from:
            _say(f"{evaluation.learnt_from} images were learnt from as real defects, and are left out")
        if out is not None:
            first, *more = ("metrics.json", "images.csv", "report.html") if way is None else files_without(way.near)
            _say(f"wrote {out / first}, {' and '.join(more)}")


@_command("check", "nothing was written")
def check_command(
    bundle: Bundle_,
    images: Annotated[
        list[Path] | None, typer.Argument(metavar="[IMAGES…]", help="Files and folders; none: show what is known.")
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", help="A csv with the figures of each photo.")] = None,
    overwrite: Overwrite = False,
    device: Device = "auto",
) -> None:
    """Say whether photos are like the good ones trained on, before verdicts on them are trusted.

    Light, focus, position, exposure, and how often codes occur. Exit code 1 when the photos have drifted.
    """
    from flawmap.bundle import load_bundle
    from flawmap.deploy.check import check_photos, drift_of, photos_of, write_table
    from flawmap.measure.photos import KINDS, MANY

    opened = load_bundle(bundle)
    good = photos_of(opened, bundle)
    if not images:
        _say(f"{len(good.figures)} good photos:")
        for kind, values in zip(KINDS.values(), good.figures.T, strict=True):
            _say(f"{kind.label:<34} {values.min():8.4f} to {values.max():8.4f}")
        return
    if out is not None and out.exists() and not overwrite:
        raise ConfigError(f"{out} exists; choose another --out, or --overwrite it")
    found, hidden = _images(images)
    checked = []
    for photo in check_photos(opened, good, found, device):
        checked.append(photo)
        if photo.error:
            _say(f"failed   {photo.error}")
        elif photo.odd:
            _say(f"odd      {photo.image}: {'; '.join(map(str, photo.odd[:3]))}")
    failed = [photo for photo in checked if photo.error]
    odd, read = sum(bool(photo.odd) for photo in checked), len(checked) - len(failed)
    if out is not None:
        write_table(out, checked)
        _say(f"wrote {out}")
    _say(f"{odd} of {read} photos are odd by themselves, {len(failed)} failed")
    drifted = drift_of(good, checked)
    if drifted is None:
        _say(f"fewer than {MANY} photos tell no drift")
    else:
        _say(f"drift {drifted.figure:.1f}: {drifted.sentence(read)}")
    if failed:
        _fail(
            f"{len(failed)} of {len(checked)} images could not be read: {failed[0].image}" + (", …" * (len(failed) > 1))
        )
    _refuse_hidden(hidden)
    if drifted is not None and drifted.verdict == "drifted":
        raise typer.Exit(1)


@_command("limits", "nothing was written")
def limits_command(
    bundle: Bundle_,
    images: Annotated[list[Path], typer.Argument(metavar="IMAGES…", help="Good photos that were not learnt from.")],
    out: Annotated[Path, typer.Option("--out", help="A folder for the page, the curves and all trials.")],
    shape: Annotated[
        str, typer.Option("--shape", help="`spot`, its size a diameter, or `line`, its size a length.")
    ] = "spot",
    sizes: Annotated[str, typer.Option("--sizes", metavar="2,4,8", help="In pixels of the image files.")] = "",
    contrasts: Annotated[
        str, typer.Option("--contrasts", metavar="5%,20%", help="Shares of the range from black to white.")
    ] = "",
    photos: Annotated[int, typer.Option("--photos", min=2, help="Good photos to draw into, at most.")] = 30,
    seed: Annotated[int, typer.Option("--seed", min=0, help="The same seed draws the same defects.")] = 0,
    overwrite: Overwrite = False,
    device: Device = "auto",
    runtime: Runtime_ = "torch",
    precision: Precision = "float32",
) -> None:
    """Say how small a defect is found: probability of detection against size and contrast, with a90/95."""
    from flawmap.deploy.batch import prepare_folder, refuse_folder
    from flawmap.deploy.inspector import load
    from flawmap.deploy.limits import CONTRASTS, SIZES, check_photos, lines, run_trials, summarise, write_limits

    chosen_sizes = sorted({_number(part, "--sizes") for part in sizes.split(",")}) if sizes else list(SIZES)
    shares = (
        sorted({parse_share(part, "--contrasts", "of the range from black to white") for part in contrasts.split(",")})
        if contrasts
        else list(CONTRASTS)
    )
    paths = check_photos(_images(images)[0], photos, seed)
    inspector = load(bundle, device, runtime=runtime, precision=precision, say=_remark)
    refuse_folder(out, overwrite)
    drawn = run_trials(inspector, paths, sizes=chosen_sizes, contrasts=shares, shape=shape, seed=seed, say=_say)
    trials = _watched(drawn, len(paths) * len(chosen_sizes) * len(shares), "defects drawn and inspected")
    limits = summarise(trials)
    used = len({trial.image for trial in trials})
    facts = {"bundle": str(bundle), "shape": shape, "photos": used, "trials": len(trials), "seed": seed}
    prepare_folder(out, ("index.html", "limits.json", "trials.csv"), overwrite)
    write_limits(out, trials, limits, facts)
    for line in lines(limits):
        _say(line)
    _say(f"wrote {out / 'index.html'}, limits.json and trials.csv")


@_command("repeat", "nothing was written")
def repeat_command(
    bundle: Bundle_,
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="A folder of shots a part, or with --shots photos.")],
    out: Annotated[Path, typer.Option("--out", help="A folder for the page and the figures.")],
    shots: Annotated[
        int, typer.Option("--shots", min=0, help="Make up so many shots of each photo; 0: each folder holds a part's.")
    ] = 0,
    shift: Annotated[float, typer.Option("--shift", min=0, help="Made-up shots: moved by up to so many pixels.")] = 1.0,
    exposure: Annotated[
        str, typer.Option("--exposure", help="Made-up shots: brighter or darker by up to this.")
    ] = "2%",
    noise: Annotated[str, typer.Option("--noise", help="Made-up shots: deviation of noise, of the range.")] = "0.5%",
    seed: Annotated[int, typer.Option("--seed", min=0, help="The same seed makes up the same shots.")] = 0,
    overwrite: Overwrite = False,
    device: Device = "auto",
    runtime: Runtime_ = "torch",
    precision: Precision = "float32",
) -> None:
    """Say whether the same part gets the same verdict again, over several shots of each part."""
    from flawmap.deploy.batch import prepare_folder, refuse_folder
    from flawmap.deploy.inspector import load
    from flawmap.deploy.repeat import (
        Jitter,
        lines,
        repeat_folders,
        repeat_photos,
        shots_of_folders,
        summarise,
        write_repeat,
    )

    if shots == 1:
        raise ConfigError("--shots 1: it takes two or more to repeat")
    if not 0 <= shift < 1000:
        raise ConfigError(f"--shift {shift:g}: expected pixels, from 0 on")
    jitter = Jitter(shift, _amount(exposure, "--exposure"), _amount(noise, "--noise"))
    inspector = load(bundle, device, runtime=runtime, precision=precision, say=_remark)
    refuse_folder(out, overwrite)
    if out.resolve().is_relative_to(folder.resolve()):
        raise ConfigError(f"--out {out} lies inside {folder}, whose folders are parts; choose another")
    if shots:
        photos, _ = _images([folder])
        parts = _watched(repeat_photos(inspector, photos, shots, jitter, seed), len(photos), "photos repeated")
        how = (
            f"{shots} shots of each photo, made up: moved by up to {shift:g} pixels, light within {exposure}, "
            f"noise of {noise}"
        )
    else:
        by_part = shots_of_folders(folder)
        parts = _watched(repeat_folders(inspector, by_part), len(by_part), "parts inspected")
        how = "Shots as photographed, a folder a part"
    assert inspector.bundle.threshold is not None
    found = summarise(parts, inspector.bundle.threshold.score)
    prepare_folder(out, ("index.html", "repeat.json", "parts.csv"), overwrite)
    write_repeat(out, parts, found, {"bundle": str(bundle), "photos": str(folder), "shots_are": how, "seed": seed})
    for line in lines(found):
        _say(line)
    _say(f"wrote {out / 'index.html'}, repeat.json and parts.csv")


@_command("explain", "nothing was written")
def explain_command(
    bundle: Bundle_,
    image: Annotated[Path, typer.Argument(metavar="IMAGE", help="One image file.")],
    out: Annotated[
        Path | None,
        typer.Option("--out", help="A .png or .jpg, one picture, or .html, an evidence sheet; default: a .png here."),
    ] = None,
    overwrite: Overwrite = False,
    device: Device = "auto",
) -> None:
    """Show what the network saw in one image, step by step.

    As one picture, or as an evidence sheet of one page for the record of a part.
    """
    from flawmap.deploy.explain import SUFFIXES, explain, write_picture, write_sheet
    from flawmap.deploy.inspector import load

    file = out or Path(f"{image.stem}-explained.png")
    if file.suffix.lower() not in SUFFIXES:
        raise ConfigError(f"--out {file}: expected a name that ends with {', '.join(SUFFIXES)}")
    if file.exists() and not overwrite:
        raise ConfigError(f"{file} exists; choose another --out, or --overwrite it")
    found = explain(load(bundle, device), image, bundle)
    (write_sheet if file.suffix.lower() == ".html" else write_picture)(found, file)
    _say(f"{found.verdict}; " + "; ".join(f"{name} {value}" for name, value in found.facts.items()))
    _say(f"wrote {file}")


@_command("threshold", "the bundle is as it was")
def threshold_command(
    bundle: Bundle_,
    overkill: Annotated[
        str | None, typer.Option("--overkill", help="Share of good parts one accepts to reject: 0.5% or 0.005.")
    ] = None,
    value: Annotated[float | None, typer.Option("--value", help="The score above which a part is defective.")] = None,
    labelled: Annotated[
        Path | None,
        typer.Option("--from", metavar="FOLDER", help="A folder of good and defective parts to set it from."),
    ] = None,
    layout: Layout = "auto",
    category: Category = None,
    device: Device = "auto",
) -> None:
    """Show or change where good ends and defective begins."""
    from flawmap.bundle import load_bundle, update_threshold
    from flawmap.deploy.evaluation import threshold_at, threshold_from_folder, threshold_given
    from flawmap.deploy.inspector import Inspector

    if value is not None and (overkill is not None or labelled is not None):
        raise ConfigError("--value stands alone; leave out --overkill and --from, or leave out --value")
    target = None if overkill is None else parse_share(overkill)
    opened = load_bundle(bundle)
    if value is not None:
        changed = threshold_given(opened, value)
    elif labelled is not None:
        changed = threshold_from_folder(Inspector(opened, device), _listing(labelled, layout, category), target)
    elif target is not None:
        changed = threshold_at(opened, target)
    else:
        if opened.threshold is None:
            raise BundleError(f"{bundle} has no threshold; set one with --overkill, --value or --from")
        _say_threshold(opened.threshold)
        return
    update_threshold(bundle, changed)
    _say_threshold(changed)


@_command("white", "the bundle is as it was")
def white_command(
    bundle: Bundle_,
    level: Annotated[
        int | None,
        typer.Argument(metavar="LEVEL", min=255, max=65535, help="As 1023, 4095, 16383 or 65535; none: show it."),
    ] = None,
) -> None:
    """Show or change the pixel value that is full white in new photos with 16 bits."""
    from flawmap.bundle import load_bundle, update_white

    if level is not None:
        update_white(bundle, level)
    white = load_bundle(bundle).white
    _say(f"photos with 16 bits are read with {white.level} as full white; photos with 8 bits are not affected")


@_command("export", "nothing was written")
def export_command(
    bundle: Bundle_,
    to: Annotated[str, typer.Option("--to", help="`onnx`, a file, or `openvino`, a folder.")],
    out: Annotated[Path | None, typer.Option("--out", help="The artefact; default: beside the bundle.")] = None,
    images: Annotated[
        Path | None,
        typer.Option("--images", metavar="FOLDER", help="Good images to check on; default: drawn ones."),
    ] = None,
    int8: Annotated[bool, typer.Option("--int8", help="Quantize to 8 bits, fitted to --images.")] = False,
    bfloat16: Annotated[
        bool, typer.Option("--bfloat16", help="Compute the networks in bfloat16, where the CPU has it (openvino).")
    ] = False,
    dynamic_batch: Annotated[
        bool, typer.Option("--dynamic-batch", help="Take any number of images at once, not one.")
    ] = False,
    overwrite: Overwrite = False,
) -> None:
    """Write one artefact that inspects without flawmap, checked against PyTorch first."""
    from flawmap.deploy.export import export

    made = export(
        bundle, to, out, int8=int8, bfloat16=bfloat16, dynamic_batch=dynamic_batch, images=images, overwrite=overwrite
    )
    _say(made.check)
    if made.about["threshold"] is None:
        _say(f"{bundle} has no threshold, so the artefact gives scores but no verdicts")
    _say(f"wrote {made.file if to == 'onnx' else made.file.parent}")


@_command("benchmark", "go on with the same command; what is done is kept")
def benchmark_command(
    root: Annotated[Path, typer.Argument(metavar="ROOT", help="A data set, or a folder of data sets, one a category.")],
    config: Annotated[
        str, typer.Option("--recipe", "--config", help="A recipe: a TOML file, or the name of a shipped one.")
    ] = "fast",
    settings: Set = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="The folder for all of it; default: benchmark-ROOT-RECIPE, here.")
    ] = None,
    categories: Annotated[str, typer.Option("--categories", metavar="A,B", help="These alone.")] = "",
    seeds: Annotated[str, typer.Option("--seeds", metavar="0,1,2", help="Trainings of each category.")] = "0",
    jobs: Annotated[int, typer.Option("--jobs", min=1, help="Trainings side by side; they share the cores.")] = 1,
    protocol: Annotated[
        str,
        typer.Option("--protocol", help="`full`, at the photos' size; `network`, at its own; `authors`, its middle."),
    ] = "full",
    layout: Layout = "auto",
    general: Annotated[
        Path | None, typer.Option("--general", help="A general discrete model; default: the shipped one.")
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Train and evaluate every category of a data set, over seeds, beside published figures.

    Give the same command again to go on: what is done is kept, what was killed is taken up, what failed is tried anew.
    """
    from flawmap.benchmark.plan import choose_categories, make_jobs, parse_seeds
    from flawmap.benchmark.report import title_of, write_tables
    from flawmap.benchmark.run import alone_in, folder_of, run_jobs, threads_each
    from flawmap.bundle import load_general
    from flawmap.config import load_recipe
    from flawmap.deploy.evaluation import check_protocol

    check_protocol(protocol)
    numbers = parse_seeds(seeds)
    if any(setting.replace(" ", "").startswith(("run.seed=", "run.threads=")) for setting in settings or []):
        raise ConfigError("a benchmark sets run.seed and run.threads by --seeds and --jobs; leave them out of --set")
    recipe = load_recipe(config, settings)
    found, notes = choose_categories(root, layout, [name.strip() for name in categories.split(",") if name.strip()])
    for note in notes:
        _say(note)
    folder = folder_of(out, root, config)
    if general is not None:
        load_general(general)  # refuses what is none before anything is written
    planned = make_jobs(
        folder,
        found,
        numbers,
        recipe,
        layout=layout,
        protocol=protocol,
        threads_each=threads_each(jobs),
        general=general,
    )
    _say(f"{len(found)} categories, {len(numbers)} seeds each: {len(planned)} trainings into {folder}")
    with alone_in(folder):
        try:
            run_jobs(planned, jobs, quiet)
        finally:
            lines = write_tables(folder, planned, found, title_of(root, config, settings), jobs)
    for line in lines:
        _say(line)
    _say(f"wrote {folder / 'index.html'}, table.md, table.csv and results.json")
    failed = [job for job in planned if job.result() is None]
    if failed:
        _fail(f"{len(failed)} of {len(planned)} failed, the first: {failed[0].name}: {failed[0].error()}")


@_command("recipes", "nothing was written")
def recipes_command(
    name: Annotated[str | None, typer.Argument(help="A recipe to show whole.")] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="Write it to a file, to be changed and given to --config.")
    ] = None,
    settings: Set = None,
) -> None:
    """List the shipped recipes, show or write one."""
    from flawmap.config import dump_recipe, load_recipe, shipped_recipes

    if name is None:
        for each in shipped_recipes():
            _say(f"{each:<12} {_first_sentence(each)}")
        return
    text = dump_recipe(load_recipe(name, settings))
    if out is None:
        typer.echo(text, nl=False)
        return
    try:
        with out.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise ConfigError(f"{out} exists; choose another --out") from None
    except OSError as problem:
        raise ConfigError(f"cannot write {out}: {problem.strerror}") from problem
    _say(f"wrote {out}")


@_command("draw", "what was drawn so far remains")
def draw_command(
    folder: Annotated[Path, typer.Argument(help="A new folder, in the layout of MVTec AD.")],
    surface: Annotated[
        str, typer.Option("--surface", help="Which surface; a wrong name lists them.")
    ] = "brushed-metal",
    size: Annotated[int, typer.Option("--size", min=32, max=4096, help="Side of an image in pixels.")] = 256,
    train: Annotated[int, typer.Option("--train", min=1, help="Good parts to learn from.")] = 80,
    good: Annotated[int, typer.Option("--good", min=0, help="Good parts to test with.")] = 20,
    bad: Annotated[int, typer.Option("--bad", min=0, help="Defective parts to test with.")] = 20,
    seed: Annotated[int, typer.Option("--seed", min=0, help="The same seed draws the same parts.")] = 0,
) -> None:
    """Draw sample parts to try flawmap on, with exact masks."""
    from flawmap.data.surfaces import SURFACES, write_sample_parts

    if surface not in SURFACES:
        raise ConfigError(f"no surface {surface}; there are: {', '.join(SURFACES)}")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(f"{folder} exists; choose a new folder")
    write_sample_parts(folder, surface, size, train, good, bad, seed)
    _say(f"drew {train} good parts to learn from, {good} good and {bad} defective ones to test with, in {folder}")


StationData = Annotated[Path, typer.Option("--data", metavar="DIR", help="The station's record and pictures.")]
Database = Annotated[
    str | None, typer.Option("--database", metavar="URL", help="Of the record; default: SQLite in --data.")
]


@_command("masks", "nothing was written")
def masks_command(
    labels: Annotated[
        list[Path], typer.Argument(metavar="LABELS… PHOTOS", help="Label files or folders of them; last, the photos.")
    ],
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="A folder for the masks, named as the photos.")],
    classes: Annotated[str, typer.Option("--classes", metavar="A,B", help="These alone count as defects.")] = "",
    overwrite: Overwrite = False,
) -> None:
    """Turn label files of other tools into masks: labelme, COCO, YOLO, CVAT, PASCAL VOC, Label Studio, Severstal."""
    from flawmap.data.labels.read import write_masks

    if len(labels) < 2:
        raise ConfigError("give the label files and, last, the folder of the photos: flawmap masks LABELS PHOTOS")
    wanted = [name.strip() for name in classes.split(",") if name.strip()]
    *sources, photos = labels
    written = write_masks(sources, photos, out, wanted, overwrite)
    for remark in written.remarks:
        _remark(remark)
    marked = ", ".join(f"{name} {count}" for name, count in written.classes.items())
    _say(f"wrote {len(written.masks)} masks to {out}; areas marked: {marked}")


@_command("demo", "what is done so far remains")
def demo_command(
    folder: Annotated[
        Path, typer.Argument(help="Where everything goes; what an earlier demo left is replaced.")
    ] = Path("demo"),
    surface: Annotated[
        str, typer.Option("--surface", help="Which surface; a wrong name lists them.")
    ] = "brushed-metal",
    settings: Set = None,
    quiet: Quiet = False,
) -> None:
    """Draw sample parts, learn from the good ones, find the defects of the others: some minutes, one page."""
    from flawmap.demo import demo

    demo(folder, surface, settings, quiet)


@_command("serve", "what was answered is in the record")
def serve_command(
    models: Annotated[Path, typer.Option("--models", metavar="DIR", help="A folder of bundles.")],
    data: StationData = Path("station"),
    host: Annotated[str, typer.Option("--host", help="Beyond this machine only with tokens.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="0: any that is free.")] = 8000,
    database: Database = None,
    config: Annotated[Path | None, typer.Option("--config", help="Settings of the station, a TOML file.")] = None,
    settings: Set = None,
    certificate: Annotated[Path | None, typer.Option("--certificate", help="For https, PEM.")] = None,
    key: Annotated[Path | None, typer.Option("--key", help="The certificate's key, PEM.")] = None,
) -> None:
    """Run an inspection station: verdicts over HTTP, a live view, and a record of every part."""
    from flawmap.station.serve import serve
    from flawmap.station.settings import load_settings

    serve(models, data, host, port, database, load_settings(config, settings), certificate, key)


@_command("token", "nothing was changed")
def token_command(
    action: Annotated[str, typer.Argument(metavar="ACTION", help="`add`, `list` or `revoke`.")],
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="Whose token.")] = None,
    role: Annotated[str, typer.Option("--role", help="`camera`, `operator` or `engineer`.")] = "",
    data: StationData = Path("station"),
    database: Database = None,
) -> None:
    """Say who may use a station. A new token is shown once."""
    from flawmap.station.access import add_token, list_tokens, revoke_token

    if action not in ("add", "list", "revoke"):
        raise ConfigError(f"no action {action}; there are: add, list, revoke")
    if (name is None) != (action == "list"):
        raise ConfigError("token list takes no name" if name else f"token {action} takes the NAME of the token")
    if (role != "") != (action == "add"):
        raise ConfigError("--role is for token add alone" if role else "token add takes --role")
    with _record(data, database, new=action == "add") as record:
        if name is None:
            for known in list_tokens(record):
                ended = f"revoked {known['revoked'][:19]}" if known["revoked"] else ""
                _say(f"{known['name']:<24} {known['role']:<9} added {known['added'][:19]} {ended}".rstrip())
        elif action == "add":
            _say(add_token(record, name, role))
            _remark(f"the token of {name}, shown this once; hand it over, and keep it secret")
        else:
            revoke_token(record, name)
            _say(f"revoked the token of {name}")


@_command("audit", "nothing was changed")
def audit_command(
    data: StationData = Path("station"),
    database: Database = None,
    head: Annotated[
        str | None, typer.Option("--head", metavar="HASH", help="A hash noted earlier, which must still be there.")
    ] = None,
) -> None:
    """Walk the chain of the record. Exit code 1 when a row was edited, removed or inserted."""
    from flawmap.errors import StationError
    from flawmap.station.audit import audit

    with _record(data, database) as record:
        found = audit(record, head)
    for fault in found.faults:
        _say(fault)
    if not found.records and found.whole:
        raise StationError(f"{record.place} holds no record yet; give the --data or --database of a station")
    told = "the chain is whole" if found.linked else "the chain is broken"
    _say(f"{found.records} records, {told}{'' if found.whole or not found.linked else ', without the hash noted'}")
    _say(f"head {found.head}")
    if not found.whole:
        raise typer.Exit(1)


@_command("backup", "nothing was written")
def backup_command(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="A .tar file.")],
    data: StationData = Path("station"),
    database: Database = None,
    models: Annotated[Path | None, typer.Option("--models", metavar="DIR", help="The models, too.")] = None,
    overwrite: Overwrite = False,
) -> None:
    """Copy record, tokens and pictures of a station into one file, while it runs if it does."""
    from flawmap.station.backup import backup

    with _record(data, database) as record:
        count, pictures = backup(record, data, out, models, overwrite)
    _say(f"wrote {out}: {count} records, {pictures} pictures")


@_command("restore", "what was restored so far remains; delete it before trying again")
def restore_command(
    source: Annotated[Path, typer.Argument(metavar="OUT", help="What `flawmap backup` wrote.")],
    data: StationData = Path("station"),
    database: Database = None,
    models: Annotated[Path | None, typer.Option("--models", metavar="DIR", help="Where the models go.")] = None,
) -> None:
    """Put a backup back into an empty place, and walk its chain."""
    from flawmap.station.backup import restore

    found = restore(source, data, database, models)
    _say(f"restored {found.audit.records} records, the chain is whole")
    _say(f"head {found.audit.head}")
    if found.models and models is None:
        left = ", ".join(sorted(found.models))
        _remark(f"left out the models in it ({left}); serve with a folder that has them, or restore with --models DIR")
    elif found.used and found.used not in found.models:
        _remark(f"the backup does not hold the model in use, {found.used}; serve with a folder of models that has it")


@_command("watch", "go on with the same command; what is done is kept")
def watch_command(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Where a camera writes.")],
    model: Annotated[Path | None, typer.Option("--model", metavar="BUNDLE", help="Inspect here, by this.")] = None,
    server: Annotated[str | None, typer.Option("--server", metavar="URL", help="Have a station inspect.")] = None,
    token: Annotated[
        str | None, typer.Option("--token", envvar="FLAWMAP_TOKEN", help="For it; safer in FLAWMAP_TOKEN.")
    ] = None,
    ca: Annotated[
        Path | None,
        typer.Option("--ca", metavar="FILE", help="What certificates of station and broker are trusted by, PEM."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="Of pass, reject, doubt, failed; default: DIR.")
    ] = None,
    move: Annotated[bool, typer.Option("--move", help="Move each file to the folder of its verdict.")] = False,
    copy: Annotated[bool, typer.Option("--copy", help="Copy it there.")] = False,
    table: Annotated[Path | None, typer.Option("--csv", metavar="FILE", help="A line for each file.")] = None,
    mqtt: Annotated[str | None, typer.Option("--mqtt", metavar="URL", help="mqtt://HOST/TOPIC.")] = None,
    lot: Annotated[str | None, typer.Option("--lot", help="Told to the station.")] = None,
    doubt: Annotated[
        float, typer.Option("--doubt", min=0, max=1, help="With --model: doubt about the threshold.")
    ] = 0.02,
    state: Annotated[Path | None, typer.Option("--state", help="What is done; default: a hidden file in DIR.")] = None,
    once: Annotated[bool, typer.Option("--once", help="Stop when all files are done.")] = False,
    device: Device = "auto",
    runtime: Runtime_ = "torch",
) -> None:
    """Inspect each new file of a folder once, as a camera writes them.

    With --once exit code 1 when any failed, 2 when hidden images were passed over.
    """
    from flawmap.station.client import Client
    from flawmap.station.mqtt import Broker
    from flawmap.station.seen import Table
    from flawmap.station.watch import PATIENCE_S, Sink, Watch, by_bundle, by_server, stopped_by_signals

    if (model is None) == (server is None):
        raise ConfigError("give --model BUNDLE or --server URL, one of them")
    if move and copy:
        raise ConfigError("--move and --copy exclude each other")
    if out is not None and not (move or copy):
        raise ConfigError("--out is for --move or --copy")
    encrypted = (server, "https:"), (mqtt, "mqtts:")
    if ca is not None and not any((url or "").lower().startswith(scheme) for url, scheme in encrypted):
        raise ConfigError("--ca is for --server with https:// and for --mqtt with mqtts://")
    if not folder.is_dir():
        raise ConfigError(f"there is no folder {folder} to watch")
    with ExitStack() as opened:
        if server is not None:
            client = Client(server, token, timeout=PATIENCE_S, ca=ca, say=_remark)
            opened.callback(client.close)
            inspect = by_server(client, lot)
        else:
            assert model is not None
            inspect = by_bundle(model, runtime, device, doubt, _remark)
        sinks: list[Sink] = []
        if table is not None:
            sinks.append(Table(table))
            opened.callback(sinks[-1].close)
        if mqtt is not None:
            sinks.append(Broker(mqtt, ca))
            opened.callback(sinks[-1].close)
        place = (out or folder) if move or copy else None
        watch = Watch(folder, inspect, sinks, out=place, move=move, state=state, say=_say)
        opened.callback(watch.close)
        with stopped_by_signals(watch):
            done = watch.run(once)
    failed = f", {watch.failed} of them failed" if watch.failed else ""
    _say(f"{done} files inspected{failed}" + (f", {watch.passed_over} passed over" if watch.passed_over else ""))
    if once:
        _refuse_hidden(watch.hidden_images)
    if once and watch.failed:
        raise typer.Exit(1)


@contextmanager
def _record(data: Path, database: str | None, new: bool = False) -> Iterator[Record]:
    """The record of a station; where it is `new`, one is made if there is none, and that is said."""
    from flawmap.errors import StationError
    from flawmap.station.record import Record, url_of

    if new and database is None:
        try:
            data.mkdir(parents=True, exist_ok=True, mode=0o750)
        except OSError as problem:
            raise StationError(f"cannot write to {data}: {problem.strerror}") from problem
    record = Record(url_of(data, database), new)
    if record.made:
        _remark(f"made a new record in {record.place}")
    try:
        yield record
    finally:
        record.close()


def parse_share(text: str, option: str = "--overkill", what: str = "of good parts") -> float:
    """`0.5%` or `0.005` as 0.005. Raises ConfigError."""
    try:
        share = float(text.strip().removesuffix("%")) / (100 if text.strip().endswith("%") else 1)
    except ValueError:
        share = -1.0
    if not 0 < share < 1:
        raise ConfigError(f"{option} {text}: expected a share {what}, as 0.5% or 0.005")
    return share


def _amount(text: str, option: str) -> float:
    """`2%` or `0.02` as 0.02, and 0 too. Raises ConfigError."""
    try:
        if float(text.strip().removesuffix("%")) == 0:
            return 0.0
    except ValueError:
        pass  # parse_share says what to give
    return parse_share(text, option, "of the range")


def _number(text: str, option: str) -> float:
    """A positive number. Raises ConfigError."""
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not 0 < number < 1e6:
        raise ConfigError(f"{option} {text}: expected numbers above 0, as 2,4,8")
    return number


def _first_sentence(recipe: str) -> str:
    """What a shipped recipe's first comment says of it."""
    lines = (resources.files("flawmap") / "recipes" / f"{recipe}.toml").read_text(encoding="utf-8").splitlines()
    comment = " ".join(line.removeprefix("#").strip() for line in takewhile(lambda line: line.startswith("#"), lines))
    return comment.partition(". ")[0].rstrip(".")


def _card(folder: Path, images: int, recipe: Recipe) -> dict[str, Any]:
    """The model card of a general model: what it was trained on, and the last measurement on held-out images."""
    from flawmap.config import dump_recipe

    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    measured = [record for record in records if "psnr" in record][-1]
    return {"images": images, "recipe": dump_recipe(recipe), **measured}


def _say_odd(listing: Listing, config: str, settings: list[str] | None, top: int, device: str) -> None:
    """List the good photos that are most unlike the others."""
    from flawmap.config import load_recipe
    from flawmap.data.scope import read_scope
    from flawmap.devices import pick_device
    from flawmap.train.contamination import most, to_look_with
    from flawmap.train.run import look_before, own_backbone
    from flawmap.train.sources import sized
    from flawmap.train.white import settled_white

    good = sorted(sample.image for sample in listing.train_good)
    if len(good) < 2:
        raise DataError(f"{listing.name} holds {len(good)} good photos; two or more can be held against each other")
    recipe = load_recipe(config, settings)
    image, _ = settled_white(recipe.image, good, say=_say)
    recipe = sized(recipe.model_copy(update={"image": image}), good)
    backbone = own_backbone(to_look_with(recipe))
    found = look_before(good, recipe, read_scope(recipe.image), None, pick_device(device), backbone).tolist()
    for index in most(found, top):
        _say(f"{found[index]:7.1f}  {good[index]}")
    _say("deviations from the other photos; what shows a defect, move away before training")


def _listing(data: Path, layout: str, category: str | None) -> Listing:
    from flawmap.data.layouts import read_layout

    listing = read_layout(data, layout, category)
    for note in listing.notes:
        _say(note)
    return listing


def _images(paths: Sequence[Path], out: Path | None = None) -> tuple[list[Path], list[Path]]:
    """(images to try, hidden ones that are not); what is passed over is said, but for files of an earlier run in `out`.

    Raises DataError when there is none.
    """
    from flawmap.data.layouts import gather

    found = gather(paths)
    if out is not None:
        found = found._replace(left=[item for item in found.left if not item[0].is_relative_to(out)])
    for line in found.sentences():
        _say(line)
    return found.images, found.hidden


def _refuse_hidden(hidden: list[Path]) -> None:
    if hidden:
        more = ", …" * (len(hidden) > 1)
        _fail(f"{len(hidden)} images were passed over, as they are hidden: {hidden[0]}{more}; name them outright")


def _watched(items: Iterable[Item], total: int, what: str) -> list[Item]:
    """All of `items`, about `total`, with a bar on a terminal while they are made."""
    from rich.console import Console
    from rich.progress import track

    console = Console(stderr=True)
    return list(track(items, what, total, console=console, transient=True, disable=not console.is_terminal))


def _say_threshold(threshold: Threshold | None) -> None:
    if threshold is None:
        return
    if threshold.method == "given":
        _say(f"threshold {threshold.score:.6g}, as given")
    else:
        basis = f"{threshold.held_out} good images ({threshold.method})"
        _say(f"threshold {threshold.score:.6g} for an overkill of {threshold.overkill * 100:.3g}%, from {basis}")
    if threshold.note:
        _say(threshold.note)


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
    timing = choose_recipe(BY_ACCURACY, lambda name: sized(recipes[name], good), ms, good[0], _say)
    return recipes[timing.recipe], timing.facts(ms)


def _smallest(bundle: Bundle) -> Smallest | None:
    """What a bundle knows of the smallest spot that is found at its threshold."""
    from flawmap.measure.smallest import smallest_of

    return smallest_of(bundle.provenance, None if bundle.threshold is None else bundle.threshold.score)


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
        _say(f"{LABEL}: not measured, {str(problem) or 'stopped'}")
        return
    _say(found)


def main() -> None:
    """Run the command line."""
    app()
