"""Tracks of regions through a video: what is kept of each, and which together are one object."""

import zlib
from typing import NamedTuple

import cv2
import numpy as np
from scipy.ndimage import find_objects
from scipy.optimize import linear_sum_assignment

APART = 0.15
"""Pieces are two objects if ever a gap of this times the smaller one's size (the square root of its
area) was between them: tears of a few pixels stay below, objects that part are soon beyond."""
SHOWN = 0.3
"""Share of its largest area below which a track is coming or going, and its place is no guide."""
UNLIKE = 0.4
"""Dearest link, see `_costs`: say a quarter of the colours other, and a size and a half away."""
FAINT = 0.01
"""Tracks with less than this share of the largest one's area x duration are no objects."""
MEMORY = 25
"""Frames for which what is hidden is expected back: a second."""
LINKED = 400
"""So many tracks, the largest, are linked at the end: only 20 of them can be kept."""


class Seen(NamedTuple):
    """A track in one frame: its area in pixels, its centre [2] (x, y), shares [64] of colours."""

    frame: int
    area: int
    centre: np.ndarray
    colours: np.ndarray


class Track(NamedTuple):
    """What is kept of a track. Number 0 is none.

    Attributes:
        parent: The track that it was part of; 0 if it began by itself.
        torn: Whether it came off its parent in a piece, which may turn out to belong to it.
        first: How it was first seen.
        last: How it was last seen.
        best: How it was seen when it was largest.
        speed: [2] pixels a frame (x, y), the mean of the last two or three: longer than noise,
            shorter than a turn. None before its second frame.
    """

    parent: int = 0
    torn: bool = False
    first: Seen | None = None
    last: Seen | None = None
    best: Seen | None = None
    speed: np.ndarray | None = None


class Kept(NamedTuple):
    """A frame between the passes, compressed.

    Attributes:
        levels: [H, W] uint8 scores, as 255ths.
        labels: [H, W] int32: 0 background, else a track's number.
        steps: [N, 2] int16: how far each labelled pixel goes until the next frame, (x, y) pixels.
    """

    levels: bytes
    labels: bytes
    steps: bytes = b""


class Life(NamedTuple):
    """Of every track n, number 0 included: arrays [n].

    Attributes:
        area: In all frames together, pixels.
        start: Its first frame.
        end: Its last frame; -1 if nothing of it is left.
        gap: Widest gap to its parent, pixels.
    """

    area: np.ndarray
    start: np.ndarray
    end: np.ndarray
    gap: np.ndarray


def born(tracks: list[Track], track: Track) -> int:
    """The number of a new track."""
    tracks.append(track)
    return len(tracks) - 1


def note(tracks: list[Track], labels: np.ndarray, picture: np.ndarray, t: int) -> None:
    """Writes down how every track looks in frame t."""
    for k, box in boxes(labels):
        y, x = np.nonzero(labels[box] == k)
        colours = picture[box][y, x].astype(np.intp) >> 6
        shares = np.bincount(colours @ [16, 4, 1], minlength=64).astype(np.float32) / len(x)
        centre = np.array([x.mean() + box[1].start, y.mean() + box[0].start])
        seen, track = Seen(t, len(x), centre, shares), tracks[k]
        best = track.best if track.best and track.best.area >= seen.area else seen
        tracks[k] = track._replace(first=track.first or seen, last=seen, best=best)


def looked_back(tracks: list[Track], kept: list[Kept], size: tuple[int, int]) -> Life:
    """The tracks' lives, after each has taken its pixels of earlier frames from its parent.

    The labels of `kept` are replaced.
    """
    life = Life(*(np.zeros(len(tracks), np.int64) for _ in range(3)), np.zeros(len(tracks)))
    life.end[:] = -1
    parents = np.array([track.parent for track in tracks])
    labels = None
    for t in reversed(range(len(kept))):
        earlier = unpacked(kept[t].labels, np.int32).reshape(size).copy()
        if labels is not None:
            y, x = np.nonzero(earlier)
            inside, there = landed(y, x, unpacked(kept[t].steps, np.int16).reshape(-1, 2), size)
            now, later = earlier[y[inside], x[inside]], labels[there]
            taken = _descends(parents, later, now)
            earlier[y[inside][taken], x[inside][taken]] = later[taken]
            kept[t] = kept[t]._replace(labels=packed(earlier), steps=b"")
        labels = earlier
        _count(life, tracks, labels, t)
    return life


def _descends(parents: np.ndarray, tracks: np.ndarray, others: np.ndarray) -> np.ndarray:
    """[N] bool: whether each of the tracks [N] came from the other one [N], however long ago."""
    result = np.zeros(tracks.shape, bool)
    while tracks.any():
        tracks = parents[tracks]
        result |= (tracks == others) & (tracks > 0)
    return result


def _count(life: Life, tracks: list[Track], labels: np.ndarray, t: int) -> None:
    """Adds frame t to the lives; all later ones are in them."""
    distances = {}  # to each parent
    for k, area in zip(*np.unique(labels[labels > 0], return_counts=True), strict=True):
        life.area[k] += area
        life.start[k] = t
        life.end[k] = max(life.end[k], t)
        parent = tracks[k].parent
        if not tracks[k].torn or area < SHOWN * tracks[k].best.area:
            continue
        if parent not in distances:
            distances[parent] = _distance(labels == parent)
        if distances[parent] is not None:
            life.gap[k] = max(life.gap[k], distances[parent][labels == k].min() - 1)


def _distance(mask: np.ndarray) -> np.ndarray | None:
    """[H, W] pixels to the mask; None if it is empty."""
    return cv2.distanceTransform(np.uint8(~mask), cv2.DIST_L2, 5) if mask.any() else None


def objects(tracks: list[Track], life: Life, most: int) -> np.ndarray:
    """[n]: which object, 1 to K, each track is part of; 0 for none. The largest is 1."""
    whole = np.arange(len(tracks))
    for k, track in enumerate(tracks):
        if track.torn:
            smaller = min(track.best.area, tracks[track.parent].best.area)
            if life.gap[k] < APART * np.sqrt(smaller):
                whole[k] = whole[track.parent]
    area = np.bincount(whole, life.area, minlength=len(tracks))
    largest = np.argsort(-area, kind="stable")
    whole = _linked(whole, largest[area[largest] > 0][:LINKED], tracks, life)
    area = np.bincount(whole, life.area, minlength=len(tracks))
    best = np.argsort(-area, kind="stable")[:most]
    best = best[area[best] >= max(FAINT * area.max(), 1)]
    numbers = np.zeros(len(tracks), np.int32)
    numbers[best] = np.arange(1, len(best) + 1)
    return numbers[whole]


def _linked(whole: np.ndarray, groups: np.ndarray, tracks: list[Track], life: Life) -> np.ndarray:
    """`whole` [n] where groups of tracks that go on in a later group have its number, in chains.

    One goes on in another that begins when it has ended; or, for what comes out on the one side of
    something while it still goes in on the other, that is small at first while it is small at last.
    """
    if not len(groups):
        return whole
    members = [np.flatnonzero((whole == g) & (life.end >= 0)) for g in groups]
    firsts = np.array([each[life.start[each].argmin()] for each in members])
    lasts = np.array([each[life.end[each].argmax()] for each in members])
    start, end = life.start[firsts], life.end[lasts]
    gone = end[:, None] < start
    passing = (start[:, None] < start) & (end[:, None] < end) & (end[:, None] <= start + MEMORY)
    fading = np.array([tracks[k].last.area < SHOWN * tracks[k].best.area for k in lasts])
    rising = np.array([tracks[k].first.area < SHOWN * tracks[k].best.area for k in firsts])
    new = np.array([not tracks[k].parent for k in firsts])
    possible = new & (gone | passing & fading[:, None] & rising)
    costs = _costs([tracks[k] for k in lasts], [tracks[k] for k in firsts])
    costs = np.where(possible, costs, np.inf).clip(max=2 * UNLIKE)  # as dear as no link at all
    pasts = {}
    for i, j in zip(*linear_sum_assignment(costs), strict=True):
        if costs[i, j] <= UNLIKE:
            pasts[groups[j]] = groups[i]
    result = whole.copy()
    for group in groups:
        root = group
        while root in pasts:  # a past began earlier, so this ends
            root = pasts[root]
        result[whole == group] = root
    return result


def _costs(ended: list[Track], begun: list[Track]) -> np.ndarray:
    """[E, B]: how unlikely it is that one track is the other's past; 0 if it looks and lies so.

    Colours that differ count fully, at the end and the beginning or when both were largest: what is
    more alike. Each size away, and an area e times the other, count a tenth: what was long hidden
    may be anywhere. It has gone on while unseen, or stayed.
    """
    last, best = ([getattr(track, when) for track in ended] for when in ("last", "best"))
    first, later = ([getattr(track, when) for track in begun] for when in ("first", "best"))
    likeness = np.maximum(_likeness(last, first), _likeness(best, later))
    left, came = np.array([s.area for s in best])[:, None], np.array([s.area for s in later])
    way = np.stack([s.centre for s in first]) - np.stack([s.centre for s in last])[:, None]
    frames = np.array([s.frame for s in first]) - np.array([s.frame for s in last])[:, None]
    speeds = [np.zeros(2) if track.speed is None else track.speed for track in ended]
    speed = np.stack(speeds)[:, None]
    ways = np.stack([way, way - speed * frames[..., None]])
    distance = np.linalg.norm(ways, axis=-1).min(axis=0) / np.sqrt(np.maximum(left, came))
    return 1 - likeness + 0.1 * distance + 0.1 * np.abs(np.log(left / came))


def _likeness(some: list[Seen], others: list[Seen]) -> np.ndarray:
    """[S, O] from 0 to 1: Bhattacharyya coefficients of the colours."""
    one, other = (np.sqrt(np.stack([seen.colours for seen in each])) for each in (some, others))
    return one @ other.T


def boxes(labels: np.ndarray) -> list[tuple[int, tuple[slice, slice]]]:
    """The labels that occur, each with the rows and columns that it lies in."""
    return [(k, box) for k, box in enumerate(find_objects(labels), 1) if box]


def landed(
    y: np.ndarray, x: np.ndarray, steps: np.ndarray, size: tuple[int, ...]
) -> tuple[np.ndarray, tuple[np.ndarray, np.ndarray]]:
    """Which pixels [N] stay in the picture after their steps [N, 2], and (y, x) of those."""
    y, x = y + steps[:, 1], x + steps[:, 0]
    inside = (y >= 0) & (y < size[0]) & (x >= 0) & (x < size[1])
    return inside, (y[inside], x[inside])


def packed(values: np.ndarray) -> bytes:
    """The values, compressed; `unpacked` needs their type."""
    return zlib.compress(values.tobytes(), 1)


def unpacked(values: bytes, dtype: type) -> np.ndarray:
    """The values [N] of `packed`, read-only."""
    return np.frombuffer(zlib.decompress(values), dtype)
