"""Reward models from comparisons, all comparisons of a prompt in one batch element.

    loss = mean over prompts of [ mean over the prompt's judgments of -log sigmoid(score_preferred - score_other) ]

Ouyang et al. 2022 (arXiv:2203.02155) section 3.5: K forward passes serve all C(K, 2) pairs; shuffled into a
flat list of pairs each answer would appear in K - 1 updates, and the model over-fits within an epoch.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from plaudit.config import Config
from plaudit.errors import DataError
from plaudit.evaluation.reward_quality import Judged, reward_quality
from plaudit.models.loading import LoadedModel, load_causal, reward_from_causal, save_reward
from plaudit.models.network import Network, make_trainable
from plaudit.objectives import bradley_terry
from plaudit.progress import progress, say
from plaudit.records import Comparison, Prompt, Response, unit_interval
from plaudit.store.database import snapshot
from plaudit.text.batches import by_token_budget, collate, micro_batches, shuffled_batches
from plaudit.text.chat import TokenSequence
from plaudit.training.step import Optimiser, drop_checkpoint, load_checkpoint, save_checkpoint
from plaudit.workspace import Run, Workspace

SOURCE = "comparisons_"
"""In a run's parents, the roles of the judge runs and imports that its comparisons come from."""
NORMALISING_RESPONSES = 256
"""Training responses whose scores set the stored mean and standard deviation, as in Ziegler et al. 2019."""


@dataclass(frozen=True)
class JudgedPrompt:
    """A prompt's responses as tokens, and every judgment between two of them.

    judgments   (index of the first, index of the second, 1 if the first was preferred, 0.5 for a tie, else 0)
    """

    prompt_id: str
    response_ids: list[str]
    sequences: list[TokenSequence]
    judgments: list[tuple[int, int, float]]
    comparisons: list[Comparison]

    @property
    def longest(self) -> int:
        """Tokens of the longest sequence."""
        return max(len(sequence) for sequence in self.sequences)


def reward(workspace: Workspace, config: Config | None = None, *, resume: str | None = None) -> Run:
    """Train a reward model on the comparisons of `reward.comparisons` whose prompt is in the training split.

    Returns the run; its `model/` is a Hugging Face sequence classifier, its result the quality on held-out
    prompts: `accuracy` with interval, `log_loss`, `calibration_error`, `temperature`, `ceiling`, and the
    accuracy of always preferring the longer answer.

    Raises DataError when there are no comparisons to learn from.
    """
    if resume is not None:
        with workspace.resume_run(resume, "reward") as run:
            return _run(workspace, run, run.config())
    config = config or workspace.config()
    comparisons = workspace.store.comparisons()
    if config.reward.comparisons is not None:
        wanted = {workspace.lineage_name(name) for name in config.reward.comparisons}
        unknown = sorted(wanted - {c.run for c in comparisons})
        if unknown:
            known = ", ".join(sorted({c.run for c in comparisons})) or "none yet"
            raise DataError(f"`reward.comparisons`: no comparisons of {', '.join(unknown)} in the store ({known}).")
        comparisons = [c for c in comparisons if c.run in wanted]
    if not comparisons:
        raise DataError(
            f"{workspace.path} has no comparisons to learn from. Make some with `plaudit judge`, "
            "or add your own with `plaudit import FILE --kind comparisons`."
        )
    parents = {"model": workspace.lineage_name(config.reward.model)}
    parents |= {f"{SOURCE}{i}": name for i, name in enumerate(sorted({c.run for c in comparisons}))}
    data = snapshot("comparisons", (c.id for c in comparisons))
    with workspace.new_run("reward", config, parents=parents, data=data) as run:
        return _run(workspace, run, config)


def _run(workspace: Workspace, run: Run, config: Config) -> Run:
    settings = config.reward
    causal = load_causal(workspace.model_source(run.parents["model"]), config.model)
    start = reward_from_causal(causal, seed=config.seed, head_scale=settings.head_scale)
    prompts = {prompt.id: prompt for prompt in workspace.store.prompts()}
    sources = {name for role, name in run.parents.items() if role.startswith(SOURCE)}
    comparisons = [c for c in workspace.store.comparisons() if c.run in sources]
    train, held_out = _judged_prompts(workspace, start, prompts, comparisons, config)
    if not train:
        raise DataError("there are no comparisons on training prompts; all prompts are in the held-out split.")
    scorer = make_trainable(start.network, config.model.lora, role="reward", seed=config.seed, train_head=True)
    steps_per_epoch = math.ceil(len(train) / settings.batch_size)
    total = steps_per_epoch * settings.epochs
    optimiser = Optimiser(scorer, settings.optimiser, total)
    parts = {"reward": (scorer, optimiser)}
    first = load_checkpoint(run, parts)["step"]

    with progress("reward model", total) as advance:
        advance(first)
        for step in range(first, total):
            epoch, place = divmod(step, steps_per_epoch)
            rows = shuffled_batches(len(train), settings.batch_size, seed=f"{config.seed}:reward:{epoch}")[place]
            batch = [train[i] for i in rows]
            rate, loss, right, judged = optimiser.learning_rate, 0.0, 0.0, 0
            for group in _prompt_groups(batch, config.model.tokens_per_micro_batch):
                scores = _score_together(scorer, group)
                part, correct, count = _prompt_losses(scores, group)
                (part / len(batch)).backward()  # the one denominator: prompts in this step
                loss, right, judged = loss + part.item() / len(batch), right + correct, judged + count
            norm = optimiser.step()
            run.log(
                step + 1, loss=loss, accuracy=right / judged if judged else None, learning_rate=rate, gradient_norm=norm
            )
            if (step + 1) % settings.save_every == 0:
                save_checkpoint(run, step + 1, parts)
            advance(1)

    mean, std = _score_statistics(scorer, train, config)
    save_reward(scorer, start, run.model_folder, mean=mean, std=std)
    annotators = {a.name: a.kind for a in workspace.store.annotators()}
    lengths = {r.id: len(r.text.split()) for r in workspace.store.responses()}
    judged_pairs = _judge_held_out(scorer, held_out, lengths, config)
    quality = reward_quality(judged_pairs, seed=config.seed) if judged_pairs else {}
    used = [c.annotator for prompt in train for c in prompt.comparisons]
    run.update(
        result={
            **quality,
            "train_prompts": len(train),
            "train_judgments": len(used),
            "train_judgments_by_people": sum(annotators.get(name) == "person" for name in used),
            "held_out_prompts": len(held_out),
            "score_mean": mean,
            "score_std": std,
        }
    )
    drop_checkpoint(run)
    return run


def _judged_prompts(
    workspace: Workspace,
    model: LoadedModel,
    prompts: dict[str, Prompt],
    comparisons: Sequence[Comparison],
    config: Config,
) -> tuple[list[JudgedPrompt], list[JudgedPrompt]]:
    """(training, held-out) prompts with their responses and judgments; too long ones are counted and said."""
    by_prompt: dict[str, list[Comparison]] = defaultdict(list)
    for comparison in comparisons:
        by_prompt[comparison.prompt_id].append(comparison)
    responses = {response.id: response for response in workspace.store.responses()}
    same_ids = {
        run.name for run in workspace.runs("sample") if run.info.get("vocabulary") == model.format.vocabulary_id
    }
    limit = model.prompt_limit(config.data.max_prompt_tokens, 1)
    found: dict[str, list[JudgedPrompt]] = {"train": [], "held_out": []}
    dropped = 0
    for prompt_id, judged in sorted(by_prompt.items()):
        prompt_ids = model.format.encode_prompt(prompts[prompt_id].messages, limit=limit)
        wanted = sorted({side for c in judged for side in (c.first, c.second)})
        encoded = {r: TokenSequence(prompt_ids, _response_ids(model, responses[r], same_ids)) for r in wanted}
        kept = [r for r in wanted if _fits(encoded[r], model, config)]
        usable = [c for c in judged if c.first in kept and c.second in kept]
        dropped += len(judged) - len(usable)
        if usable:
            place = {r: i for i, r in enumerate(kept)}
            judgments = [(place[c.first], place[c.second], c.preference_first) for c in usable]
            item = JudgedPrompt(prompt_id, kept, [encoded[r] for r in kept], judgments, usable)
            found[prompts[prompt_id].split].append(item)
    if dropped:
        say(f"{dropped} comparisons have a response over {config.reward.max_response_tokens} tokens: left out.")
    return found["train"], found["held_out"]


def _response_ids(model: LoadedModel, response: Response, same_ids: set[str]) -> list[int]:
    """The ids as sampled where this tokenizer sampled them; else the text, encoded, with its end token."""
    if response.token_ids is not None and response.run in same_ids:
        return response.token_ids
    ids = model.format.encode_response(response.text)
    return ids if response.finished else ids[:-1] or ids


def _fits(sequence: TokenSequence, model: LoadedModel, config: Config) -> bool:
    within = len(sequence.response_ids) <= config.reward.max_response_tokens
    return within and len(sequence) <= model.context_length


def _prompt_groups(batch: Sequence[JudgedPrompt], budget: int) -> list[list[JudgedPrompt]]:
    """Groups of whole prompts, since a judgment needs both of its responses in one graph."""
    sizes = [max(len(p.sequences) for p in batch) * p.longest for p in batch]
    return [[batch[i] for i in group] for group in by_token_budget(sizes, budget)]


def _score_together(scorer: Network, group: Sequence[JudgedPrompt]) -> Tensor:
    return scorer.scores(collate([s for prompt in group for s in prompt.sequences], device=scorer.device))


def _prompt_losses(scores: Tensor, group: Sequence[JudgedPrompt]) -> tuple[Tensor, float, int]:
    """(sum over prompts of the mean loss of their judgments, how many were ranked right, how many are no ties)."""
    total, right, count, start = scores.new_zeros(()), 0.0, 0, 0
    for prompt in group:
        own = scores[start : start + len(prompt.sequences)]
        start += len(prompt.sequences)
        first, second, preference = zip(*prompt.judgments, strict=True)
        labels = torch.tensor(preference, device=scores.device)
        difference = own[list(first)] - own[list(second)]
        total = total + bradley_terry(own[list(first)], own[list(second)], labels).mean()
        decided = labels != 0.5  # a tie has no right side
        right += float((((difference > 0) == (labels > 0.5)) & decided).sum())
        count += int(decided.sum())
    return total, right, count


@torch.no_grad()
def _score_statistics(scorer: Network, train: Sequence[JudgedPrompt], config: Config) -> tuple[float, float]:
    chosen = [
        (unit_interval("normalise", r), s) for p in train for r, s in zip(p.response_ids, p.sequences, strict=True)
    ]
    sequences = [sequence for _, sequence in sorted(chosen, key=lambda pair: pair[0])[:NORMALISING_RESPONSES]]
    scores = torch.cat(
        [scorer.scores(b) for _, b in micro_batches(sequences, config.model.tokens_per_micro_batch, scorer.device)]
    )
    return float(scores.mean()), max(float(scores.std(correction=0)), 1e-6)


@torch.no_grad()
def _judge_held_out(
    scorer: Network, held_out: Sequence[JudgedPrompt], lengths: dict[str, int], config: Config
) -> list[Judged]:
    """Every held-out judgment beside the scores of the two responses."""
    scores: dict[str, float] = {}
    with progress("held-out scores", len(held_out)) as advance:
        for group in _prompt_groups(held_out, config.model.tokens_per_micro_batch) if held_out else []:
            values = _score_together(scorer, group).tolist()
            scores |= dict(zip((r for prompt in group for r in prompt.response_ids), values, strict=True))
            advance(len(group))
    return [
        Judged(
            cluster=prompt.prompt_id,
            annotator=c.annotator,
            pair=tuple(sorted((c.first, c.second))),
            difference=scores[c.first] - scores[c.second],
            preference_first=c.preference_first,
            probability_first=c.probability_first,
            longer_first=lengths[c.first] - lengths[c.second],
        )
        for prompt in held_out
        for c in prompt.comparisons
    ]
