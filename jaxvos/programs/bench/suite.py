"""Measures this machine: `jaxvos bench [--only NAME,...] [--quick] [--out FILE.json]`.

    python -m jaxvos.programs.bench FILE.json ...

prints results as the tables of docs/benchmarks.md.
"""

import inspect
import json
import os
import platform
import shlex
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import jax
import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table

from jaxvos import __version__
from jaxvos.programs.bench import data, motion, network, objects, shipped, training, windows
from jaxvos.programs.bench import results as outputs
from jaxvos.programs.bench.measure import Extent, Measurement, alone
from jaxvos.programs.runlog import write_whole

BENCHMARKS: Mapping[str, Callable[[Extent], list[Measurement]]] = {
    "import": outputs.start_up,
    "compile": training.compile_time,
    "protocol": network.protocol,
    "graphs": network.graphs,
    "windows": windows.windows,
    "memory": windows.memory,
    "attention": network.attention,
    "flow": motion.optical_flow,
    "with_flow": motion.systems_with_flow,
    "shipped": shipped.shipped,
    "train_step": training.train_step,
    "loops": training.loops,
    "pipeline": data.pipeline,
    "procedural": data.procedural,
    "evaluator": outputs.evaluator,
    "crf": outputs.dense_crf,
    "objects": objects.several_objects,
    "segment": outputs.segmenting,
}

BUSY = 0.5  # load average before a run from which on the machine was not ours alone


def bench(
    out: str | Path | None = None, *, only: Sequence[str] | None = None, quick: bool = False
) -> dict[str, Any]:
    """The results of benchmarks, each printed as a table when it is done; `out` gets them as JSON.

    {"date", "command", "jaxvos", "machine": {...}, "benchmarks": {name: {"what", "seconds",
    "measurements": [{"case", "quantity", "unit", "repeats", "min", "median", "max"}]}}}

    Args:
        out: A new file, which is written whole after every benchmark.
        only: Names of those to run; all by default. On a CPU the training step of the published
            COSNet, which takes minutes, is measured only if "train_step" is named.
        quick: The smallest sizes. The numbers mean nothing; it shows that everything runs.
    """
    chosen = _chosen(only)
    _check_new(out)
    machine = _machine()
    results: dict[str, Any] = {
        "date": datetime.now().astimezone().isoformat(timespec="seconds"),
        "command": _command(only, quick),
        "jaxvos": __version__,
        "machine": machine,
        "benchmarks": {},
    }
    console = Console()
    console.print(_origin(results))
    extent = Extent(quick, accelerator=machine["platform"] != "cpu", asked=only is not None)
    for name in chosen:
        begin = time.perf_counter()
        measurements = BENCHMARKS[name](extent)
        results["benchmarks"][name] = {
            "what": inspect.getdoc(BENCHMARKS[name]),
            "seconds": round(time.perf_counter() - begin, 1),
            "measurements": [_summary(each) for each in measurements],
        }
        console.print(_table(name, results["benchmarks"][name]["measurements"]))
        if out is not None:
            write_whole(Path(out), json.dumps(results, indent=1, allow_nan=False) + "\n")
    return results


def markdown(results: Mapping[str, Any]) -> str:
    """The results of `bench` as one section a benchmark: what it measures, where, when, a table."""
    command = shlex.split(results["command"])
    sections = []
    for name, benchmark in results["benchmarks"].items():
        only = [] if "--only" not in command else ["--only", name]
        quick = [] if "--quick" not in command else ["--quick"]
        own = shlex.join(["jaxvos", "bench", *only, *quick])
        header, rows = _pivot(benchmark["measurements"])
        lines = [header, ["---"] + ["---:"] * (len(header) - 1), *rows]
        sections += [
            f"## {name}",
            benchmark["what"],
            f"{_origin(results)} `{own}` took {benchmark['seconds']:.0f} s.",
            "\n".join(f"| {' | '.join(cells)} |" for cells in lines),
        ]
    return "\n\n".join(sections) + "\n"


def _chosen(only: Sequence[str] | None) -> list[str]:
    """The names to run, in our order."""
    wanted = [name.strip() for name in only] if only is not None else list(BENCHMARKS)
    unknown = [name for name in wanted if name not in BENCHMARKS]
    if unknown or not wanted:
        said = ", ".join(map(repr, unknown)) or "nothing"
        raise ValueError(f"No benchmark is called {said}. There are: {', '.join(BENCHMARKS)}.")
    return [name for name in BENCHMARKS if name in wanted]


def _check_new(out: str | Path | None) -> None:
    """Says before anything is measured whether the results can be written, and lose nothing."""
    if out is None:
        return
    if os.path.lexists(out):
        raise FileExistsError(f"There already is {out}. Choose another file for the results.")
    Path(out).parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=Path(out).parent):
        pass


def _machine() -> dict[str, Any]:
    """What the numbers were measured on, and how busy it was before."""
    load = round(os.getloadavg()[0], 2)
    affinity = getattr(os, "sched_getaffinity", None)  # the cores we may use; not on macOS
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return {
        "cpu": _cpu(),
        "cores": len(affinity(0)) if affinity else os.cpu_count(),
        "memory_gb": round(memory / 1e9, 1),
        "system": f"{platform.system()} {platform.machine()}",
        "load": load,
        "python": platform.python_version(),
        "jax": jax.__version__,
    } | alone(_device)


def _device() -> dict[str, Any]:
    device = jax.devices()[0]
    return {
        "platform": device.platform,
        "device": device.device_kind,
        "devices": len(jax.devices()),
    }


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _command(only: Sequence[str] | None, quick: bool) -> str:
    names = ["--only", ",".join(only)] if only is not None else []
    return shlex.join(["jaxvos", "bench", *names, *["--quick"] * quick])


def _summary(measurement: Measurement) -> dict[str, Any]:
    """A measurement as JSON keeps it."""
    values = [float(value) for value in measurement.values]
    return {
        "case": measurement.case,
        "quantity": measurement.quantity,
        "unit": measurement.unit,
        "repeats": len(values),
        "min": min(values),
        "median": float(np.median(values)),
        "max": max(values),
    }


def _origin(results: Mapping[str, Any]) -> str:
    """When and on what results were measured, in a sentence."""
    m = results["machine"]
    device = "" if m["platform"] == "cpu" else f"{m['devices']} x {m['device']}, "
    busy = ": other programs ran beside it" if m["load"] >= BUSY else ""
    return (
        f"{results['date'][:10]}, {device}{m['cpu']}, {m['cores']} cores, {m['memory_gb']:.0f} GB, "
        f"JAX {m['jax']}, jaxvos {results['jaxvos']}, load {m['load']} before it began{busy}."
    )


def _pivot(measurements: Sequence[Mapping[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """A header and a row for each case; a column for each quantity: median (least to most)."""
    columns = list(dict.fromkeys((m["quantity"], m["unit"]) for m in measurements))
    cells = {(m["case"], (m["quantity"], m["unit"])): _cell(m) for m in measurements}
    cases = dict.fromkeys(m["case"] for m in measurements)
    header = ["", *(f"{quantity} ({unit})" for quantity, unit in columns)]
    return header, [[case, *(cells.get((case, c), "") for c in columns)] for case in cases]


def _cell(m: Mapping[str, Any]) -> str:
    if m["repeats"] == 1:
        return _number(m["median"])
    return f"{_number(m['median'])} ({_number(m['min'])} to {_number(m['max'])})"


def _number(value: float) -> str:
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _table(name: str, measurements: Sequence[Mapping[str, Any]]) -> Table:
    """All numbers below each other: narrow enough for any terminal."""
    table = Table("", "", title=name, title_justify="left", box=box.SIMPLE_HEAD)
    for words in ("median", "least", "most"):
        table.add_column(words, justify="right")
    table.add_column("unit")
    said = None
    for m in measurements:
        case, said = "" if m["case"] == said else m["case"], m["case"]
        spread = (m["min"], m["max"]) if m["repeats"] > 1 else ()
        numbers = [_number(value) for value in (m["median"], *spread)] + [""] * (2 - len(spread))
        table.add_row(case, m["quantity"], *numbers, m["unit"])
    return table
