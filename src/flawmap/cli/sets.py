"""Commands on data sets and recipes: benchmark, recipes, draw, masks, demo."""

from __future__ import annotations

from importlib import resources
from itertools import takewhile
from pathlib import Path
from typing import Annotated

import typer

from flawmap.cli import console
from flawmap.cli.options import Layout, Overwrite, Quiet, Set
from flawmap.errors import ConfigError


@console.command("benchmark", "go on with the same command; what is done is kept")
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
        console.say(note)
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
    console.say(f"{len(found)} categories, {len(numbers)} seeds each: {len(planned)} trainings into {folder}")
    with alone_in(folder):
        try:
            run_jobs(planned, jobs, quiet)
        finally:
            lines = write_tables(folder, planned, found, title_of(root, config, settings), jobs)
    for line in lines:
        console.say(line)
    console.say(f"wrote {folder / 'index.html'}, table.md, table.csv and results.json")
    failed = [job for job in planned if job.result() is None]
    if failed:
        console.fail(f"{len(failed)} of {len(planned)} failed, the first: {failed[0].name}: {failed[0].error()}")


@console.command("recipes", "nothing was written")
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
            console.say(f"{each:<12} {_first_sentence(each)}")
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
    console.say(f"wrote {out}")


@console.command("draw", "what was drawn so far remains")
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
    console.say(
        f"drew {train} good parts to learn from, {good} good and {bad} defective ones to test with, in {folder}"
    )


@console.command("masks", "nothing was written")
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
        console.remark(remark)
    marked = ", ".join(f"{name} {count}" for name, count in written.classes.items())
    console.say(f"wrote {len(written.masks)} masks to {out}; areas marked: {marked}")


@console.command("demo", "what is done so far remains")
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


def _first_sentence(recipe: str) -> str:
    """What a shipped recipe's first comment says of it."""
    lines = (resources.files("flawmap") / "recipes" / f"{recipe}.toml").read_text(encoding="utf-8").splitlines()
    comment = " ".join(line.removeprefix("#").strip() for line in takewhile(lambda line: line.startswith("#"), lines))
    return comment.partition(". ")[0].rstrip(".")
