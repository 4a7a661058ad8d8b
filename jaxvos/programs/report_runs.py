"""Reads what `jaxvos evaluate --out` wrote, whatever the measures, for a report on it."""

import csv
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jaxvos.programs.results import RESULTS

Number = float | None
Row = dict[str, str]

KEYS = ("sequence", "object", "frame", "frames")
"""Columns of the CSV files that say what a row is of; all others hold numbers."""


class Run(NamedTuple):
    """One folder of results.

    Attributes:
        name: What a report calls it.
        folder: Where it lies.
        summary: summary.json.
        measures: The measures of single frames, as columns of per_frame.csv.
        frames: For each sequence, each frame and each object ("" without objects) its measures;
            None where one is not defined.
        columns: The numbers of whole sequences, as columns of per_sequence.csv.
        rows: For each sequence and object its number of frames and those numbers.
    """

    name: str
    folder: Path
    summary: dict[str, Any]
    measures: tuple[str, ...]
    frames: dict[str, dict[str, dict[str, tuple[Number, ...]]]]
    columns: tuple[str, ...]
    rows: dict[tuple[str, str], tuple[str, tuple[Number, ...]]]


def read_runs(folders: Sequence[str | Path]) -> list[Run]:
    """The runs of some folders, each with a name of its own: the folders', as long as need be."""
    paths = [Path(folder) for folder in folders]
    if not paths:
        raise ValueError("A report needs at least one folder of results.")
    whole = [path.resolve() for path in paths]
    if len(set(whole)) < len(whole):
        raise ValueError(f"A folder of results is given twice: {', '.join(map(str, paths))}.")
    runs = [_read_run(path) for path in paths]
    depth = 1
    while len({path.parts[-depth:] for path in whole}) < len(whole):
        depth += 1
    names = ["/".join(path.parts[-depth:]) for path in whole]
    return [run._replace(name=name + _mark(run)) for run, name in zip(runs, names, strict=True)]


def numbers(entry: Any) -> dict[str, Number]:
    """The numbers of a JSON object by name, None for those that are not finite; else none."""
    entry = entry if isinstance(entry, Mapping) else {}
    found = {key: value for key, value in entry.items() if type(value) in (int, float)}
    return {key: value if math.isfinite(value) else None for key, value in found.items()}


def _mark(run: Run) -> str:
    """What the name of a run with a CRF ends in, so that it stands out beside the one without."""
    crf = run.summary.get("crf")
    return f" + CRF {crf}" if crf and run.folder.name != f"crf-{crf}" else ""


def _read_run(folder: Path) -> Run:
    missing = [name for name in RESULTS if not (folder / name).is_file()]
    if missing:
        raise FileNotFoundError(
            f"{folder} is no folder of results, it has no {', '.join(missing)}: "
            f"`jaxvos evaluate --out {folder}` writes them."
        )
    try:
        summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{folder / 'summary.json'} is no JSON: {error}") from error
    if not isinstance(summary, dict) or "protocol" not in summary:
        raise ValueError(f"{folder / 'summary.json'} is not of an evaluation: it has no protocol.")
    measures, per_frame = _table(folder / "per_frame.csv", ("sequence", "frame"))
    columns, per_sequence = _table(folder / "per_sequence.csv", ("sequence",))
    frames: dict[str, dict[str, dict[str, tuple[Number, ...]]]] = {}
    for row, values in per_frame:
        of_frame = frames.setdefault(row["sequence"], {}).setdefault(row["frame"], {})
        of_frame[row.get("object", "")] = values
    rows = {
        (row["sequence"], row.get("object", "")): (row.get("frames", ""), values)
        for row, values in per_sequence
    }
    return Run("", folder, summary, measures, frames, columns, rows)


def _table(
    path: Path, needed: Sequence[str]
) -> tuple[tuple[str, ...], list[tuple[Row, tuple[Number, ...]]]]:
    """The columns of numbers of a CSV file, and its rows: as texts by column, and the numbers."""
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        header = reader.fieldnames or ()
        absent = [name for name in needed if name not in header]
        if absent:
            raise ValueError(
                f"{path} has no column {', '.join(absent)}, only {', '.join(header) or 'nothing'}."
            )
        columns = tuple(name for name in header if name not in KEYS)
        rows = []
        for row in reader:
            where = f"{path}, line {reader.line_num}"
            if None in row or None in row.values():
                raise ValueError(f"{where}: there are {len(header)} columns, this line differs.")
            rows.append((row, tuple(_number(row[name], where) for name in columns)))
    return columns, rows


def _number(text: str, where: str) -> Number:
    """The number, or None where there is none: nothing, or nan."""
    try:
        value = float(text or "nan")
    except ValueError as error:
        raise ValueError(f"{where}: {text!r} is no number.") from error
    return value if math.isfinite(value) else None
