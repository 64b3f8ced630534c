"""The whole network at 768x960 against the oracle, bit for bit: every tensor, on threads and on other CPUs."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from engine import bits, blob_of, digest, expected_classes, soil
from networks import random_icnet, random_picture
from numpy.typing import NDArray
from PIL import Image

import sparse_icnet
from sparse_icnet.bundled import SAMPLE_IMAGE
from sparse_icnet.formats import native
from sparse_icnet.network.graph import Graph, resized
from sparse_icnet.network.icnet import layer_specs
from sparse_icnet.network.rewrite import sampled
from sparse_icnet.plan import plan_for
from sparse_icnet.reference.oracle import Oracle
from sparse_icnet.run.session import Session
from sparse_icnet.target import TARGET, is_x86

SIZE = (768, 960)
TESTS = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def graph() -> Graph:
    """The bundled network, or one with random weights where there is no weight file yet."""
    if sparse_icnet.DEFAULT_WEIGHTS.exists():
        return native.load(sparse_icnet.DEFAULT_WEIGHTS)
    return resized(random_icnet((192, 192), seed=3), SIZE)


@pytest.fixture(scope="module")
def image() -> NDArray[np.uint8]:
    """uint8 (768, 960, 3): the sample photo."""
    if not SAMPLE_IMAGE.exists():
        return random_picture(*SIZE)
    with Image.open(SAMPLE_IMAGE) as photo:
        return np.asarray(photo.convert("RGB").resize(SIZE[::-1], Image.Resampling.BILINEAR))


@pytest.fixture(scope="module")
def blob(graph, image) -> NDArray[np.float32]:
    return blob_of(graph, image)


@pytest.fixture(scope="module")
def session(graph) -> Session:
    return Session(plan_for(graph, threads=1, keep_tensors=True))


@pytest.fixture(scope="module")
def oracle(session, blob) -> Oracle:
    """The oracle of the rewritten graph; it keeps every tensor that it has computed."""
    return Oracle(session.graph, blob)


@pytest.fixture(scope="module")
def original(graph, blob) -> Oracle:
    """The oracle of the network as the file has it."""
    return Oracle(graph, blob)


@pytest.fixture(scope="module")
def expected_digest(session, oracle, blob) -> str:
    """Digest of all tensors and results of the session that the first tests prove right."""
    return digest(session, session.probabilities(blob), session.class_map(blob))


def assert_tensors_equal(session: Session, oracle: Oracle) -> None:
    for name in session.tensors():
        np.testing.assert_array_equal(session.tensor(name), oracle.codes(name), err_msg=f"tensor {name!r}")


def test_every_tensor_equals_the_oracle(session, oracle, blob):
    session.class_map(np.zeros_like(blob))  # another image before: nothing of it may remain
    probabilities = session.probabilities(blob)
    assert_tensors_equal(session, oracle)
    np.testing.assert_array_equal(bits(probabilities), bits(oracle.output()))
    values = {name: np.unique(session.tensor(name)).size for name in session.tensors()}
    trivial = {name: count for name, count in values.items() if count < 8}
    assert not trivial, "these tensors hold so few values that their equality says little"


def test_every_tensor_equals_the_network_as_written(graph, session, original, blob):
    """Each tensor that survives the rewrites holds every k-th row and column of the original one."""
    session.class_map(blob)
    names = {op.name for op in graph}
    shared = [name for name in session.tensors() if name in names]
    assert len(shared) >= 40
    for name in shared:
        step_y, step_x = sampled(graph, session.graph, name)
        wanted = original.codes(name)[:, ::step_y, ::step_x]
        np.testing.assert_array_equal(session.tensor(name), wanted, err_msg=f"tensor {name!r}")


def test_probabilities_equal_the_network_as_written(session, original, blob):
    expected = original.output()
    probabilities = session.probabilities(blob)
    assert probabilities.shape == expected.shape == (expected.shape[0], *SIZE)
    np.testing.assert_array_equal(bits(probabilities), bits(expected))
    np.testing.assert_allclose(probabilities.sum(0), 1, atol=1e-5)


def test_classes_equal_the_oracle(graph, session, original, blob):
    classes = session.class_map(blob)
    np.testing.assert_array_equal(classes, expected_classes(session.graph, blob))
    # The class also has the largest probability wherever that is unique.
    factor = SIZE[0] // classes.shape[0]
    probabilities = original.output()[:, ::factor, ::factor]
    chosen = np.take_along_axis(probabilities, classes[None].astype(np.intp), 0)[0]
    np.testing.assert_array_equal(chosen, probabilities.max(0))
    shares = np.bincount(classes.ravel()) / classes.size
    assert (shares > 0.01).sum() >= 3, f"a trivial class map: {shares.round(3)}"


def test_image_equals_blob(session, image, blob):
    expected = session.probabilities(blob)
    wanted = {name: session.tensor(name) for name in session.tensors()}
    session.class_map(np.zeros_like(blob))
    np.testing.assert_array_equal(bits(session.probabilities_of_image(image)), bits(expected))
    for name, tensor in wanted.items():
        np.testing.assert_array_equal(session.tensor(name), tensor, err_msg=f"tensor {name!r}")
    np.testing.assert_array_equal(session.class_map_of_image(image), session.class_map(blob))


@pytest.mark.parametrize("threads", [2, 3])
def test_threads_change_nothing(graph, session, oracle, expected_digest, blob, threads):
    expected = session.probabilities(blob)
    threaded = Session(plan_for(graph, threads, keep_tensors=True))
    for _ in range(5):
        np.testing.assert_array_equal(bits(threaded.probabilities(blob)), bits(expected))
        assert digest(threaded, expected, threaded.class_map(blob)) == expected_digest
    assert_tensors_equal(threaded, oracle)


@pytest.mark.parametrize("threads", [1, 2])
def test_tensors_that_share_memory_give_the_same(graph, session, blob, threads):
    sharing = Session(plan_for(graph, threads))
    assert 3 * sharing.plan.placement.shared.size < session.plan.placement.arena.bytes
    soil(sharing)
    for other in (blob, np.zeros_like(blob), blob):  # what the image before left lies in the shared memory
        np.testing.assert_array_equal(bits(sharing.probabilities(other)), bits(session.probabilities(other)))
        np.testing.assert_array_equal(sharing.class_map(other), session.class_map(other))


def test_every_convolution_is_a_step_of_a_kernel(graph, session):
    steps = {step.name: step for step in session.plan.convolutions()}
    assert (
        set(steps) == {op.name for op in session.graph.convolutions} == {op.name for op in graph.convolutions}
    )
    assert len(steps) == len(layer_specs()) == 64
    assert all(step.kernel and step.reason for step in steps.values())
    for step in steps.values():
        costs = [candidate.cost for candidate in step.candidates]
        if costs:
            assert step.candidates[0].kernel == step.kernel
            assert costs == sorted(costs)
            assert len(costs) >= len(TARGET.kernels)
        else:
            assert "inside" in step.reason  # computed with the tiles of the step that adds it
    assert 7.5e9 < sum(step.dense_macs for step in steps.values()) < 8.0e9 < graph.macs()


# --- other CPUs ----------------------------------------------------------------------------------------------

# Name of the CPU that Numba compiles for -> the dot product that must be chosen.  "portable" is the code for CPUs
# other than x86, plain LLVM vectors, compiled for this one.
CPUS = {"haswell": "avx2", "x86-64": "sse2", "skylake-avx512": "avx512bw", "portable": "generic"}

_PORTABLE = """
import platform
import numba
machine, platform.machine = platform.machine, lambda: "riscv64"
import sparse_icnet.target
platform.machine = machine
"""
_CODE = """
import sys
import numpy as np
import pytest
from engine import digest
from sparse_icnet.formats import native
from sparse_icnet.plan import plan_for
from sparse_icnet.run.session import Session
from sparse_icnet.target import TARGET
from test_digest import DIGESTS, digests
graph, blob = native.load(sys.argv[1]), np.load(sys.argv[2])
for threads in (1, 2):
    session = Session(plan_for(graph, threads, keep_tensors=True))
    print(TARGET.name, digest(session, session.probabilities(blob), session.class_map(blob)))
print(all(digests(name) == sizes[192, 192] for name, sizes in DIGESTS.items()))
sys.exit(pytest.main(["-q", "-x", "-p", "no:cacheprovider", *sys.argv[3:]]))
"""


FLOAT_TESTS = ("test_planes_around_the_width_of_a_tile", "test_layers_anywhere", "test_numbers_that_are_none")


def _on(cpu: str, *arguments: object) -> list[str]:
    """Lines that _CODE prints, run in a process of its own in which Numba compiles for `cpu`."""
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(TESTS / "helpers"), str(TESTS / "run"), *sys.path]),
    }
    environment.pop("NUMBA_CPU_FEATURES", None)
    environment["NUMBA_CPU_NAME"] = "" if cpu == "portable" else cpu
    if cpu != "portable":
        environment["NUMBA_CPU_FEATURES"] = ""  # of that CPU alone, else LLVM uses those of the host as well
    done = subprocess.run(
        [sys.executable, "-c", (_PORTABLE if cpu == "portable" else "") + _CODE, *map(str, arguments)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, (
        f"{cpu}: exit {done.returncode}\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
    )
    return done.stdout.splitlines()


def _runs(cpu: str) -> bool:
    """Whether this host can execute code for `cpu`, not its own: those of x86 on x86, if it has what they have."""
    if cpu == "portable":
        return TARGET.name != "generic"
    return is_x86() and (CPUS[cpu] != "avx512bw" or TARGET.name.startswith("avx512"))


@pytest.fixture(scope="module")
def other_cpus(graph, blob, tmp_path_factory) -> Iterator[dict[str, Future[list[str]]]]:
    """The runs on all other CPUs, two at a time."""
    folder = tmp_path_factory.mktemp("cpus")
    native.save(graph, folder / "network.npz")
    np.save(folder / "blob.npy", blob)
    tests = [TESTS / "operators" / "test_kernels.py", TESTS / "simd" / "test_simd.py"]
    tests += [f"{TESTS / 'operators' / 'test_float.py'}::{name}" for name in FLOAT_TESTS]
    files = [folder / "network.npz", folder / "blob.npy", *tests]
    with ThreadPoolExecutor(2) as pool:
        yield {cpu: pool.submit(_on, cpu, *files) for cpu in CPUS if _runs(cpu)}


@pytest.mark.parametrize("cpu", CPUS)
def test_other_cpus_give_the_same_bits(cpu, expected_digest, other_cpus):
    """A network on 1 and 2 threads, both bundled ones, then the tests of every kernel and vector operation."""
    if cpu not in other_cpus:
        pytest.skip(f"this CPU ({TARGET.name}) cannot run code for {cpu}")
    one, two, models, *tests = other_cpus[cpu].result()
    assert one == two == f"{CPUS[cpu]} {expected_digest}"
    assert models == "True"
    assert " passed" in tests[-1]
