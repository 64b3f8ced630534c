"""The linker of machine code: the same results as LLVM's own, and nothing but a clear refusal of what it does not know."""

from __future__ import annotations

import contextlib
import platform
import subprocess
import sys
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import sparse_icnet
from sparse_icnet.operators.convolution.params import ConvolutionParams
from sparse_icnet.run import linking, machine_code

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or platform.machine() != "x86_64", reason="links objects for x86-64 Linux alone"
)


@pytest.fixture(scope="module")
def compiled() -> tuple[str, bytes]:
    """(name of the entry point, object file) of a kernel."""
    entry = machine_code.entry_of(ConvolutionParams)
    name, _, content = machine_code._machine_codes([entry])[entry].partition(b"\0")
    return name.decode(), content


def test_llvm_is_not_loaded():
    code = (
        "import sys, numpy, sparse_icnet; from sparse_icnet.bundled import SAMPLE_IMAGE;"
        "net = sparse_icnet.load(size=(96, 96), threads=2); net.predict(SAMPLE_IMAGE);"
        "print('llvmlite.binding' in sys.modules, 'numba' in sys.modules)"
    )
    machine_code.warm_up()  # in the cache now, and what the CPU is as well
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False False\n"


def test_llvms_own_linker_gives_the_same_bits(monkeypatch):
    """It takes what this one does not know."""

    def unknown(objects: Sequence[tuple[bytes, str]]) -> list[int]:
        raise linking.UnknownObjectError("not known")

    image = np.random.default_rng(0).integers(0, 256, (96, 96, 3), np.uint8)
    results = [sparse_icnet.load(size=(96, 96), threads=2).session.probabilities_of_image(image)]
    monkeypatch.setattr(machine_code, "_loaded", {})
    monkeypatch.setattr(machine_code, "_functions", {})
    monkeypatch.setattr(machine_code, "link", unknown)
    results.append(sparse_icnet.load(size=(96, 96), threads=2).session.probabilities_of_image(image))
    assert np.array_equal(results[0].view(np.uint32), results[1].view(np.uint32))


def test_the_memory_is_protected(compiled):
    name, content = compiled
    address = linking.link([(content, name)])[0]
    with open("/proc/self/maps") as file:
        (access,) = (
            line.split()[1]
            for line in file
            if int(line.split("-")[0], 16) <= address < int(line.split("-")[1].split()[0], 16)
        )
    assert access == "r-xp"


@pytest.mark.parametrize(
    "content",
    [b"", b"\x7fELF", bytes(200), b"\x7fELF\x02\x01\x01" + bytes(57)],
    ids=["0", "4", "zeros", "head"],
)
def test_what_is_no_object(content):
    with pytest.raises(linking.UnknownObjectError):
        linking.link([(content, "entry")])


def test_an_entry_that_is_not_there(compiled):
    with pytest.raises(linking.UnknownObjectError, match="no function other"):
        linking.link([(compiled[1], "other")])


def test_another_system_is_left_to_llvm(compiled, monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(linking.UnknownObjectError):
        linking.link([(compiled[1], compiled[0])])


@given(data=st.data())
def test_damaged_tables_raise_one_error(compiled, data):
    """Files are checked by their digest before; here only that no other exception comes of any content."""
    name, content = compiled
    damaged = bytearray(content)
    (start,) = (int.from_bytes(content[40:48], "little"),)
    regions = [(0, 64), (start, len(content)), (start - 20_000, start)]
    for _ in range(data.draw(st.integers(1, 3))):
        low, high = data.draw(st.sampled_from(regions))
        damaged[data.draw(st.integers(low, high - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.sampled_from([len(damaged), len(damaged) // 2, 63, 64]))
    with contextlib.suppress(linking.UnknownObjectError, OSError):
        assert linking.link([(bytes(damaged[:cut]), name)])[0] > 0
