"""What a file says about its network beside the network itself: name, classes, accuracy, licence."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

MAX_CLASSES = 256
MAX_CLASS_NAME = 100  # characters
MAX_TEXT = 1000  # characters of any other text
MAX_FIGURES = 256


@dataclass(frozen=True, slots=True)
class Meta:
    """Checked when made; a file that says nothing has the empty one.

    name         of the model
    class_names  one for each class, in order, or none at all
    accuracy     what was measured -> figure, as {"mIoU, CamVid val, smooth": 0.7}
    licence      of the weights, an SPDX expression where there is one
    notes        origin and use, in a few sentences

    Raises ValueError for texts that are no printable text of bounded length, and figures that are not finite.
    """

    name: str = ""
    class_names: tuple[str, ...] = ()
    accuracy: Mapping[str, float] = field(default_factory=dict)
    licence: str = ""
    notes: str = ""

    def __post_init__(self) -> None:
        for what in ("name", "licence", "notes"):
            _check_text(getattr(self, what), what, 0)
        names = checked_class_names(self.class_names) if self.class_names else ()
        if not isinstance(self.accuracy, Mapping) or len(self.accuracy) > MAX_FIGURES:
            raise ValueError(
                f"accuracy: expected at most {MAX_FIGURES} figures by name, found {type(self.accuracy).__name__}"
            )
        for what, figure in self.accuracy.items():
            _check_text(what, "accuracy", 1)
            if not _is_finite(figure):
                raise ValueError(f"accuracy: {shown(what)}: expected a finite number, found {shown(figure)}")
        object.__setattr__(self, "class_names", names)
        object.__setattr__(self, "accuracy", {what: float(x) for what, x in self.accuracy.items()})


def _is_finite(figure: object) -> bool:
    if isinstance(figure, int) and not isinstance(figure, bool):
        return figure.bit_length() < 1024
    return isinstance(figure, float) and math.isfinite(figure)


def _check_text(text: object, what: str, shortest: int) -> None:
    printable = isinstance(text, str) and shortest <= len(text) <= MAX_TEXT and text.isprintable()
    if not printable:
        raise ValueError(
            f"{what}: expected {shortest} to {MAX_TEXT} printable characters, found {shown(text)}"
        )


def checked_class_names(
    names: Sequence[str], classes: int | None = None, place: str = "class ", first: int = 0
) -> tuple[str, ...]:
    """`names` if they can name classes: distinct, 1 to MAX_CLASS_NAME printable characters without spaces around.

    classes       how many there must be; None: 1 to MAX_CLASSES
    place, first  what errors call a name: "class 3", or "FILE: line 4" for place "FILE: line " and first 1

    Raises ValueError, and TypeError for anything but a sequence of strings.
    """
    if isinstance(names, str) or not all(isinstance(name, str) for name in names):
        raise TypeError(f"class names must be a sequence of strings, found {names!r:.100}")
    seen: dict[str, int] = {}
    for number, name in enumerate(names, first):
        if not (0 < len(name) <= MAX_CLASS_NAME and name.isprintable() and name.strip() == name):
            raise ValueError(
                f"{place}{number}: expected a name of 1 to {MAX_CLASS_NAME} printable characters, "
                f"found {shown(name)}"
            )
        if name in seen:
            raise ValueError(f"{place}{number}: expected distinct names, found {name!r} as at {seen[name]}")
        seen[name] = number
    expected = range(1, MAX_CLASSES + 1) if classes is None else range(classes, classes + 1)
    if len(seen) not in expected:
        wanted = f"1 to {MAX_CLASSES}" if classes is None else f"{classes}"
        raise ValueError(f"{place.split(': ')[0].strip()}: expected {wanted} class names, found {len(seen)}")
    return tuple(seen)


def shown(value: object) -> str:
    """A value for a message: on one line and short."""
    if isinstance(value, int) and value.bit_length() > 64:
        return f"an integer of {value.bit_length()} bits"
    text = ascii(value)
    return text if len(text) <= 60 else f"{text[:60]}..."
