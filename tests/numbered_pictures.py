"""Pictures that tell which one they are, for tests of reading and writing them."""

import numpy as np
from PIL import Image

H, W, STEP = 48, 64, 8


def numbered(number, height=H, width=W):
    """A picture whose brightness tells its number, with some texture so that codecs have work."""
    picture = np.full((height, width, 3), 20 + STEP * number, np.float64)
    picture += 3 * np.random.default_rng(number).standard_normal(picture.shape)
    return picture.clip(0, 255).astype(np.uint8)


def number_of(picture):
    return round((picture.astype(float).mean() - 20) / STEP)


def save(path, array, **options):
    path.parent.mkdir(exist_ok=True)
    Image.fromarray(array).save(path, **options)
    return path
