"""What OpenVINO would choose for layers that are not int8 on the CPU it is told to believe in."""

from __future__ import annotations

import os


def openvino_precision() -> str | None:
    """None: its own choice; "f32" where oneDNN is held to an older class of CPUs.

    OpenVINO asks the real CPU for bfloat16, which no CPU with AVX2 alone has, and would then run a third of
    the convolutions through a fallback that takes three times as long.
    """
    return "f32" if os.environ.get("ONEDNN_MAX_CPU_ISA") else None
