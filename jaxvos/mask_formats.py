"""Masks written frame by frame: as PNG files, as run lengths, as COCO annotations, as a film.

- "png": masks/NAME.png, each frame's labels, indexed with the DAVIS palette.
- "rle": masks.json, the run lengths of every object in every frame. `decode_rle` gives the mask:

      {"video": NAME, "size": [H, W], "rate": frames a second, "frames": [
          {"name": NAME, "objects": [{"label": 1, "rle": {"size": [H, W], "counts": [...]}}]}]}

- "coco": coco.json, the same in the form of the COCO data set, for pycocotools and what builds on
  it: an image a frame, an annotation an object and frame; see `_coco`.
- "mp4": masks.mp4, for looking at: H.264 is lossy, so that its colours are not labels again.

A run-length encoding (RLE) is {"size": [H, W], "counts": ...}. The counts are the lengths of the
runs of zeros and ones in turn, zeros first, column after column. COCO also packs them into text.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxvos.drawing import davis_palette
from jaxvos.film_writer import film_writer
from jaxvos.video import write_mask

CHARACTERS = 7  # of 5 bits each, at most, that a count takes: enough for 2^34 pixels


class Clip(NamedTuple):
    """What is known of a video before its masks are.

    Attributes:
        name: What the video is called.
        frames: What its frames are called, without suffix.
        files: The file names of its pictures, as COCO has them.
        size: (H, W) in pixels.
        rate: Frames a second.
    """

    name: str
    frames: Sequence[str]
    files: Sequence[str]
    size: tuple[int, int]
    rate: float


Keep = Callable[[int, np.ndarray, np.ndarray], None]
"""Keeps frame t: labels [H, W] uint8, and the scores [H, W] or [H, W, K] that they come from."""


class Format(NamedTuple):
    """A way of writing masks.

    Attributes:
        product: The name of the file or folder.
        writer: (its path, clip) -> a context with the function that keeps a frame.
    """

    product: str
    writer: Callable[[Path, Clip], AbstractContextManager[Keep]]


def known_formats(formats: str | Sequence[str]) -> tuple[str, ...]:
    """The names of formats, each once, from a sequence or from "png,rle"."""
    names = formats.split(",") if isinstance(formats, str) else formats
    names = tuple(dict.fromkeys(name.strip() for name in names))
    if unknown := [name for name in names if name not in FORMATS]:
        raise ValueError(
            f"No format of masks is called {unknown[0]!r}. There are: {', '.join(FORMATS)}."
        )
    if not names:
        raise ValueError(f"No format to write masks in; choose some of: {', '.join(FORMATS)}.")
    return names


@contextmanager
def mask_writer(folder: Path, clip: Clip, formats: Sequence[str]) -> Iterator[Keep]:
    """A function that writes one frame after the other to `folder` in every one of the formats.

    What it keeps in memory does not grow. The files are whole when the block has ended without an
    exception; `whole_folder` throws them away otherwise.
    """
    with ExitStack() as stack:
        chosen = [FORMATS[name] for name in known_formats(formats)]
        writers = [stack.enter_context(f.writer(folder / f.product, clip)) for f in chosen]

        def keep(t: int, labels: np.ndarray, scores: np.ndarray) -> None:
            for write in writers:
                write(t, labels, scores)

        yield keep


def encode_rle(mask: np.ndarray) -> dict[str, Any]:
    """The RLE of a mask [H, W], all labels but 0 as one, with a list of counts."""
    mask = np.asarray(mask)
    if mask.ndim != 2 or not mask.size or mask.dtype.kind not in "bui":
        raise ValueError(f"A mask is [H, W] labels, not {mask.dtype} {mask.shape}.")
    columns = np.ascontiguousarray((mask != 0).T).ravel()
    turns = np.flatnonzero(columns[1:] != columns[:-1]) + 1
    first = [0, 0] if columns[0] else [0]  # there are always zeros first, if only 0 of them
    counts = np.diff(np.concatenate((first, turns, [columns.size])))
    return {"size": list(mask.shape), "counts": counts.tolist()}


def compress_rle(rle: Mapping[str, Any]) -> dict[str, Any]:
    """The RLE with its list of counts packed into text, as COCO's own encoder does it.

    From the fourth on, a count is its difference from the count two before. A number goes five bits
    a character, the lowest first, in as few as hold it and its sign; 32 is added where another
    character of the number follows, and 48 to all.
    """
    counts = np.array(rle["counts"], np.int64)
    numbers = counts.copy()
    numbers[3:] -= counts[1:-2]
    shifts = 5 * np.arange(CHARACTERS)
    magnitude = np.where(numbers < 0, ~numbers, numbers)
    follows = magnitude[:, None] >> shifts + 4 > 0
    characters = (numbers[:, None] >> shifts & 31) + 32 * follows + 48
    written = np.insert(follows[:, :-1], 0, True, axis=1)
    text = characters[written].astype(np.uint8).tobytes().decode("ascii")
    return {"size": list(rle["size"]), "counts": text}


def decode_rle(rle: Mapping[str, Any]) -> np.ndarray:
    """The mask [H, W] bool of an RLE, whose counts are a list or packed (str or bytes)."""
    if not isinstance(rle, Mapping) or not {"size", "counts"} <= rle.keys():
        raise ValueError(f'An RLE is {{"size": [H, W], "counts": ...}}, not {str(rle)[:80]}.')
    height, width = rle["size"]
    counts = rle["counts"]
    counts = _unpacked(counts) if isinstance(counts, str | bytes) else np.asarray(counts, np.int64)
    if (counts < 0).any():
        raise ValueError(f"An RLE has a run of {counts.min()} pixels.")
    if counts.sum() != height * width:
        raise ValueError(
            f"The runs of an RLE are {counts.sum()} pixels together; {height} x {width} are "
            f"{height * width}."
        )
    columns = np.repeat(np.arange(counts.size) % 2 == 1, counts)
    return columns.reshape(width, height).T


def area_and_box(rle: Mapping[str, Any]) -> tuple[int, list[int]]:
    """Pixels of the mask of an RLE with a list of counts, and the box [x, y, w, h] around them."""
    height, edges = rle["size"][0], np.cumsum(rle["counts"])
    starts, ends = edges[:-1:2], edges[1::2]
    if not starts.size:
        return 0, [0, 0, 0, 0]
    left, right = starts // height, (ends - 1) // height
    top, bottom = starts % height, (ends - 1) % height
    if (left < right).any():  # a run goes on from the bottom of a column at the top of the next
        top, bottom = np.array([0]), np.array([height - 1])
    x, y = int(left[0]), int(top.min())
    box = [x, y, int(right[-1]) - x + 1, int(bottom.max()) - y + 1]
    return int((ends - starts).sum()), box


def _unpacked(text: str | bytes) -> np.ndarray:
    """The counts that `compress_rle` packed, int64."""
    packed = text.encode() if isinstance(text, str) else text
    digits = np.frombuffer(packed, np.uint8).astype(np.int64) - 48
    if not digits.size or digits.min() < 0 or digits.max() > 63 or digits[-1] >= 32:
        raise ValueError(f"These are no packed counts of an RLE: {text[:40]!r}.")
    last = np.flatnonzero(digits < 32)  # each number's last character
    first = np.concatenate(([0], last[:-1] + 1))
    place = np.arange(digits.size) - np.repeat(first, last - first + 1)
    if place.max() >= CHARACTERS:
        raise ValueError(f"A packed count of an RLE is past {CHARACTERS} characters.")
    numbers = np.add.reduceat((digits & 31) << 5 * place, first)
    numbers -= (digits[last] >> 4 & 1) << 5 * (place[last] + 1)
    for chain in (numbers[1::2], numbers[2::2]):
        np.cumsum(chain, out=chain)
    return numbers


@contextmanager
def _png(folder: Path, clip: Clip) -> Iterator[Keep]:
    folder.mkdir()
    yield lambda t, labels, _: write_mask(folder / f"{clip.frames[t]}.png", labels)


@contextmanager
def _rle(path: Path, clip: Clip) -> Iterator[Keep]:
    head = {"video": clip.name, "size": clip.size, "rate": clip.rate}
    with _json_list(path, head, "frames") as append:

        def keep(t: int, labels: np.ndarray, _: np.ndarray) -> None:
            objects = [{"label": k, "rle": encode_rle(mask)} for k, mask in _objects(labels)]
            append({"name": clip.frames[t], "objects": objects})

        yield keep


@contextmanager
def _coco(path: Path, clip: Clip) -> Iterator[Keep]:
    """Ids count from 1, since COCO's evaluation takes 0 for none.

    An annotation's track_id is the object's label, the same all through the video; its score is the
    average over the object's pixels.
    """
    size = {"width": clip.size[1], "height": clip.size[0]}
    head = {
        "info": {"description": f"{clip.name}, segmented by jaxvos"},
        "videos": [{"id": 1, "name": clip.name, "length": len(clip.frames), **size}],
        "categories": [{"id": 1, "name": "object", "supercategory": "object"}],
        "images": [
            {"id": t + 1, "file_name": file, **size, "video_id": 1, "frame_index": t}
            for t, file in enumerate(clip.files)
        ],
    }
    with _json_list(path, head, "annotations") as append:
        written = 0

        def keep(t: int, labels: np.ndarray, scores: np.ndarray) -> None:
            nonlocal written
            for label, mask in _objects(labels):
                written += 1
                of_object = scores if scores.ndim == 2 else scores[..., label - 1]
                score = round(float(of_object[mask].mean(dtype=np.float64)), 6)
                about = {"id": written, "image_id": t + 1, "category_id": 1, "track_id": label}
                append({**about, "score": score, **_annotation(mask)})

        yield keep


def _annotation(mask: np.ndarray) -> dict[str, Any]:
    rle = encode_rle(mask)
    area, box = area_and_box(rle)
    return {"segmentation": compress_rle(rle), "area": area, "bbox": box, "iscrowd": 0}


@contextmanager
def _mp4(path: Path, clip: Clip) -> Iterator[Keep]:
    """A single object is white, of several each has the colour of its label; the rest is black."""
    palette = davis_palette()
    white = np.concatenate((palette[:1], np.full((255, 3), 255, np.uint8)))
    with film_writer(path, clip.rate) as append:

        def keep(_: int, labels: np.ndarray, scores: np.ndarray) -> None:
            several = scores.ndim == 3 and scores.shape[-1] > 1
            append(np.take(palette if several else white, labels, axis=0))

        yield keep


FORMATS = {
    "png": Format("masks", _png),
    "rle": Format("masks.json", _rle),
    "mp4": Format("masks.mp4", _mp4),
    "coco": Format("coco.json", _coco),
}


def _objects(labels: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """Every label in the frame but 0, with its mask [H, W] bool."""
    for label in range(1, int(labels.max()) + 1):
        mask = labels == label
        if mask.any():
            yield label, mask


@contextmanager
def _json_list(path: Path, head: Mapping[str, Any], key: str) -> Iterator[Callable[[Any], None]]:
    """A function that appends a row to the list under `key`, which comes last in the object."""
    with path.open("w", encoding="ascii") as file:
        file.write(json.dumps(head)[:-1] + f', "{key}": [')
        separator = "\n"

        def append(row: Any) -> None:
            nonlocal separator
            file.write(separator + json.dumps(row))
            separator = ",\n"

        yield append
        file.write("\n]}\n")
