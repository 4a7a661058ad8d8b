"""The command line: `jaxvos COMMAND --help`. Each command is one function of `jaxvos.programs`.

Programs are imported when their command runs, so that `jaxvos --help` answers at once.
"""

import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

app = typer.Typer(
    name="jaxvos",
    help="Unsupervised video object segmentation: train, segment, evaluate.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)

Weights = Annotated[
    Path | None, typer.Option(help="Weights (.safetensors), or the folder of a training run.")
]
SystemName = Annotated[
    str | None, typer.Option("--system", help="System; by default the one the weights are of.")
]
Changes = Annotated[
    list[str] | None, typer.Option("--set", help="KEY=VALUE, may be given several times.")
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


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder for the results.")] = Path("jaxvos-demo"),
    steps: Annotated[int, typer.Option(help="Training steps.")] = 0,
    overwrite: Overwrite = False,
) -> None:
    """Train a small COSNet on made-up video, segment and score unseen clips; needs no data."""
    from jaxvos.programs.demo import demo

    demo(out, steps=steps, overwrite=overwrite)


@app.command()
def segment(
    source: Annotated[str, typer.Argument(help="Video file, folder of pictures, or glob.")],
    out: Annotated[Path, typer.Option(help="Folder for masks, overlay.mp4, sheet.png.")],
    weights: Weights = None,
    system: SystemName = None,
    threshold: Annotated[float, typer.Option(help="Scores above it are foreground.")] = 0.5,
    smooth: Annotated[
        bool, typer.Option("--smooth", help="Average scores over time along optical flow.")
    ] = False,
    crf: Annotated[
        str | None, typer.Option(help="Settings of a dense CRF: pdb, cosnet, ags, matnet, ...")
    ] = None,
    objects: Annotated[
        bool, typer.Option("--objects", help="Tell the objects of the foreground apart.")
    ] = False,
    proposals: Annotated[
        Path | None,
        typer.Option(help="Folder of FRAME.png or .json: what the objects are."),
    ] = None,
    flow: Flow = None,
    fast: Annotated[
        bool,
        typer.Option(
            "--fast", help="With the library's own weights: in little over half the time."
        ),
    ] = False,
    formats: Annotated[
        str, typer.Option("--format", help="Masks as png, rle, coco, mp4; several with commas.")
    ] = "png",
    scores: Annotated[bool, typer.Option("--scores", help="Write soft maps too.")] = False,
    overwrite: Overwrite = False,
    changes: Changes = None,
    quiet: Quiet = False,
) -> None:
    """Segment a video: masks, a film with the masks laid over it, a contact sheet, a summary."""
    from jaxvos.programs.segment import segment_to_folder

    summary = segment_to_folder(
        source,
        out,
        system=system,
        weights=weights,
        options=(_options(changes) or {}) | ({"fast": True} if fast else {}),
        smooth=smooth,
        crf=crf,
        objects=objects,
        proposals=proposals,
        flow=flow,
        formats=formats,
        threshold=threshold,
        scores=scores,
        overwrite=overwrite,
        progress=not quiet,
    )
    share = summary["foreground"]["mean"]
    print(
        f"{summary['frames']} frames in {summary['seconds']:.1f} s, foreground {share:.1%} of the "
        f"picture on average. Look at {out / 'overlay.mp4'} and {out / 'sheet.png'}."
    )
    for sentence in summary["doubts"]:
        print(sentence)
    empty = summary["frames_without_foreground"]
    if 0 < len(empty) < summary["frames"]:
        print(
            f"Nothing was found in {len(empty)} of the frames; {out / 'summary.json'} names them."
        )


@app.command()
def flow(
    source: Annotated[str, typer.Argument(help="Video file, folder of pictures, or glob.")],
    out: Annotated[Path, typer.Option(help="Folder for FRAME.flo and flow.json.")],
    method: Annotated[
        str, typer.Option(help="How: dis, raft:WEIGHTS or flownet2_c:WEIGHTS.")
    ] = "dis",
    gap: Annotated[int, typer.Option(help="Frames from one to the other.")] = 1,
    backward: Annotated[
        bool, typer.Option("--backward", help="To the frame before, not after.")
    ] = False,
    form: Annotated[
        str, typer.Option("--format", help="flo, npy, png (KITTI's), or wheel: pictures.")
    ] = "flo",
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> None:
    """Optical flow of a video as files; a second run computes only what is missing."""
    from jaxvos.programs.flow import flow

    counts = flow(
        source,
        out,
        method=method,
        gap=gap,
        backward=backward,
        form=form,
        overwrite=overwrite,
        progress=not quiet,
    )
    print(f"{counts['computed']} files computed, {counts['kept']} were there, in {out}.")


@app.command()
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
    threshold: Annotated[float, typer.Option(help="Scores above it are foreground.")] = 0.5,
    smooth: Annotated[
        bool, typer.Option("--smooth", help="Average a system's scores over time along flow.")
    ] = False,
    crf: Annotated[
        str | None, typer.Option(help="Settings of a dense CRF: its masks are scored beside.")
    ] = None,
    objects: Annotated[
        bool, typer.Option("--objects", help="Tell the objects of a system's foreground apart.")
    ] = False,
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
        options=_options(changes),
        report=report,
        progress=not quiet,
    )
    if report:
        print(f"Look at {out / 'report.html'}.")
    if quiet:  # then there was no table
        print(headline(summary))
        if "refined" in summary:
            print(headline(summary["refined"]))


@app.command()
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


@app.command("report")
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


@app.command()
def train(
    recipe: Annotated[str, typer.Argument(help="configs/NAME.py or NAME, with :smoke to try it.")],
    workdir: Annotated[Path, typer.Option(help="Folder of the run; an old run goes on.")],
    changes: Changes = None,
    distributed: Annotated[
        bool, typer.Option("--distributed", help="One of several processes, as on a TPU pod.")
    ] = False,
    quiet: Quiet = False,
) -> None:
    """Train a recipe, or go on with a run that was stopped."""
    from jaxvos.flow.fields import LEARNED
    from jaxvos.recipe import read_recipe

    config = read_recipe(recipe, changes or ())
    from jaxvos.programs.train import start_distributed, train

    start_distributed(distributed)
    summary = train(config, workdir, progress=not quiet)
    ended = "stopped, start the same command to go on," if summary["stopped"] else "done"
    j = "" if summary["J"] is None else f" Best J on the evaluation's videos: {summary['J']:.3f}."
    print(f"{summary['step']} of {summary['steps']} steps {ended} in {summary['seconds']} s.{j}")
    if summary["weights"]:
        use = f"segment VIDEO --weights {summary['weights']} --out masks"
        if config.system in LEARNED:
            use = f"flow VIDEO --method {config.system}:{summary['weights']} --out flow"
        print(f"Next: jaxvos {use}")


@app.command()
def convert(
    system: Annotated[str, typer.Argument(help="System that the weights are of.")],
    source: Annotated[Path, typer.Argument(help=".pth, .safetensors, .npz or .caffemodel.")],
    target: Annotated[Path, typer.Argument(help="Our file: .safetensors.")],
    license_note: Annotated[
        str, typer.Option(help="Licence of the weights, kept in the file.")
    ] = "unknown: ask the authors of the weights",
    more: Annotated[
        list[Path] | None, typer.Option("--with", help="A further file of the same weights.")
    ] = None,
    changes: Changes = None,
    overwrite: Overwrite = False,
) -> None:
    """Turn published weights into ours, without PyTorch and without running anything in them."""
    from jaxvos.programs.convert import convert

    convert(
        system,
        source,
        target,
        license_note=license_note,
        options=_options(changes),
        more=more or (),
        overwrite=overwrite,
    )


@app.command()
def prepare(
    name: Annotated[str, typer.Argument(help="davis/2016, davis/2017, duts, msra10k, ...")],
    source: Annotated[
        Path | None, typer.Option("--from", help="The folder that you downloaded.")
    ] = None,
    data_dir: Annotated[Path | None, typer.Option(help="Where prepared data sets live.")] = None,
    partial: Annotated[
        bool, typer.Option("--partial", help="Accept a part of the official files.")
    ] = False,
    quiet: Quiet = False,
) -> None:
    """Check a downloaded data set and pack it for training (TFDS, array_record)."""
    from jaxvos.programs.prepare import prepare

    prepare(name, source, data_dir=data_dir, partial=partial, progress=not quiet)


@app.command()
def systems() -> None:
    """List the systems."""
    from jaxvos.systems import SYSTEMS

    table = Table("system", "needs", "trained on", "J / F on DAVIS-2016 val", "our error")
    for name, system in sorted(SYSTEMS.items()):
        table.add_row(name, *system.facts)
    Console().print(table)
    for name, system in sorted(SYSTEMS.items()):
        print(f"{name:13} {system.title}")


@app.command()
def bench(
    out: Annotated[Path | None, typer.Option(help="JSON file for the results.")] = None,
    only: Annotated[
        str | None, typer.Option(help="Names of benchmarks with commas between.")
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Small sizes: does it run?")] = False,
) -> None:
    """Measure this machine: compilation, seconds a frame, training, data, scoring, memory."""
    from jaxvos.programs.bench.suite import bench

    bench(out, only=only.split(",") if only else None, quick=quick)


def _options(changes: list[str] | None) -> dict[str, Any] | None:
    """Options given as KEY=VALUE, values as Python literals; None if there are none."""
    import ast

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


def main() -> None:
    """Runs a command; what the user can mend is told in a sentence, without a traceback."""
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "jaxvos" / "xla"
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(cache))
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.5")
    try:
        app()
    except (ValueError, OSError) as error:
        if os.environ.get("JAXVOS_TRACEBACK"):
            raise
        print(f"jaxvos: {error}", file=sys.stderr)
        print("(JAXVOS_TRACEBACK=1 shows where it happened.)", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
