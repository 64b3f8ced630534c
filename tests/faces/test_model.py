"""The Python interface: load, segment, probabilities, blobs."""

from __future__ import annotations

import subprocess
import sys
import threading

import numpy as np
import pytest
from networks import random_blob, random_icnet, random_picture
from PIL import Image

import sparse_icnet
from sparse_icnet import bundled, formats
from sparse_icnet.formats.errors import FormatError
from sparse_icnet.network.graph import Argmax, Graph, GraphError, Resize, Softmax, resized
from sparse_icnet.reference.compare import verify
from sparse_icnet.reference.oracle import Oracle

SIZE = (192, 192)


def oracle_of(net, blob):
    return Oracle(net.graph, blob).output()


def test_importing_loading_and_running_leave_numba_alone(tiny_net, tiny_file):
    """The package itself imports not even NumPy; inference needs Numba only where no machine code is kept."""
    expected = int(tiny_net.segment(np.zeros((10, 10, 3), np.uint8)).sum())
    script = f"""
import sys, sparse_icnet
assert not {{"numpy", "numba", "PIL"}} & set(sys.modules), "import"
net = sparse_icnet.load({str(tiny_file)!r}, size={SIZE})
assert "numba" not in sys.modules, "load"
import numpy as np
assert int(net.segment(np.zeros((10, 10, 3), np.uint8)).sum()) == {expected}
assert "numba" not in sys.modules, "inference"
"""
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


def test_names_of_the_package():
    assert len(sparse_icnet.CLASSES) == len(sparse_icnet.PALETTE) == 12
    assert sparse_icnet.CLASSES[0] == "sky"
    assert set(sparse_icnet.__all__) <= set(dir(sparse_icnet))
    assert sparse_icnet.__version__[0].isdigit()
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        sparse_icnet.nothing  # noqa: B018


def test_blob_equals_oracle_and_sums_to_one(tiny_net):
    blob = random_blob(tiny_net.graph)
    result = tiny_net(blob[None])
    assert result.dtype == np.float32
    assert result.shape == (1, 12, *SIZE)
    assert np.array_equal(result[0], oracle_of(tiny_net, blob))
    assert np.abs(result.sum(1) - 1).max() < 1e-5
    assert len(np.unique(result.argmax(1))) > 3


def ending(graph: Graph, *letters: str | int) -> Graph:
    """`graph` up to its logits, 48x48 for 192x192, then softmax "s", argmax "a" and resizes to a height and width."""
    ops = [op for op in graph if op.name not in ("logits_up", "probabilities")]
    for i, letter in enumerate(letters):
        source = ops[-1].name
        match letter:
            case "s":
                ops.append(Softmax(f"end{i}", source))
            case "a":
                ops.append(Argmax(f"end{i}", source))
            case int():
                ops.append(Resize(f"end{i}", source, (letter, letter)))
    return Graph(tuple(ops), ops[-1].name)


@pytest.mark.parametrize(
    ("letters", "shape", "dtype"),
    [
        ("s", (12, 48, 48), np.float32),
        (("s", 96), (12, 96, 96), np.float32),
        ((384, "s"), (12, 384, 384), np.float32),
        ("a", (1, 48, 48), np.uint8),
        (("a", 192), (1, 192, 192), np.uint8),
        ((96, "a"), (1, 96, 96), np.uint8),
        (("a", 384), (1, 384, 384), np.uint8),
    ],
)
def test_outputs_of_any_size_and_kind(tiny_graph, tiny_net, letters, shape, dtype):
    """Without the last enlargement, with another one, with an argmax: what the network returns, as the oracle says."""
    net = sparse_icnet.Model(ending(tiny_graph, *letters), threads=1)
    assert net.output_size == shape[1:]
    blobs = np.stack([random_blob(net.graph, seed) for seed in range(2)])
    result = net(blobs)
    assert (result.dtype, result.shape) == (dtype, (2, *shape))
    for blob, one in zip(blobs, result, strict=True):
        np.testing.assert_array_equal(one, oracle_of(net, blob))
    out = np.zeros_like(result)
    assert net(blobs, out=out) is out
    np.testing.assert_array_equal(out, result)
    with pytest.raises(TypeError, match=f"out must be a {np.dtype(dtype)} array, found int16"):
        net(blobs, out=out.astype(np.int16))
    with pytest.raises(ValueError, match=r"out must have shape \(2, "):
        net(blobs, out=out[:, :, 1:])
    assert net.probabilities(random_picture(50, 70)).shape == (12, *shape[1:])


@pytest.mark.parametrize("letters", ["s", ("s", 96), (384, "s"), "a", ("a", 192), (96, "a"), ("a", 384)])
@pytest.mark.parametrize("size", [SIZE, (37, 53), (400, 100), (500, 700)])
def test_segment_brings_any_output_to_the_picture(tiny_graph, tiny_net, letters, size):
    """All these outputs enlarge one map of 48x48 classes by whole factors, so the picture's classes are the same."""
    net = sparse_icnet.Model(ending(tiny_graph, *letters), threads=1)
    picture = random_picture(*size, seed=8)
    classes = net.segment(picture)
    np.testing.assert_array_equal(classes, tiny_net.segment(picture))
    assert classes.shape == size
    np.testing.assert_array_equal(
        net.segment_at_network_size(picture), tiny_net.segment_at_network_size(picture)
    )


def test_batch_and_out(tiny_net):
    blobs = np.stack([random_blob(tiny_net.graph, seed) for seed in range(3)])
    out = np.full((3, 12, *SIZE), np.nan, np.float32)
    assert tiny_net(blobs, out=out) is out
    for blob, result in zip(blobs, out, strict=True):
        assert np.array_equal(result, tiny_net(blob[None])[0])
    assert not np.array_equal(out[0], out[1])
    assert tiny_net(blobs[:0]).shape == (0, 12, *SIZE)


def test_blob_in_any_memory_layout(tiny_net):
    blob = random_blob(tiny_net.graph)
    channels_last = np.ascontiguousarray(blob.transpose(1, 2, 0)).transpose(2, 0, 1)
    assert np.array_equal(tiny_net(channels_last[None]), tiny_net(blob[None]))
    mirrored = tiny_net(blob[None, :, :, ::-1])
    assert np.array_equal(mirrored, tiny_net(np.ascontiguousarray(blob[:, :, ::-1])[None]))


def test_nan_and_infinity_are_defined(tiny_net):
    blob = random_blob(tiny_net.graph)
    blob[0, :20], blob[1, :20], blob[2, :20] = np.nan, np.inf, -np.inf
    result = tiny_net(blob[None])
    assert np.isfinite(result).all()
    assert np.array_equal(result[0], oracle_of(tiny_net, blob))


@pytest.mark.parametrize(
    ("blob", "error", "message"),
    [
        (np.zeros((1, 3, 192, 96), np.float32), ValueError, r"\(N, 3, 192, 192\), found \(1, 3, 192, 96\)"),
        (np.zeros((3, 192, 192), np.float32), ValueError, r"found \(3, 192, 192\)"),
        (np.zeros((1, 192, 192, 3), np.float32), ValueError, r"found \(1, 192, 192, 3\)"),
        (np.zeros((1, 3, 192, 192)), TypeError, "found float64"),
        (np.zeros((1, 3, 192, 192), np.uint8), TypeError, r"found uint8; for a picture call segment\(\)"),
        ([[1.0]], TypeError, "found list"),
    ],
)
def test_wrong_blobs(tiny_net, blob, error, message):
    with pytest.raises(error, match=message):
        tiny_net(blob)


def test_wrong_out(tiny_net):
    blob = np.zeros((1, 3, *SIZE), np.float32)
    shape = (1, 12, *SIZE)
    with pytest.raises(TypeError, match="float32 array, found float64"):
        tiny_net(blob, out=np.zeros(shape))
    with pytest.raises(ValueError, match=r"shape \(1, 12, 192, 192\), found \(12, 192, 192\)"):
        tiny_net(blob, out=np.zeros(shape[1:], np.float32))
    with pytest.raises(ValueError, match="C-contiguous and writable"):
        tiny_net(blob, out=np.zeros((1, 12, 192, 384), np.float32)[..., ::2])
    frozen = np.zeros(shape, np.float32)
    frozen.flags.writeable = False
    with pytest.raises(ValueError, match="writable"):
        tiny_net(blob, out=frozen)
    shared = np.zeros((15, *SIZE), np.float32)
    with pytest.raises(ValueError, match="overlap"):
        tiny_net(shared[None, :3], out=shared[None, 2:14])


def test_probabilities_of_an_image(tiny_net):
    picture = random_picture(100, 150)
    result = tiny_net.probabilities(picture)
    assert result.shape == (12, *SIZE)
    assert np.array_equal(result, tiny_net(tiny_net.blob(picture))[0])
    both = tiny_net.probabilities([picture, picture[::-1]])
    assert np.array_equal(both[0], result)
    assert np.array_equal(both[1], tiny_net.probabilities(picture[::-1]))


def test_blob_is_normalized_as_the_model_card_says(tiny_net):
    picture = random_picture(*SIZE)
    mean = np.array([0.39068785, 0.40521392, 0.41434407])
    deviation = np.array([0.29652068, 0.30514979, 0.30080369])
    expected = ((picture / 255 - mean) / deviation).transpose(2, 0, 1)
    assert np.abs(tiny_net.blob(picture)[0] - expected).max() < 1e-6


@pytest.mark.parametrize("size", [SIZE, (1, 1), (37, 53), (400, 100), (768, 960)])
def test_class_map_has_the_size_of_the_image(tiny_net, size):
    classes = tiny_net.segment(random_picture(*size))
    assert classes.dtype == np.uint8
    assert classes.shape == size
    assert classes.max() < 12


def test_class_map_is_the_argmax_of_the_probabilities(tiny_net):
    picture = random_picture(*SIZE, seed=4)
    classes = tiny_net.segment(picture, smooth=False)
    assert np.array_equal(classes, tiny_net.probabilities(picture).argmax(0))
    assert np.array_equal(classes, tiny_net.segment_at_network_size(picture, smooth=False))
    assert len(np.unique(classes)) > 3
    large = picture.repeat(3, 0).repeat(2, 1)  # whole factors: every pixel keeps the class of its origin
    assert np.mean(tiny_net.segment(large, smooth=False) == classes.repeat(3, 0).repeat(2, 1)) > 0.5


def test_path_picture_and_array_agree(tiny_net, tmp_path):
    pixels = random_picture(90, 120)
    path = tmp_path / "p.png"
    Image.fromarray(pixels).save(path)
    maps = tiny_net.segment([path, str(path), Image.fromarray(pixels), pixels])
    assert isinstance(maps, list)
    assert all(np.array_equal(one, maps[0]) for one in maps)


def test_several_python_threads_at_once(tiny_net):
    pictures = [random_picture(*SIZE, seed=seed) for seed in range(4)]
    expected = [tiny_net.segment(picture) for picture in pictures]
    failures = []

    def work(i):
        for _ in range(5):
            if not np.array_equal(tiny_net.segment(pictures[i]), expected[i]):
                failures.append(i)

    workers = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not failures


@pytest.mark.parametrize("threads", [2, None])
def test_threads_do_not_change_the_result(tiny_net, tiny_file, threads):
    blob = random_blob(tiny_net.graph)[None]
    assert np.array_equal(sparse_icnet.load(tiny_file, SIZE, threads=threads)(blob), tiny_net(blob))


def test_another_size(tiny_file):
    net = sparse_icnet.load(tiny_file, size=(192, 384), threads=1)
    assert net.size == (192, 384)
    blob = random_blob(net.graph)
    assert np.array_equal(net(blob[None])[0], oracle_of(net, blob))


def test_the_size_of_the_file_is_the_default(tiny_file, tiny_graph, tmp_path):
    assert sparse_icnet.load(tiny_file).size == SIZE
    assert sparse_icnet.load().size == (768, 960)
    xml = tmp_path / "m.xml"
    formats.save(tiny_graph, xml)
    net = sparse_icnet.load(xml)
    assert (net.size, net.graph.size_is_free) == (SIZE, False)
    assert sparse_icnet.load(xml, size=(192, 288)).size == (192, 288)


@pytest.mark.parametrize(
    "size", [(32, 32), (32, 96), (128, 64), (64, 160), (160, 128), (224, 352), (96, 192)]
)
def test_every_multiple_of_32_is_exact(tiny_graph, size):
    """The bins of the pyramid overlap where 96 does not divide the size; every tensor equals the oracle's."""
    graph = resized(tiny_graph, size)
    report = verify(graph, [random_blob(graph, 1)], threads=2)
    assert all(row.equal for row in report.differences)
    assert report.differences
    assert not report.divergences
    assert report.traced > 50


@pytest.mark.parametrize("size", [(96, 100), (48, 96), (96, 16), (100, 100)])
def test_other_sizes_are_refused(tiny_file, size):
    with pytest.raises(GraphError, match="expected a positive multiple of 32 as height and of 32 as width"):
        sparse_icnet.load(tiny_file, size)


def test_other_classes(tmp_path):
    path = tmp_path / "seven.npz"
    formats.save(random_icnet(SIZE, classes=7), path)
    net = sparse_icnet.load(path, size=None, threads=1)
    assert len(net.class_names) == 7
    assert net.class_names[3] == "class 3"
    assert net(np.zeros((1, 3, *SIZE), np.float32)).shape == (1, 7, *SIZE)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"size": (192, 100)}, GraphError, "size 192x100"),
        ({"size": (0, 192)}, ValueError, "found 0x192"),
        ({"size": (1 << 20, 192)}, ValueError, "found 1048576x192"),
        ({"size": 192}, TypeError, r"two integers \(height, width\), found 192"),
        ({"size": (192.0, 192)}, TypeError, "two integers"),
        ({"threads": 0}, ValueError, "threads must lie in 1..256, found 0"),
        ({"threads": 2.0}, TypeError, "threads must be an integer or None"),
        ({"threads": True}, TypeError, "threads must be an integer or None"),
    ],
)
def test_wrong_arguments_of_load(tiny_file, arguments, error, message):
    with pytest.raises(error, match=message):
        sparse_icnet.load(tiny_file, **arguments)


def test_files_that_are_no_model(tmp_path):
    with pytest.raises(FileNotFoundError):
        sparse_icnet.load(tmp_path / "none.npz")
    cases = {
        "empty.npz": (b"", "found an empty file"),
        "text.npz": (b"hello", "expected a zip archive"),
        "text.xml": (b"hello", "expected XML"),
        "photo.jpg": (b"\xff\xd8\xff", "expected a model"),
    }
    for name, (data, message) in cases.items():
        path = tmp_path / name
        path.write_bytes(data)
        with pytest.raises(FormatError, match=message) as caught:
            sparse_icnet.load(path)
        assert str(path) in str(caught.value)


def test_format_is_told_by_content(tiny_file, tmp_path):
    renamed = tmp_path / "model.bin"
    renamed.write_bytes(tiny_file.read_bytes())
    assert sparse_icnet.load(renamed, size=None).size == SIZE
    with pytest.raises(FormatError, match=r"ends in \.npz, \.xml, \.onnx, found '\.bin'"):
        formats.save(sparse_icnet.load(tiny_file, size=None).graph, renamed)


class TestBundled:
    """Files that come with the package."""

    def test_default_weights_are_there_and_whole(self):
        assert sparse_icnet.DEFAULT_WEIGHTS.is_file()
        for name in bundled.names():
            bundled.check_digest(bundled.resolve(name))
        assert bundled.names() == ["sparse-60", "block4x4"]
        assert bundled.resolve("sparse-60") == sparse_icnet.DEFAULT_WEIGHTS
        assert [bundled.resolve(name) for name in bundled.names()] == [
            bundled.resolve(f"icnet-camvid-int8-{name}") for name in bundled.names()
        ]

    @pytest.mark.parametrize("name", ["block4x5", "sparse-6O", "block4x4.npz"])
    def test_an_unknown_name_lists_the_models(self, name):
        with pytest.raises(
            FileNotFoundError, match=r"sparse-60, block4x4, did you mean (sparse-60|block4x4)"
        ):
            sparse_icnet.load(name)

    def test_default_model(self):
        net = sparse_icnet.load()
        assert net.size == (768, 960)
        weights = np.concatenate([op.weight.ravel() for op in net.graph.convolutions])
        assert len(net.graph.convolutions) == 64
        assert 0.595 < (weights == 0).mean() < 0.605
        assert (
            sparse_icnet.load(sparse_icnet.DEFAULT_WEIGHTS.stem, size=None).class_names
            == sparse_icnet.CLASSES
        )

    def test_sample_is_segmented_into_something(self):
        net = sparse_icnet.load(size=(384, 576))
        classes = net.segment(bundled.SAMPLE_IMAGE)
        assert classes.shape == (427, 640)
        shares = np.bincount(classes.ravel(), minlength=12) / classes.size
        assert shares[sparse_icnet.CLASSES.index("tree")] > 0.1
        assert np.count_nonzero(shares > 0.02) >= 3

    def test_changed_file_is_refused(self, tiny_file, tmp_path, monkeypatch):
        copy = tmp_path / "model.npz"
        copy.write_bytes(tiny_file.read_bytes())
        monkeypatch.setattr(bundled, "WEIGHTS", tmp_path)
        with pytest.raises(FormatError, match="expected the digest table SHA256SUMS"):
            sparse_icnet.load(copy)
        (tmp_path / "SHA256SUMS").write_text(f"{'0' * 64}  other.npz\n")
        with pytest.raises(FormatError, match=r"expected a SHA-256 digest in SHA256SUMS, found none"):
            sparse_icnet.load(copy)
        (tmp_path / "SHA256SUMS").write_text(f"{'0' * 64}  model.npz\n")
        with pytest.raises(FormatError, match="damaged or changed"):
            sparse_icnet.load(copy)
        with pytest.raises(FormatError, match="damaged or changed"):
            sparse_icnet.load("model")


def test_beside(tiny_net):
    """The same results and weights, memory and threads of its own; nothing is loaded or planned again."""
    other = tiny_net.beside(threads=2)
    assert (other.threads, tiny_net.threads) == (2, 1)
    assert (other.size, other.class_names) == (tiny_net.size, tiny_net.class_names)
    assert other.plan is tiny_net.plan
    picture = random_picture(70, 90)
    assert np.array_equal(other.predict(picture).logits, tiny_net.predict(picture).logits)
    blob = tiny_net.blob(picture)
    assert np.array_equal(other(blob), tiny_net(blob))
    mine, its = tiny_net.session.plan.shared, other.session.plan.shared
    assert not np.shares_memory(mine, its)
    assert other.session.threads == 2
    assert tiny_net.beside().threads == 1
    with pytest.raises(ValueError, match="threads"):
        tiny_net.beside(threads=0)
