"""What a mistyped word may have meant."""

from __future__ import annotations

from collections.abc import Iterable


def did_you_mean(word: str, known: Iterable[str], most: int = 3) -> str:
    """', did you mean sparse-60?' with the known words most like `word`, best first; '' if none is.

    A word counts if it is at least 0.6 like `word`, and nearly as much as the best one (`difflib`'s ratio).
    """
    from difflib import SequenceMatcher

    sought = word.casefold()
    ratios = {name: SequenceMatcher(None, name.casefold(), sought).ratio() for name in known}
    best = max(ratios.values(), default=0.0)
    near = [name for name, ratio in ratios.items() if ratio >= max(0.6, best - 0.08)]
    near.sort(key=lambda name: -ratios[name])
    return f", did you mean {' or '.join(near[:most])}?" if near else ""
