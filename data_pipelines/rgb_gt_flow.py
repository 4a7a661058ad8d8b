"""Videos whose pictures, masks and pictures of flow lie in three folders, RGB, GT and FLOW.

    ROOT/SPLIT/SEQUENCE/{RGB,GT,FLOW}/SEQUENCE_00000.{jpg,png}    as they are tested on
    ROOT/SPLIT/{RGB,GT,FLOW}/SEQUENCE_00000.{jpg,png}             as they are trained on

DPA and TMO are published with such data. ROOT may be the folder of a split itself, and SPLIT may be
the end of a name, DAVIS_train. A sequence's name is what comes before the last "_" of a file's (the
released code takes the first "_", and mixes sequences whose names have one).

FLOW holds pictures by the colour wheel. They are turned back into flow, whose unit is the longest
of each picture, so that it can be moved with the frames and be drawn again.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from data_pipelines.encoded import Lazy, mask_file, picture_file
from data_pipelines.video_records import VideoRecord, Videos
from jaxvos.davis_layout import pictures, some
from jaxvos.flow.colour import flow_of_picture


class ThreeFolders(NamedTuple):
    """The files of one sequence, in order.

    Attributes:
        name: What it is called.
        frames: T pictures.
        masks: T masks.
        flows: T - 1 pictures of flow, or none.
    """

    name: str
    frames: tuple[Path, ...]
    masks: tuple[Path, ...]
    flows: tuple[Path, ...]


def list_three_folders(root: str | Path, *, split: str = "train") -> list[ThreeFolders]:
    """The sequences of a split, by name.

    Raises:
        FileNotFoundError: There is no folder of the split with RGB in it, or a frame but the last
            of its sequence has no flow, though others have.
        ValueError: A frame has no mask.
    """
    root = Path(root).expanduser()
    for folder in (root, root / split, *sorted(root.glob(f"*_{split}"))):
        homes = [folder] if (folder / "RGB").is_dir() else []
        homes += [home for home in sorted(folder.glob("*/")) if _is_sequence(home)]
        if homes:
            return _alike([files for home in homes for files in _sequences(home)])
    raise FileNotFoundError(
        f"{root} holds no folder RGB, nor do {split}/ and *_{split}/ in it or their sequences: "
        "wanted are SPLIT/{RGB,GT,FLOW}/SEQUENCE_00000.jpg, or SPLIT/SEQUENCE/{RGB,GT,FLOW}/..."
    )


def videos(root: str | Path, *, split: str = "train") -> Videos:
    """The videos of a split, none of them read yet."""
    found = tuple(list_three_folders(root, split=split))
    return Videos(partial(_video, found), len(found), tuple(len(f.frames) for f in found))


def _is_sequence(folder: Path) -> bool:
    """Whether RGB is there and holds the folder's own pictures: in that of a split are others'."""
    shown = pictures(folder / "RGB") if (folder / "RGB").is_dir() else []
    return bool(shown) and shown[0].stem.rpartition("_")[0] in ("", folder.name)


def _sequences(home: Path) -> list[ThreeFolders]:
    """What three folders hold, the sequences by name."""
    shown, masks, flows = (_by_name(home / kind) for kind in ("RGB", "GT", "FLOW"))
    bare = [str(path) for name, path in shown.items() if name not in masks]
    if bare:
        raise ValueError(f"{len(bare)} frames have no mask in {home / 'GT'}: {some(bare)}.")
    groups: dict[str, list[str]] = {}
    for name in shown:
        groups.setdefault(name.rpartition("_")[0] or home.name, []).append(name)
    moving = {name for names in groups.values() for name in names[:-1]}
    still = sorted(moving - flows.keys())
    if flows and still:
        raise FileNotFoundError(
            f"{home / 'FLOW'} has no picture for {len(still)} of {len(moving)} frames: "
            f"{some(still)}."
        )
    return [
        ThreeFolders(
            sequence,
            tuple(shown[name] for name in names),
            tuple(masks[name] for name in names),
            tuple(flows[name] for name in names[:-1]) if flows else (),
        )
        for sequence, names in sorted(groups.items())
    ]


def _alike(found: list[ThreeFolders]) -> list[ThreeFolders]:
    """The sequences, if all that have two frames have flow or none has."""
    still = [files.name for files in found if len(files.frames) > 1 and not files.flows]
    if still and any(files.flows for files in found):
        raise FileNotFoundError(
            f"{len(still)} of {len(found)} sequences have no FLOW, though others have: "
            f"{some(still)}."
        )
    return found


def _by_name(folder: Path) -> dict[str, Path]:
    """The pictures of a folder by their names without ending, in order."""
    return {path.stem: path for path in pictures(folder)} if folder.is_dir() else {}


def _video(found: Sequence[ThreeFolders], number: int) -> VideoRecord:
    name, frames, masks, flows = found[number]
    return VideoRecord(
        name,
        Lazy(partial(picture_file, frames), len(frames)),
        Lazy(partial(mask_file, masks), len(masks)),
        Lazy(partial(_flow, flows), len(flows)) if flows else None,
    )


def _flow(files: Sequence[Path], t: int) -> np.ndarray:
    return flow_of_picture(picture_file(files, t))
