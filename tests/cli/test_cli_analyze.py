"""`analyze`, and --trace of every command that has it."""

from __future__ import annotations

import json
import re

import pytest
from command_line import assert_one_error_line

SMALL = ("--size", "192x192")
QUICK = ("--rounds", "2", *SMALL)


def test_one_model(run, tiny_file, tiny_net, tmp_path):
    path = tmp_path / "a.json"
    code, out, err = run("analyze", tiny_file, *QUICK, "--threads", 1, "--json", path, "-q")
    assert (code, err) == (0, "")
    figures = json.loads(path.read_text())
    assert figures["second"] is None
    first = figures["first"]
    assert (first["model"], first["threads"], first["size"]) == ("tiny.npz", 1, [192, 192])
    assert first["best_peak"] > 0
    names = [layer["name"] for layer in first["layers"]]
    assert "conv4_2/3x3" in names
    for layer in first["layers"]:
        assert re.search(rf"^{re.escape(layer['name'])} ", out, re.M)
        if layer["macs"]:
            assert layer["peak_share"] > 0
            assert layer["saved"]["low"] <= layer["saved"]["median"] <= layer["saved"]["high"]
    rows = [line.split()[0] for line in out.splitlines()[1 : 1 + len(names)]]
    saved = {layer["name"]: layer["saved"]["median"] if layer["saved"] else 0.0 for layer in first["layers"]}
    ordered = [saved[name] for name in names if name in rows]
    assert [saved.get(name, 0.0) for name in rows if name in saved] == sorted(ordered, reverse=True)
    assert "zeros save" in out
    assert "GMAC/s of bytes" in out


def test_no_dense_network_and_the_order_of_the_network(run, tiny_file):
    code, out, _ = run("analyze", tiny_file, *QUICK, "--threads", 1, "--no-dense", "--sort", "order", "-q")
    assert code == 0
    assert "zeros save" not in out
    assert out.splitlines()[1].startswith("quantize image")


@pytest.mark.parametrize("columns", [80, 200])
def test_tables_fit_the_terminal(run, tiny_file, monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", str(columns))
    code, out, _ = run("analyze", tiny_file, *QUICK, "--threads", 1, 2, "--no-dense", "-q")
    assert code == 0
    assert max(map(len, out.splitlines())) <= columns


def test_two_in_turns(run, tiny_file, tmp_path):
    code, out, err = run(
        "analyze", tiny_file, tiny_file, *QUICK, "--threads", 1, "--no-dense", "--json", "-q"
    )
    assert (code, err) == (0, "")
    figures = json.loads(out)
    assert figures["first"]["label"] == "tiny.npz (A)"
    assert figures["second"]["label"] == "tiny.npz (B)"
    medians = [abs(one["difference"]["median"]) for one in figures["differences"]]
    assert medians == sorted(medians, reverse=True)
    assert len(medians) == len(figures["first"]["layers"])
    code, out, _ = run("analyze", tiny_file, *QUICK, "--threads", 1, 2, "--no-dense", "-q")
    assert code == 0
    assert out.startswith("A: tiny.npz, 1 thread; B: tiny.npz, 2 threads\n")
    assert "B (tiny.npz, 2 threads) takes" in out.replace("\n", " ")


def test_in_a_process_of_its_own(run, tiny_file):
    code, out, err = run(
        "analyze", tiny_file, *QUICK, "--threads", 1, "--isa", "native", "--no-dense", "--json", "-q"
    )
    assert (code, err) == (0, "")
    first = json.loads(out)["first"]
    assert first["label"] == "tiny.npz, native"
    assert {layer["name"] for layer in first["layers"]} >= {"conv4_2/3x3", "quantize image"}


def test_bad_input(run, tiny_file, tmp_path):
    assert_one_error_line(run("analyze", "no.npz"), "no.npz")
    result = run("analyze", tiny_file, "--threads", 1, 2, "--isa", "native", "avx2")
    assert_one_error_line(result, "expected one or two things to compare", "2 numbers of threads")
    assert_one_error_line(run("analyze", tiny_file, "--isa", "z80"), "z80", "native")
    assert_one_error_line(run("analyze", tiny_file, "--rounds", "0"), "positive integer")
    assert_one_error_line(run("analyze", tiny_file, "--trace", tmp_path / "t.png"), "ends in .json", "t.png")
    for sort, more in (("difference", ()), ("saved", ("--threads", 1, 2)), ("saved", ("--no-dense",))):
        assert_one_error_line(run("analyze", tiny_file, "--sort", sort, *more), f"--sort {sort}: expected")
    result = run("analyze", tiny_file, "--isa", "native", "--trace", tmp_path / "t.json")
    assert_one_error_line(result, "--trace", "--isa")
    for option in ("--json", "--trace"):
        path = tmp_path / "no" / "t.json"
        assert_one_error_line(run("analyze", tiny_file, option, path), path)
    (tmp_path / "broken.npz").write_bytes(tiny_file.read_bytes()[:1000])
    result = run("analyze", tmp_path / "broken.npz", "--isa", "native")
    assert_one_error_line(result, "broken.npz, native", tmp_path / "broken.npz")
    assert not (tmp_path / "t.json").exists()


def steps_of(path) -> list[str]:
    return [e["name"] for e in json.loads(path.read_text())["traceEvents"] if e.get("cat") == "step"]


def test_trace_of_every_command(run, tiny_file, photo, tmp_path):
    names = ("profile.json", "analyze.json", "segment.json", "blocks.json")
    profile, analyze, segment, blocks = (tmp_path / name for name in names)
    assert run("profile", tiny_file, "--runs", 1, *SMALL, "--trace", profile)[0] == 0
    assert run("analyze", tiny_file, *QUICK, "--no-dense", "--trace", analyze, "-q")[0] == 0
    command = ["segment", photo, "--model", tiny_file, *SMALL, "-o", tmp_path / "out", "--trace"]
    assert run(*command, segment)[0] == 0
    assert run(*command, blocks, "--blocks", "--save", "classes")[0] == 0
    for path in (profile, analyze, segment):
        assert steps_of(path)[0] == "quantize image"
        assert steps_of(path)[-1] == "smooth classes"
    assert steps_of(blocks)[-1] == "argmax"
    assert {path.name for path in tmp_path.iterdir()} == {photo.name, "out", *names}
    assert (tmp_path / "out" / "photo.png.classes.png").exists()


def test_what_cannot_be_traced_is_said_before_the_work(run, tiny_file, photo, tmp_path):
    command = ["segment", photo, "--model", tiny_file, *SMALL, "-o", tmp_path / "out", "--trace"]
    assert_one_error_line(run(*command, tmp_path / "no" / "t.json"), tmp_path / "no" / "t.json")
    assert_one_error_line(run(*command, photo), "ends in .json", photo)
    result = run(*command, tmp_path / "t.json", "--scheduler", "tcp://127.0.0.1:1")
    assert_one_error_line(result, "--trace", "--scheduler")
    assert not (tmp_path / "out").exists()
