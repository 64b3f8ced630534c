"""From a graph to a plan: `stages` shows how, `steps` what a session needs of it, `kept` how an earlier process left it.

Importing this package imports none of them: a process that runs a kept plan does without the planner.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Any

    from sparse_icnet.operators.storage import PlanError
    from sparse_icnet.plan.stages import LEAST_TIME, plan_for

__all__ = ["LEAST_TIME", "PlanError", "plan_for"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module("sparse_icnet.plan.stages"), name)
