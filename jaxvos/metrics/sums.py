"""Sums up sequences' scores: over frames, objects, sequences and categories, each by its name."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

from jaxvos.metrics.davis import statistics
from jaxvos.metrics.scoring import Scores

STABLE = (
    *("blackswan", "camel", "car-roundabout", "car-shadow", "cows", "drift-straight"),
    *("kite-surf", "paragliding-launch", "scooter-black", "soapbox"),
)
"""The sequences of DAVIS-2016 val without strong occlusion, over which T is averaged."""


def by_sequence(scores: Sequence[Scores]) -> dict[str, Any]:
    """DAVIS' statistics of each sequence, averaged over the sequences."""
    per_sequence = {each.sequence: _merged_entry(each) for each in scores}
    summary = _averages(per_sequence.values())
    if all("T" in each.facts for each in scores):
        summary |= _stability({each.sequence: each.facts["T"] for each in scores})
    return summary | {"frame_average": _over_frames(scores), "per_sequence": per_sequence}


def _stability(values: Mapping[str, float | None]) -> dict[str, Any]:
    """T over the benchmark's stable sequences if any is there, else over all."""
    known = [name for name in values if name in STABLE] or list(values)
    numbers = [values[name] for name in known if values[name] is not None]
    return {"T": float(np.mean(numbers)) if numbers else None, "T_sequences": known}


def by_category(scores: Sequence[Scores]) -> dict[str, Any]:
    """Mean J of each video, averaged over a category's videos, then over the categories."""
    per_sequence = {each.sequence: _merged_entry(each) for each in scores}
    categories: dict[str, list[float]] = {}
    for name, entry in per_sequence.items():
        categories.setdefault(name.split("/")[0], []).append(entry["J"]["mean"])
    means = {name: float(np.mean(values)) for name, values in categories.items()}
    return {
        "J": {"mean": float(np.mean(list(means.values())))},
        "sequence_average": {"J": _averages(per_sequence.values())["J"]["mean"]},
        "frame_average": _over_frames(scores),
        "categories": {
            name: {"sequences": len(categories[name]), "J": mean} for name, mean in means.items()
        },
        "per_sequence": per_sequence,
    }


def by_object(scores: Sequence[Scores]) -> dict[str, Any]:
    """Statistics of each object of each sequence, averaged over all objects."""
    per_sequence, every = {}, []
    for each in scores:
        objects = {
            str(label): {name: statistics(rows[k])._asdict() for name, rows in each.values.items()}
            for k, label in enumerate(each.objects)
        }
        every += objects.values()
        per_sequence[each.sequence] = {
            "frames": len(each.frames),
            **_averages(objects.values()),
            "objects": objects,
            **each.facts,
        }
    summary = _averages(every)
    by_sequence = _averages(per_sequence.values())
    return {
        "J&F": (summary["J"]["mean"] + summary["F"]["mean"]) / 2,
        **summary,
        "sequence_average": {name: by_sequence[name]["mean"] for name in by_sequence},
        "frame_average": _over_frames(scores),
        "objects": len(every),
        "per_sequence": per_sequence,
    }


def by_saliency(scores: Sequence[Scores]) -> dict[str, Any]:
    """Means and curves of each video, averaged over the videos; over all frames beside."""
    from jaxvos.metrics.saliency import MapScores, summarise_maps

    per_sequence = {
        each.sequence: {"frames": len(each.frames), **summarise_maps(each.maps)} for each in scores
    }
    means = [
        MapScores(*(np.mean(column, axis=0) for column in zip(*each.maps, strict=True)))
        for each in scores
    ]
    pictures = [each["F_max_per_picture"] for each in per_sequence.values()]
    return {
        **summarise_maps(means),
        "F_max_per_picture": float(np.mean(pictures)),
        "frame_average": summarise_maps([one for each in scores for one in each.maps]),
        "per_sequence": per_sequence,
    }


def _merged_entry(scores: Scores) -> dict[str, Any]:
    return {
        "frames": len(scores.frames),
        **{name: statistics(rows[0])._asdict() for name, rows in scores.values.items()},
        **scores.facts,
    }


def _averages(entries: Collection[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """Of every measure's mean, recall and decay the average over some entries."""
    entries = list(entries)
    measures = [name for name in ("J", "F") if name in entries[0]]
    return {
        name: {
            number: float(np.mean([each[name][number] for each in entries]))
            for number in ("mean", "recall", "decay")
        }
        for name in measures
    }


def _over_frames(scores: Sequence[Scores]) -> dict[str, float]:
    """Every measure's mean over all frames, of every object."""
    return {
        name: float(np.mean(np.concatenate([each.values[name].ravel() for each in scores])))
        for name in scores[0].values
    }
