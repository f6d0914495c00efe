"""Pages from templates, and text of models and people made safe to show."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nh3
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markdown_it import MarkdownIt
from markdown_it.token import Token
from markupsafe import Markup, escape
from starlette.requests import Request
from starlette.responses import HTMLResponse

from plaudit.collect.people import Session

HERE = Path(__file__).parent
_markdown = MarkdownIt("commonmark", {"html": False, "linkify": False, "maxNesting": 100})
_markdown.enable(["table", "strikethrough"])
TOP_HEADING = 3
"""Of headings in a text: a page has its own first two levels."""
_TAGS = set("p br hr h3 h4 h5 h6 em strong s code pre blockquote ul ol li table thead tbody tr th td a".split())


def _image_as_words(tokens: Sequence[Token], index: int, *_: object) -> str:
    """What a picture is said to show: loading it would tell another host who reads what."""
    return str(escape(f"[image: {tokens[index].content}]"))


_markdown.renderer.rules["image"] = _image_as_words  # type: ignore[attr-defined]


def _set_headings(tokens: Sequence[Token]) -> None:
    """Headings go down from TOP_HEADING without a gap, so that a page can be read by them."""
    above = TOP_HEADING - 1
    for token in tokens:
        if token.type == "heading_open":
            above = min(int(token.tag[1]) + TOP_HEADING - 1, above + 1, 6)
        if token.type in ("heading_open", "heading_close"):
            token.tag = f"h{above}"


def markdown(text: str) -> Markup:
    """Markdown as HTML with nothing that runs, loads or looks like a form: HTML in the text is shown as text."""
    tokens = _markdown.parse(text)
    _set_headings(tokens)
    html = _markdown.renderer.render(tokens, _markdown.options, {})
    safe = nh3.clean(
        html, tags=_TAGS, attributes={"a": {"href"}, "ol": {"start"}}, url_schemes={"http", "https"},
        link_rel="noopener noreferrer nofollow", set_tag_attribute_values={"a": {"target": "_blank"}},
    )  # fmt: skip
    return Markup(safe)


def sentence(text: str) -> str:
    """A message with a capital letter at its beginning."""
    return text[:1].upper() + text[1:]


def duration(seconds: float | None) -> str:
    """As people say it."""
    if seconds is None:
        return "–"
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def share(interval: dict[str, Any] | None) -> str:
    """A value with its 95 % interval."""
    if interval is None:
        return "–"
    if interval["low"] is None:
        return f"{interval['value']:.2f} (no interval)"
    return f"{interval['value']:.2f} ({interval['low']:.2f} to {interval['high']:.2f})"


_environment = Environment(
    loader=FileSystemLoader(HERE / "templates"), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
    lstrip_blocks=True,
)  # fmt: skip
_environment.filters.update(markdown=markdown, sentence=sentence, duration=duration, share=share)


def page(request: Request, template: str, status: int = 200, **values: Any) -> HTMLResponse:
    """A rendered template, which knows who reads it."""
    session: Session | None = getattr(request.state, "session", None)
    person = session.person if session else None
    token = session.form_token if session else getattr(request.state, "form_token", "")
    html = _environment.get_template(template).render(person=person, form_token=token, **values)
    return HTMLResponse(html, status)
