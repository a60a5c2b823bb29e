from __future__ import annotations

import importlib
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import flawmap
from flawmap import errors
from flawmap.data.layouts import read_table
from flawmap.train.budget import planned
from flawmap.train.loop import load_state

SOURCE = str(Path(flawmap.__file__).parents[1])
EXCEPTIONS = [value for _, value in inspect.getmembers(errors, inspect.isclass) if issubclass(value, Exception)]


def python(program: str) -> str:
    """What a fresh interpreter prints."""
    program = f"import sys; sys.path.insert(0, {SOURCE!r}); {program}"
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.strip()


@pytest.mark.parametrize("error", EXCEPTIONS)
def test_every_exception_is_a_flawmap_error_and_is_exported(error: type[Exception]) -> None:
    assert issubclass(error, errors.FlawmapError)
    assert getattr(flawmap, error.__name__) is error
    assert error.__name__ in flawmap.__all__


def test_the_exception_tree_is_the_one_drawn_in_the_header() -> None:
    drawn = [line for line in (errors.__doc__ or "").splitlines() if "Error" in line and (line[0] in "F├│└")]
    depths = {line.lstrip("├│└─ ").split()[0]: len(line) - len(line.lstrip("├│└─ ")) for line in drawn}
    assert set(depths) == {error.__name__ for error in EXCEPTIONS}
    for error in EXCEPTIONS:
        parent = error.__mro__[1]
        if parent in EXCEPTIONS:
            assert depths[error.__name__] > depths[parent.__name__]


def test_an_image_error_can_be_caught_as_a_data_error() -> None:
    with pytest.raises(errors.DataError):
        raise errors.ImageError("part.png is cut short; copy it again")


@pytest.mark.parametrize("name", sorted(flawmap.__all__))
def test_every_exported_name_is_there_and_has_a_docstring(name: str) -> None:
    value = getattr(flawmap, name)
    if name != "__version__":
        assert inspect.getdoc(value)


def test_exported_names_are_listed_once_and_sorted() -> None:
    assert list(flawmap.__all__) == sorted(set(flawmap.__all__))
    assert dir(flawmap) == sorted(flawmap.__all__)


def test_a_name_that_is_not_exported_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="inspectt"):
        importlib.import_module("flawmap").inspectt  # noqa: B018


def test_importing_flawmap_imports_nothing_heavy() -> None:
    assert python("import flawmap; print({'torch', 'numpy', 'pydantic', 'cv2'} & set(sys.modules))") == "set()"


def test_help_imports_nothing_heavy() -> None:
    program = "import flawmap.cli; print({'torch', 'numpy', 'pydantic', 'cv2', 'rich'} & set(sys.modules))"
    assert python(program) == "set()"


def test_no_exported_name_is_hidden_by_a_package_of_that_name() -> None:
    packages = {path.name for path in Path(flawmap.__file__).parent.iterdir()}
    assert not packages & set(flawmap.__all__)


def test_a_message_names_a_file_that_cannot_be_read_once(tmp_path: Path) -> None:
    for name in ("table.csv", "plan.json", "state"):
        (tmp_path / name).mkdir()  # no file
    for read, name in (
        (lambda: read_table(tmp_path / "table.csv"), "table.csv"),
        (lambda: planned(tmp_path, None, True), "plan.json"),
        (lambda: load_state(tmp_path / "state"), "state"),
    ):
        with pytest.raises(errors.FlawmapError) as raised:
            read()
        assert str(raised.value).count(f"{tmp_path / name}") == 1, str(raised.value)
