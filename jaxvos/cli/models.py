"""Commands for models: trained, brought from elsewhere, listed and measured; and their data."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from jaxvos.cli.options import Changes, Overwrite, Quiet, options_of


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
        options=options_of(changes),
        more=more or (),
        overwrite=overwrite,
    )


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


def systems() -> None:
    """List the systems."""
    from jaxvos.systems import SYSTEMS

    table = Table("system", "needs", "trained on", "J / F on DAVIS-2016 val", "our error")
    for name, system in sorted(SYSTEMS.items()):
        table.add_row(name, *system.facts)
    Console().print(table)
    for name, system in sorted(SYSTEMS.items()):
        print(f"{name:13} {system.title}")


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
