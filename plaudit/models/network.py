"""One role of a model: a transformer body, with one adapter switched on or none, and a head.

Policy and reference share a body, as do value and reward model: under LoRA a role is an adapter of the
shared frozen body, and the frozen role is the same body with the adapter off. Without LoRA the trained
role is a copy, computed with in the same precision, with float32 masters.

B sequences of a batch, M response tokens altogether, T of the longest response; D hidden width.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners import lora as peft_lora
from peft.tuners.lora import LoraLayer
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from plaudit.config import LoraSettings
from plaudit.errors import ModelError
from plaudit.models import attention
from plaudit.models.log_probs import chunked_log_probs, scaled_logits
from plaudit.models.masters import Masters
from plaudit.progress import say
from plaudit.text.batches import TokenBatch, collate
from plaudit.text.chat import TokenSequence


@dataclass(frozen=True)
class Network:
    """A body, its head and the adapter that makes it this role.

    body      a transformers base model: token ids -> hidden states
    head      hidden states -> logits (policy, reference) or one number (reward, value)
    adapter   the name of this role's adapter in the body; None for the body as it is
    masters   of the weights that are trained but held in less than float32
    softcap   bound of the logits, cap * tanh(logits / cap), for the families that have one
    vocabulary  how many ids the tokenizer has, where the output layer has more: no others are ever sampled
    packs     whether the body takes packed batches, as `takes_packed_batches` found
    """

    body: nn.Module
    head: nn.Module
    adapter: str | None = None
    masters: Masters | None = None
    softcap: float | None = None
    vocabulary: int | None = None
    packs: bool = False

    @property
    def device(self) -> torch.device:
        """Where the body is."""
        return next(self.body.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """Precision in which the body computes."""
        return next(self.body.parameters()).dtype

    def trainable_parameters(self) -> list[nn.Parameter]:
        """What an optimiser is to change, float32 all of it, in a fixed order; `publish` then makes it count."""
        with self.active():
            parameters = [*self.body.parameters(), *self.head.parameters()]
            trained = list({id(p): p for p in parameters if p.requires_grad}.values())
        return trained if self.masters is None else [self.masters.of(p) for p in trained]

    def gradient_of(self, parameter: nn.Parameter) -> Tensor | None:
        """Gradient of one of these, as backward passes since the last step have summed it up; bfloat16 where one has
        been."""
        return parameter.grad if self.masters is None else self.masters.gradient_of(parameter)

    def publish(self) -> None:
        """Compute with the trained weights as they are now; to be called when they have changed.

        A step of `plaudit.cpu.adam` has done so itself.
        """
        if self.masters is not None:
            self.masters.publish()

    @contextmanager
    def active(self) -> Iterator[None]:
        """Switch this role's adapter on, or all adapters off."""
        for module in self.body.modules():
            if isinstance(module, BaseTunerLayer):
                module.enable_adapters(self.adapter is not None)
                if self.adapter is not None:
                    module.set_adapter([self.adapter])
        yield

    def states(self, batch: TokenBatch) -> Tensor:
        """[M, D] the states that predict each response token, sequence by sequence."""
        return self._states_at(batch, *batch.predicting_positions)

    def _states_at(self, batch: TokenBatch, sequences: Tensor, positions: Tensor) -> Tensor:
        """[n, D] last states at these positions of these sequences."""
        with self.active():
            if not self.packs:
                hidden = self.body(input_ids=batch.padded_ids, use_cache=False).last_hidden_state  # [B, L, D]
                return hidden[sequences, positions]
            hidden = self.body(
                input_ids=batch.token_ids[None],
                position_ids=batch.positions[None],
                layout=attention.PackedRows(batch.rows),
                use_cache=False,
            ).last_hidden_state[0]  # [N, D]
            return hidden[batch.places[sequences, positions]]

    def log_probs(
        self, batch: TokenBatch, *, temperature: float = 1.0, with_entropy: bool = False
    ) -> tuple[Tensor, Tensor | None]:
        """([B, T] log-probs of the response tokens, [B, T] entropies or None), nats, zero on padding."""
        return self.log_probs_of(self.states(batch), batch, temperature=temperature, with_entropy=with_entropy)

    def log_probs_of(
        self, states: Tensor, batch: TokenBatch, *, temperature: float = 1.0, with_entropy: bool = False
    ) -> tuple[Tensor, Tensor | None]:
        """Log-probs as by `log_probs`, from [M, D] states."""
        log_probs, entropies = chunked_log_probs(
            states,
            batch.response_ids,
            self.head,
            temperature=temperature,
            softcap=self.softcap,
            vocabulary=self.vocabulary,
            with_entropy=with_entropy,
        )
        return batch.to_grid(log_probs), None if entropies is None else batch.to_grid(entropies)

    def logits(self, batch: TokenBatch) -> Tensor:
        """[M, V] float32 logits that predict the response tokens; for a few tokens, they are all held at once."""
        return scaled_logits(self.states(batch), self.head, 1.0, self.softcap)[:, : self.vocabulary]

    def values_of(self, states: Tensor, batch: TokenBatch) -> Tensor:
        """[M, D] states -> [B, T] one number per response token, read before the token is emitted; zero on padding.

        float32.
        """
        return batch.to_grid(self.head(states.float()).squeeze(-1))

    def scores(self, batch: TokenBatch) -> Tensor:
        """[B] one number per sequence, read at its last token; [B, C] under a head of several.

        float32, so that no two scores tie by rounding.
        """
        sequences = torch.arange(len(batch.places), device=self.device)
        last = self._states_at(batch, sequences, batch.prompt_lengths + batch.response_lengths - 1)  # [B, D]
        return self.head(last.float()).squeeze(-1)


@dataclass(frozen=True)
class HeadOnly(Network):
    """A head on the body of another role, which trains that body and publishes it."""

    def trainable_parameters(self) -> list[nn.Parameter]:
        """The head's."""
        return list(self.head.parameters())


@torch.no_grad()
def takes_packed_batches(body: nn.Module) -> bool:
    """Whether the body computes a packed batch as it computes each sequence alone; if so it is set to take them.

    Found by trying: a family may keep the batch's layout from its attention, or mix tokens by other means. The two may
    differ by what two ways of computing attention differ anyhow, which in bfloat16 is much for odd token ids.
    """
    config: Any = body.config
    before, by_layout = config._attn_implementation, attention.register()
    network = Network(body, nn.Identity())
    sequences = [TokenSequence([11, 4], [5]), TokenSequence([17, 7], [8, 9]), TokenSequence([17, 7], [15, 14, 13])]

    def states(implementation: str) -> Tensor:
        config._attn_implementation = implementation
        packs = implementation == by_layout
        batches = [sequences] if packs else [[sequence] for sequence in sequences]
        return torch.cat([replace(network, packs=packs).states(collate(b, device=network.device)) for b in batches])

    try:
        one, other, packed = (states(implementation).float() for implementation in (before, "eager", by_layout))
        noise = (one - other).abs().mean()
        packs = bool((one - packed).abs().mean() <= 3 * noise + 1e-4 * one.abs().mean())
    except Exception:  # whatever a family raises that does not know the arguments
        packs = False
    if not packs:
        config._attn_implementation = before
    return packs


class AdaptedLinear(peft_lora.Linear):  # type: ignore[misc]
    """x W' + (alpha / rank) (x A') B', all products in the body's precision.

    The adapter's weights stay float32 and are rounded for the products, as under autocast; peft's own layer would
    carry the activations over to float32 and back.
    """

    def switched_on(self) -> tuple[Tensor, Tensor, float] | None:
        """(A [rank, in], B [out, rank], alpha / rank) of the adapter that counts; None where none does."""
        if self.disable_adapters:
            return None
        (name,) = self.active_adapters
        return self.lora_A[name].weight, self.lora_B[name].weight, self.scaling[name]

    def forward(self, x: Tensor, *_: Any, **__: Any) -> Tensor:
        """[..., in] -> [..., out]."""
        result = self.base_layer(x)
        adapter = self.switched_on()
        if adapter is None:
            return result
        dtype = result.dtype
        down, up, scale = adapter
        low = nn.functional.linear(x.to(dtype), down.to(dtype))  # [..., rank]
        flat = torch.addmm(result.flatten(0, -2), low.flatten(0, -2), (up * scale).to(dtype).T)
        return flat.view(result.shape)


def score_head(width: int, *, seed: int, scale: float = 1.0, count: int = 1) -> nn.Linear:
    """A linear read-out of `count` numbers, weights N(0, scale^2 / (D + 1)), no bias.

    Stiennon et al. 2020 (arXiv:2009.01325), appendix, with scale 1: larger weights saturate the first comparisons.
    """
    head = nn.Linear(width, count, bias=False)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        head.weight.copy_(torch.randn(count, width, generator=generator) * scale / (width + 1) ** 0.5)
    return head


def make_trainable(
    network: Network, lora: LoraSettings | None, *, role: str, seed: int, train_head: bool = False
) -> Network:
    """A role that starts equal to `network` and can be trained, while `network` stays as it is.

    With LoRA: an adapter named `role` in the same body, zero at the start; the head is copied if trained.
    Without: a copy of body and head, with float32 masters of what is held in bfloat16.
    """
    freeze(network)
    if lora is None:
        body, head = copy.deepcopy((network.body, network.head))  # together, so that tied weights stay tied
        for parameter in (*body.parameters(), *head.parameters()):
            parameter.requires_grad_(True)
        _look_up_sparsely(body, head)
        return replace(network, body=body, head=head, masters=Masters([*body.parameters(), *head.parameters()]))
    if network.adapter is not None:
        raise ValueError("an adapter on an adapter is not supported; start from the body")
    _add_adapter(network.body, role, lora, seed=seed)
    head = copy.deepcopy(network.head).float() if train_head else network.head
    for parameter in head.parameters():
        parameter.requires_grad_(train_head)
    return replace(network, adapter=role, head=head)


def _look_up_sparsely(body: nn.Module, head: nn.Module) -> None:
    """Let the gradient of embeddings that are the output layer too be added to that layer's, row by row on a CPU.

    It would be a second one of that size, of zeros but for the tokens of the batch. `Masters` takes either.
    """
    for module in body.modules():
        if isinstance(module, nn.Embedding) and module.weight is getattr(head, "weight", None):
            module.sparse = module.weight.dtype == torch.bfloat16 and module.weight.device.type == "cpu"


def freeze(network: Network) -> None:
    """Turn gradients off for all weights of a role that has no adapter."""
    for parameter in (*network.body.parameters(), *network.head.parameters()):
        parameter.requires_grad_(False)


def trainable_state(network: Network) -> list[Tensor]:
    """Copies of the trained weights, for a checkpoint."""
    return [parameter.detach().cpu().clone() for parameter in network.trainable_parameters()]


def load_trainable_state(network: Network, state: list[Tensor]) -> None:
    """Put a checkpoint's weights back. Raises ModelError when they belong to another set-up."""
    parameters = network.trainable_parameters()
    if [p.shape for p in parameters] != [s.shape for s in state]:
        raise ModelError("the checkpoint's weights do not fit this model; it was made with other model settings.")
    with torch.no_grad():
        for parameter, value in zip(parameters, state, strict=True):
            parameter.copy_(value)
    network.publish()


def _add_adapter(body: nn.Module, name: str, lora: LoraSettings, *, seed: int) -> None:
    adapted = {n: m.get_base_layer() for n, m in body.named_modules() if isinstance(m, LoraLayer)}
    linear = adapted or {n: m for n, m in body.named_modules() if isinstance(m, nn.Linear | Conv1D)}
    if lora.targets == "attention":
        linear = {n: m for n, m in linear.items() if "attn" in n or "attention" in n}
    if not linear:
        raise ModelError(f"LoRA found no linear layers for `model.lora.targets={lora.targets}` in this architecture.")
    settings: Any = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=0.0,  # dropout would look like a change of the policy
        target_modules=sorted(linear),
        fan_in_fan_out=any(isinstance(m, Conv1D) for m in linear.values()),
    )
    settings._register_custom_module({nn.Linear: AdaptedLinear})
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Already found a `peft_config`")  # several roles share a body
        torch.manual_seed(seed)
        hidden = {"config": body.__dict__.pop("config")} if "config" in body.__dict__ else {}
        try:  # by the config peft would take layers' names for those of a family's experts
            inject_adapter_in_model(settings, body, adapter_name=name)
        finally:
            body.__dict__.update(hidden)
    for parameter_name, parameter in body.named_parameters():
        if ".lora_" in parameter_name:
            parameter.data = parameter.data.float()
    if lora.targets == "all":
        _say_reach(body, linear)


def _say_reach(body: nn.Module, linear: dict[str, Any]) -> None:
    """Where matrices have no adapter although all were asked for: experts, say, that a family holds as one block."""
    tables = {id(m.weight) for m in body.modules() if isinstance(m, nn.Embedding)}
    matrices = [
        p for name, p in body.named_parameters() if p.dim() > 1 and id(p) not in tables and ".lora_" not in name
    ]
    reached = sum(module.weight.numel() for module in linear.values())
    share = reached / max(1, sum(p.numel() for p in matrices))
    if share < 0.99:
        say(
            f"LoRA adapts {share:.0%} of the weights in matrices. The others, such as experts held as one block, are "
            "in no linear layer, and stay as they are. `model.lora=null` trains all."
        )
