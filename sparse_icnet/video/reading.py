"""Films in: what is in a file, and its frames by their place in the film.

A film is opened twice: `probe` reads its packets without decoding them and makes the table of the times at which its
frames are shown; `read` decodes a stretch of it and finds the place of each frame in that table.  So a frame that cannot
be decoded is a gap, not a shift, and a stretch that is read alone has exactly the frames that it has in the whole.
"""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from sparse_icnet.image import MAX_PIXELS, ImageError
from sparse_icnet.network.graph import Size

SUFFIXES = frozenset({".avi", ".m4v", ".mkv", ".mov", ".mp4", ".webm"})
EXTRA = "videos need PyAV, pip install 'sparse-icnet[video]'"
MAX_FRAMES = 1 << 24  # six days at 30 a second

_CONTAINERS = "avi,matroska,mov,mp4,webm"  # no playlists, whose files and addresses would be opened as well
_MAX_RATE = 1000
_MAX_GAP = (1 << 31) - 1  # ticks between two frames, as an MP4 counts them
_TURNS = {
    90: Image.Transpose.ROTATE_90,
    180: Image.Transpose.ROTATE_180,
    270: Image.Transpose.ROTATE_270,
}


class VideoError(ImageError):
    """A video that cannot be used: the message says which, what was expected and what came."""


def require() -> ModuleType:
    """The module `av`.  Raises ImportError that names the extra."""
    try:
        import av
    except ImportError as error:
        raise ImportError(EXTRA) from error
    module: ModuleType = av
    return module


@dataclass(frozen=True, slots=True, eq=False)
class Stretch:
    """Frames [first, last) of a film, all that `read` has to know.

    size   (height, width) of the frames, upright
    turn   degrees by which they are turned counterclockwise to be upright: 0, 90, 180 or 270
    times  int64 (last - first,): when each is shown, in the file's own ticks; None: they are counted as they come
    seek   ticks at which a reader may begin; None: at the beginning
    """

    path: str
    size: Size
    turn: int
    first: int
    last: int
    times: NDArray[np.int64] | None
    seek: int | None


@dataclass(frozen=True, slots=True, eq=False)
class Film:
    """What `probe` finds.

    size       (height, width) of the frames, upright
    turn       as in `Stretch`
    rate       frames a second, nominal
    frames     how many there are; where `times` is None at most so many
    time_base  seconds of a tick
    times      int64 (frames,), ascending: when each is shown, in ticks; None where the file does not say
    keys       int64, ascending: those of `times` at which a reader may begin
    aspect     width of a pixel in its heights, upright
    """

    path: str
    size: Size
    turn: int
    rate: Fraction
    frames: int
    time_base: Fraction
    times: NDArray[np.int64] | None
    keys: NDArray[np.int64]
    aspect: Fraction = Fraction(1)

    def stretch(self, first: int = 0, last: int | None = None) -> Stretch:
        """Frames [first, last).  Raises ValueError for a part of a film whose frames have no times."""
        last = self.frames if last is None else last
        if self.times is None:
            if (first, last) != (0, self.frames):
                raise ValueError(
                    f"{self.path}: expected times of its frames to read a part of it, found none"
                )
            return Stretch(self.path, self.size, self.turn, first, last, None, None)
        # From the last key frame but one: behind the last there may be frames that need those before it.
        place = int(np.searchsorted(self.keys, self.times[first], "right")) - 2
        seek = int(self.keys[place]) if first and place > 0 else None
        return Stretch(self.path, self.size, self.turn, first, last, self.times[first:last], seek)

    def time(self, index: int) -> int:
        """When the frame is shown, in ticks of `clock`, from 0."""
        return index if self.times is None else int(self.times[index] - self.times[0])

    @property
    def clock(self) -> Fraction:
        """Seconds of a tick of `time`."""
        return 1 / self.rate if self.times is None else self.time_base


def probe(path: str | os.PathLike[str]) -> Film:
    """What is in a film: decodes its first frame, reads the rest.

    Raises ImportError without PyAV, OSError for a file that cannot be opened, VideoError for one that is no video, has
    no frame that can be decoded, more than MAX_FRAMES frames or frames of more than MAX_PIXELS.
    """
    name = os.fsdecode(path)
    frame = _first_frame(name)
    with _opened(name) as (container, stream):
        times: list[int] = []
        keys: list[int] = []
        timed, count = True, 0
        hidden = stream.codec_context.name in ("vp8", "libvpx")
        for packet in _packets(container, stream):
            if not packet.size or packet.is_discard or (hidden and not bytes(packet)[0] >> 4 & 1):
                continue  # the end, what an edit list cuts off, a picture that others refer to and nobody sees
            count += 1
            if count > MAX_FRAMES:
                raise VideoError(f"{name}: expected at most {MAX_FRAMES} frames, found more")
            if packet.pts is None:
                timed = False
            elif timed:
                times.append(packet.pts)
                if packet.is_keyframe:
                    keys.append(packet.pts)
        rate, time_base, aspect = _rate(stream), stream.time_base, stream.codec_context.sample_aspect_ratio
    height, width = frame.height, frame.width
    turn = round(frame.rotation) % 360 if round(frame.rotation) % 90 == 0 else 0
    aspect = Fraction(aspect) if aspect and aspect > 0 else Fraction(1)
    if turn % 180:
        height, width, aspect = width, height, 1 / aspect
    table = np.unique(np.array(times, np.int64)) if timed else np.empty(0, np.int64)
    if not (timed and time_base and len(table) == count and np.diff(table).max(initial=0) <= _MAX_GAP):
        return Film(name, (height, width), turn, rate, count, 1 / rate, None, np.empty(0, np.int64), aspect)
    starts = np.unique(np.array(keys, np.int64))
    return Film(name, (height, width), turn, rate, count, Fraction(time_base), table, starts, aspect)


def _first_frame(name: str) -> Any:
    with _opened(name) as (container, stream):
        frame = next(_decoded(container, stream), None)
    if frame is None:
        raise VideoError(f"{name}: expected a video with a frame that can be decoded, found none")
    return frame


def _rate(stream: Any) -> Fraction:
    for rate in (stream.average_rate, stream.guessed_rate):
        if rate and 0 < rate <= _MAX_RATE:
            return Fraction(rate).limit_denominator(1001)
    return Fraction(25)


def read(stretch: Stretch) -> Generator[tuple[int, Image.Image]]:
    """(index in the film, upright RGB picture of `stretch.size`) of each frame that can be decoded, in order.

    Raises what opening the film raises.
    """
    height, width = stretch.size
    size = (width, height)
    places = None if stretch.times is None else {int(t): i for i, t in enumerate(stretch.times)}
    next_index = stretch.first
    with _opened(stretch.path) as (container, stream):
        if stretch.seek is not None:
            container.seek(stretch.seek, stream=stream)
        for frame in _decoded(container, stream):
            if places is None:
                index = next_index
            else:
                assert stretch.times is not None
                if frame.pts is not None and frame.pts > stretch.times[-1]:
                    return
                index = stretch.first + places.get(frame.pts, -1 - stretch.first)
            if (
                not next_index <= index < stretch.last
            ):  # before the stretch, or a time that no packet announced
                continue
            next_index = index + 1
            picture = frame.to_image()
            if stretch.turn:
                picture = picture.transpose(_TURNS[stretch.turn])
            yield index, picture if picture.size == size else picture.resize(size)
            if next_index == stretch.last:
                return


@contextmanager
def _opened(name: str) -> Iterator[tuple[Any, Any]]:
    """(container, its first video stream), ready to be decoded by one thread, so that damage has one outcome."""
    av = require()
    with open(name, "rb"):  # libav's errors are many; those of the file system are to be the usual ones
        pass
    try:
        container = av.open(
            f"file:{name}",
            metadata_errors="replace",
            container_options={"format_whitelist": _CONTAINERS, "protocol_whitelist": "file"},
        )
    except av.FFmpegError as error:
        raise VideoError(
            f"{name}: expected a video that PyAV can read, found none ({error.strerror})"
        ) from error
    with container:
        if not container.streams.video:
            raise VideoError(f"{name}: expected a video, found a file without pictures")
        stream = container.streams.video[0]
        context = stream.codec_context
        if context is None:
            raise VideoError(f"{name}: expected a video that this build of FFmpeg can decode, found another")
        if context.width * context.height > MAX_PIXELS:
            raise VideoError(
                f"{name}: expected frames of 1 to {MAX_PIXELS} pixels, found {context.width} x {context.height}"
            )
        context.options = {"max_pixels": str(MAX_PIXELS)}
        context.thread_count = 1
        yield container, stream


def _packets(container: Any, stream: Any) -> Iterator[Any]:
    """Packets up to the end, or to where the file is so damaged that none can be found any more."""
    try:
        yield from container.demux(stream)
    except require().FFmpegError:
        return


def _decoded(container: Any, stream: Any) -> Iterator[Any]:
    """The frames that can be decoded whole, in the order in which they are shown."""
    av = require()
    for packet in _packets(container, stream):
        try:
            frames = packet.decode()
        except av.FFmpegError:
            continue
        for frame in frames:
            if not frame.is_corrupt and 0 < frame.width * frame.height <= MAX_PIXELS:
                yield frame
