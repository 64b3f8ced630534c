"""The benchmarks run and produce figures: tiny settings, nothing is measured here."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sparse_icnet.sparse.block_csr import block_density

BENCH = Path(__file__).resolve().parents[2] / "bench"


@pytest.fixture(autouse=True)
def _bench_on_path(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCH))


def run(script: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """The script, as a user would start it."""
    command = [sys.executable, str(BENCH / script), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


def test_compare_times_every_engine_in_every_case(tiny_file, tmp_path):
    for module in ("openvino", "onnxruntime", "onnx"):
        pytest.importorskip(module, reason=f"the comparison needs {module}")
    result, picture = tmp_path / "result.json", tmp_path / "result.png"
    options = ["--quick", "--rounds", 2, "--seconds", 0.01, "--threads", 1, "--pictures", 2]
    parts = [word for part in ("latency", "sizes", "loaded", "start", "folder") for word in ("--part", part)]
    draw = ["--png", picture] if _has("matplotlib") else []
    sizes = ["--size", "192x192", "--size", "192x384"]
    done = run("compare.py", "--model", tiny_file, *options, *parts, *sizes, *draw, "--json", result)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(result.read_text())
    engines = ["sparse-icnet", "openvino", "onnxruntime"]
    cases = [(row["case"], tuple(row["size"]), row["busy"]) for row in found["latency"]]
    settings = [((192, 192), 0), ((192, 384), 0), ((192, 192), 1), ((192, 192), 2)]
    assert cases == [(c, *setting) for setting in settings for c in ("probabilities", "classes", "smooth")]
    for row in found["latency"]:
        assert list(row["ms"]) == engines
        assert all(0 < ms["min"] <= ms["q1"] <= ms["median"] <= ms["q3"] for ms in row["ms"].values())
        assert all(ms["runs"] >= 6 for ms in row["ms"].values())
        for peer in engines[1:]:
            quotient = row["ms"][peer]["median"] / row["ms"]["sparse-icnet"]["median"]
            assert row["ratio"][peer] == pytest.approx(quotient, rel=0.02)
            assert row["agreement"][peer] >= 0.95
    starts = [row["engine"].partition(",")[0] for row in found["start"]]
    assert set(starts) == set(engines)
    assert all(row["peak_mib"]["median"] > 30 for row in found["start"])
    folders = [(row["save"], row["drawn"], row["engine"]) for row in found["folder"]]
    both = [(save, "png", engine) for save in ("classes", "classes,overlay") for engine in engines[:2]]
    ours = [("classes,overlay", "jpeg", engines[0]), *[("overlay", "film", engines[0])] * _has("av")]
    assert folders == both + ours
    for row in found["folder"]:
        if row["engine"] == "sparse-icnet":
            assert 0 < row["bound"]["inference_ms"] < row["bound"]["picture_ms"]
            if row["behind_the_start"] is not None:  # on a busy machine few may take as long as many
                share = row["behind_the_start"] / row["bound"]["pictures_per_second"]
                assert row["share_of_bound"] == pytest.approx(share, abs=0.002)
    assert {"openvino", "onnxruntime", "numba"} <= set(found["machine"]["versions"])
    assert "blob -> probabilities" in done.stdout
    marks = f"[{found['date'][:10]}, {found['machine']['cpu']}, isa native]"
    assert done.stdout.count(marks) == 4, "each table says when and where"
    if draw:
        assert np.asarray(Image.open(picture).convert("L")).std() > 10


def test_smooth_reports_what_a_smooth_map_costs(tiny_file, tmp_path):
    result = tmp_path / "result.json"
    options = ["--size", "192x192", "--threads", 1, "--threads", 2, "--rounds", 2, "--json", result]
    done = run("smooth.py", "--model", tiny_file, *options)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(result.read_text())
    assert [row["threads"] for row in found["results"]] == [1, 2]
    for row in found["results"]:
        assert list(row["ms"]) == ["grid", "blocks", "smooth"]
        assert all(ms["runs"] == 2 and ms["min"] > 0 for ms in row["ms"].values())
        assert 0 < row["changed_pixels"] < 1
        assert abs(row["cost_share"]["median"]) < 1
    assert "the bundled photo" in done.stdout
    assert found["machine"]["versions"]["numba"] in done.stdout


@pytest.mark.parametrize("saturates", [False, True])
def test_compare_fails_where_engines_disagree(monkeypatch, tmp_path, saturates):
    """But where the peer's sums saturate, it is said and no failure."""
    import compare

    monkeypatch.setattr(compare, "saturates", lambda isa: saturates)

    class Fake:
        def __init__(self, value: int) -> None:
            self.value = value

        def ask(self, do: str, **arguments):
            if do == "classes":
                np.save(arguments["path"], np.arange(4, dtype=np.uint8) * (1 + self.value))
            return {"ms": [1.0, 2.0, 3.0]}

    arguments = compare.parser().parse_args(["--rounds", "1"])
    entry = compare.Entry("fake", tmp_path)
    run = compare.Comparison(arguments, tmp_path, [], [entry], [1], [(96, 96)], ["classes"], {})
    monkeypatch.setattr(run, "files", lambda entry, size: (dict.fromkeys(run.workers, ""), {"classes": ""}))
    run.workers = {"sparse-icnet": Fake(0), "openvino": Fake(0)}
    run.time(entry, "classes", (96, 96), 1)
    assert run.problems == []
    run.workers["openvino"] = Fake(1)
    run.time(entry, "classes", (96, 96), 1)
    (said,), others = (run.notes, run.problems) if saturates else (run.problems, run.notes)
    assert "openvino" in said
    assert "25.0% of the pixels" in said
    assert ("saturate" in said) == saturates
    assert others == []


def test_engines_take_turns():
    from _processes import alternate

    order = []

    class Fake:
        def __init__(self, name: str) -> None:
            self.name = name

        def ask(self, do: str, **arguments):
            order.append(self.name)
            return {"ms": [1.0]}

    times = alternate({name: Fake(name) for name in "abc"}, rounds=3, seconds=0, least=1)
    assert "".join(order) == "abcbcacab"
    assert times == {name: [[1.0]] * 3 for name in "abc"}


def test_a_worker_reports_what_went_wrong(tmp_path):
    from _processes import Worker, WorkerError

    np.save(tmp_path / "x.npy", np.zeros((1, 3, 96, 96), np.float32))
    worker = Worker("sparse-icnet", {})
    try:
        with pytest.raises(WorkerError, match=r"sparse-icnet: FileNotFoundError: .*missing\.npz"):
            worker.ask(
                "open",
                case="probabilities",
                model=str(tmp_path / "missing.npz"),
                size=(96, 96),
                threads=1,
                input=str(tmp_path / "x.npy"),
            )
    finally:
        worker.stop()


def test_kernels_measures_every_kernel_on_every_shape(tiny_file, tmp_path):
    result = tmp_path / "kernels.json"
    options = ["--size", "192x192", "--density", 1.0, 0.5, "--repeats", 1, "--threads", 1]
    done = run("kernels.py", "--model", tiny_file, *options, "--json", result)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(result.read_text())
    (network,) = found["network"]
    assert network["peak_gmacs"]["max"] > 0
    assert {case["case"] for case in network["cases"]} >= {"image -> class map", "blob -> probabilities"}
    assert all(0 < network["ms_at_peaks"] < case["ms"]["median"] for case in network["cases"])
    assert all(0 < case["share_of_peak"] < 1 for case in network["cases"])
    kernels, shapes = list(found["relative_speed"]), {row["shape"] for row in found["layers"]}
    assert len(shapes) > 20
    assert len(found["layers"]) == 2 * len(kernels) * len(shapes)
    for row in found["layers"]:
        assert row["gmacs"] > 0
        if "<-3 " not in row["shape"]:  # three input channels fill three quarters of a block
            assert row["gmacs"] / row["dense_gmacs"] == pytest.approx(row["density"], rel=0.1)
    assert found["relative_speed"][kernels[0]] == {"1.0": 1.0, "0.5": 1.0}
    assert done.stdout.count("in target.py") >= 2  # where the constants stand that were measured


def test_kernels_of_another_cpu_begin_anew(monkeypatch):
    """The package has chosen its code by the time that --isa is read."""
    import kernels

    def begin(program, command, environment):
        assert (program, command[0]) == (sys.executable, sys.executable)
        raise SystemExit(environment["NUMBA_CPU_NAME"])

    monkeypatch.setattr("os.execve", begin)
    monkeypatch.setattr(sys, "argv", ["bench/kernels.py", "--isa", "avx2"])
    with pytest.raises(SystemExit, match="haswell"):
        kernels.main()


@pytest.mark.parametrize("rows", [2, 4])
@pytest.mark.parametrize("density", [1.0, 0.25])
def test_with_blocks_keeps_the_share_asked_for(rows, density):
    import kernels

    graph = kernels.with_blocks(kernels.random_network((96, 96)), rows, density)
    for op in graph.convolutions:
        tolerance = 1 / np.prod(op.weight.shape) * 4 * rows
        assert block_density(op.weight, rows) == pytest.approx(density, abs=tolerance)


def _has(module: str) -> bool:
    from importlib.util import find_spec

    return find_spec(module) is not None


def _results(ratio: float, spread: float = 0.01, **machine: object) -> dict:
    sample = {"median": ratio, "q1": ratio * (1 - spread), "q3": ratio * (1 + spread)}
    row = {"model": "m", "case": "classes", "size": [768, 960], "threads": 2}
    known = {"cpu": "a", "features": ["avx2"], "cpus": 2} | machine
    return {"machine": known, "isa": "native", "latency": [row | {"ratio_of_rounds": {"openvino": sample}}]}


@pytest.mark.parametrize(
    ("after", "spread", "code"),
    [(2.0, 0.01, 0), (1.95, 0.01, 0), (1.8, 0.01, 1), (1.8, 0.2, 0), (3.0, 0.01, 0)],
)
def test_ratios_tell_slower_from_noise(tmp_path, after, spread, code):
    old, new = tmp_path / "old.json", tmp_path / "new.json"
    old.write_text(json.dumps(_results(2.0)))
    new.write_text(json.dumps(_results(after, spread)))
    done = run("ratios.py", old, new)
    assert done.returncode == code, done.stdout + done.stderr
    assert f"{100 * (after / 2 - 1):+.1f} %" in done.stdout
    assert ("SLOWER" in done.stdout) == (code == 1)


def test_ratios_refuse_other_machines_and_other_files(tmp_path):
    old, new, other = tmp_path / "old.json", tmp_path / "new.json", tmp_path / "other.json"
    old.write_text(json.dumps(_results(2.0)))
    new.write_text(json.dumps(_results(2.0, cpu="b")))
    other.write_text("[1]")
    different, neither = run("ratios.py", old, new), run("ratios.py", old, other)
    assert (different.returncode, neither.returncode) == (2, 2)
    assert "different machines" in different.stderr
    assert "expected results of compare.py" in neither.stderr


def test_ratios_read_the_results_that_are_kept(tmp_path):
    for path in sorted((BENCH / "results").glob("*.json")):
        done = run("ratios.py", path, path)
        assert done.returncode == 0, done.stderr
        assert "+0.0 %" in done.stdout
