"""How much better do reward models get with more comparisons, and with larger bodies?"""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import asdict, replace

from torch import nn

from plaudit.config import Config
from plaudit.errors import DataError
from plaudit.evaluation.scaling import CELLS, Cell, fit_scaling, read_cells
from plaudit.files import write_text
from plaudit.methods import REWARD_LOSSES
from plaudit.models.named import named_policy
from plaudit.models.network import Network
from plaudit.progress import say
from plaudit.reporting.drawing import scaling, standalone
from plaudit.stages import POLICIES
from plaudit.statistics.reward_quality import ScoredPair, log_losses, margins, noise_ceiling, ranked_right
from plaudit.training.data.reward_data import RewardData, choose_judgments, draw_prompts, load_reward_data
from plaudit.training.reward import beside_scores, fit_scorer, fresh_reward_model, held_out_scores
from plaudit.workspace import Run, Workspace

PLOT = "scaling.svg"


def reward_scaling(workspace: Workspace, config: Config | None = None, *, resume: str | None = None) -> Run:
    """Train a reward model for each of `reward_scaling`'s models, numbers of prompts and seeds, as `reward.*` says.

    Returns the run. Its result has the laws of `fit_scaling`, `cells.jsonl` every model's held-out judgments, and
    `scaling.svg` the plot; the models themselves are not kept. A grid that was interrupted goes on where it was.

    Raises DataError when there is too little to vary, or nothing to measure on.
    """
    if resume is not None:
        with workspace.resume_run(resume, "study", config) as run:
            return _run(workspace, run, run.config())
    config = config or workspace.config()
    sources, data = choose_judgments(workspace, config)
    models = [named_policy(workspace, name, setting="reward_scaling.models") for name in config.reward_scaling.models]
    parents = {f"model_{i}": name for i, name in enumerate(models)}
    with workspace.new_run("study", config, parents=parents, sources=sources, data=data) as run:
        return _run(workspace, run, config)


def _run(workspace: Workspace, run: Run, config: Config) -> Run:
    settings = config.reward_scaling
    names = [name for role, name in sorted(run.parents.items(), key=_place) if role.startswith("model_")]
    sources = {name: workspace.model_source(name, kind=POLICIES) for name in names}
    data = _same_prompts({
        name: load_reward_data(workspace, run, fresh_reward_model(source, config), config)
        for name, source in sources.items()
    })  # fmt: skip
    first = data[names[0]]
    sizes = _sizes(len(first.train), settings.prompts)
    if len(sizes) < 2 and len(names) < 2:
        most = len(first.train)
        raise DataError(f"`reward_scaling`: a law needs two numbers of prompts up to {most}, or two models.")
    lengths = {response.id: len(response.text.split()) for response in workspace.store.responses(excluded=True)}
    ceiling = noise_ceiling(_without_scores(first, lengths, config))
    cells = _measured(run)
    for name, source in sources.items():
        for seed in range(config.seed, config.seed + settings.seeds):
            for size in sizes:
                if any((cell.model, cell.prompts, cell.seed) == (name, size, seed) for cell in cells):
                    continue
                train = draw_prompts(data[name].train, size, seed=seed)
                count = sum(len(prompt.ratings) or len(prompt.judgments) for prompt in train)
                say(f"{name}: {count} judgments of {size} prompts, seed {seed}")
                own = config.model_copy(update={"seed": seed})
                scorer = fit_scorer(fresh_reward_model(source, own), replace(data[name], train=train), own, None)
                scores = held_out_scores(scorer, data[name].held_out, own)
                judged = beside_scores(data[name].held_out, scores, lengths, config.reward)
                cells.append(Cell(name, _weights(scorer), size, count, seed, _by_prompt(judged)))
                with open(run.path / CELLS, "a", encoding="utf-8") as file:
                    file.write(json.dumps(asdict(cells[-1])) + "\n")
    log_odds = REWARD_LOSSES[config.reward.loss].learns_from != "ratings"
    try:
        target = settings.target_accuracy
        result = fit_scaling(cells, target=target, ceiling=ceiling, seed=config.seed, log_odds=log_odds)
    except ValueError as error:
        raise DataError(f"`reward_scaling`: {error}.") from None
    write_text(run.path / PLOT, standalone(scaling(run.name, result)))
    run.update(result=result)
    return run


def _place(parent: tuple[str, str]) -> tuple[int, str]:
    """Models in the order in which they were named."""
    return len(parent[0]), parent[0]


def _same_prompts(data: dict[str, RewardData]) -> dict[str, RewardData]:
    """Those prompts alone whose responses fit every model; what is left out is counted and said."""
    seen = [{p.prompt_id: p.response_ids for p in (*d.train, *d.held_out)} for d in data.values()]
    common = {name for name, kept in seen[0].items() if all(other.get(name) == kept for other in seen[1:])}
    left_out = len({name for one in seen for name in one} - common)
    if left_out:
        say(f"{left_out} prompts have responses that do not fit every model: left out.")
    return {
        name: replace(
            found,
            train=[p for p in found.train if p.prompt_id in common],
            held_out=[p for p in found.held_out if p.prompt_id in common],
        )
        for name, found in data.items()
    }


def _measured(run: Run) -> list[Cell]:
    """What an interrupted study has already; a last line that was cut off is measured again."""
    cells = read_cells(run.path)
    write_text(run.path / CELLS, "".join(json.dumps(asdict(cell)) + "\n" for cell in cells))
    return cells


def _sizes(prompts: int, wanted: list[int] | None) -> list[int]:
    """Sizes as asked for, all prompts where that is more; else all of them, and by halves down to a sixteenth."""
    if wanted is not None:
        if max(wanted) > prompts:
            say(f"there are {prompts} training prompts: larger numbers of reward_scaling.prompts mean all of them.")
        return sorted({min(size, prompts) for size in wanted})
    return sorted({max(1, prompts >> halvings) for halvings in range(5)})


def _without_scores(data: RewardData, lengths: dict[str, int], config: Config) -> list[ScoredPair]:
    """The held-out judgments as a model that knows nothing sees them. Raises DataError when there are none."""
    heads = len(config.reward.criteria or ())
    nothing = {r: [0.0] * max(1, heads) for prompt in data.held_out for r in prompt.response_ids}
    judged = [j for j in beside_scores(data.held_out, nothing, lengths, config.reward) if j.preference_first != 0.5]
    if not judged:
        raise DataError("there are no held-out judgments to measure reward models on.")
    return judged


def _by_prompt(judged: list[ScoredPair]) -> dict[str, tuple[float, float, float]]:
    """Prompt -> (ranked right, sum of log losses, judgments), ties left out."""
    sums: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0, 0.0])
    decided = [j for j in judged if j.preference_first != 0.5]
    toward = margins(decided)
    for j, right, loss in zip(decided, ranked_right(toward).tolist(), log_losses(toward).tolist(), strict=True):
        row = sums[j.cluster]
        row[:] = row[0] + right, row[1] + loss, row[2] + 1.0
    return {prompt: (right, loss, count) for prompt, (right, loss, count) in sums.items()}


def _weights(scorer: Network) -> int:
    """Weights of the body as it came, without its embeddings: what larger models have more of, whatever their
    vocabulary."""
    embeddings = {id(p) for m in scorer.body.modules() if isinstance(m, nn.Embedding) for p in m.parameters()}
    named = scorer.body.named_parameters()
    return sum(p.numel() for name, p in named if id(p) not in embeddings and ".lora_" not in name)
