"""Augmentation of one picture and its mask on the host: uint8 in, uint8 out.

An augmentation is a function (picture [H, W, 3] uint8, mask [H, W] uint8, rng) -> the same pair at
whatever size comes out; `squash` then brings every pair to the size of training. The functions draw
from `rng` alone, so that a record's position in the stream decides what happens to it.
"""

from collections.abc import Callable

import cv2
import numpy as np
from PIL import Image

Augmentation = Callable[
    [np.ndarray, np.ndarray, np.random.Generator], tuple[np.ndarray, np.ndarray]
]


def none(
    picture: np.ndarray, mask: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """The pair as it is; draws nothing."""
    return picture, mask


def cosnet(
    picture: np.ndarray, mask: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """A window of the pair, resampled and perhaps mirrored, as COSNet's released code has frames.

    1. A window of exactly 0.9 H x 0.9 W (rounded down). Its offset is uniform but never the last
       one possible, as released; a side of one pixel is kept.
    2. Resampled by one factor in [0.7, 1.3], bilinear (nearest for the mask). The released code
       gives height and width in swapped order, and so do we: the result has the window's aspect
       upside down. The squash takes that away again, only a little blur remains.
    3. Mirrored when a draw from [0, 1] exceeds 0.5. It is not the scale's: that one always does.

    The released code draws anew for every frame, also for the two frames of a pair.
    """
    height, width = (max(1, int(0.9 * side)) for side in mask.shape)
    top, left = (
        int(rng.integers(max(1, side - kept)))
        for side, kept in zip(mask.shape, (height, width), strict=True)
    )
    window = np.s_[top : top + height, left : left + width]
    scale = rng.uniform(0.7, 1.3)
    # OpenCV reads this as (width, height): the released code's swap.
    swapped = max(1, int(height * scale)), max(1, int(width * scale))
    picture = cv2.resize(picture[window], swapped, interpolation=cv2.INTER_LINEAR)
    mask = cv2.resize(mask[window], swapped, interpolation=cv2.INTER_NEAREST)
    return _mirrored(picture, mask, rng.uniform() > 0.5)


def flip_crop(
    picture: np.ndarray, mask: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """A window of 0.6 to 1 of the area, mirrored in half of the cases, with slightly other colours.

    For the small recipes. The window's aspect differs from the picture's by a factor of up to 4/3
    either way (less where the window would not fit). Contrast changes by up to 20 %, brightness by
    up to 16 levels, each channel's gain by up to 5 %.
    """
    area, aspect = rng.uniform(0.6, 1.0), np.exp(rng.uniform(-1.0, 1.0) * np.log(4 / 3))
    factors = np.sqrt(area * aspect), np.sqrt(area / aspect)
    height, width = (
        min(side, max(1, round(side * factor)))
        for side, factor in zip(mask.shape, factors, strict=True)
    )
    top = int(rng.integers(mask.shape[0] - height + 1))
    left = int(rng.integers(mask.shape[1] - width + 1))
    window = np.s_[top : top + height, left : left + width]
    picture, mask = _mirrored(picture[window], mask[window], rng.uniform() > 0.5)
    gain = rng.uniform(0.8, 1.2) * rng.uniform(0.95, 1.05, size=3)
    levels = (np.arange(256.0)[:, None] - 128) * gain + 128 + rng.uniform(-16, 16)
    table = np.clip(np.rint(levels), 0, 255).astype(np.uint8)
    return cv2.LUT(picture, table[None]), mask


AUGMENTATIONS: dict[str, Augmentation] = {"none": none, "cosnet": cosnet, "flip_crop": flip_crop}


def stretch(picture: np.ndarray) -> np.ndarray:
    """The picture [H, W, 3] uint8 with its darkest value at 0 and its brightest at 255.

    One darkest and one brightest value for all channels, as the old `scipy.misc.imresize` did with
    every picture that was not uint8: in the released COSNet the augmented frames (float by then)
    came out stretched, the saliency images and the frames of the test did not. A picture of one
    value has nothing to stretch: it turns black, there as here. The released masks went the same
    way, so that an all-foreground window lost its object; that is a bug which only costs, and is
    not repeated.
    """
    low, high = int(picture.min()), int(picture.max())
    levels = (np.arange(256.0) - low) * (255.0 / max(high - low, 1))
    return cv2.LUT(picture, np.floor(np.clip(levels, 0, 255) + 0.5).astype(np.uint8))


def squash(
    picture: np.ndarray, mask: np.ndarray, size: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """The pair at `size` (H, W), aspect not kept: [H, W, 3] uint8, mask [H, W, 1] uint8 in {0, 1}.

    The picture is resized bilinearly with antialiasing, the mask to the nearest pixel. Any value of
    the mask but 0 is foreground: object numbers, soft saliency maps, and DAVIS-2016's 255.
    """
    height, width = size
    small = Image.fromarray(picture).resize((width, height), Image.Resampling.BILINEAR)
    binary = Image.fromarray((mask != 0).astype(np.uint8))
    nearest = binary.resize((width, height), Image.Resampling.NEAREST)
    return np.array(small), np.array(nearest)[..., None]


def _mirrored(picture: np.ndarray, mask: np.ndarray, mirror: bool) -> tuple[np.ndarray, np.ndarray]:
    """Both from right to left, contiguous, or both as they are."""
    if not mirror:
        return picture, mask
    return np.ascontiguousarray(picture[:, ::-1]), np.ascontiguousarray(mask[:, ::-1])
