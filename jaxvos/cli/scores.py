"""Commands for scores: of masks and of systems, side by side, and as a page."""

from pathlib import Path
from typing import Annotated

import typer

from jaxvos.cli.options import (
    Changes,
    Flow,
    Objects,
    Overwrite,
    Quiet,
    Smooth,
    SystemName,
    Threshold,
    Weights,
    options_of,
)


def evaluate(
    data: Annotated[Path, typer.Option(help="Data set in the DAVIS layout.")],
    predictions: Annotated[
        Path | None, typer.Option(help="Folder of masks SEQUENCE/FRAME.png to score.")
    ] = None,
    weights: Weights = None,
    system: SystemName = None,
    protocol: Annotated[str, typer.Option(help="What is scored, how it is averaged.")] = "davis16",
    out: Annotated[Path | None, typer.Option(help="Folder for CSV and summary.json.")] = None,
    sequences: Annotated[
        str | None, typer.Option(help="Names with commas between; default: the list of the set.")
    ] = None,
    threshold: Threshold = 0.5,
    smooth: Smooth = False,
    crf: Annotated[
        str | None, typer.Option(help="Settings of a dense CRF: its masks are scored beside.")
    ] = None,
    objects: Objects = False,
    proposals: Annotated[
        Path | None, typer.Option(help="Folder SEQUENCE/FRAME.png or .json: what the objects are.")
    ] = None,
    flow: Flow = None,
    stability: Annotated[
        bool, typer.Option("--stability", help="davis16: temporal stability T too.")
    ] = False,
    normalize: Annotated[
        bool, typer.Option(help="vsod: stretch each map to 0..1 first, as most tools do.")
    ] = True,
    report: Annotated[
        bool, typer.Option("--report", help="Write OUT/report.html, a page to look at.")
    ] = False,
    keep_empty: Annotated[
        bool,
        typer.Option("--keep-empty", help="fbms, youtube-objects: score empty annotations too."),
    ] = False,
    fix: Annotated[
        str, typer.Option(help="Mend what is refused: missing,size,threshold,labels.")
    ] = "",
    workers: Annotated[int | None, typer.Option(help="Processes; default: one a core.")] = None,
    overwrite: Overwrite = False,
    changes: Changes = None,
    quiet: Quiet = False,
) -> None:
    """Score masks, or a system, on an annotated data set.

    Protocols: davis16, davis17-semi, davis17-unsup, fbms, youtube-objects, vsod.
    """
    from jaxvos.metrics.scoring import Options
    from jaxvos.programs.evaluate import evaluate
    from jaxvos.programs.results import headline

    summary = evaluate(
        data,
        protocol=protocol,
        predictions=predictions,
        system=system,
        weights=weights,
        out=out,
        workers=workers,
        sequences=sequences.split(",") if sequences else None,
        threshold=threshold,
        smooth=smooth,
        crf=crf,
        objects=objects,
        proposals=proposals,
        flow=flow,
        protocol_options=Options(
            stability, normalize, keep_empty, tuple(part for part in fix.split(",") if part)
        ),
        overwrite=overwrite,
        options=options_of(changes),
        report=report,
        progress=not quiet,
    )
    if report:
        print(f"Look at {out / 'report.html'}.")
    if quiet:  # then there was no table
        print(headline(summary))
        if "refined" in summary:
            print(headline(summary["refined"]))


def compare(
    runs: Annotated[list[Path], typer.Argument(help="Folders of results, or summary.json files.")],
    measure: Annotated[str, typer.Option(help="Column to compare, as in per_sequence.csv.")] = "",
    published: Annotated[
        str,
        typer.Option(help="Published J of DAVIS-2016 val beside: names with commas, or 'all'."),
    ] = "",
) -> None:
    """Lay results side by side, sequence by sequence."""
    from jaxvos.programs.compare import compare
    from jaxvos.programs.results import show

    show(compare(runs, measure=measure, published=published.split(",") if published else ()))


def write_report(
    runs: Annotated[list[Path], typer.Argument(help="Folders that evaluate --out wrote.")],
    out: Annotated[Path, typer.Option(help="The HTML file.")] = Path("report.html"),
    data: Annotated[Path | None, typer.Option(help="Where the data set is now.")] = None,
    frames: Annotated[int, typer.Option(help="Frames shown of a sequence; 0: no pictures.")] = 30,
    overwrite: Overwrite = False,
) -> None:
    """Show results of evaluate as one HTML page, several side by side."""
    from jaxvos.programs.report import report

    print(f"Look at {report(runs, out, data=data, frames=frames, overwrite=overwrite)}.")
