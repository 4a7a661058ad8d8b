"""AGNN: frames are the nodes of a graph, and messages between them find the object they share.

Wang, Lu, Shen, Crandall, Shao, "Zero-Shot Video Object Segmentation via Attentive Graph Neural
Networks", ICCV 2019. An encoder as COSNet's, with attention within the frame, gives each of N
frames its node's state. In each of K rounds every node gets a message from every other one, by
attention over the sender's places; a gate lets through what is worth it, and a ConvGRU updates the
state. A small head decides on the last state and the first.

Where the released code and the paper differ (we follow the code, on which the parity case stands):
- 3 nodes and 5 rounds, for training and test; the paper has 3 rounds, and 5 nodes at test.
- A gate is one number a place, by a 1x1 convolution; the paper's is one a channel, by pooling.
- Messages are joined on channels, in the order of their senders, and fused by a 3x3 convolution
  without activation; the paper sums them. So the weights are tied to the number of nodes.
- A frame attends to itself once, in the encoder; the paper has an edge to itself in every round.

Where we differ from the released code, in training alone: BatchNorm sees all nodes of the batch at
once, where the code's encoder sees them slot by slot and its head one sample at a time; and a step
of images has one image a sample, not two.

Published weights give their scores only on all three scales. The other nodes are drawn at random,
so the scores differ a little by `seed`. Instances are chosen by `jaxvos.box_proposals`.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from math import ceil

import cv2
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxvos.inference import batched, draw_references
from jaxvos.layers.deeplab import ENCODER_NAMES, Encoder, JoinedHead
from jaxvos.layers.pixels import caffe_bgr as prepare
from jaxvos.layers.position_attention import PositionAttention, attend
from jaxvos.layers.recurrent import ConvGRUCell
from jaxvos.layers.resize import logits_at
from jaxvos.layers.resnet import BatchNorm
from jaxvos.losses import balanced_bce_and_l1
from jaxvos.system import Facts, System
from jaxvos.typing import Batch, DType, Metrics, Segmenter, Variables, Video

SIZE = (473, 473)
SCALES = (0.75, 1.0, 1.5)
# PyTorch's default for a linear layer: uniform within 1 / sqrt(inputs).
LINEAR_INIT = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")


class Intra(nn.Module):
    """Attention within a frame: [B, h, w, C] -> the node's first state, of the same shape."""

    std: float
    dropout: float
    block: int
    dtype: DType | None

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        features, init = x.shape[-1], nn.initializers.normal(self.std)
        self.sow("intermediates", "pooled", x)
        inner = max(features // 4, 1)
        x = PositionAttention(inner, self.block, init, dtype=self.dtype, name="sa")(x)
        self.sow("intermediates", "attended", x)
        conv = partial(nn.Conv, use_bias=False, kernel_init=init, dtype=self.dtype)
        x = conv(features, (3, 3), padding=1, name="conv51")(x)
        norm = BatchNorm(use_running_average=not train, dtype=self.dtype, name="bn51")
        # Whole channels are dropped.
        drop = nn.Dropout(self.dropout, broadcast_dims=(1, 2), deterministic=not train)
        return drop(nn.relu(norm(x)))


class Round(nn.Module):
    """One round of messages: states [B, N, h, w, C] -> the new states of some nodes.

    All messages are computed from the old states; node i's are joined in the order of their
    senders, 0 .. N - 1 without i.
    """

    std: float
    block: int
    dtype: DType | None

    @nn.compact
    def __call__(self, states: jax.Array, receivers: tuple[int, ...]) -> jax.Array:
        """New states [B, len(receivers), h, w, C]."""
        B, N, h, w, C = states.shape
        init = nn.initializers.normal(self.std)
        conv = partial(nn.Conv, kernel_init=init, dtype=self.dtype)
        linear = nn.Dense(
            C, use_bias=False, kernel_init=LINEAR_INIT, dtype=self.dtype, name="linear_e"
        )
        gate = conv(1, (1, 1), use_bias=False, name="gate")
        fuse = conv(C, (3, 3), padding=1, name="conv_fusion")
        update = ConvGRUCell(C, (1, 1), kernel_init=init, dtype=self.dtype, name="gru")

        to, frm = _edges(N, receivers)
        places = states.reshape(B, N, h * w, C)
        pair = jax.vmap(jax.vmap(partial(attend, block=self.block)))
        messages = pair(linear(places)[:, to], places[:, frm], places[:, frm])
        messages = messages.reshape(B, len(receivers), N - 1, h, w, C)
        self.sow("intermediates", "gate_logits", gate(messages))
        messages = messages * nn.sigmoid(gate(messages))
        joined = jnp.moveaxis(messages, 2, 4).reshape(B, len(receivers), h, w, (N - 1) * C)
        self.sow("intermediates", "joined", joined)
        fused = fuse(joined)
        self.sow("intermediates", "fused", fused)
        return update(states[:, np.asarray(receivers)], fused)


def _edges(nodes: int, receivers: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """(receiver, sender) of every message to the receivers, by receiver and then by sender."""
    pairs = [(i, j) for i in receivers for j in range(nodes) if j != i]
    return np.array([i for i, _ in pairs]), np.array([j for _, j in pairs])


class AGNN(nn.Module):
    """The network; logits at the pictures' size, float32.

    Attributes:
        depths: Blocks of the ResNet's stages; (3, 4, 23, 3) is the published ResNet-101.
        width: The ResNet's stem channels (published: 64).
        strides: Of the ResNet's stages; the stem's is 4, so (1, 2, 1, 1) answers at 1/8.
        branch: Channels of an ASPP branch (published: 512).
        features: Channels of a node's state (published: 256).
        nodes: Frames of a graph, at least 2; the fusion's weights depend on it.
        rounds: Of messages; the weights do not depend on it.
        head_std: Standard deviation of the first weights of all but the encoder (published: 0.01).
        dropout: Share of the states' channels that training drops (published: 0.1).
        block: Rows of an affinity that exist at a time; 0 keeps the whole of all of them.
        remat: Compute the insides of encoder and rounds again for the gradient.
        scan: Compile equal residual blocks once (see `layers.resnet.Stage`).
        dtype: What the layers compute in; parameters, affinities, softmax and gates stay float32.
    """

    depths: Sequence[int] = (3, 4, 23, 3)
    width: int = 64
    strides: Sequence[int] = (1, 2, 1, 1)
    branch: int = 512
    features: int = 256
    nodes: int = 3
    rounds: int = 5
    head_std: float = 0.01
    dropout: float = 0.1
    block: int = 512
    remat: bool = False
    scan: bool = False
    dtype: DType | None = None

    def setup(self) -> None:
        if self.nodes < 2 or self.rounds < 1:
            raise ValueError(
                f"nodes={self.nodes}, rounds={self.rounds}: messages need 2 nodes and 1 round."
            )
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
        intra = nn.remat(Intra, static_argnums=(2,)) if self.remat else Intra
        self.intra = intra(self.head_std, self.dropout, self.block, self.dtype)
        one_round = nn.remat(Round, static_argnums=(2,)) if self.remat else Round
        self.graph = one_round(self.head_std, self.block, self.dtype)
        self.head = JoinedHead(self.features, self.head_std, self.dtype)

    def __call__(self, frames: jax.Array, train: bool = False) -> dict[str, jax.Array]:
        """Logits "encoder" [B, T, H, W, 1] of each frame alone, and "frames", alike, of the graph.

        Args:
            frames: Prepared pictures [B, T, H, W, 3]; T is `nodes`, or 1 for the encoder alone.
            train: Whether BatchNorm uses and updates the batch's statistics, and channels drop out.
        """
        B, T, *size, _ = frames.shape
        if T not in (1, self.nodes):
            raise ValueError(f"{T} frames for a graph of {self.nodes} nodes (or 1 for no graph).")
        states, alone = self.encode(frames.reshape(B * T, *size, -1), train)
        outputs = {"encoder": alone}
        if T > 1:
            nodes = states.reshape(B, T, *states.shape[1:])
            logits = self.decide(nodes, train=train)
            outputs["frames"] = logits.reshape(B * T, *logits.shape[2:])
        large = {k: logits_at(v, size) for k, v in outputs.items()}
        return {k: v.reshape(B, T, *size, 1) for k, v in large.items()}

    def encode(self, pictures: jax.Array, train: bool = False) -> tuple[jax.Array, jax.Array]:
        """First states [B, h, w, C] and the encoder's logits [B, h, w, 1] of [B, H, W, 3]."""
        states = self.intra(self.encoder.look(pictures, train)[0], train)
        return states, self.encoder.classify(states)

    def decide(
        self, nodes: jax.Array, wanted: tuple[int, ...] | None = None, train: bool = False
    ) -> jax.Array:
        """Logits [B, len(wanted), h, w, 1] of the wanted nodes (None: all) from first states.

        Args:
            nodes: First states [B, N, h, w, C].
            wanted: Numbers of nodes. The last round is computed for them alone.
            train: As for the whole network.
        """
        everyone = tuple(range(self.nodes))
        wanted = everyone if wanted is None else wanted
        states, rounds = nodes, 1 if self.is_initializing() else self.rounds
        for number in range(1, rounds + 1):
            states = self.graph(states, wanted if number == rounds else everyone)
            self.sow("intermediates", f"round{number}", states)
        flat = lambda maps: maps.reshape(-1, *maps.shape[2:])  # noqa: E731
        logits = self.head(flat(states), flat(nodes[:, np.asarray(wanted)]), train)
        return logits.reshape(*states.shape[:-1], 1)


def loss(outputs: dict[str, jax.Array], batch: Batch) -> tuple[jax.Array, Metrics]:
    """The video step's loss if the batch has "masks", else the image step's.

    Weighted cross entropy plus 0.8 times the L1 distance: of the graph's answers, summed over the
    frames; or at a tenth of the encoder's.
    """
    if "masks" in batch:
        if "frames" not in outputs:
            raise ValueError("Clips of 1 frame make no graph: set data.frames to model.nodes.")
        total = jax.vmap(balanced_bce_and_l1, in_axes=1)(outputs["frames"], batch["masks"]).sum()
        return total, {"video_loss": total}
    losses = jax.vmap(balanced_bce_and_l1, in_axes=(1, None))(outputs["encoder"], batch["mask"])
    total = 0.1 * losses.mean()
    return total, {"image_loss": total}


@partial(jax.jit, static_argnames="model")
def _encode(model: AGNN, variables: Variables, pictures: jax.Array) -> jax.Array:
    """First states [B, h, w, C] of pictures [B, H, W, 3] uint8."""
    return model.apply(variables, prepare(pictures), method="encode")[0]


@partial(jax.jit, static_argnames=("model", "size", "wanted"))
def _decide(
    model: AGNN,
    variables: Variables,
    nodes: jax.Array,
    *,
    size: tuple[int, int],
    wanted: tuple[int, ...] | None,
) -> jax.Array:
    """Probabilities [B, wanted nodes, H, W] from first states [B, N, h, w, C]."""
    logits = model.apply(variables, nodes, wanted, method="decide")
    return nn.sigmoid(logits_at(logits, size))[..., 0]


def segmenter(
    model: AGNN,
    variables: Variables,
    *,
    size: tuple[int, int] = SIZE,
    scales: Sequence[float] = SCALES,
    shared: bool = False,
    seed: int = 0,
    batch: int = 1,
    pool: int = 128,
) -> Segmenter:
    """Segments each frame in a graph with random frames of its video; scores of scales averaged.

    Every frame is encoded once a scale. Where a video has fewer frames than a graph has nodes, they
    take several nodes each, the frame itself too: a clip of one frame is a graph of its copies.

    Args:
        model: The network.
        variables: Its weights.
        size: What frames are resized to at scale 1, without regard to their aspect, as released.
        scales: Factors of `size`.
        shared: False gives each frame a graph of its own and keeps its answer alone, as released.
            True keeps the answers for all of a graph, so that `nodes` times fewer graphs do.
        seed: Draws the other frames (the released script draws anew in every run).
        batch: Graphs (and frames) a compiled call; the last one is padded.
        pool: Others are drawn from all frames of a video up to this long, as released; from this
            many random ones of a longer video (shared: from its stretch of at most so many frames).
    """
    sizes = [tuple(int(side * scale) for side in size) for scale in scales]
    if not sizes or min(map(min, sizes)) < 1:
        raise ValueError(f"size={size} at scales={tuple(scales)} leaves no picture to look at.")
    encode, protocol = partial(_encode, model, variables), _shared if shared else _own

    def segment(video: Video) -> Iterator[np.ndarray]:
        def scores(size: tuple[int, int]) -> Iterator[np.ndarray]:
            def encoded(indices: Iterable[int]) -> Iterator[jax.Array]:
                return batched(
                    encode, (_squash(video.frames[t], size) for t in indices), batch=batch
                )

            decide = partial(_decide, model, variables, size=size)
            return protocol(len(video.frames), model.nodes, encoded, decide, seed, batch, pool)

        for t, maps in enumerate(zip(*map(scores, sizes), strict=True)):
            shape = video.frames[t].shape[:2]
            yield np.mean([enlarged(each, shape) for each in maps], axis=0)

    return segment


def _own(
    frames: int,
    nodes: int,
    encoded: Callable[[Iterable[int]], Iterator[jax.Array]],
    decide: Callable[..., jax.Array],
    seed: int,
    batch: int,
    pool: int,
) -> Iterator[np.ndarray]:
    """Each frame's score map from a graph of its own, in order."""
    candidates, chosen = draw_references(frames, nodes - 1, pool, seed)
    chosen = chosen[:, np.arange(nodes - 1) % chosen.shape[1]]
    kept = dict(zip(candidates.tolist(), encoded(candidates), strict=True))
    others = encoded(t for t in range(frames) if t not in kept)
    graphs = (
        jnp.stack([kept[t] if t in kept else next(others), *(kept[r] for r in row)])
        for t, row in enumerate(chosen.tolist())
    )
    for (scores,) in batched(partial(decide, wanted=(0,)), graphs, batch=batch):
        yield np.asarray(scores)


def _shared(
    frames: int,
    nodes: int,
    encoded: Callable[[Iterable[int]], Iterator[jax.Array]],
    decide: Callable[..., jax.Array],
    seed: int,
    batch: int,
    pool: int,
) -> Iterator[np.ndarray]:
    """Each frame's score map from the one graph that it is in, in order."""
    rng = np.random.default_rng(seed)
    for stretch in np.array_split(np.arange(frames), ceil(frames / pool)):
        states = dict(zip(stretch.tolist(), encoded(stretch), strict=True))
        filled = np.resize(rng.permutation(stretch), (ceil(len(stretch) / nodes), nodes)).tolist()
        graphs = (jnp.stack([states[t] for t in row]) for row in filled)
        done: dict[int, np.ndarray] = {}
        for row, maps in zip(
            filled, batched(partial(decide, wanted=None), graphs, batch=batch), strict=True
        ):
            for t, scores in zip(row, np.asarray(maps), strict=True):
                done.setdefault(t, scores)
        yield from (done.pop(t) for t in stretch.tolist())


def _squash(frame: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A frame [H, W, 3] uint8 at `size`, by OpenCV's bilinear resize (no antialias) as released."""
    return cv2.resize(frame, size[::-1], interpolation=cv2.INTER_LINEAR)


def enlarged(scores: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Scores [h, w] at `size`, bilinear with the centres of the corner pixels kept in place."""
    for axis, m in enumerate(size):
        n = scores.shape[axis]
        places = np.linspace(0, n - 1, m)
        low = np.minimum(places.astype(int), max(n - 2, 0))
        share = np.expand_dims((places - low).astype(np.float32), 1 - axis)
        above = np.minimum(low + 1, n - 1)
        scores = scores.take(low, axis) * (1 - share) + scores.take(above, axis) * share
    return scores


def shapes(model: AGNN) -> dict[str, tuple[int, ...]]:
    """The input that variables are made with: one graph."""
    return {"frames": (1, model.nodes, 33, 49, 3)}


NAMES = (
    (r"encoder\.layer5\.sa", r"intra/sa"),
    (r"encoder\.layer5\.sa\.(\w+)", r"intra/sa/\1"),
    (r"encoder\.layer5\.conv51\.0", r"intra/conv51"),
    (r"encoder\.layer5\.conv51\.1", r"intra/bn51"),
    *ENCODER_NAMES,
    (r"ConvGRU\.(\w+)", r"graph/gru/\1"),
    (r"(linear_e|gate|conv_fusion)", r"graph/\1"),
    (r"(conv|bn)1", r"head/\1"),
    (r"main_classifier1", r"head/classifier"),
)

SYSTEM = System(
    title="AGNN (Wang et al., ICCV 2019): a graph of frames and their messages",
    model=AGNN,
    inputs={"frames": prepare},
    loss=loss,
    segmenter=segmenter,
    names=NAMES,
    backbone="encoder/resnet",
    facts=Facts(
        needs="frames",
        trained="DAVIS-2016, MSRA10K, DUT-OMRON",
        reported="80.7 / 79.1",
        error="9.4e-6 (46)",
    ),
    shapes=shapes,
)
