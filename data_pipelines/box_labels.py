"""Labels of what moves, made of boxes: masks of a still-image network that boxes and flow agree on.

Jain, Xiong, Grauman, "FusionSeg", CVPR 2017, trained its motion stream on these: ImageNet-VID has
boxes and no masks. Of what the appearance stream finds in a frame, what lies in a given box is kept
if it fills the box and if it moves; a frame in which nothing is kept is not trained on.

    python -m data_pipelines.box_labels VIDEO BOXES MASKS LABELS --flow dis

VIDEO is a folder of frames, BOXES holds FRAME.json for every frame with boxes, as
`jaxvos.box_proposals` reads them ([{"bbox": [x, y, width, height], "score": 1}, ...]), MASKS holds
FRAME.png, as `jaxvos segment` writes them (OUT/masks) with the appearance's weights, and LABELS
becomes a data set in the DAVIS layout, to which further videos may be added. Every frame that is
kept is a video of its own there, VIDEO-FRAME, of it and the next one, to which its flow leads; the
mask of the next one is empty and not trained on. Pictures are links to the originals.

Not certain: that the box around what is kept has to overlap the given one by 75 % (intersection
over union), as `overlap` has it. What is "moving enough" is not known to us: `motion`, the mean
length of the flow, 1 pixel, is ours.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from jaxvos import box_proposals
from jaxvos.davis_layout import read_labels
from jaxvos.flow.fields import with_flow
from jaxvos.video import open_video, write_mask

OVERLAP = 0.75
MOTION = 1.0

Box = Sequence[float]


def label(
    mask: np.ndarray,
    boxes: Sequence[Box],
    flow: np.ndarray,
    *,
    overlap: float = OVERLAP,
    motion: float = MOTION,
) -> np.ndarray | None:
    """[H, W] bool: all that is kept of a frame; None if it is nothing.

    Args:
        mask: [H, W] bool, what looks like an object.
        boxes: (x, y, width, height) in pixels, given by people.
        flow: [H, W, 2] in pixels, to the next frame.
        overlap: See `fills`.
        motion: See `moves`.
    """
    if mask.shape != flow.shape[:2]:
        raise ValueError(f"A mask of {mask.shape} pixels has no flow of {flow.shape[:2]}.")
    parts = [inside(mask, box) for box in boxes]
    kept = [
        part
        for part, box in zip(parts, boxes, strict=True)
        if fills(part, box, overlap) and moves(part, flow, motion)
    ]
    return np.any(kept, axis=0) if kept else None


def inside(mask: np.ndarray, box: Box) -> np.ndarray:
    """[H, W] bool: what of a mask is in a box."""
    return mask & _filled(box, mask.shape)


def fills(part: np.ndarray, box: Box, overlap: float = OVERLAP) -> bool:
    """Whether the tight box around a part overlaps the given one enough.

    Args:
        part: [H, W] bool.
        box: (x, y, width, height) in pixels.
        overlap: The least intersection over union.
    """
    if not part.any():
        return False
    rows, columns = (np.flatnonzero(part.any(axis=axis)) for axis in (1, 0))
    tight = columns[0], rows[0], columns[-1] + 1 - columns[0], rows[-1] + 1 - rows[0]
    return box_proposals.overlap(tight, _filled(box, part.shape)) >= overlap


def moves(part: np.ndarray, flow: np.ndarray, motion: float = MOTION) -> bool:
    """Whether the flow [H, W, 2] in a part [H, W] is `motion` pixels long at least, on average."""
    return bool(part.any() and np.linalg.norm(flow[part], axis=-1).mean() >= motion)


def _filled(box: Box, size: tuple[int, ...]) -> np.ndarray:
    """[H, W] bool of a box, its part within the picture, to whole pixels."""
    x, y, width, height = (int(np.floor(value)) for value in box)
    filled = np.zeros(size, bool)
    filled[max(y, 0) : max(y + height, 0), max(x, 0) : max(x + width, 0)] = True
    return filled


def label_video(
    video: str | Path,
    boxes: str | Path,
    masks: str | Path,
    labels: str | Path,
    *,
    flow: str | Path = "dis",
    overlap: float = OVERLAP,
    motion: float = MOTION,
) -> list[str]:
    """The frames of which labels were written (see above), by name.

    Args:
        video: A folder of frames.
        boxes: A folder of FRAME.json; frames without one are left out, as is the last frame.
        masks: A folder of FRAME.png, objects not 0; frames with boxes must have one.
        labels: The data set that is made, or added to.
        flow: What `jaxvos.flow.fields.with_flow` takes.
        overlap: See `fills`.
        motion: See `moves`.
    """
    clip = open_video(video)
    files = getattr(clip.frames, "files", None)
    if files is None:
        raise ValueError(f"{video} is a film: its frames are wanted as pictures, in a folder.")
    listed = {
        t: file
        for t, name in enumerate(clip.frames.names[:-1])
        if (file := Path(boxes) / f"{name}.json").is_file()
    }
    if not listed:
        raise ValueError(
            f"{boxes} has no boxes of {video}: a frame's are in FRAME.json, such as "
            f"{files[0].stem}.json, and the last frame's are not used."
        )
    fields, written = with_flow(clip, flow).flow, []
    for t, file in listed.items():
        given = [proposal.box for proposal in box_proposals.read(file)]
        mask = read_labels(Path(masks) / f"{files[t].stem}.png") != 0
        kept = label(mask, given, fields[t], overlap=overlap, motion=motion)
        if kept is not None:
            _write(Path(labels), f"{clip.name}-{files[t].stem}", files[t : t + 2], kept)
            written.append(files[t].stem)
    return written


def _write(labels: Path, name: str, pair: Sequence[Path], kept: np.ndarray) -> None:
    """Adds one video: a frame and the next one, linked, and their masks."""
    pictures, masks = (labels / kind / name for kind in ("JPEGImages", "Annotations"))
    for folder in (pictures, masks):
        folder.mkdir(parents=True, exist_ok=True)
    for file, mask in zip(pair, (kept, np.zeros_like(kept)), strict=True):
        link = pictures / file.name
        link.unlink(missing_ok=True)
        link.symlink_to(file.resolve())
        write_mask(masks / f"{file.stem}.png", mask)


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs `label_video` with the command's arguments."""
    parser = argparse.ArgumentParser(prog="python -m data_pipelines.box_labels")
    for name in ("video", "boxes", "masks", "labels"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--flow", default="dis", help="dis, raft:WEIGHTS or a folder")
    parser.add_argument("--overlap", type=float, default=OVERLAP, help="least IoU of two boxes")
    parser.add_argument("--motion", type=float, default=MOTION, help="least mean length in pixels")
    options = vars(parser.parse_args(arguments))
    written = label_video(**options)
    print(f"{options['labels']}: labels of {len(written)} frames of {options['video']}.")


if __name__ == "__main__":
    main()
