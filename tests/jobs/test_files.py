"""Files that appear whole or not at all, and errors that name them."""

from __future__ import annotations

import errno

import pytest

from sparse_icnet.files import check_writable, replacing


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
