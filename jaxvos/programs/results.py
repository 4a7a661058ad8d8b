"""Scores as files and as a table."""

import csv
import io
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table

from jaxvos.metrics.protocols import Scores

RESULTS = ("per_frame.csv", "per_sequence.csv", "summary.json")
STATISTICS = ("mean", "recall", "decay")


def write_results(out: Path, scores: Sequence[Scores], summary: Mapping[str, Any]) -> None:
    """Writes `RESULTS` into a folder: each under another name first, so that none is left half."""
    per_frame = [
        (each.sequence, *row)
        for each in scores
        for row in zip(each.frames, each.J, each.F, strict=True)
    ]
    per_sequence = [
        (name, each["frames"], *_values(each)) for name, each in summary["per_sequence"].items()
    ]
    columns = [f"{measure}_{number}" for measure in "JF" for number in STATISTICS]
    texts = (
        _csv(("sequence", "frame", "J", "F"), per_frame),
        _csv(("sequence", "frames", *columns), per_sequence),
        json.dumps(summary, indent=2, allow_nan=False) + "\n",
    )
    partial = [out / f".{name}.partial-{os.getpid()}" for name in RESULTS]
    try:
        for path, text in zip(partial, texts, strict=True):
            path.write_text(text, encoding="utf-8")
        for path, name in zip(partial, RESULTS, strict=True):
            os.replace(path, out / name)
    finally:
        for path in partial:
            path.unlink(missing_ok=True)


def table(summary: Mapping[str, Any]) -> Table:
    """J and F of every sequence, their averages below, and under it what was averaged and how."""
    shown = Table(
        caption=f"{summary['protocol']}: {summary['averaging']}",
        caption_justify="left",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )
    shown.add_column("sequence", no_wrap=True)
    columns = [f"{measure}\n{number}" for measure in "JF" for number in STATISTICS]
    for heading in ("frames", *columns):
        shown.add_column(heading, justify="right", no_wrap=True)
    for name, each in summary["per_sequence"].items():
        shown.add_row(name, str(each["frames"]), *_shown(_values(each)))
    shown.add_section()
    shown.add_row("mean over sequences", "", *_shown(_values(summary)), style="bold")
    j, f = _shown(summary["frame_average"].values())
    shown.add_row("mean over frames", str(summary["frames"]), j, "", "", f)
    return shown


def _values(entry: Mapping[str, Any]) -> list[float]:
    return [entry[measure][number] for measure in "JF" for number in STATISTICS]


def _shown(values: Iterable[float]) -> list[str]:
    return [f"{value:.4f}" for value in values]


def _csv(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return text.getvalue()
