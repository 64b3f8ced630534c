"""The files that come with the package: where they are, and the digests that prove them whole."""

from __future__ import annotations

import errno
import hashlib
import os
from pathlib import Path

from sparse_icnet.formats.errors import FormatError
from sparse_icnet.suggest import did_you_mean

PACKAGE = Path(__file__).resolve().parent
DIGESTS = "SHA256SUMS"
_FAMILY = "icnet-camvid-int8-"
_DEFAULT = "sparse-60"


def _weights_folder() -> Path:
    """sparse_icnet/weights in an installed package, else weights/ beside the package in a source checkout."""
    installed = PACKAGE / "weights"
    return installed if installed.is_dir() else PACKAGE.parent / "weights"


WEIGHTS = _weights_folder()
DEFAULT_WEIGHTS = WEIGHTS / f"{_FAMILY}{_DEFAULT}.npz"
SAMPLE_IMAGE = PACKAGE / "sample" / "china.jpg"


def names() -> list[str]:
    """Short names of the bundled models, the default first: sparse-60, block4x4."""
    found = sorted(short_name(path) for path in WEIGHTS.glob("*.npz"))
    return sorted(found, key=lambda name: name != _DEFAULT)


def all_names() -> list[str]:
    """`names()` and, after these, the names of their files without suffix, which mean the same."""
    return list(dict.fromkeys((*names(), *_files())))


def short_name(path: Path | None, stated: str | None = None) -> str:
    """What the bundled file `path` is called; of another file its name; of a network without a file what it says itself."""
    if path is None:
        return stated or "a network made in memory"
    return path.stem.removeprefix(_FAMILY) if path.parent == WEIGHTS else path.name


def _files() -> dict[str, Path]:
    """The bundled files by their short and by their full names."""
    files = sorted(WEIGHTS.glob("*.npz"))
    return {path.stem: path for path in files} | {short_name(path): path for path in files}


def resolve(model: str | os.PathLike[str] | None) -> Path:
    """The file of `model`: the default for None, a bundled model for its name, else the path itself.

    Raises FileNotFoundError, with the names there are, for a plain name that is neither a file nor a model.
    """
    if model is None:
        return DEFAULT_WEIGHTS
    path = Path(model)
    if path.exists() and str(model):  # '' as a path would be the current folder
        return path
    if str(model) in _files():
        return _files()[str(model)]
    known = all_names()
    if not path.suffix or path.stem in known or not path.suffix[1:].isalpha():
        raise FileNotFoundError(
            errno.ENOENT,
            f"No such file, and no bundled model: expected a file or one of {', '.join(names())}"
            f"{did_you_mean(path.name, known)}",
            str(model),
        )
    return path


def name_of(path: Path) -> str | None:
    """The full name by which `resolve` finds the file `path`; None for one that is not bundled."""
    path = path.resolve()
    return next(
        (name for name, file in _files().items() if name == path.stem and file.resolve() == path), None
    )


def check_digest(path: Path, found: str | None = None) -> None:
    """Compare a bundled weight file with the table of SHA-256 digests beside it; other files pass unread.

    found  SHA-256 of the file in hexadecimal, where it is known

    The table has the form of sha256sum: `cd weights && sha256sum *.npz > SHA256SUMS` renews it.

    Raises FormatError where the digest differs or the table has no line for the file.
    """
    path = path.resolve()
    if path.parent != WEIGHTS.resolve() or not path.is_file():
        return
    table = path.parent / DIGESTS
    if not table.is_file():
        raise FormatError(
            f"{path}: expected the digest table {table.name} beside the bundled weights, found none"
        )
    lines = (line.split(None, 1) for line in table.read_text("ascii").splitlines() if line.strip())
    expected = {name.lstrip("*").strip(): digest for digest, name in lines}.get(path.name)
    if expected is None:
        raise FormatError(f"{path}: expected a SHA-256 digest in {table.name}, found none for this file")
    if found is None:
        found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != expected.lower():
        raise FormatError(
            f"{path}: the bundled weights are damaged or changed: expected SHA-256 {expected}, found {found}"
        )
