"""Parity cases: weights and inputs that both sides make from names, the released outputs.

The folder named by JAXVOS_PARITY_CASES, or this one, holds <case>/{manifest.json, case.npz}; a
manifest says which system it belongs to.
"""

import hashlib
import json
import os
import re
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np


class Case(NamedTuple):
    """One case: its manifest, and the reference outputs by name."""

    folder: Path
    manifest: dict
    outputs: dict[str, np.ndarray]

    @property
    def tolerance(self) -> float:
        """Largest allowed max |ours - reference| / max |reference| in float32."""
        return max(2e-5, 10 * self.manifest["f32_error"])

    def parameters(self) -> dict[str, np.ndarray]:
        """The published state dict, float32."""
        made = {p["name"]: _parameter(self.manifest["case"], p) for p in self.manifest["params"]}
        return {name: value.astype(np.float32) for name, value in made.items()}

    def inputs(self) -> dict[str, np.ndarray]:
        """The inputs, NCHW as published, float32; those made as "draw-based" are masks."""
        made = {}
        for entry in self.manifest["inputs"]:
            value = image(self.manifest["case"], entry["name"], entry["shape"])
            made[entry["name"]] = value if entry["how"] == "image" else value > 0.5
        return {name: np.asarray(value, np.float32) for name, value in made.items()}

    def compare(self, ours: dict[str, np.ndarray]) -> None:
        """Fails unless every stored output is met, and lists all that are not."""
        missing = sorted(self.outputs.keys() ^ ours.keys())
        assert not missing, f"outputs of one side only: {missing}"
        errors = {}
        for name, reference in self.outputs.items():
            value = np.asarray(ours[name])
            assert value.shape == reference.shape, f"{name}: {value.shape} for {reference.shape}"
            errors[name] = np.abs(value - reference).max() / np.abs(reference).max()
        worst = max(errors, key=errors.get)
        print(f"\n{self.folder.name}: worst of {len(errors)} outputs {worst} {errors[worst]:.1e}")
        far = {name: error for name, error in errors.items() if not error <= self.tolerance}
        assert not far, f"further off than {self.tolerance:.1e}: {far}"


def folders(system: str) -> list[Path | None]:
    """The folders of a system's cases; [None] if there is none, which `load` then fails on.

    Other systems' tests are collected in the same run, so that collecting must not fail.
    """
    manifests = sorted(_root().rglob("manifest.json"))
    of_system = [m for m in manifests if json.loads(m.read_text())["system"] == system]
    return [m.parent for m in of_system] or [None]


def load(folder: Path | None) -> Case:
    """The case in a folder; that there is none is an error, lest a test check nothing."""
    assert folder is not None, f"{_root()} holds no parity case of this system"
    manifest = json.loads((folder / "manifest.json").read_text())
    with np.load(folder / "case.npz") as arrays:
        return Case(folder, manifest, dict(arrays))


def _root() -> Path:
    return Path(os.environ.get("JAXVOS_PARITY_CASES") or Path(__file__).parent)


def draw(case: str, name: str, shape: list[int]) -> np.ndarray:
    """Standard normal numbers that depend on the two names alone, float64."""
    seed = int.from_bytes(hashlib.sha256(f"{case}/{name}".encode()).digest()[:8], "little")
    return np.random.Generator(np.random.PCG64(seed)).standard_normal(shape)


def image(case: str, name: str, shape: list[int]) -> np.ndarray:
    """A smooth random picture with a little noise, NCHW float64."""
    n, c, h, w = shape
    coarse = draw(case, name + ".coarse", [n, c, -(-h // 8) + 1, -(-w // 8) + 1])
    y, x = np.arange(h) / 8, np.arange(w) / 8
    top, left = y.astype(int), x.astype(int)
    dy, dx = (y - top)[:, None], x - left
    rows = coarse[:, :, top] * (1 - dy) + coarse[:, :, top + 1] * dy
    smooth = rows[..., left] * (1 - dx) + rows[..., left + 1] * dx
    return 1.2 * smooth + 0.2 * draw(case, name + ".fine", shape)


def _parameter(case: str, entry: dict) -> np.ndarray:
    shape, kind, gain = entry["shape"], entry["kind"], entry.get("gain", 1.0)
    if kind == "literal":
        return np.asarray(entry["values"]).reshape(shape)
    z = draw(case, entry["name"], shape)
    if kind == "weight":
        return gain * z * np.sqrt(2 / max(1, np.prod(shape[1:])))
    if kind == "weight_t":
        return gain * z * np.sqrt(2 / (shape[0] * np.prod(shape[2:])))
    return {
        "scale": lambda: gain * (1 + 0.1 * z),
        "bias": lambda: gain * 0.1 * z,
        "mean": lambda: gain * 0.1 * z,
        "var": lambda: gain * np.exp(0.2 * z),
        "prelu": lambda: 0.25 + 0.05 * z,
        "normal": lambda: gain * z,
    }[kind]()


def cropped(ours: dict[str, np.ndarray], names: list[str]) -> dict[str, np.ndarray]:
    """Our maps under the stored names, cut as these say: "name[:10]" is its first ten channels."""
    by_name = {}
    for name in names:
        whole = ours.get(name.split("[")[0])
        if whole is not None:
            ends = [int(end) for end in re.findall(r":(\d+)", name)]
            by_name[name] = np.asarray(whole)[tuple(slice(end) for end in ends)]
    return by_name


def nhwc(x: np.ndarray) -> jax.Array:
    """[N, C, H, W] -> [N, H, W, C]."""
    return jax.numpy.asarray(np.moveaxis(x, 1, -1))


def chw(x: jax.Array) -> jax.Array:
    """[1, H, W, C] -> [C, H, W]."""
    return jax.numpy.moveaxis(x[0], -1, 0)
