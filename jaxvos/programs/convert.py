"""Published weights -> a weight file of ours: `jaxvos convert SYSTEM IN OUT.safetensors`."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

import jaxvos
from jaxvos import torch_import
from jaxvos.checkpoints import read_weights, save_weights
from jaxvos.system import shapes
from jaxvos.systems import get
from jaxvos.typing import Variables


def convert(
    system: str,
    source: str | Path,
    target: str | Path,
    *,
    license_note: str = "unknown: ask the authors of the weights",
    options: Mapping[str, Any] | None = None,
    more: Sequence[str | Path] = (),
    overwrite: bool = False,
) -> None:
    """Writes the published weights `source` as `target` (.safetensors).

    Args:
        system: Its name in SYSTEMS.
        source: The published file (.pth, .safetensors, .npz, .caffemodel); nothing in it is run,
            whatever it holds.
        target: Our file. It is read back and compared before this returns.
        license_note: What is known about the licence of the weights; kept in the file.
        options: Of the model's constructor, where the weights are not of the published size.
        more: Further files, where the weights were published in several, such as MATNet's.
        overwrite: Whether `target` may exist.
    """
    record, source, target = get(system), Path(source), Path(target)
    if target.exists() and not overwrite:
        raise FileExistsError(f"{target} exists already; pass --overwrite to replace it")
    options = {k: tuple(v) if isinstance(v, list) else v for k, v in (options or {}).items()}
    expected = shapes(record, record.model(**options))
    files = [source, *map(Path, more)]
    tensors = _read_all(files)
    try:
        variables = torch_import.to_variables(tensors, record.names, expected)
    except ValueError as error:
        named = " and ".join(map(str, files))
        raise ValueError(f"{named}, as weights of {system}: {error}") from error
    metadata = {
        "system": system,
        "options": json.dumps(options),
        "version": jaxvos.__version__,
        "license": license_note,
        "source": "; ".join(f"{file.name}, sha256 {_digest(file)}" for file in files),
    }
    save_weights(target, variables, metadata)
    _compare(target, variables, metadata)
    leaves = jax.tree.leaves(variables["params"])
    print(
        f"{target}: {system}, {len(tensors)} tensors, {sum(a.size for a in leaves):,} parameters, "
        f"{target.stat().st_size / 1e6:.1f} MB. Licence of the weights: {license_note}"
    )


def _read_all(files: Sequence[Path]) -> dict[str, np.ndarray]:
    """The tensors of all files; a name that is in two of them is refused."""
    tensors: dict[str, np.ndarray] = {}
    for file in files:
        found = torch_import.read(file)
        if twice := sorted(tensors.keys() & found.keys()):
            raise ValueError(
                f"{file} holds {len(twice)} tensors that another file has, too, such as "
                f"{twice[0]}: several files are parts of one network."
            )
        tensors |= found
    return tensors


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _compare(path: Path, variables: Variables, metadata: Mapping[str, str]) -> None:
    """Makes sure that the file holds what was written."""
    found, text = read_weights(path)
    same = jax.tree.map(lambda a, b: np.array_equal(a, b, equal_nan=True), found, variables)
    if text != metadata or not all(jax.tree.leaves(same)):
        raise OSError(f"{path} does not hold what was written to it; is the disk failing?")
