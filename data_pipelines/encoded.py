"""Pictures, masks and flow as files hold them, decoded when they are asked for."""

import io
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Generic, TypeVar

import cv2
import numpy as np
from PIL import Image

T = TypeVar("T")

_JPEG_START, _JPEG_END = b"\xff\xd8", b"\xff\xd9"
_TRAILER = 4096  # bytes that some cameras write after the end of a JPEG


@dataclass(frozen=True)
class Lazy(Sequence[T], Generic[T]):
    """`count` items, each made by `make(number)` whenever it is asked for; nothing is kept."""

    make: Callable[[int], T]
    count: int

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, number: int) -> T:
        wanted = operator.index(number)
        if not -self.count <= wanted < self.count:
            raise IndexError(f"There is no item {wanted} among {self.count}.")
        return self.make(wanted % self.count)


def column(
    source: Sequence[Mapping[str, Any]],
    video: str,
    start: int,
    length: int,
    key: str,
    decode: Callable[[bytes, str], np.ndarray],
) -> Lazy[np.ndarray]:
    """What the `length` records of a video, one a frame from record `start`, hold under `key`.

    Args:
        source: The records of a prepared data set.
        video: The name that they must have.
        start: The first of them.
        length: How many there are.
        key: What of them is wanted.
        decode: (its bytes, a name for errors) -> array.
    """
    return Lazy(partial(_entry, source, video, start, key, decode), length)


def picture_file(paths: Sequence[Path], number: int) -> np.ndarray:
    """The picture in the file `paths[number]`: [H, W, 3] uint8 RGB."""
    return decode_picture(paths[number].read_bytes(), str(paths[number]))


def mask_file(paths: Sequence[Path], number: int) -> np.ndarray:
    """The mask in the file `paths[number]`: [H, W] uint8."""
    return decode_mask(paths[number].read_bytes(), str(paths[number]))


def decode_picture(data: bytes, name: str) -> np.ndarray:
    """The picture [H, W, 3] uint8 RGB that is encoded in `data`; `name` is for error messages.

    It is not turned upright: its mask would not be.
    """
    flags = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
    # OpenCV 4 fills the missing rest of a JPEG with grey and says so on stderr alone.
    cut_short = data.startswith(_JPEG_START) and _JPEG_END not in data[-_TRAILER:]
    picture = None
    if data and not cut_short:
        picture = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    if picture is None:
        reason = "it is cut short" if cut_short else f"{len(data)} bytes of no known format"
        raise ValueError(f"{name} cannot be decoded as a picture: {reason}.")
    return cv2.cvtColor(picture, cv2.COLOR_BGR2RGB)


def decode_mask(data: bytes, name: str) -> np.ndarray:
    """The mask [H, W] uint8 that is encoded in `data`: palette indices or grey values as they are.

    `name` is for error messages. A grey picture saved as RGB counts as grey.
    """
    try:
        with Image.open(io.BytesIO(data)) as image:
            image.load()
    except (OSError, SyntaxError, ValueError) as error:
        raise ValueError(f"{name} cannot be decoded as a mask: {error}.") from error
    mask = np.asarray(image)  # not image.convert(): that turns palette indices into colours
    if image.mode in ("RGB", "RGBA", "LA"):
        grey = mask[..., :1] if image.mode == "LA" else mask[..., :3]
        if (grey != grey[..., :1]).any():
            raise ValueError(f"{name} is a picture in colours, not a mask: save it with a palette.")
        mask = grey[..., 0]
    elif image.mode not in ("1", "L", "P"):
        raise ValueError(f"{name} is no mask of 8 bits: its pixels are {image.mode}.")
    return np.ascontiguousarray(mask, np.uint8)


def _entry(
    source: Sequence[Mapping[str, Any]],
    video: str,
    start: int,
    key: str,
    decode: Callable[[bytes, str], np.ndarray],
    t: int,
) -> np.ndarray:
    record = source[start + t]
    if bytes(record["video"]).decode() != video or record["frame"] != t:
        raise ValueError(
            f"Record {start + t} is frame {record['frame']} of {record['video']!r} and not frame "
            f"{t} of {video!r}: the prepared data set is damaged. Prepare it anew."
        )
    return decode(bytes(record[key]), f"{key} {t} of {video}")
