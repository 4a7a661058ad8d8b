"""Writes the files of torch.save by hand, so that they can be wrong in every way."""

import struct
import zipfile

import numpy as np


def dump(value) -> bytes:
    """The opcodes that push `value`; bytes are opcodes already."""
    if isinstance(value, bytes):
        return value
    if value is None or isinstance(value, bool):
        return {None: b"N", True: b"\x88", False: b"\x89"}[value]
    if isinstance(value, int):
        digits = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
        return b"\x8a" + bytes([len(digits)]) + digits
    if isinstance(value, float):
        return b"G" + struct.pack(">d", value)
    if isinstance(value, str):
        return b"X" + struct.pack("<I", len(value.encode())) + value.encode()
    if isinstance(value, tuple):
        return b"(" + b"".join(map(dump, value)) + b"t"
    if isinstance(value, list):
        return b"](" + b"".join(map(dump, value)) + b"e"
    return b"}(" + b"".join(dump(k) + dump(v) for k, v in value.items()) + b"u"


def name(module: str, name: str) -> bytes:
    return f"c{module}\n{name}\n".encode()


def call(module: str, function: str, *args) -> bytes:
    return name(module, function) + dump(args) + b"R"


def storage(key="0", total=6, kind="FloatStorage", part=()) -> bytes:
    return dump(("storage", name("torch", kind), key, "cpu", total, *part)) + b"Q"


def tensor(size=(2, 3), stride=(3, 1), offset=0, numbers=None) -> bytes:
    hooks = call("collections", "OrderedDict")
    args = (storage() if numbers is None else numbers, offset, size, stride, False, hooks)
    return call("torch._utils", "_rebuild_tensor_v2", *args)


def pickled(value) -> bytes:
    return b"\x80\x02" + dump(value) + b"."


SIX = np.arange(6, dtype="<f4").tobytes()


def write_zip(path, value, storages=None, compression=zipfile.ZIP_STORED, extra=()):
    storages = {"0": SIX} if storages is None else storages
    with zipfile.ZipFile(path, "w", compression) as archive:
        if value:
            archive.writestr("net/data.pkl", value if value[:1] == b"\x80" else pickled(value))
        for key, raw in storages.items():
            archive.writestr(f"net/data/{key}", raw)
        for part, text in extra:
            archive.writestr(f"net/{part}", text)


def write_legacy(path, value, storages=None, little=True):
    storages = {"0": (6, SIX)} if storages is None else storages
    info = {"protocol_version": 1001, "little_endian": little, "type_sizes": {"int": 4}}
    heads = [0x1950A86A20F9469CFC6C, 1001, info]
    value = value if value[:1] == b"\x80" else pickled(value)
    parts = [*map(pickled, heads), value, pickled(list(storages))]
    parts += [struct.pack("<q" if little else ">q", n) + raw for n, raw in storages.values()]
    path.write_bytes(b"".join(parts))
