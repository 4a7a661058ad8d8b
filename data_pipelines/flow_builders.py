"""FlyingChairs and FlyingThings3D as TFDS data sets: the files' own bytes, flow and no masks.

A folder is the one that the archives unpack to, as `data_pipelines.flow_sets` lists them. There is
a record for each frame; "flow" is a file from it to the next one, and empty for the last frame.

Of FlyingThings3D the left pictures are taken, and the flow into the future. The archives have no
masks of what moves: object_index numbers all that there is, the ground too, and is left aside. How
much an unpacked archive holds is not compared with anything.
"""

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

from data_pipelines.flow_sets import PASSES, SPLITS, FlowFiles, list_chairs, list_things
from jaxvos.davis_layout import some
from jaxvos.flow.files import TAG

HEAD = 64
"""Most bytes of what a .pfm file says before its numbers."""


class FlowSet(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """What the data sets of exact flow have in common."""

    VERSION = tfds.core.Version("1.0.0")
    code_path = None  # TFDS would look for checksums beside it, and needs importlib_resources to
    allow_partial = False  # as other data sets have it; here nothing is counted
    HOMEPAGE: str
    FORM: str
    """What the names of the files of flow end in."""

    @abstractmethod
    def _listed(self, root: Path) -> dict[str, list[FlowFiles]]:
        """The videos of each split."""

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description=type(self).__doc__,
            features=tfds.features.FeaturesDict(
                {
                    "video": tfds.features.Text(),
                    "frame": tfds.features.Scalar(np.int32),
                    "picture": tfds.features.Tensor(shape=(), dtype=np.bytes_),  # PNG or PPM
                    "flow": tfds.features.Tensor(shape=(), dtype=np.bytes_),  # of the set's form
                }
            ),
            homepage=self.HOMEPAGE,
            metadata=tfds.core.MetadataDict(),
            disable_shuffling=True,  # frames stay in order, one video after the other
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Any]:
        found = self._listed(Path(dl_manager.manual_dir))
        for sequences in found.values():
            _check(sequences, self.FORM)
        videos = {
            split: [[files.name, len(files.frames)] for files in sequences]
            for split, sequences in found.items()
        }
        self.info.metadata.update(videos=videos, partial=self.allow_partial, flow=self.FORM)
        return {split: self._generate_examples(sequences) for split, sequences in found.items()}

    def _generate_examples(
        self, sequences: Sequence[FlowFiles]
    ) -> Iterator[tuple[int, dict[str, Any]]]:
        key = 0
        for video, frames, flows in sequences:
            for number, frame in enumerate(frames):
                flow = flows[number].read_bytes() if number < len(flows) else b""
                record = {"picture": frame.read_bytes(), "flow": flow}
                yield key, {"video": video, "frame": number} | record
                key += 1


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
