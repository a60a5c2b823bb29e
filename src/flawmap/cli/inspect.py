"""Commands over photos: inspect, refine, suspects, evaluate, check."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flawmap.cli import console
from flawmap.cli.options import (
    Batch,
    Bundle_,
    Category,
    Config,
    Data,
    Device,
    Layout,
    Overwrite,
    Precision,
    Runtime_,
    Set,
)
from flawmap.errors import ConfigError, DataError

if TYPE_CHECKING:
    from flawmap.bundle import Bundle
    from flawmap.measure.near_duplicates import Without
    from flawmap.measure.smallest import Smallest


@console.command("inspect", "the images inspected so far are in --out")
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

    rate = (
        None
        if false_discovery is None
        else console.parse_share(false_discovery, "--false-discovery", "of rejected parts")
    )
    found, hidden = console.images(images, out)
    if out is not None and (own := own_images(found, out)):
        found = [path for path in found if path not in own]
        console.say(f"left out {len(own)} images: the maps and overlays of an earlier run in {out}")
        if not found:
            raise DataError(f"no images besides what an earlier run left in {out}; give the images to inspect")
    inspector = load(bundle, device, runtime=runtime, precision=precision, say=console.remark)
    if inspector.bundle.threshold is None:
        console.say(
            f"{bundle} has no threshold, so there are scores but no verdicts; set one with: flawmap threshold {bundle}"
        )
    results = (
        inspect_files(inspector, found, batch)
        if out is None
        else inspect_to_folder(inspector, found, out, batch, overwrite)
    )
    if rate is not None:
        check_lot(inspector.good_scores, len(found), rate, console.say)
    failed: list[str] = []
    lot: dict[str, float] = {}
    counts = {True: 0, False: 0, None: 0}
    for result in results:
        if result.error:
            failed.append(str(result.image))
            console.say(f"failed              {result.error}")
            continue
        assert result.score is not None
        counts[result.defective] += 1
        if rate is not None and result.p_value is not None:
            lot[str(result.image)] = result.p_value
        word = {True: "defective", False: "good", None: "-"}[result.defective]
        console.say(f"{word:<9}  {result.score:.4f}  {len(result.regions):>2} regions  {result.image}")
    limit = inspector.bundle.threshold
    summary = f"{counts[True]} defective, {counts[False]} good" if limit else f"{counts[None]} scored"
    console.say(f"{summary}, {len(failed)} failed" + (f"; threshold {limit.score:.4f}" if limit else ""))
    if rate is not None:
        console.say(judge_lot(lot, rate, out))
    if out is not None:
        console.say(f"wrote {out / 'results.csv'}, results.jsonl, maps, overlays and report.html")
    if failed:
        named = ", ".join(failed[:3]) + (f" and {len(failed) - 3} more" if len(failed) > 3 else "")
        console.fail(f"{len(failed)} of {len(found)} images could not be inspected: {named}")
    console.refuse_passed_over(hidden)


@console.command("refine", "the bundle is as it was")
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
    bad, left = defective_photos(console.images(defects)[0] if defects else [], defects or [])
    if left:
        console.say(f"{left} images in --defects are masks, and left out")
    renewed, change = renew(opened, bundle, console.images(good)[0], bad, device)
    save_bundle(renewed, out, overwrite=overwrite)
    for line in change.lines():
        console.say(line)
    console.say_threshold(renewed.threshold)
    console.say(f"wrote {out}")


@console.command("suspects", "the images inspected so far are in --out")
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
    from flawmap.analysis.outliers import outliers
    from flawmap.bundle import load_bundle
    from flawmap.bundle_facts import NOTE
    from flawmap.data.layouts import refuse_no_folder

    if bundle.suffix.lower() != ".csv" and bundle.exists():
        refuse_no_folder(bundle, "a bundle or a folder of photos")
    if bundle.suffix.lower() == ".csv" or (bundle.is_dir() and not (bundle / NOTE).exists()):
        if data is not None or out is not None:
            raise ConfigError(f"{bundle} is no bundle, and without one there are no pictures; give the photos alone")
        listing = console.listing(bundle, layout, category)
        for photo in outliers(listing, top, config=config, settings=settings or (), device=device, say=console.say):
            console.say(f"{photo.score:7.1f}  {photo.image}")
        console.say("deviations from the other photos; what shows a defect, move away before training")
        console.refuse_passed_over(listing.passed_over, "hidden or of another suffix", "rename or move them")
        return
    if settings or category is not None or config != "fast" or layout != "auto":
        raise ConfigError("a bundle has its recipe and its photos; leave out --config, --set, --layout and --category")
    if (data is None) != (out is None):
        raise ConfigError("pictures need both the folder of the good photos and --out")
    opened = load_bundle(bundle)
    chosen = outliers(opened, top, name=str(bundle))
    limit = opened.threshold
    for suspect in chosen:
        word = "suspect" if limit is not None and suspect.score > limit.score else "-"
        word = "set aside" if suspect.set_aside else word
        console.say(f"{word:<9}  {suspect.score:.4f}  {suspect.image}")
    above = sum(limit is not None and suspect.score > limit.score for suspect in chosen)
    console.say(f"{above} of these are above the threshold; what shows a defect, move away and train again")
    if data is not None and out is not None:
        from flawmap.deploy.batch import inspect_to_folder
        from flawmap.deploy.inspector import Inspector
        from flawmap.deploy.suspects import find_photos

        photos = find_photos(chosen, data, console.say)
        found = list(inspect_to_folder(Inspector(opened, device), photos, out, 0, overwrite))
        failed = [result.error for result in found if result.error]
        if failed:
            console.fail(f"{len(failed)} of {len(found)} photos could not be inspected: {failed[0]}")
        console.say(f"wrote {out / 'report.html'}: scored with all photos known, so somewhat lower than here")


@console.command("evaluate", "nothing was written")
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
    from flawmap.deploy.batch import unless_refused
    from flawmap.deploy.evaluation import check_protocol, evaluate, files_without, prepare_beside, table
    from flawmap.deploy.inspector import load
    from flawmap.measure.near_duplicates import parse_near, usual_rule

    if near and not without:
        raise ConfigError(f"--near {near} says which training photos are left out; add --without-near-duplicates")
    if without and runtime != "torch":
        raise ConfigError("--without-near-duplicates is computed by PyTorch alone; leave out --runtime")
    rules = parse_near(near) if near else []
    check_protocol(protocol)
    listing = console.listing(data, layout, category)
    inspector = load(bundle, device, runtime=runtime, precision=precision, say=console.remark)
    ways: list[Without | None] = [None]
    if without:
        from flawmap.train.leave_out import LeaveOut

        good = [sample.image for sample in listing.train_good]
        test = [sample.image for sample in listing.test if sample.defective is not None]
        rules = rules or [usual_rule(test, good)]
        with unless_refused(out):
            if out is not None:
                prepare_beside(out, [name for rule in rules for name in files_without(rule)], overwrite)
            leave_out = LeaveOut(inspector.bundle, bundle, good)
            ways = [leave_out.without(rule, test) for rule in rules]
    for way in ways:
        evaluation = evaluate(inspector, listing, out, protocol=protocol, overwrite=overwrite, without=way)
        for line in table(evaluation):
            console.say(line)
        if way is None and (found := _smallest(inspector.bundle)):
            console.say(found)
        if evaluation.learnt_from:
            console.say(f"{evaluation.learnt_from} images were learnt from as real defects, and are left out")
        if out is not None:
            first, *more = ("metrics.json", "images.csv", "report.html") if way is None else files_without(way.near)
            console.say(f"wrote {out / first}, {' and '.join(more)}")


@console.command("check", "nothing was written")
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
    from flawmap.analysis.drift_check import drift_check
    from flawmap.analysis.opening import refuse_file
    from flawmap.bundle import load_bundle
    from flawmap.deploy.check import Checked, photos_of
    from flawmap.measure.photos import KINDS, MANY

    opened = load_bundle(bundle)
    good = photos_of(opened, bundle)
    if not images:
        console.say(f"{len(good.figures)} good photos:")
        for kind, values in zip(KINDS.values(), good.figures.T, strict=True):
            console.say(f"{kind.label:<34} {values.min():8.4f} to {values.max():8.4f}")
        return
    if out is not None:
        refuse_file(out, overwrite)

    def tell(photo: Checked) -> None:
        if photo.error:
            console.say(f"failed   {photo.error}")
        elif photo.odd:
            console.say(f"odd      {photo.image}: {'; '.join(map(str, photo.odd[:3]))}")

    found, hidden = console.images(images)
    checked = drift_check(opened, found, out, overwrite=overwrite, device=device, each=tell)
    failed, read = checked.failed, len(checked.photos) - len(checked.failed)
    if out is not None:
        console.say(f"wrote {out}")
    console.say(f"{len(checked.odd)} of {read} photos are odd by themselves, {len(failed)} failed")
    if checked.drift is None:
        console.say(f"fewer than {MANY} photos tell no drift")
    else:
        console.say(f"drift {checked.drift.figure:.1f}: {checked.drift.sentence(read)}")
    if failed:
        more = ", …" * (len(failed) > 1)
        console.fail(f"{len(failed)} of {len(checked.photos)} images could not be read: {failed[0].image}{more}")
    console.refuse_passed_over(hidden)
    if checked.drifted:
        raise typer.Exit(1)


def _smallest(bundle: Bundle) -> Smallest | None:
    """What a bundle knows of the smallest spot that is found at its threshold."""
    from flawmap.measure.smallest import smallest_of

    return smallest_of(bundle.provenance, None if bundle.threshold is None else bundle.threshold.score)
