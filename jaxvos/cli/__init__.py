"""The command line: `jaxvos COMMAND --help`. Each command is one function of `jaxvos.programs`.

Programs are imported when their command runs, so that `jaxvos --help` answers at once.
"""

import os
import sys
from pathlib import Path

import typer

from jaxvos.cli.models import bench, convert, prepare, systems, train
from jaxvos.cli.scores import compare, evaluate, write_report
from jaxvos.cli.videos import demo, flow, segment

app = typer.Typer(
    name="jaxvos",
    help="Unsupervised video object segmentation: train, segment, evaluate.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
for command in (demo, segment, flow, evaluate, compare):
    app.command()(command)
app.command("report")(write_report)
for command in (train, convert, prepare, systems, bench):
    app.command()(command)


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
