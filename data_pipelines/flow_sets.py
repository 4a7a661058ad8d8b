"""Data sets of optical flow as they are shipped: which pictures and flow files belong together.

FlyingChairs (Dosovitskiy et al., ICCV 2015): pairs, 00001_img1.ppm, 00001_img2.ppm, 00001_flow.flo
in data/ or the folder itself, and perhaps a list FlyingChairs_train_val.txt, 1 for training and 2
for validation. FlyingThings3D (Mayer et al., CVPR 2016): sequences
frames_cleanpass/TRAIN/A/0000/left/0006.png (or frames_finalpass) with
optical_flow/TRAIN/A/0000/into_future/left/OpticalFlowIntoFuture_0006_L.pfm.
"""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from data_pipelines.encoded import Lazy, picture_file
from data_pipelines.video_records import VideoRecord, Videos
from jaxvos.davis_layout import some
from jaxvos.flow.files import read_flow

PASSES = ("frames_cleanpass", "frames_finalpass")
SPLITS = {"train": "TRAIN", "val": "TEST", "test": "TEST"}


class FlowFiles(NamedTuple):
    """A clip's files.

    Attributes:
        name: What it is called.
        frames: T pictures.
        flows: T - 1 flow files, each from its picture to the next.
    """

    name: str
    frames: tuple[Path, ...]
    flows: tuple[Path, ...]


def chairs(root: Path, *, split: str = "train") -> Videos:
    """The pairs of FlyingChairs, none of them read yet: frames with flow, no masks."""
    return _videos(list_chairs, root, split)


def things(root: Path, *, split: str = "train") -> Videos:
    """The sequences of FlyingThings3D, none of them read yet: frames with flow, no masks."""
    return _videos(list_things, root, split)


def list_chairs(root: Path, *, split: str = "train") -> list[FlowFiles]:
    """The pairs of FlyingChairs; without its list all are of every split."""
    folder = root / "data" if (root / "data").is_dir() else root
    firsts = sorted(folder.glob("*_img1.ppm"))
    if not firsts:
        raise FileNotFoundError(f"{folder} holds no pairs NAME_img1.ppm, NAME_img2.ppm.")
    found = [
        FlowFiles(
            (name := first.name.removesuffix("_img1.ppm")),
            (first, folder / f"{name}_img2.ppm"),
            (folder / f"{name}_flow.flo",),
        )
        for first in firsts
    ]
    _check(found)
    lists = [place / "FlyingChairs_train_val.txt" for place in (root, root.parent, folder)]
    listed = next((path for path in lists if path.is_file()), None)
    if listed is None:
        return found
    marks = listed.read_text().split()
    if len(marks) != len(found):
        raise ValueError(f"{listed} has {len(marks)} marks, and there are {len(found)} pairs.")
    wanted = "1" if split == "train" else "2"
    return [pair for pair, mark in zip(found, marks, strict=True) if mark == wanted]


def list_things(root: Path, *, split: str = "train", side: str = "left") -> list[FlowFiles]:
    """The sequences of FlyingThings3D, of the clean pass if it is there."""
    if split not in SPLITS or side not in ("left", "right"):
        raise ValueError(f"FlyingThings3D has train and test, left and right, not {split}, {side}.")
    shown = next((root / name for name in PASSES if (root / name).is_dir()), None)
    if shown is None:
        raise FileNotFoundError(f"{root} holds neither of {', '.join(PASSES)}.")
    found = []
    for folder in sorted((shown / SPLITS[split]).glob(f"*/*/{side}")):
        frames = tuple(sorted(folder.glob("*.png")))
        scene = folder.parent.relative_to(shown)
        flows = root / "optical_flow" / scene / "into_future" / side
        files = tuple(
            flows / f"OpticalFlowIntoFuture_{frame.stem}_{side[0].upper()}.pfm"
            for frame in frames[:-1]
        )
        found.append(FlowFiles("/".join(scene.parts[1:]), frames, files))
    if not found:
        raise FileNotFoundError(f"{shown / SPLITS[split]} holds no sequences */*/{side}/*.png.")
    _check(found)
    return found


def _videos(find: Callable[..., list[FlowFiles]], root: Path, split: str) -> Videos:
    found = tuple(find(root, split=split))
    lengths = tuple(len(files.frames) for files in found)
    return Videos(partial(_video, found), len(found), lengths)


def _video(found: Sequence[FlowFiles], number: int) -> VideoRecord:
    name, frames, flows = found[number]
    shown = Lazy(partial(picture_file, frames), len(frames))
    return VideoRecord(name, shown, None, Lazy(partial(_flow, flows), len(flows)))


def _flow(files: Sequence[Path], t: int) -> np.ndarray:
    """The flow of file t; NaN where it is not known."""
    return read_flow(files[t])


def _check(found: list[FlowFiles]) -> None:
    missing = [
        str(path) for files in found for path in (*files.frames, *files.flows) if not path.is_file()
    ]
    if missing:
        raise FileNotFoundError(f"{len(missing)} files are missing: {some(missing)}.")
