"""From `rl.reward` and its like to something that scores."""

from __future__ import annotations

from dataclasses import dataclass

from plaudit.config import Combine, Config, RewardSource
from plaudit.errors import ConfigError, ModelError
from plaudit.functions import is_function, load_function
from plaudit.models.loading import LoadedModel, load_causal, load_reward, one_head
from plaudit.records import Message
from plaudit.scoring.rating import RatingJudge
from plaudit.scoring.scorers import (
    Answered,
    Ensemble,
    FunctionScorer,
    RewardModelScorer,
    RewardModelScores,
    SafetyGated,
    Scorer,
    WeightedSum,
)
from plaudit.text.chat import TokenSequence
from plaudit.workspace import Workspace

JUDGE = "judge:"


@dataclass(frozen=True)
class LoadedScorer:
    """A scorer, and the reward model that a value model can start from (None when there is none)."""

    score: Scorer
    model: LoadedModel | None


def reward_sources(config: Config) -> list[RewardSource]:
    """`rl.reward` as a list. Raises ConfigError for an empty one."""
    reward = config.rl.reward
    sources = [RewardSource(source=reward)] if isinstance(reward, str) else reward
    if not sources:
        raise ConfigError("`rl.reward` is an empty list: name what is to be maximised.")
    return sources


def source_lineage(workspace: Workspace, source: str) -> str:
    """A source's own name for the lineage; raises WorkspaceError when it names a missing run."""
    if is_function(source):
        return source
    if source.startswith(JUDGE):
        return JUDGE + workspace.lineage_name(source.removeprefix(JUDGE))
    name = workspace.lineage_name(source)
    workspace.model_source(name, kind="reward")
    return name


def load_scorer(
    workspace: Workspace,
    sources: list[RewardSource],
    config: Config,
    *,
    policy: LoadedModel,
    setting: str,
    normalise: bool,
    combine: Combine = "sum",
) -> LoadedScorer:
    """The scorer of one source, or of several combined.

    sources    with lineage names, as `source_lineage` gives them
    setting    where they were given, for messages
    combine    as `rl.combine`
    normalise  shift and scale the scores of runs; a cost must not be, for its zero has a meaning

    Raises ConfigError for a function that cannot be loaded, DataError for one whose trial call fails, ModelError
    for a reward model that does not fit the policy.
    """
    gated = combine == "safety-gated"
    careful = combine in ("worst-case", "mean-minus-deviation")
    models: dict[str, RewardModelScores] = {}  # a run is loaded once, whatever its heads are asked for
    loaded: list[LoadedScorer] = []
    weights: list[float] = []
    for source in sources:
        found = _load_one(
            workspace, source, config, policy, setting, models, normalise=normalise and not gated, members=careful
        )
        loaded += found
        weights += [source.weight] * len(found)
    if careful and len(loaded) < 2:
        raise ConfigError(
            f"`rl.combine={combine}` needs several models of one reward: list them in `{setting}`, or train "
            "one of several heads with `reward.members`."
        )
    first = next((item.model for item in loaded if item.model is not None), None)
    if gated:
        helpfulness, safety = loaded
        if helpfulness.model is None or safety.model is None:
            raise ConfigError(f"`{setting}`: the safety-gated rule needs two reward runs, whose scores are log-odds.")
        if any(item.model is not None and item.model.scores.rating_mean for item in loaded):
            raise ConfigError(f"`{setting}`: the safety-gated rule takes log-odds; a run that learnt ratings has none.")
        sources_about_safety = frozenset(config.rl.safety_sources)
        rule = SafetyGated(
            helpfulness.score,
            safety.score,
            config.rl.safety_threshold,
            sources_about_safety,
            whitened=not config.rl.algorithm.startswith("rejection"),  # which compares scores of several rounds
        )
        return LoadedScorer(rule, first)
    if weights == [1]:
        return loaded[0]
    parts = [(weight, item.score) for weight, item in zip(weights, loaded, strict=True)]
    match combine:
        case "worst-case":
            return LoadedScorer(Ensemble(parts, None), first)
        case "mean-minus-deviation":
            return LoadedScorer(Ensemble(parts, config.rl.disagreement_coefficient), first)
    return LoadedScorer(WeightedSum(parts), first)


def _load_one(
    workspace: Workspace,
    wanted: RewardSource,
    config: Config,
    policy: LoadedModel,
    setting: str,
    models: dict[str, RewardModelScores],
    *,
    normalise: bool,
    members: bool,
) -> list[LoadedScorer]:
    """One scorer; of an ensemble's heads one each, if its members are wanted."""
    source, budget = wanted.source, config.model.tokens_per_micro_batch
    if (is_function(source) or source.startswith(JUDGE)) and wanted.head is not None:
        raise ConfigError(f"`{setting}`: {source} has no heads; leave `head: {wanted.head}` out.")
    if is_function(source):
        scorer = FunctionScorer(load_function(source, setting=setting), source)
        _try_it(scorer)
        return [LoadedScorer(scorer, None)]
    if source.startswith(JUDGE):
        judge = load_causal(workspace.model_source(source.removeprefix(JUDGE)), config.model)
        return [LoadedScorer(RatingJudge(judge, budget), None)]
    if source not in models:
        model = load_reward(workspace.model_source(source, kind="reward"), config.model)
        if model.format.vocabulary_id != policy.format.vocabulary_id:
            raise ModelError(
                f"the reward model {source} and the policy {policy.source} have different vocabularies, so it cannot "
                "score the policy's tokens. Train it from the same family: `plaudit reward reward.model=...`."
            )
        models[source] = RewardModelScores(model, budget)
    scores = models[source]
    facts = scores.model.scores
    expand = members and facts.is_ensemble and wanted.head is None
    found = []
    for head in facts.heads if expand else (wanted.head,):
        alone = one_head(scores.model, head, normalised=normalise, setting=f"{setting}: head")
        found.append(LoadedScorer(RewardModelScorer(scores, normalise, head), alone))
    return found


def _try_it(scorer: FunctionScorer) -> None:
    """Two answers, so that a function that cannot work fails before any long work starts."""
    question: list[Message] = [{"role": "user", "content": "How are you?"}]
    scorer([Answered(question, TokenSequence([], []), text, True) for text in ("Well, thank you.", "I do not know.")])
