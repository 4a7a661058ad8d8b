"""Flow in files: Middlebury's .flo, KITTI's .png, .npy and .pfm; read whole and checked."""

import io
from pathlib import Path

import cv2
import numpy as np

from jaxvos.whole_file import whole_file

TAG = 202021.25
"""What a .flo file begins with, float32: it reads "PIEH" where the bytes are in order."""
UNKNOWN = 1e9
"""Middlebury: a component beyond this says that the flow is not known there."""
KITTI = (64.0, 2.0**15)
"""KITTI: 16 bit levels are flow times 64 plus 2^15, so flow is -512 to 512 in steps of 1/64."""
SUFFIXES = (".flo", ".npy", ".png")
"""What is written, and what a folder of flow may hold; .pfm is read alone."""


def read_flow(path: str | Path) -> np.ndarray:
    """[H, W, 2] float32 pixels (x, y); NaN where the file says that flow is not known.

    Args:
        path: .flo; .npy of [H, W, 2] numbers; .png of 16 bit, x, y and whether it is known; or
            .pfm of three channels, the first two of which are x and y.
    """
    path = Path(path)
    readers = {".flo": _read_flo, ".npy": _read_npy, ".png": _read_png, ".pfm": _read_pfm}
    if path.suffix not in readers:
        raise ValueError(f"{path}: flow is read from {', '.join(readers)}.")
    return readers[path.suffix](path)


def write_flow(path: str | Path, flow: np.ndarray) -> None:
    """Writes [H, W, 2] flow, whole or not at all, in the format that the name ends in.

    .png rounds to 1/64 pixel and holds -512 to 512. NaN, not known, is not written to .npy.
    """
    path, flow = Path(path), np.asarray(flow, np.float32)
    if flow.ndim != 3 or flow.shape[2] != 2 or not flow.size:
        raise ValueError(f"{path}: flow is [H, W, 2], not {flow.shape}.")
    known = np.isfinite(flow).all(axis=-1)
    if path.suffix == ".flo":
        height, width = flow.shape[:2]
        head = np.float32(TAG).tobytes() + np.array([width, height], "<i4").tobytes()
        values = np.where(known[..., None], flow, np.float32(10 * UNKNOWN))
        _write(path, head + values.astype("<f4").tobytes())
    elif path.suffix == ".npy":
        stream = io.BytesIO()
        np.save(stream, checked(flow, path))
        _write(path, stream.getvalue())
    elif path.suffix == ".png":
        _write(path, _kitti(path, flow, known))
    else:
        raise ValueError(f"{path}: flow is written to {', '.join(SUFFIXES)}.")


def checked(flow: np.ndarray, where: str | Path) -> np.ndarray:
    """The flow, if it is known everywhere."""
    bad = int((~np.isfinite(flow)).any(axis=-1).sum())
    if bad:
        raise ValueError(
            f"{where}: flow is not finite, or not known, at {bad} of {flow[..., 0].size} pixels."
        )
    return flow


def _write(path: Path, data: bytes) -> None:
    with whole_file(path) as partial:
        partial.write_bytes(data)


def _read_flo(path: Path) -> np.ndarray:
    return decode_flo(path.read_bytes(), str(path))


def decode_flo(data: bytes, name: str) -> np.ndarray:
    """The flow [H, W, 2] float32 of a .flo file; NaN where it is not known.

    `name` is for error messages.
    """
    if len(data) < 12 or np.frombuffer(data, "<f4", 1)[0] != np.float32(TAG):
        raise ValueError(f"{name} is no .flo file: it does not begin with {TAG}.")
    width, height = map(int, np.frombuffer(data, "<i4", 2, 4))
    if width < 1 or height < 1 or len(data) != 12 + 8 * width * height:
        raise ValueError(
            f"{name} has {len(data)} bytes, but says that it is {width} x {height} pixels: "
            f"{12 + 8 * width * height} bytes. Is it whole?"
        )
    flow = np.frombuffer(data, "<f4", offset=12).reshape(height, width, 2).astype(np.float32)
    return _where(flow, (np.abs(flow) <= UNKNOWN).all(axis=-1))


def _read_npy(path: Path) -> np.ndarray:
    try:
        flow = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise ValueError(f"{path} is no array of numbers: {error}") from error
    if flow.ndim != 3 or flow.shape[2] != 2 or flow.dtype.kind not in "fiu" or not flow.size:
        raise ValueError(f"{path} is {flow.shape} of {flow.dtype}, not flow [H, W, 2].")
    return flow.astype(np.float32)


def _read_png(path: Path) -> np.ndarray:
    levels = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_UNCHANGED)
    if levels is None:
        raise ValueError(f"{path} is no picture that can be read.")
    if levels.dtype != np.uint16 or levels.shape[2:] != (3,):
        raise ValueError(
            f"{path} is {levels.shape} of {levels.dtype}, not KITTI's flow, three channels of 16 "
            "bit. The colours of a flow picture cannot be turned back into flow."
        )
    scale, zero = KITTI
    flow = (levels[..., :0:-1].astype(np.float32) - zero) / scale  # OpenCV has B, G, R
    return _where(flow, levels[..., 0] > 0)


def _read_pfm(path: Path) -> np.ndarray:
    return decode_pfm(path.read_bytes(), str(path))


def decode_pfm(data: bytes, name: str) -> np.ndarray:
    """The flow [H, W, 2] float32 of a .pfm file of three channels; NaN where it is not finite.

    `name` is for error messages.
    """
    head = data[:64].split(b"\n", 3)[:3]
    try:
        kind, (width, height), scale = head[0].strip(), map(int, head[1].split()), float(head[2])
    except (IndexError, ValueError) as error:
        raise ValueError(f"{name} is no .pfm file: it begins with {data[:16]!r}.") from error
    start = sum(len(line) + 1 for line in head)
    if kind != b"PF" or len(data) - start != 12 * width * height:
        raise ValueError(
            f"{name} has {len(data)} bytes; three channels of {width} x {height} pixels would be "
            f"{start + 12 * width * height}. Is it whole, and is it flow?"
        )
    values = np.frombuffer(data, "<f4" if scale < 0 else ">f4", offset=start)
    rows = values.reshape(height, width, 3)[::-1, :, :2]  # from the bottom up
    return _where(np.ascontiguousarray(rows, np.float32), np.isfinite(rows).all(axis=-1))


def _kitti(path: Path, flow: np.ndarray, known: np.ndarray) -> bytes:
    scale, zero = KITTI
    levels = np.rint(np.where(known[..., None], flow, 0) * scale + zero)
    if levels.min() < 0 or levels.max() > 65535:
        raise ValueError(
            f"{path}: flow of up to {np.abs(flow[known]).max():.0f} pixels does not fit a KITTI "
            "picture, which holds -512 to 512. Choose .flo."
        )
    channels = np.dstack([known, levels[..., 1], levels[..., 0]]).astype(np.uint16)
    return cv2.imencode(".png", channels)[1].tobytes()


def _where(flow: np.ndarray, known: np.ndarray) -> np.ndarray:
    return np.where(known[..., None], flow, np.float32(np.nan))
