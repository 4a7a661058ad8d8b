"""Commands for videos: what is in them, and how it moves."""

from pathlib import Path
from typing import Annotated

import typer

from jaxvos.cli.options import (
    Changes,
    Flow,
    Objects,
    Overwrite,
    Quiet,
    Smooth,
    Source,
    SystemName,
    Threshold,
    Weights,
    options_of,
)


def demo(
    out: Annotated[Path, typer.Option(help="Folder for the results.")] = Path("jaxvos-demo"),
    steps: Annotated[int, typer.Option(help="Training steps.")] = 0,
    overwrite: Overwrite = False,
) -> None:
    """Train a small COSNet on made-up video, segment and score unseen clips; needs no data."""
    from jaxvos.programs.demo import demo

    demo(out, steps=steps, overwrite=overwrite)


def segment(
    source: Source,
    out: Annotated[Path, typer.Option(help="Folder for masks, overlay.mp4, sheet.png.")],
    weights: Weights = None,
    system: SystemName = None,
    threshold: Threshold = 0.5,
    smooth: Smooth = False,
    crf: Annotated[
        str | None, typer.Option(help="Settings of a dense CRF: pdb, cosnet, ags, matnet, ...")
    ] = None,
    objects: Objects = False,
    proposals: Annotated[
        Path | None,
        typer.Option(help="Folder of FRAME.png or .json: what the objects are."),
    ] = None,
    flow: Flow = None,
    fast: Annotated[
        bool,
        typer.Option("--fast", help="With the library's own weights: in half the time."),
    ] = False,
    formats: Annotated[
        str, typer.Option("--format", help="Masks as png, rle, coco, mp4; several with commas.")
    ] = "png",
    scores: Annotated[bool, typer.Option("--scores", help="Write soft maps too.")] = False,
    overwrite: Overwrite = False,
    changes: Changes = None,
    quiet: Quiet = False,
) -> None:
    """Segment a video: masks, a film with the masks laid over it, a contact sheet, a summary."""
    from jaxvos.programs.segment import segment_to_folder

    summary = segment_to_folder(
        source,
        out,
        system=system,
        weights=weights,
        options=(options_of(changes) or {}) | ({"fast": True} if fast else {}),
        smooth=smooth,
        crf=crf,
        objects=objects,
        proposals=proposals,
        flow=flow,
        formats=formats,
        threshold=threshold,
        scores=scores,
        overwrite=overwrite,
        progress=not quiet,
    )
    share = summary["foreground"]["mean"]
    print(
        f"{summary['frames']} frames in {summary['seconds']:.1f} s, foreground {share:.1%} of the "
        f"picture on average. Look at {out / 'overlay.mp4'} and {out / 'sheet.png'}."
    )
    for sentence in summary["doubts"]:
        print(sentence)
    empty = summary["frames_without_foreground"]
    if 0 < len(empty) < summary["frames"]:
        print(
            f"Nothing was found in {len(empty)} of the frames; {out / 'summary.json'} names them."
        )


def flow(
    source: Source,
    out: Annotated[Path, typer.Option(help="Folder for FRAME.flo and flow.json.")],
    method: Annotated[
        str, typer.Option(help="How: dis, raft:WEIGHTS or flownet2_c:WEIGHTS.")
    ] = "dis",
    gap: Annotated[int, typer.Option(help="Frames from one to the other.")] = 1,
    backward: Annotated[
        bool, typer.Option("--backward", help="To the frame before, not after.")
    ] = False,
    form: Annotated[
        str, typer.Option("--format", help="flo, npy, png (KITTI's), or wheel: pictures.")
    ] = "flo",
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> None:
    """Optical flow of a video as files; a second run computes only what is missing."""
    from jaxvos.programs.flow import flow

    counts = flow(
        source,
        out,
        method=method,
        gap=gap,
        backward=backward,
        form=form,
        overwrite=overwrite,
        progress=not quiet,
    )
    print(f"{counts['computed']} files computed, {counts['kept']} were there, in {out}.")
