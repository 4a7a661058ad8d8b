"""H.264 files of pictures that come one by one; a file appears when it is whole, or not at all."""

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.video.reformatter import ColorRange, Colorspace


def require_h264() -> None:
    """Raises where H.264 cannot be written, before any work is done for it."""
    if "libx264" not in av.codecs_available:
        raise RuntimeError(
            "This PyAV has no H.264 encoder (libx264). The wheels on PyPI have one: "
            "pip install --force-reinstall --only-binary :all: av"
        )


@contextmanager
def film_writer(
    path: Path, rate: float | Fraction, *, crf: int = 20, preset: str = "veryfast"
) -> Iterator[Callable[[np.ndarray], None]]:
    """A function that appends a picture [H, W, 3] uint8 to an H.264 file of `rate` frames/s.

    The file appears under its name when the block ends, and not at all if it ends in an exception.
    Odd sizes are padded to even ones by repeating the last row or column: yuv420p needs that.
    """
    require_h264()
    path = Path(path)
    partial = path.with_name(f".{path.stem}.partial-{os.getpid()}{path.suffix}")
    options = {"movflags": "+faststart"} if path.suffix in {".mp4", ".mov"} else {}
    try:
        with av.open(f"file:{partial}", "w", options=options) as container:
            # 1001: 30000/1001 and its like come back exactly from a float.
            stream = container.add_stream("libx264", rate=Fraction(rate).limit_denominator(1001))
            stream.pix_fmt = "yuv420p"
            stream.options = {"crf": str(crf), "preset": preset}
            stream.codec_context.colorspace = Colorspace.ITU709
            stream.codec_context.color_range = ColorRange.MPEG
            stream.codec_context.color_primaries = stream.codec_context.color_trc = 1  # BT.709

            def write(picture: np.ndarray) -> None:
                height, width = picture.shape[:2]
                if height % 2 or width % 2:
                    picture = np.pad(picture, ((0, height % 2), (0, width % 2), (0, 0)), "edge")
                frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
                if not stream.codec_context.is_open:
                    stream.width, stream.height = frame.width, frame.height
                if (stream.width, stream.height) != (frame.width, frame.height):
                    raise ValueError(
                        f"{path}: a picture of {frame.width} x {frame.height} pixels after some of "
                        f"{stream.width} x {stream.height}."
                    )
                yuv = frame.reformat(
                    format="yuv420p",
                    dst_colorspace=Colorspace.ITU709,
                    dst_color_range=ColorRange.MPEG,
                )
                container.mux(stream.encode(yuv))

            yield write
            if not stream.codec_context.is_open:
                raise ValueError(f"{path}: a film needs at least one picture.")
            container.mux(stream.encode())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def write_video(
    path: Path,
    frames: Iterable[np.ndarray],
    rate: float | Fraction,
    *,
    crf: int = 20,
    preset: str = "veryfast",
) -> None:
    """Writes pictures [H, W, 3] uint8 as an H.264 file; see `film_writer`."""
    with film_writer(path, rate, crf=crf, preset=preset) as write:
        for frame in frames:
            write(frame)
