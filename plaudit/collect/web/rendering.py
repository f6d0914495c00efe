"""Pages from templates."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.requests import Request
from starlette.responses import HTMLResponse

from plaudit.collect.people import Session
from plaudit.collect.web.markup import markdown, told_apart

HERE = Path(__file__).parent


def sentence(text: str) -> str:
    """A message with a capital letter at its beginning."""
    return text[:1].upper() + text[1:]


def duration(seconds: float | None) -> str:
    """A number as people say it."""
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
_environment.filters.update(markdown=markdown, told_apart=told_apart)
_environment.filters.update(sentence=sentence, duration=duration, share=share)


def page(request: Request, template: str, status: int = 200, **values: Any) -> HTMLResponse:
    """A rendered template, which knows who reads it."""
    session: Session | None = getattr(request.state, "session", None)
    person = session.person if session else None
    token = session.form_token if session else getattr(request.state, "form_token", "")
    html = _environment.get_template(template).render(person=person, form_token=token, **values)
    return HTMLResponse(html, status)
