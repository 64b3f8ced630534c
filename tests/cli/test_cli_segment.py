"""`sparse-icnet segment`: names, kinds of results, the manifest, what is replaced and what is left alone."""

from __future__ import annotations

import hashlib
import io
import os
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from command_line import SMALL, assert_one_error_line, errors_of, manifest_of, pictures_of, read_map
from networks import random_picture
from PIL import Image
from PIL.PngImagePlugin import PngInfo

import sparse_icnet
from sparse_icnet import render
from sparse_icnet.cli import inputs
from sparse_icnet.jobs import work


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

    @pytest.mark.skipif(os.name == "nt", reason="file names of Windows hold no control characters")
    def test_a_name_cannot_steer_the_terminal(self, run, tiny_file, tmp_path):
        (tmp_path / "a\x1b[2J\u202eb.jpg").write_bytes(b"no picture")
        result = run("segment", tmp_path, "-o", tmp_path / "out", "--model", tiny_file, *SMALL)
        assert_one_error_line(result, "a\\x1b[2J\\u202eb.jpg: ")

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

    def test_a_result_that_another_process_writes_meanwhile_stays(
        self, run, tiny_file, tmp_path, monkeypatch
    ):
        """Both have looked and found the name free; the second to write it sees whose it is by then."""
        for i, name in enumerate(["d1", "d2"]):
            (tmp_path / name).mkdir()
            Image.fromarray(random_picture(20 + i, 30, seed=i)).save(tmp_path / name / "x.png")
        out, predict, calls = tmp_path / "out", sparse_icnet.Model.predict, []

        def meanwhile(model, picture, smooth):
            result = predict(model, picture, smooth)
            calls.append(picture.height)
            if len(calls) == 1:
                assert run("segment", tmp_path / "d2", "-o", out, "--model", tiny_file, *SMALL)[0] == 0
            return result

        monkeypatch.setattr(sparse_icnet.Model, "predict", meanwhile)
        result = run("segment", tmp_path / "d1", "-o", out, "--model", tiny_file, *SMALL)
        assert_one_error_line(result, "x.png.classes.png", "another source", "--overwrite")
        assert calls == [20, 21]
        assert {read_map(out / "x.png.classes.png").shape[0]} == {21}
        calls.clear()
        both = ("segment", tmp_path / "d1", "-o", out, "--overwrite", "--model", tiny_file, *SMALL)
        assert run(*both)[0] == 0
        assert read_map(out / "x.png.classes.png").shape[0] == 20

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

    @pytest.mark.parametrize(
        ("content", "part"),
        [
            ("a.png\0b.png\n", "NUL character"),
            (None, "closed"),
            ("x" * 200, "at most 100 bytes"),
        ],
    )
    def test_a_list_of_no_use(self, run, tiny_file, tmp_path, monkeypatch, content, part):
        stdin = None if content is None else io.TextIOWrapper(io.BytesIO(content.encode()))
        monkeypatch.setattr(sys, "stdin", stdin)
        monkeypatch.setattr(inputs, "MAX_LIST", 100)
        command = ("segment", "--from", "-", "-o", tmp_path / "out", "--model", tiny_file, *SMALL)
        assert_one_error_line(run(*command), "-: expected", part)

    def test_an_empty_name_is_not_the_current_folder(self, run, tiny_file, photo, tmp_path, monkeypatch):
        monkeypatch.chdir(photo.parent)
        out = ("-o", tmp_path / "out")
        assert_one_error_line(run("segment", "", *out, "--model", tiny_file), "empty argument")
        assert_one_error_line(
            run("segment", photo, *out, "--model", ""), "expected a file or one of sparse-60"
        )
        assert_one_error_line(run("segment", photo, "-o", "", "--model", tiny_file), "empty name")
        assert_one_error_line(run("eval", tiny_file, "--data", ""), "empty name")
        assert not (tmp_path / "out").exists()

    @pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes with names")
    def test_a_pipe_with_a_name_is_not_waited_for(self, run, tiny_file, photo, tmp_path):
        model = ("--model", tiny_file, "--no-overlay", *SMALL)
        os.mkfifo(photo.parent / "pipe.png")
        code, _, err = run("segment", photo.parent / "*.png", "-o", tmp_path / "out", *model)
        assert (code, err) == (0, "")
        assert pictures_of(tmp_path / "out") == ["photo.png.classes.png"]
        (tmp_path / "more").mkdir()
        os.mkfifo(tmp_path / "more" / "manifest.jsonl")
        assert_one_error_line(
            run("segment", photo, "-o", tmp_path / "more", *model), "manifest.jsonl", "no file"
        )

    def test_text_in_a_picture_stops_no_batch(self, run, tiny_file, photo, tmp_path):
        """Deep JSON where the mark of a result stands: what a parser raises about it counts as no mark."""
        text = PngInfo()
        text.add_text("sparse-icnet", "[" * 3000)
        Image.fromarray(random_picture(20, 30)).save(photo.parent / "deep.png", pnginfo=text)
        out, model = tmp_path / "out", ("--model", tiny_file, "--no-overlay", *SMALL)
        code, _, err = run("segment", photo.parent / "*.png", "-o", out, *model)
        assert (code, err) == (0, "")
        assert pictures_of(out) == ["deep.png.classes.png", "photo.png.classes.png"]
        (out / "manifest.jsonl").write_text("[" * 100_000 + "\n")
        assert_one_error_line(run("segment", photo, "-o", out, *model), "is no manifest")

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

    def test_overlays_as_jpeg(self, run, tiny_file, photo, tmp_path):
        """They are no input, and need not be made again."""
        out = tmp_path / "out"
        command = ["segment", photo, "-o", out, "--model", tiny_file, *SMALL, "--no-legend"]
        command += ["--save", "classes,overlay,side-by-side", "--drawn"]
        assert run(*command, "jpeg")[0] == 0
        written = {path.name: path.stat().st_mtime_ns for path in out.iterdir()}
        kinds = ("photo.png.classes.png", "photo.png.overlay.jpg", "photo.png.side-by-side.jpg")
        assert set(written) == {*kinds, "manifest.jsonl"}
        assert run(*command, "jpeg", "--skip-existing")[0] == 0
        assert {path.name: path.stat().st_mtime_ns for path in out.iterdir()} == written
        assert run(*command, "png", "--skip-existing")[0] == 0
        with Image.open(out / kinds[1]) as jpeg, Image.open(out / "photo.png.overlay.png") as png:
            assert jpeg.format == "JPEG"
            assert jpeg.size == png.size
        again = run("segment", out / kinds[1], "-o", tmp_path / "more", "--model", tiny_file, *SMALL)
        assert_one_error_line(again, "only results of sparse-icnet")
        assert_one_error_line(run(*command, "jpg"), "did you mean jpeg?")

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
            place, parts = ["--model", "sparse-60"], ["expected one model", "--model sparse-60"]
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
        assert_one_error_line(run("segment", f"{empty}/a**b", *out, *model), "a**b: expected a pattern")
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
