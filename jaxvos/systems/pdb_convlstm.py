"""PDB-ConvLSTM: what is salient in each frame, and stays so through a clip of five.

Song, Wang, Zhao, Shen, Lam, "Pyramid Dilated Deeper ConvLSTM for Video Salient Object Detection",
ECCV 2018. Dilated convolutions at four rates look at a frame at several scales (PDC); two pairs of
ConvLSTMs, of dilation 1 and 2, run through the clip forwards and then, over what these remember,
backwards: "deeper" than two passes side by side.

Where the released network and the paper differ (we follow the network, on which the parity case
stands):
- Both directions are summed. The paper's eq. 5 has learned convolutions and a tanh there.
- The ConvLSTM's gates see the cell state through peepholes, one weight a place shared by all
  channels, and the output gate sees the state *before* the step. Eq. 4 has no peepholes.
- Two channels of logits are enlarged, and the sigmoid of the second is the answer; the first is
  not used. In the paper one channel is answered at 1/8 and enlarged.

What its users stumble on:
- Peepholes tie the weights to one size of picture, 473 x 473 as published. For others they are
  resized, with a warning (`layers.peepholes`), which costs accuracy.
- Each map is stretched to 0..1, so that a frame without any object gets one all the same;
  `stretch=False` leaves that out. The reported masks are cut at 0.42 (`--threshold 0.42`).
"""

from collections.abc import Sequence
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxvos.clip_protocol import clip_segmenter
from jaxvos.layers.peepholes import check_peepholes, fit_peepholes
from jaxvos.layers.pixels import caffe_bgr as prepare
from jaxvos.layers.psp_resnet import ConvNormReLU, PSPResNet, map_size, names_under
from jaxvos.layers.recurrent import ConvLSTM, bidirectional
from jaxvos.layers.resize import bilinear
from jaxvos.losses import cross_entropy, l1
from jaxvos.system import Facts, System
from jaxvos.typing import Batch, DType, Metrics, Segmenter, Variables

CLIP = 5
SIZE = (473, 473)


def lstm_init(key: jax.Array, shape: Sequence[int], dtype: DType = jnp.float32) -> jax.Array:
    """The ConvLSTMs' first weights."""
    return jax.random.uniform(key, shape, dtype, -0.0297, 0.0297)


class PDC(nn.Module):
    """Pyramid dilated convolution (section 3.1): [B, h, w, C] -> [B, h, w, features]."""

    branch: int
    features: int
    dilations: Sequence[int]
    dtype: DType | None

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        scales = [x]
        for d in self.dilations:
            conv = ConvNormReLU(self.branch, dilation=d, dtype=self.dtype, name=f"d{d}")
            scales.append(conv(x, train))
            self.sow("intermediates", f"d{d}_out", scales[-1])
        fuse = ConvNormReLU(self.features, kernel=1, dtype=self.dtype, name="fuse")
        return fuse(jnp.concatenate(scales, axis=-1), train)


class PDBConvLSTM(nn.Module):
    """Clips [B, T, H, W, 3] -> {"saliency": logits [B, T, H, W, 1] float32}, T of any length.

    Attributes:
        depths: Blocks of the ResNet's stages; (3, 4, 6, 3) is the published ResNet-50.
        width: The ResNet's stem channels (published: 64).
        branch: Channels of a branch of the PDC (published: 512).
        features: Channels of the PDC's features and of each ConvLSTM's states (published: 32).
        dilations: Of the PDC's branches.
        size: The pictures' size, which the peepholes depend on.
        recurrent: False puts the PDC's features in the place of the ConvLSTMs' states, for the
            first step of training; the variables are the same ones.
        frozen: Whether BatchNorm keeps its statistics, as published; without PSPNet's weights to
            start from, False lets it learn.
        remat: Compute the ResNet's insides again for the gradient instead of keeping them.
        dtype: What the layers compute in; gates and cell states stay float32.
    """

    depths: Sequence[int] = (3, 4, 6, 3)
    width: int = 64
    branch: int = 512
    features: int = 32
    dilations: Sequence[int] = (2, 4, 8, 16)
    size: tuple[int, int] = SIZE
    recurrent: bool = True
    frozen: bool = True
    remat: bool = False
    dtype: DType | None = None

    @nn.compact
    def __call__(self, frames: jax.Array, train: bool = False) -> dict[str, jax.Array]:
        batch, time, *size = frames.shape[:4]
        learns = train and not self.frozen
        resnet = PSPResNet(
            self.depths, self.width, remat=self.remat, dtype=self.dtype, name="resnet"
        )
        x = resnet(frames.reshape(-1, *frames.shape[2:]), learns)
        pdc = PDC(self.branch, self.features, self.dilations, self.dtype, name="pdc")
        x = pdc(x, learns)
        x = x.reshape(batch, time, *x.shape[1:])
        self.sow("intermediates", "features", x)
        states = self._pyramid(x)
        if not self.recurrent:
            states = [x, x]
        joined = jnp.concatenate(states, axis=-1)
        self.sow("intermediates", "joined", joined)
        logits = nn.Conv(2, (1, 1), dtype=self.dtype, name="conv7")(joined)
        self.sow("intermediates", "logits", logits)
        return {"saliency": bilinear(logits[..., 1:].astype(jnp.float32), size, align_corners=True)}

    def _pyramid(self, x: jax.Array) -> list[jax.Array]:
        """Sums of both directions at either dilation (section 3.2), each like x [B, T, h, w, C]."""
        check_peepholes(self, x.shape[2:4])
        lstm = partial(
            ConvLSTM, self.features, peephole="shared", kernel_init=lstm_init, dtype=self.dtype
        )
        sums = []
        for d in (1, 2):
            forward = lstm(dilation=d, name=f"forward{d}")
            backward = lstm(dilation=d, name=f"backward{d}")
            ahead, back = bidirectional(forward, backward, x, deeper=True)
            self.sow("intermediates", f"forward{d}_out", ahead)
            self.sow("intermediates", f"backward{d}_out", back)
            sums.append(ahead + back)
        return sums


def loss(outputs: dict[str, jax.Array], batch: Batch) -> tuple[jax.Array, Metrics]:
    """Eq. 6: cross entropy plus mean absolute error, of every frame of a clip.

    A step on still images has a "mask" [B, H, W, 1] for all the copies of its picture.
    """
    logits = outputs["saliency"]
    still = "masks" not in batch
    masks = jnp.broadcast_to(batch["mask"][:, None], logits.shape) if still else batch["masks"]
    total = cross_entropy(logits, masks) + l1(logits, masks)
    return total, {"image_loss" if still else "video_loss": total}


@partial(jax.jit, static_argnames="model")
def _saliency(model: PDBConvLSTM, variables: Variables, clips: jax.Array) -> jax.Array:
    """Probabilities [B, T, H, W] of clips [B, T, H, W, 3] uint8."""
    return nn.sigmoid(model.apply(variables, prepare(clips))["saliency"])[..., 0]


def segmenter(
    model: PDBConvLSTM,
    variables: Variables,
    *,
    size: tuple[int, int] | None = None,
    batch: int = 1,
    stretch: bool = True,
) -> Segmenter:
    """Segments a video in clips of five that do not overlap (see `clip_protocol`).

    Args:
        model: The network.
        variables: Its weights. Peepholes of another size are resized, with a warning.
        size: What frames are resized to, without regard to their aspect; the model's by default.
        batch: Clips a compiled call. The last one is padded, so any length compiles once.
        stretch: Whether each map is stretched to 0..1, as released.
    """
    size = tuple(size or model.size)
    fitting = fit_peepholes(variables, map_size(size))
    saliency = partial(_saliency, model, fitting)
    return clip_segmenter(saliency, length=CLIP, size=size, batch=batch, stretch=stretch)


NAMES = (
    *names_under("resnet"),
    (r"conv5_3_d(\d+)_conv", r"pdc/d\1/conv"),
    (r"conv5_3_d(\d+)_conv/bn", r"pdc/d\1/bn"),
    (r"conv5_4_?", r"pdc/fuse/conv"),
    (r"conv5_4/bn_?", r"pdc/fuse/bn"),
    (r"encode([12])", r"forward\1"),
    (r"encode3", r"backward1"),
    (r"encode4", r"backward2"),
    (r"conv7", r"conv7"),
)

SYSTEM = System(
    title="PDB-ConvLSTM (Song et al., ECCV 2018): pyramid dilated convolution, deeper ConvLSTMs",
    model=PDBConvLSTM,
    inputs={"frames": prepare},
    loss=loss,
    segmenter=segmenter,
    names=NAMES,
    backbone="resnet",
    facts=Facts(
        needs="frames",
        trained="MSRA10K, DUT-OMRON, DAVIS-2016",
        reported="77.2 / 74.5 with CRF; 74.3 / 72.8 without",
        error="2.4e-5 (49)",
    ),
    shapes=lambda model: {"frames": (1, 2, *model.size, 3)},
)
