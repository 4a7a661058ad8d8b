"""Optical flow without weights: dense inverse search, as OpenCV has it.

Kroeger, Timofte, Dai, Van Gool, "Fast Optical Flow using Dense Inverse Search", ECCV 2016.
"""

import cv2
import numpy as np

PRESETS = {
    "ultrafast": cv2.DISOPTICAL_FLOW_PRESET_ULTRAFAST,
    "fast": cv2.DISOPTICAL_FLOW_PRESET_FAST,
    "medium": cv2.DISOPTICAL_FLOW_PRESET_MEDIUM,
}
SMALLEST = 16
"""Sides below this many pixels are padded: the search works on patches of 8 at half the size."""


def dis(
    first: np.ndarray,
    second: np.ndarray,
    *,
    preset: str = "medium",
    finest_scale: int | None = None,
) -> np.ndarray:
    """Flow [H, W, 2] float32 in pixels (x, y): pixel p of the first picture is at p + flow in the
    second.

    Args:
        first: [H, W, 3] uint8 RGB.
        second: The same size.
        preset: "ultrafast", "fast" or "medium": from coarse to careful.
        finest_scale: At what power of 1/2 the search ends; 0 is the full size and the slowest, None
            the preset's own.
    """
    if preset not in PRESETS:
        raise ValueError(f"No preset of DIS is called {preset!r}. There are: {', '.join(PRESETS)}.")
    for picture in (first, second):
        if picture.shape != first.shape or picture.ndim != 3 or picture.dtype != np.uint8:
            raise ValueError(
                f"Flow is between pictures [H, W, 3] uint8 of one size, not {first.shape} "
                f"{first.dtype} and {second.shape} {second.dtype}."
            )
    search = cv2.DISOpticalFlow_create(PRESETS[preset])
    if finest_scale is not None:
        search.setFinestScale(finest_scale)
    height, width = first.shape[:2]
    pad = (0, max(SMALLEST - height, 0), 0, max(SMALLEST - width, 0))
    greys = [
        cv2.copyMakeBorder(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY), *pad, cv2.BORDER_REPLICATE)
        for picture in (first, second)
    ]
    return search.calc(*greys, None)[:height, :width]
