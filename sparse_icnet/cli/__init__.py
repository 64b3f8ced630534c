"""The command line: `main` parses, calls the module of a command, turns errors into exit codes.

One module a command, `run(arguments) -> exit code` each; errors are raised.  This module imports next to nothing, so
that hardly a moment is left in which Ctrl-C is not answered in one line.
"""

from __future__ import annotations

TYPE_CHECKING = False  # `typing` takes as long to import as all that is imported here
if TYPE_CHECKING:
    from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line `argv` (default: that of the process) and return its exit code."""
    try:
        import os
        import signal

        def leave(number: int, frame: object) -> None:
            os.write(2, b"sparse-icnet: error: interrupted\n")
            os._exit(128 + number)

        # While modules are imported nothing is begun that would have to be ended, but an exception raised just
        # then may be lost, or be printed, in a place that cannot pass it on.
        usual = signal.getsignal(signal.SIGINT)
        if usual is not signal.default_int_handler or not _in_main_thread():
            usual = None
        else:
            signal.signal(signal.SIGINT, leave)

        def imported() -> None:
            if usual is not None:
                signal.signal(signal.SIGINT, usual)

        try:
            from sparse_icnet.cli.entry import run

            return run(argv, imported)
        finally:
            if usual is not None and signal.getsignal(signal.SIGINT) is leave:
                signal.signal(signal.SIGINT, usual)
    except KeyboardInterrupt:
        import sys

        print("sparse-icnet: error: interrupted", file=sys.stderr)
        return 130


def _in_main_thread() -> bool:
    import threading

    return threading.current_thread() is threading.main_thread()
