"""Commands on a bundle: limits, repeat, explain, threshold, white, export."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flawmap.cli import console
from flawmap.cli.options import Bundle_, Category, Device, Layout, Overwrite, Precision, Runtime_
from flawmap.errors import BundleError, ConfigError


@console.command("limits", "nothing was written")
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
    from flawmap.analysis.detection_limits import detection_limits
    from flawmap.deploy.inspector import load
    from flawmap.deploy.limits import CONTRASTS, SIZES

    chosen = [console.number(part, "--sizes") for part in sizes.split(",")] if sizes else SIZES
    given, what = contrasts.split(",") if contrasts else [], "of the range from black to white"
    shares = [console.parse_share(part, "--contrasts", what) for part in given] or CONTRASTS
    paths, hidden = console.images(images)
    inspector = load(bundle, device, runtime=runtime, precision=precision, say=console.remark)
    found = detection_limits(
        inspector, paths, out, shape=shape, sizes=chosen, contrasts=shares, photos=photos, seed=seed,
        overwrite=overwrite, say=console.say, watch=console.watched,
    )  # fmt: skip
    console.say(found)
    console.say(f"wrote {out / 'index.html'}, limits.json and trials.csv")
    console.refuse_passed_over(hidden)


@console.command("repeat", "nothing was written")
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
    from flawmap.analysis.repeatability import repeatability
    from flawmap.deploy.inspector import load
    from flawmap.deploy.repeat import lines, passed_over

    if shots == 1:
        raise ConfigError("--shots 1: it takes two or more to repeat")
    if not 0 <= shift < 1000:
        raise ConfigError(f"--shift {shift:g}: expected pixels, from 0 on")
    light, grain = console.amount(exposure, "--exposure"), console.amount(noise, "--noise")
    inspector = load(bundle, device, runtime=runtime, precision=precision, say=console.remark)
    found = repeatability(
        inspector, folder, out, shots=shots, shift=shift, exposure=light, noise=grain, seed=seed,
        overwrite=overwrite, say=console.say, watch=console.watched,
    )  # fmt: skip
    for line in lines(found):
        console.say(line)
    console.say(f"wrote {out / 'index.html'}, repeat.json and parts.csv")
    if shots:
        console.refuse_passed_over(console.hidden(folder))
    else:
        console.refuse_passed_over(
            passed_over(folder)[1], "hidden or in no part's folder", "move them into their part's"
        )


@console.command("explain", "nothing was written")
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
    from flawmap.analysis.explain import explain

    file = out or Path(f"{image.stem}-explained.png")
    found = explain(bundle, image, file, overwrite=overwrite, device=device)
    console.say(f"{found.verdict}; " + "; ".join(f"{name} {value}" for name, value in found.facts.items()))
    console.say(f"wrote {file}")


@console.command("threshold", "the bundle is as it was")
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
    smallest: Annotated[
        str | None,
        typer.Option("--smallest", metavar="AREA", help="No place is smaller: 20 (pixels), 0.5mm (wide), 0.2mm2."),
    ] = None,
    mm_per_pixel: Annotated[
        float | None, typer.Option("--mm-per-pixel", min=0, help="What a pixel of a photo measures, for --smallest.")
    ] = None,
    layout: Layout = "auto",
    category: Category = None,
    device: Device = "auto",
) -> None:
    """Show or change where good ends and defective begins, and how small a place may be."""
    from flawmap.bundle import load_bundle, update_smallest, update_threshold
    from flawmap.deploy.evaluation import threshold_at, threshold_from_folder, threshold_given
    from flawmap.deploy.inspector import Inspector

    if value is not None and (overkill is not None or labelled is not None):
        raise ConfigError("--value stands alone; leave out --overkill and --from, or leave out --value")
    if mm_per_pixel is not None and smallest is None:
        raise ConfigError("--mm-per-pixel is for --smallest; give it too")
    target = None if overkill is None else console.parse_share(overkill)
    opened = load_bundle(bundle)
    changed = None
    if value is not None:
        changed = threshold_given(opened, value)
    elif labelled is not None:
        changed = threshold_from_folder(Inspector(opened, device), console.listing(labelled, layout, category), target)
    elif target is not None:
        changed = threshold_at(opened, target)
    elif smallest is None:
        if opened.threshold is None:
            raise BundleError(f"{bundle} has no threshold; set one with --overkill, --value or --from")
        console.say_threshold(opened.threshold)
        console.say(f"places smaller than {opened.smallest} pixels are left out")
    if smallest is not None:
        update_smallest(bundle, smallest, mm_per_pixel)
        console.say(f"places smaller than {load_bundle(bundle).smallest} pixels are left out; verdicts do not change")
    if changed is not None:
        update_threshold(bundle, changed)
        console.say_threshold(changed)


@console.command("white", "the bundle is as it was")
def white_command(
    bundle: Bundle_,
    level: Annotated[
        int | None,
        typer.Argument(metavar="LEVEL", min=255, max=65535, help="As 1023, 4095, 16383 or 65535; none: show it."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="Write a copy, as models/part@2.bundle, and leave BUNDLE as it is.")
    ] = None,
    overwrite: Overwrite = False,
) -> None:
    """Show or change the pixel value that is full white in new photos with 16 bits.

    A station that runs goes on with the bundles it has loaded: write a new version with --out, and use that.
    """
    from flawmap.bundle import copy_with_white, load_bundle, update_white

    if out is not None and level is None:
        raise ConfigError("--out needs a LEVEL; say which, as 4095 for 12 bits")
    if out is not None and level is not None:
        copy_with_white(bundle, level, out, overwrite)
        bundle = out
    elif level is not None:
        update_white(bundle, level)
        console.remark("a station that has loaded this bundle goes on as before; for it write a new version with --out")
    white = load_bundle(bundle).white
    console.say(f"photos with 16 bits are read with {white.level} as full white; photos with 8 bits are not affected")


@console.command("export", "nothing was written")
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
        bundle, to, out, int8=int8, bfloat16=bfloat16, dynamic_batch=dynamic_batch, images=images,
        overwrite=overwrite, say=console.say,
    )  # fmt: skip
    console.say(made.check)
    if made.about["threshold"] is None:
        console.say(f"{bundle} has no threshold, so the artefact gives scores but no verdicts")
    console.say(f"wrote {made.file if to == 'onnx' else made.file.parent}")
    if images is not None:
        console.refuse_passed_over(console.hidden(images))
