"""Object proposals from files, and which of a video's first frame are instances of the foreground.

The released selection of AGNN (Wang et al., ICCV 2019) for DAVIS-2017: a detector's boxes are kept
where they agree with the foreground, or are sure of themselves. What follows there, masks and
tracks, is PReMVOS's, which starts from the file that `write` makes.

A file of proposals is JSON, a list of {"bbox": [x, y, width, height], "score": 0..1, ...} for one
frame; what else an entry holds is left aside.
"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jaxvos import crf
from jaxvos.davis_layout import read_labels
from jaxvos.metrics.davis17 import PROPOSALS
from jaxvos.whole_file import whole_file

Proposals = str | Path | Callable[[int], np.ndarray]
"""A folder of proposals, or a function of a frame's number that gives their labels [H, W]."""

CRF = "agnn"
"""AGNN's settings. Its selection used a CRF that was not released; these stand in for it."""
OVERLAP = 0.35
"""Of two boxes that overlap by more (intersection over union) the one of lower score goes."""
SMALLEST = 200
"""Smaller boxes, in pixels, are no objects; they are if nothing else is left."""


class Proposal(NamedTuple):
    """A box (x, y, width, height) in pixels, and how sure its detector is, 0 to 1."""

    box: tuple[float, float, float, float]
    score: float


def read(path: str | Path) -> list[Proposal]:
    """The proposals of a JSON file, in its order."""
    found = json.loads(Path(path).read_text())
    if not isinstance(found, list):
        raise ValueError(f"{path}: proposals are a list of entries, not a {type(found).__name__}.")
    return [_proposal(entry, f"{path}, entry {i}") for i, entry in enumerate(found)]


def _proposal(entry: object, where: str) -> Proposal:
    if not isinstance(entry, dict) or not {"bbox", "score"} <= entry.keys():
        raise ValueError(
            f'{where}: a proposal is {{"bbox": ..., "score": ...}}, not {entry!r:.80}.'
        )
    try:
        box = tuple(float(value) for value in entry["bbox"])
        made = Proposal(box, float(entry["score"]))
    except (TypeError, ValueError) as error:
        raise ValueError(f"{where}: no numbers in {entry!r:.80}.") from error
    if len(box) != 4 or not np.isfinite([*box, made.score]).all() or min(box[2:]) < 0:
        raise ValueError(f"{where}: a box is [x, y, width, height] in pixels, not {list(box)}.")
    return made


def select(
    proposals: Sequence[Proposal],
    scores: np.ndarray,
    frame: np.ndarray,
    *,
    sure: float = 0.89,
    most: int = PROPOSALS,
) -> list[Proposal]:
    """The proposals that are instances, surest first: at most `most`, perhaps none.

    One is kept if it agrees with the foreground (IoU above 0.09, score above 0.56), or is sure.
    If none is, those above 0.7 are, small ones too: the released code then asks for overlap with
    a map that is zero everywhere, so that the score alone decides.

    Args:
        proposals: Of the frame, in any order.
        scores: [H, W] float32 in [0, 1], the segmenter's for the frame.
        frame: [H, W, 3] uint8 RGB, for the CRF that sharpens the scores.
        sure: Score above which a proposal needs no foreground. Released: 0.84 for the video "cat".
        most: The DAVIS-2017 protocol allows 20.
    """
    size = frame.shape[:2]
    for proposal in proposals:
        _check_inside(proposal.box, size)
    foreground = _foreground(scores, frame)
    distinct = suppress(proposals)

    def kept(proposal: Proposal) -> bool:
        width, height = np.floor(proposal.box[2:])
        agrees = proposal.score > 0.56 and overlap(proposal.box, foreground) > 0.09
        return width * height >= SMALLEST and (agrees or proposal.score > sure)

    chosen = [proposal for proposal in distinct if kept(proposal)]
    chosen = chosen or [proposal for proposal in distinct if proposal.score > 0.7]
    return chosen[:most]


def _foreground(scores: np.ndarray, frame: np.ndarray) -> np.ndarray:
    """[H, W] bool: grey values through a sigmoid, as released, and the CRF."""
    if np.shape(scores) != frame.shape[:2]:
        raise ValueError(f"Scores are {np.shape(scores)}, the frame is {frame.shape[:2]}.")
    grey = np.floor(255 * np.asarray(scores, np.float64))
    heat = 1 / (1 + np.exp(-0.1 * (grey - 0.02)))
    return crf.refine(frame, heat, CRF) > 0.5


def suppress(proposals: Sequence[Proposal], threshold: float = OVERLAP) -> list[Proposal]:
    """Those that no surer one overlaps by more than `threshold`, surest first."""
    kept: list[Proposal] = []
    for one in sorted(proposals, key=lambda p: -p.score):
        if all(_box_overlap(one.box, other.box) <= threshold for other in kept):
            kept.append(one)
    return kept


def overlap(box: Sequence[float], mask: np.ndarray) -> float:
    """Intersection over union of a filled box, clipped to the picture, and a mask [H, W] bool."""
    x, y, width, height = (int(np.floor(value)) for value in box)
    inside = mask[max(y, 0) : max(y + height, 0), max(x, 0) : max(x + width, 0)]
    union = mask.sum() + inside.size - inside.sum()
    return float(inside.sum() / union) if union else 0.0


def labels(proposals: Sequence[Proposal], size: tuple[int, int]) -> np.ndarray:
    """[H, W] uint8: which box a pixel is in, 1 the first; where boxes overlap the smallest one."""
    found = np.zeros(size, np.uint8)
    area = [proposal.box[2] * proposal.box[3] for proposal in proposals]
    for i in sorted(range(len(proposals)), key=lambda i: -area[i]):
        x, y, width, height = (int(np.floor(value)) for value in proposals[i].box)
        found[max(y, 0) : max(y + height, 0), max(x, 0) : max(x + width, 0)] = i + 1
    return found


def write(proposals: Sequence[Proposal], path: str | Path) -> None:
    """Writes instances as released: a list of {bbox, id, score}, ids from 1."""
    rows = [
        {"bbox": list(p.box), "id": i, "score": p.score} for i, p in enumerate(proposals, start=1)
    ]
    with whole_file(path) as partial:
        partial.write_text(json.dumps(rows, sort_keys=True, indent=4))


def frames_of(
    proposals: Proposals | None, names: Sequence[str], video: str
) -> Callable[[int, np.ndarray, np.ndarray], np.ndarray] | None:
    """(t, scores [H, W], picture [H, W, 3]) -> labels [H, W] of the proposals of frame t; or None.

    Args:
        proposals: A function of t; or a folder of FRAME.png or .json, or of such folders by video,
            which must have those of all frames.
        names: The frames'.
        video: Its name.
    """
    if proposals is None:
        return None
    if callable(proposals):
        return lambda t, *_: proposals(t)
    own = Path(proposals, video)
    folder = own if own.is_dir() else Path(proposals)
    files = [_file(folder, name) for name in names]
    missing = [name for name, file in zip(names, files, strict=True) if file is None]
    if missing:
        raise ValueError(
            f"{folder} has no proposals for {len(missing)} of {len(files)} frames; the first that "
            f"is missing is {missing[0]} (.png or .json)."
        )

    def proposed(t: int, scores: np.ndarray, picture: np.ndarray) -> np.ndarray:
        if files[t].suffix == ".png":
            return read_labels(files[t])
        chosen = select(read(files[t]), scores, picture)
        return labels(chosen, picture.shape[:2])

    return proposed


def _file(folder: Path, name: str) -> Path | None:
    found = (folder / f"{name}{suffix}" for suffix in (".png", ".json"))
    return next((file for file in found if file.is_file()), None)


def _box_overlap(a: Sequence[float], b: Sequence[float]) -> float:
    sides = [min(a[i] + a[i + 2], b[i] + b[i + 2]) - max(a[i], b[i]) for i in (0, 1)]
    shared = max(sides[0], 0) * max(sides[1], 0)
    total = a[2] * a[3] + b[2] * b[3] - shared
    return shared / total if total > 0 else 0.0


def _check_inside(box: Sequence[float], size: tuple[int, ...]) -> None:
    x, y, width, height = box
    if x >= size[1] or y >= size[0] or x + width <= 0 or y + height <= 0:
        raise ValueError(
            f"The box {list(box)} (x, y, width, height) lies outside the picture, which is "
            f"{size[1]} x {size[0]}: are these proposals of another video, or of another size?"
        )
