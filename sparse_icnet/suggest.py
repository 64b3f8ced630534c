"""What a mistyped word may have meant."""

from __future__ import annotations

from collections.abc import Iterable


def did_you_mean(word: str, known: Iterable[str], most: int = 3) -> str:
    """', did you mean sparse-60?' with the known words most like `word`, best first; '' if none is."""
    from difflib import get_close_matches

    originals = {name.casefold(): name for name in known}
    near = [originals[name] for name in get_close_matches(word.casefold(), originals, most, 0.6)]
    return f", did you mean {' or '.join(near)}?" if near else ""
