"""The command line: what it writes, what it prints, its exit codes; in this process and as a real one."""

from __future__ import annotations

import json
import os
import re
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
from sparse_icnet import bundled, cli
from sparse_icnet.formats import npz

SMALL = ["--size", "192x192", "--threads", "1"]


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


def read_map(path):
    with Image.open(path) as picture:
        assert picture.format == "PNG"
        assert picture.mode == "P"
        return np.asarray(picture)


class TestSegment:
    def test_writes_what_the_model_says(self, run, tiny_file, tiny_net, photo, tmp_path):
        code, out, err = run("segment", photo, "-o", tmp_path / "a" / "out", "--model", tiny_file, *SMALL)
        assert (code, err) == (0, "")
        classes = read_map(tmp_path / "a" / "out" / "photo.classes.png")
        assert np.array_equal(classes, tiny_net.segment(photo))
        with Image.open(tmp_path / "a" / "out" / "photo.overlay.png") as overlay:
            assert overlay.mode == "RGB"
            assert overlay.size == (140, 100)
            assert not np.array_equal(np.asarray(overlay), random_picture(100, 140, seed=4))
        assert str(photo) in out
        assert re.search(r"\d+ % -> .*photo\.classes\.png", out)
        assert sorted(p.name for p in (tmp_path / "a" / "out").iterdir()) == [
            "photo.classes.png",
            "photo.overlay.png",
        ]

    def test_folder_with_a_broken_picture(self, run, tiny_file, tmp_path):
        frames = tmp_path / "frames"
        frames.mkdir()
        for i in range(5):
            Image.fromarray(random_picture(60, 80, seed=i)).save(frames / f"f{i}.png")
        (frames / "f2.png").write_bytes((frames / "f2.png").read_bytes()[:200])
        (frames / "notes.txt").write_text("not a picture, not tried")
        result = run("segment", frames, "-o", tmp_path / "out", "--model", tiny_file, "--no-overlay", *SMALL)
        assert_one_error_line(result, frames / "f2.png")
        assert [line[:5] for line in result[1].splitlines()] == ["[1/5]", "[2/5]", "[4/5]", "[5/5]", "4 of "]
        assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
            f"f{i}.classes.png" for i in (0, 1, 3, 4)
        ]

    def test_missing_picture_among_others(self, run, tiny_file, photo, tmp_path):
        result = run("segment", "none.png", photo, "-o", tmp_path / "out", "-q", "--model", tiny_file, *SMALL)
        assert_one_error_line(result, "none.png: No such file")
        assert (tmp_path / "out" / "photo.classes.png").is_file()

    def test_one_name_from_several_places(self, run, tiny_file, tmp_path):
        sources = []
        for i, name in enumerate(["a/x.png", "b/x.png", "b/X.bmp", "b/x-2.png", "c/x.classes.png"]):
            path = tmp_path / name
            path.parent.mkdir(exist_ok=True)
            Image.fromarray(random_picture(20 + i, 30)).save(path)
            sources.append(path)
        code, *_ = run("segment", *sources, "-o", tmp_path / "out", "-q", "--model", tiny_file, *SMALL)
        assert code == 0
        heights = {p.name: read_map(p).shape[0] for p in (tmp_path / "out").glob("*.classes.png")}
        assert sorted(heights.values()) == [20, 21, 22, 23, 24]
        assert heights["x.classes.png"] == 20
        assert heights["x-2.classes.png"] == 21
        assert heights["x.classes.classes.png"] == 24

    def test_a_result_is_replaced(self, run, tiny_file, photo, tmp_path):
        out = tmp_path / "out"
        out.mkdir()
        (out / "photo.classes.png").write_bytes(b"old")
        assert run("segment", photo, "-o", out, "--model", tiny_file, *SMALL)[0] == 0
        assert read_map(out / "photo.classes.png").shape == (100, 140)

    def test_usage(self, run, tiny_file, photo, tmp_path):
        model = ["--model", tiny_file, *SMALL]
        empty = tmp_path / "empty"
        empty.mkdir()
        out = ["-o", tmp_path / "out"]
        assert_one_error_line(run("segment", *out, *model), "expected pictures, a folder or --sample")
        assert_one_error_line(run("segment", photo, *model), "-o/--output")
        assert_one_error_line(run("segment", empty, *out, *model), empty, "found none")
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
        assert np.array_equal(read_map(out / "b.classes.png"), read_map(out / "a.classes.png"))
        assert (out / "c.classes.png").is_file()


def figures_of(out: str) -> list[float]:
    """The two figures of the line of the mean, in percent."""
    (line,) = (line for line in out.splitlines() if line.startswith("mIoU"))
    return [float(found) for found in re.findall(r"([\d.]+) %", line)]


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
        assert out.endswith("(2 frames at 192x192)\n")
        code, out, err = run("eval", tiny_file, "--data", data, "--json", data / "r.json", *SMALL)
        assert code == 0
        assert "[4/4]" in err
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


class TestVerify:
    def test_the_engine_agrees_with_the_oracle(self, run, tiny_file, photo):
        code, out, err = run("verify", tiny_file, photo, *SMALL)
        assert (code, err) == (0, "")
        assert "bit for bit" in out
        assert out.endswith("PASSED\n")
        assert int(re.search(r"(\d+) intermediate tensors equal", out)[1]) > 40

    def test_a_divergence_is_found_and_named(self, run, tiny_file, photo, monkeypatch):
        """An engine that computes one wrong code somewhere in the middle."""
        from sparse_icnet.runtime.session import Session

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
        npz.save(replace(tiny_graph, ops=tuple(ops)), path)
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
        graph = npz.load(back)
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
        assert_one_error_line(run("convert", tiny_file, tmp_path / "no" / "m.npz"), tmp_path / "no")
        broken = tmp_path / "broken.npz"
        broken.write_bytes(tiny_file.read_bytes()[:-1000])
        assert_one_error_line(run("convert", broken, tmp_path / "m.npz"), broken)
        assert not (tmp_path / "m.npz").exists()

    def test_info(self, run, tiny_file, tiny_graph):
        code, out, err = run("info", tiny_file, *SMALL)
        assert (code, err) == (0, "")
        zeros = np.mean(np.concatenate([op.weight.ravel() for op in tiny_graph.convolutions]) == 0)
        assert f"{100 * zeros:.2f} % zeros" in out
        for op in tiny_graph.convolutions:
            assert re.search(rf"^{re.escape(op.name)} +{'x'.join(map(str, op.weight.shape))} ", out, re.M)

    def test_profile(self, run, tiny_file):
        code, out, err = run("profile", tiny_file, "--runs", 2, *SMALL)
        assert (code, err) == (0, "")
        assert re.search(r"^conv6_cls +convolution +[\d.]+ +[\d.]+ +[\d.]+ +[\d.]+ +[\d.]+ +\w+", out, re.M)
        assert "1 thread" in out


class TestErrors:
    def test_no_command(self, run):
        assert_one_error_line(run(), "COMMAND")
        assert_one_error_line(run("paint"), "paint")

    def test_version_and_help(self, run):
        assert run("--version")[:2] == (0, f"sparse-icnet {sparse_icnet.__version__}\n")
        code, out, _ = run("--help")
        assert code == 0
        assert "exit codes" in out
        for command in ("segment", "verify", "convert", "export", "info", "eval", "profile"):
            assert command in out
            code, text, _ = run(command, "--help")
            assert code == 0
            assert len(text) > 300
            assert max(map(len, text.splitlines())) < 120

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

        arguments = ("segment", frames, "-o", tmp_path / "out", "--model", tiny_file, *SMALL)
        with process(*arguments, preexec_fn=listen) as child:
            assert b"[1/300]" in child.stdout.readline()
            time.sleep(0.1)
            child.send_signal(signal.SIGINT)
            _, err = child.communicate(timeout=60)
        assert child.returncode == 130
        assert err == b"sparse-icnet: error: interrupted\n"
        names = [p.name for p in (tmp_path / "out").iterdir()]
        assert 0 < len(names) < 600
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
        assert len(list((tmp_path / "out").iterdir())) == 2


def test_the_sample_with_the_bundled_weights(run, tmp_path):
    """The README's first command."""
    code, out, err = run("segment", "--sample", "-o", tmp_path)
    assert (code, err) == (0, "")
    classes = read_map(tmp_path / "china.classes.png")
    assert classes.shape == (427, 640)
    assert len(np.unique(classes)) >= 4
    assert str(bundled.SAMPLE_IMAGE) in out
