"""Any video is read frame for frame, or it is said which file is wrong and how."""

import os
import struct
import tempfile
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from jaxvos import film
from jaxvos.film_writer import write_video
from jaxvos.video import open_video
from tests.numbered_pictures import H, W, number_of, numbered


def encode(path, codec="libx264", frames=24, pts=None, pixels="yuv420p", size=(H, W), **options):
    muxer = {"movflags": "+faststart"} if path.suffix in {".mp4", ".mov"} else {}
    with av.open(str(path), "w", options=muxer) as container:
        stream = container.add_stream(codec, rate=25, options=options)
        stream.height, stream.width, stream.pix_fmt = *size, pixels
        stream.codec_context.time_base = unit = Fraction(1, 100 if pts else 25)
        for t in range(frames):
            frame = av.VideoFrame.from_ndarray(numbered(t, *size), format="rgb24")
            frame.pts, frame.time_base = pts[t] if pts else t, unit
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


KINDS = {
    "h264 with B-frames": ("a.mp4", {"g": "7", "bf": "3"}),
    "h264 in mov": ("a.mov", {"g": "5"}),
    "open groups of pictures": ("a.mkv", {"g": "6", "bf": "2", "x264-params": "open-gop=1"}),
    "intra refresh": ("a.mp4", {"x264-params": "intra-refresh=1:keyint=8"}),
    "every frame a keyframe": ("a.mp4", {"g": "1"}),
    "variable rate": ("a.mp4", {"g": "7", "pts": [t * t + t for t in range(24)]}),
    "vp9": ("a.webm", {"codec": "libvpx-vp9", "g": "8", "deadline": "realtime"}),
    "vp8": ("a.webm", {"codec": "libvpx", "g": "8"}),
    "mpeg4 in avi": ("a.avi", {"codec": "mpeg4", "g": "6", "bf": "2", "b": "2M"}),
    "h264 in avi": ("a.avi", {"g": "7", "bf": "2"}),
    "transport stream": ("a.ts", {"g": "7", "bf": "2"}),
    "avi with frames left out": (
        "a.avi",
        {"codec": "mpeg4", "bf": "0", "pts": [3 * t for t in range(24)]},
    ),
    "motion jpeg": ("a.avi", {"codec": "mjpeg", "pixels": "yuvj420p"}),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_frame_is_found_in_any_order(kind, tmp_path):
    name, options = KINDS[kind]
    path = encode(tmp_path / name, **options)
    in_order = [picture.copy() for picture in open_video(path).frames]
    assert [number_of(picture) for picture in in_order] == list(range(24))
    frames = open_video(path).frames
    jumps = np.random.default_rng(1).permutation(24).tolist()
    for t in [*jumps, 23, 0, 23, 22, 21, 1, -1]:
        np.testing.assert_array_equal(frames[t], in_order[t], err_msg=f"frame {t}")


def test_a_film_has_names_rate_size_and_slices(tmp_path):
    video = open_video(str(encode(tmp_path / "clip.mp4", frames=12)))
    frames = video.frames
    assert video.name == "clip" and len(frames) == 12
    assert (frames.rate, frames.size, frames.files) == (25.0, (H, W), [tmp_path / "clip.mp4"])
    assert frames.names[:2] == ["00000", "00001"] and frames.names[-1] == "00011"
    assert [number_of(p) for p in frames[2:9:3]] == [2, 5, 8]
    assert frames[0].dtype == np.uint8 and not frames[0].flags.writeable
    with pytest.raises(IndexError, match="12 frames, no frame 12"):
        frames[12]


def test_reading_in_order_never_goes_back_even_behind_a_reader_that_runs_ahead(
    tmp_path, monkeypatch
):
    frames = open_video(encode(tmp_path / "clip.mp4", g="4")).frames
    moves = []
    seek, rewind = film._Decoder.seek, film._Decoder.rewind
    monkeypatch.setattr(film._Decoder, "seek", lambda *a: (moves.append("seek"), seek(*a)))
    monkeypatch.setattr(film._Decoder, "rewind", lambda d: (moves.append("rewind"), rewind(d)))
    frames._read.cache_clear()
    monkeypatch.setattr(frames, "_read", frames._decode)  # nothing at hand: each must be decoded
    for ahead in range(6, 24):
        assert number_of(frames[ahead]) == ahead
        assert number_of(frames[ahead - 6]) == ahead - 6
    # The first one goes ahead by a seek; the second decoder is opened once, at the start.
    assert len(moves) <= 4


def test_a_jump_decodes_from_the_keyframe_before_it(tmp_path, monkeypatch):
    options = {"x264-params": "keyint=6:min-keyint=6:scenecut=0"}
    frames = open_video(encode(tmp_path / "clip.mp4", **options)).frames
    decoded = []
    numbers = film._Decoder.__iter__
    monkeypatch.setattr(
        film._Decoder, "__iter__", lambda d: (decoded.append(x[0]) or x for x in numbers(d))
    )
    for t in (1, 21, 15, 3):
        assert number_of(frames[t]) == t
    assert decoded == [1, 18, 19, 20, 21, 12, 13, 14, 15, 0, 1, 2, 3]


@pytest.mark.parametrize("kind", ["open groups of pictures", "h264 with B-frames"])
def test_a_seek_that_comes_down_on_a_later_keyframe_is_noticed(kind, tmp_path, monkeypatch):
    name, options = KINDS[kind]
    path = encode(tmp_path / name, **options)
    in_order = [picture.copy() for picture in open_video(path).frames]
    frames = open_video(path).frames
    keys, times, seek = frames._index.keys, frames._index.times, film._Decoder.seek
    assert len(keys) > 3
    later = {key: times[after] for key, after in zip(keys, [*keys[1:], keys[-1]], strict=True)}
    monkeypatch.setattr(film._Decoder, "seek", lambda d, time, key: seek(d, later[key], key))
    for t in np.random.default_rng(1).permutation(24).tolist():
        np.testing.assert_array_equal(frames[t], in_order[t], err_msg=f"frame {t}")


def test_packets_that_show_nothing_are_no_frames(tmp_path):
    """VP8 keeps pictures that only others build on; their packets look like any other."""
    whole, hidden = encode(tmp_path / "whole.webm", "libvpx"), tmp_path / "hidden.webm"
    with av.open(str(whole)) as source, av.open(str(hidden), "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for number, packet in enumerate(p for p in source.demux(video=0) if p.size):
            data = bytearray(bytes(packet))
            data[0] &= ~0x10 if number == 5 else 0xFF  # the show_frame bit
            copy = av.Packet(bytes(data))
            copy.pts, copy.dts, copy.time_base = packet.pts, packet.dts, packet.time_base
            copy.is_keyframe, copy.stream = packet.is_keyframe, stream
            target.mux(copy)
    numbers = [number_of(picture) for picture in open_video(hidden).frames]
    assert numbers == [t for t in range(24) if t != 5]


def test_few_decoded_pictures_are_kept_whatever_the_length(tmp_path, monkeypatch):
    assert film.kept_pictures((10, 10)) == 16 and film.kept_pictures((8000, 8000)) == 2
    frames = open_video(encode(tmp_path / "clip.mp4")).frames
    list(frames)
    assert frames._read.cache_info().currsize == 16
    frames[20]
    assert frames._read.cache_info().hits == 1


TURNS = {  # the matrix (a, b, c, d) of a QuickTime track header, and what it does to a picture
    "upright": ((1, 0, 0, 1), lambda p: p),
    "quarter turn clockwise": ((0, 1, -1, 0), lambda p: np.rot90(p, -1)),
    "half turn": ((-1, 0, 0, -1), lambda p: np.rot90(p, 2)),
    "quarter turn counter-clockwise": ((0, -1, 1, 0), lambda p: np.rot90(p, 1)),
    "mirrored": ((-1, 0, 0, 1), lambda p: p[:, ::-1]),
    "upside down": ((1, 0, 0, -1), lambda p: p[::-1]),
    "transposed": ((0, 1, 1, 0), lambda p: p.swapaxes(0, 1)),
    "transposed along the other diagonal": (
        (0, -1, -1, 0),
        lambda p: np.rot90(p, 2).swapaxes(0, 1),
    ),
}


@pytest.mark.parametrize("turn", TURNS)
def test_phone_videos_are_turned_upright(turn, tmp_path):
    (a, b, c, d), turned = TURNS[turn]
    picture = np.zeros((H, W, 3), np.uint8)
    picture[: H // 2, : W // 2] = 255, 0, 0
    picture[H // 2 :, : W // 2] = 0, 255, 0
    path = tmp_path / "phone.mov"
    write_video(path, [picture] * 3, 25, crf=1)
    one, whole = 1 << 16, path.read_bytes()
    upright = struct.pack(">9i", one, 0, 0, 0, one, 0, 0, 0, 1 << 30)
    matrix = struct.pack(">9i", a * one, b * one, 0, c * one, d * one, 0, 0, 0, 1 << 30)
    track = whole.index(b"tkhd")
    assert whole.index(upright, track) < track + 64
    path.write_bytes(whole[:track] + whole[track:].replace(upright, matrix, 1))

    frames = open_video(path).frames
    expected = turned(picture)
    assert frames.size == expected.shape[:2]
    assert np.abs(frames[1].astype(int) - expected).mean() < 4


def test_frames_before_the_cut_of_an_edited_mp4_are_no_frames(tmp_path):
    """A trimmed phone video keeps frames before the cut for decoding; an edit list hides them."""
    whole, trimmed = encode(tmp_path / "whole.mp4", bf="0"), tmp_path / "trimmed.mp4"
    options = {"avoid_negative_ts": "disabled"}
    with av.open(str(whole)) as source, av.open(str(trimmed), "w", options=options) as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.size:
                shift = int(10 / 25 / packet.time_base)
                packet.pts, packet.dts = packet.pts - shift, packet.dts - shift
                packet.stream = stream
                target.mux(packet)
    assert [number_of(picture) for picture in open_video(trimmed).frames] == list(range(10, 24))


@pytest.mark.parametrize("name, codec", [("a.mp4", "libx264"), ("a.mkv", "libx264"),
                                         ("a.webm", "libvpx-vp9"), ("a.avi", "mpeg4")])  # fmt: skip
def test_of_a_video_cut_short_what_is_there_is_read_and_said(name, codec, tmp_path):
    path = encode(tmp_path / name, codec, g="4")
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) * 3 // 4])
    with pytest.warns(UserWarning, match=rf"{name} is cut short: \d+ frames of about 24 can be"):
        frames = open_video(path).frames
    assert 5 < len(frames) < 24
    numbers = [number_of(picture) for picture in frames[: len(frames) - 1]]
    assert numbers == list(range(len(frames) - 1))
    assert number_of(frames[3]) == 3  # backwards too


def test_a_video_without_its_table_of_contents_is_named(tmp_path):
    path = encode(tmp_path / "cut.mp4")
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(ValueError, match=r"cut\.mp4 has no video .* table of contents is missing"):
        open_video(path)


def test_a_damaged_packet_is_an_error_that_names_the_frame_or_leaves_the_rest_readable(tmp_path):
    path = encode(tmp_path / "hurt.mkv", "mjpeg", pixels="yuvj420p")
    whole = path.read_bytes()
    starts = [at for at in range(len(whole)) if whole.startswith(b"\xff\xd8\xff", at)]
    assert len(starts) == 24
    path.write_bytes(
        whole[: starts[7]] + bytes(starts[8] - starts[7] - 60) + whole[starts[8] - 60 :]
    )
    frames = open_video(path).frames
    assert number_of(frames[6]) == 6
    with pytest.raises(ValueError, match=r"hurt\.mkv: frame 7 cannot be decoded"):
        frames[7]
    assert number_of(frames[8]) == 8


def test_grey_odd_and_tiny_films(tmp_path):
    grey = open_video(encode(tmp_path / "grey.mkv", "ffv1", 3, pixels="gray")).frames
    assert grey[2].shape == (H, W, 3) and number_of(grey[2]) == 2
    odd = open_video(encode(tmp_path / "odd.mp4", size=(37, 51), pixels="yuv444p")).frames
    assert odd.size == odd[5].shape[:2] == (37, 51) and number_of(odd[5]) == 5
    tiny = open_video(encode(tmp_path / "tiny.mkv", "ffv1", 1, size=(1, 1), pixels="bgr0")).frames
    assert len(tiny) == 1 and tiny[0].shape == (1, 1, 3)


@pytest.mark.parametrize("name", ["text.mp4", "text.txt", "text.srt", "empty.mp4"])
def test_what_is_no_video_is_named(name, tmp_path):
    text = "" if name == "empty.mp4" else "1\n00:00:01,000 --> 00:00:02,000\nhello\n"
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=name):
        open_video(tmp_path / name)


def test_what_is_not_there_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no .*away\.mp4"):
        open_video(tmp_path / "away.mp4")
    with pytest.raises(FileNotFoundError, match=r"No file matches .*\*\.jpg"):
        open_video(tmp_path / "*.jpg")
    with pytest.raises(ValueError, match="empty"):
        open_video([])
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"No pictures in .*empty .*holds nothing"):
        open_video(tmp_path / "empty")
    (tmp_path / "clip.mp4").touch()
    with pytest.raises(ValueError, match=r"holds clip\.mp4, empty"):
        open_video(tmp_path)


@pytest.mark.parametrize("name", ["clip.mp4", "00000.png"])
def test_no_read_permission_is_named(name):
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        path = Path(folder) / name
        path.write_bytes(b"secret")
        path.chmod(0)
        user = os.geteuid()
        try:
            if user == 0:  # root may read anything, nobody may not
                os.seteuid(65534)
            with pytest.raises(PermissionError, match=name):
                open_video(path)
        finally:
            os.seteuid(user)
