"""Finds pictures and their masks in folders, and says all that is wrong with them at once."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from jaxvos.davis_layout import some

PICTURES = (".jpg", ".jpeg", ".png", ".bmp", ".webp")
MASKS = (".png", ".jpg", ".jpeg", ".bmp")

DUTS = {
    "train": (("DUTS-TR/DUTS-TR-Image", "DUTS-TR/DUTS-TR-Mask"), ("DUTS-TR-Image", "DUTS-TR-Mask")),
    "test": (("DUTS-TE/DUTS-TE-Image", "DUTS-TE/DUTS-TE-Mask"), ("DUTS-TE-Image", "DUTS-TE-Mask")),
}
MSRA10K = (("MSRA10K_Imgs_GT/Imgs",) * 2, ("Imgs",) * 2)
DUT_OMRON = (
    ("DUT-OMRON-image", "pixelwiseGT-new-PNG"),
    ("DUT-OMRON-image/DUT-OMRON-image", "pixelwiseGT-new-PNG/pixelwiseGT-new-PNG"),
)
PLAIN = (
    ("images", "masks"),
    ("image", "mask"),
    ("imgs", "masks"),
    ("img", "gt"),
    ("images", "gt"),
    ("JPEGImages", "Annotations"),
    ("JPEGImages", "SegmentationClass"),
    (".", "."),
)

Folders = tuple[str, str]


class Pair(NamedTuple):
    """A picture's file and that of its mask."""

    name: str
    picture: Path
    mask: Path


def find_pairs(root: Path, layouts: Sequence[Folders], *, skip_missing: bool = False) -> list[Pair]:
    """The pictures below `root` with their masks, matched by name, in the order of their names.

    Args:
        root: The folder.
        layouts: Subfolders (pictures, masks) to look for, in any capitals; the first that are both
            there and hold pictures count.
        skip_missing: Leave out pictures without a mask instead of refusing them.
    """
    if not root.is_dir():
        raise FileNotFoundError(f"{root} is not a folder.")
    files = _laid_out(root, layouts)
    if files is None:
        looked = ", ".join(f"{pictures} + {masks}" for pictures, masks in layouts)
        raise FileNotFoundError(
            f"{root} holds no pictures with masks. Looked for these folders: {looked} "
            "(a folder that holds both: NAME.jpg with NAME.png)."
        )
    return _matched(*files, skip_missing)


def has_layout(root: Path, layouts: Sequence[Folders]) -> bool:
    """Whether `find_pairs` finds any pictures and masks below `root`, matching or not."""
    return root.is_dir() and _laid_out(root, layouts) is not None


def check_pairs(pairs: Iterable[Pair]) -> None:
    """Raises a ValueError that lists every pair that cannot be read or whose sizes differ.

    Only the headers of the files are read.
    """
    broken, differing = [], []
    for pair in pairs:
        sizes = []
        for path in (pair.picture, pair.mask):
            try:
                with Image.open(path) as image:
                    sizes.append(image.size)
            except (OSError, SyntaxError, ValueError):
                broken.append(path)
        if len(sizes) == 2 and sizes[0] != sizes[1]:
            (w, h), (mask_w, mask_h) = sizes
            differing.append(f"{pair.picture} is {w} x {h}, {pair.mask} is {mask_w} x {mask_h}")
    problems = []
    if broken:
        problems.append(f"{len(broken)} files are no pictures: {some(broken)}.")
    if differing:
        problems.append(f"{len(differing)} masks are of another size: {some(differing)}.")
    if problems:
        raise ValueError("\n".join(problems))


def check_count(what: str, found: int, official: int, *, partial: bool) -> None:
    """Refuses a data set that is not complete, unless it may be `partial`."""
    if found != official and not partial:
        raise ValueError(
            f"Found {found} {what}, but the data set has {official}. Is the download complete? "
            "To go on with what is there, pass --partial (partial=True)."
        )


def _laid_out(
    root: Path, layouts: Sequence[Folders]
) -> tuple[dict[str, Path], dict[str, Path]] | None:
    """The pictures and the masks in the first of `layouts` that is there, each by its name."""
    for layout in layouts:
        folder, masks_folder = (_subfolder(root, name) for name in layout)
        if folder is None or masks_folder is None:
            continue
        shared = folder == masks_folder
        pictures = _by_stem(folder, (".jpg", ".jpeg") if shared else PICTURES)
        masks = _by_stem(masks_folder, (".png",) if shared else MASKS)
        if pictures and masks:
            return pictures, masks
    return None


def _subfolder(root: Path, name: str) -> Path | None:
    """The folder `name` ("a/b", in any capitals; "." is root itself) below `root`, or None."""
    folder = root
    for part in Path(name).parts:
        wanted = part.lower()
        matches = [p for p in folder.iterdir() if p.name.lower() == wanted and p.is_dir()]
        if not matches:
            return None
        folder = min(matches, key=lambda path: (path.name != part, path.name))
    return folder


def _by_stem(folder: Path, suffixes: Sequence[str]) -> dict[str, Path]:
    """The files of a folder with one of the endings, by name without it; earlier endings win."""
    found: dict[str, Path] = {}
    files = [path for path in folder.iterdir() if path.suffix.lower() in suffixes]
    for path in sorted(files, key=lambda p: suffixes.index(p.suffix.lower()), reverse=True):
        if not path.name.startswith("."):
            found[path.stem] = path
    return found


def _matched(pictures: dict[str, Path], masks: dict[str, Path], skip_missing: bool) -> list[Pair]:
    bare = [pictures[name] for name in sorted(pictures.keys() - masks.keys())]
    strays = [masks[name] for name in sorted(masks.keys() - pictures.keys())]
    names = sorted(pictures.keys() & masks.keys())
    problems = []
    if bare:
        problems.append(f"{len(bare)} pictures have no mask: {some(bare)}.")
    if strays:
        problems.append(f"{len(strays)} masks have no picture: {some(strays)}.")
    if problems and not (skip_missing and names):
        raise ValueError("\n".join(problems))
    return [Pair(name, pictures[name], masks[name]) for name in names]
