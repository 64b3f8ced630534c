"""The command line: the first minute, errors and exit codes, in this process and as a real one."""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from command_line import SMALL, assert_one_error_line, errors_of, pictures_of, read_map
from networks import random_picture
from PIL import Image

import sparse_icnet
from sparse_icnet import bundled, private_files
from sparse_icnet.run import machine_code, programs


class TestFirstMinute:
    @pytest.fixture
    def uncompiled(self, monkeypatch, tmp_path):
        """As if no cache had the kernels (they are loaded in this process, so nothing is compiled)."""
        load = machine_code.load

        def compiled(entries, compiling=None):
            if compiling is not None:
                compiling()
            return load(entries)

        monkeypatch.setattr(machine_code, "is_cached", lambda entries: False)
        monkeypatch.setattr(machine_code, "load", compiled)
        monkeypatch.setattr(programs, "load", compiled)
        monkeypatch.setattr(machine_code, "folder_of", lambda entries: tmp_path)

    def test_a_line_before_compiling(self, run, tiny_file, photo, tmp_path, uncompiled):
        command = ("segment", photo, "-o", tmp_path / "out", "--model", tiny_file, *SMALL)
        code, _, err = run(*command)
        assert code == 0
        assert "compiling the kernels for this CPU, once after an install: 5 to 60 s" in err
        assert f"kept in {tmp_path}" in err
        assert run(*command, "-q")[2] == ""

    def test_warmup(self, run, tmp_path, monkeypatch):
        run("warmup")  # may compile kernels that no test has needed so far
        code, out, err = run("warmup")
        assert (code, err) == (0, "")
        assert "are there" in out
        monkeypatch.setattr(machine_code, "folder_of", lambda entries: None)
        assert_one_error_line(run("warmup"), "a folder that can keep", "NUMBA_CACHE_DIR")

    def test_warmup_says_before_it_compiles_that_nothing_can_keep_the_result(
        self, run, tmp_path, monkeypatch
    ):
        (tmp_path / "file").write_bytes(b"")
        monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / "file" / "below"))
        monkeypatch.setattr(machine_code, "load", None)
        assert_one_error_line(run("warmup"), tmp_path / "file" / "below", "expected a folder that can keep")
        monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / "new"))
        assert private_files.keeper() == tmp_path / "new"
        assert os.listdir(tmp_path / "new") == []

    def test_warmup_compiles(self, run, uncompiled, tmp_path):
        code, out, _ = run("warmup")
        assert code == 0
        assert out.splitlines()[0] == "compiling the kernels for this CPU: 5 to 60 s ..."
        assert str(tmp_path) in out
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

    def test_verbose_says_each_thing_once(self, run, tiny_file, photo, tmp_path):
        done = subprocess.run(
            [sys.executable, "-m", "sparse_icnet", "verify", tiny_file, photo, "-v", *SMALL],
            capture_output=True,
            text=True,
        )
        lines = done.stderr.splitlines()
        assert len(lines) == len(set(lines)) >= 2, lines
        assert any("compiled kernels loaded" in line for line in lines)

    def test_warnings_reach_only_who_asks(self):
        code = (
            "import logging, sys; import sparse_icnet.run.session\n"
            "logging.getLogger('sparse_icnet').warning('slow'); logging.getLogger('sparse_icnet.part').error('no')"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert done.stderr == ""
        asking = "import logging; logging.basicConfig()\n" + code
        done = subprocess.run([sys.executable, "-c", asking], capture_output=True, text=True, check=True)
        assert "slow" in done.stderr

    @pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
    @pytest.mark.parametrize(
        ("words", "expected"),
        [
            (["seg"], {"segment"}),
            (["segment", "--ov"], {"--overwrite"}),
            (["info", "--model", "bl"], {"block4x4"}),
            (["explain", "conv3_1/3"], {"conv3_1/3x3"}),
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
        assert "verify or explain --at found a mismatch" in out
        commands = re.findall(r"^    (\w+) ", out, re.M)
        assert commands[:2] == ["segment", "models"]
        assert set(commands) >= {"info", "explain", "report", "profile", "analyze"}
        assert len(commands) == len(set(commands)) >= 13
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

    @pytest.mark.skipif(not os.path.exists("/dev/full"), reason="a device that is always full")
    @pytest.mark.parametrize("words", [["--help"], ["--version"], ["segment", "--help"]])
    def test_a_full_disk_is_named_by_help(self, words):
        with open("/dev/full", "w") as full:
            child = subprocess.run(
                [sys.executable, "-m", "sparse_icnet", *words],
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
