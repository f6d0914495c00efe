"""The `sample` stage: a policy's responses to the workspace's prompts, into the store."""

from __future__ import annotations

from collections import Counter

from plaudit.config import Config
from plaudit.errors import DataError
from plaudit.models.loading import load_causal
from plaudit.models.named import named_policy
from plaudit.progress import progress, say
from plaudit.records import Prompt, Response
from plaudit.sampling.in_process import Completion, sample
from plaudit.stages import POLICIES
from plaudit.statistics.enough import alike, unfinished
from plaudit.store.choosing import choose_prompts
from plaudit.store.database import fingerprint
from plaudit.text.prompts import encode_prompts
from plaudit.workspace import Run, Workspace


def sample_responses(
    workspace: Workspace, config: Config | None = None, *, resume: str | None = None, keep: bool = False
) -> Run:
    """Sample `sample.samples_per_prompt` responses of `sample.policy` to the prompts of `sample.split`.

    Of `sample.sources` alone, and `sample.most_prompts` of them, where these are set.

    Each batch is in the store, ids and log-probs included, before the next begins: an interrupted run goes
    on where it stopped. The run's result has the number of responses, their mean length (tokens) and the
    finished rate.

    A prompt that the model cannot take is left out, counted and said.

    Raises DataError without a prompt that it can, ModelError when the policy cannot be loaded.
    """
    if resume is not None:
        with workspace.resume_run(resume, "sample", config) as run:
            return _run(workspace, run, run.config())
    config = config or workspace.config()
    prompts = _prompts(workspace, config)
    if not prompts:
        raise DataError(f"{workspace.path} has no prompts. Add some with `plaudit import FILE --kind prompts`.")
    parents = {"policy": named_policy(workspace, config.sample.policy, setting="sample.policy")}
    data = fingerprint("prompts", (p.id for p in prompts))
    if keep and (known := workspace.find_run("sample", config, parents=parents, data=data)) is not None:
        return known if known.status == "complete" else sample_responses(workspace, resume=known.name)
    with workspace.new_run("sample", config, parents=parents, data=data) as run:
        return _run(workspace, run, config)


def _prompts(workspace: Workspace, config: Config) -> list[Prompt]:
    """Prompts of the split and the sources that are wanted, as many as are asked for; never what was set aside."""
    settings = config.sample
    prompts = workspace.store.prompts(None if settings.split == "all" else settings.split)
    asked = [prompt for prompt in prompts if prompt.split != "aside"]
    return choose_prompts(asked, settings.sources, settings.most_prompts, setting="sample", seed=config.seed)


def _run(workspace: Workspace, run: Run, config: Config) -> Run:
    settings = config.sample
    model = load_causal(workspace.model_source(run.parents["policy"], kind=POLICIES), config.model)
    run.update(vocabulary=model.format.vocabulary_id)
    answered = Counter(response.prompt_id for response in workspace.store.responses(run.name))
    prompts = [p for p in _prompts(workspace, config) if answered[p.id] < settings.samples_per_prompt]
    limit = model.prompt_limit(config.data.max_prompt_tokens, settings.max_new_tokens)
    ids = encode_prompts(model.format, prompts, limit=limit)
    prompts, encoded = [prompt for prompt in prompts if prompt.id in ids], list(ids.values())

    def keep(batch: list[tuple[int, list[Completion]]]) -> None:
        workspace.store.add_responses(
            [
                Response(
                    id=f"{run.name}:{prompts[index].id}:{number}",
                    prompt_id=prompts[index].id,
                    text=model.format.decode_response(completion.token_ids),
                    run=run.name,
                    token_ids=completion.token_ids,
                    log_probs=[round(value, 6) for value in completion.log_probs],
                    finished=completion.finished,
                    temperature=settings.temperature,
                )
                for index, completions in batch
                for number, completion in enumerate(completions)
            ]
        )

    with progress("sampling", len(prompts) * settings.samples_per_prompt) as advance:
        sample(
            model.network,
            encoded,
            stops=model.format.stops,
            max_new_tokens=settings.max_new_tokens,
            seed=config.seed,
            samples_per_prompt=settings.samples_per_prompt,
            temperature=settings.temperature,
            top_p=settings.top_p,
            sequences_per_batch=settings.sequences_per_batch,
            progress=advance,
            on_batch=keep,
        )
    responses = workspace.store.responses(run.name)
    empty = sum(not response.text for response in responses)
    if empty:
        say(f"{empty} of {len(responses)} responses are empty.")
    finished_rate = sum(r.finished for r in responses) / len(responses)
    for warning in [
        *(f"{what}." for what in alike([r.token_ids or [] for r in responses], len({r.prompt_id for r in responses}))),
        *unfinished(finished_rate, settings.max_new_tokens, "sample.max_new_tokens"),
    ]:
        run.warn(warning)
    run.update(
        result={
            "responses": len(responses),
            "prompts": len({response.prompt_id for response in responses}),
            "mean_length": sum(len(r.token_ids or []) for r in responses) / len(responses),
            "finished_rate": finished_rate,
            "empty": empty,
        }
    )
    return run
