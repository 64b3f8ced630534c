"""Sources and their names, result files and their marks."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import numpy as np
import pytest
from networks import random_picture
from PIL import Image

from sparse_icnet.image import ImageError
from sparse_icnet.jobs import outputs, overlap, sources, work
from sparse_icnet.jobs.outputs import Mark
from sparse_icnet.processes import PerProcess

MARK = Mark("overlay", "seq1/caf\u00e9 \u2603.jpg", "sha256:" + 64 * "a")


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")


def names(found: sources.Found) -> list[str]:
    return [source.name for source in found.sources]


class TestOverlap:
    @pytest.mark.parametrize("allowed", [0, 1, 2, 5])
    def test_as_many_threads_as_the_system_lets_start(self, monkeypatch, allowed):
        """None is no error: the work is done where its results are asked for."""
        start, before = threading.Thread.start, threading.active_count()

        def start_if_allowed(thread):
            if threading.active_count() - before >= allowed:
                raise RuntimeError("can't start new thread")
            start(thread)

        monkeypatch.setattr(threading.Thread, "start", start_if_allowed)
        stop = threading.Event()
        assert list(overlap.in_order(lambda i: i * i, range(100), 4, stop)) == [i * i for i in range(100)]
        assert stop.is_set()
        assert list(overlap.ahead(iter(range(100)))) == list(range(100))


class TestRoom:
    def test_no_more_at_a_time_than_there_is_room_for(self):
        room, lock = overlap.Room(10), threading.Lock()
        inside, most = [], []

        def work(amount):
            with room.taken(amount):
                with lock:
                    inside.append(amount)
                    most.append(list(inside))
                time.sleep(0.002)
                with lock:
                    inside.remove(amount)
            return amount

        amounts = [1, 4, 5, 10, 99, 3, 7, 6, 2, 99] * 3
        assert list(overlap.in_order(work, amounts, 6)) == amounts
        assert all(sum(together) <= 10 or together in ([99], [10]) for together in most)
        assert max(map(len, most)) > 1

    def test_what_fails_gives_its_room_back(self):
        room = overlap.Room(1)
        for _ in range(2):
            with pytest.raises(KeyError), room.taken(5):
                raise KeyError

    def test_pictures_take_room_by_their_pixels(self, tmp_path, tiny_net, monkeypatch):
        taken = []

        class Recorded(overlap.Room):
            def taken(self, amount):
                taken.append(amount)
                return super().taken(amount)

        room = Recorded(100)
        monkeypatch.setattr(work, "_ROOM", PerProcess(lambda: room))
        Image.fromarray(random_picture(30, 40)).save(tmp_path / "a.png")
        source = sources.Source(str(tmp_path / "a.png"), "a.png")
        (record,) = work.segment_source(tiny_net, source, work.Options(tmp_path))
        assert record.error is None
        assert taken == [1200]


class TestMarks:
    @pytest.mark.parametrize("mode", ["RGB", "P"])
    def test_png(self, tmp_path, mode):
        path = tmp_path / "a.png"
        picture = Image.fromarray(random_picture(30, 40))
        outputs.save_png(picture.quantize(256) if mode == "P" else picture, path, MARK)
        assert outputs.read_mark(path) == MARK
        assert outputs.is_result(path)
        with Image.open(path) as read:
            assert read.mode == mode
            assert read.text["Software"].startswith("sparse-icnet ")

    def test_jpeg(self, tmp_path):
        path = tmp_path / "a.overlay.jpg"
        smooth = np.broadcast_to(np.arange(40, dtype=np.uint8)[:, None, None] * 6, (40, 30, 3))
        outputs.save_jpeg(Image.fromarray(np.ascontiguousarray(smooth)), path, MARK)
        assert outputs.read_mark(path) == MARK
        assert outputs.is_result(path)
        with Image.open(path) as read:
            assert read.format == "JPEG"
            assert np.abs(np.asarray(read).astype(int) - smooth).max() < 12
        whole = path.read_bytes()
        for end in range(2, 400, 3):
            path.write_bytes(whole[:end])
            assert outputs.read_mark(path) in (None, MARK)
        mark = Mark("overlay", "\U0001f600" * 1024, MARK.digest)
        outputs.save_jpeg(Image.fromarray(random_picture(9, 9)), path, mark)
        assert outputs.read_mark(path) == mark
        Image.fromarray(random_picture(9, 9)).save(path, comment=b"of another program")
        assert not outputs.is_result(path)

    def test_a_picture_too_large_for_a_jpeg(self, tmp_path):
        with pytest.raises(ImageError, match="at most 65500 pixels a side of a JPEG, found 1 x 65501"):
            outputs.save_jpeg(Image.new("RGB", (65501, 1)), tmp_path / "a.jpg", MARK)
        assert not list(tmp_path.iterdir())

    @pytest.mark.parametrize("shape", [(12, 7, 5), (3,), (0, 2)])
    @pytest.mark.parametrize("dtype", [np.float16, np.float32])
    def test_npy(self, tmp_path, shape, dtype):
        array = np.random.default_rng(0).random(shape).astype(dtype)
        path = tmp_path / "a.npy"
        outputs.save_npy(array, path, MARK)
        assert outputs.read_mark(path) == MARK
        read = np.load(path)
        assert read.dtype == dtype
        assert np.array_equal(read, array)
        if array.size:
            assert np.array_equal(np.load(path, mmap_mode="r"), array)
            assert (path.stat().st_size - array.nbytes) % 64 == 0

    @pytest.mark.parametrize("letter", ["\u043f", "\U0001f600", "\x01"])
    def test_a_long_name(self, tmp_path, letter):
        """4096 bytes, the longest path that systems take, are more as JSON."""
        mark = Mark("overlay", letter * (4096 // len(letter.encode())), MARK.digest)
        outputs.save_png(Image.fromarray(random_picture(30, 40)), tmp_path / "a.png", mark)
        assert outputs.read_mark(tmp_path / "a.png") == mark

    @pytest.mark.parametrize("content", [b"", b"x", b"\x89PNG\r\n\x1a\n", b"\x93NUMPY\x01\x00\xff\xff#"])
    def test_no_mark(self, tmp_path, content):
        path = tmp_path / "a.png"
        path.write_bytes(content)
        assert outputs.read_mark(path) is None
        Image.fromarray(random_picture(9, 9)).save(path)
        assert outputs.read_mark(path) is None
        assert outputs.read_mark(tmp_path) is None
        assert outputs.read_mark(tmp_path / "none.png") is None

    def test_a_mark_that_is_damaged(self, tmp_path):
        path = tmp_path / "a.png"
        outputs.save_png(Image.fromarray(random_picture(9, 9)), path, MARK)
        whole = path.read_bytes()
        for end in range(60, 200):
            path.write_bytes(whole[:end])
            assert outputs.read_mark(path) in (None, MARK)

    def test_whose_a_result_is(self, tmp_path):
        path = tmp_path / "a.png"
        outputs.check_free(path, MARK.digest)
        outputs.save_png(Image.fromarray(random_picture(9, 9)), path, MARK)
        outputs.check_free(path, MARK.digest)
        with pytest.raises(FileExistsError, match=r"another source, seq1/.*--overwrite"):
            outputs.check_free(path, "sha256:" + 64 * "b")
        path.write_bytes(b"a letter")
        with pytest.raises(FileExistsError, match="no result of sparse-icnet"):
            outputs.check_free(path, MARK.digest)


class TestSources:
    def test_folders_are_read_by_name_and_hidden_files_left_out(self, tmp_path):
        touch(tmp_path, "b.jpg", "a.png", "c.JPEG", "._a.png", ".x/y.png", "sub/z.gif", "notes.txt")
        assert names(sources.expand([str(tmp_path)])) == ["a.png", "b.jpg", "c.JPEG"]
        assert names(sources.expand([str(tmp_path)], recursive=True)) == [
            *("a.png", "b.jpg", "c.JPEG"),
            "sub/z.gif",
        ]

    def test_names_that_differ_in_letter_case_alone(self, tmp_path):
        touch(tmp_path, "1/a.jpg", "2/A.JPG", "2/a.png")
        with pytest.raises(sources.SourceError, match="different names"):
            sources.expand([str(tmp_path / "1"), str(tmp_path / "2")], output=tmp_path / "out")
        assert len(sources.expand([str(tmp_path / "1"), str(tmp_path / "2")]).sources) == 3
        chosen = [str(tmp_path / "1" / "a.jpg"), str(tmp_path / "2" / "a.png")]
        assert names(sources.expand(chosen, output=tmp_path / "out")) == ["a.jpg", "a.png"]

    def test_one_file_named_twice_is_one_source(self, tmp_path, monkeypatch):
        touch(tmp_path, "a.jpg")
        monkeypatch.chdir(tmp_path)
        found = sources.expand(["a.jpg", str(tmp_path), "./a.jpg"], output=Path("out"))
        assert names(found) == ["a.jpg"]

    def test_patterns(self, tmp_path):
        touch(tmp_path, "s1/a.jpg", "s1/b.txt", "s1/x/c.jpg", "s2/a.jpg", "[odd].jpg")
        expand = lambda pattern, **more: names(sources.expand([str(tmp_path / pattern)], **more))  # noqa: E731
        assert expand("s?/*.jpg") == ["s1/a.jpg", "s2/a.jpg"]
        assert expand("**/*.jpg") == ["[odd].jpg", "s1/a.jpg", "s1/x/c.jpg", "s2/a.jpg"]
        assert expand("s?") == ["s1/a.jpg", "s2/a.jpg"]
        assert expand("s?", recursive=True) == ["s1/a.jpg", "s1/x/c.jpg", "s2/a.jpg"]
        assert expand("[odd].jpg") == ["[odd].jpg"]  # a file of that name
        with pytest.raises(sources.SourceError, match="1 matches and no picture"):
            expand("s?/*.txt")

    def test_lists_keep_their_paths(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        touch(tmp_path, "a/x.jpg", "b/x.jpg")
        content = f"a/x.jpg\n./b/../b/x.jpg\r\n\n{tmp_path}/a/x.jpg\n".encode()
        found = sources.expand([], [("list", content)], output=Path("out"))
        assert names(found) == ["a/x.jpg", "b/b/x.jpg", f"{tmp_path.as_posix()[1:]}/a/x.jpg"]
        assert names(sources.expand([], [("list", b"b")], output=Path("out"))) == ["b/x.jpg"]

    def test_the_output_folder_is_never_searched(self, tmp_path):
        touch(tmp_path, "a.jpg", "out/b.jpg", "out/deep/c.jpg")
        out = tmp_path / "out"
        assert names(sources.expand([str(tmp_path)], recursive=True, output=out)) == ["a.jpg"]
        assert names(sources.expand([str(tmp_path / "**" / "*.jpg")], output=out)) == ["a.jpg"]
        with pytest.raises(sources.SourceError, match="must not be an input"):
            sources.expand([str(out)], output=out)
