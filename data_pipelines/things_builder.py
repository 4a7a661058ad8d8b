"""FlyingThings3D as a TFDS data set: one record a frame, the files' own bytes, flow and no masks.

The folder is the one that the archives unpack to: frames_cleanpass (or frames_finalpass) and
optical_flow, as `data_pipelines.flow_sets` lists them; of it the left pictures and the flow into
the future. "flow" is a .pfm file, and empty for the last frame of a sequence.

The archives have no masks of what moves: object_index numbers all that there is, the ground too,
and is left aside. How many sequences an unpacked archive has is not compared with anything.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

from data_pipelines.flow_sets import PASSES, SPLITS, FlowFiles, list_things
from jaxvos.davis_layout import some

HEAD = 64
"""Most bytes of what a .pfm file says before its numbers."""


class Things(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """FlyingThings3D: made-up stereo video with exact flow; the left eye's."""

    VERSION = tfds.core.Version("1.0.0")
    code_path = None  # TFDS would look for checksums beside it, and needs importlib_resources to
    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        "Unpack frames_cleanpass and optical_flow into one folder; name it."
    )
    allow_partial = False  # as other data sets have it; here nothing is counted

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description=type(self).__doc__,
            features=tfds.features.FeaturesDict(
                {
                    "video": tfds.features.Text(),
                    "frame": tfds.features.Scalar(np.int32),
                    "picture": tfds.features.Tensor(shape=(), dtype=np.bytes_),  # PNG
                    "flow": tfds.features.Tensor(shape=(), dtype=np.bytes_),  # .pfm
                }
            ),
            homepage="https://lmb.informatik.uni-freiburg.de/resources/datasets/",
            metadata=tfds.core.MetadataDict(),
            disable_shuffling=True,  # frames stay in order, one video after the other
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Any]:
        root = Path(dl_manager.manual_dir)
        there = [
            split
            for split in ("train", "test")
            if any((root / name / SPLITS[split]).is_dir() for name in PASSES)
        ]
        found = {split: list_things(root, split=split) for split in there or ["train"]}
        for sequences in found.values():
            _check(sequences)
        videos = {
            split: [[files.name, len(files.frames)] for files in sequences]
            for split, sequences in found.items()
        }
        self.info.metadata.update(videos=videos, partial=self.allow_partial, pfm=True)
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


def _check(sequences: Sequence[FlowFiles]) -> None:
    """Refuses pictures that cannot be read and flow that is cut short or of another size.

    Only the beginnings and the lengths of the files are looked at.
    """
    broken, differing = [], []
    for files in sequences:
        for number, frame in enumerate(files.frames):
            try:
                with Image.open(frame) as image:
                    size = image.size
            except (OSError, SyntaxError, ValueError):
                broken.append(frame)
                continue
            if number < len(files.flows) and not _is_flow(files.flows[number], *size):
                width, height = size
                differing.append(f"{files.flows[number]} ({width} x {height})")
    problems = []
    if broken:
        problems.append(f"{len(broken)} files are no pictures: {some(broken)}.")
    if differing:
        problems.append(
            f"{len(differing)} files are no .pfm of three channels of their picture's size, or cut "
            f"short: {some(differing)}."
        )
    if problems:
        raise ValueError("\n".join(problems))


def _is_flow(path: Path, width: int, height: int) -> bool:
    """Whether a file begins as a .pfm of this size and has the length that it then must have."""
    length = path.stat().st_size - 12 * width * height
    if not 0 < length <= HEAD:
        return False
    with path.open("rb") as file:
        head = file.read(length)
    words = head.split()
    size = [str(width).encode(), str(height).encode()]
    return words[:-1] == [b"PF", *size] and head.endswith(b"\n")
