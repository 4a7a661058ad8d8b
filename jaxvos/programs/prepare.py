"""Makes a data set ready for training from the folder that was downloaded: `jaxvos prepare`."""

import contextlib
import io
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import tensorflow_datasets as tfds


def prepare(
    name: str,
    source: str | Path | None = None,
    *,
    data_dir: str | Path | None = None,
    partial: bool = False,
    progress: bool = True,
) -> Path:
    """Writes the data set `name` below `data_dir` and returns its folder; prints what it holds.

    A data set that is there already is left as it is. One that is found to be incomplete, broken
    or of another layout is refused before anything is written.

    Args:
        name: davis/2016, davis/2017, youtube_vos, fbms, youtube_objects, chairs (FlyingChairs),
            things (FlyingThings3D), fixations, duts, msra10k, dut_omron; or procedural/motion
            (procedural for short) or procedural/salient, which need no source.
        source: The folder that the downloaded archives were unpacked to.
        data_dir: Where prepared data sets are kept; by default TFDS_DATA_DIR if that is set, else
            ~/tensorflow_datasets.
        partial: Take what there is, whatever the official counts.
        progress: Show bars.
    """
    # TFDS takes its time to import.
    import tensorflow_datasets as tfds

    from data_pipelines import builders

    name = "procedural/motion" if name == "procedural" else name
    builder = builders.builder(name, data_dir)
    if builder.is_prepared():
        print(f"{name} is prepared already; to make it anew, remove {builder.data_dir}.")
        return Path(builder.data_dir)
    download = None
    if not name.startswith("procedural/"):
        download = tfds.download.DownloadConfig(manual_dir=_folder(name, source))
        builder.allow_partial = partial
    elif source is not None:
        raise ValueError(f"{name} is made up: it takes nothing from {source}.")
    tfds.display_progress_bar(progress)
    with contextlib.redirect_stdout(io.StringIO()):  # the bars are on stderr
        builder.download_and_prepare(download_config=download, file_format="array_record")
    print(_summary(name, builder))
    return Path(builder.data_dir)


def _folder(name: str, source: str | Path | None) -> Path:
    """The folder to read, as an absolute path: TFDS takes others for its own."""
    if source is None:
        raise ValueError(f"{name} is made from what you downloaded: say where it is with --from.")
    folder = Path(source).expanduser().resolve()
    if not folder.is_dir():
        raise FileNotFoundError(f"{source} is not a folder.")
    return folder


def _summary(name: str, builder: "tfds.core.DatasetBuilder") -> str:
    """What was prepared, for people."""
    metadata, lines = builder.info.metadata, [f"{name} is ready in {builder.data_dir}"]
    for split, info in builder.info.splits.items():
        size = f"{info.num_bytes / 2**20:.1f} MiB"
        if "videos" in metadata:
            videos = len(metadata["videos"][split])
            lines.append(f"  {split}: {videos} videos, {info.num_examples} frames, {size}")
        else:
            lines.append(f"  {split}: {info.num_examples} pictures, {size}")
    if metadata["partial"]:
        lines.append("  partial: not compared with the official counts")
    return "\n".join(lines)
