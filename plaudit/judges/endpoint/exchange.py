"""One request to a chat endpoint: sent, awaited, and read as a reply, a fault, or a reason to stop."""

from __future__ import annotations

import asyncio
import ipaddress
import json
import logging
import math
import os
import re
from dataclasses import dataclass
from typing import Any, NoReturn
from urllib.parse import urlsplit

import httpx2

from plaudit.config import EndpointSettings
from plaudit.errors import JudgeError
from plaudit.judges.endpoint.pacing import retry_after
from plaudit.judges.endpoint.questions import Reply, Request

MOST_BYTES = 16 * 2**20
"""Most bytes of an answer; more is not one."""
MOST_TOKENS = 10**9
"""Most tokens of one request; a server that says more cannot count."""
CONTENT_STATUSES = frozenset({400, 413, 422, 451})
"""Say that this one request is not acceptable."""
AGAIN_STATUSES = frozenset({408, 409, 425, 429})
"""Statuses below 500 that may succeed the next time."""
STOPPING_CODES = {
    "insufficient_quota": 402, "invalid_api_key": 401, "model_not_found": 404, "unknown_parameter": 400,
    "unsupported_parameter": 400, "unsupported_value": 400,
}  # fmt: skip
"""Error codes that every other request would meet as well, and the status that says the same."""
KEY_LIKE = re.compile(r"\b(sk-|Bearer\s+)\S+")
SHORTEST_SECRET = 8
"""Letters; servers that want no key are given shorter words, which answers may well contain."""


@dataclass(frozen=True)
class Fault:
    """A request without an answer."""

    reason: str
    detail: str = ""
    again: bool = True
    """Whether it may go better the next time."""
    sent: bool = True
    maybe_paid: bool = False
    """Whether the endpoint may have worked on it, and charge for it."""
    wait: float | None = None
    """Seconds that the server asks to wait."""
    crowded: bool = False
    """Whether it asks this of all requests."""


@dataclass(frozen=True)
class Answer:
    """A reply, and whether the endpoint said how many tokens it took."""

    reply: Reply
    counted: bool


class Exchange:
    """Sends requests to one endpoint. The key is known here alone, and taken out of whatever comes back.

    Raises JudgeError when the variable that should hold the key does not.
    """

    def __init__(self, settings: EndpointSettings):
        self._settings = settings
        self._url = settings.base_url.rstrip("/") + "/chat/completions"
        self._key = _key(settings)

    def client(self) -> httpx2.AsyncClient:
        """A client for one event loop. Servers on this machine are never asked by way of a proxy."""
        headers = {"Authorization": f"Bearer {self._key}"} if self._key else {}
        logging.getLogger("httpcore2").setLevel(logging.INFO)  # below it writes headers, where servers repeat the key
        limits = httpx2.Limits(max_connections=None, max_keepalive_connections=self._settings.concurrency)
        local = is_local(self._settings.base_url)
        try:
            return httpx2.AsyncClient(headers=headers, limits=limits, timeout=None, trust_env=not local)
        except (ImportError, ValueError, OSError) as error:
            raise JudgeError(
                f"no connection to {self._settings.base_url} can be set up: {self.redact(str(error))}\n"
                "Check the proxy in the environment (HTTPS_PROXY, ALL_PROXY, NO_PROXY) and SSL_CERT_FILE."
            ) from None

    async def send(self, client: httpx2.AsyncClient, request: Request, *, answered_before: bool) -> Answer | Fault:
        """Send once; within the time-out there is an answer or a fault, however slowly bytes come.

        answered_before   whether the endpoint has answered anything: then a 403 is about this question

        Raises JudgeError for what every other request would meet as well.
        """
        seconds = self._settings.timeout_seconds
        try:
            async with asyncio.timeout(seconds):
                content = json.dumps(request.body).encode()
                headers = {"Content-Type": "application/json"}
                async with client.stream("POST", self._url, content=content, headers=headers) as response:
                    body = await _bounded(response)
        except TimeoutError:
            return Fault("no answer in time", f"{seconds:g} seconds", maybe_paid=True)
        except (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.ProxyError) as error:
            return Fault("cannot be reached", self._one_line(str(error)), sent=False)
        except httpx2.UnsupportedProtocol as error:
            raise JudgeError(f"{self._url}: {self._one_line(str(error))}") from None
        except (httpx2.HTTPError, httpx2.InvalidURL, OSError) as error:
            return Fault("connection lost", self._one_line(str(error)), maybe_paid=True)
        if body is None:
            return Fault("an answer that cannot be read", f"over {MOST_BYTES} bytes", maybe_paid=True)
        if response.is_success:
            return self._read(body, request)
        return self._refusal(response, body, answered_before)

    def redact(self, text: str) -> str:
        """The text without the key, and without what looks like one."""
        hidden = text.replace(self._key, "[key]") if self._key else text
        return KEY_LIKE.sub(r"\1[key]", hidden)

    def _one_line(self, text: str) -> str:
        words = " ".join(self.redact(text).split())
        return "".join(letter if letter.isprintable() else "?" for letter in words)[:300]

    def _read(self, body: bytes, request: Request) -> Answer | Fault:
        try:
            content = json.loads(body)
        except (ValueError, RecursionError):
            shown = self._one_line(body.decode("utf-8", "replace"))
            return Fault("an answer that cannot be read", f"no JSON: {shown}", maybe_paid=True)
        try:
            choice = content["choices"][0]
            text, finish = choice["message"]["content"], choice.get("finish_reason")
            if finish in ("error", "abort"):
                return Fault("broken off by the endpoint", self._one_line(_message(content)), maybe_paid=True)
            text = "" if text is None and finish else text  # an answer that the length limit or a filter left empty
            if not isinstance(text, str) or not isinstance(finish, str | None):
                raise TypeError
        except (LookupError, TypeError, AttributeError):
            return Fault("an answer that cannot be read", self._one_line(_message(content)), maybe_paid=True)
        log_probs = _log_probs(choice) if request.wants_log_probs else None
        hidden = None if log_probs is None else tuple((self._clean(token), value) for token, value in log_probs)
        tokens = _usage(content)
        prompt, completion = tokens or (0, 0)
        reply = Reply(self._clean(text), hidden, prompt, completion, self._clean(finish or ""), cached=False)
        return Answer(reply, counted=tokens is not None)

    def _clean(self, text: str) -> str:
        secret = self._key and len(self._key) >= SHORTEST_SECRET
        return text.replace(self._key, "[key]") if secret else text

    def _refusal(self, response: httpx2.Response, body: bytes, answered_before: bool) -> Fault:
        """A fault for a status other than 200. Raises JudgeError where going on has no sense."""
        status = response.status_code
        try:
            content = json.loads(body)
        except (ValueError, RecursionError):
            content = body.decode("utf-8", "replace")
        said = self._one_line(_message(content))
        code = _code(content)
        if code in STOPPING_CODES:
            self._stop(status, code, said)
        wait = retry_after(response.headers.get("retry-after"), response.headers.get("date"))
        if status == 429:
            return Fault("too many requests (429)", said, wait=wait, crowded=True)
        if status in AGAIN_STATUSES or status >= 500:
            return Fault(f"server error ({status})", said, wait=wait)
        if status in CONTENT_STATUSES or (status == 403 and answered_before):
            return Fault(f"refused ({status})", said, again=False)
        self._stop(status, code, said, location=response.headers.get("location", ""))

    def _stop(self, status: int, code: str, said: str, location: str = "") -> NoReturn:
        model, variable = self._settings.model, self._settings.key_variable
        key = f"the key in {variable}" if variable else "requests without a key (see key_variable)"
        meaning = STOPPING_CODES.get(code) or status
        if 300 <= status < 400:
            way_out = f"It sends requests on; set base_url to where it is now ({self._one_line(location)})."
        elif meaning == 401:
            way_out = f"It does not take {key}."
        elif meaning == 402:
            way_out = "The account has nothing left to pay with."
        elif meaning == 403:
            way_out = f"It does not allow the model `{model}` for {key}."
        elif meaning == 404:
            way_out = f"Check that it serves the model `{model}`, and that base_url ends with the version, mostly /v1."
        elif meaning == 400:
            way_out = "Change what is sent by `extra`: null takes a field away."
        else:
            way_out = "Every other request would be refused as well."
        raise JudgeError(
            f"{self._url} refused a request ({status}): {said or 'it does not say why'}\n{way_out}\n"
            "Answers that came before are kept; resume when this is put right."
        )


def is_local(address: str) -> bool:
    """Whether an address is of this machine."""
    host = (urlsplit(address).hostname or "").lower().rstrip(".")
    try:
        ip = ipaddress.ip_address(host)
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")
    return ip.is_loopback or ip.is_unspecified


def _key(settings: EndpointSettings) -> str:
    if settings.key_variable is None:
        return ""
    key = os.environ.get(settings.key_variable, "").strip()
    if not key:
        raise JudgeError(
            f"{settings.base_url} is to be asked with the key in the environment variable {settings.key_variable}, "
            f"which is not set.\nSet it (export {settings.key_variable}=...), or leave key_variable out for a server "
            "that needs none."
        )
    if not key.isascii() or not key.isprintable() or " " in key:
        raise JudgeError(
            f"what the environment variable {settings.key_variable} holds is not a key: it has a space, a line "
            f"break or a "
            "letter that no key has. Copy it again."
        )
    return key


async def _bounded(response: httpx2.Response) -> bytes | None:
    body = bytearray()
    async for piece in response.aiter_bytes():
        body += piece
        if len(body) > MOST_BYTES:
            return None
    return bytes(body)


def _message(content: Any) -> str:
    """What an error says, in any of the usual shapes."""
    if isinstance(content, dict):
        for name in ("error", "message", "detail"):
            if content.get(name):
                return _message(content[name])
    return content if isinstance(content, str) else json.dumps(content)


def _code(content: Any) -> str:
    error = content.get("error") if isinstance(content, dict) else None
    return str(error.get("code")) if isinstance(error, dict) else ""


def _usage(content: dict[str, Any]) -> tuple[int, int] | None:
    """Tokens of the prompt and of the answer; None where it does not say."""
    usage = content.get("usage")
    if not isinstance(usage, dict):
        return None
    prompt, completion = usage.get("prompt_tokens"), usage.get("completion_tokens")
    if type(prompt) is not int or type(completion) is not int:
        return None
    return (prompt, completion) if 0 <= prompt < MOST_TOKENS and 0 <= completion < MOST_TOKENS else None


def _log_probs(choice: dict[str, Any]) -> tuple[tuple[str, float], ...] | None:
    """`logprobs.content[0]`: its `top_logprobs`, and the sampled token where it is not among them."""
    try:
        first = choice["logprobs"]["content"][0]
        alternatives = list(first.get("top_logprobs") or [])
        if first["token"] not in [one["token"] for one in alternatives]:
            alternatives.append(first)
        found = [(str(one["token"]), float(one["logprob"])) for one in alternatives]
    except (LookupError, TypeError, ValueError, AttributeError):
        return None
    if any(math.isnan(value) for _, value in found):
        return None
    return tuple(sorted(found, key=lambda pair: (-pair[1], pair[0])))
