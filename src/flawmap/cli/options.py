"""Arguments and options that several commands have."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

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
Batch = Annotated[int, typer.Option("--batch", min=0, help="Images (or tiles) at a time; 0: 1 on a CPU, 8 on a GPU.")]
StationData = Annotated[Path, typer.Option("--data", metavar="DIR", help="The station's record and pictures.")]
Database = Annotated[
    str | None, typer.Option("--database", metavar="URL", help="Of the record; default: SQLite in --data.")
]
