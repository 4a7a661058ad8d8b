"""Several objects from one foreground: its regions become tracks, and the tracks labels in time.

The foreground is carried along optical flow, pixel by pixel. A region that one track flows into is
that track's; one that several flow into is shared out among them; one that none flows into begins a
track. Where a track comes in pieces, or its halves clearly move apart, each piece goes on as a
track of its own, and going back in time it takes its pixels out of the track that it came from: so
objects that touch at first are told apart by what happens later. When all frames are seen, pieces
that never were clearly apart are one again, and a track that ends is linked to one that begins
later by where it was going and by its colours.

What this cannot tell: objects that touch throughout and move alike stay one, and an object that
something wide hides the middle of becomes two. Proposals can.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import cv2
import numpy as np
from scipy.optimize import linear_sum_assignment

from jaxvos import box_proposals
from jaxvos.box_proposals import Proposals
from jaxvos.flow.bodies import two_bodies
from jaxvos.flow.dis import dis
from jaxvos.metrics.davis17 import PROPOSALS
from jaxvos.tracks import (
    MEMORY,
    Kept,
    Track,
    born,
    boxes,
    landed,
    looked_back,
    note,
    objects,
    packed,
    unpacked,
)
from jaxvos.typing import Segmenter, Video

SMALLEST = 1e-4
"""Regions below this share of the picture (41 pixels of 854 x 480) begin no track: specks."""
CLAIM = 0.25
"""A track claims the regions that a quarter of it flows into, or that are a quarter from it."""
PIECE = 0.1
"""Pieces below this share of their track stay with it: a hand behind a pole is no object."""
MOVING = 400
"""Pixels that a track needs for its motion to be looked into; that of fewer is mostly noise."""
FRINGE = 0.01
"""Of the picture's longer side: what is narrower is not hidden."""
DITHER = 0.6180339887
"""Steps are whole pixels, rounded otherwise in each frame (by multiples of the golden ratio), so
that slow motion adds up."""


def tracked(
    segmenter: Segmenter,
    *,
    threshold: float = 0.5,
    most: int = PROPOSALS,
    proposals: Proposals | None = None,
) -> Segmenter:
    """A segmenter that yields scores [H, W, K]: one map for each of K objects, 1 <= K <= `most`.

    A pixel's score goes to one object, the nearest; the others get 0. So where the score is above
    the threshold the highest names the object, the union of the objects is the foreground, and an
    object keeps its place among the K. The largest comes first, by area x duration.

    The wrapped segmenter runs once, to the end, before the first map is yielded. Till then a frame
    is kept as 8 bit scores (rounded to 255ths), labels, and its foreground's steps, compressed: at
    854 x 480 some 20 kB, and up to 400 kB more if scores are nothing but noise. Flow is the video's
    own if it has any, else DIS.

    Args:
        segmenter: Gives foreground scores [H, W].
        threshold: A score above it is foreground. Whoever reads the result uses the same.
        most: Most objects. What is left over goes to the nearest one.
        proposals: Label maps [H, W], whose labels are the regions of their frame, instead of what
            is connected; 0 is none, and labels need not agree between frames. A folder with a
            FRAME.png for each frame, or FRAME.json of a detector's boxes, of which those that agree
            with the foreground are taken (`jaxvos.box_proposals`); or a folder of such folders by
            the videos' names; or a function of the frame's number. Foreground without a proposal
            goes to the nearest one, or is a region itself where nothing connects them.
    """
    if not 1 <= most <= PROPOSALS:
        raise ValueError(f"A video has 1 to {PROPOSALS} objects, not {most}.")
    if not 0 <= threshold <= 1:
        raise ValueError(f"The threshold is {threshold}; scores are 0 to 1.")
    bound = np.float32(threshold)

    def segment(video: Video) -> Iterator[np.ndarray]:
        names = getattr(video.frames, "names", None)
        names = names or [f"{t:05d}" for t in range(len(video.frames))]
        proposed = box_proposals.frames_of(proposals, names, video.name)
        size = video.frames[0].shape[:2]
        tracks, kept = _forward(video, names, segmenter, bound, proposed)
        life = looked_back(tracks, kept, size)
        yield from _scores(kept, objects(tracks, life, most), size, bound)

    return segment


def _forward(
    video: Video,
    names: Sequence[str],
    segmenter: Segmenter,
    bound: np.float32,
    proposed: Callable[[int, np.ndarray, np.ndarray], np.ndarray] | None,
) -> tuple[list[Track], list[Kept]]:
    """All tracks, by number, and all frames with their labels as far as the past tells."""
    tracks, kept = [Track()], []
    before = labels = None
    unseen = _nothing(video.frames[0].shape[:2])
    for t, scores in enumerate(segmenter(video)):
        if t >= len(names):
            raise ValueError(f"{video.name}: more score maps than its {len(names)} frames.")
        where = f"{video.name}, frame {names[t]}"
        picture = video.frames[t]
        foreground = _foreground(scores, picture, bound, where)
        arrived = np.zeros(foreground.shape, np.int32)
        if before is not None:
            flow = _flow(video, t - 1, before, picture)
            if proposed is None:
                known = len(tracks)
                labels = _parted(labels, flow, tracks)
                if len(tracks) > known:
                    note(tracks, labels, before, t - 1)
            steps, arrived = _carried(labels, flow, t)
            kept[-1] = kept[-1]._replace(labels=packed(labels), steps=packed(steps))
            lost = _lost(labels, steps, foreground)
            _set_speeds(tracks, labels, flow, lost)
            unseen = _expected(unseen, labels, lost, tracks, t)
        if proposed is None:
            labels = _shared_out(foreground, arrived, unseen.labels, tracks)
            unseen = _hidden(unseen, foreground)
            labels = _torn(labels, unseen.labels, tracks)
        else:
            regions = _regions(proposed(t, scores, picture), foreground, where)
            labels = _matched(regions, arrived, tracks)
        labels = _filled(labels, foreground, tracks)
        note(tracks, labels, picture, t)
        levels = np.rint(np.clip(scores, 0, 1) * 255).astype(np.uint8)
        kept.append(Kept(packed(levels), packed(labels)))
        before = picture
    return tracks, kept


def _foreground(
    scores: np.ndarray, picture: np.ndarray, bound: np.float32, where: str
) -> np.ndarray:
    if np.shape(scores) != picture.shape[:2]:
        raise ValueError(
            f"{where}: scores are {np.shape(scores)}, the frame is {picture.shape[:2]}. Objects "
            f"are told apart in one foreground, [H, W]."
        )
    if not np.isfinite(scores).all():
        raise ValueError(f"{where}: {np.sum(~np.isfinite(scores))} scores are not finite.")
    return np.asarray(scores, np.float32) > bound


def _flow(video: Video, t: int, picture: np.ndarray, following: np.ndarray) -> np.ndarray:
    """[H, W, 2] from frame t to the next."""
    if video.flow is None:
        return dis(picture, following, preset="fast")
    flow = video.flow[t]
    if flow.shape != (*picture.shape[:2], 2):
        raise ValueError(f"{video.name}: flow {t} is {flow.shape}, the frame {picture.shape[:2]}.")
    return flow


def _carried(labels: np.ndarray, flow: np.ndarray, t: int) -> tuple[np.ndarray, np.ndarray]:
    """Steps [N, 2] of the labelled pixels to frame t, and the labels [H, W] where they arrive."""
    y, x = np.nonzero(labels)
    limit = max(labels.shape)  # beyond which every step leads out of the picture
    steps = np.floor(flow[y, x] + np.float32(t * DITHER % 1)).clip(-limit, limit).astype(np.int16)
    arrived = np.zeros_like(labels)
    inside, there = landed(y, x, steps, labels.shape)
    arrived[there] = labels[y[inside], x[inside]]
    return steps, arrived


def _shared_out(
    foreground: np.ndarray, arrived: np.ndarray, expected: np.ndarray, tracks: list[Track]
) -> np.ndarray:
    """Labels [H, W] of connected regions, each of the tracks that arrive in it; 0 for specks."""
    count, regions, places, _ = cv2.connectedComponentsWithStats(foreground.astype(np.uint8))
    regions, area, small = regions - 1, places[1:, 4], SMALLEST * foreground.size
    alive, votes, total = _votes(regions, count - 1, arrived)
    hidden, hopes, _ = _votes(regions, count - 1, expected)
    owners = np.zeros(count, np.int32)  # the last one is the background's, region -1
    shared = []
    for r in range(count - 1):
        enough = np.maximum(small, np.minimum(CLAIM * total, CLAIM * area[r]))
        claims = alive[votes[r] >= enough]
        if len(claims) > 1:
            shared.append((r, claims))
        elif len(claims):
            owners[r] = claims[0]
        elif votes[r].max(initial=0) >= (CLAIM * area[r] if area[r] >= small else 1):
            owners[r] = alive[votes[r].argmax()]
        elif hopes[r].max(initial=0) >= max(1, CLAIM * area[r]):
            owners[r] = hidden[hopes[r].argmax()]
        elif area[r] >= small:
            owners[r] = born(tracks, Track())
    labels = owners[regions]
    for r, claims in shared:
        x, y, width, height, _ = places[r + 1]
        box = np.s_[y : y + height, x : x + width]
        inside = regions[box] == r
        claimed = np.where(inside & np.isin(arrived[box], claims), arrived[box], 0)
        labels[box][inside] = _nearest(claimed)[inside]
    return labels


class _Unseen(NamedTuple):
    """Hidden parts of tracks: labels [H, W] int32, 0 for none, and for how many frames, uint8."""

    labels: np.ndarray
    age: np.ndarray


def _nothing(size: tuple[int, ...]) -> _Unseen:
    return _Unseen(np.zeros(size, np.int32), np.zeros(size, np.uint8))


def _lost(labels: np.ndarray, steps: np.ndarray, foreground: np.ndarray) -> np.ndarray:
    """[H, W] bool: labelled pixels whose steps end in the picture, but not in the foreground."""
    y, x = np.nonzero(labels)
    inside, there = landed(y, x, steps, labels.shape)
    lost = np.zeros(labels.shape, bool)
    lost[y[inside], x[inside]] = ~foreground[there]
    return lost


def _set_speeds(
    tracks: list[Track], labels: np.ndarray, flow: np.ndarray, lost: np.ndarray
) -> None:
    """Writes down the tracks' speeds: the median flow of what is not about to be hidden, if any."""
    for k, box in boxes(labels):
        own = labels[box] == k
        safe = own & ~lost[box]
        speed = np.median(flow[box][safe if safe.any() else own], axis=0)
        old = tracks[k].speed
        tracks[k] = tracks[k]._replace(speed=speed if old is None else (old + speed) / 2)


def _expected(
    unseen: _Unseen, labels: np.ndarray, lost: np.ndarray, tracks: list[Track], t: int
) -> _Unseen:
    """Where in frame t hidden parts would be that were hidden before, or are lost now.

    They go with their tracks.
    """
    old, new = np.nonzero(unseen.labels), np.nonzero(lost)
    y, x = (np.concatenate(each) for each in zip(old, new, strict=True))
    hidden = np.concatenate([unseen.labels[old], labels[new]])
    age = np.concatenate([unseen.age[old] + 1, np.ones(len(new[0]), np.uint8)])
    moves = np.zeros((len(tracks), 2), np.int16)
    for k in np.unique(hidden):
        moves[k] = np.floor(tracks[k].speed + t * DITHER % 1)
    inside, place = landed(y, x, moves[hidden], labels.shape)
    result = _nothing(labels.shape)
    result.labels[place], result.age[place] = hidden[inside], age[inside]
    result.labels[result.age > MEMORY] = 0
    return result


def _hidden(expected: _Unseen, foreground: np.ndarray) -> _Unseen:
    """What is hidden still: not what is narrow, the fringes that flow leaves if it is a bit off."""
    width = 2 * round(FRINGE * max(foreground.shape) / 2) + 1
    hidden = np.uint8((expected.labels > 0) & ~foreground)
    hidden = cv2.morphologyEx(hidden, cv2.MORPH_OPEN, np.ones((width, width), np.uint8))
    return _Unseen(expected.labels * hidden, expected.age * hidden)


def _votes(
    regions: np.ndarray, count: int, arrived: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Which tracks [A] arrive, and of their pixels how many: by region [R, A], and in all [A]."""
    here = arrived > 0
    alive, index = np.unique(arrived[here], return_inverse=True)
    cells = (regions[here] + 1) * len(alive) + index
    votes = np.bincount(cells, minlength=(count + 1) * len(alive)).reshape(count + 1, len(alive))
    return alive, votes[1:], votes.sum(axis=0)


def _torn(labels: np.ndarray, unseen: np.ndarray, tracks: list[Track]) -> np.ndarray:
    """Labels [H, W] where every piece of a track but the largest, if of some size, is a new one.

    What holds together by unseen parts is one piece.
    """
    small = SMALLEST * labels.size
    for k, box in boxes(labels):
        seen = labels[box] == k
        whole = seen | (unseen[box] == k)
        pieces = cv2.connectedComponents(np.uint8(whole))[1]
        area = np.bincount(pieces[seen], minlength=2)[1:]
        large = area >= max(small, PIECE * area.sum())
        large[area.argmax()] = False
        for r in np.flatnonzero(large) + 1:
            labels[box][seen & (pieces == r)] = born(tracks, Track(parent=k, torn=True))
    return labels


def _parted(labels: np.ndarray, flow: np.ndarray, tracks: list[Track]) -> np.ndarray:
    """Labels [H, W] where a part of a track that clearly moves away from the rest is a new one."""
    for k, box in boxes(labels):
        inside = labels[box] == k
        if (area := np.count_nonzero(inside)) < MOVING:
            continue
        step = max(1, int(np.sqrt(area / 2000)))  # so many pixels tell as much as all of them
        parts = two_bodies(flow[box][::step, ::step], inside[::step, ::step])
        if parts is not None:
            height, width = inside.shape
            parts = _nearest(parts).repeat(step, 0).repeat(step, 1)[:height, :width]
            labels[box][inside & (parts == 2)] = born(tracks, Track(parent=k))
    return labels


def _regions(proposed: np.ndarray, foreground: np.ndarray, where: str) -> np.ndarray:
    """Labels [H, W], 1 and up, of the proposals within the foreground and of what has none."""
    proposed = np.asarray(proposed)
    whole = proposed.dtype == bool or np.issubdtype(proposed.dtype, np.integer)
    if proposed.shape != foreground.shape or not whole or proposed.min() < 0:
        raise ValueError(
            f"{where}: proposals are {proposed.shape} of {proposed.dtype}, not whole numbers "
            f"from 0 on of the frame's size {foreground.shape}."
        )
    inside = np.where(foreground, proposed, 0)
    values, index = np.unique(inside, return_inverse=True)
    regions = index.reshape(inside.shape).astype(np.int32) + int(values[0] != 0)
    parts = cv2.connectedComponents(np.uint8(foreground))[1]
    bare = foreground & ~np.isin(parts, parts[regions > 0])
    regions[bare] = parts[bare] + len(values)
    area = np.bincount(regions.ravel())
    return np.where(area[regions] >= SMALLEST * foreground.size, regions, 0)


def _matched(regions: np.ndarray, arrived: np.ndarray, tracks: list[Track]) -> np.ndarray:
    """Labels [H, W]: each region is of the track that it overlaps, at best in all, or a new one."""
    count = int(regions.max(initial=0))
    alive, votes, total = _votes(regions - 1, count, arrived)
    area = np.bincount(regions.ravel(), minlength=count + 1)
    overlap = votes / np.maximum(area[1:, None] + total - votes, 1)
    owners = np.zeros(count + 1, np.int32)
    for r, a in zip(*linear_sum_assignment(-overlap), strict=True):
        if overlap[r, a] >= CLAIM:
            owners[r + 1] = alive[a]
    for r in np.flatnonzero((owners == 0) & (area > 0)):
        if r:
            owners[r] = born(tracks, Track())
    return owners[regions]


def _filled(labels: np.ndarray, foreground: np.ndarray, tracks: list[Track]) -> np.ndarray:
    """Labels [H, W] of the whole foreground: specks are of the nearest track."""
    left = foreground & (labels == 0)
    if left.any():
        labels[left] = _nearest(labels)[left] if labels.any() else born(tracks, Track())
    return labels


def _nearest(labels: np.ndarray) -> np.ndarray:
    """[H, W]: of every pixel the nearest label that is not 0."""
    _, index = cv2.distanceTransformWithLabels(
        np.uint8(labels == 0), cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL
    )
    table = np.zeros(index.max() + 1, labels.dtype)
    table[index[labels > 0]] = labels[labels > 0]
    return table[index]


def _scores(
    kept: list[Kept], numbers: np.ndarray, size: tuple[int, int], bound: np.float32
) -> Iterator[np.ndarray]:
    """Scores [H, W, K] of each frame."""
    nearest = np.ones(size, np.int32)
    count = max(int(numbers.max()), 1)
    for frame in kept:
        labels = unpacked(frame.labels, np.int32).reshape(size)
        own = numbers[labels]
        if own.any():  # else that of the frame before
            nearest = _nearest(own)
        levels = unpacked(frame.levels, np.uint8).reshape(size) / np.float32(255)
        # Rounding must not move a score across the threshold.
        above, below = np.maximum(levels, np.nextafter(bound, 1)), np.minimum(levels, bound)
        scores = np.zeros((*size, count), np.float32)
        chosen = np.where(labels > 0, above, below)
        np.put_along_axis(scores, nearest[..., None] - 1, chosen[..., None], axis=-1)
        yield scores
