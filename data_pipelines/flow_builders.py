"""FlyingChairs and FlyingThings3D as TFDS data sets: the files' own bytes, flow and no masks.

A folder is the one that the archives unpack to, as `data_pipelines.flow_sets` lists them. There is
a record for each frame; "flow" is a file from it to the next one, and empty for the last frame.

Of FlyingThings3D the left pictures are taken, and the flow into the future. The archives have no
masks of what moves: object_index numbers all that there is, the ground too, and is left aside. How
much an unpacked archive holds is not compared with anything.
"""

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from PIL import Image

from data_pipelines.data_set import VIDEO, DataSet, Record
from data_pipelines.flow_sets import PASSES, SPLITS, FlowFiles, list_chairs, list_things
from jaxvos.davis_layout import some
from jaxvos.flow.files import TAG

HEAD = 64
"""Most bytes of what a .pfm file says before its numbers."""


class FlowSet(DataSet, skip_registration=True):
    """What the data sets of exact flow have in common; nothing of them is counted."""

    FIELDS = (*VIDEO, ("flow", bytes))
    FORM: ClassVar[str]
    """What the names of the files of flow end in."""

    @abstractmethod
    def _listed(self, root: Path) -> dict[str, list[FlowFiles]]:
        """The videos of each split."""

    def _found(self, root: Path) -> dict[str, list[FlowFiles]]:
        found = self._listed(root)
        for sequences in found.values():
            _check(sequences, self.FORM)
        return found

    def _about(self, found: Mapping[str, Sequence[FlowFiles]]) -> dict[str, Any]:
        return super()._about(found) | {"flow": self.FORM}

    def _records(self, found: Sequence[FlowFiles]) -> Iterator[Record]:
        for video, frames, flows in found:
            for number, frame in enumerate(frames):
                flow = flows[number].read_bytes() if number < len(flows) else b""
                record = {"picture": frame.read_bytes(), "flow": flow}
                yield {"video": video, "frame": number} | record


class Chairs(FlowSet, skip_registration=True):
    """FlyingChairs: pairs of pictures with exact flow."""

    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        "Unpack FlyingChairs.zip, put FlyingChairs_train_val.txt beside data/, and name the folder."
    )
    HOMEPAGE = "https://lmb.informatik.uni-freiburg.de/resources/datasets/FlyingChairs.en.html"
    FORM = ".flo"

    def _listed(self, root: Path) -> dict[str, list[FlowFiles]]:
        train, val = (list_chairs(root, split=split) for split in ("train", "val"))
        # Without the list all pairs are of either.
        return {"train": train, "val": val} if train != val else {"train": train}


class Things(FlowSet, skip_registration=True):
    """FlyingThings3D: made-up stereo video with exact flow; the left eye's."""

    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        "Unpack frames_cleanpass and optical_flow into one folder; name it."
    )
    HOMEPAGE = "https://lmb.informatik.uni-freiburg.de/resources/datasets/"
    FORM = ".pfm"

    def _listed(self, root: Path) -> dict[str, list[FlowFiles]]:
        there = [
            split
            for split in ("train", "test")
            if any((root / name / SPLITS[split]).is_dir() for name in PASSES)
        ]
        return {split: list_things(root, split=split) for split in there or ["train"]}


def _check(sequences: Sequence[FlowFiles], form: str) -> None:
    """Refuses pictures that cannot be read and flow that is cut short or of another size.

    Only the beginnings and the lengths of the files are looked at.
    """
    known, broken, differing = {".pfm": _is_pfm, ".flo": _is_flo}[form], [], []
    for files in sequences:
        for number, frame in enumerate(files.frames):
            try:
                with Image.open(frame) as image:
                    size = image.size
            except (OSError, SyntaxError, ValueError):
                broken.append(frame)
                continue
            if number < len(files.flows) and not known(files.flows[number], *size):
                width, height = size
                differing.append(f"{files.flows[number]} ({width} x {height})")
    problems = []
    if broken:
        problems.append(f"{len(broken)} files are no pictures: {some(broken)}.")
    if differing:
        problems.append(
            f"{len(differing)} files are no {form} of flow of their picture's size, or cut short: "
            f"{some(differing)}."
        )
    if problems:
        raise ValueError("\n".join(problems))


def _is_pfm(path: Path, width: int, height: int) -> bool:
    """Whether a file begins as a .pfm of this size and has the length that it then must have."""
    length = path.stat().st_size - 12 * width * height
    if not 0 < length <= HEAD:
        return False
    with path.open("rb") as file:
        head = file.read(length)
    words = head.split()
    size = [str(width).encode(), str(height).encode()]
    return words[:-1] == [b"PF", *size] and head.endswith(b"\n")


def _is_flo(path: Path, width: int, height: int) -> bool:
    """The same for a .flo file."""
    head = np.float32(TAG).tobytes() + np.array([width, height], "<i4").tobytes()
    with path.open("rb") as file:
        return file.read(12) == head and path.stat().st_size == 12 + 8 * width * height
