"""Pages from templates, and text of models and people made safe to show."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nh3
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markdown_it import MarkdownIt
from markupsafe import Markup
from starlette.requests import Request
from starlette.responses import HTMLResponse

from plaudit.collect.people import Session

HERE = Path(__file__).parent
_markdown = MarkdownIt("commonmark", {"html": False, "linkify": False}).enable(["table", "strikethrough"])
_TAGS = set("p br hr h1 h2 h3 h4 h5 h6 em strong s code pre blockquote ul ol li table thead tbody tr th td a".split())


def markdown(text: str) -> Markup:
    """Markdown as HTML with nothing that runs, loads or looks like a form: HTML in the text is shown as text.

    Images are left out, since showing one would tell another host who reads what.
    """
    html = _markdown.render(text)
    safe = nh3.clean(
        html, tags=_TAGS, attributes={"a": {"href"}, "ol": {"start"}}, url_schemes={"http", "https"},
        link_rel="noopener noreferrer nofollow", set_tag_attribute_values={"a": {"target": "_blank"}},
    )  # fmt: skip
    return Markup(safe)


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
    return f"{interval['value']:.2f} ({interval['low']:.2f} to {interval['high']:.2f})"


_environment = Environment(
    loader=FileSystemLoader(HERE / "templates"), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
    lstrip_blocks=True,
)  # fmt: skip
_environment.filters.update(markdown=markdown, duration=duration, share=share)


def page(request: Request, template: str, status: int = 200, **values: Any) -> HTMLResponse:
    """A rendered template, which knows who reads it."""
    session: Session | None = getattr(request.state, "session", None)
    person = session.person if session else None
    token = session.form_token if session else getattr(request.state, "form_token", "")
    html = _environment.get_template(template).render(person=person, form_token=token, **values)
    return HTMLResponse(html, status)
