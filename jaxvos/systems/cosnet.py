"""COSNet: a frame is segmented by comparing it with other frames of its video.

Lu, Wang, Ma, Shen, Shao, Porikli, "See More, Know More: Unsupervised Video Object Segmentation with
Co-Attention Siamese Networks", CVPR 2019. A DeepLab encoder sees two frames; co-attention sums up
each from the other one's features, a gate lets through what is worth it, and a small head decides.
What both frames share and what stands out in both is the object.

Where the released code and the paper differ (we follow the code, on which the parity case stands):
- The affinity's weight is one unconstrained matrix W ("vanilla"); the paper's best is symmetric
  and has an orthogonality term.
- At test the probabilities of 5 references are averaged; the paper fuses the attention summaries.
- The third output, of the encoder alone, is the *reference's* in the plain model and the *target's*
  in the group model.
- The group model normalises the affinity over the target's places first and takes the softmax over
  the references' places of that; its summary is nearly the references' mean. Its test script
  samples 3 references and the network uses 2.
"""

from collections.abc import Iterable, Iterator, Sequence
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxvos.inference import batched, draw_references, fit, to_size
from jaxvos.layers.attention import (
    attend_twice_normalised,
    attend_twice_normalised_blockwise,
    coattend,
    coattend_blockwise,
)
from jaxvos.layers.deeplab import ENCODER_NAMES, Encoder, JoinedHead
from jaxvos.layers.pixels import caffe_bgr as prepare
from jaxvos.layers.resize import logits_at
from jaxvos.losses import balanced_bce_and_l1
from jaxvos.system import Facts, System
from jaxvos.typing import Batch, DType, Metrics, Segmenter, Variables, Video

SIZE = (473, 473)
# PyTorch's default for a linear layer: uniform within 1 / sqrt(inputs).
LINEAR_INIT = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")


class COSNet(nn.Module):
    """The network; logits of every output at the picture's size, [B, H, W, 1] float32.

    Attributes:
        depths: Blocks of the ResNet's stages; (3, 4, 23, 3) is the published ResNet-101.
        width: The ResNet's stem channels (published: 64).
        strides: Of the ResNet's stages; the stem's is 4, so (1, 2, 1, 1) answers at 1/8.
        branch: Channels of an ASPP branch (published: 512).
        features: Channels of the encoder's features (published: 256).
        group: The group variant: one target is compared with N references at once.
        coattention: False compares with nothing: a frame's own features stand for its summary, the
            paper's ablation "without co-attention".
        head_std: Standard deviation of the gate's and heads' first weights (published: 0.01).
        block: Rows of the affinity that exist at a time; 0 keeps the whole matrix.
        remat: Compute the encoder's insides again for the gradient instead of keeping them.
        scan: Compile equal residual blocks once (see `layers.resnet.Stage`).
        dtype: What the layers compute in; parameters, affinities and softmax stay float32.
    """

    depths: Sequence[int] = (3, 4, 23, 3)
    width: int = 64
    strides: Sequence[int] = (1, 2, 1, 1)
    branch: int = 512
    features: int = 256
    group: bool = False
    coattention: bool = True
    head_std: float = 0.01
    block: int = 0
    remat: bool = False
    scan: bool = False
    dtype: DType | None = None

    def setup(self) -> None:
        self.encoder = Encoder(
            self.depths,
            self.width,
            self.strides,
            self.branch,
            self.features,
            self.remat,
            self.scan,
            self.dtype,
        )
        if self.coattention:
            self.linear_e = nn.Dense(
                self.features, use_bias=False, kernel_init=LINEAR_INIT, dtype=self.dtype
            )
        init = nn.initializers.normal(self.head_std)
        self.gate = nn.Conv(1, (1, 1), use_bias=False, kernel_init=init, dtype=self.dtype)
        self.head1 = JoinedHead(self.features, self.head_std, self.dtype)
        self.head2 = JoinedHead(self.features, self.head_std, self.dtype)

    def __call__(
        self, target: jax.Array, reference: jax.Array, train: bool = False
    ) -> dict[str, jax.Array]:
        """Logits "target", "reference", "encoder" (of the reference alone); group: no "reference".

        Args:
            target: Prepared pictures [B, H, W, 3].
            reference: The same, or [B, N, H, W, 3] for the group model.
            train: Whether BatchNorm uses and updates the batch's statistics.
        """
        size = target.shape[1:3]
        a, logits_a = self.encode(target, train)
        if self.group:
            b = reference if reference.ndim == 5 else reference[:, None]
            maps = [self.encode(b[:, i], train)[0] for i in range(b.shape[1])]
            outputs = {"target": self.compare_group(a, jnp.stack(maps, 1), train)}
            if self.is_initializing():  # published with the checkpoint, though nothing uses it
                self.head2(a, a, train)
            return {k: logits_at(v, size) for k, v in (outputs | {"encoder": logits_a}).items()}
        b, logits_b = self.encode(reference, train)
        from_b, from_a = self.attend(a, b)
        outputs = {
            "target": self.head1(self.gated(from_b), a, train),
            "reference": self.head2(self.gated(from_a), b, train),
            "encoder": logits_b,
        }
        return {k: logits_at(v, size) for k, v in outputs.items()}

    def encode(self, pictures: jax.Array, train: bool = False) -> tuple[jax.Array, jax.Array]:
        """Features [B, h, w, C] and the encoder's logits [B, h, w, 1] of pictures [B, H, W, 3]."""
        return self.encoder(pictures, train)

    def compare(self, a: jax.Array, b: jax.Array) -> jax.Array:
        """The targets' logits [B, h, w, 1] from features a [B, h, w, C] and references b, alike."""
        return self.head1(self.gated(self.attend(a, b)[0]), a, False)

    def compare_group(self, a: jax.Array, b: jax.Array, train: bool = False) -> jax.Array:
        """The targets' logits [B, h, w, 1] from features a [B, h, w, C] and b [B, N, h, w, C]."""
        return self.head1(self.gated(self.attend_group(a, b)), a, train)

    def attend(self, a: jax.Array, b: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Eq. 1-4: summaries (of a from b, of b from a), each [B, h, w, C]."""
        if not self.coattention:
            return a, b
        pair = partial(coattend_blockwise, block=self.block) if self.block else coattend
        from_b, from_a = jax.vmap(pair)(_flat(self.linear_e(a)), _flat(a), _flat(b))
        return from_b.reshape(a.shape), from_a.reshape(b.shape)

    def attend_group(self, a: jax.Array, b: jax.Array) -> jax.Array:
        """Summaries [B, h, w, C] of targets a from N references b [B, N, h, w, C]."""
        if not self.coattention:
            return a
        one = attend_twice_normalised
        if self.block:
            one = partial(attend_twice_normalised_blockwise, block=self.block)
        return jax.vmap(one)(_flat(self.linear_e(a)), _flat(b)).reshape(a.shape)

    def gated(self, summary: jax.Array) -> jax.Array:
        """Eq. 6-7: the summary times its gate in (0, 1), one number a place."""
        return summary * nn.sigmoid(self.gate(summary))


def _flat(maps: jax.Array) -> jax.Array:
    """[B, ..., C] -> [B, places, C]."""
    return maps.reshape(maps.shape[0], -1, maps.shape[-1])


def loss(outputs: dict[str, jax.Array], batch: Batch) -> tuple[jax.Array, Metrics]:
    """The video step's loss if the batch has a "target_mask", else the image step's.

    Image steps train the encoder alone, at a tenth; both parts of the paper's alternation are
    weighted cross entropy plus 0.8 times the L1 distance.
    """
    if "target_mask" not in batch:
        total = 0.1 * balanced_bce_and_l1(outputs["encoder"], batch["mask"])
        return total, {"image_loss": total}
    total = balanced_bce_and_l1(outputs["target"], batch["target_mask"])
    if "reference" in outputs:
        total += balanced_bce_and_l1(outputs["reference"], batch["reference_mask"])
    return total, {"video_loss": total}


@partial(jax.jit, static_argnames="model")
def _encode(model: COSNet, variables: Variables, pictures: jax.Array) -> jax.Array:
    """Features [B, h, w, C] of pictures [B, H, W, 3] uint8."""
    return model.apply(variables, prepare(pictures), method="encode")[0]


@partial(jax.jit, static_argnames=("model", "size"))
def _compare(
    model: COSNet, variables: Variables, a: jax.Array, b: jax.Array, *, size: tuple[int, int]
) -> jax.Array:
    """Probabilities [B, H, W] of features [B, h, w, C] with references [B, N, h, w, C]."""
    if model.group:
        logits = model.apply(variables, a, b, method="compare_group")
        return nn.sigmoid(logits_at(logits, size))[..., 0]

    def against(one: jax.Array) -> jax.Array:
        logits = model.apply(variables, a, one, method="compare")
        return nn.sigmoid(logits_at(logits, size))

    # One reference after the other: all affinities at once would be gigabytes.
    return lax.map(against, jnp.moveaxis(b, 1, 0)).mean(axis=0)[..., 0]


def segmenter(
    model: COSNet,
    variables: Variables,
    *,
    size: tuple[int, int] = SIZE,
    references: int = 5,
    seed: int = 0,
    batch: int = 1,
    pool: int = 128,
) -> Segmenter:
    """Segments each frame by comparing it with `references` random frames of its video.

    Every frame is encoded once. The plain model's probabilities are averaged over the references;
    the group model compares with all of them at once.

    Args:
        model: The network.
        variables: Its weights.
        size: What frames are resized to, without regard to their aspect, as released.
        references: References a frame; fewer in a shorter video.
        seed: Draws the references (the released script draws anew in every run).
        batch: Frames a compiled call. The last one is padded, so any length compiles once.
        pool: References are drawn from all frames of a video up to this long, as released; from
            this many random ones of a longer video, so that memory stays bounded.
    """

    encode = partial(_encode, model, variables)
    compare = partial(_compare, model, variables, size=tuple(size))

    def segment(video: Video) -> Iterator[np.ndarray]:
        frames = video.frames
        candidates, chosen = draw_references(len(frames), references, pool, seed)

        def encoded(indices: Iterable[int]) -> Iterator[jax.Array]:
            return batched(encode, (fit(frames[t], size) for t in indices), batch=batch)

        kept = dict(zip(candidates.tolist(), encoded(candidates), strict=True))
        others = encoded(t for t in range(len(frames)) if t not in kept)
        compared = (
            (kept[t] if t in kept else next(others), jnp.stack([kept[r] for r in row]))
            for t, row in enumerate(chosen.tolist())
        )
        for t, scores in enumerate(batched(compare, compared, batch=batch)):
            yield to_size(scores, frames[t].shape[:2])

    return segment


NAMES = (
    *ENCODER_NAMES,
    (r"(linear_e|gate)", r"\1"),
    (r"(conv|bn)([12])", r"head\2/\1"),
    (r"main_classifier([12])", r"head\1/classifier"),
)

SYSTEM = System(
    title="COSNet (Lu et al., CVPR 2019): co-attention of two frames",
    model=COSNet,
    inputs={"target": prepare, "reference": prepare},
    loss=loss,
    segmenter=segmenter,
    names=NAMES,
    backbone="encoder/resnet",
    facts=Facts(
        needs="frames",
        trained="DAVIS-2016, MSRA10K, DUT-OMRON",
        reported="80.5 / 79.5 with CRF; J 78.3 without",
        error="1.3e-5 (41 outputs)",
    ),
)
