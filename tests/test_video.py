"""Videos in and out: frames, times, sizes, the way up, what browsers play."""

import struct
import sys
from fractions import Fraction

import cv2
import numpy as np
import pytest

from knet.errors import DatasetError, UsageError
from knet.predictor import Prediction
from knet.video import Frame, VideoReader, camera_frames, predict_frames, write_video

av = pytest.importorskip("av", reason="PyAV is not installed")


def picture(i: int, size=(48, 64)) -> np.ndarray:
    """Grey, with a bright bar that moves to the right; the upper left quarter is red."""
    image = np.full((*size, 3), 60, np.uint8)
    image[:, 4 * i : 4 * i + 8] = 230
    image[: size[0] // 2, : size[1] // 2] = (220, 20, 20)
    return image


def frames(count=6, size=(48, 64), rate=25):
    return [Frame(picture(i, size), Fraction(i) / rate) for i in range(count)]


def read(path):
    with VideoReader(str(path)) as reader:
        return list(reader)


@pytest.mark.parametrize("ending, codec", [(".mp4", "h264"), (".webm", "vp9")])
@pytest.mark.parametrize("size", [(48, 64), (47, 65), (1, 1)])
def test_what_is_written_is_read_again(tmp_path, ending, codec, size):
    path = tmp_path / f"video{ending}"
    made = frames(size=size)
    assert write_video(str(path), iter(made)) == 6
    with av.open(str(path)) as file:
        stream = file.streams.video[0]
        assert stream.codec_context.name == codec and stream.format.name == "yuv420p"
        assert (stream.height % 2, stream.width % 2) == (0, 0)
    found = read(path)
    assert [f.time for f in found] == pytest.approx([f.time for f in made], abs=0.002)
    for ours, theirs in zip(found, made):
        cut = ours.image[: size[0], : size[1]].astype(int)
        if size != (1, 1):  # colours are kept for blocks of pixels
            assert np.abs(cut - theirs.image).mean() < 8


@pytest.mark.parametrize("rate", [Fraction(30000, 1001), Fraction(10), Fraction(60)])
@pytest.mark.parametrize("ending", [".mp4", ".webm"])
def test_the_frame_rate_is_kept(tmp_path, rate, ending):
    path = tmp_path / f"video{ending}"
    write_video(str(path), frames(rate=rate), rate)
    with VideoReader(str(path)) as reader:
        assert float(reader.rate) == pytest.approx(float(rate), rel=1e-3)
        assert reader.num_frames in (6, 0)
    if ending == ".mp4":
        capture = cv2.VideoCapture(str(path))
        assert capture.get(cv2.CAP_PROP_FPS) == pytest.approx(float(rate), rel=1e-3)
        assert capture.get(cv2.CAP_PROP_FRAME_COUNT) == 6


def test_frames_that_come_at_any_times_keep_them(tmp_path):
    times = [Fraction(t, 100) for t in (0, 4, 5, 30, 30, 90)]  # one time twice
    path = str(tmp_path / "video.mp4")
    write_video(path, [Frame(picture(i), t) for i, t in enumerate(times)])
    found = [f.time for f in read(path)]
    assert found == pytest.approx(times, abs=1e-4) and found == sorted(set(found))


def turned(content: bytes, degrees: int) -> bytes:
    """An mp4 with the matrix in its track header that says how the camera was held."""
    cos, sin = {90: (0, 1), 180: (-1, 0), 270: (0, -1)}[degrees]
    place = content.index(b"tkhd") + 4 + 40
    identity = struct.pack(">9i", 1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30)
    assert content[place : place + 36] == identity
    matrix = (cos << 16, sin << 16, 0, -sin << 16, cos << 16, 0, 0, 0, 1 << 30)
    return content[:place] + struct.pack(">9i", *matrix) + content[place + 36 :]


@pytest.mark.parametrize("degrees", [90, 180, 270])
def test_a_video_of_a_camera_that_was_turned_is_upright(tmp_path, degrees):
    path = tmp_path / "video.mp4"
    write_video(str(path), frames())
    path.write_bytes(turned(path.read_bytes(), degrees))
    capture = cv2.VideoCapture(str(path))
    capture.set(cv2.CAP_PROP_ORIENTATION_AUTO, 1)
    for frame in read(path):
        expected = cv2.cvtColor(capture.read()[1], cv2.COLOR_BGR2RGB).astype(int)
        assert frame.image.shape == expected.shape
        assert np.abs(frame.image - expected).mean() < 3
    assert frame.image.shape[:2] == ((48, 64) if degrees == 180 else (64, 48))


def test_frames_of_another_size_are_resized_to_the_first(tmp_path):
    path = str(tmp_path / "video.mp4")
    write_video(path, [*frames(2), *frames(2, size=(24, 32))])
    assert [f.image.shape for f in read(path)] == [(48, 64, 3)] * 4


def test_no_half_video_is_left(tmp_path):
    def broken():
        yield from frames(3)
        raise DatasetError("the third frame")

    with pytest.raises(DatasetError, match="third"):
        write_video(str(tmp_path / "video.mp4"), broken())
    with pytest.raises(DatasetError, match="had no frame"):
        write_video(str(tmp_path / "video.mp4"), [])
    assert list(tmp_path.iterdir()) == []


def test_a_video_that_was_there_stays_until_the_new_one_is_whole(tmp_path):
    path = tmp_path / "video.mp4"
    path.write_text("the old one")

    def looking():
        for frame in frames():
            assert path.read_text() == "the old one"
            yield frame

    write_video(str(path), looking())
    assert len(read(path)) == 6


def test_what_is_no_video_is_told_in_a_sentence(tmp_path):
    text = tmp_path / "video.mp4"
    text.write_text("no video")
    with pytest.raises(DatasetError, match=r"cannot read the video .*video\.mp4: invalid data"):
        VideoReader(str(text))
    with pytest.raises(DatasetError, match=r"cannot read the video .*: no such file"):
        VideoReader(str(tmp_path / "none.mp4"))


def test_a_video_that_is_cut_off_is_told(tmp_path):
    whole, cut = tmp_path / "whole.mp4", tmp_path / "cut.mp4"
    noise = np.random.default_rng(0).integers(0, 256, (20, 64, 64, 3), np.uint8)
    write_video(str(whole), [Frame(image, Fraction(i, 25)) for i, image in enumerate(noise)])
    content = whole.read_bytes()
    # its index is in front, so that it opens
    cut.write_bytes(content[: len(content) // 2] + bytes(len(content) // 2))
    with pytest.raises(DatasetError, match="is damaged behind frame"):
        read(cut)


def written_as_mkv(path, count):
    with av.open(str(path), "w") as output:
        stream = output.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        output.start_encoding()
        for frame in frames(count):
            output.mux(stream.encode(av.VideoFrame.from_ndarray(frame.image, format="rgb24")))
        output.mux(stream.encode() if count else [])
    return path


def test_a_video_of_no_frame_is_told(tmp_path):
    with pytest.raises(DatasetError, match=r"cannot read the video .*: end of file"):
        VideoReader(str(written_as_mkv(tmp_path / "video.mkv", 0)))


def test_a_video_that_ends_too_early_is_told(tmp_path, caplog):
    whole, cut = written_as_mkv(tmp_path / "whole.mkv", 30), tmp_path / "cut.mkv"
    with VideoReader(str(whole)) as reader:
        assert reader.num_frames == 30 == len(list(reader))
    assert caplog.text == ""
    content = whole.read_bytes()
    cut.write_bytes(content[: len(content) * 2 // 3])
    assert 0 < len(read(cut)) < 25
    assert "of 1.2 seconds: it may be cut off" in caplog.text


def test_frames_that_the_model_cannot_take_are_told():
    class Refuses:
        def stream(self, images, workers):
            for i, image in enumerate(images):
                error = DatasetError("too thin") if i == 2 else None
                yield Prediction(image, image, {"number": i}, error)

    made = frames()
    found = list(predict_frames(Refuses(), made[:2]))
    assert [frame.time for frame, _ in found] == [frame.time for frame in made[:2]]
    assert [result["number"] for _, result in found] == [0, 1]
    with pytest.raises(DatasetError, match="too thin"):
        list(predict_frames(Refuses(), made))


@pytest.mark.parametrize("name", ["video.avi", "video", "video.jpg"])
def test_other_kinds_of_video_are_not_written(tmp_path, name):
    with pytest.raises(UsageError, match=r"must end in \.mp4 or \.webm"):
        write_video(str(tmp_path / name), frames())


def test_without_pyav_a_sentence_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(UsageError, match="pip install av"):
        write_video(str(tmp_path / "video.mp4"), frames())
    with pytest.raises(UsageError, match="pip install av"):
        VideoReader("video.mp4")


def test_a_camera_that_is_not_there_is_told():
    with pytest.raises(UsageError, match="camera 97 cannot be opened"):
        next(camera_frames(97))


def test_the_frames_of_a_camera_are_rgb_and_have_times(tmp_path, monkeypatch):
    path = str(tmp_path / "video.mp4")
    write_video(path, frames())
    camera = cv2.VideoCapture(path)
    monkeypatch.setattr(cv2, "VideoCapture", lambda index: camera)
    found = list(camera_frames(0))
    assert len(found) == 6 and not camera.isOpened()
    red, green, blue = found[0].image[5, 5].tolist()
    assert red > 150 > 60 > max(green, blue)
    assert [f.time for f in found] == sorted(f.time for f in found)
