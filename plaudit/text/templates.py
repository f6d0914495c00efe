"""A tokenizer's chat template: rendered in one way, taken apart, and mended where it contradicts itself.

What every stage relies on: a conversation with its answer, as rendered, is the prompt as rendered, then the answer,
then an end token. Templates that do not keep to it are rewritten (`mend`), and the rewritten template is what is saved
with a model, so that every other tool renders what was trained on.
"""

from __future__ import annotations

import datetime
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from jinja2 import TemplateError, TemplateSyntaxError

from plaudit.errors import DataError, ModelError
from plaudit.records import Message

MARK = "\u2402mark\u2402"
"""Stands for an answer where a template is taken apart."""
OLD_PLAIN_TEMPLATE = (
    "{% for message in messages %}{{ message['content'] }}{% if not loop.last %}{{ '\n' }}{% endif %}{% endfor %}"
)
"""What earlier versions saved with models that came without a chat template."""
QUESTION: list[Message] = [{"role": "user", "content": "a"}]


def plain_template(*, bos: bool) -> str:
    """For tokenizers without a chat template: an answer goes straight on from the prompt and ends in the end token;
    other turns are a line each.

    bos  whether the text begins with the tokenizer's BOS
    """
    return ("{{ bos_token }}" if bos else "") + (
        "{% for message in messages %}"
        "{% if not loop.first and (message['role'] != 'assistant' or messages[loop.index0 - 1]['role'] != 'user') %}"
        "{{ '\n' }}{% endif %}"
        "{{ message['content'] }}{% if message['role'] == 'assistant' %}{{ eos_token }}{% endif %}"
        "{% endfor %}"
    )


def of(tokenizer: Any, *, bos: bool) -> str:
    """The tokenizer's template, of several the default one; a plain one where it has none.

    bos   whether the tokenizer begins texts with its BOS

    Raises ModelError where there are several and none is the default.
    """
    found = tokenizer.chat_template
    if isinstance(found, dict):
        if "default" not in found:
            raise ModelError(
                f"the model has the chat templates {', '.join(sorted(found))}, and none named `default`.\n"
                "Keep the one that you want as the only `chat_template` beside its tokenizer."
            )
        return str(found["default"])
    if found == OLD_PLAIN_TEMPLATE:
        return plain_template(bos=False)  # what an earlier version trained has never seen a BOS
    return str(found) if found else plain_template(bos=bos)


@dataclass(frozen=True)
class Frame:
    """What a template writes around an answer.

    lead    white space between the prompt and the answer's text
    tail    text between the answer's text and its end token
    end     the end token, as text
    after   what follows the end token at the end of a conversation
    """

    lead: str
    tail: str
    end: str
    after: str


def render(tokenizer: Any, messages: Sequence[Message], *, generation: bool, date: datetime.date) -> str:
    """The conversation as text, with the beginning of an answer after it or without.

    date  what a template that asks for today gets

    Raises DataError where the template refuses the conversation, ModelError where it cannot be rendered at all.
    """
    try:
        return str(
            tokenizer.apply_chat_template(
                list(messages),
                chat_template=dated(tokenizer.chat_template, date),
                add_generation_prompt=generation,
                tokenize=False,
            )
        )
    except TemplateSyntaxError as error:
        raise ModelError(_unusable(error)) from None
    except TemplateError as error:
        roles = ", ".join(str(message["role"]) for message in messages)
        raise DataError(
            f"the model's chat template refuses a conversation of {roles} ({first_line(error)}): "
            f"{str(messages[-1]['content'])[:60]!r}."
        ) from None
    except Exception as error:  # a broken template, or several of which none is the default
        raise ModelError(_unusable(error)) from None


def _unusable(error: Exception) -> str:
    return (
        f"the model's chat template cannot be used ({type(error).__name__}: {first_line(error)}).\n"
        "Mend `chat_template` in its tokenizer_config.json (or chat_template.jinja)."
    )


@lru_cache
def dated(template: str, date: datetime.date) -> str:
    """The template with this date, at midnight, wherever it asks for the present."""
    moment = datetime.datetime.combine(date, datetime.time())
    return re.sub(
        r"""\bstrftime_now\(\s*(["'])(.*?)\1\s*\)""", lambda call: literal(moment.strftime(call.group(2))), template
    )


def first_line(error: BaseException) -> str:
    """Text of its message, without an end point."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200].rstrip(".")


def mend(tokenizer: Any, control: re.Pattern[str], date: datetime.date) -> tuple[Frame, list[str]]:
    """(the frame of an answer, what was changed in the tokenizer's template, a sentence each).

    control  finds the tokenizer's special tokens in a text

    Raises ModelError where an answer cannot be told from what stands around it.
    """
    changes: list[str] = []
    if _closing(tokenizer, control, date) is None:
        tokenizer.chat_template = with_end_token(tokenizer.chat_template)
        changes.append(f"The chat template writes no end token after an answer: {tokenizer.eos_token} is put there.")
    closing = _closing(tokenizer, control, date)
    prompt = render(tokenizer, QUESTION, generation=True, date=date)
    head = _answered(tokenizer, date)[0]
    if closing is None or not _begins(head, prompt):
        cut, added = _difference(prompt, head)
        if closing is None or len(cut) == len(prompt):
            raise ModelError(
                "the model's chat template renders an answer in a way that cannot be told from the rest of the "
                "conversation. Set a `chat_template` that writes turns one after the other."
            )
        tokenizer.chat_template = with_generation_prompt(tokenizer.chat_template, cut, added)
        changes.append(_said(cut, added))
        prompt = render(tokenizer, QUESTION, generation=True, date=date)
        head = _answered(tokenizer, date)[0]
        if not _begins(head, prompt):
            raise ModelError("the model's chat template begins an answer in a way that could not be made regular.")
    match = control.search(closing)
    assert match is not None
    return Frame(head[len(prompt) :], closing[: match.start()], match.group(), closing[match.end() :]), changes


def _said(cut: str, added: str) -> str:
    if cut and added:
        return f"The chat template opens an answer with {cut!r}, but renders {added!r} before one: answers begin so."
    if cut:
        return f"The chat template opens an answer with {cut!r}, which rendered answers lack: answers begin without it."
    return f"The chat template renders {added!r} before an answer: it is the end of the prompt here."


def _answered(tokenizer: Any, date: datetime.date) -> tuple[str, str]:
    """What is rendered before an answer and after it."""
    answer: Message = {"role": "assistant", "content": MARK}
    before, mark, after = render(tokenizer, [*QUESTION, answer], generation=False, date=date).rpartition(MARK)
    if not mark:
        raise ModelError("the model's chat template does not write what an assistant says.")
    return before, after


def _closing(tokenizer: Any, control: re.Pattern[str], date: datetime.date) -> str | None:
    """What is rendered after an answer; None when there is no special token in it."""
    after = _answered(tokenizer, date)[1]
    return after if control.search(after) else None


def _begins(head: str, prompt: str) -> bool:
    return head.startswith(prompt) and not head[len(prompt) :].strip()


def _difference(prompt: str, head: str) -> tuple[str, str]:
    """(what the prompt ends in and the head lacks, what the head ends in and the prompt lacks)."""
    same = next((i for i, (a, b) in enumerate(zip(prompt, head, strict=False)) if a != b), min(len(prompt), len(head)))
    return prompt[same:], head[same:]


def with_end_token(template: str) -> str:
    """The template with the end token after what assistants say."""
    return (
        "{% set plaudit = namespace(messages=[]) %}{% for message in messages %}{% if message['role'] == 'assistant' %}"
        "{% set plaudit.messages = plaudit.messages + [dict(message, content=message['content'] + eos_token)] %}"
        "{% else %}{% set plaudit.messages = plaudit.messages + [message] %}{% endif %}{% endfor %}"
        "{% set messages = plaudit.messages %}" + _after_a_block(template)
    )


def with_generation_prompt(template: str, cut: str, added: str) -> str:
    """The template whose prompts end without `cut`, and in `added`."""
    ends = f"plaudit_text[:-{len(cut)}]" if cut else "plaudit_text"
    condition = f"plaudit_text.endswith({literal(cut)})" if cut else f"not plaudit_text.endswith({literal(added)})"
    return (
        "{% set plaudit_text %}" + _after_a_block(template).removesuffix("\n") + "{{ '' }}{% endset %}"
        f"{{% if add_generation_prompt and {condition} %}}{{{{ {ends} + {literal(added)} }}}}"
        "{% else %}{{ plaudit_text }}{% endif %}"
    )


def without_ending(template: str, after: str) -> str:
    """The template whose conversations end before `after`, at the end token."""
    return (
        "{% set plaudit_text %}" + _after_a_block(template).removesuffix("\n") + "{{ '' }}{% endset %}"
        f"{{% if not add_generation_prompt and plaudit_text.endswith({literal(after)}) %}}"
        f"{{{{ plaudit_text[:-{len(after)}] }}}}{{% else %}}{{{{ plaudit_text }}}}{{% endif %}}"
    )


def with_system_prompt(template: str, text: str) -> str:
    """The template that begins conversations without a system message with this one."""
    return (
        "{% if messages and messages[0]['role'] != 'system' %}"
        f"{{% set messages = [{{'role': 'system', 'content': {literal(text)}}}] + messages %}}"
        "{% endif %}" + _after_a_block(template)
    )


def _after_a_block(template: str) -> str:
    """The template as rendered by itself: Jinja is set to take the first line break after a block away."""
    return "\n" + template if template[:1].isspace() else template


def literal(text: str) -> str:
    """A string of Jinja's."""
    return json.dumps(text, ensure_ascii=False)
