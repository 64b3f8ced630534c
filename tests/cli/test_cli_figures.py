"""Commands that print figures: eval, verify, convert, export, info, profile; tables and JSON."""

from __future__ import annotations

import json
import re
import sys
import weakref
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from command_line import SMALL, assert_one_error_line
from networks import random_picture
from PIL import Image

import sparse_icnet
from sparse_icnet.formats import native
from sparse_icnet.reference import compare


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

    def test_frames_that_break_off_are_all_named_before_the_work(self, run, data, tiny_file, no_work):
        """Their headers are whole: only decoding shows it."""
        for i in (1, 3):
            frame = data / "val" / f"f{i}.png"
            frame.write_bytes(frame.read_bytes()[:-200])
        result = run("eval", tiny_file, "-q", *SMALL, "--data", data)
        assert_one_error_line(result, "2 of 4 frames", data / "val" / "f1.png", data / "val" / "f3.png")
        Image.fromarray(random_picture(20, 20)).save(data / "val" / "f3.png")
        assert_one_error_line(run("eval", tiny_file, "-q", *SMALL, "--data", data), "f1.png", "damaged")

    def test_usage_says_what_is_required(self, run):
        assert "--data DIR [MODEL]" in run("eval", "--help")[1].splitlines()[0]

    def test_labels_that_nobody_asks_for(self, run, data, tiny_file):
        (data / "valannot" / "f3.png").unlink()
        assert run("eval", tiny_file, "-q", *SMALL, "--data", data, "--limit", "2")[0] == 0

    def test_a_folder_without_data(self, run, data, no_work):
        assert_one_error_line(run("eval", data), "--data DIR", f"did you mean --data {data}?")
        assert_one_error_line(run("eval", "block4x5"), "did you mean block4x4")
        assert_one_error_line(run("eval"), "--data DIR")


class TestVerify:
    def test_two_models(self, run, tiny_file, photo):
        for words in ((tiny_file, photo), (photo, tiny_file)[::-1]):
            result = run("verify", *words, "--model", "block4x4", *SMALL)
            assert_one_error_line(result, f"expected one model, found {tiny_file} and --model block4x4")

    def test_one_picture_is_held_at_a_time(self, run, tiny_file, photo, monkeypatch):
        """A folder of them would fill memory."""
        made, most = [], []
        blob = sparse_icnet.Model.blob

        def counted(net, picture):
            whole = blob(net, picture)
            made.append(weakref.ref(whole))
            most.append(sum(one() is not None for one in made))
            return whole

        monkeypatch.setattr(sparse_icnet.Model, "blob", counted)
        monkeypatch.setattr(compare, "_against_oracle", lambda report, *_: report)
        for i in range(5):
            (photo.parent / f"{i}.png").write_bytes(photo.read_bytes())
        run("verify", tiny_file, photo.parent, "-q", *SMALL)
        assert len(most) == 12
        assert max(most) <= 2

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
        (tmp_path / "data.bin").write_bytes(b"of something else")
        for command in ("convert", "export"):
            result = run(command, tiny_file, tmp_path / "data.xml")
            assert_one_error_line(result, tmp_path / "data.bin", "exists without data.xml")
        assert (tmp_path / "data.bin").read_bytes() == b"of something else"
        (tmp_path / "data.bin").unlink()
        for _ in range(2):  # its own it replaces
            assert run("convert", tiny_file, tmp_path / "data.xml")[0] == 0
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
