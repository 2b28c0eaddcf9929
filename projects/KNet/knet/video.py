"""Frames of video files and of cameras in, video files that browsers play out.

Files are read and written by PyAV, an optional package (``pip install av``). Sound is not kept.

Shape shorthand: H x W a frame's size.
"""

import contextlib
import logging
import os
import time
from collections import deque
from fractions import Fraction
from pathlib import Path
from typing import Dict, Iterable, Iterator, NamedTuple, Tuple, Union

import cv2
import numpy as np

from .errors import DatasetError, UsageError
from .files import replacing
from .predictor import Predictor

__all__ = [
    "Frame",
    "VideoReader",
    "camera_frames",
    "check_video_output",
    "predict_frames",
    "write_video",
]

logger = logging.getLogger(__name__)

# By the file's ending
CODECS = {".mp4": "libx264", ".webm": "libvpx-vp9"}
# A quality that stays the same, losses that one does not see
OPTIONS = {
    "libx264": {"crf": "18"},
    "libvpx-vp9": {"crf": "24", "b": "0", "deadline": "good", "cpu-used": "4", "row-mt": "1"},
}
TIME_BASE = Fraction(1, 90000)  # exact for the usual frame rates


class Frame(NamedTuple):
    """A frame, and when it is shown."""

    image: np.ndarray  # (H, W, 3) uint8 RGB
    time: Fraction  # seconds since the first


# -------------------------------------------------------------------------------------- reading


class VideoReader:
    """The frames of a video file, upright. Use it in a ``with`` block.

    Attributes:
        rate: frames a second, on average.
        num_frames: about so many; 0 where the file does not tell.
    """

    def __init__(self, path: str):
        """
        Raises:
            UsageError: there is no PyAV.
            DatasetError: it is no video.
        """
        self.path = path
        av = _pyav()
        try:
            self._container = av.open(path)
        except av.FFmpegError as error:
            raise DatasetError(f"cannot read the video {path}: {_reason(error)}") from error
        if not self._container.streams.video:
            self._container.close()
            raise DatasetError(f"cannot read the video {path}: there are no pictures in it")
        stream = self._stream = self._container.streams.video[0]
        # with more threads PyAV may wait for itself for ever at the end of a damaged file
        stream.codec_context.thread_count = 1
        self.rate = stream.average_rate or Fraction(25)
        if stream.duration:
            self._seconds = stream.duration * stream.time_base
        else:  # .mkv and .webm tell that of the file alone
            self._seconds = Fraction(self._container.duration or 0, av.time_base)
        self.num_frames = stream.frames or round(self._seconds * self.rate)

    def __iter__(self) -> Iterator[Frame]:
        """
        Raises:
            DatasetError: the file is damaged; the frames before have been given.
        """
        start, shown, number = None, 0, 0
        try:
            for frame in self._container.decode(self._stream):
                shown = number / self.rate if frame.pts is None else frame.pts * frame.time_base
                start = shown if start is None else start
                image = frame.to_ndarray(format="rgb24")
                # cameras that were held upright store the picture turned, and by how much
                yield Frame(np.rot90(image, round(frame.rotation / 90)), shown - start)
                number += 1
        except (_pyav().FFmpegError, ValueError) as error:
            raise DatasetError(
                f"the video {self.path} is damaged behind frame {number}: {_reason(error)}"
            ) from error
        seconds = float(shown - (start or 0))
        if seconds < 0.9 * self._seconds - 2 / self.rate:
            logger.warning(
                "%s ends after %.1f of %.1f seconds: it may be cut off",
                *(self.path, seconds, self._seconds),
            )

    def __enter__(self) -> "VideoReader":
        return self

    def __exit__(self, *_) -> None:
        self._container.close()


def predict_frames(
    predictor: Predictor, frames: Iterable[Frame], workers: int = 2
) -> Iterator[Tuple[Frame, Dict]]:
    """Frames and their results.

    Args:
        predictor: of the results.
        frames: as a :class:`VideoReader` gives them.
        workers: threads that read and resize frames ahead of the model.

    Raises:
        DatasetError: the model cannot take frames of this size.
    """
    times = deque()

    def images() -> Iterator[np.ndarray]:
        for image, seconds in frames:
            times.append(seconds)
            yield image

    for item in predictor.stream(images(), workers=workers):
        if item.error:
            raise item.error
        yield Frame(item.image, times.popleft()), item.result


def camera_frames(index: int = 0) -> Iterator[Frame]:
    """The frames of a camera, by OpenCV, until it is gone or the generator is closed.

    Raises:
        UsageError: there is no such camera.
    """
    camera = cv2.VideoCapture(index)
    try:
        if not camera.isOpened():
            raise UsageError(f"camera {index} cannot be opened: connect one, or give --video-input")
        start = time.monotonic()
        while True:
            there, image = camera.read()
            if not there:
                return
            seconds = Fraction(time.monotonic() - start)
            yield Frame(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), seconds)
    finally:
        camera.release()


# -------------------------------------------------------------------------------------- writing


def write_video(path: str, frames: Iterable[Frame], rate: Union[Fraction, int] = 25) -> int:
    """Write a video that browsers play: H.264 in ``.mp4``, VP9 in ``.webm``.

    The file appears when all frames are in it, and not at all after an error.

    Args:
        path: of the file.
        frames: all of the first one's size: others are resized to it. Of an odd size one row or
            column is doubled, since the codecs want even ones.
        rate: frames a second, on average.

    Returns:
        the number of frames.

    Raises:
        UsageError: there is no PyAV, it lacks the codec, or the path ends otherwise.
        DatasetError: there was no frame.
    """
    av, codec = check_video_output(path)
    number = 0
    with contextlib.ExitStack() as stack:
        part = stack.enter_context(replacing(Path(path)))
        last = -1
        for number, frame in enumerate(frames, 1):
            if number == 1:
                output = stack.enter_context(_open_output(av, codec, part))
                stream = _add_stream(output, codec, frame.image.shape[:2], rate)
            picture = av.VideoFrame.from_ndarray(_fitted(frame.image, stream), format="rgb24")
            # times rise, whatever the source says
            last = max(round(frame.time / TIME_BASE), last + 1)
            picture.pts, picture.time_base = last, TIME_BASE
            output.mux(stream.encode(picture))
        if not number:
            raise DatasetError(f"{path} is not written: the video had no frame")
        output.mux(stream.encode())
    return number


def check_video_output(path: str):
    """Can a video of this name be written?

    Returns:
        the module of PyAV, and the codec's name.

    Raises:
        UsageError: it cannot.
    """
    av = _pyav()
    codec = CODECS.get(os.path.splitext(path)[1].lower())
    if codec is None:
        raise UsageError(f"{path} must end in {' or '.join(CODECS)} to be written as a video")
    if codec not in av.codecs_available:
        others = [ending for ending, other in CODECS.items() if other in av.codecs_available]
        raise UsageError(
            f"{path}: this PyAV was built without {codec}; it can write {others or 'no video'}"
        )
    return av, codec


def _open_output(av, codec: str, path: Path):
    if codec == "libx264":  # faststart: a browser plays it while it loads
        return av.open(str(path), "w", format="mp4", options={"movflags": "+faststart"})
    return av.open(str(path), "w", format="webm")


def _add_stream(output, codec: str, size: Tuple[int, int], rate: Union[Fraction, int]):
    rate = Fraction(rate).limit_denominator(1001)
    stream = output.add_stream(codec, rate=rate, options=OPTIONS[codec])
    stream.height, stream.width = (side + side % 2 for side in size)
    stream.pix_fmt = "yuv420p"  # not every browser plays others
    stream.codec_context.time_base = TIME_BASE
    return stream


def _fitted(image: np.ndarray, stream) -> np.ndarray:
    """The image at the stream's size."""
    bottom, right = stream.height - image.shape[0], stream.width - image.shape[1]
    if bottom in (0, 1) and right in (0, 1):
        return np.pad(image, ((0, bottom), (0, right), (0, 0)), mode="edge")
    size = (stream.width, stream.height)
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA)


def _pyav():
    try:
        import av
    except ImportError as error:
        raise UsageError("videos need the package PyAV: pip install av") from error
    return av


def _reason(error: Exception) -> str:
    return (getattr(error, "strerror", None) or str(error)).lower()
