"""From a command line to an exit code: imports the command's module, runs it, says each error in one line."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import warnings
from collections.abc import Callable, Sequence
from importlib import import_module

from sparse_icnet.cli.terminal import STDOUT, flush, printable

OK, MISMATCH, BAD_INPUT, INTERNAL = 0, 1, 2, 3


def run(argv: Sequence[str] | None, imported: Callable[[], None]) -> int:
    """Run `argv`; `imported` is called when all modules of the command are there and its work begins.

    argv  None: that of the process, which then is this command's own
    """
    _open_standard_streams()
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # a file name may hold anything
    warnings.filterwarnings("ignore", module=r"PIL\b")  # of damage that Pillow can live with
    from sparse_icnet import freed_memory
    from sparse_icnet.cli.parser import parse

    try:
        arguments = parse(argv)
        _talk(getattr(arguments, "verbose", 0))
        command = import_module(f"sparse_icnet.cli.{arguments.module}")
        if argv is None:
            freed_memory.keep()
        imported()
        code: int = command.run(arguments)
        flush()
        return code
    except KeyboardInterrupt:
        _die_of_the_next_interrupt()
        complain("interrupted")
        return 128 + signal.SIGINT
    except BrokenPipeError:
        _drop_stdout()
        return 141  # 128 + SIGPIPE, which Windows does not name
    except OSError as error:
        if error.filename == STDOUT:
            _drop_stdout()
        where = f"{os.fsdecode(error.filename)}: " if error.filename is not None else ""
        complain(f"{where}{error.strerror or error}")
        return BAD_INPUT
    except (ValueError, ImportError, MemoryError) as error:
        if os.environ.get("SPARSE_ICNET_TRACEBACK"):
            raise
        complain(str(error) or "not enough memory")
        return BAD_INPUT
    except Exception as error:
        if os.environ.get("SPARSE_ICNET_TRACEBACK"):
            raise
        complain(
            f"internal error: {type(error).__name__}: {error}", hint="SPARSE_ICNET_TRACEBACK=1 shows where"
        )
        return INTERNAL


def complain(message: str, hint: str = "") -> None:
    """One line on stderr, the form of all errors of this command."""
    line = printable(" ".join(message.splitlines()) + (f" ({hint})" if hint else ""))
    with contextlib.suppress(OSError):  # nobody can be told that stderr is broken
        print(f"sparse-icnet: error: {line}", file=sys.stderr)


def _talk(verbose: int) -> None:
    """-v: what the logger `sparse_icnet` says of its work (INFO) goes to stderr; -vv: all (DEBUG)."""
    if not verbose and "logging" not in sys.modules:
        return
    import logging

    logger = logging.getLogger("sparse_icnet")
    for handler in [one for one in logger.handlers if one.get_name() == "sparse-icnet"]:
        logger.removeHandler(handler)  # of an earlier command in this process
    if not verbose:
        return
    handler = logging.StreamHandler()
    handler.set_name("sparse-icnet")
    handler.setFormatter(logging.Formatter("sparse-icnet: %(message)s"))
    logger.addHandler(handler)
    logger.setLevel(logging.INFO if verbose == 1 else logging.DEBUG)


def _open_standard_streams() -> None:
    """Closed ones (`>&-`) lead nowhere from here on; else the next file opened would be taken for one of them."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            with contextlib.suppress(OSError):
                os.open(os.devnull, os.O_RDWR)  # takes the lowest free number: this one
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115


def _drop_stdout() -> None:
    """Keep the interpreter from complaining about the closed pipe or full disk when it flushes at exit."""
    with contextlib.suppress(OSError, ValueError):  # stdout is not a file: nothing to flush
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _die_of_the_next_interrupt() -> None:
    with contextlib.suppress(ValueError):  # not in the main thread
        signal.signal(signal.SIGINT, signal.SIG_DFL)
