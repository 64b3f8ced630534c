"""The page of a model: valid HTML that holds every layer, reaches no network and runs nothing that a file says."""

from __future__ import annotations

import base64
import doctest
import hashlib
import io
import json
import re
from html.parser import HTMLParser
from importlib import import_module

import numpy as np
import pytest
from hostile import SCRIPT, hostile_network
from PIL import Image

from sparse_icnet.model import Model
from sparse_icnet.network.graph import Convolution
from sparse_icnet.operators.storage import PlanError
from sparse_icnet.study.forms import forms
from sparse_icnet.study.report import html_of, report_of, write_report
from sparse_icnet.study.report.histograms import histogram
from sparse_icnet.study.report.icnet_drawing import can_draw
from sparse_icnet.study.report.layered_drawing import drawings as layered_drawings
from sparse_icnet.study.report.pictures import MOST_WEIGHTS, zeros_picture

VOID = {"br", "hr", "img", "input", "link", "meta"}


class Tree(HTMLParser):
    """Every element with its attributes; complains of what is not closed or closed twice."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text: dict[str, list[str]] = {}
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert self._open == [], "elements that are not closed"

    def handle_starttag(self, tag, attrs):
        names = [name for name, _ in attrs]
        assert len(names) == len(set(names)), f"<{tag}> states an attribute twice: {names}"
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self._open, f"</{tag}> closes nothing"
        assert self._open.pop() == tag, f"</{tag}> closes another element"

    def handle_data(self, data):
        self.text.setdefault(self._open[-1] if self._open else "", []).append(data)

    def all(self, tag, **attributes):
        wanted = attributes.items()
        return [a for t, a in self.elements if t == tag and all(a.get(k) == v for k, v in wanted)]


@pytest.fixture(scope="module")
def hostile_page(hostile_report):
    return html_of(hostile_report)


def check_page(text: str, report) -> Tree:
    """What holds of every page."""
    tree = Tree(text)
    assert text.startswith("<!DOCTYPE html>\n")
    assert len(text) < 4 << 20
    for _, attributes in tree.elements:
        for name in ("src", "href", "action", "xlink:href", "poster", "srcset", "data"):
            place = attributes.get(name) or "#"
            assert place.startswith(("data:image/", "#")) or place == "data:,", place
    assert not re.search(r"url\((?!#)|@import", text)
    ids = [attributes["id"] for _, attributes in tree.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    # Each layer has a part, a row, and a box in each drawing.
    numbers = {str(layer.index) for layer in report.layers}
    assert {a["data-layer"] for a in tree.all("article")} == numbers
    assert {a["data-layer"] for a in tree.all("tr") if "data-layer" in a} == numbers
    boxes = tree.all("g", **{"role": "button"})
    assert sorted(a["data-layer"] for a in boxes) == sorted(n for n in numbers for _ in report.drawings)
    assert all(a["aria-label"] for a in boxes)
    assert len([a for a in boxes if a["tabindex"] == "0"]) == len(report.drawings)
    # References inside the page lead somewhere.
    for a in tree.all("a"):
        assert a["href"].removeprefix("#") in ids
    check_policy(text, tree)
    return tree


def check_policy(text: str, tree: Tree) -> None:
    """The policy allows the page's own style and script, and nothing that a network gives."""
    (policy,) = tree.all("meta", **{"http-equiv": "Content-Security-Policy"})
    rules = dict(rule.strip().split(" ", 1) for rule in policy["content"].split(";"))
    assert rules["default-src"] == "'none'"
    assert rules["img-src"] == "data:"
    for tag, rule in (("style", "style-src"), ("script", "script-src")):
        (inner,) = re.findall(rf"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(inner.encode()).digest()).decode()
        assert rules[rule] == f"'sha256-{digest}'"
    for _, attributes in tree.elements:
        assert not [name for name in attributes if name.startswith("on") or name == "style"]


def test_icnet(icnet_report):
    tree = check_page(html_of(icnet_report), icnet_report)
    assert len(icnet_report.layers) == 64
    assert [drawing.shape for drawing in icnet_report.drawings] == ["wide", "tall", "phone"]
    assert icnet_report.layers[0].role == "whole picture, stride 2"
    assert tree.text["h3"] == [layer.name for layer in icnet_report.layers]
    assert "Not measured, as was asked for: times, rates, the roofline." in tree.text["li"]


@pytest.mark.parametrize("shape", ["wide", "tall", "phone"])
def test_no_box_of_icnet_lies_on_another(icnet_report, shape):
    (drawing,) = [one for one in icnet_report.drawings if one.shape == shape]
    places = [(box.x, box.y, 76, 36) for box in drawing.boxes]
    places += [(mark.x, mark.y, mark.width, mark.height) for mark in drawing.marks]
    for number, (x, y, width, height) in enumerate(places):
        assert 0 <= x <= drawing.width - width
        assert 0 <= y <= drawing.height - height
        for a, b, across, down in places[:number]:
            assert x >= a + across or a >= x + width or y >= b + down or b >= y + height


def test_figures_are_those_of_the_model(tiny_net, icnet_report):
    info = tiny_net.info()
    assert icnet_report.waterfall[0].macs == tiny_net.graph.macs()
    assert icnet_report.waterfall[-1].macs == info.macs
    for bar, before in zip(icnet_report.waterfall[1:], icnet_report.waterfall, strict=False):
        assert bar.macs == before.macs + bar.change
    for layer, figures in zip(icnet_report.layers, info.layers, strict=True):
        assert (layer.name, layer.kernel, layer.macs) == (figures.name, figures.kernel, figures.macs)
        assert (layer.activations is None) == (layer.name == "conv6_cls")
        assert sum(layer.weight_histogram.counts) == layer.weights
        assert layer.forms[0].bytes == layer.weights
    assert {layer.name: layer.activation for layer in icnet_report.layers}["conv3_1/proj"] == "conv3_1/codes"
    json.dumps(icnet_report.to_dict())


def test_hostile_names_stay_text(hostile, hostile_report, hostile_page):
    tree = check_page(hostile_page, hostile_report)
    assert not can_draw(hostile.graph)
    assert len(tree.all("script")) == 2
    assert len(tree.all("img", src="x")) == 0
    assert tree.text["h1"] == [SCRIPT]
    names = [op.name for op in hostile.graph.convolutions]
    assert tree.text["h3"][0] == names[0]
    assert tree.text["h3"][1].startswith(names[1][:40])
    assert len(tree.text["h3"][1]) <= 160
    assert "\u202e" not in hostile_page
    assert [row.accuracy for row in hostile_report.models[:1]] == [()]
    assert "The model's file states no accuracy." in tree.text["li"]
    assert "not stated" in tree.text["td"]
    assert sum(share for _, share, _ in hostile_report.frame.shares) == pytest.approx(1)


def test_written_whole(hostile, tmp_path, photo):
    target = tmp_path / "page.html"
    write_report(hostile, target, photo, timing=False)
    text = target.read_text("utf-8")
    assert text.endswith("</html>\n")
    assert "photo.png, 100 x 140" in text
    assert str(photo.parent) not in text
    assert [path.name for path in tmp_path.iterdir() if path.suffix == ".tmp"] == []


def shown(picture) -> np.ndarray:
    data = base64.b64decode(picture.uri.removeprefix("data:image/png;base64,"))
    with Image.open(io.BytesIO(data)) as image:
        assert image.size == (picture.width, picture.height)
        return np.asarray(image)


def test_picture_of_zeros_has_a_pixel_for_each_weight():
    rng = np.random.default_rng(3)
    weight = rng.integers(-1, 2, (5, 6, 3, 2)).astype(np.int8)
    picture = zeros_picture(weight)
    pixels = shown(picture)
    assert (picture.blocks, picture.sideways, pixels.shape) == (False, False, (5, 48))
    padded = np.pad(weight, ((0, 0), (0, 2), (0, 0), (0, 0)))
    for (o, i, y, x), value in np.ndenumerate(padded):
        assert pixels[o, ((i // 4 * 3 + y) * 2 + x) * 4 + i % 4] == (value != 0)


def test_picture_of_a_large_layer_has_a_pixel_for_each_block():
    weight = np.zeros((1024, 132, 1, 1), np.int8)
    assert weight.size > MOST_WEIGHTS
    weight[4:8, 8:12] = 1
    weight[0, 0] = -1
    pixels = shown(zeros_picture(weight))
    assert pixels.shape == (33, 256)
    assert [(*place, pixels[tuple(place)]) for place in np.argwhere(pixels)] == [(0, 0, 1), (2, 1, 3)]


def test_histogram_counts_zero_alone():
    codes = np.array([100] * 5 + [0, 99, 101, 255])
    found = histogram(codes, 0, 255, 100)
    assert found.counts[found.zero_bin] == 5
    assert found.zero_share == 5 / 9
    assert sum(found.counts) == 9
    assert found.counts[found.zero_bin - 1] == found.counts[found.zero_bin + 1] == 1


def test_layers_that_are_too_many_are_counted(monkeypatch, hostile):
    monkeypatch.setattr("sparse_icnet.study.report.collect.MOST_LAYERS", 2)
    report = report_of(hostile, timing=False)
    assert [layer.index for layer in report.layers] == [0, 1]
    assert report.left_out == 1
    last = hostile.graph.convolutions[-1]
    assert isinstance(last, Convolution)
    tree = check_page(html_of(report), report)
    assert "1 further convolutions, those of the fewest products, are not shown." in tree.text["li"]


def test_what_is_too_much_is_left_out_and_said(monkeypatch, hostile):
    def refuse(*arguments):
        raise PlanError("expected less <memory>")

    monkeypatch.setattr("sparse_icnet.study.report.collect.MOST_GATHERED", 10)
    monkeypatch.setattr("sparse_icnet.study.report.collect.activation_histograms", refuse)
    report = report_of(hostile, timing=False)
    tree = check_page(html_of(report), report)
    assert "Zeros were not gathered: the network has more than 10 weights." in tree.text["li"]
    assert "Activations were not counted: expected less <memory>." in tree.text["li"]
    assert all(layer.activations is None for layer in report.layers)


def test_sums_of_layers_that_are_not_drawn_are_not_drawn(hostile):
    first, second, _ = (op.name for op in hostile.graph.convolutions)
    for layers, sums in (({first, second}, 1), ({first}, 1), ({second}, 1), (set(), 0)):
        for drawing in layered_drawings(hostile.graph, frozenset(layers)):
            assert [mark.text for mark in drawing.marks].count("+") == sums
            assert {box.layer for box in drawing.boxes} == layers


@pytest.mark.parametrize("module", ["markup", "charts", "network_svg", "histograms"])
def test_examples(module):
    result = doctest.testmod(import_module(f"sparse_icnet.study.report.{module}"))
    assert result.attempted > 0
    assert result.failed == 0


def test_pictures_have_a_bound(monkeypatch, hostile):
    monkeypatch.setattr("sparse_icnet.study.report.collect.MOST_PICTURES", 1000)
    report = report_of(hostile, timing=False)
    assert [layer.before is None for layer in report.layers] != [False] * 3
    check_page(html_of(report), report)


def test_a_bundled_model_at_another_size_says_so(hostile_report):
    assert [row.name for row in hostile_report.models] == [
        SCRIPT,
        "sparse-60 at 768 x 960",
        "block4x4 at 768 x 960",
    ]


def test_layers_of_float32_are_shown():
    model = Model(hostile_network(real=True), threads=1)
    report = report_of(model, timing=False)
    tree = check_page(html_of(report), report)
    last = report.layers[-1]
    weight = model.graph.layers[-1].weight
    assert [layer.dtype for layer in report.layers] == ["int8", "int8", "float32"]
    assert "Weights, float32" in tree.text["figcaption"]
    found = last.weight_histogram
    assert found.high == -found.low == pytest.approx(float(np.abs(weight).max()))
    assert found.counts[found.zero_bin] == weight.size - np.count_nonzero(weight)
    assert sum(found.counts) == weight.size
    assert sum(found.counts[: found.zero_bin]) == np.count_nonzero(weight < 0)
    assert np.count_nonzero(shown(last.after)) == np.count_nonzero(weight)
    assert [form.bytes for form in last.forms] == [model.info().layers[-1].weight_bytes]
    assert report.waterfall[-1].macs == model.info().macs


def test_stored_forms_are_those_of_the_engine(tiny_net, icnet_report):
    stored = forms(tiny_net.graph, tiny_net.plan, gather=False)
    for layer, one in zip(icnet_report.layers, stored, strict=True):
        assert layer.forms[1].bytes == one.csr_bytes
        assert layer.forms[-1].bytes == one.packed.bytes
