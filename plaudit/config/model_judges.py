"""Settings of models that judge."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from plaudit.config.endpoint import EndpointSettings
from plaudit.config.section import Positive, Section
from plaudit.methods import JUDGES, JudgeKind
from plaudit.references import parse

ENDPOINT = "endpoint"


class ModelJudgeSettings(Section):
    """One judge that is a model: RLAIF (Lee et al. 2023), or Constitutional AI's comparisons (Bai et al. 2022b)."""

    name: str
    """How it appears in the store and in reports."""
    source: str
    """A run, a Hugging Face folder, a hub name or the built-in model; `endpoint` with `endpoint` below; `reward:RUN`
    for a reward model; or function:FILE.py:NAME, for f(prompts, firsts, seconds) -> P(first is better) of each, None
    where there is no verdict."""
    endpoint: EndpointSettings | None = None
    """The OpenAI-compatible endpoint that is asked, where `source` says so."""
    form: Literal["compare", "rate", "rank"] = "compare"
    """Pairs, each in both orders, with soft labels kept; each response rated 1 to 10 by expected score; or all of a
    prompt's responses ranked, listed forwards and backwards."""
    criterion: str = ""
    """helpfulness, harmlessness, honesty, or your own with a guideline; empty for which is better altogether."""
    guideline: str | None = None
    """What is asked, in words; null for the text that people are shown for the criterion."""
    constitution: str | None = None
    """Compare by principles instead: `default` for those that ship with Plaudit, or a YAML file of your own."""
    principles_per_pair: Positive = 1
    """How many principles are drawn for a pair; their verdicts are averaged (an ensemble)."""
    reasoning: bool = False
    """Think first, then choose."""
    thought_tokens: Positive = 512
    """Length limit of the thought; 512 as in Lee et al. 2023."""
    samples: Positive = 1
    """Self-consistency: so many chains of thought at temperature 1, averaged. Needs `reasoning`."""
    clamp: tuple[Annotated[float, Field(ge=0, le=0.5)], Annotated[float, Field(ge=0.5, le=1)]] | None = None
    """Keep soft labels between these; Constitutional AI clamps to 0.4 and 0.6 after reasoning. Null for no limits."""
    exemplars: str | None = None
    """JSONL file of comparisons, as for `plaudit import`, that are shown as examples; may have `reasoning`."""
    at_once: Positive = 64
    """Pairs (or prompts) that are judged before their judgments are kept."""

    @property
    def kind(self) -> JudgeKind:
        """What it is, by how its source is written."""
        if self.source == ENDPOINT:
            return JUDGES["endpoint"]
        return JUDGES.get(parse(self.source).kind, JUDGES["model"])

    @model_validator(mode="after")
    def _fits_together(self) -> ModelJudgeSettings:
        if (self.source == ENDPOINT) != (self.endpoint is not None):
            raise ValueError("source: endpoint goes together with the settings of an `endpoint`")
        if self.samples > 1 and not self.reasoning:
            raise ValueError("samples over 1 need reasoning: without it every sample is the same")
        if self.constitution is not None and (self.guideline is not None or self.form != "compare"):
            raise ValueError("a constitution compares by its own principles: leave guideline and form out")
        if self.form != "compare" and (self.reasoning or self.clamp or self.exemplars or self.principles_per_pair > 1):
            raise ValueError(
                f"reasoning, clamp, exemplars and principles_per_pair are of comparisons; form is {self.form}"
            )
        if not self.kind.reads_words and (self.form == "rank" or self.reasoning or self.constitution):
            raise ValueError(
                f"{self.source} does not read or write words: leave form: rank, reasoning, constitution out"
            )
        return self
