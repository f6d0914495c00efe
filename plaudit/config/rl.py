"""Settings of policy optimisation, and the combinations of them that are known to be wrong."""

from __future__ import annotations

from dataclasses import replace
from functools import reduce
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from plaudit.config.section import OptimiserSettings, Positive, Rate, Reduction, Section, Share
from plaudit.methods import ALGORITHMS, OnlineAlgorithm

if TYPE_CHECKING:
    AlgorithmName = str
else:
    AlgorithmName = Literal[tuple(ALGORITHMS)]
Combine = Literal["sum", "worst-case", "mean-minus-deviation", "safety-gated"]


class RewardSource(Section):
    """One of several rewards that are combined."""

    source: str
    """Name of the reward, as for `rl.reward`: a reward run, `function:...`, `judge:NAME` or `judge:MODEL`."""
    head: str | None = None
    """Which head, for a run that learnt several criteria; null takes the mean of an ensemble's heads."""
    weight: float = 1.0
    """Factor of its scores; unused by the safety-gated rule."""


def _sources_by_name(given: object) -> object:
    """Names alone in a list stand for sources without more."""
    if not isinstance(given, list):
        return given
    return [{"source": one} if isinstance(one, str) else one for one in given]


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
    """GRPO, GSPO and CISPO. The defaults are Dr. GRPO's advantages over all tokens alike."""

    scale_by_std: bool = False
    """Divide advantages by the group's standard deviation (K - 1, plus 1e-4) as first published."""
    reduction: Reduction = "token_mean"
    """Reduction of losses per token (grpo, cispo): `response_mean` as first published makes long wrong answers cheap;
    Dr. GRPO
    has `constant_length`."""


class P3OSettings(Section):
    """Pairwise PPO alone."""

    clipping: Literal["separate", "joint"] = "separate"
    """Clip each response of a pair by itself (V1), or the pair as one (V2)."""


class LagrangianSettings(Section):
    """PPO-Lagrangian alone."""

    cost: str | None = None
    """The cost model: a run whose scores are the higher the more harmful a response is, or `function:...`."""
    cost_head: str | None = None
    """Which head, for a cost run with several; null takes the mean of an ensemble's heads."""
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
    """Online DPO alone."""

    beta: Rate = 0.05
    """Implied reward per nat of departure from the reference: its price of KL, where others have `kl_coefficient`."""
    loss: Literal["dpo", "ipo", "hinge"] = "dpo"
    """Loss of the best against the worst response of each prompt."""
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

    algorithm: AlgorithmName = "ppo"
    """The optimiser of the policy."""
    policy: str = "latest:sft"
    """What the policy starts from; also the reference of the KL penalty."""
    reward: Annotated[str | list[RewardSource], BeforeValidator(_sources_by_name)] = "latest:reward"
    """What is maximised: a reward run, `function:FILE_OR_MODULE:NAME` called as f(prompts, responses) -> scores,
    `judge:NAME` for one of `judge.models`, asked to rate each answer, or `judge:MODEL` for any model, asked the plain
    question; or a list of several, by name or as {source, head, weight}. Value models start from the first run."""
    combine: Combine = "sum"
    """Several rewards: their weighted sum; of models of one reward, or the heads of one, the least of their scores,
    or the mean less `disagreement_coefficient` standard deviations; or Llama 2's rule over two, the first
    of helpfulness, the second of safety, which counts wherever a prompt is about safety or the answer looks unsafe."""
    disagreement_coefficient: Annotated[float, Field(ge=0)] = 1.0
    """What a standard deviation between the models costs, under mean-minus-deviation."""
    safety_threshold: Share = 0.15
    """Probability of being safe below which an answer looks unsafe, under the safety-gated rule."""
    safety_sources: list[str] = Field(default=[])
    """Sources of prompts that are about safety, as in their `source` column, under the safety-gated rule."""
    steps: Positive = 20
    """Rollout batches."""
    prompts_per_step: Positive = 32
    """Prompts in a rollout batch, drawn without replacement until all were seen."""
    samples_per_prompt: Positive | None = None
    """Responses for each of them: 2 or more for algorithms that compare them (rloo, grpo, gspo, cispo, p3o,
    online-dpo); null for 4 there, and 1 elsewhere."""
    temperature: Rate = 1.0
    """Temperature of sampling and of every log-prob: policy, old policy and reference alike."""
    max_new_tokens: Positive = 128
    """Length limit of a response, tokens."""
    episodes: EpisodeSettings = EpisodeSettings()
    kl_coefficient: Annotated[float, Field(ge=0)] = 0.05
    """Reward lost per nat of departure from the reference. At 0 the reference is never run, and no KL is shown.
    Unused by online-dpo, which has `online_dpo.beta`."""
    kl_term: Literal["reward", "k2", "k3"] = "reward"
    """Charge the KL in each token's reward (by k1, exact), or add the estimate k2 or k3 to the loss."""
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
    """Optimiser steps per pass, each on whole prompts, as equal in number as they can be."""
    clip: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Change of the probability ratio past which further gain is ignored (not online-dpo; reinforce and rloo with
    `clip_ratio`). Null for 0.2, in gspo for 0.0003 down and 0.0004 up, in cispo for weights of at most 5."""
    clip_high: Rate | None = None
    """The same upwards, where it is not to be `clip` (not p3o): DAPO's wider bound, 0.28 there."""
    dual_clip: Annotated[float, Field(gt=1)] | None = None
    """Ratio past which a loss is ignored as well (ppo, grpo)."""
    value_clip: Rate | None = 0.2
    """Change of a value estimate past which further gain is ignored, in units of reward; null for no bound."""
    discount: Share = 1.0
    """Gamma: weight of a reward one token later (ppo, ppo-lagrangian, reinforce)."""
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
    value_head_coefficient: Annotated[float, Field(gt=0)] | None = None
    """Where an algorithm learns values: from a head on the policy's own body, and the weight of their loss in the
    policy's: one pass for both, but a body that serves two ends (Ziegler et al. 2019, with 0.1). Null: a value model,
    from the reward model."""
    value_optimiser: OptimiserSettings = OptimiserSettings(learning_rate=2e-4, warmup_share=0.0)
    """Optimiser of value models, or of the value head."""
    reinforce: ReinforceSettings = ReinforceSettings()
    rloo: RlooSettings = RlooSettings()
    grpo: GrpoSettings = GrpoSettings()
    p3o: P3OSettings = P3OSettings()
    lagrangian: LagrangianSettings = LagrangianSettings()
    online_dpo: OnlineDpoSettings = OnlineDpoSettings()
    rejection: RejectionSettings = RejectionSettings()
    pretraining: PretrainingSettings = PretrainingSettings()
    most_sampler_gap: Rate = 0.3
    """Nats a token that log-probs of sampled tokens may differ from the policy's, in the mean of a step, before the run
    stops. Rounding to bfloat16 makes about 0.01."""
    save_every: Positive = 5
    """Steps between checkpoints from which `--resume` goes on."""
    anyway: bool = False
    """Optimise also for a reward run whose held-out accuracy is not shown to be above chance, or not above that of
    length alone."""

    @property
    def needs(self) -> OnlineAlgorithm:
        """What the algorithm needs, as it is set here."""
        entry = ALGORITHMS[self.algorithm]
        if self.algorithm == "reinforce" and self.reinforce.baseline == "value":
            return replace(entry, critics=("reward",))
        return entry

    @property
    def group_size(self) -> int:
        """Responses to a prompt."""
        return self.samples_per_prompt or (4 if self.needs.compares else 1)

    @property
    def clip_range(self) -> tuple[float | None, float | None]:
        """(down, up) of a probability ratio; None for no bound."""
        low, high = self.needs.clip
        if self.clip is not None:
            low = high = self.clip
        return low, high if self.clip_high is None else self.clip_high

    @property
    def kl_price(self) -> float:
        """Reward lost per nat of departure from the reference."""
        if self.needs.own_kl is None:
            return self.kl_coefficient
        price: Any = reduce(getattr, self.needs.own_kl.split("."), self)
        return float(price)

    @model_validator(mode="after")
    def _refuse_what_is_known_to_be_wrong(self) -> RlSettings:
        for wrong, reason in self._contradictions():
            if wrong:
                raise ValueError(reason)
        return self

    def _contradictions(self) -> list[tuple[bool, str]]:
        needs = self.needs
        has_critic = bool(needs.critics or (needs.then is not None and ALGORITHMS[needs.then].critics))
        return [
            (
                self.kl_term != "reward" and needs.kl_in_reward and needs.own_kl is None,
                f"{self.algorithm} charges the KL in reward and cost; use kl_term: reward",
            ),
            (
                self.missing_eos_penalty > 0 and self.missing_eos_score is not None,
                "missing_eos_penalty and missing_eos_score both set: an unfinished response has either a penalty or "
                "a score of its own; set missing_eos_score: null for the penalty",
            ),
            (
                needs.own_kl is not None and (self.kl_target is not None or self.kl_term != "reward"),
                f"{self.algorithm} has its KL in the loss already, with a fixed price, {needs.own_kl}; leave kl_target "
                "and kl_term as they are",
            ),
            (
                self.algorithm == "p3o" and self.clip_high is not None,
                "p3o clips both responses of a pair by one bound; set rl.clip, and leave rl.clip_high unset",
            ),
            (
                self.value_warmup_steps > 0 and not has_critic,
                f"value_warmup_steps trains value models alone, and {self.algorithm} has none; set it to 0",
            ),
            (
                self.minibatches > self.prompts_per_step,
                f"{self.minibatches} minibatches of whole prompts cannot be made of prompts_per_step: "
                f"{self.prompts_per_step}",
            ),
            (
                self.algorithm == "rejection" and self.pretraining.text is not None,
                "rejection sampling is likelihood training as it is; pretraining.text is for the other algorithms",
            ),
            (
                self.kl_target is not None and self.kl_price == 0,
                "kl_target steers kl_coefficient by factors, so it cannot start from 0",
            ),
            (
                needs.constrained and self.lagrangian.cost is None,
                f"{self.algorithm} needs a cost model; set rl.lagrangian.cost to a reward run or a function",
            ),
            (
                needs.compares and self.group_size < 2,
                f"{self.algorithm} compares responses to one prompt; set rl.samples_per_prompt to 2 or more, or to "
                "null for 4",
            ),
            (
                not needs.algorithm and self.episodes.user is not None,
                "rejection sampling imitates single answers; leave rl.episodes.user unset",
            ),
            (
                self.combine == "safety-gated" and (isinstance(self.reward, str) or len(self.reward) != 2),
                "the safety-gated rule needs rl.reward to list two runs: of helpfulness, then of safety",
            ),
        ]
