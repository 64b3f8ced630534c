"""Films out: H.264 where PyAV's build of FFmpeg has it, else MPEG-4; in one go, or in parts that are joined."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from errno import errorcode
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any

from PIL import Image

from sparse_icnet.network.graph import Size
from sparse_icnet.video.reading import VideoError, require

GROUP = 128  # frames that are encoded independently of all others: what a film may be split at

_MPEG4_CLOCK = 65535
_GLOBAL_HEADER = 1 << 22  # AV_CODEC_FLAG_GLOBAL_HEADER
_BT709 = _LIMITED = 1  # of libavutil's enumerations of colour


class Writer:
    """A film, frame by frame: H.264 where this build of FFmpeg has it, else MPEG-4.

    The file is complete when the context ends without an error.  Each GROUP of frames is encoded for itself and no
    frame refers to a later one, so that a film written in parts and joined is the film written in one go.
    """

    def __init__(
        self,
        path: Path,
        size: Size,
        rate: Fraction,
        clock: Fraction,
        comment: str = "",
        *,
        aspect: Fraction = Fraction(1),
        part: bool = False,
    ) -> None:
        """Open `path`.

        size     (height, width) of the pictures
        rate     frames a second, nominal
        clock    seconds of a tick of the times in `write`
        comment  in the file's metadata
        aspect   width of a pixel in its heights
        part     to be joined by `join`; else an MP4

        Raises ImportError without PyAV, OSError that names the file, VideoError where it cannot be written.
        """
        self._av = require()
        self._path, self._size, self._clock, self._aspect = path, size, clock, aspect
        self._rate = rate if rate.numerator <= _MPEG4_CLOCK else Fraction(round(rate))
        self._codec = "libx264" if "libx264" in self._av.codecs_available else "mpeg4"
        odd = size[0] % 2 or size[1] % 2
        self._pixels = "yuv444p" if odd and self._codec == "libx264" else "yuv420p"
        with _errors_of(path):
            self._container = _new(path, comment, part)
        self._stream = self._container.add_stream(self._codec, self._rate)
        self._stream.time_base = clock
        self._encoder = self._stream.codec_context
        self._configure()
        self._group: int | None = None
        self._times: deque[int] = deque()  # of the frames that the encoder holds
        self._frames = 0  # that this encoder was given
        self._duration = _ticks(rate, clock)  # of the last frame, which no other one ends

    def _configure(self) -> None:
        encoder = self._encoder
        encoder.height, encoder.width = self._size
        encoder.pix_fmt = self._pixels
        encoder.framerate, encoder.time_base = self._rate, 1 / self._rate
        encoder.sample_aspect_ratio = self._aspect
        encoder.colorspace = encoder.color_primaries = encoder.color_trc = _BT709
        encoder.color_range = _LIMITED
        encoder.flags |= _GLOBAL_HEADER
        if self._codec == "libx264":
            # The number of threads is part of what is written.
            encoder.thread_count = 2
            encoder.options = {"preset": "veryfast", "crf": "20", "bf": "0", "g": str(GROUP)}
        else:
            encoder.thread_count = 1
            encoder.bit_rate = encoder.bit_rate_tolerance = (
                4_000_000  # of no use, but part of what is written
            )
            encoder.options = {"qmin": "3", "qmax": "3", "bf": "0", "g": str(GROUP)}

    def write(self, index: int, time: int, picture: Image.Image) -> None:
        """Add a frame: its place in the film, when it is shown, an RGB picture.  Places and times ascend.

        Raises OSError that names the file, VideoError for what cannot be encoded.
        """
        with _errors_of(self._path):
            self._write(index, time, picture)

    def _write(self, index: int, time: int, picture: Image.Image) -> None:
        group = index // GROUP
        if self._group is not None and group != self._group:
            self._flush()
            self._encoder = self._av.CodecContext.create(self._codec, "w")
            self._configure()
            self._frames = 0
        self._group = group
        frame = self._av.VideoFrame.from_image(picture).reformat(
            format=self._pixels, dst_colorspace=_BT709, dst_color_range=_LIMITED
        )
        frame.pts, frame.time_base = self._frames, 1 / self._rate
        self._frames += 1
        self._times.append(time)
        self._mux(self._encoder.encode(frame))

    def _flush(self) -> None:
        self._mux(self._encoder.encode(None))

    def _mux(self, packets: Iterable[Any]) -> None:
        for packet in packets:
            packet.stream = self._stream
            packet.time_base = self._clock
            packet.pts = packet.dts = self._times.popleft()
            packet.duration = self._duration
            self._container.mux(packet)

    def __enter__(self) -> Writer:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        with _errors_of(self._path, error is None):
            try:
                if error is None and self._group is not None:
                    self._flush()
            finally:
                self._container.close()


def _ticks(rate: Fraction, clock: Fraction) -> int:
    return max(1, round(1 / (rate * clock)))


def join(parts: Sequence[Path], path: Path, rate: Fraction, clock: Fraction, comment: str = "") -> None:
    """One MP4 of all the frames of films written as parts, in the order of `parts`, none encoded again.

    rate, clock  that they were written with

    Raises OSError that names the file, VideoError for what cannot be written.
    """
    av = require()
    with _errors_of(path), _new(path, comment, part=False) as container:
        stream = None
        for part in parts:
            with av.open(f"file:{part}", format="nut") as source:
                film = source.streams.video[0]
                if stream is None:
                    stream = container.add_stream_from_template(film)
                    stream.time_base = clock
                for packet in source.demux(film):
                    if packet.size:
                        packet.stream = stream
                        packet.duration = _ticks(rate, packet.time_base)
                        container.mux(packet)


@contextmanager
def _errors_of(path: Path, wanted: bool = True) -> Iterator[None]:
    """Errors of libav in the usual form; none where they are not `wanted`, behind another one."""
    try:
        yield
    except require().FFmpegError as error:
        if not wanted:
            return
        if error.errno in errorcode:
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise VideoError(f"{path}: the film cannot be written ({error.strerror})") from error


def _new(path: Path, comment: str, part: bool) -> Any:
    options = {} if part else {"movflags": "faststart", "write_btrt": "0"}
    container = require().open(f"file:{path}", "w", format="nut" if part else "mp4", options=options)
    if comment:
        container.metadata["comment"] = comment
    return container
