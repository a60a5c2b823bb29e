from __future__ import annotations

import runpy
from pathlib import Path

import pytest
from pydantic import ValidationError

from flawmap.config import (
    PlaceSettings,
    Recipe,
    dump_recipe,
    load_recipe,
    recipe_from_text,
    shipped_recipes,
    smallest_area,
)
from flawmap.errors import ConfigError
from flawmap.station.settings import load_settings

DOCS = Path(__file__).parents[1] / "docs"
SETTINGS = [(section, name) for section, field in Recipe.model_fields.items() for name in field.annotation.model_fields]


def one_line(raised: pytest.ExceptionInfo[ConfigError]) -> str:
    message = str(raised.value)
    assert message
    assert "\n" not in message
    return message


@pytest.mark.parametrize(("section", "name"), SETTINGS, ids=[".".join(each) for each in SETTINGS])
def test_every_setting_is_documented(section: str, name: str) -> None:
    entry = Recipe.model_fields[section].annotation.model_fields[name]
    assert entry.description and len(entry.description) > 8
    page = (DOCS / "settings.md").read_text(encoding="utf-8")
    assert f"| `{name}` |" in page.partition(f"## [{section}]")[2].partition("## [")[0]


def test_settings_page_is_current() -> None:
    generated = runpy.run_path(str(DOCS / "generate_settings.py"))["page"]()
    assert (DOCS / "settings.md").read_text(encoding="utf-8") == generated, "run: python docs/generate_settings.py"


@pytest.mark.parametrize("name", shipped_recipes())
def test_shipped_recipes_load_by_name_and_by_file_name(name: str) -> None:
    assert load_recipe(name) == load_recipe(f"{name}.toml")


def test_paper_recipe_is_the_defaults_in_full_precision() -> None:
    paper, defaults = load_recipe("paper"), Recipe()
    assert paper.run.precision == "float32"
    assert paper.model_copy(update={"run": defaults.run}) == defaults


@pytest.mark.parametrize("name", shipped_recipes())
def test_written_recipe_reads_back_equal(name: str) -> None:
    recipe = load_recipe(name, ["run.seed=7", "detect.rate=3.3e-5", "run.device=cuda:1"])
    assert recipe_from_text(dump_recipe(recipe)) == recipe


def test_written_recipe_names_every_setting() -> None:
    text = dump_recipe(Recipe())
    assert all(f"\n{name} = " in text for _, name in SETTINGS)


def test_set_changes_one_setting_and_nothing_else() -> None:
    changed = load_recipe(None, ["detect.steps=500"])
    assert changed.detect.steps == 500
    assert changed.detect.model_copy(update={"steps": Recipe().detect.steps}) == Recipe().detect
    assert changed.model_copy(update={"detect": Recipe().detect}) == Recipe()


def test_set_takes_words_lists_and_the_last_value() -> None:
    recipe = load_recipe(
        None, ["image.shrink=area", "model.restriction_widths=[8, 16, 32]", "run.seed=1", "run.seed=2"]
    )
    assert recipe.image.shrink == "area"
    assert recipe.model.restriction_widths == (8, 16, 32)
    assert recipe.run.seed == 2


def test_set_wins_over_the_file(tmp_path: Path) -> None:
    file = tmp_path / "mein Rezept ü.toml"
    file.write_text("[detect]\nsteps = 10\nbatch = 3\n", encoding="utf-8")
    recipe = load_recipe(file, ["detect.steps=20"])
    assert (recipe.detect.steps, recipe.detect.batch) == (20, 3)


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("detect.stesp=5", "there is no setting detect.stesp"),
        ("detekt.steps=5", "there is no setting detekt"),
        ("steps=5", "expected section.name=value"),
        ("detect.steps", "expected section.name=value"),
        ("detect.steps=0", "detect.steps"),
        ("detect.steps=many", "detect.steps"),
        ("image.height=100", "image.height"),
        ("image.shrink=cubic", "image.shrink"),
        ("anomalies.strength_min=0.01", "strength_min"),
        ("model.restriction_widths=[8, 16]", "model.restriction_widths"),
        ("model.score_side=20", "score_side must be odd"),
        ("model.detection_fold=true", "detection_fold needs"),
    ],
)
def test_a_wrong_setting_gives_one_line_that_names_it(override: str, said: str) -> None:
    with pytest.raises(ConfigError) as raised:
        load_recipe(None, [override])
    assert said in one_line(raised)


def test_an_unknown_recipe_gives_one_line_that_lists_the_shipped_ones() -> None:
    with pytest.raises(ConfigError) as raised:
        load_recipe("quick")
    assert "quick" in one_line(raised)
    assert all(name in str(raised.value) for name in shipped_recipes())


def test_broken_toml_gives_one_line_that_names_the_file(tmp_path: Path) -> None:
    file = tmp_path / "broken.toml"
    file.write_text("[detect\nsteps = 3", encoding="utf-8")
    with pytest.raises(ConfigError) as raised:
        load_recipe(file)
    assert "broken.toml" in one_line(raised)


@pytest.mark.parametrize(("value", "told"), [("9" * 5000, "4300 digits"), ("[" * 5000 + "]" * 5000, "nested too")])
def test_toml_that_python_cannot_hold_gives_one_line(value: str, told: str, tmp_path: Path) -> None:
    file = tmp_path / "part.toml"
    file.write_text(f"[run]\nseed = {value}\n")
    for load in (load_recipe, load_settings):
        with pytest.raises(ConfigError, match=rf"part\.toml is not valid TOML: .*{told}") as caught:
            load(file)
        assert "\n" not in str(caught.value)
    with pytest.raises(ConfigError, match=r"run\.seed"):
        load_recipe("fast", [f"run.seed={value}"])


def test_a_recipe_of_a_name_longer_than_files_have_gives_one_line() -> None:
    with pytest.raises(ConfigError, match="no recipe xxx"):
        load_recipe("x" * 5000)


def test_a_recipe_that_is_no_text_gives_one_line_that_names_the_file(tmp_path: Path) -> None:
    file = tmp_path / "weights.toml"
    file.write_bytes(b"\xff\xfe\x00\x81")
    with pytest.raises(ConfigError) as raised:
        load_recipe(file)
    assert "weights.toml" in one_line(raised)


def test_a_recipe_cannot_be_changed_in_place() -> None:
    with pytest.raises(ValidationError):
        Recipe().run.seed = 3  # type: ignore[misc]


@pytest.mark.parametrize(
    ("value", "scale", "pixels"),
    [
        (20, 0, 20),
        (4.0, 0, 4),
        (0, 0, 1),
        ("20", 0, 20),
        ("20 px", 0, 20),
        ("20px", 0.05, 20),
        ("2.5 pixels", 0, 3),
        ("0.5 mm", 0.05, 79),
        ("0,5 mm", 0.05, 79),
        ("0.2 mm2", 0.05, 80),
        ("0.2 mm²", 0.05, 80),
        ("0.2MM2", 0.1, 20),
        ("1 mm", 10, 1),
    ],
)
def test_a_smallest_area_is_told_in_pixels_or_millimetres(value: float | str, scale: float, pixels: int) -> None:
    assert smallest_area(value, scale) == pixels
    assert PlaceSettings(smallest=value, mm_per_pixel=scale).pixels == pixels


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ('verdict.smallest="0.5 mm"', "needs mm_per_pixel"),
        ("verdict.smallest=-1", "no smallest area"),
        ("verdict.smallest=true", "a smallest area is 20, 20 px"),
        ('verdict.smallest="5 inch"', "no smallest area"),
        ("verdict.smallest=nan", "no smallest area"),
        ("verdict.smallest=1e12", "more than any photo has"),
        ("verdict.mm_per_pixel=-1", "mm_per_pixel"),
    ],
)
def test_what_is_no_smallest_area_gives_one_line(override: str, said: str) -> None:
    from flawmap.station.settings import load_settings

    for load in (load_recipe, load_settings):
        with pytest.raises(ConfigError, match=said) as raised:
            load(None, [override])
        assert "\n" not in str(raised.value)
