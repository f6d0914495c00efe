"""Supervised fine-tuning: maximise the likelihood of people's answers.

    loss = - sum over answer tokens of log pi(token) / number of answer tokens in the batch

The prompt carries no loss; the token that ends the answer does, or the model would never learn to stop.
"""

from __future__ import annotations

import math

from plaudit.config import Config
from plaudit.errors import DataError
from plaudit.models.loading import load_causal
from plaudit.models.named import named_policy
from plaudit.models.network import make_trainable
from plaudit.models.saving import rehearse_causal, save_causal
from plaudit.progress import progress
from plaudit.records import Demonstration, Split
from plaudit.stages import POLICIES
from plaudit.statistics.enough import few_steps, smaller_batches
from plaudit.store.database import fingerprint
from plaudit.text.batches import shuffled_batches
from plaudit.training.rl.watch import Watch
from plaudit.training.steps.optimiser import Optimiser, drop_checkpoint, load_checkpoint, save_checkpoint
from plaudit.training.steps.supervised import encode_demonstrations, likelihood_step, mean_loss
from plaudit.workspace import Run, Sources, Workspace

GIVEN = "given"
"""A source: whatever no run has made."""


def sft(workspace: Workspace, config: Config | None = None, *, resume: str | None = None, keep: bool = False) -> Run:
    """Fine-tune `model.name` on the workspace's training demonstrations.

    Returns the run; its `model/` is the new policy, its result has `train_loss`, `held_out_loss_before` and
    `held_out_loss_after` in nats a token.

    Raises DataError when there is nothing to learn from, ModelError when the model cannot be loaded.
    """
    if resume is not None:
        with workspace.resume_run(resume, "sft", config) as run:
            return _run(workspace, run, run.config())
    config = config or workspace.config()
    demonstrations = _demonstrations(workspace, config)
    if not any(d.prompt.split == "train" for d in demonstrations):
        of = "" if config.sft.sources == [GIVEN] else f" of {', '.join(config.sft.sources)}"
        raise DataError(
            f"{workspace.path} has no demonstrations{of} on training prompts to learn from.\n"
            "Add some with `plaudit import FILE --kind demonstrations`."
        )
    data = fingerprint("demonstrations", (d.id for d in demonstrations))
    parents = {"model": named_policy(workspace, config.model.name, setting="model.name")}
    made = [
        workspace.lineage_name(source, setting="sft.sources")
        for source in config.sft.sources
        if workspace.is_run(source)
    ]
    sources = Sources(demonstrations=tuple(sorted(set(made))))
    if keep and (known := workspace.find_run("sft", config, parents=parents, sources=sources, data=data)) is not None:
        return known if known.status == "complete" else sft(workspace, resume=known.name)
    with workspace.new_run("sft", config, parents=parents, sources=sources, data=data) as run:
        return _run(workspace, run, config)


def _demonstrations(workspace: Workspace, config: Config, split: Split | None = None) -> list[Demonstration]:
    """Demonstrations of the sources that are wanted."""
    sources = {workspace.lineage_name(source) for source in config.sft.sources}
    return [
        d for d in workspace.store.demonstrations(split)
        if d.source in sources or (GIVEN in sources and not workspace.is_run(d.source))
    ]  # fmt: skip


def _run(workspace: Workspace, run: Run, config: Config) -> Run:
    settings = config.sft
    run.check_data(fingerprint("demonstrations", (d.id for d in _demonstrations(workspace, config))))
    model = load_causal(workspace.model_source(run.parents["model"], kind=POLICIES), config.model)
    train = encode_demonstrations(model, _demonstrations(workspace, config, "train"), config)
    held_out = encode_demonstrations(model, _demonstrations(workspace, config, "held_out"), config)
    if not train:
        raise DataError("every training demonstration is over `sft.max_response_tokens`; raise it.")
    policy = make_trainable(model.network, config.model.lora, role="policy", seed=config.seed)
    steps_per_epoch = math.ceil(len(train) / settings.batch_size)
    total = steps_per_epoch * settings.epochs
    for warning in few_steps(total, f"{len(train)} demonstrations", smaller_batches("sft", settings.batch_size)):
        run.warn(warning)
    optimiser = Optimiser(policy, settings.optimiser, total)
    parts = {"policy": (policy, optimiser)}
    checkpoint = load_checkpoint(run, parts)
    first = checkpoint["step"]
    if first == 0:
        rehearse_causal(policy, model, config.model, run.path)
    before = checkpoint.get("held_out_before", mean_loss(policy, held_out, config) if first == 0 else None)

    watch = Watch(run)
    losses = [row["loss"] for row in run.metrics()]
    with progress("fine-tuning", total) as advance:
        advance(first)
        for step in range(first, total):
            epoch, place = divmod(step, steps_per_epoch)
            rows = shuffled_batches(len(train), settings.batch_size, seed=f"{config.seed}:sft:{epoch}")[place]
            batch = [train[i] for i in rows]
            rate = optimiser.learning_rate
            loss, norm = likelihood_step(policy, optimiser, batch, budget=config.model.tokens_per_micro_batch)
            losses.append(loss)
            tokens = sum(len(sequence.response_ids) for sequence in batch)
            run.log(step + 1, loss=loss, learning_rate=rate, gradient_norm=norm, tokens=tokens)
            watch.likelihood(loss, model.vocabulary_size, of="training", step=step + 1)
            if (step + 1) % settings.save_every == 0:
                save_checkpoint(run, step + 1, parts, held_out_before=before)
            advance(1)

    after = mean_loss(policy, held_out, config)
    save_causal(policy, model, run.model_folder)
    last_epoch = losses[-steps_per_epoch:]
    watch.likelihood(sum(last_epoch) / len(last_epoch), model.vocabulary_size, of="training")
    watch.likelihood(after, model.vocabulary_size, of="held-out")
    run.update(
        result={
            "demonstrations": len(train),
            "held_out_demonstrations": len(held_out),
            "train_loss": sum(last_epoch) / len(last_epoch),
            "held_out_loss_before": before,
            "held_out_loss_after": after,
        }
    )
    drop_checkpoint(run)
    return run
