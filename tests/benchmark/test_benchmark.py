from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner, Result

from flawmap import cli
from flawmap.benchmark import published
from flawmap.benchmark.plan import ERROR, Job, parse_seeds
from flawmap.benchmark.tables import ALL, ASKED, MEASURED, Cell, asked_known, markdown, summarise, table_csv, text_of
from flawmap.bundle import save_general
from flawmap.config import load_recipe
from flawmap.data.categories import find_categories
from flawmap.data.surfaces import write_sample_parts
from flawmap.errors import ConfigError, LayoutError
from flawmap.model.discrete import DiscreteModel

TINY = Path(__file__).parents[1] / "tiny.toml"


def run(*arguments: object) -> Result:
    result = CliRunner().invoke(cli.app, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def draw(folder: Path, *, train: int = 6) -> None:
    write_sample_parts(folder, "brushed-metal", 64, train, 3, 3, 0)


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two categories, and a folder that is none."""
    root = tmp_path_factory.mktemp("two")
    draw(root / "plates")
    draw(root / "tubes", train=7)
    draw(root / "untestable")
    shutil.rmtree(root / "untestable" / "test" / "good")
    return root


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> list[object]:
    """The options for the smallest networks there are."""
    sizes = load_recipe(TINY).model
    with torch.random.fork_rng():
        torch.manual_seed(0)
        general = DiscreteModel(sizes.codes, sizes.code_length, sizes.discrete_width, sizes.discrete_hidden)
    file = tmp_path_factory.mktemp("general") / "tiny.safetensors"
    save_general(general, file)
    return ["--recipe", TINY, "--general", file]


@pytest.fixture(scope="module")
def finished(two: Path, tiny: list[object], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Result]:
    out = tmp_path_factory.mktemp("benchmark") / "out"
    return out, run("benchmark", two, *tiny, "--seeds", "0,3", "--out", out, "--jobs", 2, "--quiet")


def test_every_category_is_trained_and_measured_with_every_seed(finished: tuple[Path, Result]) -> None:
    out, result = finished
    assert result.exit_code == 0, result.output
    assert "untestable is left out: no good images to test on" in result.stdout
    jobs = json.loads((out / "results.json").read_text())["jobs"]
    assert [(job["category"], job["seed"]) for job in jobs] == [
        ("plates", 0),
        ("plates", 3),
        ("tubes", 0),
        ("tubes", 3),
    ]
    assert [job["trained_on"] for job in jobs] == [4, 4, 5, 5]  # two are held out
    for job in jobs:
        stored = json.loads((out / job["category"] / f"seed{job['seed']}" / "evaluation" / "metrics.json").read_text())
        assert job["metrics"] == stored
        assert job["ms_an_image"] > 0
        assert job["minutes"] > 0
    seeds = {(out / "plates" / f"seed{seed}" / "part.bundle" / "recipe.toml").read_text() for seed in (0, 3)}
    assert len(seeds) == 2


def test_the_tables_hold_what_the_jobs_found(finished: tuple[Path, Result]) -> None:
    out, result = finished
    document = json.loads((out / "results.json").read_text())
    found = [job["metrics"]["image_auroc"]["value"] for job in document["jobs"]]
    with (out / "table.csv").open() as file:
        rows = {row["category"]: row for row in csv.DictReader(file)}
    assert float(rows["plates"]["image_auroc"]) == pytest.approx((found[0] + found[1]) / 2)
    assert float(rows["tubes"]["image_auroc_spread"]) == pytest.approx(abs(found[2] - found[3]) / 2**0.5)
    assert float(rows["mean"]["image_auroc"]) == pytest.approx(sum(found) / 4)
    five = [job["metrics"]["escape_at"]["0.05"]["overkill"] for job in document["jobs"]]
    assert float(rows["mean"]["overkill_at_0.05"]) == pytest.approx(sum(five) / 4)
    table = (out / "table.md").read_text()
    first = [line.split("|")[1].strip() for line in table.splitlines() if line.startswith("|")]
    assert first == ["category", "---", "plates", "tubes", "mean"] * 2  # the second is of thresholds by good photos
    assert "over 2 seeds" in table
    assert [line.split()[0] for line in result.stdout.splitlines()[-4:-1]] == ["plates", "tubes", "mean"]


def test_the_page_is_whole_and_shows_the_extremes(finished: tuple[Path, Result]) -> None:
    out, _ = finished
    page = (out / "index.html").read_text()
    assert page.count("data:image/jpeg") == 2 * 3 * 2  # categories, parts, pictures
    for words in ("Defect found best", "Defect that scores lowest", "Good part that scores highest"):
        assert page.count(words) == 2
    assert page.count("<th>category</th>") == 2
    assert "http" not in page.replace("http://www.w3.org", "")
    assert 'href="plates/seed0/evaluation/report.html"' in page
    assert (out / "plates" / "seed0" / "evaluation" / "report.html").exists()
    with (out / "plates" / "seed0" / "evaluation" / "images.csv").open() as file:
        rows = list(csv.DictReader(file))
    worst = min((row for row in rows if row["label"] == "defective"), key=lambda row: float(row["score"]))
    kept = json.loads((out / "plates" / "seed0" / "result.json").read_text())["extremes"]["worst-missed"]
    assert kept["image"] == worst["image"]
    assert kept["score"] == float(worst["score"])


def test_what_is_done_is_not_run_again_and_more_can_be_added(
    finished: tuple[Path, Result], two: Path, tiny: list[object]
) -> None:
    out, _ = finished
    kept = {file: file.stat().st_mtime_ns for file in out.glob("*/*/result.json")}
    assert len(kept) == 4
    result = run("benchmark", two, *tiny, "--seeds", "0", "--categories", "tubes", "--out", out, "--quiet")
    assert result.exit_code == 0
    assert {file: file.stat().st_mtime_ns for file in out.glob("*/*/result.json")} == kept


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--set", "detect.steps=3"], "holds a benchmark of another recipe, layout, protocol or general model"),
        (["--protocol", "authors"], "holds a benchmark of another recipe, layout, protocol or general model"),
        (["--protocol", "wrong"], "no protocol wrong; there are: full, network, authors"),
        (["--categories", "plates,pipes"], "no category pipes in"),
        (["--seeds", "0,x"], "--seeds 0,x: expected numbers from 0 on"),
        (["--seeds", "-1"], "--seeds -1: expected numbers from 0 on"),
        (["--set", "run.seed=4"], "sets run.seed and run.threads by --seeds and --jobs"),
    ],
)
def test_another_benchmark_is_refused_in_one_line(
    finished: tuple[Path, Result], two: Path, tiny: list[object], arguments: list[str], message: str
) -> None:
    out, _ = finished
    result = run("benchmark", two, *tiny, "--out", out, *arguments)
    assert result.exit_code == 2
    assert len(result.stderr.splitlines()) == 1
    assert message in result.stderr


def test_a_benchmark_measured_at_the_networks_size_by_an_earlier_version_is_not_gone_on_with(
    finished: tuple[Path, Result], two: Path, tiny: list[object]
) -> None:
    plan = finished[0] / "plan.json"
    kept = plan.read_text(encoding="utf-8")
    shared = json.loads(kept)
    assert shared.pop("map_size") == "photo"
    try:
        plan.write_text(json.dumps(shared) + "\n", encoding="utf-8")
        result = run("benchmark", two, *tiny, "--out", finished[0])
        assert result.exit_code == 2 and "holds a benchmark of another recipe, layout, protocol" in result.stderr
    finally:
        plan.write_text(kept, encoding="utf-8")


def test_a_folder_of_something_else_is_left_alone(two: Path, tiny: list[object], tmp_path: Path) -> None:
    (tmp_path / "letter.txt").write_text("mine")
    result = run("benchmark", two, *tiny, "--out", tmp_path)
    assert result.exit_code == 2
    assert "holds no benchmark" in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["letter.txt"]


def test_a_benchmark_inside_its_data_is_refused(two: Path, tiny: list[object]) -> None:
    result = run("benchmark", two / "plates", *tiny, "--out", two / "plates" / "test" / "out")
    assert result.exit_code == 2
    assert "lies inside the data" in result.stderr
    assert not (two / "plates" / "test" / "out").exists()


def test_two_benchmarks_in_one_folder_are_refused(finished: tuple[Path, Result], two: Path, tiny: list[object]) -> None:
    from flawmap.benchmark.run import alone_in

    out, _ = finished
    with alone_in(out):
        result = run("benchmark", two, *tiny, "--seeds", "0,3", "--out", out, "--quiet")
    assert result.exit_code == 2
    assert "another benchmark is at work" in result.stderr


def test_a_failure_does_not_stop_the_rest_and_is_tried_again(tiny: list[object], tmp_path: Path) -> None:
    root, out = tmp_path / "root", tmp_path / "out"
    for name in ("a", "b"):
        draw(root / name)
    broken = root / "a" / "train" / "good" / "001.png"
    whole = broken.read_bytes()
    broken.write_bytes(whole[: len(whole) // 2])
    result = run("benchmark", root, *tiny, "--out", out, "--quiet")
    assert result.exit_code == 2
    assert "1 of 2 failed, the first: a, seed 0: " in result.stderr
    assert "001.png" in result.stderr
    assert "Traceback" not in result.output
    table = (out / "table.md").read_text()
    assert "| a (1 failed) | – |" in table
    assert "001.png" in (out / "index.html").read_text()
    assert (out / "b" / "seed0" / "result.json").exists()
    broken.write_bytes(whole)
    again = run("benchmark", root, *tiny, "--out", out, "--quiet")
    assert again.exit_code == 0, again.output
    assert not (out / "a" / "seed0" / "error.txt").exists()


def test_a_killed_benchmark_goes_on(tiny: list[object], tmp_path: Path) -> None:
    root, out = tmp_path / "root", tmp_path / "out"
    for name in ("a", "b"):
        draw(root / name)
    settings = ["--set", "detect.steps=120", "--set", "run.checkpoint_seconds=0"]
    command = ["benchmark", str(root), *map(str, tiny), *settings, "--out", str(out), "--quiet"]
    process = subprocess.Popen([sys.executable, "-m", "flawmap", *command])
    log = out / "a" / "seed0" / "part.bundle.run" / "metrics.jsonl"
    for _ in range(600):
        if log.exists() and len(log.read_text().splitlines()) > 1:
            break
        time.sleep(0.1)
    else:
        pytest.fail("the first training does not begin")
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    time.sleep(3)  # the job sees that it is alone, and ends
    steps = len(log.read_text().splitlines())
    time.sleep(1)
    assert len(log.read_text().splitlines()) == steps
    result = run(*command)
    assert result.exit_code == 0, result.output
    provenance = json.loads((out / "a" / "seed0" / "part.bundle" / "bundle.json").read_text())["provenance"]
    assert provenance["resumed"]
    assert not json.loads((out / "b" / "seed0" / "part.bundle" / "bundle.json").read_text())["provenance"]["resumed"]
    alone = run(*command[:-3], "--out", str(tmp_path / "alone"), "--quiet", "--categories", "a")
    assert alone.exit_code == 0, alone.output
    one, other = (
        (folder / "a" / "seed0" / "part.bundle" / "weights.safetensors").read_bytes()
        for folder in (out, tmp_path / "alone")
    )
    assert one == other


def test_what_ctrl_c_kept_from_running_is_not_run_and_not_failed(tiny: list[object], tmp_path: Path) -> None:
    root, out = tmp_path / "root", tmp_path / "out"
    for name in ("a", "b"):
        draw(root / name)
    command = ["benchmark", root, *tiny, "--set", "detect.steps=100000", "--out", out]
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "flawmap", *map(str, command)], stdout=log, stderr=log, start_new_session=True
        )
    began = out / "a" / "seed0" / "part.bundle.run" / "metrics.jsonl"
    for _ in range(1200):
        if began.exists():
            break
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to every process
    assert process.wait(60) == cli.EXIT_INTERRUPTED
    said = (tmp_path / "log").read_text() + (out / "table.md").read_text() + (out / "index.html").read_text()
    assert "(1 not run)" in (out / "table.md").read_text() and "failed" not in said and "stopped" in said
    assert not list(out.rglob("error.txt"))
    rows = json.loads((out / "results.json").read_text())["rows"]
    assert [(row["failed"], row["not_run"]) for row in rows] == [(0, 1), (0, 1), (0, 2)]


def test_categories_are_found_below_a_folder_or_are_the_folder(two: Path, tmp_path: Path) -> None:
    found, notes = find_categories(two)
    assert list(found) == ["plates", "tubes"]
    assert len(notes) == 1
    alone, none = find_categories(two / "plates")
    assert list(alone) == ["plates"]
    assert none == []
    with pytest.raises(LayoutError, match="no good images to test on"):
        find_categories(two / "untestable")
    with pytest.raises(LayoutError, match="no such folder"):
        find_categories(tmp_path / "nowhere")


def result_of(auroc: float | None, minutes: float) -> dict[str, object]:
    metrics: dict[str, dict[str, object]] = {name: {"value": auroc} for name in MEASURED}
    metrics["escape_at"] = {
        "0.01": {"escape": 0.75, "overkill": 0.0, "threshold": 0.9, "supported": False},
        "0.02": {"escape": 0.5, "overkill": 0.125, "threshold": 0.8, "supported": False},
        "0.05": {"escape": None, "overkill": 0.25, "threshold": 0.7, "supported": True},
    }
    return {
        "metrics": metrics,
        "escape_at_overkill": 0.5,
        "ms_an_image": 20.0,
        "minutes": minutes,
        "peak_memory_mb": 900,
    }


def jobs_of(folder: Path, results: dict[tuple[str, int], dict[str, object] | None]) -> list[Job]:
    jobs = []
    for (category, seed), result in results.items():
        job = Job(category, seed, folder / category / str(seed))
        job.folder.mkdir(parents=True)
        if result is not None:
            (job.folder / "result.json").write_text(json.dumps(result))
        jobs.append(job)
    return jobs


def test_the_mean_spreads_as_the_mean_of_all_categories_does(tmp_path: Path) -> None:
    """Two categories that vary against each other have a steady mean."""
    jobs = jobs_of(
        tmp_path,
        {
            ("a", 0): result_of(0.9, 1), ("a", 1): result_of(0.8, 1),
            ("b", 0): result_of(0.6, 3), ("b", 1): result_of(0.7, 5),
        },
    )  # fmt: skip
    a, b, mean = summarise(jobs)
    assert text_of("image_auroc", a.cells["image_auroc"]) == "0.850 ± 0.071"
    assert text_of("image_auroc", mean.cells["image_auroc"]) == "0.750 ± 0.000"
    assert mean.cells["minutes"] == Cell(2.5, pytest.approx(0.7071, abs=1e-4), 2)
    assert b.cells["minutes"] is not None
    assert b.cells["minutes"].mean == 4


def test_what_is_missing_is_a_dash_and_counted(tmp_path: Path) -> None:
    jobs = jobs_of(tmp_path, {("a", 0): result_of(None, 1), ("b", 0): None, ("c", 0): result_of(0.5, 2)})
    rows = summarise(jobs)
    assert [(row.failed, row.not_run) for row in rows] == [(0, 0), (0, 1), (0, 0), (0, 1)]
    assert rows[0].cells["image_auroc"] is None
    assert rows[3].cells["image_auroc"] == Cell(0.5, None, 1)
    lines = markdown(rows).splitlines()
    assert len({line.count("|") for line in lines}) == 1
    assert "| b (1 not run) | – |" in lines[3]
    line = table_csv(rows).splitlines()[2]
    assert line.startswith('"b","","","0"') and line.endswith(',"0","1"')
    (jobs[1].folder / ERROR).write_text("a photo is damaged\n")
    assert [(row.failed, row.not_run) for row in summarise(jobs)] == [(0, 0), (1, 0), (0, 0), (1, 0)]


def test_a_column_for_every_figure(tmp_path: Path) -> None:
    (row,) = summarise(jobs_of(tmp_path, {("a", 0): result_of(0.5, 1)}))
    assert [name for name in ALL if row.cells[name] is None] == ["escape_at_0.05"]


def test_escape_where_good_photos_set_the_threshold_has_a_table_of_its_own(tmp_path: Path) -> None:
    rows = summarise(jobs_of(tmp_path, {("a", 0): result_of(0.5, 1)}))
    head, _, line = markdown(rows, ASKED).splitlines()
    assert head.startswith("| category | escape at 1 % asked | overkill at 1 % asked | escape at 2 % asked |")
    assert line == "| a | 0.750 | 0.000 | 0.500 | 0.125 | – | 0.250 |"


def test_results_of_an_earlier_flawmap_are_read(tmp_path: Path) -> None:
    result = result_of(0.5, 1)
    metrics = result["metrics"]
    assert isinstance(metrics, dict)
    del metrics["seg_f1"], metrics["escape_at"]
    rows = summarise(jobs_of(tmp_path, {("a", 0): result}))
    assert rows[0].cells["seg_f1"] is None
    assert rows[0].cells["pixel_ap"] == Cell(0.5, None, 1)
    assert not asked_known(rows)


def test_seeds_are_read_each_once() -> None:
    assert parse_seeds("3,0,3") == [3, 0]
    with pytest.raises(ConfigError):
        parse_seeds("")


def test_every_published_figure_has_a_source() -> None:
    names = {"MVTec AD", "VisA", "KolektorSDD", "KolektorSDD2", "Magnetic Tile", "BTAD"}
    rows = [row for name in names for row in published.published(name)]
    assert len(rows) > 10
    for row in rows:
        assert row.source
        assert row.url.startswith("http")
        assert row.by
        assert row.figures
        assert all(0 < value <= 1 for value in row.figures.values())
    dsr = {row.category: row for row in published.published("MVTec AD") if row.method == "DSR" and row.by == "authors"}
    assert dsr["mean"].figures["image_auroc"] == 0.982
    assert dsr["mean"].figures["pixel_ap"] == 0.702


def test_the_data_set_is_known_by_its_categories(two: Path, tmp_path: Path) -> None:
    found, _ = find_categories(two)
    assert published.data_set_of(found) == ""
    outside = tmp_path / "table" / "parts.csv"
    outside.parent.mkdir()
    rows = ["image,split,label,mask"]
    for number, path in enumerate(sorted((two / "plates").glob("t*/good/*.png"))):
        rows.append(f"{path},{'test' if number > 5 else 'train'},{'scratch' if number == 8 else 'good'},")
    outside.write_text("\n".join(rows) + "\n")
    assert published.data_set_of(find_categories(outside)[0]) == ""
    draw(tmp_path / "carpet")
    draw(tmp_path / "wood")
    assert published.data_set_of(find_categories(tmp_path)[0]) == "MVTec AD"
    table = published.markdown(published.published("MVTec AD"))
    assert len({line.count("|") for line in table.splitlines()}) == 1
