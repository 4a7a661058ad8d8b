"""The DAVIS-2017 measures of several objects: label maps against label maps, and the assignment.

Pont-Tuset et al., "The 2017 DAVIS Challenge on Video Object Segmentation", 2017; Caelles et al.,
"The 2019 DAVIS Challenge on VOS: Unsupervised Multi-Object Segmentation", 2019; in the form of the
released evaluator. A label map is [H, W] integers: 0 is background, k object k, and in annotations
255 is void.

Semi-supervised, object k is compared with object k: `measure_objects`. Unsupervised, every proposal
is compared with every object in every frame (`measure_frame`), and each object gets the proposal
that `assign` finds for the whole sequence. Frames are measured one at a time; only the values stay.
"""

import numpy as np
from scipy.ndimage import find_objects
from scipy.optimize import linear_sum_assignment

from jaxvos.metrics.davis import Outline, agreement, boundary_radius, outline

VOID = 255
PROPOSALS = 20
"""Most proposals that the unsupervised protocol allows in a sequence."""


def count_objects(first: np.ndarray) -> int:
    """How many objects a sequence has: the highest label of its first annotation [H, W].

    Objects that come later and have a higher label are not counted: they are background.
    """
    labels = _labels(first, "first annotation")
    count = int(labels.max(where=labels != VOID, initial=0))
    if not count:
        raise ValueError("The first annotation holds no object, so there is nothing to score.")
    return count


def measure_objects(
    labels: np.ndarray, truth: np.ndarray, objects: int
) -> tuple[np.ndarray, np.ndarray]:
    """J and F, [K] each, of object k against object k in one frame. Void is background.

    Args:
        labels: [H, W] predicted labels; objects that are missing have empty masks.
        truth: [H, W] annotated labels.
        objects: K, see `count_objects`.
    """
    labels, truth = _pair(labels, truth, objects, objects)
    J = np.diag(_overlaps(labels, truth, objects, objects))
    pairs = zip(_outlines(labels, objects), _outlines(truth, objects), strict=True)
    return J, np.array([agreement(*pair) for pair in pairs])


def measure_frame(
    labels: np.ndarray, truth: np.ndarray, proposals: int, objects: int
) -> tuple[np.ndarray, np.ndarray]:
    """J and F, [P, K] each, of every proposal and object in one frame. Void does not count.

    P is `proposals`, or K where there are fewer: proposals that are missing have empty masks.

    Args:
        labels: [H, W] proposals 1, 2, ...
        truth: [H, W] annotated labels.
        proposals: Highest label of the sequence's predictions. An empty proposal more can change
            the assignment, since it is right wherever an object is absent.
        objects: K, see `count_objects`.
    """
    if proposals > max(PROPOSALS, objects):
        raise ValueError(f"There are {proposals} proposals; the protocol allows {PROPOSALS}.")
    rows = max(proposals, objects)
    void = truth == VOID
    labels, truth = _pair(labels, truth, proposals, objects)
    labels = np.where(void, 0, labels)
    J = _overlaps(labels, truth, rows, objects)
    theirs = _outlines(truth, objects)
    F = [[agreement(ours, each) for each in theirs] for ours in _outlines(labels, rows)]
    return J, np.array(F)


def assign(J: np.ndarray, F: np.ndarray) -> np.ndarray:
    """[K]: for each object the row of its proposal, which has no other; the best total of J&F.

    Args:
        J: [T, P, K] from `measure_frame`, all frames of a sequence.
        F: [T, P, K], likewise.
    """
    if J.shape != F.shape or J.ndim != 3 or not J.size or J.shape[1] < J.shape[2]:
        raise ValueError(
            f"J is {J.shape} and F {F.shape}, not both [T, P, K] with at least as many proposals "
            f"as objects: what measure_frame returns, stacked."
        )
    # Added up in the released evaluator's order, so that ties fall as they do there.
    j, f = (np.ascontiguousarray(np.moveaxis(each, 0, -1)).mean(axis=-1) for each in (J, F))
    total = (j + f) / 2
    proposals, objects = linear_sum_assignment(-total)
    # There the results follow the order of proposals, so that seq_1 need not be object 1.
    return proposals[np.argsort(objects)]


def _labels(labels: np.ndarray, name: str) -> np.ndarray:
    """[H, W] uint8 labels."""
    whole = labels.dtype == bool or np.issubdtype(labels.dtype, np.integer)
    if labels.ndim != 2 or not whole or not (labels <= VOID).all() or labels.min(initial=0) < 0:
        raise ValueError(
            f"The {name} is {labels.shape} of {labels.dtype}, not labels: [H, W] whole numbers up "
            f"to {VOID}, 0 for the background and 1, 2, ... for the objects."
        )
    return labels.astype(np.uint8)


def _pair(
    labels: np.ndarray, truth: np.ndarray, most: int, objects: int
) -> tuple[np.ndarray, np.ndarray]:
    """Both label maps, if they fit; void and what is not counted are background in the truth."""
    labels, truth = _labels(labels, "prediction"), _labels(truth, "truth")
    if labels.shape != truth.shape:
        raise ValueError(
            f"The prediction is {labels.shape}, the truth {truth.shape}; [H, W] of both."
        )
    if labels.max(initial=0) > most:
        raise ValueError(
            f"The prediction has the label {labels.max()}, but {most} is the highest that counts "
            f"here. Number the objects from 1 on, without void."
        )
    return labels, np.where(truth > objects, 0, truth)


def _overlaps(labels: np.ndarray, truth: np.ndarray, rows: int, columns: int) -> np.ndarray:
    """[P, K]: J of each label and each object, from one table of how often they meet."""
    size = columns + 1
    cells = labels.astype(np.intp) * size + truth
    table = np.bincount(cells.ravel(), minlength=(rows + 1) * size).reshape(rows + 1, size)
    shared = table[1:, 1:]
    union = table.sum(axis=1)[1:, None] + table.sum(axis=0)[None, 1:] - shared
    return np.where(union, shared / np.maximum(union, 1), 1.0)


def _outlines(labels: np.ndarray, count: int) -> list[Outline]:
    """The outlines of labels 1 to `count`; each is made from the rows that it can lie in."""
    radius = boundary_radius(labels.shape)
    width = labels.shape[1] + radius
    outlines = []
    for label, box in enumerate(find_objects(labels, count), 1):
        if box is None:
            outlines.append(Outline(0, 0))
            continue
        top = max(box[0].start - 1 - radius, 0)
        edge, near = outline(labels[top : box[0].stop + 1] == label, radius)
        outlines.append(Outline(edge << top * width, near << top * width))
    return outlines
