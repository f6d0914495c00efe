"""From `rl.reward` and its like to something that scores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from plaudit.config import Combine, Config, ModelJudgeSettings, RewardSource
from plaudit.config.model_judges import ENDPOINT
from plaudit.errors import ConfigError, ModelError, nearest
from plaudit.functions import is_function, load_function
from plaudit.judges.ai import AIJudge
from plaudit.judges.models import judge_lineage, load_judge
from plaudit.models.loading import LoadedModel, load_reward, one_head
from plaudit.models.named import named_policy, named_reward
from plaudit.records import Message
from plaudit.references import FUNCTION, JUDGE, REWARD, Reference, is_of, parse
from plaudit.rewards.rating import RatingScorer
from plaudit.rewards.scoring import (
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
from plaudit.workspace import Run, Workspace


@dataclass(frozen=True)
class LoadedScorer:
    """A scorer with what it is made of.

    model    the reward model that a value model can start from; None when there is none
    raters   judges whose ratings are scores
    """

    score: Scorer
    model: LoadedModel | None = None
    raters: list[RatingScorer] = field(default_factory=list)


def reward_sources(config: Config) -> list[RewardSource]:
    """`rl.reward` as a list. Raises ConfigError for an empty one."""
    reward = config.rl.reward
    sources = [RewardSource(source=reward)] if isinstance(reward, str) else reward
    if not sources:
        raise ConfigError("`rl.reward` is an empty list: name what is to be maximised.")
    return sources


def source_lineage(workspace: Workspace, source: str, config: Config, *, setting: str) -> dict[str, str]:
    """Names for the lineage, the source's own first; of one of `judge.models` also whom it asks, under its name.

    setting   where it was named, for messages

    Raises WorkspaceError when it names a missing run.
    """
    if is_function(source):
        return {source: source}
    if is_of(JUDGE, source):
        name = parse(source).name
        if (judge := _judge_named(name, config)) is not None:
            if judge.form != "rate":
                raise ConfigError(
                    f"`{source}`: it does not rate; give the judge `form: rate` and a guideline for that."
                )
            return {source: source, f"model {name}": judge_lineage(workspace, judge)}
        known = [judge.name for judge in config.judge.models]
        if (near := nearest(name, known)) or name == ENDPOINT or parse(name).kind in (REWARD, FUNCTION):
            raise ConfigError(f"`{source}` is none of `judge.models` ({', '.join(known) or 'there are none'}).{near}")
        return {source: Reference(JUDGE, named_policy(workspace, name, setting=setting)).text}
    return {source: named_reward(workspace, source, setting=setting)}


def _judge_named(name: str, config: Config) -> ModelJudgeSettings | None:
    return next((judge for judge in config.judge.models if judge.name == name), None)


def load_scorer(
    workspace: Workspace,
    run: Run,
    sources: list[RewardSource],
    config: Config,
    *,
    policy: LoadedModel,
    setting: str,
    normalise: bool,
    combine: Combine = "sum",
) -> LoadedScorer:
    """The scorer of one source, or of several combined.

    run        in whose folder the answers of endpoints are kept, and which knows its parents
    sources    with lineage names, as `source_lineage` gives them
    setting    where they were given, for messages
    combine    as `rl.combine`
    normalise  shift and scale the scores of runs; a cost must not be, for its zero has a meaning

    Raises ConfigError for a function that cannot be loaded, DataError for one whose trial call fails, ModelError
    for a reward model that does not fit the policy.
    """
    normalise = normalise and combine != "safety-gated"
    careful = combine in ("worst-case", "mean-minus-deviation")
    models: dict[str, RewardModelScores] = {}  # a run is loaded once, whatever its heads are asked for
    loaded: list[LoadedScorer] = []
    weights: list[float] = []
    for source in sources:
        if is_function(source.source) or is_of(JUDGE, source.source):
            _refuse_head(source, setting)
        if is_function(source.source):
            function = FunctionScorer(load_function(source.source, setting=setting))
            _try_it(function)
            found = [LoadedScorer(function)]
        elif is_of(JUDGE, source.source):
            rater = _rater(workspace, run, source.source, config, setting)
            found = [LoadedScorer(rater, raters=[rater])]
        else:
            found = _of_run(
                workspace, source, config, policy, setting, models, normalise=normalise, members=careful
            )  # fmt: skip
        loaded += found
        weights += [source.weight] * len(found)
    first = next((item.model for item in loaded if item.model is not None), None)
    raters = [rater for item in loaded for rater in item.raters]
    return LoadedScorer(_combined(loaded, weights, config, setting, combine), first, raters)


def _combined(
    loaded: Sequence[LoadedScorer], weights: Sequence[float], config: Config, setting: str, combine: Combine
) -> Scorer:
    """Several as one."""
    parts = [(weight, item.score) for weight, item in zip(weights, loaded, strict=True)]
    match combine:
        case "safety-gated":
            helpfulness, safety = loaded
            if helpfulness.model is None or safety.model is None:
                raise ConfigError(
                    f"`{setting}`: the safety-gated rule needs two reward runs, whose scores are log-odds."
                )
            if any(item.model is not None and item.model.scores.rating_mean for item in loaded):
                raise ConfigError(
                    f"`{setting}`: the safety-gated rule takes log-odds; a run that learnt ratings has none."
                )
            return SafetyGated(
                helpfulness.score,
                safety.score,
                config.rl.safety_threshold,
                frozenset(config.rl.safety_sources),
                whitened=bool(config.rl.needs.algorithm),  # which compares scores of several rounds
            )
        case "worst-case" | "mean-minus-deviation":
            if len(loaded) < 2:
                raise ConfigError(
                    f"`rl.combine={combine}` needs several models of one reward: list them in `{setting}`, or train "
                    "one of several heads with `reward.members`."
                )
            return Ensemble(parts, config.rl.disagreement_coefficient if combine == "mean-minus-deviation" else None)
    return loaded[0].score if list(weights) == [1] else WeightedSum(parts)


def _refuse_head(wanted: RewardSource, setting: str) -> None:
    if wanted.head is not None:
        raise ConfigError(f"`{setting}`: {wanted.source} has no heads; leave `head: {wanted.head}` out.")


def _rater(workspace: Workspace, run: Run, source: str, config: Config, setting: str) -> RatingScorer:
    """`judge:NAME` of `judge.models`, or `judge:MODEL` with the plain question."""
    name = parse(source).name
    settings = _judge_named(name, config)
    if settings is None:
        settings = ModelJudgeSettings(name=name, source=name, form="rate")
    elif settings.endpoint is None:  # a run that goes on asks whom it asked before
        settings = settings.model_copy(update={"source": run.parents[f"model {name}"]})
    judge = load_judge(workspace, settings, config, run.path)
    if not isinstance(judge, AIJudge):
        raise ConfigError(
            f"`{setting}`: {source} compares and does not rate. Name its reward run, or a function of one answer, "
            "itself as the reward."
        )
    return RatingScorer(judge)


def _of_run(
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
    """One scorer of a reward run; of an ensemble's heads one each, if its members are wanted."""
    source = wanted.source
    if source not in models:
        model = load_reward(workspace.model_source(source, kind="reward"), config.model)
        if model.format.vocabulary_id != policy.format.vocabulary_id:
            raise ModelError(
                f"the reward model {source} and the policy {policy.source} have different vocabularies, so it cannot "
                "score the policy's tokens. Train it from the same family: `plaudit reward reward.model=...`."
            )
        models[source] = RewardModelScores(model, config.model.tokens_per_micro_batch)
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
