"""Settings of a chat endpoint that other programs or companies run."""

from __future__ import annotations

import re
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import ConfigDict, Field, field_validator, model_validator

from plaudit.config.section import Positive, Rate, Section

OWN_FIELDS = frozenset({"messages", "model", "n", "stream"})
"""Fields of a request that settings cannot replace: answers could then not be read, counted or told apart."""


class EndpointSettings(Section):
    """An OpenAI-compatible chat endpoint, and what may be spent on it."""

    model_config = ConfigDict(
        hide_input_in_errors=True
    )  # somebody may have put a key where its variable's name belongs

    base_url: str
    """Address up to and with the version, as in https://api.openai.com/v1 or http://localhost:8000/v1."""
    model: str
    """The model's name there."""
    key_variable: str | None = None
    """Name of the environment variable that holds the key, such as OPENAI_API_KEY; never the key itself. Null sends
    none, as local servers want it."""
    concurrency: Positive = 8
    """Most requests under way at once."""
    requests_per_minute: Positive | None = None
    """Most requests sent in any minute, those that are tried again included; null for no limit."""
    tokens_per_minute: Positive | None = None
    """Most tokens in any minute, prompts and answers together, a request counting as its worst case until it is
    answered; null for no limit."""
    timeout_seconds: Rate = 120.0
    """Seconds from sending a request to having its whole answer; then it is given up, and tried again."""
    attempts: Positive = 6
    """Requests in all for one question, where busy or broken servers leave it unanswered."""
    most_tokens: Positive | None = None
    """Budget of tokens, prompts and answers together, of everything asked for one run; null for no limit."""
    most_cost: Rate | None = None
    """Budget in the currency of the prices, of everything asked for one run; null for no limit."""
    price_per_million_prompt_tokens: Annotated[float, Field(ge=0)] = 0.0
    """What a million tokens of prompts cost, in a currency of your choice."""
    price_per_million_completion_tokens: Annotated[float, Field(ge=0)] = 0.0
    """What a million tokens of answers cost, in the same currency."""
    extra: dict[str, Any] = Field(default={})
    """More fields of every request, as the endpoint documents them; null takes one away that would be sent."""

    @field_validator("base_url")
    @classmethod
    def _is_an_address(cls, address: str) -> str:
        try:
            parts = urlsplit(address)
            complete = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        except ValueError:
            raise ValueError("this is not an address; write it as https://api.openai.com/v1") from None
        if not complete or any(letter.isspace() for letter in address):
            raise ValueError("this is not the address of a web server; write it as https://api.openai.com/v1")
        if parts.username is not None or parts.password is not None or parts.query or parts.fragment:
            raise ValueError("an address has no password, no ? and no # in it; put a key into the environment")
        if parts.path.rstrip("/").endswith("/chat/completions"):
            raise ValueError("leave /chat/completions off; it is put behind the address")
        return address

    @field_validator("key_variable")
    @classmethod
    def _is_a_name(cls, name: str | None) -> str | None:
        if name is not None and not re.fullmatch(r"[A-Z_][A-Z0-9_]{0,63}", name):
            raise ValueError(
                "this is not the name of an environment variable (capital letters, digits and _), such as "
                "OPENAI_API_KEY. "
                "If it is the key itself: put that into the environment, and name the variable here"
            )
        return name

    @field_validator("extra")
    @classmethod
    def _leaves_alone_what_is_counted(cls, extra: dict[str, Any]) -> dict[str, Any]:
        taken = sorted(OWN_FIELDS & extra.keys())
        if taken:
            raise ValueError(f"{taken[0]} cannot be set here")
        secret = [name for name in extra if name.lower().replace("-", "_") in ("api_key", "apikey", "authorization")]
        if secret:
            raise ValueError(f"no keys belong in settings ({secret[0]}); name a variable by key_variable")
        return extra

    @model_validator(mode="after")
    def _a_cost_needs_prices(self) -> EndpointSettings:
        if self.most_cost is not None and not (
            self.price_per_million_prompt_tokens or self.price_per_million_completion_tokens
        ):
            raise ValueError(
                "most_cost needs price_per_million_prompt_tokens and price_per_million_completion_tokens: "
                "without them nothing costs anything"
            )
        return self
