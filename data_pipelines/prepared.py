"""Reads the data sets that `jaxvos prepare` has prepared: their videos and their pictures.

`data_pipelines.builders` knows their names; TFDS, which takes its time to import, is imported when
one is opened.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import Any

from data_pipelines.encoded import Lazy, column, decode_mask, decode_picture
from data_pipelines.specs import Options
from data_pipelines.video_records import ImageRecord, VideoRecord, Videos, chosen
from jaxvos.flow.files import decode_flo, decode_pfm

FLOWS = {".pfm": decode_pfm, ".flo": decode_flo}
"""What reads the flow of a prepared data set."""

FIXATIONS = "fixations"
"""The data set of videos with eye movements, read by `data_pipelines.fixations`."""


def videos(name: str, options: Options, split: str, data_dir: str | Path | None) -> Videos:
    """The videos of a prepared data set, none of them opened yet.

    Args:
        name: One of `builders.NAMES` that holds videos.
        options: split=, only= and without=.
        split: Which part of it, unless the options say.
        data_dir: Where prepared data sets are; None for where TFDS puts them.
    """
    from data_pipelines import builders

    options.check(name, ("split", "only", "without"))
    split = options.one("split", split)
    source, metadata = builders.prepared(name, split, data_dir)
    names, lengths = zip(*metadata["videos"][split], strict=True)
    kept = chosen(names, options, name)
    if name == FIXATIONS:
        made = _fixated(source, list(zip(names, lengths, strict=True)), kept)
        return Videos(partial(_item, made), len(made), tuple(lengths[k] for k in kept))
    starts = (0, *accumulate(lengths))
    spans = tuple((names[k], starts[k], lengths[k]) for k in kept)
    read = partial(_video, source, spans, metadata.get("flow"))
    return Videos(read, len(spans), tuple(length for *_, length in spans))


def images(
    name: str, options: Options, split: str, data_dir: str | Path | None
) -> Lazy[ImageRecord]:
    """The pictures of a prepared data set, none of them read yet; arguments as for `videos`."""
    from data_pipelines import builders

    options.check(name, ("split",))
    source, _ = builders.prepared(name, options.one("split", split), data_dir)
    return Lazy(partial(_image, source), len(source))


def _video(
    source: Sequence[Mapping[str, Any]],
    spans: Sequence[tuple[str, int, int]],
    form: str | None,
    number: int,
) -> VideoRecord:
    """A video with masks, or with flow in files of some form in their place."""
    name, start, length = spans[number]
    frames = column(source, name, start, length, "picture", decode_picture)
    if form is not None:
        flow = column(source, name, start, length - 1, "flow", FLOWS[form])
        return VideoRecord(name, frames, None, flow)
    return VideoRecord(name, frames, column(source, name, start, length, "mask", decode_mask))


def _fixated(
    source: Sequence[Mapping[str, Any]], videos: Sequence[tuple[str, int]], kept: Sequence[int]
) -> tuple[VideoRecord, ...]:
    """Videos with fixations; with masks, and with points, if all of them have any."""
    from data_pipelines.fixations import records

    found = records(source, videos)
    found = [found[number] for number in kept]
    masked = all(record.masks is not None for record in found)
    pointed = all(record.points is not None for record in found)
    return tuple(
        record._replace(
            masks=record.masks if masked else None, points=record.points if pointed else None
        )
        for record in found
    )


def _item(values: Sequence[Any], number: int) -> Any:
    return values[number]


def _image(source: Sequence[Mapping[str, Any]], number: int) -> ImageRecord:
    record = source[number]
    name = bytes(record["name"]).decode()
    return ImageRecord(
        name,
        decode_picture(bytes(record["picture"]), f"picture {name}"),
        decode_mask(bytes(record["mask"]), f"mask {name}"),
    )
