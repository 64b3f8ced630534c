"""Videos: which frames are read, films that are written and joined, what `segment` makes of them."""

from __future__ import annotations

import builtins
import json
import os
import signal
import struct
import subprocess
import sys
import time
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sparse_icnet import cli, video
from sparse_icnet.jobs import outputs, sources
from sparse_icnet.jobs.films import segment_film
from sparse_icnet.jobs.manifest import Manifest
from sparse_icnet.jobs.overlap import ahead, in_order
from sparse_icnet.jobs.sources import Source
from sparse_icnet.jobs.work import Options, segment_source
from sparse_icnet.video import reading

av = pytest.importorskip("av", reason="videos need PyAV")

needs_h264 = pytest.mark.skipif("libx264" not in av.codecs_available, reason="this PyAV has no libx264")


def picture(index: int, size=(48, 64)) -> Image.Image:
    """A frame that says its index: 8 grey bars are its bits, a red field is above."""
    height, width = size
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[: height // 2] = 200, 30, 20
    for bit in range(8):
        left, right = bit * width // 8, (bit + 1) * width // 8
        pixels[height // 2 :, left:right] = 255 * (index >> bit & 1)
    return Image.fromarray(pixels)


def index_of(image: Image.Image) -> int:
    row = np.asarray(image)[-4, :, 1]
    width = len(row)
    return sum(int(row[(2 * bit + 1) * width // 16] > 127) << bit for bit in range(8))


def make(
    path, count=40, size=(48, 64), codec="libx264", rate=Fraction(25), times=None, turn=0, **options
) -> Path:
    """A film of `count` frames that are `picture` of their numbers, with B-frames where the codec has them."""
    if codec == "libx264":
        options = {"g": "12", "bf": "3", "crf": "15", **options}
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate)
        stream.height, stream.width = size
        stream.pix_fmt = options.pop("pixels", "yuv420p")
        stream.codec_context.options = {key: str(value) for key, value in options.items()}
        if times:
            stream.codec_context.time_base = Fraction(1, 1000)
        if turn:
            stream.set_display_rotation(turn)
        for index in range(count):
            frame = av.VideoFrame.from_image(picture(index, size))
            if times:
                frame.pts, frame.time_base = times[index], Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return Path(path)


def indices(path) -> list[int]:
    """What the pictures of a film say, each checked against its place."""
    found = list(video.read(video.probe(path).stretch()))
    assert all(index == index_of(image) for index, image in found)
    return [index for index, _ in found]


def packets_of(path) -> list[tuple[bytes, int, int, bool]]:
    with av.open(str(path)) as container:
        return [(bytes(p), p.pts, p.dts, p.is_keyframe) for p in container.demux(video=0) if p.size]


class TestRead:
    @pytest.mark.parametrize(
        ("name", "codec", "options"),
        [
            pytest.param("a.mp4", "libx264", {}, marks=needs_h264),
            pytest.param("a.mkv", "libx264", {}, marks=needs_h264),
            pytest.param("a.mov", "libx264", {"x264-params": "open-gop=1"}, marks=needs_h264),
            ("a.avi", "mpeg4", {"bf": 2, "q": 2}),
            ("a.avi", "mjpeg", {"pixels": "yuvj420p"}),
            ("a.webm", "libvpx", {"auto-alt-ref": 1, "lag-in-frames": 10, "g": 15, "b": 500000}),
            ("a.webm", "libvpx-vp9", {"lag-in-frames": 10, "g": 15, "cpu-used": 8}),
        ],
    )
    def test_each_frame_at_its_place_in_the_whole_and_in_stretches(self, tmp_path, name, codec, options):
        if codec not in av.codecs_available:
            pytest.skip(f"this PyAV has no {codec}")
        path = make(tmp_path / name, codec=codec, **options)
        film = video.probe(path)
        assert (film.size, film.rate, film.frames, film.turn) == ((48, 64), 25, 40, 0)
        whole = dict(video.read(film.stretch()))
        assert [index_of(image) for image in whole.values()] == list(whole) == list(range(40))
        assert np.abs(np.asarray(whole[7])[2, 2].astype(int) - (200, 30, 20)).max() < 12
        for first in range(0, 40, 7):
            last = min(first + 7, 40)
            stretch = list(video.read(film.stretch(first, last)))
            assert [index for index, _ in stretch] == list(range(first, last))
            assert all(np.array_equal(image, whole[index]) for index, image in stretch)

    @needs_h264
    @pytest.mark.parametrize("turn", [-90, 90, 180])
    def test_upright(self, tmp_path, turn):
        path = make(tmp_path / "a.mp4", 2, turn=turn)
        if turn == -90:  # a telephone held upright: x' = -y, y' = x in the file's matrix
            one = 1 << 16
            assert struct.pack(">6i", 0, one, 0, -one, 0, 0) in path.read_bytes()
        film = video.probe(path)
        assert film.size == ((64, 48) if turn % 180 else (48, 64))
        _, image = next(video.read(film.stretch()))
        assert image.size == film.size[::-1]
        upright = picture(0).rotate(turn, expand=True)
        assert np.abs(np.asarray(image).astype(int) - np.asarray(upright)).max() < 24

    @needs_h264
    def test_times_that_vary(self, tmp_path):
        times = [0, 40, 45, 300, 301, 1000, 1001, 1040]
        film = video.probe(make(tmp_path / "a.mkv", len(times), times=times))
        assert [film.time(i) * film.clock for i in range(len(times))] == [Fraction(t, 1000) for t in times]
        assert [index for index, _ in video.read(film.stretch(2, 6))] == [2, 3, 4, 5]

    def test_frames_without_times_are_counted(self, tmp_path, monkeypatch):
        path = make(tmp_path / "a.avi", codec="mpeg4", q=2)
        packets = reading._packets

        def without_times(container, stream):
            for packet in packets(container, stream):
                packet.pts = None
                yield packet

        monkeypatch.setattr(reading, "_packets", without_times)
        film = video.probe(path)
        assert (film.times, film.frames, film.clock, film.time(3)) == (None, 40, Fraction(1, 25), 3)
        assert [index_of(image) for _, image in video.read(film.stretch())] == list(range(40))
        with pytest.raises(ValueError, match=r"a\.avi: expected times of its frames"):
            film.stretch(0, 20)

    @needs_h264
    def test_damage_is_a_gap_and_no_shift(self, tmp_path):
        path = make(tmp_path / "a.mkv", 60, g=10, bf=0)
        whole = path.read_bytes()
        with av.open(str(path)) as container:
            places = [(p.pos, p.size) for p in container.demux(video=0) if p.size]
        content = bytearray(whole)
        for lost in (22, 41):
            start = whole.index(b"\x00\x00", places[lost][0])
            content[start : start + places[lost][1]] = bytes(places[lost][1])
        path.write_bytes(content)
        film = video.probe(path)
        shown = {index: index_of(image) for index, image in video.read(film.stretch())}
        found = list(shown)
        assert film.frames == 60
        assert 0 < 60 - len(found) < 20
        assert not {22, 41} & set(found)
        good = [index for index in found if index < 22 or 30 <= index < 41 or index >= 50]
        assert good == [*range(22), *range(30, 41), *range(50, 60)]
        assert [shown[index] for index in good] == good

    @needs_h264
    @pytest.mark.parametrize("name", ["a.mp4", "a.mkv"])
    def test_a_file_that_ends_early(self, tmp_path, name):
        path = make(tmp_path / name, 60, movflags="faststart")
        content = path.read_bytes()
        path.write_bytes(content[: len(content) * 2 // 3])
        if name == "a.mp4" and content.index(b"moov") > len(content) // 2:
            with pytest.raises(video.VideoError):
                video.probe(path)
            return
        found = [index for index, _ in video.read(video.probe(path).stretch())]
        assert found == list(range(len(found)))
        assert 10 < len(found) < 60

    @pytest.mark.parametrize(
        "content",
        [
            b"",
            b"no film",
            b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n",
            b"ffconcat version 1.0\nfile a.png\n",
        ],
    )
    def test_what_is_no_video(self, tmp_path, content):
        path = tmp_path / "a.mp4"
        path.write_bytes(content)
        with pytest.raises(video.VideoError, match=r"a\.mp4: expected a video"):
            video.probe(path)
        with pytest.raises(FileNotFoundError):
            video.probe(tmp_path / "none.mp4")

    def test_bounds(self, tmp_path, monkeypatch):
        path = make(tmp_path / "a.avi", 5, codec="mjpeg", pixels="yuvj420p")
        with monkeypatch.context() as patch:
            patch.setattr(reading, "MAX_PIXELS", 3000)
            with pytest.raises(video.VideoError, match="1 to 3000 pixels, found 64 x 48"):
                video.probe(path)
        monkeypatch.setattr(reading, "MAX_FRAMES", 4)
        with pytest.raises(video.VideoError, match="at most 4 frames"):
            video.probe(path)

    def test_without_pyav(self, tmp_path, monkeypatch):
        real = builtins.__import__

        def no_av(name, *rest):
            if name == "av":
                raise ImportError(name)
            return real(name, *rest)

        monkeypatch.setattr(builtins, "__import__", no_av)
        with pytest.raises(ImportError, match=r"sparse-icnet\[video\]"):
            video.probe(tmp_path / "a.mp4")


class TestWrite:
    RATE = Fraction(30000, 1001)

    def write(self, path, frames, size=(48, 64), part=False, rate=RATE):
        with video.Writer(path, size, rate, 1 / rate, "a mark", part=part) as writer:
            for index in frames:
                writer.write(index, index, picture(index % 256, size))

    @pytest.mark.parametrize("size", [(48, 64), (49, 63), (49, 64)])
    @pytest.mark.parametrize("codec", [pytest.param("libx264", marks=needs_h264), "mpeg4"])
    def test_a_film(self, tmp_path, monkeypatch, size, codec):
        if codec == "mpeg4":
            monkeypatch.setattr(av, "codecs_available", av.codecs_available - {"libx264"})
        path = tmp_path / "a.mp4"
        self.write(path, range(10), size)
        film = video.probe(path)
        assert (film.size, film.rate, film.frames) == (size, self.RATE, 10)
        assert indices(path) == list(range(10))
        with av.open(str(path)) as container:
            assert container.metadata["comment"] == "a mark"
            assert container.streams[0].codec_context.name == ("h264" if codec == "libx264" else codec)
        _, image = next(video.read(film.stretch()))
        assert np.abs(np.asarray(image)[2, 2].astype(int) - (200, 30, 20)).max() < 12

    @pytest.mark.parametrize("codec", [pytest.param("libx264", marks=needs_h264), "mpeg4"])
    @pytest.mark.parametrize("size", [(48, 64), (49, 63)])
    def test_parts_join_to_the_film_that_one_process_writes(self, tmp_path, monkeypatch, size, codec):
        if codec == "mpeg4":
            monkeypatch.setattr(av, "codecs_available", av.codecs_available - {"libx264"})
        lost = {5, video.GROUP, 2 * video.GROUP - 1, 290}  # frames that nobody could read
        frames = [index for index in range(300) if index not in lost]
        # On a busy machine FFmpeg now and then encodes the same frames to other bytes, by one bit of a sample: once more
        # then.  A fault of the joining would show each time.
        for _ in range(3):
            self.write(tmp_path / "whole.mp4", frames, size)
            parts = []
            for first in range(0, 300, video.GROUP):
                parts.append(tmp_path / f"{first}.part")
                self.write(
                    parts[-1], [i for i in frames if first <= i < first + video.GROUP], size, part=True
                )
            video.join(parts, tmp_path / "joined.mp4", self.RATE, 1 / self.RATE, "a mark")
            if packets_of(tmp_path / "joined.mp4") == packets_of(tmp_path / "whole.mp4"):
                break
        if codec == "libx264":
            assert (tmp_path / "joined.mp4").read_bytes() == (tmp_path / "whole.mp4").read_bytes()
        assert packets_of(tmp_path / "joined.mp4") == packets_of(tmp_path / "whole.mp4")
        film = video.probe(tmp_path / "joined.mp4")
        assert [film.time(i) * film.clock for i in (4, 5, 295)] == [i / self.RATE for i in (4, 6, 299)]

    def test_errors_name_the_file(self, tmp_path):
        with pytest.raises(FileNotFoundError, match=r"none/a\.mp4|No such file"):
            self.write(tmp_path / "none" / "a.mp4", range(3))
        if os.path.exists("/dev/full"):
            with pytest.raises(OSError, match="No space left") as caught:
                self.write(Path("/dev/full"), range(200), part=True)
            assert caught.value.filename == "/dev/full"


class TestOverlap:
    def test_ahead_keeps_order_errors_and_stops(self):
        made = []

        def items():
            for i in range(100):
                made.append(i)
                if i == 50:
                    raise KeyError("at 50")
                yield i

        coming = ahead(items())
        assert [next(coming) for _ in range(3)] == [0, 1, 2]
        coming.close()
        assert len(made) <= 7
        seen = []
        with pytest.raises(KeyError, match="at 50"):
            seen.extend(seen.append(i) for i in ahead(items()))
        assert [i for i in seen if i is not None] == list(range(50))

    def test_in_order_sets_stop(self):
        import threading

        stop = threading.Event()
        results = in_order(lambda i: i * i, range(100), 2, stop)
        assert [next(results) for _ in range(3)] == [0, 1, 4]
        assert not stop.is_set()
        results.close()
        assert stop.is_set()


@pytest.fixture
def drive(tmp_path) -> Path:
    return make(tmp_path / "drive.avi", 12, size=(60, 80), codec="mjpeg", pixels="yuvj420p", q=2)


def classes_of(folder: Path) -> list[np.ndarray]:
    maps = []
    for path in sorted(folder.glob("*.classes.png")):
        with Image.open(path) as image:
            maps.append(np.asarray(image))
    return maps


class TestFilms:
    def test_results_of_a_film(self, tiny_net, drive, tmp_path):
        out = tmp_path / "out"
        options = Options(out, save_of_films=("classes", "overlay", "side-by-side", "probabilities"))
        ticks = []
        (record,) = segment_source(
            tiny_net, Source(str(drive), "drive.avi"), options, None, lambda *tick: ticks.append(tick)
        )
        assert (record.error, record.frames, record.unreadable, record.frame) == (None, 12, 0, None)
        assert record.size == (60, 80)
        assert ticks == [(i, 12) for i in range(1, 13)]
        assert abs(sum(record.shares.values()) - 1) < 1e-4
        frames = [image for _, image in video.read(video.probe(drive).stretch())]
        results = tiny_net.predict(frames)
        for found, result in zip(classes_of(out / "drive.avi"), results, strict=True):
            assert np.array_equal(found, result.classes)
        assert len(list((out / "drive.avi").glob("*.probabilities.npy"))) == 12
        for kind, width in (("overlay", 80), ("side-by-side", 162)):
            path = out / f"drive.avi.{kind}.mp4"
            assert outputs.read_mark(path) == outputs.Mark(kind, "drive.avi", record.digest)
            film = video.probe(path)
            assert (film.size, film.rate, film.frames) == ((60, width), 25, 12)
            shown = [np.asarray(image).astype(int) for _, image in video.read(film.stretch())]
            for image, result in zip(shown, results, strict=True):
                expected = (result.overlay if kind == "overlay" else result.side_by_side)(legend=False)
                assert np.abs(image - np.asarray(expected)).mean() < 20
        assert not [path for path in out.rglob("*") if path.name.startswith(".")]

    def test_what_exists_is_skipped_exactly(self, tiny_net, drive, tmp_path):
        out, source = tmp_path / "out", Source(str(drive), "drive.avi")

        def run(**more):
            out.mkdir(exist_ok=True)
            with Manifest(out) as manifest:
                kinds = {"save_of_films": ("overlay", "classes"), "skip_existing": True}
                record = segment_film(tiny_net, source, Options(out, **{**kinds, **more}), manifest)
                if line := record.line():
                    manifest.append(line)
                return record

        assert not run().skipped
        assert run().skipped
        assert run(save_of_films=("overlay",)).skipped
        assert not run(alpha=0.3).skipped
        assert not run().skipped
        (out / "drive.avi" / "00007.classes.png").unlink()
        assert not run().skipped
        (out / "drive.avi.overlay.mp4").unlink()
        assert not run().skipped
        drive.write_bytes(drive.read_bytes() + bytes(1024))
        assert not run().skipped  # another digest, its own results may be replaced
        (line, *_) = map(json.loads, reversed((out / "manifest.jsonl").read_text().splitlines()))
        assert (line["frames"], line["unreadable"], line["frame"]) == (12, 0, None)
        assert line["results"] == {
            "overlay": "drive.avi.overlay.mp4",
            "classes": "drive.avi/*.classes.png",
        }

    def test_nothing_else_is_replaced(self, tiny_net, drive, tmp_path):
        out, source = tmp_path / "out", Source(str(drive), "drive.avi")
        out.mkdir()
        mine = out / "drive.avi.overlay.mp4"
        for content in (b"mine", make(tmp_path / "x.mp4", 2, codec="mpeg4").read_bytes()):
            mine.write_bytes(content)
            record = segment_film(tiny_net, source, Options(out))
            assert "exists and is no result of sparse-icnet; --overwrite" in (record.error or "")
            assert mine.read_bytes() == content
        assert segment_film(tiny_net, source, Options(out, overwrite=True)).error is None
        assert segment_film(tiny_net, source, Options(out)).error is None  # its own
        drive.write_bytes(drive.read_bytes() + bytes(1024))
        assert "another source, drive.avi" in (segment_film(tiny_net, source, Options(out)).error or "")
        frame = out / "drive.avi" / "00003.classes.png"
        frame.parent.mkdir()
        frame.write_bytes(b"mine")
        mine.unlink()
        record = segment_film(tiny_net, source, Options(out, save_of_films=("overlay", "classes")))
        assert "00003.classes.png" in (record.error or "")
        assert frame.read_bytes() == b"mine"
        assert not mine.exists()

    def test_marks_survive_damage(self, tmp_path):
        path = tmp_path / "a.mp4"
        mark = outputs.Mark("overlay", "caf\u00e9 \u2603.mp4", "sha256:" + 64 * "a")
        with video.Writer(
            path, (48, 64), Fraction(25), Fraction(1, 25), outputs.mark_comment(mark)
        ) as writer:
            writer.write(0, 0, picture(0))
        assert outputs.read_mark(path) == mark
        assert outputs.is_result(path)
        whole = path.read_bytes()
        for end in range(0, len(whole), 7):
            path.write_bytes(whole[:end])
            assert outputs.read_mark(path) in (None, mark)
        for place in range(0, whole.index(b"mdat"), 3):
            path.write_bytes(whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :])
            outputs.read_mark(path)

    def test_sources(self, tmp_path, monkeypatch):
        for name in ("a.png", "b.MP4", "c.webm", "d.pdf"):
            (tmp_path / name).write_bytes(b"x")
        found = sources.expand([str(tmp_path)], films=True)
        assert [source.name for source in found.sources] == ["a.png", "b.MP4", "c.webm"]
        assert found.unread == {".pdf": 1}
        assert sources.expand([str(tmp_path)]).unread == {".mp4": 1, ".webm": 1, ".pdf": 1}
        monkeypatch.setattr(sources, "find_spec", lambda name: None)
        found = sources.expand([str(tmp_path)], films=True)
        assert [source.name for source in found.sources] == ["a.png"]
        assert found.unread == {".mp4": 1, ".webm": 1, ".pdf": 1}
        with pytest.raises(sources.SourceError, match=r"c\.webm: videos need PyAV.*\[video\]"):
            sources.expand([str(tmp_path / "c.webm")], films=True)
        (tmp_path / "a.png").unlink()
        with pytest.raises(sources.SourceError, match=r"1 \.webm.*\[video\]"):
            sources.expand([str(tmp_path)], films=True)


SMALL = ["--size", "192x192", "--threads", "1"]


class TestCommandLine:
    def run(self, capsys, *arguments):
        code = cli.main([str(argument) for argument in arguments])
        return code, *capsys.readouterr()

    def test_a_film_and_a_picture(self, capsys, tiny_file, drive, tmp_path):
        picture(3, (60, 80)).save(tmp_path / "a.png")
        command = ("segment", drive, tmp_path / "a.png", "-o", tmp_path / "out", "--model", tiny_file, *SMALL)
        code, out, err = self.run(capsys, *command)
        assert (code, "error" in err) == (0, False), err
        assert "2 of 2 done" in out
        assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
            *("a.png.classes.png", "a.png.overlay.png"),
            *("drive.avi.overlay.mp4", "manifest.jsonl"),
        ]
        code, out, _ = self.run(capsys, *command, "--skip-existing")
        assert (code, "2 were there" in out) == (0, True)

    def test_lost_frames_are_said(self, capsys, tiny_file, drive, tmp_path):
        content = drive.read_bytes()
        start = content.index(b"\xff\xd8", len(content) // 2)
        drive.write_bytes(content[:start] + bytes(600) + content[start + 600 :])
        command = ("segment", drive, "-o", tmp_path / "out", "--model", tiny_file, *SMALL)
        code, out, err = self.run(capsys, *command)
        assert code == 0
        assert "drive.avi: 1 of 12 frames could not be decoded" in err
        assert "11 frames, " in out
        film = video.probe(tmp_path / "out" / "drive.avi.overlay.mp4")
        assert film.frames == 11
        assert film.time(10) * film.clock == Fraction(11, 25)

    def test_no_film(self, capsys, tiny_file, tmp_path):
        (tmp_path / "a.mp4").write_bytes(b"no film")
        command = ("segment", tmp_path / "a.mp4", "-o", tmp_path / "out", "--model", tiny_file, *SMALL)
        code, _, err = self.run(capsys, *command)
        assert code == 2
        assert "a.mp4: expected a video that PyAV can read" in err

    @pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
    def test_interrupted(self, tiny_file, tmp_path):
        film = make(tmp_path / "long.avi", 2000, codec="mjpeg", pixels="yuvj420p")
        out = tmp_path / "out"
        command = [sys.executable, "-m", "sparse_icnet", "segment", film, "-o", out, "--model", tiny_file]
        process = subprocess.Popen(
            [*map(str, command), "--save", "overlay,classes", *SMALL],
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        while process.poll() is None and not list((out / "long.avi").glob("0000*.png")):
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate()
        assert process.returncode == 130
        assert b"interrupted" in err
        assert b"Traceback" not in err
        assert len(list((out / "long.avi").iterdir())) < 1900
        assert not (out / "long.avi.overlay.mp4").exists()
        assert not [path for path in out.rglob("*") if path.name.startswith(".")]
