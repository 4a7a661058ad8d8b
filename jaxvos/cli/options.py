"""What several commands are given alike."""

import ast
from pathlib import Path
from typing import Annotated, Any

import typer

Weights = Annotated[
    Path | None, typer.Option(help="Weights (.safetensors), or the folder of a training run.")
]
SystemName = Annotated[
    str | None, typer.Option("--system", help="System; by default the one the weights are of.")
]
Changes = Annotated[
    list[str] | None, typer.Option("--set", help="KEY=VALUE, may be given several times.")
]
Source = Annotated[str, typer.Argument(help="Video file, folder of pictures, or glob.")]
Threshold = Annotated[float, typer.Option(help="Scores above it are foreground.")]
Smooth = Annotated[bool, typer.Option("--smooth", help="Average scores over time along flow.")]
Objects = Annotated[
    bool, typer.Option("--objects", help="Tell the objects of the foreground apart.")
]
Flow = Annotated[
    str | None,
    typer.Option(
        help="Optical flow: dis, raft:WEIGHTS, flownet2_c:WEIGHTS, a folder of files, or "
        "wheel:FOLDER of colour pictures."
    ),
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace results that are there.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="No progress bar.")]


def options_of(changes: list[str] | None) -> dict[str, Any] | None:
    """Options given as KEY=VALUE, values as Python literals; None if there are none."""
    options = {}
    for change in changes or ():
        key, sign, text = change.partition("=")
        if not sign:
            raise ValueError(f"--set {change!r}: write KEY=VALUE, for example references=3.")
        try:
            options[key.strip()] = ast.literal_eval(text)
        except (ValueError, SyntaxError):
            options[key.strip()] = text
    return options or None
