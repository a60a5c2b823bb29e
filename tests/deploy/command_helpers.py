"""Commands as a user gives them."""

from __future__ import annotations

import csv
from pathlib import Path

from typer.testing import CliRunner, Result

from flawmap import cli


def run(*words: object) -> Result:
    """What a command said and its exit code; a defect of flawmap keeps its traceback."""
    result = CliRunner().invoke(cli.app, [str(word) for word in words])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def succeed(*words: object) -> str:
    """What a command said."""
    result = run(*words)
    assert result.exit_code == 0, result.output
    return result.stdout


def refuse(*words: object) -> str:
    """The one line on stderr with which a command refuses."""
    result = run(*words)
    assert result.exit_code == 2, result.output
    lines = result.stderr.splitlines()
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith("flawmap: ")
    return lines[0]


def rows(file: Path) -> list[dict[str, str]]:
    """The rows of a table, by the names of its columns."""
    with file.open(encoding="utf-8", newline="") as table:
        return list(csv.DictReader(table))
