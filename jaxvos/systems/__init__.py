"""The systems by name, one file per paper, and how a trained one is loaded."""

import inspect
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import numpy as np
import safetensors
from flax.traverse_util import flatten_dict

from jaxvos import torch_import
from jaxvos.checkpoints import METADATA, options_of, shipped, tuples, weights_of
from jaxvos.layers import psp_resnet
from jaxvos.layers.peepholes import fit_peepholes, is_peephole
from jaxvos.system import System
from jaxvos.systems import (
    agnn,
    ags,
    cosnet,
    dfnet,
    dpa,
    f2net,
    fgrne,
    flownet2_c,
    fusionseg,
    lvo,
    matnet,
    mover,
    mpnet,
    pdb_convlstm,
    raft,
    segflow,
    tmo,
    vsod_fcn,
)
from jaxvos.typing import Segmenter, Variables

SYSTEMS: dict[str, System] = {
    "agnn": agnn.SYSTEM,
    "ags": ags.SYSTEM,
    "cosnet": cosnet.SYSTEM,
    "dfnet": dfnet.SYSTEM,
    "dpa": dpa.SYSTEM,
    "f2net": f2net.SYSTEM,
    "fgrne": fgrne.SYSTEM,
    "flownet2_c": flownet2_c.SYSTEM,
    "fusionseg": fusionseg.SYSTEM,
    "lvo": lvo.SYSTEM,
    "matnet": matnet.SYSTEM,
    "mover": mover.SYSTEM,
    "mover_refiner": mover.REFINER,
    "mpnet": mpnet.SYSTEM,
    "pdb_convlstm": pdb_convlstm.SYSTEM,
    "raft": raft.SYSTEM,
    "segflow": segflow.SYSTEM,
    "tmo": tmo.SYSTEM,
    "vsod_fcn": vsod_fcn.SYSTEM,
}


SHIPPED = "mover"
"""The system whose weights come with the library, and which is taken where none is named."""


class Loaded(NamedTuple):
    """A system with its weights.

    Attributes:
        name: The key in SYSTEMS.
        system: The record.
        model: The Flax module with the options that the weights were made with.
        variables: The weights.
        metadata: What the weights' file says of itself.
        origin: Where they come from: what was asked for, or "the library's own".
    """

    name: str
    system: System
    model: nn.Module
    variables: Variables
    metadata: Mapping[str, str]
    origin: str = ""

    def segmenter(self, options: Mapping[str, Any] | None = None) -> Segmenter:
        """The inference protocol, with the weights' own options where no others are given.

        Options of the model that change no weights, such as dtype or block, may be among them.
        """
        options = dict(options or {})
        fields = [name for name in options if name in self.system.model.__dataclass_fields__]
        model = self.model.copy(**tuples({name: options.pop(name) for name in fields}))
        known = inspect.signature(self.system.segmenter).parameters
        for name in options:
            if name not in known:
                names = ", ".join([*known][2:])
                raise ValueError(f"{self.name} has no option {name!r}. Its protocol has: {names}.")
        protocol = json.loads(self.metadata.get("segmenter", "{}")) | options
        return self.system.segmenter(model, self.variables, **tuples(protocol))


def get(name: str) -> System:
    """The system of that name."""
    if name not in SYSTEMS:
        raise ValueError(f"No system is called {name!r}. There are: {', '.join(sorted(SYSTEMS))}.")
    return SYSTEMS[name]


def load(system: str | None = None, weights: str | Path | None = None) -> Loaded:
    """A system with weights from a .safetensors file of ours or from a training run's folder.

    Args:
        system: Its name; may be left out, since the file knows. If given it must agree.
        weights: `jaxvos train` leaves a weights.safetensors in its workdir; `jaxvos convert` makes
            one of published weights. None takes those that come with the library, of `SHIPPED`.
    """
    if weights is None and system not in (None, SHIPPED):
        get(system)
        raise ValueError(
            f"No weights of {system!r} are given. `jaxvos train` and `jaxvos convert` make them; "
            f"pass the file or the run's folder as weights=... (--weights). Those of {SHIPPED!r} "
            "alone come with the library."
        )
    variables, metadata = weights_of(shipped(SHIPPED) if weights is None else weights, system)
    name = metadata["system"]
    record = get(name)
    model = record.model(**options_of(metadata))
    origin = "the library's own" if weights is None else str(weights)
    return Loaded(name, record, model, variables, metadata, origin)


def pretrained(source: str | Path, name: str, variables: Variables) -> Variables:
    """`variables` of a system with all that the file `source` holds put in their place.

    The file is one of ours, of this system; or published weights of the system, whole; or those of
    its encoder alone under any one prefix, as the DeepLab that COSNet's training starts from; or a
    backbone, which is filled while the rest is left: an ImageNet ResNet or VGG-16 in torchvision's
    naming, or PSPNet-50.
    """
    path, system = Path(source), get(name)
    if path.suffix == ".safetensors" and _is_ours(path):
        ours, _ = weights_of(path, name)
        sizes = {leaf.shape for key, leaf in _flat(variables).items() if is_peephole(key)}
        ours = fit_peepholes(ours, *sizes) if len(sizes) == 1 else ours
        if system.started_from and _flat(ours).keys() != _flat(variables).keys():
            ours = system.started_from(ours, variables)
        _check_same_shapes(path, ours, variables)
        return ours
    tensors = torch_import.read(path)
    kind = _backbone_kind(tensors, system)
    if kind is not None:
        names, ignore = kind
        for under in system.backbone.split("+"):
            variables = torch_import.fill(variables, tensors, names, under=under, ignore=ignore)[0]
        return variables
    prefixes = {tensor.split(".")[0] for tensor in tensors}
    if len(prefixes) == 1:
        tensors = {tensor.split(".", 1)[1]: value for tensor, value in tensors.items()}
        names = tuple(
            (pattern.removeprefix(r"encoder\."), path.removeprefix("encoder/"))
            for pattern, path in system.names
            if path.startswith("encoder/")
        )
        return torch_import.fill(variables, tensors, names, under="encoder", ignore=())[0]
    return torch_import.to_variables(tensors, system.names, variables)


def _flat(variables: Variables) -> dict[str, Any]:
    return flatten_dict(variables, sep="/")


def _backbone_kind(
    tensors: Mapping[str, np.ndarray], system: System
) -> tuple[torch_import.Names, tuple[str, ...]] | None:
    """The names of a published backbone and what to leave aside of it; None if it is none."""
    if "conv1_1_3x3_s2.weight" in tensors and not _is_whole(tensors, system):
        return psp_resnet.NAMES, psp_resnet.HEADS
    if "features.0.weight" in tensors:
        return torch_import.TORCHVISION_VGG16, (r"classifier\..*",)
    if "layer1.0.conv1.weight" in tensors:
        return torch_import.TORCHVISION_RESNET, (r"fc\..*",)
    return None


def _is_whole(tensors: Mapping[str, np.ndarray], system: System) -> bool:
    """Whether published weights hold all kinds of modules of a system, not only its backbone.

    By names of other parts alone it cannot be told: PSPNet has a conv5_4, too.
    """
    modules = {name.rpartition(".")[0] for name in tensors}
    others = [p for p, path in system.names if not path.startswith(f"{system.backbone}/")]
    return all(any(re.fullmatch(pattern, name) for name in modules) for pattern in others)


def _is_ours(path: Path) -> bool:
    with safetensors.safe_open(path, framework="np") as file:
        return set(METADATA) <= set(file.metadata() or {})


def _check_same_shapes(path: Path, found: Variables, expected: Variables) -> None:
    theirs, ours = ({k: np.shape(v) for k, v in _flat(tree).items()} for tree in (found, expected))
    differ = sorted(k for k in theirs.keys() | ours.keys() if theirs.get(k) != ours.get(k))
    if differ:
        lines = [
            f"{k}: {theirs.get(k, 'absent')} in the file, {ours.get(k, 'absent')} here"
            for k in differ
        ]
        raise ValueError(f"{path} does not fit the recipe's model:\n" + "\n".join(lines))
