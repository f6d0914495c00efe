"""Principles by which a model mends its own answers, and by which it judges: Constitutional AI.

Bai et al. 2022b, arXiv:2212.08073. First the supervised part: an answer is criticised by a principle and revised by it,
several times over, each time by a principle drawn at random; the model is then fine-tuned on the revisions. Then the
judging part: two answers are compared by a principle drawn at random, or by several, averaged.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path

import yaml
from pydantic import ValidationError

from plaudit.config.section import Section
from plaudit.errors import ConfigError, nearest
from plaudit.judges.backends import Backend
from plaudit.records import Message, Prompt, unit_interval

REVISIONS = 4
"""Rounds of critique and revision (Bai et al. 2022b, section 3)."""

DEFAULT = "default"
"""The constitution that ships with Plaudit."""


class Principle(Section):
    """One principle, in the words of what is to be done with it."""

    name: str
    """For reports."""
    critique: str
    """What a critique looks for."""
    revision: str
    """What a revision does."""
    comparison: str
    """Text by which two answers are compared."""


def load_principles(constitution: Path | str = DEFAULT) -> list[Principle]:
    """Principles of a YAML file; `default` for those that ship with Plaudit.

    Raises ConfigError for a file that is missing or no list of principles, naming the entry.
    """
    place = (
        Path(str(files("plaudit") / "data" / "constitution.yaml")) if constitution == DEFAULT else Path(constitution)
    )
    try:
        listed = yaml.safe_load(place.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise ConfigError(f"{place} cannot be read as YAML: {error}.") from None
    if not isinstance(listed, list) or not listed:
        raise ConfigError(f"{place} must be a list of principles, each with {', '.join(Principle.model_fields)}.")
    return [_principle(place, number, entry) for number, entry in enumerate(listed, start=1)]


def _principle(place: Path, number: int, entry: object) -> Principle:
    try:
        return Principle.model_validate(entry)
    except ValidationError as error:
        first = error.errors()[0]
        key = str(first["loc"][0]) if first["loc"] else ""
        hint = nearest(key, Principle.model_fields) if first["type"] == "extra_forbidden" else ""
        raise ConfigError(f"{place}, principle {number}: `{key}`: {first['msg']}.{hint}") from None


def draw(principles: Sequence[Principle], count: int, *parts: object) -> list[Principle]:
    """`count` different principles, by a hash of the parts: the same on every machine."""
    shuffled = sorted(principles, key=lambda principle: unit_interval("principle", *parts, principle.name))
    return shuffled[: min(count, len(shuffled))]


@dataclass(frozen=True)
class Revised:
    """What became of an answer."""

    prompt: Prompt
    drafts: list[str]
    """The first answer, and each revision of it."""
    principles: list[str]
    """Names, one a revision."""
    critiques: list[str]


@dataclass
class Reviser:
    """Has a model criticise and revise answers.

    rounds   critiques and revisions of each answer, each by a principle of its own
    """

    backend: Backend
    principles: Sequence[Principle]
    rounds: int = REVISIONS
    seed: int = 0
    temperature: float = 0.7
    critique_tokens: int = 256
    revision_tokens: int = 512
    lost: Counter[str] = field(default_factory=Counter)
    """Answers that were left as they were, by why."""

    def revise(self, answers: Sequence[tuple[Prompt, str]]) -> list[Revised]:
        """Each answer with its revisions; one whose critique or revision cannot be had stops there, and is counted."""
        found = [Revised(prompt, [text], [], []) for prompt, text in answers]
        going = list(range(len(found)))
        for turn in range(self.rounds):
            if not going:
                break
            drawn = {i: draw(self.principles, self.rounds, self.seed, found[i].prompt.id) for i in going}
            by = {i: drawn[i][turn % len(drawn[i])] for i in going}
            critiques = self._say(
                [critique(found[i].prompt, found[i].drafts[-1], by[i]) for i in going], turn, "critique"
            )
            heard = [(i, said) for i, said in zip(going, critiques, strict=True) if said]
            asked = [revision(found[i].prompt, found[i].drafts[-1], by[i], said) for i, said in heard]
            revisions = self._say(asked, turn, "revision")
            going = []
            for (i, said), text in zip(heard, revisions, strict=True):
                if text:
                    found[i].drafts.append(text)
                    found[i].principles.append(by[i].name)
                    found[i].critiques.append(said)
                    going.append(i)
        return found

    def _say(self, asked: Sequence[list[Message]], turn: int, what: str) -> list[str]:
        tokens = self.critique_tokens if what == "critique" else self.revision_tokens
        said = self.backend.say(asked, max_tokens=tokens, temperature=self.temperature, seed=self.seed + turn)
        texts = [text if text and text.strip() else "" for text in said]
        self.lost[f"no {what}"] += sum(not text for text in texts)
        return texts


def critique(prompt: Prompt, answer: str, principle: Principle) -> list[Message]:
    """Ask for a critique of an answer, as a turn that follows it."""
    asked = f"Look at your last answer again. {principle.critique} Reply with the critique alone, in a few sentences."
    return [*prompt.messages, {"role": "assistant", "content": answer}, {"role": "user", "content": asked}]


def revision(prompt: Prompt, answer: str, principle: Principle, critique_text: str) -> list[Message]:
    """Ask for the revision, after the critique."""
    asked = f"{principle.revision} Reply with the new answer alone."
    before = critique(prompt, answer, principle)
    return [*before, {"role": "assistant", "content": critique_text}, {"role": "user", "content": asked}]
