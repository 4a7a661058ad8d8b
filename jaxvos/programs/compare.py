"""Results side by side, sequence by sequence, with published ones beside: `jaxvos compare`.

Whether a port is wrong everywhere or on the hard clips only is seen here at once.
"""

import csv
import json
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from rich import box
from rich.table import Table

from jaxvos.davis_layout import some
from jaxvos.programs.results import numbers


def compare(
    runs: Sequence[str | Path], *, measure: str = "", published: Sequence[str] = ()
) -> Table:
    """A table of one measure: a row for each sequence, a column for each result.

    From the second result on the difference to the first stands beside. A sequence that a result
    lacks is left empty there; the last row's means are over the sequences that all results have.

    Args:
        runs: Folders of results (or their summary.json), of one protocol.
        measure: A column of per_sequence.csv; "" for the first there is (J_mean, MAE).
        published: Published systems whose J on DAVIS-2016 val is shown beside, or "all".
    """
    summaries = {_label(run, runs): _summary(Path(run)) for run in runs}
    if len(summaries) < len(runs):
        raise ValueError("The same results are given twice.")
    protocols = sorted({each["protocol"] for each in summaries.values()})
    if len(protocols) > 1:
        raise ValueError(
            f"These results are of different protocols, {' and '.join(protocols)}; their numbers "
            f"cannot be compared."
        )
    measure = measure or next(iter(_columns(next(iter(summaries.values())))))
    columns = {name: _values(name, each, measure) for name, each in summaries.items()}
    if published:
        columns |= _published(published, protocols[0], measure)
    return _table(columns, list(summaries), f"{protocols[0]}, {measure}")


def published_scores() -> dict[str, dict[str, float]]:
    """Mean J of each DAVIS-2016 val sequence by system, as the benchmark's site lists it.

    The site, davischallenge.org, is no longer updated; its numbers are those of 2020.
    """
    text = resources.files("jaxvos.metrics").joinpath("davis16_val_J.csv").read_text("utf-8")
    rows = list(csv.DictReader(text.splitlines()))
    names = [name for name in rows[0] if name != "sequence"]
    return {name: {row["sequence"]: float(row[name]) for row in rows} for name in names}


def _label(run: str | Path, runs: Sequence[str | Path]) -> str:
    """A short name that tells a result from the others."""
    path = Path(run).resolve()
    path = path.parent if path.name == "summary.json" else path
    twins = [p for p in runs if Path(p).resolve().name == path.name]
    return path.name if len(twins) == 1 else f"{path.parent.name}/{path.name}"


def _summary(run: Path) -> dict[str, Any]:
    path = run if run.is_file() else run / "summary.json"
    if not path.is_file():
        raise FileNotFoundError(
            f"{run} holds no summary.json, which `jaxvos evaluate --out` makes."
        )
    try:
        summary = json.loads(path.read_text(encoding="utf-8"))
        summary["protocol"], summary["per_sequence"]
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{path} is no summary of `jaxvos evaluate`.") from error
    return summary


def _columns(summary: Mapping[str, Any]) -> dict[str, float]:
    return numbers(next(iter(summary["per_sequence"].values())))


def _values(name: str, summary: Mapping[str, Any], measure: str) -> dict[str, float]:
    known = _columns(summary)
    if measure not in known:
        raise ValueError(f"{name} has no measure {measure!r}. It has: {', '.join(known)}.")
    found = {name: numbers(each).get(measure) for name, each in summary["per_sequence"].items()}
    return {name: value for name, value in found.items() if value is not None}


def _published(wanted: Sequence[str], protocol: str, measure: str) -> dict[str, dict[str, float]]:
    if (protocol, measure) != ("davis16", "J_mean"):
        raise ValueError(f"Published are the means of J by davis16, not {measure} by {protocol}.")
    known = published_scores()
    names = list(known) if "all" in wanted else list(wanted)
    missing = [name for name in names if name not in known]
    if missing:
        raise ValueError(f"No published scores of {some(missing)}. There are: {', '.join(known)}.")
    return {f"{name} (published)": known[name] for name in names}


def _table(columns: Mapping[str, Mapping[str, float]], ours: Sequence[str], caption: str) -> Table:
    first = columns[ours[0]]
    rows = list(dict.fromkeys(name for run in ours for name in columns[run]))
    common = [name for name in rows if all(name in values for values in columns.values())]
    shown = Table(
        caption=caption, caption_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0)
    )
    shown.add_column("sequence", no_wrap=True)
    for heading in columns:
        shown.add_column(heading.replace(" ", "\n"), justify="right")
        if heading != ours[0]:
            shown.add_column("diff", justify="right", no_wrap=True)

    def cells(value: Mapping[str, float | None]) -> list[str]:
        found = []
        for heading in columns:
            one, base = value[heading], value[ours[0]]
            found.append("" if one is None else f"{one:.3f}")
            if heading != ours[0]:
                found.append("" if one is None or base is None else f"{one - base:+.3f}")
        return found

    for name in sorted(rows, key=lambda name: first.get(name, np.inf)):
        shown.add_row(name, *cells({heading: columns[heading].get(name) for heading in columns}))
    if common:
        shown.add_section()
        means = {h: float(np.mean([columns[h][name] for name in common])) for h in columns}
        shown.add_row(f"mean of {len(common)}", *cells(means), style="bold")
    return shown
