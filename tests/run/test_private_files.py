"""Files that will be executed: read only where nobody else can have written them, opened without links or waiting."""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from sparse_icnet import private_files
from sparse_icnet.private_files import UntrustedError

LIMIT = 1000
CONTENT = b"content"
posix = pytest.mark.skipif(os.name != "posix", reason="owners and modes are POSIX's")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "folder" / "file"
    private_files.write(path, CONTENT)
    return path


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_what_was_written_is_read(file):
    assert private_files.read(file, LIMIT) == CONTENT
    private_files.write(file, b"other")
    assert private_files.read(file, LIMIT) == b"other"
    assert os.listdir(file.parent) == [file.name]


@posix
@pytest.mark.parametrize("umask", [0, 0o022, 0o077])
def test_folders_and_files_are_for_their_owner(tmp_path, umask):
    before = os.umask(umask)
    try:
        private_files.write(tmp_path / "a" / "b" / "file", CONTENT)
        private_files.write(tmp_path / "c" / "file", CONTENT, readable=True)
    finally:
        os.umask(before)
    assert [mode(tmp_path / name) for name in ("a", "a/b", "a/b/file")] == [0o700, 0o700, 0o600]
    assert [mode(tmp_path / name) for name in ("c", "c/file")] == [0o755 & ~umask, 0o644 & ~umask]
    assert private_files.read(tmp_path / "c" / "file", LIMIT) == CONTENT


def test_a_missing_file_or_folder(file):
    for path in (file.with_name("other"), file.parent / "folder" / "file"):
        with pytest.raises(FileNotFoundError):
            private_files.read(path, LIMIT)


def test_a_file_has_a_bound(file):
    private_files.write(file, bytes(LIMIT))
    assert private_files.read(file, LIMIT) == bytes(LIMIT)
    private_files.write(file, bytes(LIMIT + 1))
    with pytest.raises(UntrustedError, match="larger than 1000 bytes"):
        private_files.read(file, LIMIT)


def _fifo(path: Path) -> None:
    os.mkfifo(path, 0o600)


def _socket(path: Path) -> None:
    server = socket.socket(socket.AF_UNIX)
    server.bind(str(path))
    path.chmod(0o600)
    server.close()


def _link(path: Path) -> None:
    path.with_name("target").write_bytes(CONTENT)
    path.with_name("target").chmod(0o600)
    path.symlink_to("target")


@posix
@pytest.mark.parametrize(
    "make",
    [
        _fifo,
        _socket,
        _link,
        lambda path: path.symlink_to("/dev/zero"),
        lambda path: path.symlink_to("nowhere"),
        lambda path: path.mkdir(0o700),
    ],
    ids=["FIFO", "socket", "link", "endless device", "dangling link", "folder"],
)
def test_only_regular_files_are_read(file, make: Callable[[Path], None]):
    file.unlink()
    make(file)
    before = len(os.listdir("/proc/self/fd")) if Path("/proc/self/fd").exists() else None
    with pytest.raises(UntrustedError, match=str(file)):
        private_files.read(file, LIMIT)
    if before is not None:
        assert len(os.listdir("/proc/self/fd")) == before


@posix
@pytest.mark.parametrize("bit", [0o020, 0o002])
def test_what_others_may_write_is_refused(file, bit):
    file.chmod(0o600 | bit)
    with pytest.raises(UntrustedError, match=f"file: others may write it .mode {0o600 | bit:04o}."):
        private_files.read(file, LIMIT)
    file.chmod(0o644)
    assert private_files.read(file, LIMIT) == CONTENT
    file.parent.chmod(0o700 | bit)
    with pytest.raises(UntrustedError, match="folder: others may write it"):
        private_files.read(file, LIMIT)
    with pytest.raises(UntrustedError, match="folder: others may write it"):
        private_files.write(file, CONTENT)
    file.parent.chmod(0o755)
    assert private_files.read(file, LIMIT) == CONTENT


@posix
def test_a_folder_behind_a_link_is_refused(file):
    link = file.parent.with_name("link")
    link.symlink_to(file.parent)
    with pytest.raises(UntrustedError, match="link: is a link"):
        private_files.read(link / file.name, LIMIT)
    with pytest.raises(UntrustedError, match="link: is a link"):
        private_files.write(link / file.name, CONTENT)


@posix
@pytest.mark.parametrize("whose", ["file", "folder"])
def test_what_belongs_to_another_user_is_refused(file, monkeypatch, whose):
    """As this user and as root it is read, as another user it is not."""
    owner = file.stat().st_uid
    path = file if whose == "file" else file.parent
    monkeypatch.setattr("os.geteuid", lambda: owner + 1)
    if owner == 0:  # root's files are everybody's
        assert private_files.read(file, LIMIT) == CONTENT
        os.chown(path, 4321, -1)
        with pytest.raises(UntrustedError, match=rf"{path}: belongs to another user \(number 4321\)"):
            private_files.read(file, LIMIT)
        monkeypatch.setattr("os.geteuid", lambda: 4321)
        assert private_files.read(file, LIMIT) == CONTENT
    else:
        with pytest.raises(UntrustedError, match="belongs to another user"):
            private_files.read(file, LIMIT)


def test_a_failed_write_leaves_the_former_file(file, monkeypatch):
    def fail(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", fail)
    with pytest.raises(OSError, match="No space left on device"):
        private_files.write(file, b"other")
    assert os.listdir(file.parent) == [file.name]
    assert private_files.read(file, LIMIT) == CONTENT
