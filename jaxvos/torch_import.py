"""Published weights: found in their files by name, turned into the variable trees of our systems.

A system's `names` are pairs of a regular expression, which the name of a published *module* has to
match as a whole, and the path of our module, which may use its groups ("" for one that is left
aside, such as the mean of pictures); the first match counts:

    (r"encoder\\.conv1", r"encoder/conv1"),
    (r"encoder\\.layer(\\d)\\.(\\d+)\\.(conv|bn)(\\d)", r"encoder/layer\\1/block\\2/\\3\\4"),

A module's leaves follow by kind (`weight`, `running_mean`, ...), never by shape: a square matrix
would load transposed in silence.
"""

import io
import re
import tokenize
import zipfile
import zlib
from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import safetensors
from flax.traverse_util import flatten_dict, unflatten_dict

from jaxvos import caffe_import, torch_pickle
from jaxvos.layers.peepholes import is_peephole, resized
from jaxvos.typing import Variables

Names = tuple[tuple[str, str], ...]

TORCHVISION_RESNET: Names = (
    (r"(conv1|bn1)", r"\1"),
    (r"layer([1-4])\.(\d+)\.(conv|bn)(\d)", r"layer\1/block\2/\3\4"),
    (r"layer([1-4])\.0\.downsample\.0", r"layer\1/block0/project_conv"),
    (r"layer([1-4])\.0\.downsample\.1", r"layer\1/block0/project_bn"),
)
"""torchvision's bottleneck ResNets -> `jaxvos.layers.resnet.ResNet`; for `fill`."""

TORCHVISION_VGG16: Names = tuple(
    (rf"features\.{number}", f"block{block}_conv{i}")
    for block, numbers in enumerate(
        ((0, 2), (5, 7), (10, 12, 14), (17, 19, 21), (24, 26, 28)), start=1
    )
    for i, number in enumerate(numbers, start=1)
)
"""torchvision's VGG-16 -> layers named as Keras has them; for `fill`."""

_WRAPPERS = ("model", "state_dict", "model_state_dict", "net", "network")
_TORCH_SUFFIXES = (".pth", ".pt", ".tar", ".bin")
_MAX_INFLATION = 20  # times the file's own size, as in torch_pickle
_STATISTICS = {"running_mean": "mean", "running_var": "var", "mean": "mean", "var": "var"}
# What a published "weight" may be called here; a module has one of them.
_WEIGHTS = ("kernel", "scale", "negative_slope", "embedding", "weight")
# What Caffe's kinds, as `caffe_import` calls them, are here; a ConvLSTM's are several modules.
_CAFFE = {"slope": "scale", "x_weight": "x_conv/kernel", "h_weight": "h_conv/kernel"}
_CAFFE |= {f"peep_{gate}": f"peephole_{gate}" for gate in "ifo"}
_CAFFE_BLOCKS = (("a", "block0"), (r"b(\d+)", r"block\1"), ("b", "block1"), ("c", "block2"))
_CAFFE_BRANCHES = (("1", "project_{}"), ("2a", "{}1"), ("2b", "{}2"), ("2c", "{}3"))
_CAFFE_KINDS = (("res", "conv"), ("(?:bn|scale)", "bn"))


def caffe_resnet(under: str, *, begin: str = "", last: str = "") -> Names:
    """Names of the layers of Caffe's ResNets, whose res2 is our layer1, for the module `under`.

    Args:
        under: Its path.
        begin: A pattern that the names may begin with.
        last: What they end in.
    """
    return (
        (f"{begin}conv1{last}", f"{under}/conv1"),
        (f"{begin}(?:bn|scale)_conv1{last}", f"{under}/bn1"),
        *(
            (
                f"{begin}{prefix}{stage}{block}_branch{branch}{last}",
                f"{under}/layer{stage - 1}/{at}/{form.format(kind)}",
            )
            for stage in (2, 3, 4, 5)
            for block, at in _CAFFE_BLOCKS
            for branch, form in _CAFFE_BRANCHES
            for prefix, kind in _CAFFE_KINDS
        ),
    )


def read(path: str | Path) -> dict[str, np.ndarray]:
    """Published name -> tensor, in the published layout and type, from a file of any known kind.

    These are .pth and its like, .safetensors, .npz and .caffemodel (see `caffe_import`). The state
    dict may lie in a dictionary under "model", "state_dict", "net" or "network"; a `module.` that
    all names begin with (DataParallel's) and BatchNorm's batch counters are dropped.
    """
    path = Path(path)
    if path.suffix == ".safetensors":
        found: Any = _read_safetensors(path)
    elif path.suffix == ".npz":
        found = _read_npz(path)
    elif path.suffix == ".caffemodel":
        found = caffe_import.read(path)
    elif path.suffix in _TORCH_SUFFIXES:
        found = torch_pickle.read(path)
    else:
        known = ", ".join((*_TORCH_SUFFIXES, ".safetensors", ".npz", ".caffemodel"))
        raise ValueError(f"{path}: published weights end in one of {known}")
    tensors = _state_dict(path, found)
    tensors = {k: v for k, v in tensors.items() if k.split(".")[-1] != "num_batches_tracked"}
    if all(name.startswith("module.") for name in tensors):
        tensors = {name.removeprefix("module."): tensor for name, tensor in tensors.items()}
    return tensors


def to_variables(
    tensors: Mapping[str, np.ndarray], names: Names, target: Variables
) -> dict[str, Any]:
    """The variable tree of `target`'s structure and shapes, float32, made of all of `tensors`.

    `target` is {"params": ..., "batch_stats": ...} of anything with a shape. Unless every tensor
    has its place and every place its tensor, one ValueError lists all that is left over (+),
    missing (-) or of another shape (!). A place may have two tensors if they are equal. Peepholes
    of another size are resized, with a warning.
    """
    shapes = {path: tuple(leaf.shape) for path, leaf in flatten_dict(target, sep="/").items()}
    made = {path: np.empty(shape, np.float32) for path, shape in shapes.items()}
    filled: dict[str, str] = {}
    extra, misfits = [], []
    for name, tensor in caffe_import.averaged(tensors).items():
        path = _place(name, names, shapes)
        if path == "":
            continue
        if path is None:
            extra.append(f"+ {name} {tensor.shape}: nothing of ours")
            continue
        ours = _to_layout(tensor, path, shapes[path])
        if path in filled and np.array_equal(made[path], ours):
            continue  # one module under two names, as RAFT's norms of shortcuts
        if path in filled:
            misfits.append(f"! {name} {tensor.shape}: {path} is {filled[path]} already")
        elif ours.shape != shapes[path]:
            misfits.append(f"! {name} {tensor.shape}: ours is {path} {shapes[path]}")
        else:
            made[path][...] = ours
        filled.setdefault(path, name)
    missing = [
        f"- {path} {shape}: not in the checkpoint"
        for path, shape in shapes.items()
        if path not in filled
    ]
    if extra or missing or misfits:
        raise ValueError("\n".join(("The checkpoint does not fit:", *extra, *missing, *misfits)))
    return unflatten_dict(made, sep="/")


def fill(
    variables: Variables,
    tensors: Mapping[str, np.ndarray],
    names: Names,
    *,
    under: str,
    ignore: tuple[str, ...] = (r"fc\..*",),
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """`variables` with all that lies under the module path `under` replaced, and what was replaced.

    For backbones: `names` give paths from `under` on, tensors whose whole name matches one of
    `ignore` are left aside, and everything else has to fit as in `to_variables`. For instance
    `fill(variables, read("resnet101.pth"), TORCHVISION_RESNET, under="encoder/resnet")`.
    """
    flat = flatten_dict(variables, sep="/")
    part = re.compile(rf"(params|batch_stats)/{re.escape(under.strip('/'))}/(.+)")
    places = {path: match.expand(r"\1/\2") for path in flat if (match := part.fullmatch(path))}
    if not places:
        raise ValueError(f"There is no module {under!r} to be filled")
    kept = {k: v for k, v in tensors.items() if not any(re.fullmatch(i, k) for i in ignore)}
    target = unflatten_dict({short: flat[path] for path, short in places.items()}, sep="/")
    made = flatten_dict(to_variables(kept, names, target), sep="/")
    flat |= {path: made[short] for path, short in places.items()}
    return unflatten_dict(flat, sep="/"), tuple(places)


def _place(name: str, names: Names, shapes: Mapping[str, tuple[int, ...]]) -> str | None:
    """Our leaf that the published tensor `name` belongs to; "" for what is left aside."""
    module, _, kind = name.rpartition(".")
    matches = ((re.fullmatch(pattern, module), path) for pattern, path in names)
    path = next((match.expand(path) for match, path in matches if match), None)
    if not path:
        return path
    leaves = [f"batch_stats/{path}/{_STATISTICS[kind]}"] if kind in _STATISTICS else []
    kinds = _WEIGHTS if kind == "weight" else (_CAFFE.get(kind, kind), kind)
    leaves += [f"params/{path}/{leaf}" for leaf in kinds]
    return next((leaf for leaf in leaves if leaf in shapes), None)


def _to_layout(tensor: np.ndarray, path: str, shape: tuple[int, ...]) -> np.ndarray:
    """A published tensor in the layout of our leaf of that path."""
    leaf = path.rpartition("/")[2]
    if leaf == "kernel" and tensor.ndim >= 2:
        return tensor.transpose(*range(2, tensor.ndim), 1, 0)  # (out, in, ...) -> (..., in, out)
    if leaf == "negative_slope" and tensor.shape == (1,) and shape == ():
        return tensor[0:1].reshape(())  # one slope for all channels
    if is_peephole(path) and tensor.ndim == len(shape) == 2 and tensor.shape != shape:
        return resized(tensor, shape)
    return tensor


def _state_dict(path: Path, found: Any) -> dict[str, np.ndarray]:
    wrappers = [
        key for key in _WRAPPERS if isinstance(found, dict) and type(found.get(key)) is dict
    ]
    if len(wrappers) > 1:
        raise ValueError(f"{path}: holds several state dicts: {', '.join(wrappers)}; keep one")
    if wrappers:
        return _state_dict(path, found[wrappers[0]])
    if not isinstance(found, dict) or not found:
        raise ValueError(f"{path}: holds {type(found).__name__}, not a dictionary of tensors")
    for name, tensor in found.items():
        numeric = isinstance(tensor, np.ndarray) and (
            tensor.dtype.kind in "fiub" or tensor.dtype == ml_dtypes.bfloat16
        )
        if not numeric or type(name) is not str:
            kind = getattr(tensor, "dtype", type(tensor).__name__)
            raise ValueError(
                f"{path}: {name!r} is {kind}, not a tensor of numbers. A state dict, or one under "
                f"{', '.join(_WRAPPERS)}, is read; the file has {', '.join(map(str, found))[:200]}"
            )
    return found


def _read_safetensors(path: Path) -> dict[str, np.ndarray]:
    try:
        with safetensors.safe_open(path, framework="np") as file:
            return file.get_tensors()
    except safetensors.SafetensorError as error:
        raise ValueError(f"{path}: {error}") from error


def _read_npz(path: Path) -> dict[str, np.ndarray]:
    """As np.load without pickles, but no array is made before its bytes are there."""
    data = path.read_bytes()
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            entries = archive.infolist()
            if sum(entry.file_size for entry in entries) > _MAX_INFLATION * len(data):
                raise ValueError(f"its arrays claim over {_MAX_INFLATION} times the file's size")
            arrays = {}
            for entry in entries:
                with archive.open(entry) as file:  # and no more of it than it claims
                    name = entry.filename.removesuffix(".npy")
                    arrays[name] = _read_npy(file.read(entry.file_size))
            return arrays
    except (zipfile.BadZipFile, zlib.error, EOFError, OverflowError, RuntimeError) as error:
        raise ValueError(f"{path}: not a readable .npz: {error}") from error
    except (ValueError, SyntaxError, tokenize.TokenError) as error:
        raise ValueError(f"{path}: {error}") from error


def _read_npy(data: bytes) -> np.ndarray:
    stream = io.BytesIO(data)
    if np.lib.format.read_magic(stream) != (1, 0):
        raise ValueError("only arrays of numbers are read, in version 1 of the .npy format")
    shape, fortran, dtype = np.lib.format.read_array_header_1_0(stream)
    if dtype.hasobject or prod(shape) * dtype.itemsize != len(data) - stream.tell():
        raise ValueError(f"an array {shape} of {dtype} does not fit its {len(data)} bytes")
    numbers = np.frombuffer(data, dtype, prod(shape), stream.tell() if prod(shape) else 0)
    return numbers.reshape(shape, order="F" if fortran else "C")
