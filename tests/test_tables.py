from __future__ import annotations

import csv
import io
import os
from pathlib import Path

import pytest
from typer.testing import CliRunner

from flawmap import cli
from flawmap.tables import (
    PLAIN,
    VARIABLE,
    Figure,
    Style,
    TableWriter,
    as_it_was,
    harmless,
    line_of,
    read_rows,
    style_of,
)

FORMULAS = ["=1+1", "@x", "+1", "-x", "\tx", "\r=x", "\n=x", " =1", "＝1", "'=1", "-0.5.1", "-1+cmd|' /C calc'!A0"]
GERMAN = Style(";", True, True)


@pytest.mark.parametrize("style", [PLAIN, GERMAN])
def test_what_a_spreadsheet_would_run_gets_an_apostrophe_and_is_read_as_it_was(style: Style) -> None:
    for text in FORMULAS:
        assert harmless(text, style) == f"'{text}"
        assert as_it_was(harmless(text, style), style) == text


def test_numbers_and_other_texts_stay_as_they_are() -> None:
    for value, text in (
        (-0.5, "-0.5"), ("-0.5", "-0.5"), ("-1e-07", "-1e-07"), (3, "3"), (True, "True"), (None, ""), ("part", "part"),
        ("it's", "it's"), ("'quoted'", "'quoted'"), ("2026-11-26T06:00Z", "2026-11-26T06:00Z"),
    ):  # fmt: skip
        assert harmless(value) == text
        assert as_it_was(text) == text
    assert [harmless(value, GERMAN) for value in (-0.5, Figure("1.5"), "1.5", 2)] == ["-0,5", "1,5", "1.5", "2"]


@pytest.mark.parametrize(
    ("language", "style"),
    [
        (None, PLAIN), ("", PLAIN), ("*", PLAIN),
        ("de", GERMAN), ("de-DE,de;q=0.9,en;q=0.8", GERMAN), ("de_AT", GERMAN),
        ("fr", GERMAN), ("en-GB,de", Style(",", False, True)), ("de-CH", Style(";", False, True)),
        ("ja", Style(",", False, True)),
    ],
)  # fmt: skip
def test_a_table_is_as_the_spreadsheet_of_a_language_takes_it(language: str | None, style: Style) -> None:
    assert style_of(language) == style


@pytest.mark.parametrize("language", ["", "de", "en"])
def test_every_cell_is_quoted_and_a_table_is_read_as_it_was(
    language: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, language)
    rows = [["=1.png", 0.25, None], ['a;b,c\n"d".png', -1e-07, 3], ["ü.png", 1.0, "x"]]
    file = tmp_path / "table.csv"
    with file.open("w", encoding="utf-8", newline="") as stream:
        writer = TableWriter(stream)
        writer.writerow(["image", "score", "more"])
        for row in rows:
            writer.writerow(row)
    data = file.read_bytes()
    assert data.startswith(b"\xef\xbb\xbf") == bool(language)
    assert (b'"=1' in data, b'"\'=1.png"' in data) == (False, True)
    assert (b'"0,25"' in data) == (language == "de")
    found = read_rows(file)
    assert [row["image"] for row in found] == [row[0] for row in rows]
    assert [float(row["score"]) for row in found] == [row[1] for row in rows]


def test_without_a_language_a_table_is_what_programs_read() -> None:
    assert line_of(["a", 0.5, None, 3, "b,c"]) == '"a","0.5","","3","b,c"\r\n'
    assert next(csv.reader(io.StringIO(line_of(["a", 0.5])))) == ["a", "0.5"]


def test_a_command_takes_the_language_of_its_tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    result = CliRunner().invoke(cli.app, ["--table-language", "de", "recipes"])
    chosen = os.environ.pop(VARIABLE, None)
    assert (result.exit_code, chosen) == (0, "de")
