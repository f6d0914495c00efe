"""Settings of every stage: typed, bounded, documented, checked before anything heavy is loaded.

A configuration is read from YAML (`plaudit.yaml` in the workspace, then `--config FILE`), then from
dotted overrides (`rl.kl_coefficient=0.02`). Later sources win. Unknown keys fail with the nearest name.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from plaudit.errors import ConfigError, nearest

Reduction = Literal["token_mean", "response_mean", "response_sum", "constant_length"]
Positive = Annotated[int, Field(ge=1)]
Rate = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(ge=0, le=1)]


class Section(BaseModel):
    """A frozen group of settings that refuses unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, validate_default=True)


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
    lora: LoraSettings | None = LoraSettings()
    """Adapter settings; null trains every weight."""
    system_prompt: str | None = None
    """System message put before conversations that have none; null leaves that to the chat template."""
    stop_strings: list[str] = []
    """An answer also ends, and counts as finished, where one of these appears in its text; they are cut off."""
    tokens_per_micro_batch: Positive = 2048
    """Tokens, padding included, in one forward pass: bounds memory, never changes a result."""


class OptimiserSettings(Section):
    """AdamW and its schedule."""

    learning_rate: Rate
    """Peak learning rate."""
    schedule: Literal["constant", "linear", "cosine"] = "linear"
    """Decay after warm-up: none, linearly to 0, or by a half cosine to 0."""
    warmup_share: Share = 0.05
    """Part of all steps in which the learning rate rises linearly from 0."""
    epsilon: Rate = 1e-5
    """Adam's epsilon; 1e-5 as in the published RLHF code, larger than PyTorch's own."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    """Decoupled weight decay."""
    max_gradient_norm: Rate = 1.0
    """Gradients are scaled down to this global norm."""


class DataSettings(Section):
    """How prompts are held apart."""

    held_out_share: Share = 0.25
    """Part of the prompts kept out of all training, chosen by a hash of the prompt: the same on every machine."""
    max_prompt_tokens: Positive = 512
    """A longer prompt stops the stage that meets it, with its id."""


class SftSettings(Section):
    """Supervised fine-tuning on demonstrations: loss on the answer's tokens and its stop token alone."""

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


class TasteSettings(Section):
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


class SimulatedAnnotatorSettings(Section):
    """One simulated annotator: P(first) = sigmoid((utility_first - utility_second) / noise)."""

    name: str
    """How it appears in the store and in reports."""
    noise: Rate
    """Bradley-Terry temperature: 0.1 is nearly always right, 3 is nearly a coin."""


class JudgeSettings(Section):
    """Comparisons by simulated annotators."""

    samples: str = "latest:sample"
    """The sampling run whose responses are compared."""
    taste: TasteSettings = TasteSettings()
    """What all annotators have in common."""
    annotators: list[SimulatedAnnotatorSettings] = [
        SimulatedAnnotatorSettings(name="careful", noise=0.3),
        SimulatedAnnotatorSettings(name="average", noise=0.6),
        SimulatedAnnotatorSettings(name="hasty", noise=1.2),
    ]
    """Each of them judges every pair."""
    people: int = Field(default=0, ge=0)
    """Pairs that the person at the keyboard judges first."""


class RewardSettings(Section):
    """A Bradley-Terry reward model: loss -log sigmoid(score of the preferred - score of the other)."""

    model: str = "latest:sft"
    """What the body starts from."""
    comparisons: list[str] | None = None
    """Judge runs (or `latest:judge`) and imports whose comparisons are used; null for all in the workspace."""
    epochs: Positive = 1
    """Passes over the comparisons; more than one tends to over-fit."""
    batch_size: Positive = 16
    """Prompts per optimiser step; all comparisons of a prompt stay together and share one forward per response."""
    head_scale: Rate = 1.0
    """The scalar head starts at this times the published standard deviation 1 / sqrt(width + 1). On a few thousand
    comparisons or fewer the head's random start is never unlearnt: 0.05 then ranks better and is better calibrated."""
    max_response_tokens: Positive = 512
    """Comparisons with a longer response are left out, and counted."""
    optimiser: OptimiserSettings = OptimiserSettings(learning_rate=2e-4)
    """Optimiser of the body and of the scalar head."""
    save_every: Positive = 50
    """Steps between checkpoints from which `--resume` goes on."""


class RewardSource(Section):
    """One of several rewards that are combined."""

    source: str
    """As `rl.reward`: a reward run, `function:...` or `judge:MODEL`."""
    weight: float = 1.0
    """Factor in the sum; unused by the safety-gated rule."""


class ReinforceSettings(Section):
    """REINFORCE alone."""

    baseline: Literal["none", "batch", "value"] = "batch"
    """Subtracted from the reward-to-go: nothing, the mean return of the batch's other responses, or a value model."""
    clip_ratio: bool = False
    """Weigh tokens by their ratio since sampling, clipped as in PPO; matters from the second minibatch on."""


class RlooSettings(Section):
    """RLOO alone."""

    clip_ratio: bool = False
    """Weigh responses by their ratio since sampling, clipped; matters from the second minibatch on."""


class GrpoSettings(Section):
    """GRPO alone. The defaults are Dr. GRPO's advantages over all tokens alike."""

    divide_by_deviation: bool = False
    """Divide advantages by the group's standard deviation (K - 1, plus 1e-4) as first published."""
    reduction: Reduction = "token_mean"
    """Of losses per token: `response_mean` as first published makes long wrong answers cheap; Dr. GRPO has
    `constant_length`."""


class P3OSettings(Section):
    """Pairwise PPO alone."""

    clipping: Literal["separate", "joint"] = "separate"
    """Clip each response of a pair by itself (V1), or the pair as one (V2)."""


class LagrangianSettings(Section):
    """PPO-Lagrangian alone."""

    cost: str | None = None
    """The cost model: a run whose scores are the higher the more harmful a response is, or `function:...`."""
    threshold: float = 0.0
    """The most that the mean cost of an episode may be, in the cost model's own units."""
    multiplier: Rate = 1.0
    """lambda at the start."""
    rate: Rate = 0.1
    """Step of lambda's logarithm per lambda and unit of excess cost."""
    maximum: Rate = 5.0
    """Cap of lambda; where no policy can satisfy the constraint lambda ends here."""
    window: Positive = 128
    """Episodes whose mean cost moves lambda."""
    clipping: Literal["joint", "separate"] = "joint"
    """Clip the combined advantage (released code), or the surrogates of reward and cost each (paper)."""
    rescale: bool = True
    """Divide by 1 + lambda, with the KL price in reward and cost alike; false for the plain Lagrangian."""


class OnlineDpoSettings(Section):
    """Online DPO alone; its beta is `rl.kl_coefficient`."""

    loss: Literal["dpo", "ipo", "hinge"] = "dpo"
    """Of the best against the worst response of each prompt."""
    labels: Literal["soft", "hard"] = "soft"
    """Prefer the best with probability sigmoid(score difference), or always, as published."""


class RejectionSettings(Section):
    """Rejection sampling: fine-tune the start on the best of many samples, round after round.

    Rounds, prompts and samples are set here; `rl.steps` and its neighbours are for the other algorithms.
    """

    rounds: Positive = 2
    """Each samples from the newest policy and fine-tunes the start afresh."""
    samples_per_prompt: Annotated[int, Field(ge=2)] = 8
    """Responses to each prompt in each round; 10 to 100 in Touvron et al. 2023."""
    prompts_per_round: Positive | None = None
    """Training prompts in a round, drawn without replacement; null for all."""
    keep_all_rounds: bool = True
    """Keep each prompt's best response of all rounds so far; of the newest round alone skills are forgotten."""
    epochs: Positive = 2
    """Passes over the kept responses in each round."""
    batch_size: Positive = 16
    """Responses per optimiser step."""
    optimiser: OptimiserSettings = OptimiserSettings(learning_rate=2e-4, schedule="cosine")
    """Optimiser of the fine-tuning."""


class PretrainingSettings(Section):
    """A pretraining gradient beside the policy's (PPO-ptx), in every online algorithm's steps."""

    text: str | None = None
    """JSONL file with a `text` column; null mixes nothing in."""
    coefficient: Rate = 1.0
    """Weight of the texts' mean negative log-likelihood a token; 27.8 in Ouyang et al. 2022, on another scale."""
    texts_per_step: Positive = 8
    """Texts in each optimiser step."""
    max_tokens: Positive = 256
    """A longer text is cut here."""


class EpisodeSettings(Section):
    """Conversations of several assistant turns against a simulated user."""

    user: str | None = None
    """`function:FILE_OR_MODULE:NAME`, called as f(conversation) -> next turn or None to end, or `model:REFERENCE`;
    null for a single answer to each prompt."""
    turns: Positive = 2
    """Most assistant turns in an episode."""
    reward: Literal["end", "turn"] = "end"
    """Score the last answer alone, or every answer given the conversation so far; a token is credited with all
    rewards from its turn on."""


class RlSettings(Section):
    """Policy optimisation against a reward."""

    algorithm: Literal[
        "reinforce",
        "rloo",
        "grpo",
        "ppo",
        "p3o",
        "ppo-lagrangian",
        "online-dpo",
        "rejection",
        "rejection-then-ppo",
    ] = "ppo"
    """The optimiser of the policy."""
    policy: str = "latest:sft"
    """What the policy starts from; also the reference of the KL penalty."""
    reward: str | list[RewardSource] = "latest:reward"
    """What is maximised: a reward run, `function:FILE_OR_MODULE:NAME` called as f(prompts, responses) -> scores,
    `judge:MODEL` for a model that rates answers, or a list of several. Value models start from the first run."""
    combine: Literal["sum", "safety-gated"] = "sum"
    """Several rewards: their weighted sum; or Llama 2's rule over two runs, the first of helpfulness, the second of
    safety, which counts wherever a prompt is about safety or the answer looks unsafe."""
    safety_threshold: Share = 0.15
    """Of the safety-gated rule: below this probability of being safe an answer looks unsafe."""
    safety_sources: list[str] = []
    """Of the safety-gated rule: prompts imported with one of these in their `source` column are about safety."""
    steps: Positive = 20
    """Rollout batches."""
    prompts_per_step: Positive = 32
    """Prompts in a rollout batch, drawn without replacement until all were seen."""
    samples_per_prompt: Positive = 1
    """Responses for each of them: 2 or more for rloo, grpo, p3o and online-dpo."""
    temperature: Rate = 1.0
    """Of sampling and of every log-prob: policy, old policy and reference alike."""
    top_p: Share = 1.0
    """Only 1 can be trained with: log-probs would otherwise be of another distribution than the samples."""
    max_new_tokens: Positive = 128
    """Length limit of a response, tokens."""
    episodes: EpisodeSettings = EpisodeSettings()
    kl_coefficient: Annotated[float, Field(ge=0)] = 0.05
    """Reward lost per nat of departure from the reference. At 0 the reference is never run, and no KL is shown."""
    kl_placement: Literal["reward", "loss"] = "reward"
    """Charge the KL in each token's reward, or add its estimate to the loss."""
    kl_estimator: Literal["k1", "k2", "k3"] = "k1"
    """k1 in the reward; k2 or k3 in the loss. The others have a wrong gradient and are refused."""
    kl_target: Rate | None = None
    """Steer `kl_coefficient` so that a response departs by this many nats; null keeps it fixed."""
    kl_horizon: Positive = 10_000
    """Responses over which the controller may change the coefficient by a fifth of itself."""
    missing_eos_score: float | None = -1.0
    """Score of a response that did not finish, in place of its own; null keeps its own."""
    missing_eos_penalty: Annotated[float, Field(ge=0)] = 0.0
    """Taken from the score of a response that did not finish; needs `missing_eos_score: null`."""
    normalise_reward: bool = True
    """Shift and scale a reward run's scores by their mean and standard deviation on its training responses."""
    whiten_rewards: bool = False
    """Scale the per-token rewards of a batch to variance 1, their mean kept (ppo, ppo-lagrangian)."""
    epochs: Positive = 1
    """Passes over each rollout batch."""
    minibatches: Positive = 2
    """Optimiser steps per pass."""
    clip: Annotated[float, Field(gt=0, lt=1)] = 0.2
    """Change of the probability ratio past which further gain is ignored (ppo, ppo-lagrangian, grpo, p3o; reinforce
    and rloo with `clip_ratio`)."""
    dual_clip: Annotated[float, Field(gt=1)] | None = None
    """Ratio past which a loss is ignored as well (ppo, grpo)."""
    value_clip: Rate | None = 0.2
    """Change of a value estimate past which further gain is ignored, in units of reward; null for no bound."""
    discount: Share = 1.0
    """Gamma: weight of a reward one token later."""
    gae_lambda: Share = 0.95
    """Lambda of generalised advantage estimation (ppo, ppo-lagrangian)."""
    whiten_advantages: bool = True
    """Give the advantages of a rollout batch mean 0 and variance 1 over its tokens (ppo)."""
    value_warmup_steps: int = Field(default=0, ge=0)
    """First steps in which only value models learn."""
    max_approximate_kl: Annotated[float, Field(gt=0)] | None = None
    """Drop the rest of a batch's updates once the policy is this far (nats a token) from the one that sampled it."""
    optimiser: OptimiserSettings = OptimiserSettings(learning_rate=1e-4, warmup_share=0.1)
    """Optimiser of the policy."""
    value_optimiser: OptimiserSettings = OptimiserSettings(learning_rate=2e-4, warmup_share=0.0)
    """Optimiser of value models."""
    reinforce: ReinforceSettings = ReinforceSettings()
    rloo: RlooSettings = RlooSettings()
    grpo: GrpoSettings = GrpoSettings()
    p3o: P3OSettings = P3OSettings()
    lagrangian: LagrangianSettings = LagrangianSettings()
    online_dpo: OnlineDpoSettings = OnlineDpoSettings()
    rejection: RejectionSettings = RejectionSettings()
    pretraining: PretrainingSettings = PretrainingSettings()
    save_every: Positive = 5
    """Steps between checkpoints from which `--resume` goes on."""

    @model_validator(mode="after")
    def _refuse_what_is_known_to_be_wrong(self) -> RlSettings:
        for wrong, reason in self._contradictions():
            if wrong:
                raise ValueError(reason)
        return self

    def _contradictions(self) -> list[tuple[bool, str]]:
        in_reward = self.kl_placement == "reward"
        return [
            (
                in_reward and self.kl_estimator != "k1",
                f"kl_estimator {self.kl_estimator} in the reward has another gradient than the KL's, and k3 there "
                "drives rare tokens to nothing; use k1, or kl_placement: loss",
            ),
            (
                not in_reward and self.kl_estimator == "k1",
                "kl_estimator k1 as a loss has no gradient in expectation, so nothing would hold the policy back; "
                "use k2 (or k3 as in GRPO), or kl_placement: reward",
            ),
            (
                self.top_p < 1,
                "top_p under 1 in training samples leaves the removed mass in every probability ratio; sample with "
                "top_p: 1 and lower the temperature instead",
            ),
            (
                self.missing_eos_penalty > 0 and self.missing_eos_score is not None,
                "missing_eos_penalty and missing_eos_score both set: an unfinished response has either a penalty or "
                "a score of its own; set missing_eos_score: null for the penalty",
            ),
            (
                self.algorithm == "online-dpo" and self.kl_coefficient == 0,
                "online-dpo takes kl_coefficient as its beta, and with beta 0 it learns nothing",
            ),
            (
                self.kl_target is not None and self.kl_coefficient == 0,
                "kl_target steers kl_coefficient by factors, so it cannot start from 0",
            ),
            (
                self.algorithm == "ppo-lagrangian" and not in_reward,
                "ppo-lagrangian charges the KL in reward and cost; use kl_placement: reward",
            ),
            (
                self.algorithm == "ppo-lagrangian" and self.lagrangian.cost is None,
                "ppo-lagrangian needs a cost model; set rl.lagrangian.cost to a run or function:...",
            ),
            (
                self.algorithm in ("rloo", "grpo", "p3o", "online-dpo") and self.samples_per_prompt < 2,
                f"{self.algorithm} compares responses to one prompt; set rl.samples_per_prompt to 2 or more",
            ),
            (
                self.algorithm.startswith("rejection") and self.episodes.user is not None,
                "rejection sampling imitates single answers; leave rl.episodes.user unset",
            ),
            (
                self.combine == "safety-gated" and (isinstance(self.reward, str) or len(self.reward) != 2),
                "the safety-gated rule needs rl.reward to list two runs: of helpfulness, then of safety",
            ),
        ]


class PreferSettings(Section):
    """A policy straight from preferences: DPO and its family."""

    loss: Literal[
        "dpo", "ipo", "conservative-dpo", "robust-dpo", "hinge", "kto", "simpo", "orpo", "cpo"
    ] = "dpo"  # fmt: skip
    """Which of them."""
    policy: str = "latest:sft"
    """What the policy starts from."""
    reference: str | None = None
    """What departure is measured from; null for `prefer.policy` itself. In a second round on a policy's own samples,
    naming the first round's start keeps the optimum pi_ref exp(R / beta); null moves the reference along, and after
    k rounds the policy tends to pi_ref exp(k R / beta)."""
    comparisons: list[str] | None = None
    """Judge runs (or `latest:judge`) and imports to learn from; null for all in the workspace."""
    beta: Rate = 0.1
    """Implied reward per nat of departure (for ipo: tau; for simpo 2 to 2.5 is usual)."""
    gamma_over_beta: Annotated[float, Field(ge=0)] = 0.5
    """Of simpo: margin wanted between chosen and rejected, nats a token."""
    flip_rate: Annotated[float, Field(ge=0, lt=0.5)] = 0.1
    """Of conservative-dpo and robust-dpo: share of labels that are the wrong way round."""
    per_token: bool = False
    """Of ipo: compare mean log-probs of a token instead of their sums."""
    odds_coefficient: Rate = 0.1
    """Of orpo: weight of the odds ratio beside the likelihood."""
    likelihood_coefficient: Annotated[float, Field(ge=0)] | None = None
    """Weight of the chosen response's negative log-likelihood a token; null for the loss's own: 1 for orpo and cpo,
    else 0."""
    desirable_weight: Rate = 1.0
    """Of kto: weight of liked responses; times their number about 1 to 1.33 of the other side's is advised."""
    undesirable_weight: Rate = 1.0
    """Of kto: weight of disliked responses."""
    epochs: Positive = 1
    """Passes over the preferences."""
    batch_size: Positive = 16
    """Prompts per optimiser step; all comparisons of a prompt stay together and share one forward per response."""
    max_response_tokens: Positive = 512
    """Comparisons with a longer response are left out, and counted."""
    optimiser: OptimiserSettings = OptimiserSettings(learning_rate=5e-5, warmup_share=0.1)
    """Optimiser of all trained weights."""
    save_every: Positive = 50
    """Steps between checkpoints from which `--resume` goes on."""


class EvaluateSettings(Section):
    """A policy against a baseline on prompts that no stage has trained on."""

    policy: str = "latest:rl"
    """The policy to judge."""
    baseline: str = "latest:sft"
    """What it is compared with."""
    reward: str | None = "latest:reward"
    """A reward model whose verdict is shown beside the taste's; null for none."""
    best_of: Positive = 1
    """The policy's answer is the best of this many samples by `evaluate.reward`; the baseline's is one sample."""
    samples_per_prompt: Positive = 2
    """Responses of each policy to each held-out prompt."""
    temperature: Rate = 1.0
    """Of both policies, and of the KL."""
    max_new_tokens: Positive = 128
    """Length limit of a response, tokens."""
    perplexity_text: str | None = None
    """JSONL file with a `text` column for the perplexity; null takes the prose that ships with Plaudit."""
    taste: TasteSettings = TasteSettings()
    """The judge of the win rate."""

    @model_validator(mode="after")
    def _best_needs_a_reward(self) -> EvaluateSettings:
        if self.best_of > 1 and self.reward is None:
            raise ValueError("best_of needs evaluate.reward to choose by")
        return self


class Config(Section):
    """Everything a workspace's stages read."""

    seed: int = 0
    """Of every random choice: the same seed gives the same run."""
    model: ModelSettings = ModelSettings()
    data: DataSettings = DataSettings()
    sft: SftSettings = SftSettings()
    sample: SampleSettings = SampleSettings()
    judge: JudgeSettings = JudgeSettings()
    reward: RewardSettings = RewardSettings()
    rl: RlSettings = RlSettings()
    prefer: PreferSettings = PreferSettings()
    evaluate: EvaluateSettings = EvaluateSettings()

    def to_yaml(self) -> str:
        """The resolved configuration, every default written out."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def resolve(*files: Path | None, overrides: list[str] | None = None, values: dict[str, Any] | None = None) -> Config:
    """Merge YAML files, then `values`, then dotted overrides, and check the result.

    Raises ConfigError for a missing or broken file, an unknown key, or a value out of range.
    """
    merged: dict[str, Any] = {}
    for path in files:
        if path is not None:
            merged = _merge(merged, _read_yaml(path))
    merged = _merge(merged, values or {})
    for override in overrides or []:
        merged = _merge(merged, _parse_override(override))
    try:
        return Config.model_validate(merged)
    except ValidationError as error:
        raise ConfigError(_explain(error)) from None


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such configuration file.") from None
    except IsADirectoryError:
        raise ConfigError(f"{path} is a folder; name the YAML file in it.") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not valid YAML: {error}") from None
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise ConfigError(f"{path} must hold `section: {{key: value}}`, but holds a {type(content).__name__}.")
    return content


def _parse_override(text: str) -> dict[str, Any]:
    """`rl.clip=0.1` -> {"rl": {"clip": 0.1}}."""
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise ConfigError(f"`{text}` is not an override: write SECTION.KEY=VALUE, for example rl.kl_coefficient=0.02.")
    try:
        nested: Any = yaml.safe_load(value)
    except yaml.YAMLError:
        raise ConfigError(f"`{text}`: the value is not valid YAML; put it in quotes.") from None
    for part in reversed(key.strip().split(".")):
        nested = {part: nested}
    return nested


def _merge(base: dict[str, Any], update: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in update.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _merge(merged[key], value) if both else value
    return merged


def _explain(error: ValidationError) -> str:
    """One line per mistake, with the nearest known name for an unknown key."""
    lines = []
    for mistake in error.errors():
        where = ".".join(str(part) for part in mistake["loc"])
        if mistake["type"] == "extra_forbidden":
            lines.append(f"unknown setting `{where}`.{_nearest_setting(mistake['loc'])}")
        elif mistake["type"] == "literal_error":
            known = str(mistake["ctx"]["expected"]).replace(" or ", ", ").replace("'", "").split(", ")
            lines.append(
                f"`{where}` = {mistake['input']!r}: unknown.{nearest(str(mistake['input']), known)} "
                f"Known: {', '.join(known)}."
            )
        elif mistake["type"] == "value_error":
            lines.append(f"`{where}`: {mistake['msg'].removeprefix('Value error, ')}.")
        else:
            lines.append(f"`{where}` = {mistake['input']!r}: {mistake['msg'][:1].lower()}{mistake['msg'][1:]}.")
    return "\n".join(lines) + "\nAll settings, with their meaning: plaudit config."


def _nearest_setting(location: tuple[int | str, ...]) -> str:
    section: Any = Config
    for part in location[:-1]:
        annotation = section.model_fields[part].annotation if part in getattr(section, "model_fields", {}) else None
        options = [annotation, *getattr(annotation, "__args__", ())]
        section = next((o for o in options if isinstance(o, type) and issubclass(o, Section)), None)
        if section is None:
            return ""
    prefix = ".".join(str(part) for part in location[:-1])
    hint = nearest(str(location[-1]), section.model_fields)
    return hint.replace("`", f"`{prefix}.", 1) if hint and prefix else hint


def describe(config: Config) -> str:
    """YAML of the configuration with each setting's meaning as a comment above it."""
    return "\n".join(_describe_section(config, indent=0))


def _describe_section(section: Section, indent: int) -> list[str]:
    lines, pad = [], "  " * indent
    for name, field in type(section).model_fields.items():
        value = getattr(section, name)
        lines += [f"{pad}# {line.strip()}" for line in (field.description or "").strip().splitlines()]
        if isinstance(value, Section):
            if indent == 0:
                lines += ["", f"# {(type(value).__doc__ or '').strip().splitlines()[0]}"]
            lines += [f"{pad}{name}:", *_describe_section(value, indent + 1)]
        else:
            plain = section.model_dump(mode="json")[name]
            lines.append(
                f"{pad}{name}: " + yaml.safe_dump(plain, default_flow_style=True).removesuffix("...\n").strip()
            )
    return lines
