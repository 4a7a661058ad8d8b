"""What a report on evaluations says: the tables, lines and choices of frames, as plain data."""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np

from jaxvos.programs.report_runs import Number, Run, numbers
from jaxvos.programs.results import STATISTICS
from jaxvos.video import natural_key

Entry = TypeVar("Entry")

WORST, BEST = 6, 3  # frames shown of a run, of as many sequences

LOWER = ("MAE", "T")  # measures of which less is better
MEANINGS = {
    "J": "region similarity: intersection over union",
    "F": "boundary accuracy: F-measure of the outlines",
    "T": "temporal stability: how much the outline wobbles; lower is better",
    "MAE": "mean absolute error; lower is better",
    "recall": "share of the frames above 0.5",
    "decay": "mean of a sequence's first quarter less that of its last; lower is better",
}
STRUCTURE = ("protocol", "averaging", "per_sequence", "refined", "frames", "sequences")
"""Entries of a summary that are neither scores nor settings of the run."""
SETTINGS = ("threshold",)
"""Numbers of a summary that are no scores."""


def page_content(runs: Sequence[Run]) -> dict[str, Any]:
    """Everything that a page on the runs shows but for the pictures, as report.js takes it."""
    measures = _merged(run.measures for run in runs)
    columns = _merged(run.columns for run in runs)
    lines = {name: _lines(runs, name, measures) for name in _merged(run.frames for run in runs)}
    lower = bool(measures) and _lower(measures[0], "mean")
    protocols = " and ".join(_merged([run.summary["protocol"]] for run in runs))
    return {
        "title": f"{protocols}: {', '.join(run.name for run in runs)}",
        "notes": _differences(runs),
        "runs": [_facts(run) for run in runs],
        "measures": [{"name": name, "lower": _lower(name, "mean")} for name in measures],
        "meanings": MEANINGS,
        "headline": _headline(runs, measures),
        "columns": [_column(name) for name in columns],
        "rows": _rows(runs, columns),
        "sequences": [{"name": name, **line} for name, line in lines.items()],
        "extremes": [_extremes(lines, r, lower) for r in range(len(runs))],
    }


def _merged(lists: Iterable[Iterable[Entry]]) -> list[Entry]:
    """What occurs in some lists, each once, in the order of its first occurrence."""
    return list(dict.fromkeys(entry for each in lists for entry in each))


def _lower(measure: str, statistic: str) -> bool:
    return statistic == "decay" or measure in LOWER


def _differences(runs: Sequence[Run]) -> list[str]:
    """Warnings of what makes the runs' numbers incomparable."""
    notes = []
    if len({run.summary["protocol"] for run in runs}) > 1:
        notes.append("The runs follow different protocols: their numbers do not compare.")
    if len({frozenset((s, *f) for s, f in run.frames.items()) for run in runs}) > 1:
        notes.append(
            "The runs were scored on different sequences or frames: their averages do not compare."
        )
    return notes


def _facts(run: Run) -> dict[str, Any]:
    """What a run is: its protocol, and every setting in its summary as a text."""
    settings = {
        key: value if isinstance(value, str) else json.dumps(value)
        for key, value in run.summary.items()
        if key not in STRUCTURE
        and not key.endswith("_average")
        and value not in ({}, None)
        and not _is_score(run, key)
    }
    counts = {key: str(run.summary[key]) for key in ("sequences", "frames") if key in run.summary}
    return {
        "name": run.name,
        "protocol": run.summary["protocol"],
        "averaging": run.summary.get("averaging", ""),
        "facts": list(({"results": str(run.folder)} | settings | counts).items()),
    }


def _is_score(run: Run, key: str) -> bool:
    """Whether an entry of a summary is of scores: {"mean": ...}, or a number that is no setting."""
    value = run.summary[key]
    if key in SETTINGS or key in STRUCTURE or key.endswith("_average"):
        return False
    return isinstance(value, float) or "mean" in numbers(value)


def _headline(runs: Sequence[Run], measures: Sequence[str]) -> list[dict[str, Any]]:
    """For each measure and statistic in the summaries the runs' values."""
    entries = [_statistics(run) for run in runs]
    names = _merged(entries)
    names.sort(key=lambda name: measures.index(name[0]) if name[0] in measures else len(measures))
    return [
        {
            "measure": measure,
            "statistic": statistic,
            "lower": _lower(measure, statistic),
            "values": [entry.get((measure, statistic)) for entry in entries],
        }
        for measure, statistic in names
    ]


def _statistics(run: Run) -> dict[tuple[str, str], Number]:
    """The scores of the data set by (measure, statistic), its means over frames and such last."""
    found: dict[tuple[str, str], Number] = {}
    for key in (key for key in run.summary if _is_score(run, key)):
        if isinstance(run.summary[key], float):
            column = _column(key)
            found |= {(column["measure"], column["statistic"]): run.summary[key]}
        found |= {(key, name): value for name, value in numbers(run.summary[key]).items()}
    for key in (key for key in run.summary if key.endswith("_average")):
        over = f"mean over {key.removesuffix('_average')}s"
        averages = numbers(run.summary[key])
        found |= {(_column(name)["measure"], over): value for name, value in averages.items()}
    return found


def _column(name: str) -> dict[str, Any]:
    """What a number is: J_decay the statistic decay of the measure J, F_max a measure's mean."""
    measure, _, statistic = name.rpartition("_")
    if not measure or statistic not in STATISTICS:
        measure, statistic = name, "mean"
    return {"measure": measure, "statistic": statistic, "lower": _lower(measure, statistic)}


def _rows(runs: Sequence[Run], columns: Sequence[str]) -> list[dict[str, Any]]:
    """For each sequence and object the runs' values of all columns; None where there is none."""
    rows = []
    for key in dict.fromkeys(key for run in runs for key in run.rows):
        entries = [
            dict(zip(run.columns, run.rows[key][1], strict=True)) if key in run.rows else {}
            for run in runs
        ]
        rows.append(
            {
                "sequence": key[0],
                "object": key[1],
                "frames": next(run.rows[key][0] for run in runs if key in run.rows),
                "values": [[entry.get(name) for name in columns] for entry in entries],
            }
        )
    return rows


def _lines(runs: Sequence[Run], sequence: str, measures: Sequence[str]) -> dict[str, Any]:
    """The measures of a sequence over time.

    "frames" are the names of the frames that some run was scored on. "values" holds for each
    measure and run a value per frame, the mean over its objects; "objects", for each measure and
    run, such a list for every object, where there are objects.
    """
    scored = [run.frames.get(sequence, {}) for run in runs]
    names = sorted(_merged(scored), key=natural_key)

    def line(r: int, measure: str, objects: Sequence[str]) -> list[Number]:
        if measure not in runs[r].measures:
            return [None] * len(names)
        m = runs[r].measures.index(measure)
        entries = [scored[r].get(name, {}) for name in names]
        return [_mean(entry[o][m] for o in objects if o in entry) for entry in entries]

    each = range(len(runs))
    objects = [sorted(_merged(scored[r].values()), key=natural_key) for r in each]
    return {
        "frames": names,
        "values": [[line(r, measure, objects[r]) for r in each] for measure in measures],
        "objects": [
            [{o: line(r, measure, [o]) for o in objects[r] if o} for r in each]
            for measure in measures
        ],
    }


def _mean(values: Iterable[Number]) -> Number:
    defined = [value for value in values if value is not None]
    return round(sum(defined) / len(defined), 5) if defined else None


def _extremes(
    lines: Mapping[str, Mapping[str, Any]], run: int, lower: bool
) -> dict[str, list[tuple[str, str]]]:
    """The (sequence, frame) of the run's worst and best frames by the first measure.

    At most one of a sequence, or all would be neighbours.
    """
    ends: dict[bool, list[tuple[float, str, str]]] = {True: [], False: []}
    for name, line in lines.items():
        values = line["values"][0][run] if line["values"] else []
        scored = [
            (v, frame) for v, frame in zip(values, line["frames"], strict=False) if v is not None
        ]
        if scored:
            ends[True].append((*max(scored), name))
            ends[False].append((*min(scored), name))
    worst, best = sorted(ends[lower], reverse=lower), sorted(ends[not lower], reverse=not lower)
    return {
        "worst": [(name, frame) for _, frame, name in worst[:WORST]],
        "best": [(name, frame) for _, frame, name in best[:BEST]],
    }


def spread(frames: Sequence[str], most: int) -> list[str]:
    """At most so many of the frames, evenly spread, the first and the last among them."""
    if len(frames) <= most:
        return list(frames)
    return [frames[t] for t in np.linspace(0, len(frames) - 1, most).round().astype(int)]
