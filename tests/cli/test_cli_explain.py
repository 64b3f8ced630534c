"""`sparse-icnet explain`: a page of at most 100 columns, figures, exit codes, errors of one line."""

from __future__ import annotations

import json
import shutil

import pytest
from command_line import SMALL, assert_one_error_line

from sparse_icnet.study import explain as study
from sparse_icnet.study import machine
from sparse_icnet.study.check import Check


@pytest.fixture
def wide(monkeypatch):
    monkeypatch.setenv("COLUMNS", "240")


def test_a_page(run, tiny_file, wide):
    code, out, err = run("explain", "conv3_1/3x3", "--model", tiny_file, *SMALL)
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[0] == "conv3_1/3x3: Convolution, 64x12x12 at 192x192"
    assert max(map(len, lines)) <= 100
    heads = [line.partition("  ")[0] for line in lines if line[:1].strip()]
    assert heads[1:] == [
        "in the paper",
        "in the file",
        "rewrites",
        "stored as",
        "kernel",
        "source",
        "equations",
    ]
    for text in (
        "layer2.0.conv2 in ResNet-50",
        "CSR, in the file",
        "least estimated time; the next best",
        "(Q3)",
    ):
        assert text in out


def test_a_narrow_page(run, tiny_file, monkeypatch):
    monkeypatch.setenv("COLUMNS", "72")
    _, out, _ = run("explain", "cff42/low", "--model", tiny_file, *SMALL)
    assert max(len(line) for line in out.splitlines() if not line.startswith(("stored as", "     "))) <= 72
    assert "push_upsampling" in out
    assert "dilation 2, padding 2 -> 128x6x6, dilation 1" in " ".join(out.split())


def test_a_value(run, tiny_file, photo, wide):
    arguments = [
        "explain",
        "conv3_1/increase",
        "--at",
        "12,3,4",
        "--image",
        photo,
        "--model",
        tiny_file,
        *SMALL,
    ]
    code, out, err = run(*arguments)
    assert (code, err) == (0, "")
    assert max(map(len, out.splitlines())) <= 100
    assert "the oracle's tensor has the same, and so has the engine's" in out
    assert "36,864 values of the engine compared with the oracle's, all are equal" in out
    code, text, _ = run(*arguments, "--json")
    figures = json.loads(text)
    value = figures["value"]
    assert code == 0
    assert f"the code is {value['value']:,}" in out
    assert [one["layer"] for one in value["sums"]] == ["conv3_1/increase", "conv3_1/proj"]
    for found in value["sums"]:
        assert sum(product["product"] for product in found["products"]) == found["total"]
    assert figures["check"]["engine"] == value["value"]


def test_all_products_with_v(run, tiny_file, photo, wide):
    arguments = ["explain", "conv5_1/3x3", "--at", "7,1,2", "--image", photo, "--model", tiny_file, *SMALL]
    _, short, _ = run(*arguments)
    assert "lines more, -v shows them" in short
    _, long, _ = run(*arguments, "-v")
    assert "lines more" not in long
    _, text, _ = run(*arguments, "--json")
    channels = {product["channel"] for product in json.loads(text)["value"]["sums"][0]["products"]}
    listed = [line for line in long.splitlines() if line.startswith("  c") and line[3].isdigit()]
    assert len(listed) == len(channels) > 200
    assert max(map(len, long.splitlines())) <= 100


def test_a_mismatch_is_exit_code_1(run, tiny_file, photo, monkeypatch):
    wrong = Check(1, 1, 2, "", "conv1_1/codes", 10, 3)
    monkeypatch.setattr(study, "checked", lambda *_: wrong)
    code, out, _ = run("explain", "conv1_1", "--at", "0,0,0", "--image", photo, "--model", tiny_file, *SMALL)
    assert code == 1
    assert "but the engine's has 2" in out
    assert "3 DIFFER" in out


def test_machine_code(run, tiny_file, wide):
    if not any(map(shutil.which, machine.DISASSEMBLERS)):
        pytest.skip("no objdump here to read the machine code")
    code, out, _ = run("explain", "conv4_2/reduce", "--machine-code", "--model", tiny_file, *SMALL)
    assert code == 0
    assert "one turn of the inner loop of convolution.kernel." in out
    assert "dot products" in out.splitlines()[-2] + out.splitlines()[-1]
    _, text, _ = run("explain", "conv4_2/reduce", "--machine-code", "--model", tiny_file, "--json", *SMALL)
    loop = json.loads(text)["loop"]
    assert loop["dots"] == sum("dot" in one["does"] for one in loop["instructions"]) > 0


def test_machine_code_that_cannot_be_read_is_exit_code_2(run, tiny_file, tmp_path, monkeypatch):
    tool = tmp_path / "objdump"
    tool.write_text("#!/bin/sh\necho no such format >&2\nexit 1\n")
    tool.chmod(0o755)
    monkeypatch.setattr(machine, "DISASSEMBLERS", (str(tool),))
    result = run("explain", "conv4_2/reduce", "--machine-code", "--model", tiny_file, *SMALL)
    assert_one_error_line(result, "objdump failed: no such format")


def test_errors(run, tiny_file, tmp_path):
    command = ["explain", "--model", tiny_file, *SMALL]
    assert_one_error_line(run(*command, "conv3_1/3x"), "'conv3_1/3x'", "did you mean conv3_1/3x3")
    assert_one_error_line(run(*command, "conv3_1/3x3", "--at", "1,2"), "CHANNEL,ROW,COLUMN", "'1,2'")
    assert_one_error_line(run(*command, "conv3_1/3x3", "--at", "1,2,-3"), "CHANNEL,ROW,COLUMN")
    assert_one_error_line(run(*command, "conv3_1/3x3", "--at", "0,99,0"), "64x12x12", "0,99,0")
    missing = tmp_path / "none.jpg"
    assert_one_error_line(run(*command, "conv1_1", "--at", "0,0,0", "--image", missing), missing)
    assert_one_error_line(run(*command), "LAYER")
