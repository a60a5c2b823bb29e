"""Tables as csv, for programs and for spreadsheets: one way to write every one of them, and to read it again.

A spreadsheet runs a cell that begins with `=`, `+`, `-` or `@`, also behind a tab or a carriage return (OWASP, CSV
injection), and names of files and what cameras send as labels are not ours: such a text gets an apostrophe before it.
Numbers stay numbers. Every cell is quoted.

A spreadsheet of a language with decimal commas, as German Excel, splits at semicolons, reads a point as a date's, and
takes a file without a byte-order mark for another encoding. So a table may be asked for in a language: by the option
`--table-language` or FLAWMAP_TABLES of commands, by `?language=` or a browser's Accept-Language of a station. Without
one it is what programs read: commas, points, UTF-8 without a mark.
"""

from __future__ import annotations

import csv
import io
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple

VARIABLE = "FLAWMAP_TABLES"
MARK = "\ufeff"
FORMULA = re.compile(r"'*[\s\0]*[=+\-@\t\r\n＝＋－＠]")  # the last ones are full-width: Excel takes them for the others
NUMBER = re.compile(r"-?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?")
WITH_COMMA = re.compile(r"-?\d+,\d+([eE][+-]?\d+)?")
# Languages whose decimal sign is a comma, by ISO 639-1 (Unicode CLDR, numbers/symbols/decimal).
COMMAS = {
    *("bg", "ca", "cs", "da", "de", "el", "es", "et", "eu", "fi", "fr", "gl", "hr", "hu", "id", "is", "it", "lt", "lv"),
    *("mk", "nb", "nl", "nn", "no", "pl", "pt", "ro", "ru", "sk", "sl", "sr", "sv", "tr", "uk", "vi"),
}
POINTS = {"de-ch", "de-li", "es-mx", "es-us"}  # of these, regions that write a point


class Style(NamedTuple):
    """How a table is written. separator: between cells; comma: in numbers, instead of a point; mark: at the start."""

    separator: str = ","
    comma: bool = False
    mark: bool = False


PLAIN = Style()


class Figure(str):
    """A number as a text of its own making, so that it gets a decimal comma where a float would."""

    __slots__ = ()


def style_of(language: str | None) -> Style:
    """The style for a language's spreadsheet, `de`, `de-AT`, or a whole Accept-Language; None, "" or `*`: PLAIN."""
    tag = (language or "").partition(",")[0].partition(";")[0].strip().lower().replace("_", "-")
    if not tag[:1].isalpha():
        return PLAIN
    comma = tag.partition("-")[0] in COMMAS and tag not in POINTS
    return Style(";" if comma or tag in POINTS else ",", comma, True)


def chosen_style() -> Style:
    """The style that the user of a command chose."""
    return style_of(os.environ.get(VARIABLE))


def harmless(value: Any, style: Style = PLAIN) -> str:
    """A cell as a spreadsheet may have it: a text with a formula's beginning gets an apostrophe, None is empty."""
    if value is None:
        return ""
    text = repr(float(value)) if isinstance(value, float) else str(value)
    if isinstance(value, bool | int | float | Figure) or NUMBER.fullmatch(text):
        return text.replace(".", ",") if style.comma and isinstance(value, float | Figure) else text
    return f"'{text}" if FORMULA.match(text) else text


def as_it_was(cell: str, style: Style = PLAIN) -> str:
    """The text of a cell that `harmless` made."""
    if style.comma and WITH_COMMA.fullmatch(cell):
        return cell.replace(",", ".")
    return cell[1:] if cell.startswith("'") and FORMULA.match(cell) else cell


class TableWriter:
    """Writes rows to a text stream that was opened with newline="". `style`: None for the one the user chose."""

    def __init__(self, stream: IO[str], style: Style | None = None, end: str = "\r\n") -> None:
        self.style = chosen_style() if style is None else style
        self._writer = csv.writer(stream, delimiter=self.style.separator, lineterminator=end, quoting=csv.QUOTE_ALL)
        if self.style.mark:
            stream.write(MARK)

    def writerow(self, cells: Iterable[Any]) -> None:
        """One row; None is an empty cell."""
        self._writer.writerow([harmless(cell, self.style) for cell in cells])


def line_of(cells: Iterable[Any], style: Style = PLAIN, end: str = "\r\n") -> str:
    """One row as text, without a mark."""
    text = io.StringIO()
    TableWriter(text, style._replace(mark=False), end).writerow(cells)
    return text.getvalue()


def read_rows(file: Path) -> list[dict[str, str]]:
    """The rows of a table in any style by its columns, each cell as it was. Raises OSError, and csv.Error."""
    with file.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as stream:
        return list(_rows(stream.read()))


def _rows(text: str) -> Iterator[dict[str, str]]:
    head = text.partition("\n")[0]
    style = Style(";", True) if head.count(";") > head.count(",") else PLAIN
    names: Sequence[str] | None = None
    for cells in csv.reader(io.StringIO(text, newline=""), delimiter=style.separator):
        if names is None:
            names = cells
        elif cells:
            yield {name: as_it_was(cell, style) for name, cell in zip(names, cells, strict=False)}
