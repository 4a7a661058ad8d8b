"""The pictures of a video file, decoded when they are asked for."""

import threading
import warnings
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from functools import lru_cache
from operator import index
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np

# Where every packet is one picture and carries its true presentation time, the packets alone say
# how many pictures there are and where decoding can start. AVI and MPEG-TS invent times, VP8 and
# MPEG-4 part 2 have packets that show nothing: those are counted by decoding them once.
TIMED_CONTAINERS = {"mov", "mp4", "matroska", "webm"}
TIMED_CODECS = {"h264", "hevc", "vp9", "av1", "mjpeg", "png", "prores", "dnxhd", "ffv1"}

KEPT_BYTES = 64 * 2**20  # of decoded pictures, within 2 to 16 of them


def kept_pictures(size: tuple[int, int]) -> int:
    """How many decoded pictures of (H, W) pixels are worth keeping at hand: 2 to 16."""
    return min(max(KEPT_BYTES // (3 * size[0] * size[1]), 2), 16)


class _Index(NamedTuple):
    """What is known of a file's pictures before they are decoded.

    Attributes:
        count: How many there are.
        times: Their presentation times, ascending, in the stream's own unit; None where the file
            gives none to rely on, and pictures are found by counting from the start.
        keys: Numbers of the pictures at which decoding can start, ascending.
    """

    count: int
    times: list[int] | None
    keys: list[int]


class Film(Sequence[np.ndarray]):
    """The pictures of a video file: `film[t]` is frame t, [H, W, 3] uint8 RGB, upright, read-only.

    Reading in order decodes on from where it was; a jump starts at the keyframe before it. Two
    decoders are kept, so that one reader may run ahead of another, and the last few pictures that
    were asked for. The display matrix that phones write is applied, mirrored ones included. A frame
    of a variable-rate video is one frame, however long it is shown.

    Attributes:
        path: The file.
        files: [path].
        names: "00000", "00001", ...: what the frames are called.
        rate: Frames per second (the average), or None where the file does not say.
        size: (H, W) in pixels, as shown.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.files = path, [path]
        self._index = _read_index(path)
        self._numbers = {time: number for number, time in enumerate(self._index.times or [])}
        self._decoders: list[_Decoder] = []  # least recently used first
        self._lock = threading.Lock()  # decoders must not be moved by two threads at once
        self.names = [f"{t:05d}" for t in range(len(self))]
        first = self._decode(0)
        self.rate = self._decoders[0].rate()
        self.size = first.shape[:2]
        self._read = lru_cache(maxsize=kept_pictures(self.size))(self._decode)

    def __len__(self) -> int:
        return self._index.count

    def __getitem__(self, t: int | slice) -> np.ndarray | list[np.ndarray]:
        if isinstance(t, slice):
            return [self[i] for i in range(*t.indices(len(self)))]
        number = index(t)
        if not -len(self) <= number < len(self):
            raise IndexError(f"{self.path} has {len(self)} frames, no frame {number}.")
        with self._lock:
            picture = self._read(number % len(self))
        if picture.shape[:2] != self.size:
            raise ValueError(
                f"{self.path}: frame {number} is {_pixels(picture.shape)}, but frame 0 is "
                f"{_pixels(self.size)}. Split the file where its size changes."
            )
        return picture

    def _decode(self, number: int) -> np.ndarray:
        """Frame `number`, [H, W, 3] uint8, by the nearest way that leads to it."""
        for decoder in self._ways_to(number):
            for at, frame in decoder:
                if at == number:
                    if frame.is_corrupt:
                        warnings.warn(f"{self.path}: frame {number} is damaged.", stacklevel=3)
                    return _upright(frame)
                if at > number:
                    break
        raise ValueError(f"{self.path}: frame {number} cannot be decoded: the file is damaged.")

    def _ways_to(self, number: int) -> "Iterator[_Decoder]":
        """Decoders on their way to frame `number`: the quickest first, from the start last."""
        keys = self._index.keys
        key = keys[bisect_right(keys, number) - 1] if keys and keys[0] <= number else 0
        on_the_way = [d for d in self._decoders if key <= d.next <= number]
        if on_the_way:
            yield self._use(max(on_the_way, key=lambda d: d.next))
        if len(self._decoders) < 2:
            self._decoders.append(_Decoder(self.path, self._numbers))
        decoder = self._use(self._decoders[0])
        if key > 0:
            decoder.seek(self._index.times[key], key)
            yield decoder
        decoder.rewind()
        yield decoder

    def _use(self, decoder: "_Decoder") -> "_Decoder":
        self._decoders.remove(decoder)
        self._decoders.append(decoder)
        return decoder


class _Decoder:
    """One walk through a file: iterating gives (number, frame), `next` says which comes next.

    `numbers` is the number of each presentation time; where it is empty, frames are counted.
    """

    def __init__(self, path: Path, numbers: dict[int, int]) -> None:
        self.path, self.numbers = path, numbers
        self.container: av.container.InputContainer | None = None
        self.rewind()

    def rewind(self) -> None:
        if self.container is not None:
            self.container.close()
        self.container, self.stream = _open(self.path)
        # Where frames are counted, damage must come out the same each time: no frame threads.
        self.stream.thread_type = "AUTO" if self.numbers else "SLICE"
        self.frames, self.next = _frames(self.container, self.stream), 0

    def seek(self, time: int, number: int) -> None:
        """Goes to the keyframe shown at `time`, which is frame `number`.

        Some containers come down on another keyframe; whoever iterates sees that by the numbers. Of
        pictures that build on what lies before the keyframe, FFmpeg's decoders give none.
        """
        self.container.seek(time, stream=self.stream)
        self.frames, self.next = _frames(self.container, self.stream), number

    def rate(self) -> float | None:
        rate = self.stream.average_rate or self.stream.guessed_rate
        return float(rate) if rate else None

    def __iter__(self) -> Iterator[tuple[int, av.VideoFrame]]:
        for frame in self.frames:
            number = self.numbers.get(frame.pts) if self.numbers else self.next
            if number is not None:
                self.next = number + 1
                yield number, frame


def _open(path: Path) -> tuple[av.container.InputContainer, av.VideoStream]:
    """The opened file and its best video stream."""
    with path.open("rb"):  # a missing file, a folder, no permission: in Python's own words
        pass
    advice = "It is of another kind, or cut off so early that its table of contents is missing."
    try:
        container = av.open(f"file:{path}", metadata_errors="ignore")
    except av.FFmpegError as error:
        raise ValueError(f"{path} is no video: {error.strerror}. {advice}") from error
    stream = container.streams.best("video")
    if stream is None or container.format.name == "tty":  # how FFmpeg takes any .txt
        container.close()
        raise ValueError(f"{path} has no video in it ({container.format.long_name}). {advice}")
    return container, stream


def _frames(
    container: av.container.InputContainer, stream: av.VideoStream
) -> Iterator[av.VideoFrame]:
    """Frames in the order they are shown, from where the container stands.

    A packet that cannot be decoded gives none: whoever numbers the frames sees that one is missing.
    """
    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets, None)
            frames = packet.decode() if packet is not None else None
        except av.error.InvalidDataError:
            continue
        if frames is None:
            return
        yield from frames


class _Scan(NamedTuple):
    """What one pass over a file's packets shows, without decoding.

    Attributes:
        times: Presentation times of the frames that are shown, in the order they are stored.
        keys: Those of the keyframes.
        end: Seconds at which the last packet of any stream ends.
        intact: No packet is marked as broken.
    """

    times: list[int | None]
    keys: list[int | None]
    end: float
    intact: bool


def _scan(container: av.container.InputContainer, stream: av.VideoStream) -> _Scan:
    times, keys, end, intact = [], [], 0.0, True
    try:
        for packet in container.demux():
            if not packet.size:  # the empty ones that end each stream
                continue
            if packet.pts is not None:
                end = max(end, float((packet.pts + (packet.duration or 0)) * packet.time_base))
            if packet.stream_index == stream.index:
                intact = intact and not packet.is_corrupt
                if not packet.is_discard:  # else outside the edit list: decoded, never shown
                    times.append(packet.pts)
                    keys += [packet.pts] if packet.is_keyframe else []
    except av.error.InvalidDataError:
        intact = False
    return _Scan(times, keys, end, intact)


def _read_index(path: Path) -> _Index:
    """The index of a file: from its packets where they can be trusted, else by decoding it once.

    Warns of a file that is cut short: one with a broken packet, or less than it promises to hold.
    """
    container, stream = _open(path)
    with container:
        scan = _scan(container, stream)
        rate = float(stream.average_rate or stream.guessed_rate or 25)
        timed = bool(TIMED_CONTAINERS & set(container.format.name.split(",")))
        # An edited MP4 declares frames that it does not show, AVI a length guessed from its bytes.
        promised = (container.duration or 0) / av.time_base * rate if timed else stream.frames
        whole = scan.intact and scan.end * rate > promised - max(2.5, 0.1 * rate)
        timed = timed and stream.codec_context.name in TIMED_CODECS
    times, keys = scan.times, scan.keys
    if whole and timed and times and None not in times and len(set(times)) == len(times):
        times, keys = sorted(times), sorted(keys)
        if keys[:1] == times[:1]:
            return _Index(len(times), times, [bisect_right(times, key) - 1 for key in keys])
    count = _count(path)
    if not whole:
        of = f" of about {promised:.0f}" if promised > count else ""
        warnings.warn(f"{path} is cut short: {count} frames{of} can be read.", stacklevel=4)
    return _Index(count, None, [])


def _count(path: Path) -> int:
    """How many frames decoding the file from start to end gives."""
    container, stream = _open(path)
    with container:
        stream.thread_type = "SLICE"
        count = sum(1 for _ in _frames(container, stream))
    if not count:
        raise ValueError(f"{path}: not one frame can be decoded: the file is cut short or damaged.")
    return count


def _upright(frame: av.VideoFrame) -> np.ndarray:
    """The picture [H, W, 3] uint8 RGB as it is to be shown: turned and mirrored if need be."""
    picture = frame.to_ndarray(format="rgb24")
    matrix = frame.side_data.get("DISPLAYMATRIX")
    if matrix is not None:
        # (x, y) is shown at (a x + c y, b x + d y). These are quarter turns and mirrorings:
        # either a and d are 0, or b and c.
        rows = np.frombuffer(bytes(matrix)[:36], np.int32).reshape(3, 3).tolist()
        (a, b, _), (c, d, _), _ = rows
        if abs(b) > abs(a):
            picture, a, d = picture.swapaxes(0, 1), c, b
        picture = picture[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1]
    picture = np.ascontiguousarray(picture)
    picture.flags.writeable = False  # it may be handed out again
    return picture


def _pixels(size: Sequence[int]) -> str:
    return f"{size[1]} x {size[0]}"
