"""`sparse-icnet report`: where the page goes, what it is made of, what is refused before the work."""

from __future__ import annotations

import pytest
from command_line import assert_one_error_line
from hostile import hostile_network
from PIL import Image

from sparse_icnet.formats import native


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """The file of a small network that is no ICNet."""
    path = tmp_path_factory.mktemp("models") / "<small>.npz"
    native.save(hostile_network(), path)
    return path


@pytest.fixture
def no_work(monkeypatch):
    """Fail where a page is made."""

    def made(*arguments, **options):
        raise AssertionError("the work began")

    monkeypatch.setattr("sparse_icnet.study.report.write_report", made)


def test_a_page_of_a_model_of_ones_own(run, small, photo, tmp_path):
    target = tmp_path / "page.html"
    code, out, err = run("report", small, "-o", target, "--no-timing", "--image", photo)
    assert (code, err) == (0, "sparse-icnet: looking for zeros\n")
    text = target.read_text("utf-8")
    assert out == f"{target} ({len(text.encode()):,} bytes)\n"
    assert "&lt;small&gt;.npz" in text
    assert "photo.png, 100 x 140" in text
    # Another page in its place is replaced.
    assert run("report", small, "-o", target, "--no-timing", "-q")[0] == 0
    assert "china.jpg" in target.read_text("utf-8")


def test_a_page_with_times(run, small, tmp_path):
    target = tmp_path / "page.html"
    assert run("report", "--model", small, "-o", target, "--threads", 1)[0] == 0
    text = target.read_text("utf-8")
    for part in ("Where the time goes", "The roofline of this machine", "share of time", "ms (quartiles"):
        assert part in text
    assert "not measured" not in text


def test_what_is_in_the_way_is_kept(run, small, tmp_path, no_work):
    target = tmp_path / "page.html"
    target.write_text("<html>somebody else's</html>")
    result = run("report", small, "-o", target, "--no-timing")
    assert_one_error_line(result, target, "expected nothing or a page of this command", "--overwrite")
    assert target.read_text() == "<html>somebody else's</html>"


def test_overwrite_replaces_it(run, small, tmp_path):
    target = tmp_path / "page.html"
    target.write_text("<html>somebody else's</html>")
    assert run("report", small, "-o", target, "--no-timing", "--overwrite")[0] == 0
    assert target.read_text("utf-8").startswith("<!DOCTYPE html>")


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["-o", "page.txt"], ["expected a name that ends in .html", "page.txt"]),
        (["-o", "no/such/folder.html"], ["No such file or directory", "folder.html"]),
        (["--image", "missing.png"], ["missing.png", "No such file"]),
        (["--image", "broken.png"], ["broken.png"]),
        (["--model", "missing.npz"], ["missing.npz"]),
    ],
)
def test_refused_before_the_work(run, small, tmp_path, monkeypatch, no_work, arguments, parts):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "broken.png").write_bytes(b"no picture")
    model = [] if "--model" in arguments else ["--model", small]
    assert_one_error_line(run("report", *model, "--no-timing", *arguments), *parts)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["broken.png"]


def test_a_very_tall_picture_is_shown(run, small, tmp_path):
    picture = tmp_path / "tall.png"
    Image.new("RGB", (3, 900), (90, 120, 200)).save(picture)
    target = tmp_path / "page.html"
    assert run("report", small, "-o", target, "--no-timing", "-q", "--image", picture)[0] == 0
    assert "tall.png, 900 x 3" in target.read_text("utf-8")
