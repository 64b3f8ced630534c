"""HTML and SVG from Python values: whatever is not made by `tag` is escaped.

>>> str(tag("p", "a < b", class_="note", title='say "so"'))
'<p class="note" title="say &quot;so&quot;">a &lt; b</p>'
>>> str(tag("g", tag("rect", width=3.50), aria_hidden=True, tabindex=0, role=None))
'<g aria-hidden="true" tabindex="0"><rect width="3.5"/></g>'
"""

from __future__ import annotations

import html
import json
from collections.abc import Iterable
from typing import Any

LONGEST = 160  # characters of a text that a file states
REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
# Elements of HTML that have no end tag; those of SVG without children close themselves.
_VOID = frozenset(("br", "hr", "img", "input", "link", "meta"))
_SVG = frozenset(("circle", "line", "path", "polyline", "rect", "use", "image", "stop"))


class Markup(str):
    """Text that is HTML already."""

    __slots__ = ()


def tag(element: str, *children: Any, **attributes: str | float | bool | None) -> Markup:
    """One element; `children` that are no `Markup` are text.

    Of the names of attributes a `_` at the end is dropped, others become `-`.  None and False leave an attribute out,
    True of `aria_...` is "true" and of others an attribute without value.
    """
    parts = [element]
    for name, value in attributes.items():
        if value is None or value is False:
            continue
        written = name.rstrip("_").replace("_", "-")
        if value is True and not written.startswith("aria-"):
            parts.append(written)
        else:
            parts.append(f'{written}="{html.escape(_text(value))}"')
    opened = " ".join(parts)
    if element in _VOID:
        return Markup(f"<{opened}>")
    inner = joined(*children)
    if element in _SVG and not inner:
        return Markup(f"<{opened}/>")
    return Markup(f"<{opened}>{inner}</{element}>")


def joined(*children: Any) -> Markup:
    """The children one after another, what is no `Markup` escaped; nested lists and None are allowed."""
    return Markup("".join(_pieces(children)))


def _pieces(children: Iterable[Any]) -> Iterable[str]:
    for child in children:
        if child is None:
            continue
        if isinstance(child, Markup):
            yield child
        elif isinstance(child, str):
            yield html.escape(child, quote=False)
        elif isinstance(child, int | float):
            yield _text(child)
        else:
            yield from _pieces(child)


def _text(value: str | float) -> str:
    if value is True:
        return "true"
    if isinstance(value, float):
        return f"{value:.2f}".rstrip("0").rstrip(".")
    return str(value)


def clean(text: str, longest: int = LONGEST) -> str:
    """A text of a file as a page may show it: printable, on one line, of bounded length.

    >>> clean("conv\\u202e1\\n"), clean("x" * 9, 5)
    ('conv�1�', 'xxxx…')
    """
    shown = "".join(letter if letter.isprintable() else REPLACEMENT for letter in text[: longest + 1])
    return shown if len(shown) <= longest else f"{shown[: longest - 1]}…"


def data_block(name: str, value: Any) -> Markup:
    """A JSON value as an element that scripts can read and no browser executes."""
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    for letter in "<>&":
        text = text.replace(letter, f"\\u{ord(letter):04x}")
    return Markup(f'<script type="application/json" id="{name}">{text}</script>')
