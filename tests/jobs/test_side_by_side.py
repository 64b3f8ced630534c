"""Pictures and frames at the same time: the same files, records and order as one after the other."""

from __future__ import annotations

import doctest
import json
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from networks import random_picture
from PIL import Image

import sparse_icnet
from sparse_icnet import cli, video
from sparse_icnet.cli import segment as command
from sparse_icnet.jobs import side_by_side
from sparse_icnet.jobs.overlap import in_order
from sparse_icnet.jobs.side_by_side import MOST, SideBySide, division
from sparse_icnet.model import Model

PICTURES = 9


class TestDivision:
    def test_examples(self):
        result = doctest.testmod(side_by_side)
        assert result.attempted > 0
        assert result.failed == 0

    @pytest.mark.parametrize("pictures", [None, 1, 2, 3, 8, 100])
    def test_nearly_all_threads_and_no_more(self, pictures):
        for threads in range(1, 70):
            count, each = division(threads, pictures)
            assert 1 <= count <= min(MOST, threads, pictures or threads)
            assert count * each <= threads
            assert count * each >= (2 / 3 if pictures in (2, 3) else 0.88) * threads
            assert division(threads, pictures, side_by_side.MEMORY) == (1, threads)
            assert division(threads, pictures, 2 * side_by_side.MEMORY) == (1, threads)


class TestSideBySide:
    def test_inferences_run_at_the_same_time_and_no_more_than_there_are(self, tiny_file, monkeypatch):
        """Two meet inside; a third waits for one of them."""
        model = sparse_icnet.load(tiny_file, threads=2)
        network = SideBySide(model)
        assert (network.count, network.threads, network.size) == (2, 1, model.size)
        inside, most, lock, both = [], [], threading.Lock(), threading.Barrier(2, timeout=60)
        usual = Model.predict

        def predict(self, *arguments):
            with lock:
                inside.append(self)
                most.append(len(inside))
            both.wait()
            try:
                return usual(self, *arguments)
            finally:
                with lock:
                    inside.remove(self)

        monkeypatch.setattr(Model, "predict", predict)
        pictures = [Image.fromarray(random_picture(50, 70, seed=i)) for i in range(8)]
        results = list(in_order(network.predict, pictures, 4))
        assert max(most) == 2
        monkeypatch.undo()
        for picture, result in zip(pictures, results, strict=True):
            expected = model.predict(picture)
            assert np.array_equal(result.classes, expected.classes)
            assert np.array_equal(result.logits, expected.logits)

    def test_one_that_fails_gives_its_place_back(self, tiny_file, monkeypatch):
        network = SideBySide(sparse_icnet.load(tiny_file, threads=2))
        beside, fails = Model.beside, iter([True, False, True, False])

        def failing(self, threads):
            if next(fails):
                raise MemoryError
            return beside(self, threads)

        monkeypatch.setattr(Model, "beside", failing)
        picture = Image.fromarray(random_picture(50, 70))
        for error in (MemoryError, None, MemoryError, None, None):
            if error:
                with pytest.raises(error):
                    network.predict(picture)
            else:
                assert network.predict(picture).size == (50, 70)

    def test_a_single_picture_has_all_threads(self, tiny_file):
        model = sparse_icnet.load(tiny_file, threads=3)
        network = SideBySide(model, 1)
        assert (network.count, network.threads) == (1, 3)
        network.predict(Image.fromarray(random_picture(50, 70)))
        assert model.session.threads == 3


@pytest.fixture(scope="module")
def frames(tmp_path_factory) -> Path:
    """Pictures of several sizes, a large one first, and in the middle one that is damaged and one that is none."""
    folder = tmp_path_factory.mktemp("frames")
    for i in range(PICTURES):
        height, width = (600, 800) if i == 0 else (40 + 7 * i, 60 + 5 * i)
        Image.fromarray(random_picture(height, width, seed=i)).save(folder / f"{i}.png")
    (folder / "4.png").write_bytes((folder / "0.png").read_bytes()[:3000])
    (folder / "5.png").write_bytes(b"no picture")
    return folder


def segment(tiny_file: Path, source: Path, out: Path, *more: object) -> int:
    words = ("segment", source, "-o", out, "-q", "--model", tiny_file, "--size", "192x192", *more)
    return cli.main([str(word) for word in words])


def written(folder: Path) -> dict[str, bytes]:
    """Content of all files but the manifest, which has a time in each line."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != "manifest.jsonl"
    }


def lines(folder: Path) -> list[dict]:
    found = [json.loads(line) for line in (folder / "manifest.jsonl").read_text().splitlines()]
    for line in found:
        del line["milliseconds"]
    return found


@pytest.mark.parametrize(
    ("cpus", "threads", "drawn"), [(1, 2, "jpeg"), (2, 2, "png"), (3, 1, "jpeg"), (8, 12, "png")]
)
def test_a_folder(compiled_kernels, capsys, tiny_file, frames, tmp_path, monkeypatch, cpus, threads, drawn):
    more = ("--save", "classes,overlay,confidence", "--drawn", drawn, "--threads")
    monkeypatch.setattr(side_by_side, "MOST", 1)
    assert segment(tiny_file, frames, tmp_path / "one", *more, 1) == 2
    expected = capsys.readouterr()
    monkeypatch.undo()
    monkeypatch.setattr(
        command, "in_order", lambda *all, **some: in_order(*all, **some, workers=min(8, max(2, cpus)))
    )
    assert segment(tiny_file, frames, tmp_path / "many", *more, threads) == 2
    found = capsys.readouterr()
    assert written(tmp_path / "many") == written(tmp_path / "one")
    assert len(written(tmp_path / "many")) == 3 * (PICTURES - 2)
    assert lines(tmp_path / "many") == lines(tmp_path / "one")
    assert [line["name"] for line in lines(tmp_path / "many")] == [f"{i}.png" for i in (0, 1, 2, 3, 6, 7, 8)]
    assert found == expected
    assert [part in found.err for part in ("4.png", "5.png")] == [True, True]
    assert segment(tiny_file, frames, tmp_path / "many", *more, threads, "--skip-existing") == 2
    assert lines(tmp_path / "many") == lines(tmp_path / "one")


def test_a_film(compiled_kernels, tiny_file, tmp_path, monkeypatch):
    """Frames in their order; a slow one is waited for."""
    av = pytest.importorskip("av", reason="videos need PyAV")
    film, count = tmp_path / "drive.avi", 30
    with av.open(str(film), "w") as container:
        stream = container.add_stream("mjpeg", 25)
        stream.height, stream.width, stream.pix_fmt = 64, 96, "yuvj420p"
        for i in range(count):
            container.mux(
                stream.encode(av.VideoFrame.from_image(Image.fromarray(random_picture(64, 96, seed=i))))
            )
        container.mux(stream.encode(None))
    more = ("--save", "classes,overlay", "--threads")
    assert segment(tiny_file, film, tmp_path / "one", *more, 1) == 0
    usual = SideBySide.predict

    def uneven(self, picture, smooth):
        time.sleep(0.02 * (int(np.asarray(picture)[0, 0, 0]) % 3))
        return usual(self, picture, smooth)

    monkeypatch.setattr(SideBySide, "predict", uneven)
    assert segment(tiny_file, film, tmp_path / "many", *more, 3) == 0
    assert written(tmp_path / "many") == written(tmp_path / "one")
    assert len(written(tmp_path / "many")) == count + 1
    assert lines(tmp_path / "many") == lines(tmp_path / "one")
    shown = list(video.read(video.probe(tmp_path / "many" / "drive.avi.overlay.mp4").stretch()))
    assert [index for index, _ in shown] == list(range(count))


def test_frames_in_work_are_few(tmp_path):
    """What is taken of the frames of a film stays within `taken` of what was asked for."""
    made, asked = [], 0
    coming = (made.append(i) or i for i in range(50))
    for result in in_order(lambda i: i, coming, 3, taken=5):
        asked += 1
        assert result == asked - 1
        assert len(made) <= asked + 5
    assert asked == 50
