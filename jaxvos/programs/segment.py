"""Segments a video: as scores frame by frame, or as a folder of masks, a film and a summary."""

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

import jaxvos
from jaxvos.drawing import contact_sheet, overlay, thumbnail
from jaxvos.film_writer import film_writer, require_h264
from jaxvos.mask_formats import FORMATS, Clip, known_formats, mask_writer
from jaxvos.programs.doubt import Changes, doubts
from jaxvos.programs.progress import frames_bar
from jaxvos.typing import Segmenter, Video
from jaxvos.video import PICTURES, Pictures, open_video, write_png
from jaxvos.whole_folder import whole_folder

if TYPE_CHECKING:
    from jaxvos.system import System

Source = str | Path | Sequence[str | Path] | Video

MASKS = tuple(form.product for form in FORMATS.values())
PRODUCTS = (*MASKS, "scores", "overlay.mp4", "sheet.png", "summary.json")
PICTURE_RATE = 24  # frames per second of the film of a folder of pictures
ON_SHEET = 12  # frames, evenly spread
ROUNDING = 1e-3  # how far past 0 or 1 a score may be, for bfloat16's sake; it is clipped


def segment(
    source: Source,
    *,
    system: str | None = None,
    weights: str | Path | None = None,
    options: Mapping[str, Any] | None = None,
    smooth: bool = False,
    crf: str | None = None,
    objects: bool = False,
    proposals: str | Path | None = None,
    threshold: float = 0.5,
    flow: str | Path | None = None,
) -> Iterator[np.ndarray]:
    """Scores [H, W] float32 in [0, 1], one map per frame in order, computed as they are asked for;
    [H, W, K] of K objects if `objects` are asked for.

        for scores in jaxvos.segment("clip.mp4", weights="weights.safetensors"):
            mask = scores > 0.5

    Args:
        source: What `open_video` takes, or a `Video`.
        system: Name of a system; None takes the one that the weights were made for, or, without
            any, `mover`, whose weights come with the library.
        weights: A weights file; None for the library's own.
        options: Of the system's inference protocol, by name.
        smooth, crf, objects, proposals, threshold: What is done to the scores then; see `finished`.
        flow: The video's optical flow: see `finished`; "dis" by default where the system needs any.
    """
    from jaxvos.systems import load

    video, loaded = _video(source), load(system, weights)
    segmenter = finished(
        loaded.segmenter(options),
        flow=needed_flow(loaded.system, flow, objects=objects),
        smooth=smooth,
        crf=crf,
        objects=objects,
        proposals=proposals,
        threshold=threshold,
    )
    return checked_scores(video, segmenter)


def finished(
    segmenter: Segmenter,
    *,
    smooth: bool = False,
    crf: str | None = None,
    objects: bool = False,
    proposals: str | Path | None = None,
    threshold: float = 0.5,
    flow: str | Path | None = None,
) -> Segmenter:
    """The segmenter with what is asked for done to its scores, in this order.

    Args:
        segmenter: Gives [H, W] scores.
        smooth: Join each frame's with its neighbours', moved along optical flow.
        crf: Sharpen them along the frame's edges: the name of a dense CRF's settings.
        objects: Tell the objects of the foreground apart: [H, W, K] scores; see `jaxvos.objects`.
        proposals: Folder of label maps FRAME.png that say what the objects of a frame are.
        threshold: For the objects: a score above it is foreground.
        flow: What the video's flow is, for systems that need it and for the objects: "dis", or a
            folder of FRAME.flo (.npy, .png), or of such folders by the videos' names.
    """
    if proposals is not None and not objects:
        raise ValueError("Proposals say what the objects are: ask for objects too (--objects).")
    if smooth:
        from jaxvos.smoothing import smoothed

        segmenter = smoothed(segmenter)
    if crf is not None:
        from jaxvos.crf import refined

        segmenter = refined(segmenter, crf)
    if objects:
        from jaxvos.objects import tracked

        segmenter = tracked(segmenter, threshold=threshold, proposals=proposals)
    return segmenter if flow is None else _flowing(segmenter, flow)


def needed_flow(
    system: "System", flow: str | Path | None, *, objects: bool = False
) -> str | Path | None:
    """The flow that is asked for; without, DIS, which needs no weights, if the system reads any.

    Flow that neither the system nor, if there are to be any, the `objects` look at is refused.
    """
    if "flow" in system.reads:
        return "dis" if flow is None else flow
    if flow is not None and not objects:
        name = system.title.partition(" (")[0]
        own = "flow" in signature(system.segmenter).parameters
        raise ValueError(
            f"{name} looks at no flow that it is given: leave --flow {flow} away."
            f"{own * ' It looks for its own: --set flow=dis, or raft:WEIGHTS.'}"
        )
    return flow


def _flowing(segmenter: Segmenter, flow: str | Path) -> Segmenter:
    from jaxvos.flow.fields import with_flow

    def segment(video: Video) -> Iterator[np.ndarray]:
        own = Path(flow, video.name)
        return segmenter(with_flow(video, own if own.is_dir() else flow))

    return segment


def segment_to_folder(
    source: Source,
    out: str | Path,
    *,
    system: str | None = None,
    weights: str | Path | None = None,
    options: Mapping[str, Any] | None = None,
    smooth: bool = False,
    crf: str | None = None,
    objects: bool = False,
    proposals: str | Path | None = None,
    flow: str | Path | None = None,
    formats: str | Sequence[str] = "png",
    threshold: float = 0.5,
    scores: bool = False,
    overwrite: bool = False,
    progress: bool = True,
) -> dict[str, Any]:
    """The summary of a run whose results are written to the folder `out`; see `write_results`.

    Args:
        source, system, weights, options: As for `segment`.
        smooth, crf, objects, proposals, flow: As for `segment`.
        out, formats, threshold, scores, overwrite, progress: As for `write_results`.
    """
    from jaxvos.systems import load

    formats, video = known_formats(formats), _video(source)
    with _results_folder(video, out, threshold, overwrite) as stage:  # before the weights are read
        loaded = load(system, weights)
        flow = needed_flow(loaded.system, flow, objects=objects)
        about = {
            "system": loaded.name,
            "weights": loaded.origin,
            "options": dict(options or {}),
            "smooth": smooth,
            "crf": crf,
            "objects": objects,
            "proposals": None if proposals is None else str(proposals),
            "flow": None if flow is None else str(flow),
            "source": video.name if isinstance(source, Video) else _words(source),
        }
        segmenter = finished(
            loaded.segmenter(options),
            smooth=smooth,
            crf=crf,
            objects=objects,
            proposals=proposals,
            threshold=threshold,
            flow=flow,
        )
        return _fill(stage, video, segmenter, about, formats, threshold, scores, progress)


def write_results(
    video: Video,
    segmenter: Segmenter,
    out: str | Path,
    *,
    about: Mapping[str, Any] | None = None,
    formats: str | Sequence[str] = "png",
    threshold: float = 0.5,
    scores: bool = False,
    overwrite: bool = False,
    progress: bool = True,
) -> dict[str, Any]:
    """The summary of a run, whose results are written to the folder `out`, all of them or none.

    - masks/NAME.png: each frame's labels, indexed, named after the frame, at the source's size; or
      masks.json, coco.json, masks.mp4: see `formats`;
    - overlay.mp4: the video with the masks laid over it, at the source's frame rate;
    - sheet.png: 12 frames of it, evenly spread;
    - summary.json: what is returned;
    - scores/NAME.png, if asked for: 65535 times the score, as 16 bit grey; of several objects,
      NAME-1.png, NAME-2.png and so on.

    Frames are read, segmented and written one by one: a longer video takes no more memory.

    Args:
        video: What is segmented; frames from `open_video` bring their names and their rate.
        segmenter: Gives a score map per frame.
        out: The folder. Results of an earlier run are an error unless `overwrite`.
        about: What the summary says first: system, weights, source.
        formats: How the masks are written: some of "png", "rle" (masks.json), "coco" (coco.json)
            and "mp4" (masks.mp4: lossy, for looking at), in a sequence or with commas between;
            `jaxvos.mask_formats` describes them.
        threshold: A score above it is foreground; of several objects the highest score wins.
        scores: Whether the scores are written too.
        overwrite: Whether an earlier run's results are replaced.
        progress: Whether a progress bar is shown (on stderr).
    """
    formats = known_formats(formats)
    with _results_folder(video, out, threshold, overwrite) as stage:
        return _fill(stage, video, segmenter, about or {}, formats, threshold, scores, progress)


def checked_scores(video: Video, segmenter: Segmenter) -> Iterator[np.ndarray]:
    """The segmenter's scores as float32 in [0, 1]; an error names a frame without good ones."""
    names, size, t = frame_names(video), video.frames[0].shape[:2], -1
    for t, scores in enumerate(segmenter(video)):
        if t >= len(names):
            raise ValueError(f"{video.name}: more score maps than its {len(names)} frames.")
        scores = np.asarray(scores, np.float32)
        where = f"{video.name}, frame {names[t]}"
        if scores.shape[:2] != size or scores.ndim not in (2, 3):
            raise ValueError(f"{where}: scores are {scores.shape}, the frame is {size}.")
        if not np.isfinite(scores).all():
            raise ValueError(f"{where}: {np.sum(~np.isfinite(scores))} scores are not finite.")
        if scores.min() < -ROUNDING or scores.max() > 1 + ROUNDING:
            raise ValueError(
                f"{where}: scores are {scores.min():.4g} to {scores.max():.4g}, not 0 to 1."
            )
        yield scores.clip(0, 1)
    if t + 1 < len(names):
        raise ValueError(
            f"{video.name}: {t + 1} score maps for {len(names)} frames; the first without one is "
            f"{names[t + 1]}."
        )


def labels_of(scores: np.ndarray, threshold: float) -> np.ndarray:
    """Labels [H, W] uint8: 0 and 1 of scores [H, W], 0 to K of scores [H, W, K]."""
    if scores.ndim == 2:
        return (scores > threshold).astype(np.uint8)
    return np.where(scores.max(-1) > threshold, scores.argmax(-1) + 1, 0).astype(np.uint8)


def frame_names(video: Video) -> list[str]:
    """What the frames are called: as their files are, or 00000, 00001, ..."""
    names = getattr(video.frames, "names", None)
    return names or [f"{t:05d}" for t in range(len(video.frames))]


def _fill(
    stage: Path,
    video: Video,
    segmenter: Segmenter,
    about: Mapping[str, Any],
    formats: Sequence[str],
    threshold: float,
    keep_scores: bool,
    progress: bool,
) -> dict[str, Any]:
    """The summary of the results, which are written to the folder `stage`."""
    names = frame_names(video)
    rate = getattr(video.frames, "rate", None) or PICTURE_RATE
    sampled = np.unique(np.linspace(0, len(names) - 1, ON_SHEET).round().astype(int))
    small, foreground, changes, start = [], [], Changes(), time.perf_counter()
    if keep_scores:
        (stage / "scores").mkdir()
    with (
        mask_writer(stage, _clip(video, rate), formats) as keep,
        film_writer(stage / "overlay.mp4", rate) as append,
        frames_bar(video.name, len(names), progress) as advance,
    ):
        for t, scores in enumerate(checked_scores(video, segmenter)):
            labels = labels_of(scores, threshold)
            keep(t, labels, scores)
            if keep_scores:
                _write_scores(stage / "scores", names[t], scores)
            frame = video.frames[t]
            changes.see(frame)
            picture = overlay(frame, labels)
            append(picture)
            if t in sampled:
                small.append(thumbnail(picture))
            foreground.append(float(np.mean(labels > 0)))
            advance()
    seconds = time.perf_counter() - start
    write_png(stage / "sheet.png", _sheet(small, [names[t] for t in sampled]))
    height, width = labels.shape
    summary = {
        **about,
        "frames": len(names),
        "height": height,
        "width": width,
        "rate": rate,
        "formats": list(formats),
        "threshold": threshold,
        "seconds": round(seconds, 3),
        "frames_per_second": round(len(names) / seconds, 3),
        "foreground": {
            "mean": float(np.mean(foreground)),
            "min": min(foreground),
            "max": max(foreground),
        },
        "frames_without_foreground": [
            name for name, share in zip(names, foreground, strict=True) if share == 0
        ],
        "doubts": doubts(foreground, changes.largest),
        "jaxvos": jaxvos.__version__,
    }
    (stage / "summary.json").write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    return summary


def _clip(video: Video, rate: float) -> Clip:
    """What the writers of masks are told; a film's frames get the names of pictures made of it."""
    frames, names = video.frames, frame_names(video)
    if isinstance(frames, Pictures):
        files = [file.name for file in frames.files]
    else:
        files = [f"{name}.jpg" for name in names]
    return Clip(video.name, names, files, frames[0].shape[:2], rate)


def _write_scores(folder: Path, name: str, scores: np.ndarray) -> None:
    levels = np.rint(scores * 65535).astype(np.uint16)
    if levels.ndim == 2:
        write_png(folder / f"{name}.png", Image.fromarray(levels))
        return
    for k in range(levels.shape[-1]):
        write_png(folder / f"{name}-{k + 1}.png", Image.fromarray(levels[..., k].copy()))


def _sheet(pictures: list[np.ndarray], names: list[str]) -> Image.Image:
    return Image.fromarray(contact_sheet(pictures, names))


@contextmanager
def _results_folder(
    video: Video, out: str | Path, threshold: float, overwrite: bool
) -> Iterator[Path]:
    """The folder to build the results in; what can be known to go wrong does so before any work."""
    if not 0 <= threshold <= 1:
        raise ValueError(f"The threshold is {threshold}; scores are 0 to 1.")
    require_h264()
    place = Path(out).resolve()
    products = {place / name for name in PRODUCTS}
    for file in getattr(video.frames, "files", []):
        file = file.resolve()
        if products & {file, *file.parents}:
            raise ValueError(
                f"{file} would be overwritten while it is read: choose another folder."
            )
        if file.parent == place and file.suffix.lower() in PICTURES:
            raise ValueError(
                f"{out} holds the frames; sheet.png would be one of them next time. "
                "Choose another folder, such as one inside it."
            )
    with whole_folder(out, PRODUCTS, overwrite=overwrite) as stage:
        yield stage


def _video(source: Source) -> Video:
    return source if isinstance(source, Video) else open_video(source)


def _words(source: str | Path | Sequence[str | Path]) -> str | list[str]:
    return str(source) if isinstance(source, str | Path) else [str(path) for path in source]
