"""The page: a `Report` as one HTML file that needs nothing else, works from disk and reaches no network.

Style and script stand beside this module; the page's content security policy allows these two by their digests and
pictures of the page's own, and nothing else, whatever a model file calls its layers.
"""

from __future__ import annotations

import base64
import hashlib
from importlib import resources

from sparse_icnet.study.report import sections, tables
from sparse_icnet.study.report.data import Report
from sparse_icnet.study.report.markup import Markup, data_block, joined, tag
from sparse_icnet.study.report.metrics import metrics
from sparse_icnet.study.report.network_svg import patterns


def html_of(report: Report) -> str:
    """The whole HTML document."""
    style, script = _resource("page.css"), _resource("page.js")
    policy = (
        f"default-src 'none'; img-src data:; style-src '{_digest(style)}'; script-src '{_digest(script)}'; "
        "base-uri 'none'; form-action 'none'"
    )
    found = metrics(report)
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=policy),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("meta", name="generator", content=f"sparse-icnet {report.version}"),
        tag("link", rel="icon", href="data:,"),
        tag("title", f"{report.title}: every zero and every product"),
        tag("style", Markup(style)),
    )
    body = tag(
        "body",
        patterns(),
        sections.header(report),
        tag(
            "main",
            sections.network(report, found),
            sections.layers(report),
            sections.savings(report),
            sections.kinds(report),
            sections.roofline(report),
            tables.models(report),
            sections.frame(report),
            tables.table(report),
            sections.notes(report),
        ),
        sections.footer(report),
        data_block("data", {"metrics": [one.for_script() for one in found], "first": sections.first(report)}),
        tag("script", Markup(script)),
    )
    return joined(Markup("<!DOCTYPE html>\n"), tag("html", head, body, lang="en"), Markup("\n"))


def _resource(name: str) -> str:
    return (resources.files("sparse_icnet.study.report") / name).read_text("utf-8")


def _digest(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode('utf-8')).digest()).decode('ascii')}"
