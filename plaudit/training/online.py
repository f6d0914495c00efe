"""The online loop: sample, score, price the departure from the reference, learn; again.

The loop alone samples, scores, shapes rewards, makes minibatches, reduces and steps; an algorithm says
what it needs, turns rollouts into advantages, and gives a loss.
"""

from __future__ import annotations

from typing import Any

from plaudit import algorithms
from plaudit.config import Config
from plaudit.errors import ConfigError, DataError, ModelError
from plaudit.models.saving import rehearse_causal, save_causal
from plaudit.objectives import next_kl_coefficient
from plaudit.progress import progress, say
from plaudit.records import Prompt
from plaudit.sampling.episodes import roll_out
from plaudit.statistics.enough import few_steps, weak_reward
from plaudit.store.database import fingerprint
from plaudit.text.batches import draw_without_replacement
from plaudit.text.prompts import fitting
from plaudit.training.rejection import rejection_sampling
from plaudit.training.rl.actors import lineage, load_actors
from plaudit.training.rl.rollouts import Batching, PolicyPasses, charge_kl, figures, measure, score
from plaudit.training.rl.updates import learn
from plaudit.training.rl.watch import Watch
from plaudit.training.steps.optimiser import Optimiser, drop_checkpoint, load_checkpoint, save_checkpoint
from plaudit.training.steps.supervised import encode_texts
from plaudit.workspace import Run, Workspace


def rl(workspace: Workspace, config: Config | None = None, *, resume: str | None = None, keep: bool = False) -> Run:
    """Optimise `rl.policy` for `rl.reward` on the workspace's training prompts by `rl.algorithm`.

    Returns the run; its `model/` is the new policy, its result the reward, KL (nats a response), length
    (tokens) and finished rate of the first and of the last steps. `rejection-then-ppo` makes two runs, the
    second starting from the first, and returns the second.

    Raises DataError without training prompts or for a reward function that gives no number, ModelError when models
    do not fit together, ConfigError for settings that do not, WorkspaceError when a model is missing.
    """
    if resume is not None:
        with workspace.resume_run(resume, "rl", config) as run:
            config = run.config()
            _dispatch(workspace, run, config)
    else:
        config = config or workspace.config()
        prompts = workspace.store.prompts("train")
        if not prompts:
            raise DataError(
                f"{workspace.path} has no training prompts. Add some with `plaudit import FILE --kind prompts`."
            )
        parents, data = lineage(workspace, config), fingerprint("prompts", (p.id for p in prompts))
        weak = _weak_rewards(workspace, parents)
        if weak and not config.rl.anyway:
            raise ConfigError(
                "\n".join(weak) + "\nA policy that is optimised for it learns what it gets wrong. Train a better one "
                "(more judgments, more prompts, more epochs), or continue anyway with --anyway (rl.anyway=true)."
            )
        known = workspace.find_run("rl", config, parents=parents, data=data) if keep else None
        if known is not None and known.status != "complete":
            return rl(workspace, resume=known.name)
        run = known or _begin(workspace, config, parents, data, weak)
    rest = second_part(run, config)
    return run if rest is None else rl(workspace, rest, keep=keep)


def _begin(workspace: Workspace, config: Config, parents: dict[str, str], data: dict[str, Any], weak: list[str]) -> Run:
    with workspace.new_run("rl", config, parents=parents, data=data) as run:
        for warning in weak:
            run.warn(warning)
        return _dispatch(workspace, run, config)


def _check_sampler(gap: float, step: int, most: float) -> None:
    if not gap <= most:
        raise ModelError(
            f"step {step}: the log-probs of the sampled tokens are {gap:.2g} nats a token off those of the policy that "
            f"is trained, and `rl.most_sampler_gap` is {most:g}: what would be learnt is not what was sampled. "
            "Try `model.dtype=float32`; if that is no help, this model cannot be trained by `rl` here."
        )


def _weak_rewards(workspace: Workspace, parents: dict[str, str]) -> list[str]:
    """A sentence for every reason not to optimise for one of the reward or cost runs."""
    names = [name for role, name in parents.items() if role.startswith(("reward", "cost")) and workspace.is_run(name)]
    return [f"{name} {why}." for name in dict.fromkeys(names) for why in weak_reward(workspace.run(name).result)]


def second_part(run: Run, config: Config) -> Config | None:
    """Settings of the PPO that follows a run of rejection sampling; None where nothing follows."""
    then = run.config().rl.needs.then
    if then is None:
        return None
    content = config.model_dump()
    return Config.model_validate({**content, "rl": {**content["rl"], "algorithm": then, "policy": run.name}})


def _dispatch(workspace: Workspace, run: Run, config: Config) -> Run:
    prompts = workspace.store.prompts("train")
    run.check_data(fingerprint("prompts", (p.id for p in prompts)))
    if not config.rl.needs.algorithm:
        return rejection_sampling(workspace, run, config, prompts)
    return _run(workspace, run, config, prompts)


def _run(workspace: Workspace, run: Run, config: Config, prompts: list[Prompt]) -> Run:
    settings = config.rl
    algorithm = algorithms.make(settings)
    actors = load_actors(workspace, run, config, algorithm.needs.critics)
    limit = actors.model.prompt_limit(config.data.max_prompt_tokens, settings.max_new_tokens)
    prompts = fitting(actors.model.format, prompts, limit=limit)
    texts = encode_texts(actors.model, settings.pretraining.text, settings.pretraining.max_tokens)
    batching = Batching(config, settings.group_size, algorithm.needs.whole_groups, actors.policy.device)

    updates_of_a_step = settings.epochs * settings.minibatches
    networks = {"policy": actors.policy} | {name: critic.network for name, critic in actors.critics.items()}
    optimisers = {
        name: Optimiser(
            network,
            settings.optimiser if name == "policy" else settings.value_optimiser,
            settings.steps * updates_of_a_step,
        )
        for name, network in networks.items()
    }
    parts = {name: (network, optimisers[name]) for name, network in networks.items()}
    updates = settings.steps * updates_of_a_step
    remedy = "Raise rl.steps, rl.minibatches or rl.epochs"
    for warning in few_steps(updates, f"{settings.steps} rollout batches", remedy):
        run.warn(warning)
    checkpoint = load_checkpoint(run, parts)
    if checkpoint["step"] == 0:
        rehearse_causal(actors.policy, actors.model, config.model, run.path)
    if "algorithm" in checkpoint:
        algorithm.load_state(checkpoint["algorithm"])
    kl_coefficient = checkpoint.get("kl_coefficient", settings.kl_price)
    passes = PolicyPasses(actors.policy, settings.temperature)

    watch = Watch(run)
    with progress("policy optimisation", settings.steps) as advance:
        advance(checkpoint["step"])
        for step in range(checkpoint["step"], settings.steps):
            drawn = draw_without_replacement(len(prompts), settings.prompts_per_step, step, seed=config.seed)
            episodes = roll_out(
                actors.policy,
                actors.model,
                [prompts[i] for i in drawn],
                prompt_limit=limit,
                samples_per_prompt=settings.group_size,
                max_new_tokens=settings.max_new_tokens,
                temperature=settings.temperature,
                seed=config.seed * 100_003 + step,
                user=actors.user,
                turns=settings.episodes.turns,
            )
            scored = score(actors, episodes, settings)
            measured = measure(
                actors,
                passes,
                episodes,
                scored.mask,
                batching,
                step=step,
                with_reference=algorithm.needs.reference or kl_coefficient > 0,
            )
            sequences = [episode.sequence for episode in episodes]
            rollouts = charge_kl(sequences, scored, measured, settings, kl_coefficient=kl_coefficient)
            metrics = figures(rollouts, scored, measured, episodes)
            _check_sampler(metrics["sampler_gap"], step + 1, settings.most_sampler_gap)
            metrics |= algorithm.observe(rollouts)
            metrics |= actors.unread_ratings()
            advantages = algorithm.advantages(rollouts)
            metrics |= learn(
                actors,
                passes,
                algorithm,
                rollouts,
                advantages,
                batching,
                optimisers,
                texts=texts,
                step=step,
                kl_coefficient=kl_coefficient,
            )
            for optimiser in optimisers.values():
                optimiser.move_schedule_to((step + 1) * updates_of_a_step)  # also after an early stop
            if settings.kl_target is not None:
                metrics["kl_coefficient"] = kl_coefficient
                kl_coefficient = next_kl_coefficient(
                    kl_coefficient,
                    metrics["kl"],
                    target=settings.kl_target,
                    episodes=len(episodes),
                    horizon=settings.kl_horizon,
                )
            run.log(step + 1, **metrics)
            watch.step(step + 1, metrics, [episode.token_ids for episode in episodes], len(drawn))
            say(_live_line(step + 1, metrics, heading=step == checkpoint["step"]))
            if (step + 1) % settings.save_every == 0:
                save_checkpoint(run, step + 1, parts, algorithm=algorithm.state(), kl_coefficient=kl_coefficient)
            advance(1)

    save_causal(actors.policy, actors.model, run.model_folder)
    result = _summary(run.metrics()) | actors.spent()
    if result.get("unread_ratings"):
        say(
            f"{result['unread_ratings']:.0f} ratings could not be read; their answers had the least score of the batch."
        )
    run.update(result=result)
    drop_checkpoint(run)
    return run


COLUMNS = {
    "reward": ("reward", 7, 3), "score": ("score", 7, 3), "kl": ("KL", 6, 2), "entropy": ("entropy", 7, 3),
    "clip_fraction": ("clipped", 7, 3), "length": ("length", 6, 1), "finished_rate": ("finished", 8, 2),
    "value_loss": ("value loss", 10, 3), "cost": ("cost", 6, 3), "multiplier": ("lambda", 6, 3),
}  # fmt: skip
"""Metric -> (heading, width, decimals) of the live line."""


def _live_line(step: int, metrics: dict[str, float], *, heading: bool) -> str:
    """One line a step, without the columns that an algorithm does not have; the first under its heading."""
    columns = [(name, *form) for name, form in COLUMNS.items() if name in metrics]
    line = f"{step:4d}" + "".join(f"  {metrics[name]:{width}.{digits}f}" for name, _, width, digits in columns)
    if not heading:
        return line
    return "step" + "".join(f"  {title:>{width}}" for _, title, width, _ in columns) + "\n" + line


def _summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Means over the first and the last tenth of the steps (at least one)."""
    part = max(1, len(rows) // 10)
    names = [n for n in ("reward", "score", "kl", "length", "finished_rate", "entropy", "cost") if n in rows[0]]
    found: dict[str, Any] = {
        "steps": len(rows),
        "first": {name: sum(r[name] for r in rows[:part]) / part for name in names},
        "last": {name: sum(r[name] for r in rows[-part:]) / part for name in names},
    }
    if "unread_ratings" in rows[0]:
        found["unread_ratings"] = sum(r["unread_ratings"] for r in rows)
    return found
