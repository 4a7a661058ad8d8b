"""The flow of a whole video: estimated when it is asked for, or read from a folder."""

from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from operator import index
from pathlib import Path

import numpy as np
from PIL import Image

from jaxvos.flow.colour import flow_of_picture
from jaxvos.flow.dis import dis
from jaxvos.flow.files import SUFFIXES, checked, read_flow
from jaxvos.typing import Video

Estimator = Callable[[Sequence[np.ndarray], int, int], np.ndarray]
"""(frames, t, u) -> flow [H, W, 2] from frame t to frame u."""

KEPT = 4
"""Fields that are kept: systems look at a field and its neighbours, one frame after the other."""


class Fields(Sequence[np.ndarray]):
    """Flow of consecutive frames: `fields[t]` is from frame t to t + 1, [H, W, 2] float32, checked.

    Attributes:
        frames: The T frames; there are T - 1 fields.
    """

    def __init__(
        self, frames: Sequence[np.ndarray], make: Callable[[int, int], np.ndarray]
    ) -> None:
        self.frames = frames
        self._make = lru_cache(maxsize=KEPT)(make)

    def __len__(self) -> int:
        return len(self.frames) - 1

    def __getitem__(self, t: int) -> np.ndarray:
        t = index(t)
        t = t + len(self) if t < 0 else t
        if not 0 <= t < len(self):
            raise IndexError(f"There is no flow {t}: {len(self.frames)} frames have {len(self)}.")
        return self.between(t, t + 1)

    def between(self, t: int, u: int) -> np.ndarray:
        """Flow [H, W, 2] from frame t to frame u, any two; files hold that of neighbours alone."""
        flow = self._make(t, u)
        size = self.frames[t].shape[:2]
        if flow.shape != (*size, 2):
            raise ValueError(
                f"Flow {t} is {flow.shape}, the frames are {size}: flow is in their pixels."
            )
        return checked(flow, f"Flow from frame {t} to {u}")


def with_flow(video: Video, source: str | Path) -> Video:
    """The video with the flow that `source` names.

    Args:
        video: Its frames.
        source: "dis", which needs no weights; "raft:WEIGHTS" or "flownet2_c:WEIGHTS"; or a folder
            of flow files FRAME.flo, .npy or (KITTI's) .png, each from that frame to the next; the
            last frame's may be missing. "wheel:FOLDER" is one of pictures by the colour wheel,
            FRAME.png or .jpg, or of VIDEO/FRAME or VIDEO/FLOW/FRAME: their flow has the unit of
            each picture's longest, which is all that systems need who see such pictures.
    """
    if str(source).startswith(DRAWN):
        folder = Path(str(source).removeprefix(DRAWN))
        if not folder.is_dir():
            raise ValueError(f"There is no folder {folder} with pictures of flow.")
        return video._replace(flow=Fields(video.frames, _drawn(video, folder)))
    if Path(source).is_dir():
        return video._replace(flow=Fields(video.frames, _reader(video, Path(source))))
    return video._replace(flow=Fields(video.frames, partial(estimator(str(source)), video.frames)))


def estimator(method: str) -> Estimator:
    """The estimator of that name: "dis", "raft:WEIGHTS" or "flownet2_c:WEIGHTS"."""
    name, _, weights = method.partition(":")
    if name in LEARNED and not weights:
        raise ValueError(
            f"{LEARNED[name]} needs weights: {name}:WEIGHTS, a file that `jaxvos convert {name}` "
            f"has made or the folder of a training run (configs/{name}.py)."
        )
    if name == "raft":
        from jaxvos.flow.raft_video import read

        return read(weights)
    if name == "flownet2_c":
        from jaxvos.flow.flownet import read as read_flownet

        return read_flownet(weights)
    if method not in ESTIMATORS:
        known = ", ".join((*ESTIMATORS, *(f"{name}:WEIGHTS" for name in LEARNED)))
        raise ValueError(
            f"There is no flow {method!r}: it is neither a folder nor a method. There are: {known}."
        )
    return ESTIMATORS[method]


def _dis(frames: Sequence[np.ndarray], t: int, u: int) -> np.ndarray:
    return dis(frames[t], frames[u])


ESTIMATORS: dict[str, Estimator] = {"dis": _dis}
DRAWN = "wheel:"
"""What stands before a folder of pictures of flow."""
LEARNED = {"raft": "RAFT", "flownet2_c": "FlowNet2-C"}


def _reader(video: Video, folder: Path) -> Callable[[int, int], np.ndarray]:
    """A function that reads the flow of a frame; the folder must have that of all but the last."""
    return _of_files(video, folder, SUFFIXES, lambda file: checked(read_flow(file), file))


def _drawn(video: Video, root: Path) -> Callable[[int, int], np.ndarray]:
    """`_reader` of pictures by the colour wheel, wherever below the root the video has them."""
    places = (root / video.name / "FLOW", root / video.name, root / "FLOW", root)
    folder = next(place for place in places if place.is_dir())

    def read(file: Path) -> np.ndarray:
        with Image.open(file) as drawn:
            return flow_of_picture(np.asarray(drawn.convert("RGB")))

    return _of_files(video, folder, (".png", ".jpg", ".jpeg"), read)


def _of_files(
    video: Video, folder: Path, suffixes: Sequence[str], read: Callable[[Path], np.ndarray]
) -> Callable[[int, int], np.ndarray]:
    """A function (t, t + 1) -> what `read` makes of the frame's file."""
    names = getattr(video.frames, "names", None) or [f"{t:05d}" for t in range(len(video.frames))]
    files = {name: flow_of_frame(folder, name, suffixes) for name in names[:-1]}
    missing = [name for name, file in files.items() if file is None]
    if missing:
        raise ValueError(
            f"{folder} has no flow of {len(missing)} of the first {len(files)} frames of "
            f"{video.name}; the first that is missing is {missing[0]} ({' or '.join(suffixes)})."
        )

    def flow(t: int, u: int) -> np.ndarray:
        if u != t + 1:
            raise ValueError(
                f"Flow from frame {t} to {u} of {video.name} is not in {folder}, which holds that "
                "of neighbours: choose a method, such as --flow dis."
            )
        return read(files[names[t]])

    return flow


def flow_of_frame(folder: Path, name: str, suffixes: Sequence[str] = SUFFIXES) -> Path | None:
    """The file of a frame's flow, of whatever format; None if there is none."""
    found = [folder / f"{name}{suffix}" for suffix in suffixes]
    return next((file for file in found if file.is_file()), None)
