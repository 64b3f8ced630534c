"""Files that appear whole or not at all, and errors that name them."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sparse_icnet import files, private_files
from sparse_icnet.files import check_writable, remove_dead, replacing, temporary_folder


def test_an_error_without_a_name_names_the_file(tmp_path):
    """A full disk is found by `write`, which knows no name."""
    path = tmp_path / "result.png"
    with pytest.raises(OSError, match="No space left") as caught, replacing(path):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert caught.value.filename == str(path)
    assert caught.value.errno == errno.ENOSPC


@pytest.mark.parametrize("below", ["missing/x.json", "file/x.json"])
def test_the_temporary_name_is_not_told(tmp_path, below):
    (tmp_path / "file").write_bytes(b"")
    for write in (_write, check_writable):
        with pytest.raises(OSError, match=r"No such file|Not a directory") as caught:
            write(tmp_path / below)
        assert caught.value.filename == str(tmp_path / below)
    with pytest.raises(IsADirectoryError):
        check_writable(tmp_path)
    check_writable(tmp_path / "new.json")
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_errors_of_other_files_keep_their_names(tmp_path):
    with pytest.raises(FileNotFoundError) as caught, replacing(tmp_path / "result"):
        open(tmp_path / "other")  # noqa: SIM115
    assert caught.value.filename == str(tmp_path / "other")


def test_the_longest_name_that_a_file_may_have(tmp_path):
    path = tmp_path / ("n" * 251 + ".png")
    _write(path)
    assert path.read_bytes() == b"x"


def _write(path):
    with replacing(path) as temporary:
        temporary.write_bytes(b"x")


@pytest.mark.parametrize("links", [True, False])
def test_what_another_process_wrote_meanwhile_is_looked_at(tmp_path, monkeypatch, links):
    """Between a check before the work and the end of it there is time for another process to write the same name."""
    if not links:

        def no_links(*names):
            raise OSError(errno.EPERM, "Operation not permitted")

        monkeypatch.setattr("os.link", no_links)
    path = tmp_path / "result"
    asked = []
    with replacing(path, lambda: asked.append(path.exists())) as temporary:
        temporary.write_bytes(b"new")
    assert asked == ([] if links else [False])
    assert path.read_bytes() == b"new"
    with replacing(path, lambda: asked.append(path.exists())) as temporary:
        temporary.write_bytes(b"newer")
    assert asked[-1]
    assert path.read_bytes() == b"newer"
    path.unlink()

    def write_at_the_same_time():
        with replacing(path, look) as temporary:
            temporary.write_bytes(b"mine")
            path.write_bytes(b"another's")

    def look():
        if path.exists():
            raise FileExistsError(errno.EEXIST, "must stay", str(path))

    with pytest.raises(FileExistsError, match="must stay") as caught:
        write_at_the_same_time()
    assert caught.value.filename == str(path)
    assert path.read_bytes() == b"another's"
    assert os.listdir(tmp_path) == ["result"]


_UNFINISHED = """
import sys, time
from pathlib import Path
from sparse_icnet.files import replacing, temporary_folder
folder = Path(sys.argv[1])
(temporary_folder(folder, "film") / "0.nut").write_bytes(b"part")
with replacing(folder / "result.json") as temporary:
    temporary.write_bytes(b"half")
    print(flush=True)
    time.sleep(600)
"""


def _killed(folder: Path) -> list[str]:
    """Names that a process leaves that is killed at its work."""
    with subprocess.Popen([sys.executable, "-c", _UNFINISHED, str(folder)], stdout=subprocess.PIPE) as child:
        child.stdout.readline()
        remove_dead(folder)
        names = sorted(os.listdir(folder))
        assert len(names) == 2, "what a living process writes was removed"
        child.send_signal(signal.SIGKILL)
    return names


@pytest.mark.skipif(os.name != "posix", reason="SIGKILL")
def test_what_a_killed_process_left_is_removed(tmp_path):
    _killed(tmp_path)
    own = temporary_folder(tmp_path, "own")
    strangers = [".result.json.tmp", "result.0badcafe-1-1.0badcafe.tmp", ".a.0badcafe-1.0badcafe.tmp"]
    for name in strangers:
        (tmp_path / name).write_bytes(b"")
    remove_dead(tmp_path)
    assert sorted(os.listdir(tmp_path)) == sorted([own.name, *strangers])


@pytest.mark.skipif(os.name != "posix", reason="SIGKILL")
def test_a_file_alone_is_cleaned_where_it_is_written_again(tmp_path):
    parts, half = _killed(tmp_path)
    assert parts.endswith(".parts")
    (tmp_path / half).rename(tmp_path / half.replace("result.json", "other.json"))
    check_writable(tmp_path / "result.json")
    private_files.write(tmp_path / "result.json", b"whole")
    assert len(os.listdir(tmp_path)) == 3
    check_writable(tmp_path / "other.json")
    assert sorted(os.listdir(tmp_path)) == [parts, "result.json"]


def test_of_processes_elsewhere_only_old_files_count_as_left(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "_system", lambda: "0badcafe")
    here = temporary_folder(tmp_path, "film")
    monkeypatch.setattr(files, "_system", lambda: "00000000")
    remove_dead(tmp_path)
    assert here.exists()
    day_before = time.time() - 25 * 3600
    os.utime(here, (day_before, day_before))
    remove_dead(tmp_path)
    assert not here.exists()


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="when a process was started")
def test_a_process_number_that_came_again(tmp_path, monkeypatch):
    started = files._started(os.getpid())
    monkeypatch.setattr(files, "_started", lambda process: started - 1)
    left = temporary_folder(tmp_path, "film")
    monkeypatch.setattr(files, "_started", lambda process: started)
    remove_dead(tmp_path)
    assert not left.exists()
