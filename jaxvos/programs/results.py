"""Scores as files and as a table."""

import csv
import io
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from jaxvos.metrics.scoring import Scores

RESULTS = ("per_frame.csv", "per_sequence.csv", "summary.json")
STATISTICS = ("mean", "recall", "decay")
WIDEST = 400
ABOUT = ("threshold",)
"""Numbers of a summary that are no scores."""
HIDDEN = ("F_max_per_picture",)
"""Scores that the table leaves to the files."""


def write_results(out: Path, scores: Sequence[Scores], summary: Mapping[str, Any]) -> None:
    """Writes `RESULTS` into a folder: each under another name first, so that none is left half."""
    texts = (
        _csv(*_per_frame(scores)),
        _csv(*_per_sequence(summary["per_sequence"])),
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
    """Every sequence's numbers, their averages below, and under it what was averaged and how."""
    title = f"{summary['protocol']}{', CRF ' + summary['crf'] if 'crf' in summary else ''}"
    shown = Table(
        caption=f"{title}: {summary['averaging']}",
        caption_justify="left",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )
    entries = [summary, *summary["per_sequence"].values()]
    columns = [
        c for c in dict.fromkeys(c for each in entries for c in numbers(each)) if c not in HIDDEN
    ]
    shown.add_column("sequence", no_wrap=True)
    for heading in ("frames", *columns):
        shown.add_column(heading.replace("_", "\n", 1), justify="right", no_wrap=True)
    for name, each in summary["per_sequence"].items():
        shown.add_row(name, str(each["frames"]), *_shown(numbers(each), columns))
    shown.add_section()
    for name, each in summary.get("categories", {}).items():
        shown.add_row(name, "", *_shown({"J_mean": each["J"]}, columns))
    headline = _shown(numbers(summary), columns)
    shown.add_row(f"mean over {summary['average_of']}", "", *headline, style="bold")
    for kind in ("sequence", "frame"):
        if f"{kind}_average" in summary:
            means = summary[f"{kind}_average"]
            means = means | {f"{name}_mean": value for name, value in means.items()}
            count = str(summary["frames"]) if kind == "frame" else ""
            shown.add_row(f"mean over {kind}s", count, *_shown(means, columns))
    return shown


def show(shown: Table) -> None:
    """Prints a table whole: a narrow screen folds its lines, rather than leave numbers out."""
    screen = Console()
    needed = screen.measure(shown, options=screen.options.update(width=WIDEST)).maximum
    Console(width=max(screen.width, needed)).print(shown)


def headline(summary: Mapping[str, Any]) -> str:
    """The protocol and its main numbers on one line."""
    means = {name.removesuffix("_mean"): value for name, value in numbers(summary).items()}
    kept = {k: v for k, v in means.items() if not k.endswith(("_recall", "_decay"))}
    crf = f", CRF {summary['crf']}" if "crf" in summary else ""
    shown = ", ".join(f"{name} {value:.4f}" for name, value in kept.items())
    return f"{summary['protocol']}{crf}: {shown}"


def numbers(entry: Mapping[str, Any]) -> dict[str, float]:
    """The scores of a sequence or of all by their columns' names: J_mean, J_recall, ..., MAE."""
    found = {}
    for name, value in entry.items():
        if isinstance(value, Mapping) and "mean" in value and not name.endswith("_average"):
            found |= {f"{name}_{number}": value[number] for number in STATISTICS if number in value}
        elif isinstance(value, float) and name not in ABOUT:
            found[name] = value
    return found


def _per_frame(scores: Sequence[Scores]) -> tuple[list[str], list[list[object]]]:
    """Header and rows, a row for each frame and, where they are told apart, each object."""
    measures, objects = list(scores[0].values), any(each.objects for each in scores)
    rows = [
        [each.sequence, *([each.objects[k]] if objects else []), frame]
        + [float(each.values[name][k, t]) for name in measures]
        for each in scores
        for k in range(len(each.objects) or 1)
        for t, frame in enumerate(each.frames)
    ]
    return ["sequence", *(["object"] if objects else []), "frame", *measures], rows


def _per_sequence(entries: Mapping[str, Any]) -> tuple[list[str], list[list[object]]]:
    """Header and rows, a row for each sequence or, where they are told apart, each object."""
    objects = any("objects" in each for each in entries.values())
    found = [
        (name, label, each["frames"], numbers(one))
        for name, each in entries.items()
        for label, one in (each["objects"].items() if objects else [("", each)])
    ]
    columns = list(dict.fromkeys(column for *_, each in found for column in each))
    rows = [
        [name, *([label] if objects else []), frames, *(each.get(c, "") for c in columns)]
        for name, label, frames, each in found
    ]
    return ["sequence", *(["object"] if objects else []), "frames", *columns], rows


def _shown(values: Mapping[str, float], columns: Iterable[str]) -> list[str]:
    return [f"{values[column]:.4f}" if column in values else "" for column in columns]


def _csv(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return text.getvalue()
