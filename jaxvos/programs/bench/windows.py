"""Benchmarks of systems that look at several frames for each: their schedules, their memory."""

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType
from typing import Any

import jax
import numpy as np

from data_pipelines.procedural import clip
from jaxvos.flow.each_frame import fit_flow
from jaxvos.flow.fields import with_flow
from jaxvos.inference import fit, to_size
from jaxvos.programs.bench.measure import MB, Extent, Measurement, alone, peak_memory
from jaxvos.programs.bench.network import random_variables
from jaxvos.programs.bench.results import write_film
from jaxvos.programs.segment import write_results
from jaxvos.systems import SYSTEMS, dfnet, f2net, fgrne
from jaxvos.typing import Video
from jaxvos.video import open_video

RELEASED: Mapping[str, tuple[ModuleType, str, int]] = {
    "f2net": (f2net, "current", 0),
    "dfnet": (dfnet, "frames", 4),
    "fgrne": (fgrne, "reference", 5),
}
"""Name of a system -> its module, the output that is meant, frames before its window is full."""

RESNET = {"depths": (1, 1, 1, 1), "width": 4}
TINY: Mapping[str, Mapping[str, Any]] = {
    "agnn": RESNET | {"branch": 8, "features": 8, "rounds": 2},
    "ags": RESNET | {"widths": (6, 5, 4), "attention": (6, 5, 4), "size": (33, 49)},
    "cosnet": RESNET | {"branch": 8, "features": 8},
    "dfnet": RESNET | {"branch": 8, "features": 8, "groups": 3},
    "f2net": RESNET | {"branch": 8, "features": 8, "cross": 4, "squeezed": 4},
    "fgrne": RESNET | {"branch": 8, "flow_hidden": 4, "hidden": 8},
    "pdb_convlstm": RESNET | {"branch": 4, "features": 4, "size": (33, 49)},
    "vsod_fcn": {"width": 4, "convolutions": (1, 1, 1, 1, 1), "side": 4},
}
"""Options of the smallest networks of the systems that look at frames alone."""


def windows(extent: Extent) -> list[Measurement]:
    """Seconds a frame of F2Net, DFNet and FGRNE, whatever is compiled by then.

    "Windows whole" sends all frames that a frame is segmented with through the whole network, for
    each frame anew: F2Net's first frame and the frame (its released schedule), DFNet's 5 and
    FGRNE's 6 (never released). "Frames once" is our segmenter on a clip of that many frames and a
    few more. Both have the same random weights, frames and size; the last column says how far
    their scores are apart.
    """
    measurements = []
    for name in RELEASED:
        found = alone(_schedules, name, extent.quick)
        title = SYSTEMS[name].title.partition(" (")[0]
        gain = float(np.median(found["whole"]) / np.median(found["once"]))
        measurements += [
            Measurement(f"{title}, windows whole", "time", "s/frame", found["whole"]),
            Measurement(f"{title}, frames once", "time", "s/frame", found["once"]),
            Measurement(f"{title}, frames once", "faster", "times", [gain]),
            Measurement(f"{title}, frames once", "apart", "of 1", [found["apart"]]),
        ]
    return measurements


def memory(extent: Extent) -> list[Measurement]:
    """Peak memory of segmenting a film, and what every frame of a longer one adds.

    The smallest networks, so that what is kept of frames, scores and results shows. Pictures are
    decoded, segmented and written one by one.
    """
    lengths = (8, 40) if extent.quick else (60, 600)
    measurements = []
    with TemporaryDirectory() as folder:
        films = [str(Path(folder, f"{length}.mp4")) for length in lengths]
        for film, length in zip(films, lengths, strict=True):
            write_film(Path(film), length)
        for name in TINY:
            peaks = [alone(_peak, name, film) for film in films]
            growth = (peaks[1] - peaks[0]) / (lengths[1] - lengths[0])
            for peak, length in zip(peaks, lengths, strict=True):
                measurements.append(Measurement(name, f"{length} frames", "MB", [peak / MB]))
            measurements.append(Measurement(name, "growth", "KB/frame", [growth / 1e3]))
    return measurements


def _schedules(name: str, quick: bool) -> dict[str, Any]:
    """Seconds of frames by both schedules, and how far their scores are apart."""
    module, output, former = RELEASED[name]
    model = module.SYSTEM.model(**(TINY[name] if quick else {}))
    size, repeats = ((33, 49), 2) if quick else (module.SIZE, 2)
    variables = random_variables(module.SYSTEM, model)
    made = clip(0, frames=former + 1 + repeats, size=(96, 128) if quick else (480, 854))
    video = Video(made.frames, name="made up", flow=list(made.flow))
    last = list(range(len(made.frames) - repeats, len(made.frames)))

    @jax.jit
    def answer(variables: Any, *inputs: Any) -> jax.Array:
        prepared = [f(x) for f, x in zip(module.SYSTEM.inputs.values(), inputs, strict=True)]
        return jax.nn.sigmoid(model.apply(variables, *prepared)[output])

    def whole(t: int) -> np.ndarray:
        scores = np.asarray(answer(variables, *_window(name, video, t, size)))
        scores = scores[0, 0] if name == "dfnet" else scores[0]
        return to_size(scores[..., 0], made.frames.shape[1:3])

    whole(last[0])  # compiles
    expected, by_window = _timed(whole, last)
    segment = module.segmenter(model, variables, size=size)
    next(iter(segment(video)))  # compiles
    begin = time.perf_counter()
    scores = list(segment(video))
    once = (time.perf_counter() - begin) / len(scores)
    apart = max(float(np.abs(scores[t] - e).max()) for t, e in zip(last, expected, strict=True))
    return {"whole": by_window, "once": [once], "apart": apart}


def _timed(call: Callable[[int], np.ndarray], arguments: list[int]) -> tuple[list, list[float]]:
    """What a function returns for each argument, and the seconds it took."""
    results, taken = [], []
    for argument in arguments:
        begin = time.perf_counter()
        results.append(call(argument))
        taken.append(time.perf_counter() - begin)
    return results, taken


def _window(name: str, video: Video, t: int, size: tuple[int, int]) -> tuple[np.ndarray, ...]:
    """Inputs, with a batch axis, of all that frame t is segmented with."""
    pictures = [fit(frame, size) for frame in video.frames]
    if name == "f2net":  # the first frame and this one; of masks, the centre that as released
        masks = np.zeros((1, 3, *size, 1), np.float32)  # the answer does not depend on
        return np.stack([pictures[0], pictures[t - 1], pictures[t]])[None], masks
    if name == "dfnet":
        others = dfnet.together_with(len(pictures), 5)[t]
        return (np.stack([pictures[i] for i in (t, *others)])[None],)
    first = t - RELEASED[name][2]
    flow = [fit_flow(video.flow[i], size) for i in range(first, t)]
    flow.append(np.zeros_like(flow[0]))  # the last one's is not read
    return np.stack(pictures[first : t + 1])[None], np.stack(flow)[None]


def _peak(name: str, film: str) -> int:
    """The most bytes that this process had, after segmenting a film with the smallest network."""
    system = SYSTEMS[name]
    model = system.model(**TINY[name])
    options = {} if "size" in TINY[name] else {"size": (48, 64)}
    segmenter = system.segmenter(model, random_variables(system, model), **options)
    video = open_video(film)
    if "flow" in system.reads:
        video = with_flow(video, "dis")
    with TemporaryDirectory() as out:
        write_results(video, segmenter, out, progress=False)
    return peak_memory()
