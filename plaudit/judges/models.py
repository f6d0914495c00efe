"""Judges that are models, from their settings; and having them judge the samples of a run."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

from plaudit.config import Config, EndpointSettings, ModelJudgeSettings
from plaudit.errors import DataError
from plaudit.functions import UserFunction, is_function, load_function
from plaudit.guidelines import guideline_for
from plaudit.judges import parsing
from plaudit.judges.ai import AIJudge, Pair, PairVerdict, comparison_of
from plaudit.judges.backends import Backend, LocalBackend
from plaudit.judges.constitution import load_principles
from plaudit.judges.endpoint import Endpoint, Question, Reply
from plaudit.judges.prompts import Exemplar
from plaudit.models.loading import load_causal, load_reward, one_head
from plaudit.models.named import named_policy, named_reward
from plaudit.progress import progress, say
from plaudit.records import Annotator, Comparison, Message, Prompt, Response
from plaudit.references import REWARD, Reference, is_of, parse
from plaudit.rewards.answers import score_answers
from plaudit.stages import POLICIES
from plaudit.store.importing import read_judged
from plaudit.workspace import Run, Workspace

TOP_LOG_PROBS = 20
"""The most alternatives that OpenAI's endpoints give."""


class EndpointBackend:
    """An endpoint as a backend: log-probabilities of labels where it gives them, else its word."""

    def __init__(self, endpoint: Endpoint):
        self.endpoint = endpoint

    def choose(
        self, questions: Sequence[list[Message]], labels: Sequence[str], *, seed: int = 0
    ) -> list[tuple[float, ...] | None]:
        """Probabilities of the labels among the first token's alternatives; without those 1 for the one it names."""
        asked = [Question(messages, max_tokens=4, top_log_probs=TOP_LOG_PROBS, seed=seed) for messages in questions]
        return [None if reply is None else _probabilities(reply, labels) for reply in self._replies(asked)]

    def say(
        self, questions: Sequence[list[Message]], *, max_tokens: int, temperature: float, seed: int
    ) -> list[str | None]:
        """Its words."""
        asked = [
            Question(messages, max_tokens=max_tokens, temperature=temperature, seed=seed) for messages in questions
        ]
        return [None if reply is None else reply.text for reply in self._replies(asked)]

    def _replies(self, asked: Sequence[Question]) -> list[Reply | None]:
        found: list[Reply | None] = [None] * len(asked)
        for place, outcome in self.endpoint.ask(asked):
            found[place] = outcome if isinstance(outcome, Reply) else None
        return found


def _probabilities(reply: Reply, labels: Sequence[str]) -> tuple[float, ...] | None:
    if reply.log_probs:
        found = parsing.label_probabilities(dict(reply.log_probs), labels)
        if found is not None:
            return found
    said = parsing.verdict(reply.text, labels)
    return None if said is None else tuple(float(label == said) for label in labels)


class PairJudge(Protocol):
    """What judges pairs without words: a reward model, a function."""

    def judge(self, pairs: Sequence[Pair]) -> list[PairVerdict | None]:
        """None where there is no verdict."""
        ...


@dataclass
class RewardModelJudge:
    """A reward model's verdict: sigmoid of the difference of scores over its temperature; the order does not matter."""

    workspace: Workspace
    source: str
    config: Config
    criterion: str

    def __post_init__(self) -> None:
        self._model = load_reward(self.workspace.model_source(self.source, kind="reward"), self.config.model)
        if self._model.scores.criteria is not None:
            self._model = one_head(self._model, self.criterion or None, normalised=False, setting="criterion")

    def judge(self, pairs: Sequence[Pair]) -> list[PairVerdict | None]:
        """None for a pair with a response beyond the model's context."""
        answers = [(prompt, response.text) for prompt, *both in pairs for response in both]
        scores = score_answers(self._model, answers, self.config)
        facts = self._model.scores
        found: list[PairVerdict | None] = []
        for one, other in zip(scores[::2], scores[1::2], strict=True):
            if one is None or other is None:
                found.append(None)
                continue
            gap = facts.sign * (sum(one) / len(one) - sum(other) / len(other)) / facts.temperature
            chance = 0.5 * (1 + math.tanh(gap / 2))
            found.append(PairVerdict(chance, chance, chance))
        return found


@dataclass
class FunctionJudge:
    """A Python function f(prompts, firsts, seconds) -> P(first is better), or None for no verdict; in both orders."""

    function: UserFunction

    def judge(self, pairs: Sequence[Pair]) -> list[PairVerdict | None]:
        """Raises DataError when it fails, or gives something else than as many numbers from 0 to 1."""
        prompts = [prompt.messages for prompt, _, _ in pairs]
        one, other = [a.text for _, a, _ in pairs], [b.text for _, _, b in pairs]
        shown, swapped = self._asked(prompts, one, other), self._asked(prompts, other, one)
        return [
            None if a is None or b is None else PairVerdict((a + 1 - b) / 2, a, 1 - b)
            for a, b in zip(shown, swapped, strict=True)
        ]

    def _asked(self, prompts: list[list[Message]], one: list[str], other: list[str]) -> list[float | None]:
        return self.function.numbers(
            prompts, one, other, each="pairs", shown=lambda row: f"answers {one[row][:60]!r} and {other[row][:60]!r}",
            least=0, most=1, may_be_none=True,
        )  # fmt: skip


def annotator_of(settings: ModelJudgeSettings) -> Annotator:
    """How a model stands in the store: with its settings, which name no key."""
    return Annotator(settings.name, "model", settings.model_dump(mode="json", exclude={"at_once"}))


def load_exemplars(path: str) -> list[Exemplar]:
    """Examples from a JSONL file of comparisons without ties. Raises DataError as imports do."""
    found: list[Exemplar] = []
    for values, judged in read_judged(path, "comparisons", run="exemplars"):
        (comparison,) = judged.comparisons
        texts = {response.id: response.text for response in judged.responses}
        if comparison.choice == "tie":
            raise DataError(f"{path}: an example must say which answer is better; there is a tie.")
        better = 1 if comparison.choice == "first" else 2
        answers = (texts[comparison.first], texts[comparison.second])
        if len(found) % 2:  # the better one is not always shown first
            answers, better = answers[::-1], 3 - better
        reasoning = values.get("reasoning")
        found.append(Exemplar(judged.prompt.messages, answers, better, reasoning if isinstance(reasoning, str) else ""))
    return found


def load_backend(
    workspace: Workspace, source: str, endpoint: EndpointSettings | None, config: Config, folder: Path
) -> Backend:
    """What is asked: an endpoint, whose answers are kept in the folder, or else the source, in this process."""
    if endpoint is not None:
        return EndpointBackend(Endpoint(endpoint, folder))
    model = load_causal(workspace.model_source(source, kind=POLICIES), config.model)
    return LocalBackend(model, config.model.tokens_per_micro_batch)


def spent_by(backend: Backend) -> dict[str, Any] | None:
    """What an endpoint took so far; None for a model in this process."""
    return asdict(backend.endpoint.spent) if isinstance(backend, EndpointBackend) else None


Judge = AIJudge | PairJudge


def load_judge(workspace: Workspace, settings: ModelJudgeSettings, config: Config, folder: Path) -> Judge:
    """The judge that the settings name, of the kinds in `plaudit.methods.JUDGES`.

    Raises ConfigError, DataError or ModelError for what cannot be loaded, before anything is judged.
    """
    judge: Judge = settings.kind.load()(workspace, settings, config, folder)
    return judge


def reward_model_judge(
    workspace: Workspace, settings: ModelJudgeSettings, config: Config, folder: Path
) -> RewardModelJudge:
    """`reward:RUN`."""
    return RewardModelJudge(workspace, parse(settings.source).name, config, settings.criterion)


def function_judge(workspace: Workspace, settings: ModelJudgeSettings, config: Config, folder: Path) -> FunctionJudge:
    """`function:FILE.py:NAME`."""
    setting = f"judge.models: {settings.name}"
    return FunctionJudge(load_function(settings.source, setting=setting, name=f"the judge {settings.name}"))


def language_model_judge(workspace: Workspace, settings: ModelJudgeSettings, config: Config, folder: Path) -> AIJudge:
    """A model in this process or behind an endpoint, asked in words."""
    guideline: str | tuple[str, ...]
    if settings.constitution is not None:
        guideline = tuple(principle.comparison for principle in load_principles(settings.constitution))
    else:
        guideline = settings.guideline or guideline_for(settings.form, settings.criterion)
    return AIJudge(
        settings.name, load_backend(workspace, settings.source, settings.endpoint, config, folder), guideline,
        settings.criterion, settings.principles_per_pair, settings.reasoning, settings.samples, settings.clamp,
        load_exemplars(settings.exemplars) if settings.exemplars else (), config.seed, settings.thought_tokens,
    )  # fmt: skip


def judge_lineage(workspace: Workspace, settings: ModelJudgeSettings) -> str:
    """What a judge is, by name: a run's own for `latest:KIND`. Raises WorkspaceError for a run that is not there."""
    source = settings.source
    if settings.endpoint is not None:
        return f"{settings.endpoint.model} at {settings.endpoint.base_url}"
    setting = f"judge.models: {settings.name}"
    if is_of(REWARD, source):
        return Reference(REWARD, named_reward(workspace, parse(source).name, setting=setting)).text
    return source if is_function(source) else named_policy(workspace, source, setting=setting)


def judge_samples(
    workspace: Workspace, run: Run, settings: ModelJudgeSettings, config: Config, pairs: Sequence[Pair], *, source: str
) -> dict[str, Any]:
    """Have a model judge pairs of samples, keeping judgments as they come; what is there is not asked again.

    Returns `judgments`, `unread` by reason, `position_inconsistent` (share of pairs in which the same place won in both
    orders), and of an endpoint `spent`.
    """
    if settings.endpoint is None:  # a run that goes on asks whom it asked before
        settings = settings.model_copy(update={"source": source})
    judge = load_judge(workspace, settings, config, run.path)
    workspace.store.add_annotators([annotator_of(settings)])
    done = {
        frozenset((c.first, c.second)) for c in workspace.store.comparisons(run.name) if c.annotator == settings.name
    }
    left = [pair for pair in pairs if frozenset((pair[1].id, pair[2].id)) not in done]
    places: list[bool] = []
    unread = 0
    with progress(f"judging by {settings.name}", len(pairs)) as advance:
        advance(len(pairs) - len(left))
        for count, found, position_inconsistent in _judged(judge, settings, left, run.name):
            workspace.store.add_comparisons(found)
            places += position_inconsistent
            unread += count - len(found)
            advance(count)
    result: dict[str, Any] = {"judgments": len(pairs) - unread, "unread": unread}
    if places:
        result["position_inconsistent"] = sum(places) / len(places)
    if isinstance(judge, AIJudge) and (spent := spent_by(judge.backend)) is not None:
        result["spent"] = spent
        for reason, number in spent["failures"].items():
            say(f"{settings.name}: {number} questions had no answer: {reason}. Their pairs are not judged.")
    return result


def _judged(
    judge: Judge, settings: ModelJudgeSettings, pairs: Sequence[Pair], run: str
) -> Iterator[tuple[int, list[Comparison], list[bool]]]:
    """(pairs gone through, their judgments, whether each was by its place) chunk by chunk."""
    if isinstance(judge, AIJudge) and settings.form != "compare":
        yield from _by_prompt(judge, settings, pairs, run)
        return
    for start in range(0, len(pairs), settings.at_once):
        chunk = pairs[start : start + settings.at_once]
        verdicts = judge.judge(chunk)
        kept = [(pair, one) for pair, one in zip(chunk, verdicts, strict=True) if one is not None]
        found = [comparison_of(settings.name, settings.criterion, pair, one.preference, run=run) for pair, one in kept]
        yield len(chunk), found, [one.position_inconsistent for _, one in kept]


def _by_prompt(
    judge: AIJudge, settings: ModelJudgeSettings, pairs: Sequence[Pair], run: str
) -> Iterator[tuple[int, list[Comparison], list[bool]]]:
    """Ratings or rankings of all of a prompt's responses, as the pairs that they imply."""
    prompts: dict[str, Prompt] = {prompt.id: prompt for prompt, _, _ in pairs}
    responses: dict[str, dict[str, Response]] = {}
    counts: dict[str, int] = {}
    for prompt, *both in pairs:
        responses.setdefault(prompt.id, {}).update({response.id: response for response in both})
        counts[prompt.id] = counts.get(prompt.id, 0) + 1
    wanted = {frozenset((a.id, b.id)) for _, a, b in pairs}
    names = list(prompts)
    for start in range(0, len(names), settings.at_once):
        chunk = names[start : start + settings.at_once]
        found: list[Comparison] = []
        if settings.form == "rate":
            flat = [(prompts[name].messages, one.text) for name in chunk for one in responses[name].values()]
            ratings = iter(judge.rate(flat))
            for name in chunk:
                rated = [(response, next(ratings)) for response in responses[name].values()]
                readable = [(response, value) for response, value in rated if value is not None]
                found += judge.comparisons_of_ratings(prompts[name], readable, run=run)
        else:
            listed = [(prompts[name], list(responses[name].values())) for name in chunk]
            for (prompt, several), ranks in zip(listed, judge.rank(listed), strict=True):
                if ranks is not None:
                    found += judge.comparisons_of_ranking(prompt, several, ranks, run=run)
        asked = [one for one in found if frozenset((one.first, one.second)) in wanted]
        yield sum(counts[name] for name in chunk), asked, []
