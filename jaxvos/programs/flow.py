"""`jaxvos flow`: a video's optical flow as files, of which a second run computes nothing again."""

import hashlib
import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from jaxvos.flow.colour import picture
from jaxvos.flow.fields import estimator
from jaxvos.flow.files import checked, write_flow
from jaxvos.programs.progress import frames_bar
from jaxvos.programs.runlog import write_whole
from jaxvos.programs.segment import frame_names
from jaxvos.typing import Video
from jaxvos.video import open_video, write_png

RECORD = "flow.json"
FORMATS = ("flo", "npy", "png", "wheel")
SAVED_EVERY = 20  # files; as many are computed again after a kill


def flow(
    source: str | Path | Video,
    out: str | Path,
    *,
    method: str = "dis",
    gap: int = 1,
    backward: bool = False,
    form: str = "flo",
    overwrite: bool = False,
    progress: bool = True,
) -> dict[str, int]:
    """{"computed", "kept"}: how many files FRAME.flo were made in the folder `out`, and were there.

    FRAME's flow leads to the frame `gap` later, so the last `gap` frames have none; `backward`, to
    the frame `gap` earlier. `out`/flow.json says what was computed from which pictures: a file is
    kept if its two frames and the method are the same.

    Args:
        source: What `open_video` takes, or a `Video`.
        out: The folder; flow of another method, gap, direction or form in it is an error unless
            `overwrite`.
        method: "dis", "raft:WEIGHTS" or "flownet2_c:WEIGHTS".
        gap: Frames from one to the other.
        backward: Whether flow leads back in time.
        form: "flo", "npy", "png" (KITTI's) or "wheel": pictures in the colours of the wheel.
        overwrite: Whether other flow is replaced.
        progress: Whether to show a bar.
    """
    video = source if isinstance(source, Video) else open_video(source)
    estimate, out, names = estimator(method), Path(out), frame_names(video)
    if form not in FORMATS:
        raise ValueError(f"Flow is written as {', '.join(FORMATS)}, not as {form!r}.")
    if not 1 <= gap < len(names):
        raise ValueError(
            f"{video.name} has {len(names)} frames, so flow is between frames 1 to "
            f"{len(names) - 1} apart, not {gap}."
            + (" A single frame has none." if len(names) == 1 else "")
        )
    settings = {"method": method, "gap": gap, "backward": backward, "form": form}
    known = _known(out, settings, overwrite)
    sources = range(gap, len(names)) if backward else range(len(names) - gap)
    done, kept = dict(known), 0
    out.mkdir(parents=True, exist_ok=True)
    save = partial(_save, out, settings)
    digest = _digests(video.frames)
    try:
        with frames_bar(video.name, len(sources), progress) as advance:
            for number, t in enumerate(sources):
                u = t - gap if backward else t + gap
                file = out / f"{names[t]}.{'png' if form == 'wheel' else form}"
                pair = digest(t) + digest(u)
                if known.get(file.name) == pair and file.is_file():
                    kept += 1
                else:
                    field = checked(estimate(video.frames, t, u), f"{video.name}, {names[t]}")
                    _write(file, field, form)
                    done[file.name] = pair
                    if number % SAVED_EVERY == 0:
                        save(done)
                advance()
    finally:
        save(done)
    return {"computed": len(sources) - kept, "kept": kept}


def _known(out: Path, settings: dict[str, Any], overwrite: bool) -> dict[str, str]:
    """The digests of the files that are in the folder already, of the same settings."""
    record = out / RECORD
    if not record.is_file():
        if out.is_dir() and any(out.iterdir()) and not overwrite:
            raise FileExistsError(
                f"{out} holds files, but no {RECORD} that says what they are. Choose another "
                "folder, or overwrite."
            )
        return {}
    found = json.loads(record.read_text())
    if found["settings"] == settings:
        return found["files"]
    if not overwrite:
        raise FileExistsError(
            f"{out} holds flow of {found['settings']}, not of {settings}. Choose another folder, "
            "or overwrite."
        )
    for name in found["files"]:
        (out / name).unlink(missing_ok=True)
    return {}


def _save(out: Path, settings: dict[str, Any], files: dict[str, str]) -> None:
    write_whole(out / RECORD, json.dumps({"settings": settings, "files": files}, indent=1) + "\n")


def _digests(frames: Sequence[np.ndarray]) -> Callable[[int], str]:
    """A function that tells frames apart by their pixels."""
    seen: dict[int, str] = {}

    def digest(t: int) -> str:
        if t not in seen:
            frame = np.ascontiguousarray(frames[t])
            seen[t] = hashlib.sha256(repr(frame.shape).encode() + frame.tobytes()).hexdigest()[:32]
        return seen[t]

    return digest


def _write(file: Path, field: np.ndarray, form: str) -> None:
    if form == "wheel":
        write_png(file, Image.fromarray(picture(field)))
    else:
        write_flow(file, field)
