"""Plans kept for later processes: taken only where they are whole and of the same weights, request, CPU and sources."""

from __future__ import annotations

import hashlib
import logging
import os
import pickle
import shutil
import stat
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from engine import Net
from networks import random_picture

import sparse_icnet
from sparse_icnet import bundled, formats, kept_plans, loading, private_files
from sparse_icnet.formats import native
from sparse_icnet.formats.errors import FormatError
from sparse_icnet.network.graph import Convolution, Graph
from sparse_icnet.network.meta import Meta
from sparse_icnet.plan import stages
from sparse_icnet.plan.kept import KeptPlan
from sparse_icnet.plan.program import Plan
from sparse_icnet.private_files import cache_folders
from sparse_icnet.run import machine_code
from sparse_icnet.run.tracing import RUN_TRACED

CAT = ("cat", "dog", "cow")
PICTURE = random_picture(50, 70, seed=3)


def small(seed: int = 0, **settings) -> Graph:
    net = Net((32, 64), seed=seed, **settings)
    x = net.codes(net.relu(net.convolution(net.image, 8, 3)))
    return net.softmax(net.convolution(x, 3), (64, 128))


@pytest.fixture
def cache(monkeypatch, tmp_path, compiled_kernels) -> Path:
    """A cache folder of its own that has the machine code, in which plans are kept."""
    machine_code.load([RUN_TRACED])  # kept in the usual folder, where other tests look for it
    folder = tmp_path / "cache"
    folder.mkdir(mode=0o700)
    for path in next(path for path in cache_folders() if path.is_dir()).iterdir():
        if path.suffix in (".o", ".json"):
            private_files.write(folder / path.name, path.read_bytes())
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(folder))
    monkeypatch.setenv(kept_plans.SWITCH, "1")
    return folder


@pytest.fixture
def file(tmp_path) -> Path:
    path = tmp_path / "small.npz"
    native.save(small(), path, Meta(class_names=CAT))
    return path


def files(cache: Path) -> dict[str, int]:
    """Kind -> number of files of plans in a cache folder."""
    kinds = [path.suffix for path in cache.iterdir() if path.name.startswith("plan-")]
    return {kind: kinds.count(kind) for kind in kinds}


def is_kept(model: sparse_icnet.Model) -> bool:
    return isinstance(model.session.plan, KeptPlan)


def kept(file: Path, **asked) -> sparse_icnet.Model:
    """The model from a plan that is kept now."""
    for _ in range(2):
        sparse_icnet.load(file, **asked)
    model = sparse_icnet.load(file, **asked)
    assert is_kept(model)
    return model


def assert_same(one: sparse_icnet.Model, other: sparse_icnet.Model) -> None:
    """What two models are and say, bit for bit."""
    for name in (
        "size",
        "output_size",
        "threads",
        "class_names",
        "path",
        "output_name",
        "bgr",
        "stated_size",
    ):
        assert getattr(one, name) == getattr(other, name), name
    assert repr(one) == repr(other)
    assert one.meta == other.meta
    np.testing.assert_array_equal(one.segment(PICTURE), other.segment(PICTURE))
    np.testing.assert_array_equal(one.segment(PICTURE, smooth=False), other.segment(PICTURE, smooth=False))
    np.testing.assert_array_equal(one.probabilities(PICTURE), other.probabilities(PICTURE))
    first, second = one.predict(PICTURE), other.predict(PICTURE)
    np.testing.assert_array_equal(first.logits, second.logits)
    np.testing.assert_array_equal(first.probabilities(), second.probabilities())
    blob = one.blob(PICTURE)
    np.testing.assert_array_equal(blob, other.blob(PICTURE))
    np.testing.assert_array_equal(one(blob), other(blob))


def test_a_plan_is_kept_when_it_is_made_the_second_time(cache, file):
    found = []
    for _ in range(4):
        found.append((is_kept(sparse_icnet.load(file)), files(cache)))
    assert found == [
        (False, {".seen": 1}),
        (False, {".plan": 1}),
        (True, {".plan": 1}),
        (True, {".plan": 1}),
    ]


def test_what_is_loaded_once_leaves_an_empty_file(cache, file):
    for size in ((32, 64), (64, 64), (64, 128)):
        sparse_icnet.load(file, size=size)
    assert files(cache) == {".seen": 3}
    assert all(path.stat().st_size == 0 for path in cache.glob("plan-*"))


@pytest.mark.parametrize(
    "asked",
    [{}, {"size": (64, 96), "threads": 2}, {"class_names": ("a", "b", "c")}, {"bgr": True, "threads": 1}],
    ids=str,
)
def test_a_model_of_a_kept_plan_is_the_same(cache, file, monkeypatch, asked):
    model = kept(file, **asked)
    monkeypatch.setenv(kept_plans.SWITCH, "0")
    planned = sparse_icnet.load(file, **asked)
    assert isinstance(planned.session.plan, Plan)
    assert_same(model, planned)


@pytest.mark.parametrize("name", bundled.names())
def test_bundled_models(cache, monkeypatch, name):
    model = kept(name, size=(192, 256), threads=2)
    monkeypatch.setenv(kept_plans.SWITCH, "0")
    assert_same(model, sparse_icnet.load(name, size=(192, 256), threads=2))


def test_nothing_is_planned_or_parsed_for_a_kept_plan(cache, file, monkeypatch):
    kept(file)

    def never(*_: object, **__: object) -> None:
        raise AssertionError

    monkeypatch.setattr(stages, "plan_for", never)
    monkeypatch.setattr(native, "load", never)
    model = sparse_icnet.load(file)
    assert model.segment(PICTURE).shape == PICTURE.shape[:2]
    assert model.predict(PICTURE).size == PICTURE.shape[:2]


@pytest.mark.parametrize("asked", [{}, {"size": (64, 96), "threads": 2, "bgr": True}], ids=str)
def test_a_plan_can_be_kept_at_once(cache, file, asked):
    place = loading.keep_plan(file, **asked)
    assert place == _plan_file(cache)
    assert is_kept(sparse_icnet.load(file, **asked))
    state = place.stat()
    assert loading.keep_plan(file, **asked) == place
    assert place.stat().st_ino == state.st_ino  # it was there already
    place.write_bytes(b"damaged")
    assert loading.keep_plan(file, **asked) == place
    assert is_kept(sparse_icnet.load(file, **asked))


def test_warmup_keeps_the_plan_of_a_model(cache, file, run, monkeypatch):
    for name, stand_in in (("is_cached", True), ("load", None), ("folder_of", cache)):  # compiles nothing
        monkeypatch.setattr(machine_code, name, lambda entries, stand_in=stand_in: stand_in)
    code, out, errors = run("warmup", file, "--size", "64x96", "--threads", "2")
    assert (code, errors) == (0, "")
    assert out.splitlines()[-1] == f"the plan of small.npz: {_plan_file(cache)}"
    assert isinstance(sparse_icnet.load(file, (64, 96), 2).session.plan, KeptPlan)
    assert run("warmup", "-q", "--model", file, "--size", "64x96", "--threads", "2") == (0, "", "")


def test_a_plan_that_cannot_be_kept_is_an_error_where_it_was_asked_for(cache, file, monkeypatch, tmp_path):
    (tmp_path / "other.npz").write_bytes(b"other")
    with pytest.raises(FormatError, match="zip archive"):
        loading.keep_plan(tmp_path / "other.npz")
    pytest.importorskip("onnx")
    formats.save(small(), tmp_path / "small.onnx")
    with pytest.raises(ValueError, match=r"small.onnx: expected a native file"):
        loading.keep_plan(tmp_path / "small.onnx")
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(file / "below"))
    with pytest.raises(OSError, match="expected a folder that can keep its plan"):
        loading.keep_plan(file)
    monkeypatch.setenv(kept_plans.SWITCH, "0")
    with pytest.raises(ValueError, match=f"{kept_plans.SWITCH} not to be 0"):
        loading.keep_plan(file)


def test_a_command_reads_no_network_either(cache, file, photo, run, tmp_path, monkeypatch):
    command = ("segment", photo, "-o", tmp_path / "results", "--model", file)
    for _ in range(2):
        assert run(*command)[0] == 0
        shutil.rmtree(tmp_path / "results")

    def never(*_: object, **__: object) -> None:
        raise AssertionError

    monkeypatch.setattr(native, "load", never)
    code, _, errors = run(*command)
    assert (code, (tmp_path / "results" / "manifest.jsonl").is_file()) == (0, True), errors


def test_a_start_imports_no_planner_and_no_graph(cache, file):
    """What a process must import decides how long it takes to start."""
    kept(file)
    code = (
        "import sys, numpy, sparse_icnet; net = sparse_icnet.load(sys.argv[1]); "
        "net.segment(numpy.zeros((50, 70, 3), 'uint8')); print(*sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code, file], capture_output=True, text=True, check=True)
    modules = set(done.stdout.split())
    assert "sparse_icnet.plan.kept" in modules
    for name in (
        *("plan.select", "plan.stages", "plan.proof", "plan.program", "network.graph", "network.rewrite"),
        *("formats.native", "operators.convolution.plan", "sparse", "result", "render", "run.tracing"),
    ):
        assert f"sparse_icnet.{name}" not in modules
    assert not modules & {"numba", "llvmlite.binding", "zipfile", "PIL.ImageDraw"}


def test_graph_and_plan_are_made_when_they_are_asked_for(cache, file, tmp_path):
    model = kept(file, threads=1)
    file.unlink()  # the model has what it was loaded from
    assert model.graph.ops[0].name == "image"
    assert model.plan.threads == 1
    assert model.plan is model.plan
    assert model.session.graph is model.plan.graph
    assert model.info() == sparse_icnet.Model(model.graph, 1, CAT).info()
    steps = model.profile(repeats=1).steps
    assert sum(step.macs for step in steps) > 0
    assert "KeptPlan(3x32x64 -> 3x64x128" in repr(model.session)


def test_a_kept_model_is_pickled(cache, file):
    model = kept(file)
    again = pickle.loads(pickle.dumps(model))
    assert is_kept(again)
    assert_same(model, again)


def test_a_model_of_other_weights_has_a_plan_of_its_own(cache, file, tmp_path):
    """Under the same name, of the same size and time."""
    before = kept(file, threads=1).segment(PICTURE)
    graph = native.load(file)
    (index, op) = next((i, op) for i, op in enumerate(graph.ops) if isinstance(op, Convolution))
    weight = op.weight.copy()
    weight[0] = -weight[0]
    changed = replace(graph, ops=(*graph.ops[:index], replace(op, weight=weight), *graph.ops[index + 1 :]))
    state = file.stat()
    native.save(changed, file)
    os.utime(file, ns=(state.st_atime_ns, state.st_mtime_ns))
    model = sparse_icnet.load(file, threads=1)
    assert not is_kept(model)
    expected = sparse_icnet.Model(changed, 1).segment(PICTURE)
    np.testing.assert_array_equal(model.segment(PICTURE), expected)
    assert (before != expected).any()


def test_the_name_tells_what_decides_a_plan(monkeypatch):
    names = {kept_plans.key("a", None, (32, 64), False, 1)}
    names.add(kept_plans.key("b", None, (32, 64), False, 1))
    names.add(kept_plans.key("a", "other", (32, 64), False, 1))
    names.add(kept_plans.key("a", None, None, False, 1))
    names.add(kept_plans.key("a", None, (32, 64), True, 1))
    names.add(kept_plans.key("a", None, (32, 64), False, 2))
    monkeypatch.setenv("NUMBA_CPU_FEATURES", "+other")
    names.add(kept_plans.key("a", None, (32, 64), False, 1))
    monkeypatch.setattr(kept_plans, "_sources", lambda: b"others")
    names.add(kept_plans.key("a", None, (32, 64), False, 1))
    assert len(names) == 8


def test_the_sources_are_those_that_planning_imports():
    code = (
        "import sys; from sparse_icnet.formats import native; from sparse_icnet.plan import plan_for, keep; "
        "import sparse_icnet.network.bgr; "
        "print(*(m.__file__ for n, m in sys.modules.items() if n.startswith('sparse_icnet')))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    needed = {Path(path) for path in done.stdout.split()}
    package = Path(str(kept_plans.__file__)).parent
    known = {Path(path) for path in kept_plans.source_files()}
    # What reads and writes files and memory, and says what is wrong with names, decides nothing in a plan.
    others = {"__init__.py", "files.py", "pages.py", "private_files.py", "suggest.py"}
    assert {path.relative_to(package).as_posix() for path in needed - known} <= others
    assert known


def test_nothing_is_kept_or_taken_when_it_is_switched_off(cache, file, monkeypatch):
    monkeypatch.setenv(kept_plans.SWITCH, "0")
    for _ in range(3):
        assert not is_kept(sparse_icnet.load(file))
    assert files(cache) == {}
    monkeypatch.setenv(kept_plans.SWITCH, "1")
    kept(file)
    monkeypatch.setenv(kept_plans.SWITCH, "0")
    assert not is_kept(sparse_icnet.load(file))


def _plan_file(cache: Path) -> Path:
    (path,) = cache.glob("plan-*.plan")
    return path


def _flipped(at: float):
    def damage(path: Path) -> None:
        content = bytearray(path.read_bytes())
        content[int(at * (len(content) - 1))] ^= 1
        path.write_bytes(content)

    return damage


def _of_another_form(path: Path) -> None:
    """Sealed, as another version of this package might have written it."""
    body = b"other" * 100
    path.write_bytes(private_files.seal(kept_plans._MAGIC, body, of=path.name) + body)


def _of_another_kind(path: Path) -> None:
    body = path.read_bytes()[64:]
    magic = b"sparse-icnet plan 0".ljust(32)
    path.write_bytes(private_files.seal(magic, body, of=path.name) + body)


DAMAGES = {
    "first byte": _flipped(0.0),
    "header": _flipped(0.05),
    "middle": _flipped(0.5),
    "last byte": _flipped(1.0),
    "cut": lambda path: path.write_bytes(path.read_bytes()[:-64]),
    "longer": lambda path: path.write_bytes(path.read_bytes() + bytes(64)),
    "empty": lambda path: path.write_bytes(b""),
    "another form": _of_another_form,
    "another kind": _of_another_kind,
    "writable": lambda path: path.chmod(0o666),
    "link": lambda path: path.symlink_to(path.rename(path.with_name("elsewhere"))),
    "folder": lambda path: (path.unlink(), path.mkdir()),
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.skipif(os.name != "posix", reason="modes and links are POSIX's")
def test_a_plan_that_is_not_whole_or_not_ones_own_is_made_anew(cache, file, damage, caplog):
    expected = kept(file).segment(PICTURE)
    DAMAGES[damage](_plan_file(cache))
    caplog.set_level(logging.INFO, "sparse_icnet")
    model = sparse_icnet.load(file)
    assert not is_kept(model)
    np.testing.assert_array_equal(model.segment(PICTURE), expected)
    assert "plan not used" in caplog.text


def test_a_plan_counts_under_its_own_name_alone(cache, tmp_path):
    """As after a backup that mixed files up: the weights of one model never run as those of another."""
    models = [tmp_path / "one.npz", tmp_path / "two.npz"]
    for seed, model in enumerate(models):
        native.save(small(seed), model, Meta(class_names=CAT))
    expected = [kept(model).segment(PICTURE) for model in models]
    assert (expected[0] != expected[1]).any()
    one, two = cache.glob("plan-*.plan")
    other = one.read_bytes()
    one.write_bytes(two.read_bytes())
    two.write_bytes(other)
    for model, result in zip(models, expected, strict=True):
        again = sparse_icnet.load(model)
        assert not is_kept(again)
        np.testing.assert_array_equal(again.segment(PICTURE), result)


def test_a_plan_has_a_bound(cache, file, monkeypatch):
    kept(file)
    monkeypatch.setattr(kept_plans, "MAX_BYTES", _plan_file(cache).stat().st_size - 1)
    assert not is_kept(sparse_icnet.load(file))
    _plan_file(cache).unlink()
    for _ in range(3):
        assert not is_kept(sparse_icnet.load(file))
    assert files(cache) == {".seen": 1}


@pytest.mark.skipif(os.name != "posix", reason="modes are POSIX's")
def test_a_folder_that_takes_nothing_is_no_error(cache, file):
    cache.chmod(0o777)  # others may write: not trusted
    for _ in range(3):
        assert not is_kept(sparse_icnet.load(file))
    assert files(cache) == {}


def test_a_package_whose_files_cannot_be_read_keeps_no_plans(cache, file, monkeypatch):
    """As within the archive of a program that is one file."""

    def refuse() -> bytes:
        raise FileNotFoundError(2, "No such file or directory", "floats.pyc")

    monkeypatch.setattr(kept_plans, "_sources", refuse)
    for _ in range(3):
        assert not is_kept(sparse_icnet.load(file))
    assert files(cache) == {}


@pytest.mark.parametrize("closed", [False, True])
def test_a_folder_that_cannot_be_asked_is_no_error(file, tmp_path, monkeypatch, closed):
    """One below a home that is another user's, as of a service, or whose name the system does not take."""
    folder = tmp_path / ("a" * 300)
    if closed:
        folder = tmp_path / "closed" / "folder"
        ask = os.stat

        def stat_(path, *arguments, **options):
            if str(path).startswith(str(folder)):
                raise PermissionError(13, "Permission denied", str(path))
            return ask(path, *arguments, **options)

        monkeypatch.setattr(os, "stat", stat_)
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(folder))
    monkeypatch.setenv(kept_plans.SWITCH, "1")
    monkeypatch.setattr(
        private_files, "write", lambda *_, **__: (_ for _ in ()).throw(PermissionError(13, "no"))
    )
    for _ in range(2):
        assert sparse_icnet.load(file).class_names == CAT
    with pytest.raises(OSError, match="expected a folder that can keep its plan"):
        loading.keep_plan(file)


@pytest.mark.skipif(os.name != "posix", reason="modes are POSIX's")
@pytest.mark.parametrize("is_bundled", [False, True])
def test_a_plan_is_its_owners_unless_its_model_is_bundled(cache, file, monkeypatch, is_bundled):
    """Also beside the sources, where others may read the machine code: a plan has the weights of its model."""
    monkeypatch.delenv("NUMBA_CACHE_DIR")
    monkeypatch.setattr(private_files, "BESIDE_SOURCES", cache)
    if is_bundled:
        monkeypatch.setattr(bundled, "WEIGHTS", file.parent)
        digest = hashlib.sha256(file.read_bytes()).hexdigest()
        (file.parent / bundled.DIGESTS).write_text(f"{digest}  {file.name}\n")
    before = os.umask(0)
    try:
        kept(file)
    finally:
        os.umask(before)
    assert stat.S_IMODE(_plan_file(cache).stat().st_mode) == (0o644 if is_bundled else 0o600)


def test_the_oldest_plans_and_marks_go(cache, monkeypatch):
    monkeypatch.setattr(kept_plans, "MAX_PLANS", 3)
    monkeypatch.setattr(kept_plans, "MAX_MARKS", 4)
    other = cache / "run-0123.o"
    other.write_bytes(b"code")
    names = [f"{number:032x}" for number in range(8)]
    for age, name in enumerate(names):
        kept_plans.keep(name, [b"content"])
        os.utime(cache / f"plan-{name}.plan", (age, age))
        if age == 2:  # the first was used since
            os.utime(cache / f"plan-{names[0]}.plan", (100, 100))
    assert files(cache) == {".plan": 3}
    assert sorted(path.stem for path in cache.glob("*.plan")) == [f"plan-{names[i]}" for i in (0, 6, 7)]
    for name in reversed(names):
        assert not kept_plans.is_wanted(f"f{name[1:]}")
    assert files(cache) == {".plan": 3, ".seen": 4}
    assert other.exists()


def test_plans_of_a_folder_have_a_bound_together(cache, monkeypatch):
    monkeypatch.setattr(kept_plans, "MAX_FOLDER", 1000)
    for number in range(4):
        kept_plans.keep(f"{number:032x}", [bytes(300)])
        os.utime(cache / f"plan-{number:032x}.plan", (number, number))
    assert sorted(path.stem[-1] for path in cache.glob("*.plan")) == ["2", "3"]  # of 364 bytes


def test_taking_a_plan_counts_as_use(cache, file):
    kept(file)
    os.utime(_plan_file(cache), (0, 0))
    sparse_icnet.load(file)
    assert _plan_file(cache).stat().st_mtime > 0


def test_arguments_are_checked_as_without_a_kept_plan(cache, file):
    kept(file)
    with pytest.raises(ValueError, match="expected 3 class names, found 2"):
        sparse_icnet.load(file, class_names=("a", "b"))
    with pytest.raises(TypeError, match="threads must be an integer"):
        sparse_icnet.load(file, threads="2")
    with pytest.raises(TypeError, match="size must be two integers"):
        sparse_icnet.load(file, size=3)
    with pytest.raises(FormatError, match="expected an output of the file"):
        sparse_icnet.load(file, output="other")


def test_a_bundled_file_is_checked_all_the_same(cache, file, monkeypatch):
    kept(file)
    monkeypatch.setattr(bundled, "WEIGHTS", file.parent)
    (file.parent / "SHA256SUMS").write_text(f"{'0' * 64}  {file.name}\n")
    with pytest.raises(FormatError, match="damaged or changed"):
        sparse_icnet.load(file)


def test_a_file_of_another_format_is_not_kept(cache, tmp_path):
    pytest.importorskip("onnx")
    path = tmp_path / "small.onnx"
    formats.save(small(), path)
    for _ in range(3):
        assert not is_kept(sparse_icnet.load(path))
    assert files(cache) == {}


def test_class_names_that_do_not_fit_are_not_kept(cache, tmp_path):
    """The file's own, where others are given: later somebody may load it without."""
    path = tmp_path / "m.npz"
    native.save(small(), path, Meta(class_names=("only", "two")))
    for _ in range(3):
        assert not is_kept(sparse_icnet.load(path, class_names=CAT))
    with pytest.raises(FormatError, match="class names"):
        sparse_icnet.load(path)


def test_several_processes_at_once(cache, file):
    code = (
        "import sys, numpy, sparse_icnet; net = sparse_icnet.load(sys.argv[1], threads=1); "
        f"print(net.segment(numpy.arange({50 * 70 * 3}, dtype='uint8').reshape(50, 70, 3)).sum())"
    )
    children = [
        subprocess.Popen([sys.executable, "-c", code, file], stdout=subprocess.PIPE, text=True)
        for _ in range(4)
    ]
    said = {child.communicate()[0] for child in children}
    assert len(said) == 1
    assert [child.returncode for child in children] == [0] * 4
    assert is_kept(kept(file, threads=1))
