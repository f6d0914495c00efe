"""From a network in memory to a Hugging Face folder that every other tool can load, and a rehearsal of that."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig
from peft.tuners.lora import LoraLayer
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification
from transformers.core_model_loading import revert_weight_conversion

from plaudit.config import ModelSettings
from plaudit.errors import ModelError
from plaudit.files import whole_folder, write_json
from plaudit.models.loading import LoadedModel, load_causal, load_reward, load_tokenizer
from plaudit.models.masters import to_bfloat16
from plaudit.models.network import Network
from plaudit.models.score_facts import ScoreFacts
from plaudit.text import templates
from plaudit.text.batches import collate
from plaudit.text.chat import ChatFormat, TokenSequence

BYTES_OF_A_FILE = 2 << 30
"""Bytes of weights that are merged and held at once, and written to one file."""
REHEARSED_WEIGHTS = 1_000_000_000
"""Up to so many weights a rehearsal writes them and loads them again; beyond, it goes through their names alone."""
ADAPTER = "adapter"
"""The folder beside a run's model that holds its adapter alone."""


def save_causal(network: Network, model: LoadedModel, folder: Path) -> None:
    """Write the policy as a Hugging Face folder, whole or not at all: adapters merged, in the model's own precision,
    or in float32 where all weights were trained. An adapter is written by itself too, as peft's folder `adapter`
    beside it.

    Raises ModelError where the weights do not fit what transformers makes of the config.
    """
    skeleton = _causal_skeleton(model, network)
    generation = skeleton.generation_config
    eos = sorted(model.format.stop_ids)
    generation.eos_token_id = eos[0] if len(eos) == 1 else eos
    generation.pad_token_id = model.format.tokenizer.pad_token_id
    generation.stop_strings = model.format.stop_strings or None
    _save(skeleton, _Plan(network, skeleton, skeleton.get_output_embeddings()), model, folder)


def save_reward(network: Network, model: LoadedModel, folder: Path, facts: ScoreFacts) -> None:
    """Write the reward model as a Hugging Face sequence classifier; as `save_causal`.

    Its config asks for float32, so that no two scores tie by rounding.

    facts   kept in config.json; the weights hold raw scores
    """
    skeleton = _reward_skeleton(model, network, facts)
    _save(skeleton, _Plan(network, skeleton, skeleton.score), model, folder)


def rehearse_causal(network: Network, model: LoadedModel, settings: ModelSettings, beside: Path) -> None:
    """Try before the first step what comes after the last one: save the policy, load it, and compare log-probs.

    beside   a folder on the disk where the model is going to be

    Raises ModelError where that cannot end well.
    """
    skeleton = _causal_skeleton(model, network)
    plan = _Plan(network, skeleton, skeleton.get_output_embeddings())
    with _rehearsal(plan, model, beside) as folder:
        if folder is not None:
            save_causal(network, model, folder)
            again = load_causal(str(folder), settings).network
            _compare(lambda n: n.log_probs(_probe(n))[0], network, again, model)


def rehearse_reward(
    network: Network, model: LoadedModel, settings: ModelSettings, facts: ScoreFacts, beside: Path
) -> None:
    """Rehearse as `rehearse_causal` does, with scores.

    facts   whose heads count
    """
    skeleton = _reward_skeleton(model, network, facts)
    plan = _Plan(network, skeleton, skeleton.score)
    with _rehearsal(plan, model, beside) as folder:
        if folder is not None:
            save_reward(network, model, folder, facts)
            again = load_reward(str(folder), settings).network
            _compare(lambda n: n.scores(_probe(n)), network, again, model)


def complete_export(folder: Path, settings: ModelSettings) -> None:
    """What a model saved by an earlier version lacks, so that other tools prompt and read it as it was trained: the
    system prompt in its chat template, stop strings, and of a reward model a template that ends where it is read.

    settings   those that it was trained with

    Leaves a model of this version as it is.
    """
    tokenizer = load_tokenizer(str(folder), str(folder))
    form = ChatFormat(tokenizer, system_prompt=settings.system_prompt, date=settings.date)
    template = form.saved_template
    facts = ScoreFacts.of(AutoConfig.from_pretrained(folder))
    if facts.read_at == "end" and form.frame.after and isinstance(template, str):
        template = templates.without_ending(template, form.frame.after)
    tokenizer.chat_template = template
    tokenizer.save_pretrained(folder)
    file = folder / "generation_config.json"
    if settings.stop_strings and file.exists():
        generation = json.loads(file.read_text(encoding="utf-8"))
        write_json(file, {**generation, "stop_strings": settings.stop_strings})


def _causal_skeleton(model: LoadedModel, network: Network) -> Any:
    """What transformers makes of the config, without weights."""
    with torch.device("meta"):
        skeleton = AutoModelForCausalLM.from_config(model.config, dtype=_dtype(network))
    skeleton.config.dtype = str(_dtype(network)).removeprefix("torch.")
    return skeleton


def _reward_skeleton(model: LoadedModel, network: Network, facts: ScoreFacts) -> Any:
    config = type(model.config).from_dict({**model.config.to_dict(), "num_labels": facts.count, **facts.keep()})
    if facts.heads:
        config.id2label = dict(enumerate(facts.heads))
        config.label2id = {name: i for i, name in enumerate(facts.heads)}
    config.pad_token_id = model.format.tokenizer.pad_token_id
    try:
        with torch.device("meta"):
            skeleton = AutoModelForSequenceClassification.from_config(config, dtype=_dtype(network))
    except ValueError:  # a family that it does not know
        skeleton = None
    if not isinstance(getattr(skeleton, "score", None), nn.Linear):
        raise ModelError(
            f"transformers has no sequence classifier with a `score` head for {config.model_type} models, so a reward "
            "model of this family could not be saved. Start from another family (`reward.model`)."
        )
    skeleton.config.dtype = "float32"
    return skeleton


def _dtype(network: Network) -> torch.dtype:
    """Precision in which weights are saved."""
    return torch.float32 if network.masters is not None else network.dtype


class _Plan:
    """From which of a network's tensors each weight of a skeleton comes; what is merged is merged when it is asked for.

    names   of the skeleton's weights, those that are tied to another one left out

    Raises ModelError where a weight has no source of its shape.
    """

    def __init__(self, network: Network, skeleton: Any, head: nn.Module):
        self.network, self.skeleton = network, skeleton
        places = {id(module): name for name, module in skeleton.named_modules()}
        self.body, self.head = (places[id(module)] for module in (skeleton.base_model, head))
        self._sources: dict[str, Any] = {}
        self._adapters: dict[str, LoraLayer] = {}
        for name, value in network.body.state_dict(keep_vars=True).items():
            if ".lora_" not in name:
                self._sources[_joined(self.body, name.replace(".base_layer.", "."))] = value
        for name, value in network.head.state_dict(keep_vars=True).items():
            self._sources[_joined(self.head, name)] = value
        if network.adapter is not None:
            for name, module in network.body.named_modules():
                if isinstance(module, LoraLayer) and network.adapter in module.lora_A:
                    self._adapters[_joined(self.body, f"{name}.weight")] = module
        self.names, self.bytes, self.weights = self._needed()

    def _needed(self) -> tuple[list[str], int, int]:
        """(names, bytes, numbers) of what is written."""
        family = self.skeleton.config.model_type
        names, seen, size, count = [], set(), 0, 0
        ignored = set(self.skeleton._keys_to_ignore_on_save or ())
        for name, value in self.skeleton.state_dict(keep_vars=True).items():
            if id(value) in seen or name in ignored:
                continue
            seen.add(id(value))
            source = self._sources.get(name)
            if source is None or source.shape != value.shape:
                found = "nothing" if source is None else f"one of {list(source.shape)}"
                raise ModelError(
                    f"{family} models cannot be saved: the weight {name} of {list(value.shape)} has {found} "
                    "that fits it."
                )
            names.append(name)
            size += value.numel() * value.element_size()
            count += value.numel()
        missing = self._adapters.keys() - set(names)
        if missing:
            raise ModelError(
                f"{family} models cannot be saved with adapters: {min(missing)} has one, and is "
                "no weight of the saved model. Set `model.lora.targets=attention`, or `model.lora=null`."
            )
        return names, size, count

    def value(self, name: str) -> Tensor:
        """The weight as it is written, on the CPU."""
        source = self._sources[name]
        if self.network.masters is not None:
            return self.network.masters.of(source).detach().float().cpu()
        adapter = self._adapters.get(name)
        if adapter is None:
            return source.detach().cpu()
        change = adapter.get_delta_weight(self.network.adapter).detach()
        merged = source.detach().float() + change.float()
        return (to_bfloat16(merged) if source.dtype == torch.bfloat16 else merged.to(source.dtype)).cpu()

    def groups(self) -> Iterator[list[str]]:
        """Names of a file's weights; those of a layer stay together, as some families hold several as one."""
        group: list[str] = []
        size = 0
        layer = ""
        for name in self.names:
            new = _layer_of(name)
            if group and new != layer and size >= BYTES_OF_A_FILE:
                yield group
                group, size = [], 0
            layer = new
            group.append(name)
            size += self._sources[name].numel() * self._sources[name].element_size()
        if group:
            yield group

    def write(self, folder: Path) -> None:
        """One file, or several with their index."""
        groups = list(self.groups())
        total = 0
        where: dict[str, str] = {}
        for number, group in enumerate(groups, start=1):
            file = "model.safetensors" if len(groups) == 1 else f"model-{number:05}-of-{len(groups):05}.safetensors"
            weights = revert_weight_conversion(self.skeleton, {name: self.value(name) for name in group})
            whole = {name: value.contiguous() for name, value in weights.items()}
            save_file(_apart(whole), folder / file, metadata={"format": "pt"})
            (folder / file).chmod(0o644)
            total += sum(value.numel() * value.element_size() for value in whole.values())
            where |= dict.fromkeys(whole, file)
        if len(groups) > 1:
            index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(where.items()))}
            (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")

    def write_adapter(self, folder: Path) -> None:
        """The adapter's settings as peft reads them, for the model that was started from."""
        adapter = self.network.adapter
        assert adapter is not None
        weights, modules = {}, []
        for name, layer in self._adapters.items():
            module = name.removesuffix(".weight")
            modules.append(module)
            for half in ("lora_A", "lora_B"):
                weights[f"base_model.model.{module}.{half}.weight"] = (
                    getattr(layer, half)[adapter].weight.detach().cpu()
                )
        first = next(iter(self._adapters.values()))
        scores = hasattr(self.skeleton, "score")
        if scores:
            heads = [name for name in self.names if name.startswith(f"{self.head}.")]
            weights |= {f"base_model.model.{name}": self.value(name).contiguous() for name in heads}
        settings = LoraConfig(
            r=first.r[adapter], lora_alpha=first.lora_alpha[adapter], target_modules=sorted(modules), lora_dropout=0.0,
            fan_in_fan_out=bool(getattr(first, "fan_in_fan_out", False)), inference_mode=True,
            task_type="SEQ_CLS" if scores else "CAUSAL_LM", modules_to_save=[self.head] if scores else None,
        )  # fmt: skip
        with whole_folder(folder) as partial:
            settings.save_pretrained(str(partial))
            save_file(
                {name: value.contiguous() for name, value in weights.items()}, partial / "adapter_model.safetensors"
            )
            (partial / "adapter_model.safetensors").chmod(0o644)


def _joined(place: str, name: str) -> str:
    return f"{place}.{name}" if place else name


def _layer_of(name: str) -> str:
    """What stands before the first number in it, and that number."""
    parts = name.split(".")
    numbers = [i for i, part in enumerate(parts) if part.isdigit()]
    return ".".join(parts[: numbers[0] + 1]) if numbers else parts[0]


def _apart(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Without two of them in one memory, which a safetensors file cannot hold."""
    seen: set[int] = set()
    apart = {}
    for name, value in weights.items():
        apart[name] = value.clone() if value.data_ptr() in seen else value
        seen.add(value.data_ptr())
    return apart


def _save(skeleton: Any, plan: _Plan, model: LoadedModel, folder: Path) -> None:
    skeleton.config.architectures = [type(skeleton).__name__]
    with whole_folder(folder) as partial:
        skeleton.config.save_pretrained(partial)
        if skeleton.can_generate():
            skeleton.generation_config.save_pretrained(partial)
        plan.write(partial)
        tokenizer = copy.copy(model.format.tokenizer)
        tokenizer.chat_template = model.format.saved_template
        tokenizer.save_pretrained(partial)
        config = json.loads((partial / "config.json").read_text(encoding="utf-8"))
        config.pop("_name_or_path", None)  # a path of this machine
        (partial / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    if plan.network.adapter is not None:
        plan.write_adapter(folder.parent / ADAPTER)


@contextmanager
def _rehearsal(plan: _Plan, model: LoadedModel, beside: Path) -> Iterator[Path | None]:
    """A folder to save to; None where names alone are tried. What goes wrong in it is one message."""
    free = shutil.disk_usage(beside).free
    if plan.bytes > free:
        raise ModelError(
            f"the model takes {plan.bytes / 1e9:.1f} GB when it is saved, and the disk of {beside} has "
            f"{free / 1e9:.1f} GB left. Make room first."
        )
    if plan.weights > REHEARSED_WEIGHTS:
        yield None
        return
    folder = beside / "rehearsal"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    try:
        yield folder / "model"
    except ModelError as error:
        raise ModelError(f"{model.source} could not be saved after training and loaded again: {error}") from None
    except (KeyError, RuntimeError, ValueError, AttributeError, TypeError) as error:
        raise ModelError(
            f"{model.source} ({plan.skeleton.config.model_type}) could not be saved after training and loaded again: "
            f"{type(error).__name__}: {str(error)[:200]}\\nThis was tried before the first step; nothing is lost."
        ) from None
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _probe(network: Network) -> Any:
    return collate([TokenSequence([11, 4], [5, 9]), TokenSequence([17, 7, 3], [8])], device=network.device)


@torch.no_grad()
def _compare(measure: Any, network: Network, again: Network, model: LoadedModel) -> None:
    """Raise ModelError unless two networks give the same, within what precision allows."""
    ours, theirs = measure(network).float(), measure(again).float()
    gap = float((ours - theirs).abs().mean())
    if not gap <= (1e-3 if network.dtype == torch.float32 else 0.05) * max(1.0, float(ours.abs().mean())):
        raise ModelError(f"what was loaded differs by {gap:.3g} from what was saved ({model.config.model_type}).")
