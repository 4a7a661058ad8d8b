"""Our weight files: one .safetensors with the variables by name and, beside them, what they are.

The variables of a system are flattened to names like "params/encoder/conv1/kernel". The file's text
entries say `system` (its name in SYSTEMS), `options` (of the model's constructor, JSON), `version`
(of jaxvos), `license` (of the weights) and `source` (where they come from), beside whatever else
is given.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy
from flax.traverse_util import flatten_dict, unflatten_dict

from jaxvos.typing import Variables
from jaxvos.whole_file import whole_file

METADATA = ("system", "options", "version", "license", "source")


def save_weights(path: str | Path, variables: Variables, metadata: Mapping[str, str]) -> None:
    """Writes `variables` and `metadata`, which needs all keys of METADATA, whole or not at all."""
    path = Path(path)
    if path.suffix != ".safetensors":
        raise ValueError(f"{path}: weights are written as .safetensors")
    missing = [key for key in METADATA if not isinstance(metadata.get(key), str)]
    if missing:
        raise ValueError(f"{path}: the metadata lack the text of {', '.join(missing)}")
    json.loads(metadata["options"])  # a file that cannot be read back is not written
    leaves = flatten_dict(variables, sep="/")
    if not leaves:
        raise ValueError(f"{path}: there are no variables to write")
    # safetensors takes the memory as it lies, so strided leaves have to be straightened first.
    arrays = {name: np.asarray(leaf, order="C") for name, leaf in leaves.items()}
    _replace(path, safetensors.numpy.save(arrays, dict(metadata)))


def read_weights(path: str | Path) -> tuple[dict[str, Any], dict[str, str]]:
    """The variables (nested dicts of np.ndarray) and the metadata of a file of `save_weights`."""
    path = Path(path)
    if path.is_dir():
        raise ValueError(f"{path}: is a folder; weights are one .safetensors file")
    hint = (
        f"Published weights are turned into ours by: jaxvos convert SYSTEM {path} OUT.safetensors"
    )
    try:
        with safetensors.safe_open(path, framework="np") as file:
            metadata, arrays = dict(file.metadata() or {}), file.get_tensors()
    except safetensors.SafetensorError as error:
        with path.open("rb") as file:
            begins = file.read(8)
        raise ValueError(
            f"{path}: not a whole .safetensors file: it begins with {begins!r} ({error}). {hint}"
        ) from error
    if any(key not in metadata for key in METADATA):
        names = ", ".join(sorted(arrays)[:3])
        raise ValueError(f"{path}: not written by jaxvos (it holds {names}, ...). {hint}")
    folders = {name[:at] for name in arrays for at, sign in enumerate(name) if sign == "/"}
    if folders & arrays.keys():
        both = min(folders & arrays.keys())
        raise ValueError(f"{path}: {both!r} is both an array and a folder of arrays")
    return unflatten_dict(arrays, sep="/"), metadata


def weights_of(
    source: str | Path, system: str | None = None
) -> tuple[dict[str, Any], dict[str, str]]:
    """`read_weights` of a file or of a training run's folder, which must be those of `system`.

    Args:
        source: A .safetensors file, or the folder that `jaxvos train` has left one in.
        system: Its name; None takes any.
    """
    path = Path(source)
    path = path / "weights.safetensors" if path.is_dir() else path
    variables, metadata = read_weights(path)
    if system not in (None, metadata["system"]):
        raise ValueError(f"{path} holds weights of {metadata['system']!r}, not of {system!r}.")
    return variables, metadata


def options_of(metadata: Mapping[str, str]) -> dict[str, Any]:
    """The options of the model's constructor, from a file's metadata."""
    return tuples(json.loads(metadata["options"]))


def tuples(options: Mapping[str, Any]) -> dict[str, Any]:
    """JSON knows no tuples, and Flax modules must be hashable."""
    return {k: tuple(v) if isinstance(v, list) else v for k, v in options.items()}


def shipped(system: str) -> Path:
    """The weights that come with the library; weights/README.md beside them says what they are."""
    return Path(__file__).parent / "weights" / f"{system}.safetensors"


def _replace(path: Path, data: bytes) -> None:
    """Puts `data` at `path` such that a crash or a full disk leaves the old file or the new one."""
    # Not safetensors' own save_file: its files can be read by nobody but their owner.
    try:
        with whole_file(path, synced=True) as partial:
            partial.write_bytes(data)
    except OSError as error:
        why = f"{error.strerror}: nothing was written, {len(data) / 1e6:.1f} MB are needed"
        raise OSError(error.errno, why, str(path)) from error
