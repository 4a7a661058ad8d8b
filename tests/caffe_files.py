"""Writes .caffemodel files by hand, field by field, so that they can be wrong in every way."""

import struct
from collections.abc import Sequence

import numpy as np

OLD, NEW = "layers", "layer"


def varint(number: int) -> bytes:
    number &= 2**64 - 1  # negative ones are written as 64 bits
    digits = []
    while number > 127:
        digits.append(number & 127 | 128)
        number >>= 7
    return bytes([*digits, number])


def whole(field: int, number: int) -> bytes:
    return varint(field << 3) + varint(number)


def text(field: int, data: bytes | str) -> bytes:
    data = data.encode() if isinstance(data, str) else data
    return varint(field << 3 | 2) + varint(len(data)) + data


def shape(dims: Sequence[int], packed: bool = True) -> bytes:
    """A BlobShape, as the field of a blob."""
    if packed:
        return text(7, text(1, b"".join(map(varint, dims))))
    return text(7, b"".join(whole(1, n) for n in dims))


def legacy(dims: Sequence[int]) -> bytes:
    """The sizes as num, channels, height and width."""
    sizes = (1,) * (4 - len(dims)) + tuple(dims)
    return b"".join(whole(i + 1, n) for i, n in enumerate(sizes))


def floats(numbers, packed: bool = True, double: bool = False) -> bytes:
    """The numbers of a blob, in one piece or one by one."""
    numbers = np.ravel(numbers).astype("<f8" if double else "<f4")
    field, wire = (8, 1) if double else (5, 5)
    if packed:
        return text(field, numbers.tobytes())
    return b"".join(varint(field << 3 | wire) + n.tobytes() for n in numbers)


def blob(array, sizes=shape, **options) -> bytes:
    array = np.asarray(array)
    return sizes(array.shape) + floats(array, **options)


def layer(name: str, kind: str | int, *blobs: bytes, message: str = NEW) -> bytes:
    """A layer of a net; with what stands around weights in real files."""
    n, t, b = (1, 2, 7) if message == NEW else (4, 5, 6)
    type_ = text(t, kind) if isinstance(kind, str) else whole(t, kind)
    around = text(3 if message == NEW else 2, "bottom") + varint(99 << 3 | 5) + struct.pack("<f", 1)
    parts = text(n, name) + type_ + around + b"".join(text(b, each) for each in blobs)
    return text(100 if message == NEW else 2, parts)


def net(*layers: bytes) -> bytes:
    return text(1, "a net") + b"".join(layers)
