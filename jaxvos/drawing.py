"""Pictures to look at: masks laid over frames, and contact sheets."""

from collections.abc import Sequence

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

THUMBNAIL = (240, 320)  # H, W in pixels that a picture on a contact sheet may take
MARGIN, CAPTION = 10, 24  # pixels between the pictures of a sheet, and below each for its name
PAPER, INK = (24, 24, 27), (212, 212, 216)


def davis_palette() -> np.ndarray:
    """The colours of the labels 0 to 255, [256, 3] uint8: PASCAL VOC's, which DAVIS took over.

    The bits of a label, from the lowest, go to red, green and blue in turn, from the highest down.
    """
    labels = np.arange(256)
    palette = np.zeros((256, 3), np.uint8)
    for bit in range(8):
        palette[:, bit % 3] |= ((labels >> bit & 1) << 7 - bit // 3).astype(np.uint8)
    return palette


def _bright_palette() -> np.ndarray:
    """The DAVIS palette with every colour at its full brightness, [256, 3] uint8."""
    palette = davis_palette().astype(np.float32)
    return np.rint(255 * palette / np.maximum(palette.max(1, keepdims=True), 1)).astype(np.uint8)


_BRIGHT = _bright_palette()


def overlay(frame: np.ndarray, labels: np.ndarray, opacity: float = 0.45) -> np.ndarray:
    """The frame [H, W, 3] uint8 with every object tinted and outlined in a colour of its own.

    Args:
        frame: [H, W, 3] uint8.
        labels: [H, W] integers, 0 for the background; or float scores in [0, 1], which tint as
            strongly as they are high and are outlined where they pass 0.5.
        opacity: Of the tint, in [0, 1].
    """
    if labels.shape != frame.shape[:2]:
        raise ValueError(f"Labels of shape {labels.shape} do not fit a frame of {frame.shape}.")
    if np.issubdtype(labels.dtype, np.floating):
        strength, labels = labels, (labels > 0.5).astype(np.uint8)
        tinted = strength > 0
        colors, alpha = _BRIGHT[1], opacity * strength[tinted, None]
    else:
        labels = labels.astype(np.uint8)
        tinted = labels > 0
        colors, alpha = _BRIGHT[labels[tinted]], opacity
    picture = frame.copy()
    picture[tinted] = np.rint((1 - alpha) * frame[tinted] + alpha * colors)
    edge = _edge(labels, round(max(frame.shape[:2]) / 500) or 1)
    inner, outer = edge & (labels > 0), edge & (labels == 0)
    picture[inner] = _BRIGHT[labels[inner]]
    picture[outer] = 0.4 * frame[outer]  # dark around bright: one of them shows on any background
    return picture


def _edge(labels: np.ndarray, width: int) -> np.ndarray:
    """[H, W] bool: within `width` pixels of another label. The picture's border is no edge."""
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * width + 1, 2 * width + 1))
    return cv2.dilate(labels, disc) != cv2.erode(labels, disc)


def thumbnail(picture: np.ndarray) -> np.ndarray:
    """The picture [H, W, 3] uint8 at the size it has on a contact sheet, its shape kept."""
    height, width = picture.shape[:2]
    scale = min(THUMBNAIL[0] / height, THUMBNAIL[1] / width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    return cv2.resize(
        picture, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    )


def contact_sheet(
    pictures: Sequence[np.ndarray], names: Sequence[str], columns: int = 4
) -> np.ndarray:
    """All pictures [H, W, 3] uint8, small and side by side, each with its name below: [H, W, 3]."""
    if not pictures:
        raise ValueError("A contact sheet needs at least one picture.")
    columns = min(columns, len(pictures))
    rows = -(-len(pictures) // columns)
    small = [thumbnail(picture) for picture in pictures]
    # Narrow pictures get room for their names.
    height, width = max(p.shape[0] for p in small), max(120, *(p.shape[1] for p in small))
    step_y, step_x = height + CAPTION + MARGIN, width + MARGIN
    sheet = Image.new("RGB", (columns * step_x + MARGIN, rows * step_y + MARGIN), PAPER)
    for i, (picture, name) in enumerate(zip(small, names, strict=True)):
        x, y = MARGIN + i % columns * step_x, MARGIN + i // columns * step_y
        centre = (width - picture.shape[1]) // 2, (height - picture.shape[0]) // 2
        sheet.paste(Image.fromarray(picture), (x + centre[0], y + centre[1]))
        sheet.paste(_caption(name, width), (x, y + height))
    return np.asarray(sheet)


def _caption(name: str, width: int) -> Image.Image:
    """The name in the middle of a strip `width` pixels wide; of a long one, the end."""
    strip = Image.new("RGB", (width, CAPTION), PAPER)
    draw, font = ImageDraw.Draw(strip), ImageFont.load_default(14)
    text = name
    while draw.textlength(text, font) > width and len(text) > 1:
        text = "…" + text.lstrip("…")[1:]
    draw.text((width / 2, CAPTION / 2), text, INK, font, anchor="mm")
    return strip
