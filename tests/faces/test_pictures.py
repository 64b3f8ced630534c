"""Some of `python -m tests.fuzz.pictures`, and that it sees what it should see."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from fuzz import pictures

from sparse_icnet.image import ImageError

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs limits of POSIX")


def test_every_kind_and_some_changed_ones():
    """Each as it is, bombs among them, then as many with changes."""
    known = pictures.bases()
    found = pictures.run(1, 2 * len(known))
    assert found["faults"] == []
    assert found["files"] == 2 * len(known) > 100
    assert {name for name in known if not name.startswith("bomb")} <= set(found["kinds"])
    assert found["counts"]["segmented"] > len(known) / 2
    assert found["counts"]["refused"] > len(known) / 4


def test_files_are_the_same_each_time():
    last = len(pictures.bases())
    assert [pictures.picture(5, i) for i in range(last, last + 20)] == [
        pictures.picture(5, i) for i in range(last, last + 20)
    ]
    assert pictures.picture(5, last) != pictures.picture(6, last)


class _Net:
    def __init__(self, result: object) -> None:
        self.result = result

    def segment(self, picture: object) -> object:
        if isinstance(self.result, Exception):
            raise self.result
        return self.result


@pytest.mark.parametrize(
    ("result", "verdict"),
    [
        (np.zeros((9, 7), np.uint8), "segmented"),
        (np.zeros((7, 9), np.uint8), "class map uint8 (7, 9)"),
        (np.full((9, 7), 12, np.uint8), "class map uint8 (9, 7)"),
        (KeyError("x"), "KeyError: 'x'"),
        (ImageError("no name"), "message: no name"),
    ],
)
def test_faults_are_seen(result, verdict, tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(pictures.png(7, 9, pictures.zlib.compress(bytes(9 * 22))))
    assert pictures.check(_Net(result), path, False)[0] == verdict
    assert pictures.check(_Net(ImageError(f"{path}: bad")), path, False)[0] == "refused"


def test_memory_beyond_what_pixels_explain_is_seen(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(pictures.png(7, 9, pictures.zlib.compress(bytes(9 * 22))))

    class Wasteful(_Net):
        def segment(self, picture: object) -> object:
            return np.ones(pictures.SLACK // 4, np.float64)[:63].astype(np.uint8).reshape(9, 7)

    verdict, cost = pictures.check(Wasteful(None), path, False)
    if not cost["memory"]:
        pytest.skip("this system does not say how much memory was used")
    assert "bytes for 126 pixels" in verdict
