"""Reads the weights of a .caffemodel with numpy alone: Caffe's NetParameter, a protobuf message.

Only the few fields that hold weights are looked at (`layer`, or `layers` of Caffe before 2015; of a
layer its name, type and blobs; of a blob its shape and numbers), and everything else is stepped
over. A length is held against the bytes that are really there before anything is made of it.

A blob is called "<layer>.<kind>", where the layer's type says what its blobs are:

    Convolution, Deconvolution, InnerProduct, Scale    weight, bias
    BN (PSPNet's)                                      slope, bias, mean, var
    BatchNorm                                          mean, var, scale_factor: both times this
    a ConvLSTM, known by the shapes of its blobs       x_weight, h_weight, bias, peep_{i,f,o}
    any other                                          0, 1, ...

What is one number a channel comes as [C], however many ones are around it in the file.
"""

from collections.abc import Iterator, Mapping
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

# The wire types.
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_WIDTHS = {_FIXED64: 8, _FIXED32: 4}
_MAX_AXES = 32  # as in Caffe itself
_MAX_BLOBS = 64  # of one layer
_MAX_LAYERS = 4000  # with blobs; a ResNet-152 has 460

# A layer's type is a text, or a number in the older message.
_CONVOLUTIONS, _DENSE = ("Convolution", "Deconvolution", 4, 39), ("InnerProduct", 14)
_KINDS: dict[str | int, tuple[str, ...]] = {
    **dict.fromkeys((*_CONVOLUTIONS, *_DENSE, "Scale"), ("weight", "bias")),
    "PReLU": ("weight",),
    "Bias": ("bias",),
    "BN": ("slope", "bias", "mean", "var"),
    "BatchNorm": ("mean", "var", "scale_factor"),
    "DataAugmentation": ("", "", "mean"),  # FlowNet's; its count of steps and mean picture go
}


class _Message(NamedTuple):
    """The numbers of a layer's fields, which are others in the older message."""

    name: int
    type: int
    blobs: int


_MESSAGES = {2: _Message(4, 5, 6), 100: _Message(1, 2, 7)}  # by their field of NetParameter


def read(path: str | Path) -> dict[str, np.ndarray]:
    """The numbers of a .caffemodel by "<layer>.<kind>", float32 (or float64), in Caffe's layout.

    Arrays are views of the file's bytes where it holds them in one piece. Whatever is no such
    file, or does not fit its own bytes, is one ValueError that names the file.
    """
    data = Path(path).read_bytes()
    try:
        return _net(memoryview(data))
    except ValueError as error:
        begin = f"It begins with {data[:16]!r}." if data else "It is empty."
        raise ValueError(f"{path}: not a .caffemodel that can be read: {error}. {begin}") from error


def averaged(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """`tensors` with BatchNorm's means and variances instead of their sums and the scale_factor."""
    found = dict(tensors)
    for name in tensors:
        layer, _, kind = name.rpartition(".")
        if kind == "scale_factor" and f"{layer}.mean" in found and f"{layer}.var" in found:
            factor = float(found.pop(name).reshape(-1)[0])
            for sums in (f"{layer}.mean", f"{layer}.var"):
                found[sums] = found[sums] * np.float32(1 / factor if factor else 0)  # as Caffe does
    return found


def _net(data: memoryview) -> dict[str, np.ndarray]:
    tensors: dict[str, np.ndarray] = {}
    layers: set[str] = set()
    for field, wire, value in _fields(data):
        if field not in _MESSAGES:
            continue
        name, kind, blobs = _layer(_of(_BYTES, wire, value, "a layer"), _MESSAGES[field])
        if not blobs:
            continue
        if name in layers:
            raise ValueError(f"two layers called {name[:100]!r} hold weights")
        if len(layers) == _MAX_LAYERS:
            raise ValueError(f"more than {_MAX_LAYERS} layers hold weights")
        layers.add(name)
        tensors |= {f"{name}.{key}": blob for key, blob in _named(kind, blobs).items()}
    if not tensors:
        raise ValueError(
            "no layer in it holds weights (nor does one of a .prototxt, a .solverstate or a "
            ".caffemodel.h5)"
        )
    return tensors


def _layer(data: memoryview, at: _Message) -> tuple[str, str | int, list[np.ndarray]]:
    """Name, type and blobs of a layer."""
    name, kind, raw = "", "", []
    for field, wire, value in _fields(data):
        if field == at.name:
            name = _text(_of(_BYTES, wire, value, "a layer's name"))
        elif field == at.type:
            kind = value if wire == _VARINT else _text(_of(_BYTES, wire, value, "a layer's type"))
        elif field == at.blobs:
            raw.append(_of(_BYTES, wire, value, "a blob"))
            if len(raw) > _MAX_BLOBS:
                raise ValueError(f"the layer {name[:100]!r} has more than {_MAX_BLOBS} blobs")
    if raw and not name:
        raise ValueError("a layer without a name holds weights")
    try:
        return name, kind, [_blob(each) for each in raw]
    except ValueError as error:
        raise ValueError(f"in the layer {name[:100]!r} {error}") from error


def _named(layer: str | int, blobs: list[np.ndarray]) -> dict[str, np.ndarray]:
    """The blobs of a layer of that type by what they are."""
    if layer not in _KINDS:
        return _conv_lstm(blobs) or {str(i): blob for i, blob in enumerate(blobs)}
    named, kinds = {}, _KINDS[layer]
    for i, blob in enumerate(blobs):
        kind = kinds[i] if i < len(kinds) else str(i)
        if kind == "weight" and layer in _DENSE:
            blob = blob.reshape(blob.shape[-2:]) if prod(blob.shape[:-2]) == 1 else blob
        elif kind != "weight" or layer not in _CONVOLUTIONS:
            blob = blob.reshape(-1) if sum(n != 1 for n in blob.shape) <= 1 else blob
        if kind:
            named[kind] = blob
    return named


def _conv_lstm(blobs: list[np.ndarray]) -> dict[str, np.ndarray] | None:
    """The blobs of a ConvLSTM with peepholes, told by their shapes; None if they are of another.

    Some versions of the layer have blobs of a single number between them. The input's weights
    come before the state's, and the gates in the order i, f, o.
    """
    weights, bias, peep = [], [], []
    for blob in (blob for blob in blobs if blob.size > 1):
        axes = [n for n in blob.shape if n != 1]
        if blob.ndim == 4 and blob.shape[0] > 1:
            weights.append(blob)
        elif len(axes) == 1:
            bias.append(blob.reshape(-1))
        elif len(axes) == 2:
            peep.append(blob.reshape(axes))
        else:
            return None
    if (len(weights), len(bias), len(peep)) != (2, 1, 3):
        return None
    gates = 4 * weights[1].shape[1]  # times the state's channels
    if not len(weights[0]) == len(weights[1]) == bias[0].size == gates:
        return None
    kinds = ("x_weight", "h_weight", "bias", "peep_i", "peep_f", "peep_o")
    return dict(zip(kinds, (*weights, *bias, *peep), strict=True))


def _blob(data: memoryview) -> np.ndarray:
    """The numbers of one BlobProto in its shape, which older files give as four sizes."""
    legacy: dict[int, int] = {}
    dims: list[int] = []
    numbers = {5: _Numbers(4), 8: _Numbers(8)}
    for field, wire, value in _fields(data, runs=(5, 8)):
        if field in (1, 2, 3, 4):
            legacy[field] = _of(_VARINT, wire, value, "a size")
        elif field == 7:
            dims += _dims(_of(_BYTES, wire, value, "a shape"))
        elif field in numbers:
            numbers[field].add(wire, value)
    held = numbers[8] if numbers[8].size else numbers[5]
    shape = tuple(legacy.get(i, 0) for i in (1, 2, 3, 4)) if legacy else tuple(dims)
    if len(shape) > _MAX_AXES:
        raise ValueError(f"a blob has {len(shape)} axes")
    if any(n >= 2**31 for n in shape) or prod(shape) * held.width != held.size:
        raise ValueError(f"a blob of shape {shape} has {held.size // held.width} numbers"[:300])
    return np.ndarray(shape, f"<f{held.width}", held.data)


def _dims(data: memoryview) -> list[int]:
    """The sizes of a BlobShape, packed or not."""
    dims: list[int] = []
    for field, wire, value in _fields(data):
        if field == 1 and wire == _BYTES:
            at = 0
            while at < len(value) and len(dims) <= _MAX_AXES:
                size, at = _varint(value, at)
                dims.append(size)
        elif field == 1:
            dims.append(_of(_VARINT, wire, value, "a size"))
        if len(dims) > _MAX_AXES:
            raise ValueError(f"a blob has more than {_MAX_AXES} axes")
    return dims


class _Numbers:
    """Numbers of one width [bytes], as they come: in one piece, in pieces, or one by one."""

    def __init__(self, width: int) -> None:
        self.width = width
        self.data: memoryview | bytearray = memoryview(b"")

    @property
    def size(self) -> int:
        return len(self.data)

    def add(self, wire: int, value: Any) -> None:
        if wire not in (_BYTES, next(w for w, n in _WIDTHS.items() if n == self.width)):
            raise ValueError("the numbers are stored as whole ones")
        if len(value) % self.width:
            raise ValueError(f"{len(value)} bytes should be numbers of {self.width} bytes each")
        if not self.size:
            self.data = value
        elif len(value):
            if not isinstance(self.data, bytearray):
                self.data = bytearray(self.data)
            self.data += value


def _fields(data: memoryview, runs: tuple[int, ...] = ()) -> Iterator[tuple[int, int, Any]]:
    """(field, wire type, value) of a message: whole numbers, or the bytes of everything else.

    A row of numbers that were written one by one comes at once for the fields in `runs`.
    """
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        field, wire = key >> 3, key & 7
        if not 0 < field < 2**29:
            raise ValueError(f"a field has the number {field}")
        if wire == _VARINT:
            value, at = _varint(data, at)
        elif wire == _BYTES:
            length, at = _varint(data, at)
            value, at = _take(data, at, length)
        elif wire in _WIDTHS:
            value, at = _take(data, at, _WIDTHS[wire])
            if field in runs:
                more, at = _run(data, at, key, _WIDTHS[wire])
                value = bytes(value) + more if more else value
        else:
            raise ValueError(f"the field {field} is of the unknown wire type {wire}")
        yield field, wire, value


def _run(data: memoryview, at: int, key: int, width: int) -> tuple[bytes, int]:
    """All numbers that follow under the same one-byte key, and where they end."""
    begin, step, count = at, width + 1, 16
    while True:  # looks twice as far each time, so that a short run costs little
        count = min(2 * count, (len(data) - at) // step)
        rows = np.frombuffer(data[at : at + count * step], np.uint8).reshape(count, step)
        other = np.flatnonzero(rows[:, 0] != key)
        at += step * (int(other[0]) if other.size else count)
        if other.size or not count:
            break
    rows = np.frombuffer(data[begin:at], np.uint8).reshape(-1, step)
    return rows[:, 1:].tobytes(), at


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    """A whole number of at most 64 bits, and where it ends."""
    number = 0
    for i, byte in enumerate(data[at : at + 10]):
        number |= (byte & 127) << 7 * i
        if byte < 128:
            return number & (2**64 - 1), at + i + 1
    if len(data) - at < 10:
        raise ValueError("it ends in the middle of a number: cut short?")
    raise ValueError("a number does not end")


def _take(data: memoryview, at: int, length: int) -> tuple[memoryview, int]:
    if length > len(data) - at:
        raise ValueError(f"{length} bytes are due where {len(data) - at} are left: cut short?")
    return data[at : at + length], at + length


def _of(wanted: int, wire: int, value: Any, what: str) -> Any:
    if wire != wanted:
        raise ValueError(f"{what} is of the wire type {wire}, not {wanted}")
    return value


def _text(data: memoryview) -> str:
    return bytes(data).decode()
