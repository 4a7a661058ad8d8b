"""Benchmarks of telling objects apart: how well, given a perfect foreground, and how fast."""

import dataclasses
import time
from collections.abc import Iterator
from itertools import count, islice

import cv2
import numpy as np

from data_pipelines.procedural import MOTION, ProceduralClip, clip
from jaxvos.metrics.davis17 import assign, count_objects, measure_frame
from jaxvos.objects import tracked
from jaxvos.programs.bench.data import FULL
from jaxvos.programs.bench.measure import Extent, Measurement
from jaxvos.programs.segment import labels_of
from jaxvos.typing import Video


def several_objects(extent: Extent) -> list[Measurement]:
    """J&F of each object as davis17-unsup has it, where the foreground given is the true one.

    Clips of 24 frames of the supply 3 of made-up video with two or three objects: those where no
    two of them ever touch, and those where some do. Seconds are those a frame at 480p, flow by DIS
    included.
    """
    size, frames, clips = ((48, 64), 4, 1) if extent.quick else ((192, 320), 24, 12)
    world = dataclasses.replace(MOTION, objects=(2, 3), occlusion=0.0)
    supply = (clip(i, seed=3, frames=frames, size=size, world=world) for i in count())
    supply = (made for made in supply if count_objects(made.labels[0]) >= 2)
    kinds: dict[bool, list[ProceduralClip]] = {True: [], False: []}
    while min(map(len, kinds.values())) < clips:
        made = next(supply)
        kinds[touching(made.labels)].append(made)
    measurements = []
    for case, touch in (("never touch", False), ("touch", True)):
        values = np.concatenate([_scores(made) for made in islice(kinds[touch], clips)])
        name = f"{clips} clips whose objects {case}, {len(values)} objects"
        measurements.append(Measurement(name, "mean J&F", "of 1", [float(values.mean())]))
    made = clip(0, seed=3, frames=frames, size=size if extent.quick else FULL, world=world)
    begin = time.perf_counter()
    found = len(list(_found(made)))
    taken = (time.perf_counter() - begin) / found
    return [*measurements, Measurement("a clip of 480p", "time", "s/frame", [taken])]


def touching(labels: np.ndarray) -> bool:
    """Whether two objects of labels [T, H, W] are neighbours in any frame."""
    for frame in labels:
        parts = cv2.connectedComponents(np.uint8(frame > 0))[1]
        pairs = np.unique(np.stack([parts[frame > 0], frame[frame > 0]]), axis=1)
        if len(np.unique(pairs[0])) < pairs.shape[1]:
            return True
    return False


def _found(made: ProceduralClip) -> Iterator[np.ndarray]:
    """Labels [H, W] of each frame."""
    truth = lambda _: ((labels > 0).astype(np.float32) for labels in made.labels)  # noqa: E731
    return (labels_of(scores, 0.5) for scores in tracked(truth)(Video(made.frames)))


def _scores(made: ProceduralClip) -> np.ndarray:
    """J&F of each object [K], by the best assignment of what was found to the objects."""
    found = list(_found(made))
    objects, proposals = count_objects(made.labels[0]), max(int(each.max()) for each in found)
    frames = [
        measure_frame(each, truth, proposals, objects)
        for each, truth in zip(found, made.labels, strict=True)
    ]
    region, boundary = (np.stack(values) for values in zip(*frames, strict=True))
    chosen = assign(region, boundary), range(objects)
    return (region[:, *chosen] + boundary[:, *chosen]).mean(axis=0) / 2
