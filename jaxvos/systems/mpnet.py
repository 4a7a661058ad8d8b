"""MP-Net: what moves by itself, seen in a single field of flow.

Tokmakov, Alahari, Schmid, "Learning Motion Patterns in Videos", CVPR 2017 (and IJCV 2019). An
encoder and decoder reads the flow from a frame to the next one, as angle and magnitude, and tells
motion of objects from the camera's; no picture is looked at. It is trained on made-up video alone,
whose flow and motion are known exactly. Maps of objectness may weigh its answer.

Where the released code (for Torch7) and the paper differ, and where we do:
- There are two published networks; this is "model_new", which brings what comes from below to the
  size of what it is joined with. Both are Torch7 files (.dat), which number their modules and
  cannot be read here. A file with the names of `motion_pattern.NAMES` can.
- The angle is that with the x axis, 0 to pi: motion up and motion down are the same. Training's
  mirroring left the angle as it was; here the flow is mirrored, and the angle follows.
- Angle and magnitude went through 8-bit JPEG, each stretched by its frame's range. Not here.
- Fields were resized with their values as they were, and the magnitude divided by a sixth of the
  diagonal of the frame that the flow came from. In training ours are in pixels of their own size,
  cut out or not, and divided by that size's: the same but for windows and a change of the aspect.
- Where the flow is of 1 pixel or less its angle counts as 0 (`still`), on DAVIS alone and not in
  training, as released.
- Objectness was the sum of the masks of 100 SharpMask proposals; here it is any map that a folder
  holds. The released raw scores were weighed and cut at 1 too, before the CRF.

What its users stumble on: it sees motion and no objects. What stands still is not found, and
parallax is taken for motion the more, the worse the flow: the published one was LDOF. The last
frame, which had no answer, has that of the flow before it; a video of one frame, that of no motion.
"""

from collections.abc import Iterator
from functools import partial

import flax.linen as nn
import jax
import numpy as np

from jaxvos.flow.each_frame import check_flow, flow_of_each_frame, places_of
from jaxvos.inference import batched
from jaxvos.layers import motion_pattern
from jaxvos.layers.flow_pictures import angle_magnitude as prepare
from jaxvos.layers.motion_pattern import MotionPattern, between_frames, motion_loss
from jaxvos.layers.resize import bilinear
from jaxvos.objectness import maps_of, weighed
from jaxvos.system import Facts, System
from jaxvos.typing import Batch, DType, Metrics, Segmenter, Variables, Video

SIZE = (232, 424)


class MPNet(nn.Module):
    """The network on clips of flow.

    Attributes:
        width: Channels of its first level (published: 64); the others follow.
        dtype: What the layers compute in; parameters and logits stay float32.
    """

    width: int = 64
    dtype: DType | None = None

    @nn.compact
    def __call__(self, flow: jax.Array, train: bool = False) -> dict[str, jax.Array]:
        """Logits "motion" [B, T - 1, H // 2, W // 2, 1] of all frames but the last.

        Args:
            flow: [B, T, H, W, 2] encoded; the last frame's only repeats the one before and is not
                looked at. Of a single frame (T = 1) it is, and has its logits.
            train: Whether BatchNorm uses and updates the batch's statistics.
        """
        fields = between_frames(flow)
        flat = fields.reshape(-1, *fields.shape[2:])
        logits = MotionPattern(self.width, self.dtype, name="motion")(flat, train)
        return {"motion": logits.reshape(*fields.shape[:2], *logits.shape[1:])}


def loss(outputs: dict[str, jax.Array], batch: Batch) -> tuple[jax.Array, Metrics]:
    """Cross entropy at half the size, the mean over places and all frames but the last.

    "masks" [B, T, H, W, 1] are of what moves. There are no steps on still images.
    """
    if "masks" not in batch:
        raise ValueError("MP-Net learns from motion, which still images have not: image_every=0.")
    logits = outputs["motion"]
    total = motion_loss(logits, batch["masks"][:, : logits.shape[1]])
    return total, {"video_loss": total}


@partial(jax.jit, static_argnames="model")
def _moving(
    model: MPNet,
    variables: Variables,
    flow: jax.Array,
    diagonal: jax.Array,
    *,
    still: float,
) -> jax.Array:
    """Probabilities [B, h, w] of flow [B, H, W, 2], in pixels of pictures of a diagonal [B]."""
    encoded = prepare(flow, diagonal=diagonal.reshape(-1, 1, 1), still=still)
    return nn.sigmoid(model.apply(variables, encoded[:, None])["motion"])[:, 0, ..., 0]


@partial(jax.jit, static_argnames="size")
def _enlarged(scores: jax.Array, size: tuple[int, int]) -> jax.Array:
    return bilinear(scores[..., None], size, align_corners=True)[..., 0]


def fitting(size: tuple[int, int] | int, frame: tuple[int, int]) -> tuple[int, int]:
    """(H, W) that the flow of a frame (H, W) is brought to."""
    if not isinstance(size, int):
        return size[0], size[1]
    height, width = (round(side * size / min(frame)) for side in frame)
    return height, width


def segmenter(
    model: MPNet,
    variables: Variables,
    *,
    size: tuple[int, int] | int = SIZE,
    still: float = 1.0,
    objectness: str = "",
    batch: int = 1,
) -> Segmenter:
    """Says of each frame what moves by itself, from its flow to the next one.

    Args:
        model: The network.
        variables: Its weights.
        size: What fields are brought to, without regard to their aspect; or the length of the
            shorter side, 232 for anything but DAVIS as published.
        still: Pixels of the video below which a motion has no direction; 0 for exact flow.
        objectness: A folder of maps to weigh the answers with, see `jaxvos.objectness.maps_of`.
        batch: Frames a compiled call. The last one is padded, so any length compiles once.
    """
    moving = partial(_moving, model, variables, still=still)

    def fields(video: Video) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for field in flow_of_each_frame(video):
            frame = field.shape[:2]
            yield places_of(field, fitting(size, frame)), np.hypot(*np.float32(frame)).reshape(1)

    def segment(video: Video) -> Iterator[np.ndarray]:
        check_flow(video, "MP-Net")
        maps = maps_of(video, objectness) if objectness else None
        frame = video.frames[0].shape[:2]
        for t, scores in enumerate(batched(moving, fields(video), batch=batch)):
            whole = np.asarray(_enlarged(scores, frame))
            yield weighed(whole, maps(t)) if maps else whole

    return segment


NAMES = tuple((pattern, f"motion/{path}") for pattern, path in motion_pattern.NAMES)

SYSTEM = System(
    title="MP-Net (Tokmakov et al., CVPR 2017): motion of objects in a field of optical flow",
    model=MPNet,
    inputs={"flow": prepare},
    loss=loss,
    segmenter=segmenter,
    names=NAMES,
    backbone="motion",
    facts=Facts(
        needs="flow; objectness maps are an option",
        trained="FlyingThings3D",
        reported="70.0 / 65.9 with CRF",
        error="7.7e-6",
    ),
    reads=("flow",),
    shapes=lambda model: {"flow": (1, 2, 33, 49, 2)},
)
