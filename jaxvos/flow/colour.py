"""Flow as a picture: the colour wheel of Baker et al., as RAFT's and MATNet's pictures have it.

Baker, Scharstein, Lewis, Roth, Black, Szeliski, "A Database and Evaluation Methodology for Optical
Flow", IJCV 2011. Direction is the hue, length the saturation. DPA, TMO and MATNet are given such
pictures, so that these must be the published ones to the level.
"""

import cv2
import numpy as np

SEGMENTS = ((15, 0, 1), (6, 1, 0), (4, 1, 2), (11, 2, 1), (13, 2, 0), (6, 0, 2))
"""Each: how many colours, the channel at 255, and the one that rises (or falls) beside it."""


def _wheel() -> np.ndarray:
    colours = np.zeros((sum(count for count, _, _ in SEGMENTS), 3))
    start, rises = 0, True
    for count, full, ramp in SEGMENTS:
        part, steps = colours[start : start + count], np.floor(255 * np.arange(count) / count)
        if rises:
            part[:, full], part[:, ramp] = 255, steps
        else:  # the channel before fades into this one
            part[:, full], part[:, ramp] = 255, 255 - steps
        start, rises = start + count, not rises
    return colours


WHEEL = _wheel()
"""[55, 3]: red to yellow, green, cyan, blue, magenta and back, 0 to 255."""
STILL = 16
"""A picture of flow whose colours are all this near to white, in levels, shows no motion."""


def picture(
    flow: np.ndarray, *, longest: float | None = None, bgr: bool = False, eps: float = 1e-5
) -> np.ndarray:
    """Flow as [H, W, 3] uint8: white where nothing moves, full colour where it is fastest.

    Args:
        flow: [H, W, 2] in pixels (x, y), finite.
        longest: The length that has the full colour; what is longer is darker. None is the longest
            of this flow, as published: then the colours of two frames cannot be compared.
        bgr: Blue first, as OpenCV has pictures.
        eps: Pixels that this flow's longest is taken to be longer by.
    """
    if flow.ndim != 3 or flow.shape[2] != 2 or not np.isfinite(flow).all():
        raise ValueError(f"A picture is of finite flow [H, W, 2], not {flow.shape} with NaN or so.")
    flow = flow.astype(np.float64)
    darkens = longest is not None
    if longest is None:
        longest = np.sqrt((flow**2).sum(axis=-1)).max() + eps
    elif not longest > 0:
        raise ValueError(f"The length of the full colour is above 0 pixels, not {longest}.")
    colours = _colours(flow / longest, darkens)
    return colours[..., ::-1].copy() if bgr else colours


def flow_of_picture(picture: np.ndarray) -> np.ndarray:
    """The flow [H, W, 2] float32 that a colour wheel picture [H, W, 3] uint8 RGB shows.

    Its unit is that of the full colour, the longest of the picture as published.
    """
    colour = picture.astype(np.float32) / 255
    length = 1 - colour.min(axis=-1)
    if length.max(initial=0) * 255 <= STILL:
        return np.zeros((*length.shape, 2), np.float32)
    hue = cv2.cvtColor(colour, cv2.COLOR_RGB2HSV)[..., 0]
    turn = 2 * np.pi * np.interp(hue, _hues(), np.linspace(0, 1, len(WHEEL)))
    return np.stack([length * np.cos(turn), length * np.sin(turn)], axis=-1).astype(np.float32)


def _hues() -> np.ndarray:
    """[55]: the wheel's hues, from 0 up to nearly 360 degrees."""
    return cv2.cvtColor(np.float32(WHEEL / 255)[None], cv2.COLOR_RGB2HSV)[0, :, 0]


def _colours(flow: np.ndarray, darkens: bool) -> np.ndarray:
    """[H, W, 3] uint8 of flow [H, W, 2] in units of the longest, beyond which it may get darker."""
    length = np.sqrt((flow**2).sum(axis=-1))
    place = (np.arctan2(-flow[..., 1], -flow[..., 0]) / np.pi + 1) / 2 * (len(WHEEL) - 1)
    before = np.floor(place).astype(int)
    after = (before + 1) % len(WHEEL)
    part = (place - before)[..., None]
    # Levels are cut, not rounded, so the published order of operations decides some of them.
    shares = WHEEL / 255
    colour = (1 - part) * shares[before] + part * shares[after]
    # By rounding the longest itself may be a little longer than 1.
    length = length[..., None] if darkens else np.minimum(length[..., None], 1)
    colour = np.where(length <= 1, 1 - length * (1 - colour), 0.75 * colour)
    return np.floor(255 * colour).astype(np.uint8)
