"""Settings of every stage but policy optimisation."""

from __future__ import annotations

import datetime
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import BeforeValidator, Field, model_validator

from plaudit.config.endpoint import EndpointSettings
from plaudit.config.model_judges import ENDPOINT, ModelJudgeSettings
from plaudit.config.section import NotNegative, OptimiserSettings, Positive, Rate, Section, Share
from plaudit.config.simulated import RuleSettings, SimulatedAnnotatorSettings, expand_presets
from plaudit.methods import PREFERENCE_LOSSES, REWARD_LOSSES

if TYPE_CHECKING:
    PreferenceLossName = str
    RewardLossName = str
else:
    PreferenceLossName = Literal[tuple(PREFERENCE_LOSSES)]
    RewardLossName = Literal[tuple(REWARD_LOSSES)]


def _as_written(value: object) -> object:
    """YAML reads a plain off as false."""
    return "off" if value is False else value


class LoraSettings(Section):
    """Low-rank adapters (Hu et al. 2021, arXiv:2106.09685): W + (alpha / rank) B A, with W frozen."""

    rank: Positive = 16
    """Rank of each adapter."""
    alpha: Rate = 32.0
    """Scale: the adapter's output is multiplied by alpha / rank."""
    targets: Literal["all", "attention"] = "all"
    """Which linear layers get an adapter: all of them, or those of attention only."""


class ModelSettings(Section):
    """Which model to start from, and how to hold it."""

    name: str = "smollm2-135m-instruct"
    """The built-in `smollm2-135m-instruct`, a Hugging Face folder, a run of this workspace, or a hub name."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Precision of frozen weights and of matrix products; auto takes bfloat16 where the processor has it.
    What is trained, and every loss, is held in float32."""
    device: str = "auto"
    """`cpu`, `cuda`, `mps`, or auto for the best one present."""
    cpu_kernels: Annotated[Literal["auto", "off"], BeforeValidator(_as_written)] = "auto"
    """auto computes by kernels compiled for this processor where the model is on a CPU and they give the numbers that
    PyTorch gives; off by PyTorch alone, several times slower. PLAUDIT_CPU_KERNELS in the environment goes before it."""
    threads: Positive | Literal["auto"] = "auto"
    """Threads that compute on a CPU; auto takes what a container or the machine lends to the process, or one for every
    two million weights where that is less; OMP_NUM_THREADS goes before it. Never changes a result."""
    lora: LoraSettings | None = LoraSettings()
    """Adapter settings; null trains every weight."""
    system_prompt: str | None = None
    """System message put before conversations that have none; null leaves that to the chat template."""
    date: datetime.date = datetime.date(2026, 1, 1)
    """What a chat template that writes today's date gets: always the same, so that a run can be repeated."""
    stop_strings: list[str] = Field(default=[])
    """An answer also ends, and counts as finished, where one of these appears in its text; they are cut off."""
    tokens_per_micro_batch: Positive = 2048
    """Most tokens in one forward pass, a shared prompt counted once: bounds memory, never changes a result."""
    activation_checkpointing: bool = False
    """Keep only each layer's input for the backward pass and compute the rest again: less memory, a third more work."""
    compile: bool = False
    """Train with layers compiled by torch.compile, after 40 to 60 s of work: on a CPU at 0.8 to 1.0 of the rate of the
    kernels whose place it takes; needs a C++ compiler there."""


class DataSettings(Section):
    """Where feedback is kept, and how prompts are held apart."""

    database: str | None = None
    """URL of a PostgreSQL database for this workspace alone, as in postgresql://user@host/name; null: a SQLite file in
    the workspace. The environment variable PLAUDIT_DATABASE goes before it, for a URL with a password."""
    held_out_share: Share = 0.25
    """Part of the prompts kept out of all training, chosen by a hash of the prompt: the same on every machine."""
    max_prompt_tokens: Positive = 512
    """A longer prompt is left out, counted and said."""


class PretrainSettings(Section):
    """A small decoder of one's own, from plain text."""

    text: list[str] = Field(default=[])
    """Text files, with `<|endoftext|>` between documents, or JSONL files with a `text` column; may be gzipped."""
    tokenizer: str | None = None
    """A Hugging Face folder, hub name, or the built-in model whose tokenizer is used; null trains one on the text."""
    vocabulary_size: Positive = 4096
    """Tokens of the tokenizer that is trained."""
    hidden_size: Positive = 256
    """Width of the model."""
    layers: Positive = 6
    """Transformer layers."""
    heads: Positive = 4
    """Attention heads of a layer."""
    key_value_heads: Positive | None = None
    """Heads of keys and values that they share; null for as many."""
    intermediate_size: Positive | None = None
    """Width within a layer's feed-forward part; null for 8/3 of the width."""
    context_length: Annotated[int, Field(ge=2)] = 512
    """Most tokens that the model can read; longer documents are cut into pieces."""
    steps: Positive = 1000
    """Optimiser steps."""
    tokens_per_step: Positive = 8192
    """Predicted tokens of an optimiser step, at least; taken in micro-batches of model.tokens_per_micro_batch."""
    held_out_share: Share = 0.02
    """Part of the documents kept out of training, chosen by a hash of their text."""
    evaluate_every: NotNegative = 100
    """Steps between held-out losses; 0 for the last alone."""
    sample_every: NotNegative = 200
    """Steps between samples of what the model writes; 0 for the last alone."""
    sample_prompt: str = ""
    """How those samples begin."""
    sample_tokens: Positive = 64
    """Their length at most."""
    optimiser: OptimiserSettings = OptimiserSettings(
        learning_rate=1e-3, schedule="cosine", weight_decay=0.1, second_moment_decay=0.95, epsilon=1e-8
    )
    """Optimiser; decay is of matrices alone."""
    save_every: Positive = 100
    """Steps between checkpoints from which `--resume` goes on."""


class SftSettings(Section):
    """Supervised fine-tuning on demonstrations: loss on the answer's tokens and its stop token alone."""

    sources: list[str] = Field(default=["given"])
    """Where the demonstrations come from: `given` for all that were imported or that people wrote; or some of those, as
    `import` (or their `source` column) and campaign:NAME; and `revise` runs, which are in no other."""
    epochs: Positive = 2
    """Passes over the demonstrations."""
    batch_size: Positive = 16
    """Demonstrations per optimiser step."""
    max_response_tokens: Positive = 512
    """Longer demonstrations are left out, and counted."""
    optimiser: OptimiserSettings = OptimiserSettings(learning_rate=2e-4, schedule="cosine")
    """Optimiser of all trained weights."""
    save_every: Positive = 50
    """Steps between checkpoints from which `--resume` goes on."""


class SampleSettings(Section):
    """Responses of a policy to the workspace's prompts."""

    policy: str = "latest:sft"
    """A run, `latest:KIND`, a Hugging Face folder or a hub name."""
    split: Literal["all", "train", "held_out"] = "all"
    """Which prompts to answer."""
    sources: list[str] | None = None
    """Answer prompts of these sources alone, as their `source` column says or `plaudit data list`; null for all."""
    most_prompts: Positive | None = None
    """Answer so many prompts at most, drawn by the seed; null for all."""
    samples_per_prompt: Positive = 4
    """Responses for each prompt."""
    temperature: Rate = 1.0
    """Logits are divided by this, in sampling and in every log-prob of these samples."""
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Draw from the most likely tokens that hold this much probability; log-probs are then of that distribution."""
    max_new_tokens: Positive = 128
    """Length limit of a response, tokens; one that reaches it without a stop token counts as unfinished."""
    sequences_per_batch: Positive = 128
    """Responses that are sampled side by side."""


class GuidelinePreference(Section):
    """What simulated annotators like: a sum of five facts about an answer that anybody can check.

    utility = finished * [ended by itself] + answers * (share of the question's content words taken up)
            + tone * (VADER compound score, Hutto & Gilbert 2014, in [-1, 1])
            - length * (0 from `fewest_words` to `comfortable_words`, rising to 1 at none and at twice as many)
            - repetition * (share of repeated three-word runs)
    """

    finished: float = 1.0
    """Weight of having ended with a stop token, nats of preference."""
    answers: float = 0.5
    """Weight of taking up the words of the question (all of it at two content words or more)."""
    tone: float = 1.5
    """Weight of a positive tone by the VADER lexicon."""
    length: float = 3.0
    """Weight of being longer than comfortable, or curt."""
    repetition: float = 2.0
    """Weight of repeated three-word runs."""
    comfortable_words: Positive = 15
    """Words up to which an answer is brief."""
    fewest_words: Positive = 4
    """Words below which an answer is curt."""


WHO_CAN_JUDGE = """What can judge:
  you, in this terminal              plaudit judge --annotate 20
  people, on pages in the browser    plaudit campaign create NAME --responses latest:sample
  people, elsewhere                  plaudit import FILE --kind comparisons
  models                             plaudit judge 'judge.models=[{name: smol, source: smollm2-135m-instruct}]'
                                     (source: a run, folder, hub name, endpoint, reward:RUN or function:FILE.py:NAME)
  simulated annotators, to rehearse  plaudit judge judge.annotators=preset:instructgpt"""


class JudgeSettings(Section):
    """Judgments by simulated annotators and by models."""

    samples: str = "latest:sample"
    """The sampling run whose responses are judged."""
    form: Literal["comparisons", "rankings", "ratings"] = "comparisons"
    """Every pair of responses to a prompt; all of them ranked (best first, kept as pairs); or each rated by itself."""
    guideline_preference: GuidelinePreference = GuidelinePreference()
    """What all annotators have in common."""
    utility: str | list[RuleSettings] = "guideline"
    """`guideline` for the above; function:FILE.py:NAME as for `rl.reward`; a reward run or reward-model folder, in its
    raw
    scores; or a list of rules, as in [{fact: words, weight: -0.05}, {pattern: "thank", weight: 1}]."""
    annotators: Annotated[list[SimulatedAnnotatorSettings], BeforeValidator(expand_presets)] = Field(default=[])
    """Simulated annotators, which are not people: each of them judges everything. preset:NAME, alone or in the list,
    stands for several that agree as published people did: alpacafarm, alpacafarm-people, instructgpt, stiennon,
    anthropic-hh. The quickstart has three; elsewhere there are none unless they are named here."""
    agreement: Annotated[float, Field(gt=0.5, lt=1)] | None = None
    """Scale the noise of all so that two of them are expected to agree on this share of the pairs; null leaves it."""
    models: list[ModelJudgeSettings] = Field(default=[])
    """Models that judge: local ones, endpoints, reward models, functions."""
    people: int = Field(default=0, ge=0)
    """Pairs that the person at the keyboard judges first."""

    @property
    def names(self) -> set[str]:
        """Names of the simulated annotators and the models."""
        return {annotator.name for annotator in self.annotators} | {model.name for model in self.models}

    @property
    def has_judges(self) -> bool:
        """Whether anybody is named who judges."""
        return bool(self.annotators or self.models or self.people)

    @model_validator(mode="after")
    def _forms_and_names(self) -> JudgeSettings:
        names = [annotator.name for annotator in self.annotators] + [model.name for model in self.models]
        if len(set(names)) < len(names):
            raise ValueError(f"judge.annotators has a name twice: {', '.join(sorted(names))}")
        if isinstance(self.utility, list):
            rules = [rule.name for rule in self.utility]
            if not rules or len(set(rules)) < len(rules):
                raise ValueError("judge.utility needs rules, each about something else")
        for annotator in self.annotators:
            if self.form != "comparisons" and (annotator.tie_band or annotator.grade_thresholds):
                raise ValueError(f"tie_band and grade_thresholds of {annotator.name} are not of {self.form}")
            if self.form == "ratings" and (annotator.position_bias or annotator.position_drift):
                raise ValueError(f"ratings are of one response: leave the position bias of {annotator.name} at 0")
        return self


class ReviseSettings(Section):
    """Demonstrations that a model makes by criticising and revising its own answers (Bai et al. 2022b, section 3)."""

    samples: str = "latest:sample"
    """The sampling run whose responses are the first drafts."""
    model: str = "latest:sft"
    """Who criticises and revises: a run, a Hugging Face folder, a hub name or the built-in model; or `endpoint`."""
    endpoint: EndpointSettings | None = None
    """The OpenAI-compatible endpoint that is asked instead, where `model` is `endpoint`."""
    constitution: str = "default"
    """The principles: `default` for those that ship with Plaudit, or a YAML file of your own."""
    rounds: Positive = 4
    """Critiques and revisions of each draft, each by a principle drawn at random."""
    keep: Literal["all", "last"] = "all"
    """Which revisions become demonstrations; Constitutional AI learns from all."""
    drafts_per_prompt: Positive = 1
    """Responses to each prompt that are revised, of those that were sampled."""
    temperature: Rate = 0.7
    """Sampling temperature of critiques and revisions."""
    critique_tokens: Positive = 256
    """Length limit of a critique."""
    revision_tokens: Positive = 512
    """Length limit of a revision."""
    at_once: Positive = 64
    """Drafts that are revised before their revisions are kept."""

    @model_validator(mode="after")
    def _endpoint_and_model(self) -> ReviseSettings:
        if (self.model == ENDPOINT) != (self.endpoint is not None):
            raise ValueError("model: endpoint goes together with the settings of an `endpoint`")
        return self


class RewardSettings(Section):
    """A model of what people prefer, or of what harms."""

    loss: RewardLossName = "bradley-terry"
    """bradley-terry: all pairs, a tie as half a preference each way; davidson: ties as an outcome of their own;
    plackett-luce: whole rankings, best first (the best of K where all others are tied); cost: which response is more
    harmful, and which are harmful at all: comparisons prefer the safer, and every response needs a `safe` label;
    rating: squared error against ratings of single responses, in their standard deviations."""
    model: str = "latest:sft"
    """What the body starts from."""
    comparisons: list[str] | None = None
    """Judge runs (or `latest:judge`), imports, campaign:NAME and snapshots (`snapshot:NAME`) whose comparisons are used
    (of loss rating: whose ratings); null for all in the workspace, where they are of one kind: by people, by models, or
    simulated."""
    criterion: str | None = None
    """Learn from judgments by this criterion alone; null where there is but one."""
    criteria: Annotated[list[str], Field(min_length=2)] | None = None
    """Learn these criteria at once, each with a head of its own on one body; null for a single one."""
    members: Positive = 1
    """Heads of one body that learn the same, each from a bootstrap sample of the prompts and a random start of its own:
    an ensemble, whose mean is the score, and whose disagreement `rl.combine` can charge for."""
    most_prompts: Positive | None = None
    """Learn from so many of the training prompts, drawn by the seed; null for all."""
    annotators: Literal["each", "majority", "skill"] = "each"
    """Several judgments of a pair: each counts; or their majority does; or one estimate in which each annotator
    counts as far as they agree with the others (Dawid & Skene 1979; needs `pip install plaudit[crowd]`)."""
    margin: Literal["none", "small", "large"] | Annotated[list[float], Field(min_length=4, max_length=4)] = "none"
    """How far the preferred is to be ahead by grade, nats: Llama 2's small or large table, or four numbers, from
    negligibly to significantly better. A pair without a grade has none. The scores are then over-confident."""
    flip_rate: Annotated[float, Field(ge=0, lt=0.5)] = 0.0
    """Share of preferences taken to be the wrong way round (label smoothing)."""
    safety_coefficient: Annotated[float, Field(ge=0)] = 0.0
    """Weight of telling responses labelled safe (above 0) from unsafe ones (below) beside the ranking."""
    centring_coefficient: Annotated[float, Field(ge=0)] = 0.0
    """Weight of (score + score)^2 of a pair, which keeps scores around 0; 0.01 is usual."""
    epochs: Positive = 1
    """Passes over the comparisons; more than one tends to over-fit."""
    batch_size: Positive = 16
    """Prompts per optimiser step; all comparisons of a prompt stay together and share one forward per response."""
    comparisons_per_batch: Positive | None = 64
    """A step takes fewer prompts where they have more comparisons than this together (of a reward model: or ratings),
    so that few prompts with many comparisons are not two steps; null counts prompts alone."""
    head_scale: Rate = 1.0
    """The scalar head starts at this times the published standard deviation 1 / sqrt(width + 1). On a few thousand
    comparisons or fewer the head's random start is never unlearnt: 0.05 then ranks better and is better calibrated."""
    max_response_tokens: Positive = 512
    """Comparisons with a longer response are left out, and counted."""
    zero: Literal["responses", "demonstrations"] = "responses"
    """What scores 0 on average where scores are normalised: the responses of training, or the demonstrations."""
    unit_variance: bool = True
    """Whether normalised scores are also divided by their standard deviation."""
    optimiser: OptimiserSettings = OptimiserSettings(learning_rate=2e-4, epsilon=1e-8)
    """Optimiser of the body and of the scalar head. The norm to which gradients are clipped is the head's for the most
    part, which leaves an adapter's smaller than an epsilon of 1e-5: it would be held back."""
    save_every: Positive = 50
    """Steps between checkpoints from which `--resume` goes on."""

    @property
    def wanted_criteria(self) -> list[str] | None:
        """What is learnt from; None for the only one there is."""
        return self.criteria or (None if self.criterion is None else [self.criterion])

    @model_validator(mode="after")
    def _fits(self) -> RewardSettings:
        loss = REWARD_LOSSES[self.loss]
        by_pair = loss.learns_from == "comparisons"
        if self.criteria is not None and self.criterion is not None:
            raise ValueError("set reward.criterion or reward.criteria, not both")
        if self.criteria is not None and len(set(self.criteria)) < len(self.criteria):
            raise ValueError(f"reward.criteria names one twice: {', '.join(self.criteria)}")
        if self.criteria is not None and (loss.needs_labels or self.safety_coefficient):
            raise ValueError("safety labels are not of a criterion; leave reward.criteria unset, or name a criterion")
        if self.criteria is not None and not loss.several_criteria:
            raise ValueError(f"{self.loss} learns one share of ties; use it for a single reward.criterion")
        if self.criteria is not None and self.members > 1:
            raise ValueError("a head is of one criterion or one member of an ensemble; set reward.criteria or members")
        if not by_pair and (self.annotators != "each" or self.centring_coefficient):
            raise ValueError(
                f"reward.annotators and reward.centring_coefficient are of pairs; reward.loss is {self.loss}"
            )
        if loss.learns_from == "ratings" and self.safety_coefficient:
            raise ValueError("reward.safety_coefficient is of log-odds, which ratings are not; leave it at 0")
        if self.margin != "none" and not loss.takes_margins:
            raise ValueError(f"reward.margin is of bradley-terry; reward.loss is {self.loss}")
        if self.flip_rate and not loss.smooths:
            raise ValueError(f"reward.flip_rate is of labels that may be wrong one by one; reward.loss is {self.loss}")
        if loss.needs_labels and self.safety_coefficient:
            raise ValueError("reward.safety_coefficient has no meaning for a cost, whose loss tells safe from harmful")
        return self


class RewardScalingSettings(Section):
    """A study: how quality grows with comparisons and with weights. Every model is trained as `reward` says."""

    models: Annotated[list[str], Field(min_length=1)] = Field(default=["latest:sft"])
    """What bodies start from: runs, folders or hub names."""
    prompts: Annotated[list[Positive], Field(min_length=1)] | None = None
    """Numbers of training prompts; null for all there are, and by halves down to a sixteenth."""
    seeds: Positive = 3
    """Models of each size on each number of prompts; a seed draws the prompts, their order, and the head's start. With
    one, intervals know nothing of how trainings differ."""
    target_accuracy: Annotated[float, Field(gt=0.5, lt=1)] | None = None
    """Say how many comparisons this accuracy takes."""


class PreferSettings(Section):
    """A policy straight from preferences: DPO and its family."""

    loss: PreferenceLossName = "dpo"
    """Which of them: docs/algorithms.md has a row for each."""
    policy: str = "latest:sft"
    """What the policy starts from."""
    reference: str | None = None
    """What departure is measured from; null for `prefer.policy` itself. In a second round on a policy's own samples,
    naming the first round's start keeps the optimum pi_ref exp(R / beta); null moves the reference along, and after
    k rounds the policy tends to pi_ref exp(k R / beta)."""
    comparisons: list[str] | None = None
    """Judge runs (or `latest:judge`), imports, campaign:NAME and snapshots (`snapshot:NAME`) to learn from; null for
    all in the workspace, where they are of one kind: by people, by models, or simulated."""
    criterion: str | None = None
    """Learn from comparisons by this criterion alone; null where there is but one."""
    beta: Rate = 0.1
    """Implied reward per nat of departure (for ipo: tau; for simpo 2 to 2.5 is usual)."""
    gamma_over_beta: Annotated[float, Field(ge=0)] = 0.5
    """Margin wanted between chosen and rejected, nats a token (simpo)."""
    flip_rate: Annotated[float, Field(ge=0, lt=0.5)] = 0.1
    """Share of labels that are the wrong way round (conservative-dpo, robust-dpo)."""
    per_token: bool = False
    """Compare mean log-probs of a token instead of their sums (ipo)."""
    odds_coefficient: Rate = 0.1
    """Weight of the odds ratio beside the likelihood (orpo)."""
    likelihood_coefficient: Annotated[float, Field(ge=0)] | None = None
    """Weight of the chosen response's negative log-likelihood a token; null for the loss's own: 1 for orpo and cpo,
    else 0."""
    desirable_weight: Rate = 1.0
    """Weight of liked responses (kto); its product with their number should be 1 to 1.33 times the other side's."""
    undesirable_weight: Rate = 1.0
    """Weight of disliked responses (kto)."""
    epochs: Positive = 1
    """Passes over the preferences."""
    batch_size: Positive = 16
    """Prompts per optimiser step; all comparisons of a prompt stay together and share one forward per response."""
    comparisons_per_batch: Positive | None = 64
    """A step takes fewer prompts where they have more comparisons than this together (of a reward model: or ratings),
    so that few prompts with many comparisons are not two steps; null counts prompts alone."""
    max_response_tokens: Positive = 512
    """Comparisons with a longer response are left out, and counted."""
    optimiser: OptimiserSettings = OptimiserSettings(learning_rate=5e-5, warmup_share=0.1)
    """Optimiser of all trained weights."""
    save_every: Positive = 50
    """Steps between checkpoints from which `--resume` goes on."""

    @property
    def wanted_criteria(self) -> list[str] | None:
        """What is learnt from; None for the only one there is."""
        return None if self.criterion is None else [self.criterion]

    @model_validator(mode="after")
    def _refuse_what_a_loss_has_no_use_for(self) -> PreferSettings:
        loss = PREFERENCE_LOSSES[self.loss]
        if self.reference is not None and not loss.reference:
            raise ValueError(f"{self.loss} has no reference; leave prefer.reference unset")
        if self.likelihood_coefficient is not None and loss.unpaired:
            raise ValueError(f"{self.loss} has no likelihood term; leave prefer.likelihood_coefficient unset")
        return self


class EvaluateSettings(Section):
    """A policy against a baseline on prompts that no stage has trained on."""

    policy: str = "latest:rl"
    """The policy to judge."""
    baseline: str | None = None
    """What it is compared with; null for what the policy started from."""
    reward: str | None = "latest:reward"
    """A reward model whose verdict is shown beside the guideline preference's; null for none."""
    reward_head: str | None = None
    """Which criterion, for a reward model of several."""
    best_of: Positive = 1
    """The policy's answer is the best of this many samples by `evaluate.reward`; the baseline's is one sample."""
    samples_per_prompt: Positive = 2
    """Responses of each policy to each held-out prompt."""
    sources: list[str] | None = None
    """Measure on held-out prompts of these sources alone; null for all."""
    most_prompts: Positive | None = None
    """Measure on so many held-out prompts at most, the same ones whatever the seed; null for all."""
    temperature: Rate = 1.0
    """Sampling temperature of both policies, and of the KL."""
    max_new_tokens: Positive = 128
    """Length limit of a response, tokens."""
    perplexity_text: str | None = None
    """JSONL file with a `text` column for the perplexity; null takes the prose that ships with Plaudit."""
    guideline_preference: GuidelinePreference = GuidelinePreference()
    """The judge of the win rate."""

    @model_validator(mode="after")
    def _best_needs_a_reward(self) -> EvaluateSettings:
        if self.best_of > 1 and self.reward is None:
            raise ValueError("best_of needs evaluate.reward to choose by")
        return self
