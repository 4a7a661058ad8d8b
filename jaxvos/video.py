"""Any video - a file, a folder, a glob, a picture - as a `Video`; masks read and written."""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from glob import glob, has_magic
from operator import index
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from jaxvos.drawing import davis_palette
from jaxvos.film import Film, kept_pictures
from jaxvos.typing import Video
from jaxvos.whole_file import whole_file

PICTURES = {".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".ppm", ".pgm"}
ORIENTATION = 0x0112  # the EXIF tag; 5 to 8 are the quarter turns


def open_video(source: str | Path | Sequence[str | Path]) -> Video:
    """The video that `source` names; its frames are decoded when they are indexed.

    `video.frames` is a `Film` or `Pictures`: pictures [H, W, 3] uint8 RGB, with `names`, `rate`,
    `size` and `files` as attributes.

    Args:
        source: A video file (mp4, mov, avi, webm, mkv, ...); a picture; a folder of pictures or a
            glob such as "frames/*.jpg", both sorted with the numbers in names taken as numbers
            (frame2 before frame10); or a sequence of pictures' paths, taken in its own order.
    """
    if not isinstance(source, str | Path):
        files = [Path(file).expanduser() for file in source]
        if not files:
            raise ValueError("No frames: the sequence of paths is empty.")
        return Video(Pictures(files), name=files[0].resolve().parent.name)
    path = Path(source).expanduser()
    if path.is_dir():
        return Video(Pictures(_pictures_in(path)), name=path.resolve().name or "video")
    if has_magic(str(path)) and not path.exists():
        files = [Path(file) for file in glob(str(path), recursive=True)]
        files = sorted(filter(Path.is_file, files), key=natural_key)
        if not files:
            raise FileNotFoundError(f"No file matches {path}.")
        if len(files) > 1:
            return Video(Pictures(files), name=files[0].resolve().parent.name)
        path = files[0]
    if not path.exists():
        raise FileNotFoundError(f"There is no {path}: give a video file, a folder or a glob.")
    frames = Pictures([path]) if path.suffix.lower() in PICTURES else Film(path)
    return Video(frames, name=path.stem)


def natural_key(path: str | Path) -> list[list[tuple[str, int]]]:
    """A sort key that takes the numbers in a path for numbers: frame2 before frame10."""

    def pieces(part: str) -> list[tuple[str, int]]:
        texts = re.split(r"([0-9]+)", part)
        numbers = [*map(int, texts[1::2]), -1]
        # The untouched name breaks ties such as 01 and 1.
        return [*zip(map(str.casefold, texts[::2]), numbers, strict=True), (part, -1)]

    return [pieces(part) for part in Path(path).parts]


def _pictures_in(folder: Path) -> list[Path]:
    """The pictures directly in the folder, in natural order; hidden files are passed over."""
    files = [file for file in folder.iterdir() if not file.name.startswith(".")]
    pictures = [file for file in files if file.suffix.lower() in PICTURES and file.is_file()]
    if not pictures:
        seen = ", ".join(sorted(file.name for file in files)[:5]) or "nothing"
        kinds = " ".join(sorted(PICTURES))
        raise ValueError(f"No pictures in {folder} ({kinds}); it holds {seen}.")
    return sorted(pictures, key=natural_key)


class Pictures(Sequence[np.ndarray]):
    """Picture files as frames: `pictures[t]` is frame t, [H, W, 3] uint8 RGB, upright, read-only.

    Attributes:
        files: The files, in order.
        names: Their names without suffix: what the frames are called. No two are alike.
        rate: None: pictures have no frame rate.
        size: (H, W) in pixels, the same for all; read from the files' headers when they are opened.
    """

    def __init__(self, files: Sequence[Path]) -> None:
        self.files = list(files)
        self.names = [file.stem for file in self.files]
        self.rate = None
        first_of: dict[str, Path] = {}
        for file, name in zip(self.files, self.names, strict=True):
            if first_of.setdefault(name, file) is not file:
                raise ValueError(
                    f"{first_of[name]} and {file} would both be the frame {name!r}. "
                    "Choose with a glob, such as 'folder/*.jpg'."
                )
        self.size = _size(self.files[0])
        for file in self.files[1:]:
            if (size := _size(file)) != self.size:
                raise ValueError(
                    f"The frames of a video are of one size, but {self.files[0]} is "
                    f"{self.size[1]} x {self.size[0]} and {file} is {size[1]} x {size[0]}."
                )
        self._read = lru_cache(maxsize=kept_pictures(self.size))(self._decode)

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, t: int | slice) -> np.ndarray | list[np.ndarray]:
        if isinstance(t, slice):
            return [self[i] for i in range(*t.indices(len(self)))]
        number = index(t)
        if not -len(self) <= number < len(self):
            raise IndexError(f"There are {len(self)} frames, no frame {number}.")
        return self._read(number % len(self))

    def _decode(self, number: int) -> np.ndarray:
        picture = read_picture(self.files[number])
        if picture.shape[:2] != self.size:
            raise ValueError(
                f"{self.files[number]} is {picture.shape[1]} x {picture.shape[0]}, which is not "
                f"what its header said: {self.size[1]} x {self.size[0]}."
            )
        picture.flags.writeable = False  # it may be handed out again
        return picture


def read_picture(path: str | Path) -> np.ndarray:
    """The picture [H, W, 3] uint8 RGB, turned as its EXIF orientation says.

    Grey becomes three equal channels, 16 bits become the upper 8, transparency is left out.
    """
    with _opened(path) as image:
        image.load()
        if _orientation(image) != 1:
            image = ImageOps.exif_transpose(image)
        if image.mode.startswith("I;16"):
            gray = (np.asarray(image) >> 8).astype(np.uint8)
            return np.repeat(gray[..., None], 3, axis=-1)
        if image.mode in ("I", "F"):
            raise ValueError(f"mode {image.mode!r} has no defined white; save it as 8 or 16 bit")
        if image.mode == "P":  # Pillow asks for this way round where the palette has transparency
            image = image.convert("RGBA")
        return np.array(image.convert("RGB"))


def read_mask(path: str | Path) -> np.ndarray:
    """The labels [H, W] uint8 of a mask: a palette's indices, or the values of a grey file."""
    with _opened(path) as image:
        if image.mode not in ("P", "L", "1"):
            raise ValueError(f"a mask has one channel of labels, this is mode {image.mode!r}")
        return np.array(image, np.uint8)


def write_mask(path: str | Path, labels: np.ndarray) -> None:
    """Writes labels [H, W] of 0 to 255 as an indexed PNG with the DAVIS palette, or nothing."""
    labels = np.asarray(labels)
    if labels.ndim != 2 or labels.dtype.kind not in "bui":
        raise ValueError(
            f"A mask is [H, W] integers; got {labels.dtype} {labels.shape} for {path}."
        )
    if labels.size and not 0 <= labels.min() <= labels.max() <= 255:
        raise ValueError(f"Labels are 0 to 255; {path} has {labels.min()} to {labels.max()}.")
    image = Image.fromarray(labels.astype(np.uint8))
    image.putpalette(davis_palette().tobytes())
    write_png(path, image)


def write_png(path: str | Path, image: Image.Image) -> None:
    """Writes a PNG file, whole or not at all."""
    with whole_file(path) as partial:
        image.save(partial, "PNG")


def _size(path: Path) -> tuple[int, int]:
    """(H, W) of a picture as `read_picture` gives it, from the file's header."""
    with _opened(path) as image:
        width, height = image.size
        return (width, height) if _orientation(image) >= 5 else (height, width)


def _orientation(image: Image.Image) -> int:
    """How the EXIF header says the picture is turned; 1 for upright."""
    # Asking a PNG that has no such header makes Pillow decode all of it in search of a late one.
    if image.format == "PNG" and "exif" not in image.info:
        return 1
    return image.getexif().get(ORIENTATION, 1)


@contextmanager
def _opened(path: str | Path) -> Iterator[Image.Image]:
    """The picture file, open; what Pillow says against it becomes a ValueError that names it."""
    try:
        with Image.open(path) as image:
            yield image
    except (FileNotFoundError, PermissionError, IsADirectoryError):
        raise  # these name the file themselves
    except (OSError, SyntaxError, EOFError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(f"{path} cannot be read as a picture: {error}.") from error
