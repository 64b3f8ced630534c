"""No function of a kernel is compiled anew for a literal argument: all who wait for a first compilation would pay."""

from __future__ import annotations

import subprocess
import sys

# In a process of its own: elsewhere kernels come from the cache, and other tests call functions with what they like.
SCRIPT = """
import sys
from numba import types
from numba.core.dispatcher import Dispatcher
from sparse_icnet.operators.elementwise.kernel import shift
from sparse_icnet.operators.elementwise.params import ShiftParams
from sparse_icnet.operators.interpolation.kernel import smooth_classes
from sparse_icnet.operators.interpolation.params import SmoothClassesParams
from sparse_icnet.simd.record import RecordType

for kernel, record in ((shift, ShiftParams), (smooth_classes, SmoothClassesParams)):
    kernel.compile((RecordType(record), types.int64, types.int64))
modules = [module for name, module in sys.modules.items() if name.startswith("sparse_icnet")]
functions = {f for module in modules for f in vars(module).values() if isinstance(f, Dispatcher)}
for function in functions:
    for signature in function.overloads:
        if any(isinstance(kind, types.Literal) for kind in signature):
            print(function.__name__, signature)
print(sum(len(function.overloads) for function in functions), "compiled")
"""


def test_no_literal_has_a_compilation_of_its_own():
    run = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr
    *literals, last = run.stdout.splitlines()
    assert not literals
    assert int(last.split()[0]) >= 7
