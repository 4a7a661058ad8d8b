"""Augmentation of one picture and its mask on the host: uint8 in, uint8 out.

An augmentation is a function (picture [H, W, 3] uint8, mask [H, W] uint8, rng) -> the same pair at
whatever size comes out, and where its pixels were; `squash` then brings every pair to the size of
training. The functions draw from `rng` alone, so that a record's position in the stream decides
what happens to it. What else belongs to a frame, flow or fixations, is moved by where pixels were.
"""

from collections.abc import Callable
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image


class Augmented(NamedTuple):
    """A pair after augmentation.

    Attributes:
        picture: [H, W, 3] uint8.
        mask: [H, W] uint8.
        back: [2, 3] float64: back @ (x, y, 1) is where the pixel (x, y) was, in pixels' centres.
    """

    picture: np.ndarray
    mask: np.ndarray
    back: np.ndarray


Augmentation = Callable[[np.ndarray, np.ndarray, np.random.Generator], Augmented]

SAME = np.eye(2, 3)


def none(picture: np.ndarray, mask: np.ndarray, rng: np.random.Generator) -> Augmented:
    """The pair as it is; draws nothing."""
    return Augmented(picture, mask, SAME)


def cosnet(picture: np.ndarray, mask: np.ndarray, rng: np.random.Generator) -> Augmented:
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
    pair = _window(Augmented(picture, mask, SAME), top, left, height, width)
    scale = rng.uniform(0.7, 1.3)
    # OpenCV reads this as (width, height): the released code's swap.
    swapped = max(1, int(height * scale)), max(1, int(width * scale))
    pair = Augmented(
        cv2.resize(pair.picture, swapped, interpolation=cv2.INTER_LINEAR),
        cv2.resize(pair.mask, swapped, interpolation=cv2.INTER_NEAREST),
        after(pair.back, scaling((height, width), swapped[::-1])),
    )
    return _mirrored(pair, rng.uniform() > 0.5)


def flip_crop(picture: np.ndarray, mask: np.ndarray, rng: np.random.Generator) -> Augmented:
    """A window of 0.6 to 1 of the area, mirrored in half of the cases, with slightly other colours.

    For the small recipes. The window's aspect differs from the picture's by a factor of up to 4/3
    either way (less where the window would not fit). Contrast changes by up to 20 %, brightness by
    up to 16 levels, each channel's gain by up to 5 %.
    """
    area, aspect = rng.uniform(0.6, 1.0), np.exp(rng.uniform(-1.0, 1.0) * np.log(4 / 3))
    factors = np.sqrt(area * aspect), np.sqrt(area / aspect)
    pair = _mirrored(_some_window(picture, mask, factors, rng), rng.uniform() > 0.5)
    gain = rng.uniform(0.8, 1.2) * rng.uniform(0.95, 1.05, size=3)
    return pair._replace(picture=_recoloured(pair.picture, gain, rng.uniform(-16, 16)))


def pdb(picture: np.ndarray, mask: np.ndarray, rng: np.random.Generator) -> Augmented:
    """Strips off the four borders, mirrored in half of the cases, turned by 0, 90, 180 or 270.

    After PDB-ConvLSTM's section 4.1 (Song et al., ECCV 2018); how wide the strips are it does not
    say: ours are up to a tenth of the side each.
    """
    height, width = mask.shape
    above, below = rng.uniform(0, 0.1, size=2) * height
    left, right = rng.uniform(0, 0.1, size=2) * width
    top, left = int(above), int(left)
    kept = height - top - int(below), width - left - int(right)
    pair = _window(Augmented(picture, mask, SAME), top, left, *kept)
    pair = _mirrored(pair, rng.uniform() > 0.5)
    for _ in range(int(rng.integers(4))):
        pair = _turned(pair)
    return pair


def raft(picture: np.ndarray, mask: np.ndarray, rng: np.random.Generator) -> Augmented:
    """A window at a scale of 1 to 2, its sides stretched, mirrored both ways, other colours.

    After the released training of RAFT (Teed & Deng, ECCV 2020) on FlyingChairs: a scale of 2^-0.1
    to 2^1.0 and, in 0.8 of the cases, each side by 2^-0.2 to 2^0.2 more; mirrored from left to
    right in half of the cases, upside down in a tenth. Colours change for both frames alike, and
    nothing is erased; the released code changes the frames' apart in 0.2 of the cases and erases
    boxes of the second.
    """
    scale = 2 ** rng.uniform(-0.1, 1.0)
    stretches = 2 ** rng.uniform(-0.2, 0.2, size=2) if rng.uniform() < 0.8 else np.ones(2)
    factors = np.minimum(1.0, 1.0 / (scale * stretches))
    pair = _some_window(picture, mask, (float(factors[0]), float(factors[1])), rng)
    pair = _mirrored(pair, rng.uniform() > 0.5)
    if rng.uniform() < 0.1:
        pair = _upside_down(pair)
    gain = rng.uniform(0.6, 1.4) * rng.uniform(0.9, 1.1, size=3)
    return pair._replace(picture=_recoloured(pair.picture, gain, rng.uniform(-50, 50)))


def matnet(picture: np.ndarray, mask: np.ndarray, rng: np.random.Generator) -> Augmented:
    """Mirrored in half of the cases, turned by up to 10 degrees, at 0.75 to 1.25 of its size.

    As in the released training of MATNet (Zhou et al., AAAI 2020), about the picture's centre, with
    black from beyond it, cubic. Masks stay sharp (nearest); there they get soft edges.
    """
    pair = _mirrored(Augmented(picture, mask, SAME), rng.uniform() > 0.5)
    height, width = mask.shape
    centre = (width - 1) / 2, (height - 1) / 2
    there = cv2.getRotationMatrix2D(centre, rng.uniform(-10, 10), rng.uniform(0.75, 1.25))
    back = np.linalg.inv(np.vstack([there, [0, 0, 1]]))[:2]

    def moved(values: np.ndarray, how: int) -> np.ndarray:
        flags = how | cv2.WARP_INVERSE_MAP
        return cv2.warpAffine(values, back, (width, height), flags=flags)

    return Augmented(
        moved(pair.picture, cv2.INTER_CUBIC),
        moved(pair.mask, cv2.INTER_NEAREST),
        after(pair.back, back),
    )


def tmo(picture: np.ndarray, mask: np.ndarray, rng: np.random.Generator) -> Augmented:
    """Mirrored from left to right in half of the cases, and upside down in half of the cases.

    As in the released training of TMO (Cho et al., WACV 2023).
    """
    pair = _mirrored(Augmented(picture, mask, SAME), rng.uniform() > 0.5)
    return _upside_down(pair) if rng.uniform() > 0.5 else pair


AUGMENTATIONS: dict[str, Augmentation] = {
    "none": none,
    "cosnet": cosnet,
    "flip_crop": flip_crop,
    "pdb": pdb,
    "raft": raft,
    "matnet": matnet,
    "tmo": tmo,
}


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


def squashed_back(back: np.ndarray, size: tuple[int, int], new: tuple[int, int]) -> np.ndarray:
    """`back` of a pair of `size` (H, W) after it was squashed to `new` (H, W)."""
    return after(back, scaling(size, new))


def moved_flow(flow: np.ndarray, back: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Flow [h, w, 2] float32 of `size` (h, w) where pixels were at `back`: grid and vectors."""
    taken = _taken(flow, back, size, cv2.BORDER_REPLICATE)
    return taken @ np.linalg.inv(back[:, :2]).T.astype(np.float32)


def moved_map(values: np.ndarray, back: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A map [H, W] float32 at `size` (h, w) where pixels were at `back`; 0 from beyond it."""
    return _taken(values, back, size, cv2.BORDER_CONSTANT)


def moved_points(points: np.ndarray, back: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Points, the pixels of [H, W] bool that are set, as [h, w] bool; none within it is lost."""
    y, x = np.nonzero(points)
    there = np.linalg.inv(np.vstack([back, [0, 0, 1]])) @ np.stack([x, y, np.ones(len(x))])
    moved, inside = np.zeros(size, bool), np.floor(there[:2] + 0.5).astype(int)
    x, y = inside[:, ((inside >= 0) & (inside < np.array(size)[::-1, None])).all(axis=0)]
    moved[y, x] = True
    return moved


def after(back: np.ndarray, further: np.ndarray) -> np.ndarray:
    """[2, 3]: where pixels were before two steps, of which `back` is the first's."""
    return back @ np.vstack([further, [0, 0, 1]])


def scaling(size: tuple[int, ...], new: tuple[int, ...]) -> np.ndarray:
    """`back` [2, 3] of a picture (H, W) that was resized to another one, edges kept in place."""
    y, x = (old / fresh for old, fresh in zip(size, new, strict=True))
    return np.array([[x, 0, (x - 1) / 2], [0, y, (y - 1) / 2]])


def _taken(values: np.ndarray, back: np.ndarray, size: tuple[int, int], border: int) -> np.ndarray:
    return cv2.warpAffine(
        np.asarray(values, np.float32),
        back,
        size[::-1],
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        borderMode=border,
    )


def _some_window(
    picture: np.ndarray,
    mask: np.ndarray,
    factors: tuple[float, float],
    rng: np.random.Generator,
) -> Augmented:
    """A window anywhere, of so many times the sides (H, W), at most the whole."""
    height, width = (
        min(side, max(1, round(side * factor)))
        for side, factor in zip(mask.shape, factors, strict=True)
    )
    top = int(rng.integers(mask.shape[0] - height + 1))
    left = int(rng.integers(mask.shape[1] - width + 1))
    return _window(Augmented(picture, mask, SAME), top, left, height, width)


def _window(pair: Augmented, top: int, left: int, height: int, width: int) -> Augmented:
    window = np.s_[top : top + height, left : left + width]
    moved = after(pair.back, np.array([[1.0, 0, left], [0, 1, top]]))
    return Augmented(pair.picture[window], pair.mask[window], moved)


def _mirrored(pair: Augmented, mirror: bool) -> Augmented:
    """From right to left, contiguous, or as it is."""
    if not mirror:
        return pair
    return Augmented(
        np.ascontiguousarray(pair.picture[:, ::-1]),
        np.ascontiguousarray(pair.mask[:, ::-1]),
        after(pair.back, np.array([[-1.0, 0, pair.mask.shape[1] - 1], [0, 1, 0]])),
    )


def _turned(pair: Augmented) -> Augmented:
    """A quarter turn against the clock."""
    return Augmented(
        np.ascontiguousarray(np.rot90(pair.picture)),
        np.ascontiguousarray(np.rot90(pair.mask)),
        after(pair.back, np.array([[0.0, -1, pair.mask.shape[1] - 1], [1, 0, 0]])),
    )


def _upside_down(pair: Augmented) -> Augmented:
    return _turned(_turned(_mirrored(pair, True)))


def _recoloured(picture: np.ndarray, gain: np.ndarray, shift: float) -> np.ndarray:
    """The picture with its contrast times `gain` [3] around the middle, and `shift` levels more."""
    levels = (np.arange(256.0)[:, None] - 128) * gain + 128 + shift
    return cv2.LUT(picture, np.clip(np.rint(levels), 0, 255).astype(np.uint8)[None])
