"""The command line: what it writes, what it prints, its exit codes; in this process and as a real one."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from networks import random_picture
from PIL import Image

import sparse_icnet
from sparse_icnet import bundled, cli, render
from sparse_icnet.formats import native
from sparse_icnet.jobs import work
from sparse_icnet.run import machine_code

SMALL = ["--size", "192x192", "--threads", "1"]


@pytest.fixture(scope="module", autouse=True)
def compiled():
    """The kernels are there: else the first command says on stderr that it compiles them."""
    machine_code.warm_up()


@pytest.fixture
def run(capsys):
    """Run a command line here: (exit code, stdout, stderr)."""

    def call(*arguments):
        try:
            code = cli.main([str(argument) for argument in arguments])
        except SystemExit as stop:
            code = stop.code
        return code, *capsys.readouterr()

    return call


@pytest.fixture
def photo(tmp_path) -> Path:
    path = tmp_path / "photo.png"
    Image.fromarray(random_picture(100, 140, seed=4)).save(path)
    return path


def assert_one_error_line(result, *parts, code=2):
    """The exit code, exactly one line on stderr in the common form, naming `parts`."""
    assert result[0] == code, result
    lines = result[2].splitlines()
    assert len(lines) == 1, result[2]
    assert lines[0].startswith("sparse-icnet: error: ")
    for part in parts:
        assert str(part) in lines[0]


def errors_of(err: str) -> str:
    """Its lines without those that -v asks for."""
    lines = err.splitlines(keepends=True)
    return "".join(line for line in lines if not line.startswith("sparse-icnet: ") or "error" in line)


def pictures_of(folder):
    return sorted(p.name for p in folder.iterdir() if p.suffix == ".png")


def manifest_of(folder):
    """The lines that are whole."""
    entries = []
    for line in (folder / "manifest.jsonl").read_text().splitlines():
        with contextlib.suppress(ValueError):
            entries.append(json.loads(line))
    return entries


def read_map(path):
    with Image.open(path) as picture:
        assert picture.format == "PNG"
        assert picture.mode == "P"
        return np.asarray(picture)


class TestSegment:
    def test_writes_what_the_model_says(self, run, tiny_file, tiny_net, photo, tmp_path):
        code, out, err = run("segment", photo, "-o", tmp_path / "a" / "out", "--model", tiny_file, *SMALL)
        assert (code, err) == (0, "")
        classes = read_map(tmp_path / "a" / "out" / "photo.png.classes.png")
        assert np.array_equal(classes, tiny_net.segment(photo))
        with Image.open(tmp_path / "a" / "out" / "photo.png.overlay.png") as overlay:
            assert overlay.mode == "RGB"
            overlay = overlay.crop((0, 0, 140, 100))  # beside it the legend
            assert not np.array_equal(np.asarray(overlay), random_picture(100, 140, seed=4))
        assert str(photo) in out
        assert re.search(r"\d+ % -> .*photo\.png\.classes\.png", out)
        assert pictures_of(tmp_path / "a" / "out") == ["photo.png.classes.png", "photo.png.overlay.png"]

    def test_folder_with_a_broken_picture(self, run, tiny_file, tmp_path):
        frames = tmp_path / "frames"
        frames.mkdir()
        for i in range(5):
            Image.fromarray(random_picture(60, 80, seed=i)).save(frames / f"f{i}.png")
        (frames / "f2.png").write_bytes((frames / "f2.png").read_bytes()[:200])
        (frames / "notes.txt").write_text("not a picture, not tried")
        command = ("segment", frames, "-o", tmp_path / "out", "--model", tiny_file, *SMALL)
        code, out, err = result = run(*command, "--no-overlay", "-v")
        assert "sparse-icnet: tiny.npz at 192x192" in err
        assert_one_error_line((code, out, errors_of(err)), frames / "f2.png")
        assert [line[:5] for line in result[1].splitlines()] == ["[1/5]", "[2/5]", "[4/5]", "[5/5]", "4 of "]
        assert pictures_of(tmp_path / "out") == [f"f{i}.png.classes.png" for i in (0, 1, 3, 4)]

    def test_missing_picture_among_others(self, run, tiny_file, photo, tmp_path):
        result = run("segment", "none.png", photo, "-o", tmp_path / "out", "-q", "--model", tiny_file, *SMALL)
        assert_one_error_line(result, "none.png: No such file")
        assert (tmp_path / "out" / "photo.png.classes.png").is_file()

    def test_names_follow_from_the_source_alone(self, run, tiny_file, tmp_path):
        """Whatever else is in the call, and in which order."""
        heights = {"x.png": 20, "x.bmp": 21, "x-2.png": 22, "y.classes.png": 23}
        for name, height in heights.items():
            Image.fromarray(random_picture(height, 30)).save(tmp_path / name)
        sources = [tmp_path / name for name in heights]
        for out, chosen in (("all", sources), ("turned", sources[::-1]), ("last", sources[2:])):
            code, *_ = run("segment", *chosen, "-o", tmp_path / out, "-q", "--model", tiny_file, *SMALL)
            assert code == 0
            for path in chosen:
                result = read_map(tmp_path / out / f"{path.name}.classes.png")
                assert result.shape[0] == heights[path.name]

    def test_the_tree_below_a_folder_is_kept(self, run, tiny_file, tmp_path):
        for i, name in enumerate(["in/x.png", "in/a/x.png", "in/a/b/x.png"]):
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(random_picture(20 + i, 30)).save(path)
        out = tmp_path / "in" / "out"  # in the folder that is searched: its content is no input
        for _ in range(2):
            command = ("segment", tmp_path / "in", "--recursive", "-o", out, "--model", tiny_file, *SMALL)
            assert run(*command, "--no-overlay")[0] == 0
        found = {p.relative_to(out).as_posix(): read_map(p).shape[0] for p in out.rglob("*.png")}
        assert found == {"x.png.classes.png": 20, "a/x.png.classes.png": 21, "a/b/x.png.classes.png": 22}

    def test_a_result_of_another_source_stays(self, run, tiny_file, tmp_path):
        """The second call would write the names of the first: nothing is lost but by --overwrite."""
        for i, name in enumerate(["d1", "d2"]):
            (tmp_path / name).mkdir()
            Image.fromarray(random_picture(20 + i, 30, seed=i)).save(tmp_path / name / "x.png")
        out = tmp_path / "out"
        model = ["--model", tiny_file, *SMALL]
        both = run("segment", tmp_path / "d1", tmp_path / "d2", "-o", out, *model)
        assert_one_error_line(both, tmp_path / "d1" / "x.png", tmp_path / "d2" / "x.png", "different names")
        assert not out.exists()
        assert run("segment", tmp_path / "d1", "-o", out, *model)[0] == 0
        result = run("segment", tmp_path / "d2", "-o", out, *model)
        assert_one_error_line(result, "x.png.classes.png", "another source", "--overwrite")
        assert read_map(out / "x.png.classes.png").shape[0] == 20
        assert run("segment", tmp_path / "d1", "-o", out, *model)[0] == 0  # its own it replaces
        assert run("segment", tmp_path / "d2", "-o", out, "--overwrite", *model)[0] == 0
        assert read_map(out / "x.png.classes.png").shape[0] == 21

    def test_a_pattern_keeps_its_folders_apart(self, run, tiny_file, tmp_path):
        for i, name in enumerate(["seq1", "seq2"]):
            (tmp_path / name).mkdir()
            Image.fromarray(random_picture(20 + i, 30)).save(tmp_path / name / "x.png")
        model = ["--model", tiny_file, "--no-overlay", *SMALL]
        for number, pattern in enumerate(["seq?/*.png", "seq?"]):
            out = tmp_path / f"out{number}"
            assert run("segment", tmp_path / pattern, "-o", out, *model)[0] == 0
            for i in (1, 2):
                assert read_map(out / f"seq{i}" / "x.png.classes.png").shape[0] == 19 + i

    def test_a_list(self, run, tiny_file, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        for name in ("a/x.png", "b/x.png"):
            (tmp_path / name).parent.mkdir()
            Image.fromarray(random_picture(20, 30)).save(name)
        (tmp_path / "list.txt").write_text("a/x.png\r\n\n./b/x.png\n")
        code, _, err = run("segment", "--from", "list.txt", "-o", "out", "--model", tiny_file, *SMALL)
        assert (code, err) == (0, "")
        assert sorted(p.as_posix() for p in Path("out").rglob("*.classes.png")) == [
            "out/a/x.png.classes.png",
            "out/b/x.png.classes.png",
        ]

    def test_results_are_no_input(self, run, tiny_file, photo, tmp_path):
        mix = tmp_path / "mix"
        mix.mkdir()
        photo.rename(mix / "a.png")
        model = ["--model", tiny_file, *SMALL]
        assert run("segment", mix / "a.png", "-o", mix, *model)[0] == 0
        code, _, err = run("segment", mix, "-o", tmp_path / "out", *model)
        assert code == 0
        assert "2 left out, results of sparse-icnet" in err
        assert pictures_of(tmp_path / "out") == ["a.png.classes.png", "a.png.overlay.png"]
        again = run("segment", mix / "a.png.overlay.png", "-o", tmp_path / "more", *model)
        assert_one_error_line(again, "only results of sparse-icnet")

    def test_every_kind_of_result(self, run, tiny_file, tiny_net, photo, tmp_path):
        kinds = ["classes", "overlay", "side-by-side", "confidence", "probabilities"]
        out = tmp_path / "out"
        command = ("segment", photo, "-o", out, "--model", tiny_file, "--no-legend", *SMALL)
        assert run(*command, "--save", ",".join(kinds), "--alpha", "0.3", "--palette", "colour-blind")[0] == 0
        expected = tiny_net.predict(photo)
        palette = "colour-blind"
        for kind, picture in (
            ("classes", expected.class_image(palette)),
            ("overlay", expected.overlay(0.3, False, palette)),
            ("side-by-side", expected.side_by_side(0.3, False, palette)),
            ("confidence", expected.confidence_image()),
        ):
            with Image.open(out / f"photo.png.{kind}.png") as found:
                assert found.mode == picture.mode
                assert np.array_equal(np.asarray(found), np.asarray(picture))
        with Image.open(out / "photo.png.classes.png") as found:
            assert found.getpalette()[:36] == np.ravel(render.COLOUR_BLIND_PALETTE).tolist()
        half = np.load(out / "photo.png.probabilities.npy")
        assert half.dtype == np.float16
        assert np.array_equal(half, expected.probabilities(np.float16))
        assert run(*command, "--save", "probabilities", "--dtype", "float32")[0] == 0
        assert np.array_equal(np.load(out / "photo.png.probabilities.npy"), expected.probabilities())

    def test_legend_of_a_single_picture(self, run, tiny_file, photo, tmp_path):
        model = ["--model", tiny_file, *SMALL]
        other = photo.with_name("other.png")
        other.write_bytes(photo.read_bytes())

        def width(*arguments):
            assert run("segment", photo, *arguments, "-o", tmp_path / "out", *model)[0] == 0
            with Image.open(tmp_path / "out" / "photo.png.overlay.png") as overlay:
                return overlay.width

        assert width() > 140 == width("--no-legend") == width(other)
        assert width(other, "--legend") > 140

    def test_blocks(self, run, tiny_file, tiny_net, photo, tmp_path):
        command = ("segment", photo, "-o", tmp_path, "--save", "classes", "--model", tiny_file, *SMALL)
        for option, smooth in (([], True), (["--blocks"], False)):
            assert run(*command, *option)[0] == 0
            found = read_map(tmp_path / "photo.png.classes.png")
            assert np.array_equal(found, tiny_net.segment(photo, smooth=smooth))
        assert not np.array_equal(tiny_net.segment(photo), tiny_net.segment(photo, smooth=False))

    def test_names_and_colours_of_classes(self, run, tiny_file, photo, tmp_path):
        names, colours = tmp_path / "names.txt", tmp_path / "colours.txt"
        names.write_text("".join(f"kind {i}\n" for i in range(12)))
        colours.write_text("".join(f"({i}, 2, 3)\n" for i in range(12)))
        command = ("segment", photo, "-o", tmp_path / "out", "--model", tiny_file, *SMALL)
        code, out, _ = run(*command, "--classes", names, "--palette", colours)
        assert code == 0
        assert re.search(r"kind \d+ \d+ %", out)
        with Image.open(tmp_path / "out" / "photo.png.classes.png") as found:
            assert found.getpalette()[:6] == [0, 2, 3, 1, 2, 3]
        (entry,) = manifest_of(tmp_path / "out")
        assert sum(entry["shares"].values()) == pytest.approx(1, abs=1e-4)
        assert set(entry["shares"]) <= {f"kind {i}" for i in range(12)}
        names.write_text("road\n")
        assert_one_error_line(run(*command, "--classes", names), names, "12 class names")
        assert_one_error_line(run(*command, "--palette", "none"), "camvid, colour-blind")
        assert_one_error_line(run(*command, "--alpha", "1.5"), "from 0 to 1", "'1.5'")
        assert_one_error_line(run(*command, "--save", "clases"), "did you mean classes?")

    def test_manifest(self, run, tiny_file, tiny_net, photo, tmp_path):
        out = tmp_path / "out"
        assert run("segment", photo, "-o", out, "--model", tiny_file, *SMALL)[0] == 0
        (entry,) = manifest_of(out)
        result = tiny_net.predict(photo)
        assert entry["source"] == str(photo)
        assert entry["digest"] == f"sha256:{hashlib.sha256(photo.read_bytes()).hexdigest()}"
        assert entry["size"] == [100, 140]
        assert entry["model"]["name"] == tiny_file.name
        assert entry["model"]["size"] == [192, 192]
        assert entry["results"] == {
            "classes": "photo.png.classes.png",
            "overlay": "photo.png.overlay.png",
        }
        assert entry["shares"] == pytest.approx({n: s for n, s in result.shares.items() if s}, abs=1e-6)
        assert entry["confidence"] == pytest.approx(result.mean_confidence, abs=0.05)
        assert entry["milliseconds"] > 0

    def test_an_interrupted_run_is_resumed_exactly(self, run, tiny_file, tmp_path, monkeypatch):
        """As if it had never stopped: what is done stays as it is, the rest is made, a half line counts for nothing."""
        frames, out = tmp_path / "frames", tmp_path / "out"
        frames.mkdir()
        for i in range(4):
            Image.fromarray(random_picture(40, 50, seed=i)).save(frames / f"{i}.png")
        command = ["segment", frames, "-o", out, "--model", tiny_file, "--skip-existing", *SMALL]
        assert run(*command)[0] == 0
        whole = {p.name: p.read_bytes() for p in out.glob("*.png")}
        manifest = out / "manifest.jsonl"
        lines = manifest.read_bytes().splitlines(keepends=True)
        (out / "1.png.overlay.png").unlink()  # killed between two pictures, and in the middle of a line
        manifest.write_bytes(b"".join(lines[:2]) + lines[3][:50])
        times = {p.name: p.stat().st_mtime_ns for p in out.glob("*.png")}

        code, text, _ = run(*command)
        assert code == 0
        assert "4 of 4 done: 3 pictures" in text
        assert "1 were there" in text
        assert {p.name: p.read_bytes() for p in out.glob("*.png")} == whole
        assert {n for n, t in times.items() if (out / n).stat().st_mtime_ns == t} == {
            "0.png.classes.png",
            "0.png.overlay.png",
        }
        assert len(manifest_of(out)) == 2 + 3

        assert "4 were there" in run(*command)[1]
        Image.fromarray(random_picture(40, 50, seed=9)).save(frames / "2.png")  # another picture of this name
        assert "3 were there" in run(*command)[1]
        assert "4 were there" not in run(*command, "--alpha", "0.2")[1]
        assert "4 were there" not in run(*command, "--save", "classes,confidence", "--alpha", "0.2")[1]
        assert "4 were there" in run(*command, "--save", "classes", "--alpha", "0.2")[1]

    def test_a_foreign_manifest_stays(self, run, tiny_file, photo, tmp_path):
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "manifest.jsonl").write_text('{"images": []}\n')
        result = run("segment", photo, "-o", tmp_path / "out", "--model", tiny_file, *SMALL)
        assert_one_error_line(result, "manifest.jsonl", "no manifest of sparse-icnet")

    def test_frames_of_an_animation_are_resumed(self, run, tiny_file, tmp_path):
        frames = [Image.fromarray(random_picture(40, 50, seed=i)) for i in range(3)]
        path = tmp_path / "walk.gif"
        frames[0].save(path, save_all=True, append_images=frames[1:], duration=100)
        command = ("segment", path, "-o", tmp_path / "out", "--model", tiny_file, "--skip-existing", *SMALL)
        assert run(*command)[0] == 0
        (tmp_path / "out" / "walk.gif" / "00002.classes.png").unlink()
        assert "1 of 3 frames" in run(*command)[1]
        assert [entry["frame"] for entry in manifest_of(tmp_path / "out")] == [1, 2, 3, 2]

    def test_no_file_but_a_result_is_replaced(self, run, tiny_file, photo, tmp_path):
        out = tmp_path / "out"
        out.mkdir()
        (out / "photo.png.classes.png").write_bytes(b"old")
        command = ["segment", photo, "-o", out, "--model", tiny_file, *SMALL]
        assert_one_error_line(run(*command), out / "photo.png.classes.png", "is no result", "--overwrite")
        assert (out / "photo.png.classes.png").read_bytes() == b"old"
        assert run(*command, "--overwrite")[0] == 0
        assert read_map(out / "photo.png.classes.png").shape == (100, 140)

    def test_each_frame_of_an_animation(self, run, tiny_file, tiny_net, tmp_path):
        frames = [Image.fromarray(random_picture(40, 50, seed=i)) for i in range(3)]
        path = tmp_path / "walk.png"
        frames[0].save(path, save_all=True, append_images=frames[1:], duration=100)
        code, out, err = run("segment", path, "-o", tmp_path / "out", "--model", tiny_file, *SMALL)
        assert (code, err) == (0, "")
        assert "3 of 3 frames" in out
        for i, frame in enumerate(frames, 1):
            result = read_map(tmp_path / "out" / "walk.png" / f"{i:05d}.classes.png")
            assert np.array_equal(result, tiny_net.segment(frame))

    def test_a_folder_says_what_it_leaves_out(self, run, tiny_file, photo, tmp_path):
        (photo.parent / "more.heic").write_bytes(b"x")
        Image.fromarray(random_picture(20, 30)).save(photo.parent / "b.jfif", format="JPEG")
        Image.fromarray(random_picture(20, 30)).save(photo.parent / "c.gif")
        code, _, err = run("segment", photo.parent, "-o", tmp_path / "out", "--model", tiny_file, *SMALL)
        assert code == 0
        assert "1 .heic" in err
        assert {"b.jfif.classes.png", "c.gif.classes.png", "photo.png.classes.png"} <= set(
            pictures_of(tmp_path / "out")
        )

    @pytest.mark.parametrize("fault", ["memory", "size"])
    def test_whatever_one_picture_raises_stays_with_it(
        self, run, tiny_file, photo, tmp_path, monkeypatch, fault
    ):
        large = photo.with_name("large.png")
        Image.fromarray(random_picture(400, 600)).save(large)
        right = sparse_icnet.Model.predict

        def predict(self, image, smooth=True):
            if image.width > 500:
                raise MemoryError
            return right(self, image, smooth)

        if fault == "memory":
            monkeypatch.setattr(sparse_icnet.Model, "predict", predict)
        else:
            monkeypatch.setattr(work, "MAX_STREAM", 100_000)
        result = run("segment", large, photo, "-o", tmp_path / "out", "-q", "--model", tiny_file, *SMALL)
        assert_one_error_line(result, large, "not enough memory" if fault == "memory" else "100000 bytes")
        assert pictures_of(tmp_path / "out") == ["photo.png.classes.png", "photo.png.overlay.png"]

    def test_options_between_pictures(self, run, tiny_file, photo, tmp_path):
        other = tmp_path / "other.png"
        other.write_bytes(photo.read_bytes())
        code, *_ = run(
            "segment", photo, "-o", tmp_path / "out", other, "--no-overlay", "--model", tiny_file, *SMALL
        )
        assert code == 0
        assert pictures_of(tmp_path / "out") == ["other.png.classes.png", "photo.png.classes.png"]

    @pytest.mark.parametrize(
        ("word", "parts"),
        [
            ("icnet-camvid-int8-block4x4", ["a model", "--model icnet-camvid-int8-block4x4"]),
            ("block4x4", ["a model", "--model block4x4"]),
            ("weights/mine.npz", ["a model", "--model weights/mine.npz"]),
            ("block4x5", ["no such file", "sparse-60, block4x4", "did you mean block4x4"]),
            ("nothing", ["no such file", "sparse-60, block4x4"]),
        ],
    )
    @pytest.mark.parametrize("command", ["segment", "verify"])
    def test_a_model_is_not_taken_for_a_picture(self, run, photo, tmp_path, command, word, parts):
        """The default model does not run in place of the one that was meant."""
        place = ["-o", tmp_path / "out"] if command == "segment" else []
        if command == "verify" and "a model" in parts:
            place, photo = ["--model", "sparse-60"], photo
        result = run(command, word, photo, *place, *SMALL)
        assert_one_error_line(result, word, *parts)
        assert not (tmp_path / "out").exists()

    def test_usage(self, run, tiny_file, photo, tmp_path):
        model = ["--model", tiny_file, *SMALL]
        empty = tmp_path / "empty"
        empty.mkdir()
        out = ["-o", tmp_path / "out"]
        assert_one_error_line(run("segment", *out, *model), "expected pictures, a folder", "--sample")
        assert_one_error_line(run("segment", photo, *model), "-o/--output")
        assert_one_error_line(run("segment", empty, *out, *model), empty, "found none", "--recursive")
        assert_one_error_line(run("segment", f"{empty}/*.png", *out, *model), "*.png", "matches")
        assert_one_error_line(run("segment", photo.parent, "-o", photo.parent, *model), "output folder")
        assert_one_error_line(run("segment", photo, "-o", photo, *model), photo, "File exists")
        assert_one_error_line(run("segment", photo, *out, "--size", "192"), "HEIGHTxWIDTH", "'192'")
        assert_one_error_line(run("segment", photo, *out, "--threads", "0"), "positive integer", "'0'")
        assert_one_error_line(
            run("segment", photo, *out, "--model", tiny_file, "--size", "100x100"), "100x100"
        )
        assert_one_error_line(run("segment", photo, *out, "--model", "none.npz"), "none.npz", "No such file")
        assert_one_error_line(run("segment", photo, *out, "--model", photo), photo, "expected a model")

    def test_unreadable_exif_stops_no_batch(self, run, tiny_file, tmp_path):
        folder, out = tmp_path / "in", tmp_path / "out"
        folder.mkdir()
        for name in ("a.jpg", "b.jpg", "c.jpg"):
            exif = {"exif": b"Exif\0\0not a TIFF header"} if name == "b.jpg" else {}
            Image.fromarray(random_picture(60, 80)).save(folder / name, **exif)
        code, _, err = run("segment", folder, "-o", out, "--model", tiny_file, *SMALL)
        assert (code, err) == (0, "")
        same = [read_map(out / f"{name}.jpg.classes.png") for name in "ab"]
        assert np.array_equal(*same)
        assert (out / "c.jpg.classes.png").is_file()


def figures_of(out: str) -> list[float]:
    """The two figures of the line of the mean, in percent."""
    (line,) = (line for line in out.splitlines() if line.startswith("mIoU"))
    return [float(found) for found in line.split()[1:]]


class TestEval:
    @pytest.fixture
    def data(self, tmp_path, tiny_net) -> Path:
        """Four frames labelled by the network itself, but for a border of class 11; the third is wrong."""
        rng = np.random.default_rng(0)
        for folder in ("val", "valannot"):
            (tmp_path / folder).mkdir()
        for i in range(4):
            pixels = random_picture(192, 192, seed=i)
            labels = tiny_net.segment(pixels).copy()
            labels[:5] = 11
            if i == 2:
                labels = rng.integers(0, 11, labels.shape).astype(np.uint8)
            Image.fromarray(pixels).save(tmp_path / "val" / f"f{i}.png")
            Image.fromarray(labels).save(tmp_path / "valannot" / f"f{i}.png")
        return tmp_path

    def test_perfect_and_worse(self, run, data, tiny_file):
        code, out, _ = run("eval", tiny_file, "--data", data, "--limit", 2, "-q", *SMALL)
        assert code == 0
        smooth, blocks = figures_of(out)
        assert smooth == 100.0 > blocks > 50
        assert out.endswith("2 frames at 192x192\n")
        code, out, err = run("eval", tiny_file, "--data", data, "--json", data / "r.json", *SMALL)
        assert (code, err) == (0, "")
        figures = json.loads((data / "r.json").read_text())
        assert figures["frames"] == 4
        for kind, found in zip(("smooth", "blocks"), figures_of(out), strict=True):
            assert 0.1 < figures[kind]["mean_iou"] < 0.99
            assert round(100 * figures[kind]["mean_iou"], 2) == found
            counted = [v for name, v in figures[kind]["iou"].items() if v is not None]
            assert figures[kind]["mean_iou"] == pytest.approx(np.mean(counted))
            assert figures[kind]["iou"]["unlabelled"] is None
        assert figures["smooth"] != figures["blocks"]

    def test_bad_data(self, run, data, tiny_file, tmp_path):
        command = ["eval", tiny_file, "-q", *SMALL, "--data"]
        assert_one_error_line(run(*command, tmp_path / "none"), "none", "expected a folder")
        assert_one_error_line(run(*command, data, "--split", "test"), data / "test")
        assert_one_error_line(run(*command, data, "--limit", "-1"), "positive integer")
        label = data / "valannot" / "f1.png"
        whole = label.read_bytes()
        label.write_bytes(whole[:100])
        assert_one_error_line(run(*command, data), label)
        Image.fromarray(random_picture(8, 8)).save(label)
        assert_one_error_line(run(*command, data), label, "mode RGB")
        Image.new("L", (8, 8), 200).save(label)
        assert_one_error_line(run(*command, data), label, "expected classes 0..11, found 200")
        label.unlink()
        assert_one_error_line(run(*command, data), label, "found none")

    @pytest.fixture
    def no_work(self, monkeypatch):
        """Fails the test if the network runs."""
        monkeypatch.setattr(sparse_icnet.Model, "segment_at_network_size", None)

    def test_all_is_checked_before_the_work(self, run, data, tiny_file, tmp_path, no_work):
        command = ["eval", tiny_file, "-q", *SMALL, "--data", data]
        (tmp_path / "folder.json").mkdir()
        for path in (tmp_path / "no" / "r.json", tmp_path / "folder.json", tiny_file / "r.json"):
            result = run(*command, "--json", path)
            assert_one_error_line(result, path)
            assert ".tmp" not in result[2]
        Image.new("L", (8, 8), 200).save(data / "valannot" / "f3.png")
        assert_one_error_line(run(*command), data / "valannot" / "f3.png", "found 200")
        (data / "val" / "f1.png").write_bytes(b"no picture")
        assert_one_error_line(run(*command), data / "val" / "f1.png", "expected a picture")

    def test_labels_that_nobody_asks_for(self, run, data, tiny_file):
        (data / "valannot" / "f3.png").unlink()
        assert run("eval", tiny_file, "-q", *SMALL, "--data", data, "--limit", "2")[0] == 0

    def test_a_folder_without_data(self, run, data, no_work):
        assert_one_error_line(run("eval", data), "--data DIR", f"did you mean --data {data}?")
        assert_one_error_line(run("eval", "block4x5"), "did you mean block4x4")
        assert_one_error_line(run("eval"), "--data DIR")


class TestVerify:
    def test_the_engine_agrees_with_the_oracle(self, run, tiny_file, photo):
        code, out, err = run("verify", tiny_file, photo, *SMALL)
        assert (code, err) == (0, "")
        assert "bit for bit" in out
        assert out.endswith("PASSED\n")
        assert int(re.search(r"(\d+) intermediate tensors equal", out)[1]) > 40

    def test_a_divergence_is_found_and_named(self, run, tiny_file, photo, monkeypatch):
        """An engine that computes one wrong code somewhere in the middle."""
        from sparse_icnet.run.session import Session

        right, wrong_result = Session.tensor, Session.probabilities

        def tensor(self, name):
            codes = right(self, name).copy()
            if name == "conv4_2/codes":
                codes[3, 2, 1] += 2
            return codes

        def probabilities(self, blob, out=None):
            result = wrong_result(self, blob, out)
            result[:, 5, 5] = result[::-1, 5, 5]
            return result

        monkeypatch.setattr(Session, "tensor", tensor)
        monkeypatch.setattr(Session, "probabilities", probabilities)
        code, out, _ = run("verify", tiny_file, photo, *SMALL)
        assert code == 1
        assert "'conv4_2/codes': 1 of" in out
        assert "by up to 2" in out
        assert "not the bits of the oracle" in out
        assert out.endswith("FAILED\n")

    def test_a_trivial_result_does_not_pass(self, run, tiny_graph, photo, tmp_path):
        """All weights of the classifier zero: one class everywhere, and the oracle agrees, and yet."""
        ops = [replace(op, weight=op.weight * 0) if op.name == "conv6_cls" else op for op in tiny_graph.ops]
        path = tmp_path / "constant.npz"
        native.save(replace(tiny_graph, ops=tuple(ops)), path)
        code, out, _ = run("verify", path, photo, *SMALL)
        assert code == 1
        assert "everywhere" in out

    def test_bad_input(self, run, tiny_file, tmp_path):
        assert_one_error_line(run("verify", tiny_file, tmp_path / "no.png", *SMALL), "no.png", "No such file")
        assert_one_error_line(run("verify", "no.npz", *SMALL), "no.npz")
        assert_one_error_line(run("verify", tiny_file, "--against", "faith"), "faith")

    @pytest.mark.parametrize(
        ("against", "package"), [("openvino", "openvino"), ("onnxruntime", "onnxruntime")]
    )
    def test_a_missing_runtime_is_named(self, run, tiny_file, monkeypatch, against, package):
        monkeypatch.setitem(sys.modules, package, None)
        assert_one_error_line(run("verify", tiny_file, "--against", against, *SMALL), package, "pip install")


class TestModels:
    def test_convert_there_and_back(self, run, tiny_file, tiny_graph, tmp_path):
        ir, back = tmp_path / "m.xml", tmp_path / "m.npz"
        code, out, err = run("convert", tiny_file, ir)
        assert (code, err) == (0, "")
        assert "64 convolutions" in out
        assert ir.with_suffix(".bin").stat().st_size > 6_000_000
        assert run("convert", ir, back)[0] == 0
        graph = native.load(back)
        assert graph.input.shape == tiny_graph.input.shape
        assert len(graph.convolutions) == 64
        for one in tiny_graph.convolutions:
            assert np.array_equal(graph[one.name].weight, one.weight)

    def test_export(self, run, tiny_file, tmp_path):
        assert run("export", tiny_file, tmp_path / "m.xml", "--size", "192x384")[0] == 0
        assert 'version="11"' in (tmp_path / "m.xml").read_text()[:200]

    def test_bad_conversions(self, run, tiny_file, tmp_path):
        assert_one_error_line(run("convert", tiny_file, tmp_path / "m.pt"), "m.pt", ".npz, .xml, .onnx")
        assert_one_error_line(run("convert", tmp_path / "none.xml", tmp_path / "m.npz"), "none.xml")
        result = run("convert", tiny_file, tmp_path / "no" / "m.npz")
        assert_one_error_line(result, tmp_path / "no" / "m.npz")
        assert ".tmp" not in result[2]
        assert_one_error_line(run("convert", tmp_path / "m.npz"), "expected a model and a file")
        broken = tmp_path / "broken.npz"
        broken.write_bytes(tiny_file.read_bytes()[:-1000])
        assert_one_error_line(run("convert", broken, tmp_path / "m.npz"), broken)
        assert not (tmp_path / "m.npz").exists()

    def test_info(self, run, tiny_file, tiny_graph, monkeypatch):
        code, out, err = run("info", tiny_file, *SMALL)
        assert (code, err) == (0, "")
        zeros = np.mean(np.concatenate([op.weight.ravel() for op in tiny_graph.convolutions]) == 0)
        assert f"{100 * zeros:.2f} % zeros" in out.replace("\n", " ")
        for op in tiny_graph.convolutions:
            assert re.search(rf"^{re.escape(op.name)} +{'x'.join(map(str, op.weight.shape))} ", out, re.M)

    def test_profile(self, run, tiny_file):
        code, out, err = run("profile", tiny_file, "--runs", 2, *SMALL)
        assert (code, err) == (0, "")
        assert re.search(r"^conv6_cls +[\d.]+ +[\d.]+ +[\d.]+ +[\d.]+ +\w+", out, re.M)
        assert "1 thread" in out

    @pytest.mark.parametrize("command", ["info", "profile"])
    def test_tables_fit_the_terminal_and_use_what_there_is(self, run, tiny_file, monkeypatch, command):
        texts = {}
        for columns in (80, 120, 400):
            monkeypatch.setenv("COLUMNS", str(columns))
            code, texts[columns], _ = run(command, tiny_file, *SMALL)
            assert code == 0
            assert max(map(len, texts[columns].splitlines()[1:])) <= columns  # the first line is a path
        for texts_of, words in (
            (texts[80], ["zeros %", "empty 4x4 %"]),
            (texts[400], ["why", "empty 1x4 %"]),
        ):
            assert command != "info" or all(word in texts_of for word in words)
        assert len(texts[80]) < len(texts[120]) <= len(texts[400])

    def test_json_of_every_command_with_figures(self, run, tiny_file, tiny_graph, photo, tmp_path):
        commands = {"info": ["info"], "profile": ["profile", "--runs", 1], "verify": ["verify", photo]}
        figures = {}
        for name, words in commands.items():
            code, out, err = run(*words, "--model", tiny_file, "--json", *SMALL)
            assert (code, err) == (0, "")
            figures[name] = json.loads(out)
            path = tmp_path / f"{name}.json"
            code, out, _ = run(*words, "--model", tiny_file, "--json", path, *SMALL)
            assert code == 0
            assert not out.startswith("{")
            assert json.loads(path.read_text()).keys() == figures[name].keys()
        layers = {layer["name"]: layer for layer in figures["info"]["layers"]}
        for op in tiny_graph.convolutions:
            assert layers[op.name]["zeros"] == pytest.approx((op.weight == 0).mean())
            assert layers[op.name]["empty_4x4"] <= layers[op.name]["empty_1x4"] <= layers[op.name]["zeros"]
        steps = figures["profile"]["steps"]
        assert sum(step["milliseconds"] for step in steps) == pytest.approx(
            figures["profile"]["milliseconds"]
        )
        assert figures["verify"]["passed"] is True
        assert_one_error_line(run("info", "--json", tiny_file), "ends in .json", tiny_file)


class TestFirstMinute:
    @pytest.fixture
    def uncompiled(self, monkeypatch, tmp_path):
        """As if no cache had the kernels (they are loaded in this process, so nothing is compiled)."""
        monkeypatch.setattr(machine_code, "is_cached", lambda: False)
        monkeypatch.setattr(machine_code, "warm_up", lambda: tmp_path / "run.o")

    def test_a_line_before_compiling(self, run, tiny_file, photo, tmp_path, uncompiled):
        command = ("segment", photo, "-o", tmp_path / "out", "--model", tiny_file, *SMALL)
        code, _, err = run(*command)
        assert code == 0
        assert "compiling the kernels for this CPU, once after an install: 15 to 60 s" in err
        assert f"kept in {tmp_path}" in err
        assert run(*command, "-q")[2] == ""

    def test_warmup(self, run, tmp_path, monkeypatch):
        code, out, err = run("warmup")
        assert (code, err) == (0, "")
        assert "are there" in out
        monkeypatch.setattr(machine_code, "warm_up", lambda: None)
        assert_one_error_line(run("warmup"), "no folder can keep", "NUMBA_CACHE_DIR")

    def test_warmup_compiles(self, run, uncompiled, tmp_path):
        code, out, _ = run("warmup")
        assert code == 0
        assert out.splitlines()[0] == "compiling the kernels for this CPU: 15 to 60 s ..."
        assert str(tmp_path / "run.o") in out
        assert run("warmup", "-q")[1] == ""

    def test_models(self, run, monkeypatch):
        monkeypatch.setenv("COLUMNS", "80")
        code, out, err = run("models")
        assert (code, err) == (0, "")
        assert max(map(len, out.splitlines())) <= 80
        for name in bundled.names():
            net = sparse_icnet.load(name)
            smooth, blocks = (net.meta.accuracy[f"mIoU, CamVid val, {kind}"] for kind in ("smooth", "blocks"))
            figures = [net.info().zeros, None, smooth, blocks]
            cells = next(line.split() for line in out.splitlines() if line.startswith(f"{name} "))
            for figure, cell in zip(figures, cells[1:], strict=False):
                assert figure is None or cell == f"{100 * figure:.2f}"
            assert 40 < float(cells[2]) < 100
        models = json.loads(run("models", "--json")[1])["models"]
        assert [model["name"] for model in models] == bundled.names()
        assert [model["default"] for model in models] == [True, False]
        assert all(model["notes"] and model["licence"] == "Apache-2.0" for model in models)

    def test_verbose_lines_of_the_logger(self, run, tiny_file, monkeypatch):
        from sparse_icnet.cli import info

        def say_something(arguments):
            logging.getLogger("sparse_icnet.part").info("of interest")
            logging.getLogger("sparse_icnet.part").debug("of little interest")
            return 0

        monkeypatch.setattr(info, "run", say_something)
        assert run("info", tiny_file)[2] == ""
        assert run("info", tiny_file, "-v")[2] == "sparse-icnet: of interest\n"
        assert run("info", tiny_file, "-vv")[2].splitlines()[1] == "sparse-icnet: of little interest"

    @pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
    @pytest.mark.parametrize(
        ("words", "expected"),
        [
            (["seg"], {"segment"}),
            (["segment", "--ov"], {"--overwrite"}),
            (["info", "--model", "bl"], {"block4x4"}),
            (["verify", "--against", "o"], {"oracle", "openvino", "onnxruntime"}),
        ],
    )
    def test_completion_in_bash(self, run, tmp_path, words, expected):
        pytest.importorskip("shtab")
        code, out, _ = run("completion", "bash")
        assert code == 0
        (tmp_path / "complete.bash").write_text(out)
        text = (
            f"source {tmp_path}/complete.bash; COMP_WORDS=(sparse-icnet {' '.join(words)}); "
            f'COMP_CWORD={len(words)}; _shtab_sparse_icnet; printf "%s\\n" "${{COMPREPLY[@]}}"'
        )
        found = subprocess.run(["bash", "-c", text], cwd=tmp_path, capture_output=True, text=True, timeout=60)
        assert set(found.stdout.split()) == expected, found.stderr

    def test_completion_in_zsh_and_without_shtab(self, run, monkeypatch):
        pytest.importorskip("shtab")
        assert run("completion", "zsh")[1].startswith("#compdef sparse-icnet")
        monkeypatch.setitem(sys.modules, "shtab", None)
        assert_one_error_line(run("completion", "bash"), "shtab", "sparse-icnet[cli]")


class TestErrors:
    def test_no_command(self, run):
        assert_one_error_line(run(), "COMMAND")
        assert_one_error_line(run("paint"), "paint")
        assert_one_error_line(run("segmnet"), "segmnet", "did you mean segment?")
        assert_one_error_line(run("info", "--thread-s", "1"), "--thread-s", "did you mean --threads?")
        assert_one_error_line(run("info", "sparse-60", "--sizes=3x4"), "--sizes", "did you mean --size?")
        assert_one_error_line(run("info", "sparse-60", "more"), "'more'")
        assert_one_error_line(run("info", "sparse-60", "--model", "block4x4"), "one model")

    def test_version_and_help(self, run, monkeypatch):
        monkeypatch.setenv("COLUMNS", "80")
        assert run("--version")[:2] == (0, f"sparse-icnet {sparse_icnet.__version__}\n")
        code, out, _ = run("--help")
        assert code == 0
        assert "exit codes" in out
        commands = re.findall(r"^    (\w+) ", out, re.M)
        assert commands[:2] == ["segment", "models"]
        assert len(commands) == 10
        for command in commands:
            code, text, _ = run(command, "--help")
            assert code == 0
            assert len(text) > 300
            assert max(map(len, text.splitlines())) <= 80

    def test_an_error_inside_is_not_taken_for_bad_input(self, run, monkeypatch, tiny_file):
        from sparse_icnet.cli import info

        monkeypatch.setattr(info, "run", lambda arguments: {}["layer"])
        assert_one_error_line(run("info", tiny_file), "internal error: KeyError", code=3)

    def test_missing_package(self, run, monkeypatch, tiny_file, tmp_path):
        monkeypatch.setitem(sys.modules, "onnx", None)
        assert_one_error_line(run("convert", tiny_file, tmp_path / "m.onnx"), "onnx", "pip install")

    def test_interrupt(self, run, monkeypatch, tiny_file):
        from sparse_icnet.cli import info

        def interrupted(arguments):
            raise KeyboardInterrupt

        monkeypatch.setattr(info, "run", interrupted)
        assert_one_error_line(run("info", tiny_file), "interrupted", code=130)


def process(*arguments, **options):
    return subprocess.Popen(
        [sys.executable, "-m", "sparse_icnet", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        **options,
    )


class TestProcess:
    """What only a real process shows."""

    def test_module_runs(self):
        with process("--version") as child:
            out, err = child.communicate(timeout=60)
        assert out.decode().strip() == f"sparse-icnet {sparse_icnet.__version__}"
        assert (child.returncode, err) == (0, b"")

    def test_reader_goes_away(self, tiny_file):
        with process("info", tiny_file, *SMALL) as child:
            child.stdout.close()
            err = child.stderr.read()
        assert child.returncode == 141
        assert err == b""

    @pytest.mark.skipif(os.name != "posix", reason="signals to a process as POSIX has them")
    def test_ctrl_c(self, tiny_file, tmp_path):
        frames = tmp_path / "frames"
        frames.mkdir()
        Image.fromarray(random_picture(300, 300)).save(frames / "0.png")
        for i in range(1, 300):
            (frames / f"{i}.png").write_bytes((frames / "0.png").read_bytes())

        def listen():  # where the tests run in the background, SIGINT is ignored, which a child would inherit
            signal.signal(signal.SIGINT, signal.default_int_handler)

        arguments = ("segment", frames, "-o", tmp_path / "out", "--model", tiny_file, "-v", *SMALL)
        with process(*arguments, preexec_fn=listen) as child:
            assert b"[1/300]" in child.stdout.readline()
            time.sleep(0.1)
            child.send_signal(signal.SIGINT)
            _, err = child.communicate(timeout=60)
        assert child.returncode == 130
        assert errors_of(err.decode()) == "sparse-icnet: error: interrupted\n"
        names = [p.name for p in (tmp_path / "out").iterdir()]
        assert 0 < len(names) < 600
        lines = (tmp_path / "out" / "manifest.jsonl").read_text().splitlines()
        assert 0 < len(lines) == len([json.loads(line) for line in lines])
        assert not [name for name in names if name.endswith(".tmp")]

    def test_odd_file_names(self, tiny_file, tmp_path):
        odd = tmp_path / "caf\udce9 \n\u2603.png"  # not UTF-8, a line break, a snowman
        try:
            Image.fromarray(random_picture(30, 30)).save(tmp_path / "plain.png")
            os.rename(tmp_path / "plain.png", odd)
        except (OSError, UnicodeError):
            pytest.skip("this file system takes no such name")
        environment = os.environ | {"LC_ALL": "C", "PYTHONIOENCODING": "ascii"}
        with process(
            "segment", odd, "-o", tmp_path / "out", "--model", tiny_file, *SMALL, env=environment
        ) as child:
            _, err = child.communicate(timeout=120)
        assert (child.returncode, err) == (0, b"")
        assert len(pictures_of(tmp_path / "out")) == 2

    @pytest.mark.skipif(os.name != "posix", reason="descriptors as POSIX has them")
    @pytest.mark.parametrize("closed", [(1,), (0, 1, 2)])
    def test_closed_streams(self, tiny_file, photo, tmp_path, closed):
        """`>&-`: what would be printed is lost, the files are written, and none of them becomes standard output."""
        text = (
            "import os, sys\n"
            f"for number in {closed}: os.close(number)\n"
            "os.execv(sys.executable, [sys.executable, '-m', 'sparse_icnet', *sys.argv[1:]])\n"
        )
        arguments = ("segment", photo, "-o", tmp_path / "out", "--model", tiny_file, *SMALL)
        code = subprocess.run(
            [sys.executable, "-c", text, *map(str, arguments)], stderr=subprocess.PIPE, timeout=120
        )
        assert (code.returncode, code.stderr) == (0, b"")
        assert read_map(tmp_path / "out" / "photo.png.classes.png").shape == (100, 140)

    @pytest.mark.skipif(not os.path.exists("/dev/full"), reason="a device that is always full")
    def test_a_full_disk_is_named(self, tiny_file):
        with open("/dev/full", "w") as full:
            child = subprocess.run(
                [sys.executable, "-m", "sparse_icnet", "info", str(tiny_file), *SMALL],
                stdout=full,
                stderr=subprocess.PIPE,
                timeout=120,
            )
        assert child.returncode == 2
        assert child.stderr == b"sparse-icnet: error: standard output: No space left on device\n"

    @pytest.mark.skipif(os.name != "posix", reason="signals to a process as POSIX has them")
    def test_ctrl_c_while_modules_are_imported(self, tiny_file):
        """At moments spread over the start: one line, never a traceback."""

        def listen():
            signal.signal(signal.SIGINT, signal.default_int_handler)

        start = time.perf_counter()
        with process("info", tiny_file, *SMALL, preexec_fn=listen) as child:
            child.communicate(timeout=60)
        whole = time.perf_counter() - start
        # Before the first line of `main` nobody can answer but the interpreter: begin when it has imported the package.
        code = "import os, sys\nfrom sparse_icnet.cli import main\nos.write(1, b'x')\nsys.exit(main())"
        for i in range(8):
            with subprocess.Popen(
                [sys.executable, "-c", code, "info", str(tiny_file), *SMALL],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                preexec_fn=listen,
            ) as child:
                assert child.stdout.read(1) == b"x"
                time.sleep(0.003 + i / 8 * 0.6 * whole)
                child.send_signal(signal.SIGINT)
                _, err = child.communicate(timeout=60)
            assert (child.returncode, err) in [(130, b"sparse-icnet: error: interrupted\n"), (0, b"")], err


def test_the_sample_with_the_bundled_weights(run, tmp_path):
    """The README's first command."""
    code, out, err = run("segment", "--sample", "-o", tmp_path)
    assert (code, err) == (0, "")
    classes = read_map(tmp_path / "china.jpg.classes.png")
    assert classes.shape == (427, 640)
    assert len(np.unique(classes)) >= 4
    assert str(bundled.SAMPLE_IMAGE) in out
