"""Self-supervised pretraining of a small decoder from plain text: where the pipeline begins.

    loss = mean over tokens of -log p(token | the tokens before it in its document)

A document is a sequence of its own, however many share a batch: nothing attends across documents. One longer than the
context is cut into pieces, each of which is given the last token of the one before; so every token of every document
is predicted exactly once an epoch.
"""

from __future__ import annotations

import json
import math
import random
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

from plaudit.config import Config, PretrainSettings
from plaudit.errors import DataError
from plaudit.models.fresh import fresh_causal
from plaudit.models.loading import LoadedModel, load_tokenizer
from plaudit.models.network import Network, make_trainable
from plaudit.models.saving import rehearse_causal, save_causal
from plaudit.progress import progress, say
from plaudit.records import content_id, unit_interval
from plaudit.sampling.in_process import sample
from plaudit.store.database import fingerprint
from plaudit.text.chat import TokenSequence
from plaudit.text.plain import read_documents
from plaudit.text.vocabulary import train_tokenizer
from plaudit.training.rl.watch import Watch
from plaudit.training.steps.optimiser import Optimiser, drop_checkpoint, load_checkpoint, save_checkpoint
from plaudit.training.steps.supervised import likelihood_step, mean_loss
from plaudit.workspace import Run, Workspace


def pretrain(
    workspace: Workspace, config: Config | None = None, *, resume: str | None = None, keep: bool = False
) -> Run:
    """Train a new Llama of the sizes under `pretrain` on the documents of `pretrain.text`.

    Returns the run; its `model/` is a Hugging Face folder with a tokenizer and a chat template, ready for `sft`; its
    result has `parameters`, `tokens` (of the training documents), `tokens_seen`, `epochs`, `held_out_loss` (nats a
    token), `held_out_bits_per_byte` (which compares across tokenizers) and `text_sha256`. What it writes as it goes is
    in `samples.jsonl`.

    Raises DataError when there is nothing to learn from, ModelError for a tokenizer that cannot be loaded.
    """
    if resume is not None:
        with workspace.resume_run(resume, "pretrain", config) as run:
            return _run(workspace, run, run.config())
    config = config or workspace.config()
    documents = read_documents(config.pretrain.text, setting="pretrain.text")
    data = _data(documents)
    if keep and (known := workspace.find_run("pretrain", config, parents={}, data=data)) is not None:
        return known if known.status == "complete" else pretrain(workspace, resume=known.name)
    with workspace.new_run("pretrain", config, parents={}, data=data) as run:
        return _run(workspace, run, config)


def _run(workspace: Workspace, run: Run, config: Config) -> Run:
    settings = config.pretrain
    documents = read_documents(settings.text, setting="pretrain.text")
    run.check_data(_data(documents))
    held_out_texts = [d for d in documents if unit_interval("pretrain", d) < settings.held_out_share]
    texts = [d for d in documents if unit_interval("pretrain", d) >= settings.held_out_share]
    if not texts:
        raise DataError("`pretrain.held_out_share` leaves no document to train on.")
    model = fresh_causal(_tokenizer(run, settings, texts), settings, config.model, seed=config.seed)
    begin, context = _begin(model), model.context_length
    train = [piece for text in texts for piece in pieces(model, text, begin, context)]
    held_out = [piece for text in held_out_texts for piece in pieces(model, text, begin, context)]
    policy = make_trainable(model.network, None, role="policy", seed=config.seed)
    optimiser = Optimiser(policy, settings.optimiser, settings.steps)
    parts = {"policy": (policy, optimiser)}
    first = load_checkpoint(run, parts)["step"]
    if first == 0:
        rehearse_causal(policy, model, config.model, run.path)
    tokens = sum(len(piece.response_ids) for piece in train)
    parameters = sum(p.numel() for p in policy.trainable_parameters())
    say(f"{parameters / 1e6:.1f} million weights, {tokens / 1e6:.2f} million tokens in {len(texts)} documents")

    seen = 0
    batches = batches_of_tokens([len(p.response_ids) for p in train], settings.tokens_per_step, seed=config.seed)
    with progress("pretraining", settings.steps) as advance:
        advance(first)
        for step, rows in enumerate(islice(batches, settings.steps)):
            batch = [train[i] for i in rows]
            count = sum(len(piece.response_ids) for piece in batch)
            seen += count
            if step < first:
                continue
            rate = optimiser.learning_rate
            loss, norm = likelihood_step(policy, optimiser, batch, budget=config.model.tokens_per_micro_batch)
            metrics: dict[str, Any] = {"loss": loss, "learning_rate": rate, "gradient_norm": norm, "tokens": count}
            if _due(step + 1, settings.evaluate_every, settings.steps) and held_out:
                metrics["held_out_loss"] = mean_loss(policy, held_out, config)
                say(f"step {step + 1}: loss {loss:.3f}, held out {metrics['held_out_loss']:.3f} nats a token")
            run.log(step + 1, **metrics)
            if _due(step + 1, settings.sample_every, settings.steps):
                _show_sample(run, policy, model, begin, settings, step + 1, config.seed)
            if (step + 1) % settings.save_every == 0:
                save_checkpoint(run, step + 1, parts)
            advance(1)

    save_causal(policy, model, run.model_folder)
    held_out_loss = mean_loss(policy, held_out, config)
    watch = Watch(run)
    watch.likelihood(run.metrics()[-1]["loss"], model.vocabulary_size, of="training")
    watch.likelihood(held_out_loss, model.vocabulary_size, of="held-out")
    held_out_bytes = sum(len(text.encode()) for text in held_out_texts)
    nats = None if held_out_loss is None else held_out_loss * sum(len(p.response_ids) for p in held_out)
    run.update(
        result={
            "parameters": parameters,
            "documents": len(texts),
            "held_out_documents": len(held_out_texts),
            "tokens": tokens,
            "tokens_seen": seen,
            "epochs": seen / tokens,
            "held_out_loss": held_out_loss,
            "held_out_bits_per_byte": None if nats is None else nats / math.log(2) / held_out_bytes,
        }
    )
    drop_checkpoint(run)
    return run


def pieces(model: LoadedModel, text: str, begin: int, context: int) -> list[TokenSequence]:
    """A document as sequences of at most `context` tokens, the first token of each given, all others predicted."""
    ids = [begin, *model.format.encode_text(text), _end(model)]
    return [
        TokenSequence(ids[start : start + 1], ids[start + 1 : start + context])
        for start in range(0, len(ids) - 1, context - 1)
    ]


def batches_of_tokens(lengths: Sequence[int], tokens: int, *, seed: int) -> Iterator[list[int]]:
    """Indices of sequences, epoch after epoch in new orders; a batch ends with the one that fills it."""
    batch: list[int] = []
    filled = epoch = 0
    while True:
        order = list(range(len(lengths)))
        random.Random(f"{seed}:pretrain:{epoch}").shuffle(order)
        for index in order:
            batch.append(index)
            filled += lengths[index]
            if filled >= tokens:
                yield batch
                batch, filled = [], 0
        epoch += 1


def _due(step: int, every: int, last: int) -> bool:
    return step == last or (every > 0 and step % every == 0)


def _data(documents: Sequence[str]) -> dict[str, Any]:
    return fingerprint("documents", (content_id(document) for document in documents))


def _tokenizer(run: Run, settings: PretrainSettings, texts: Sequence[str]) -> Any:
    """The given one, or one trained on the training documents; kept with the run, so that it is there to go on."""
    if settings.tokenizer is not None:
        return load_tokenizer(settings.tokenizer, settings.tokenizer)
    folder = run.path / "tokenizer"
    if not (folder / "tokenizer.json").exists():
        train_tokenizer(texts, settings.vocabulary_size).save_pretrained(folder)
    return load_tokenizer(str(folder), "the run's tokenizer")


def _begin(model: LoadedModel) -> int:
    tokenizer = model.format.tokenizer
    return int(tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id)


def _end(model: LoadedModel) -> int:
    return int(model.format.tokenizer.eos_token_id)


def _show_sample(
    run: Run, policy: Network, model: LoadedModel, begin: int, settings: PretrainSettings, step: int, seed: int
) -> None:
    ids = [begin, *model.format.encode_text(settings.sample_prompt)]
    ((drawn,),) = sample(
        policy, [ids], stops=model.format.stops, max_new_tokens=settings.sample_tokens, seed=seed, temperature=0.8
    )
    text = settings.sample_prompt + str(model.format.tokenizer.decode(drawn.token_ids, skip_special_tokens=True))
    with open(run.path / "samples.jsonl", "a", encoding="utf-8") as file:
        file.write(json.dumps({"step": step, "text": text}, ensure_ascii=False) + "\n")
    say(f"step {step} writes: {' '.join(text.split())[:160]}")
