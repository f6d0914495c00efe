"""How a body goes from tokens to states while sampling: one prefill a prompt, then one token a row at a time.

B rows being sampled, P the longest prompt, C columns of the cache, G key heads of width d, D hidden width.
"""

from __future__ import annotations

import inspect
import math
import weakref
from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import Cache, DynamicLayer

from plaudit import cpu
from plaudit.models.attention import CacheColumns, CacheRows, PackedRows, bias_where
from plaudit.models.network import Network
from plaudit.sampling import recorded
from plaudit.text.batches import collate
from plaudit.text.chat import TokenSequence

SPARE_COLUMNS = 32
"""Columns of the cache beyond the longest possible row; when they are used up, what is still needed moves to the
front."""
COLUMNS_AT_ONCE = 256
"""On a GPU a step looks at a multiple of so many columns: each number of them is recorded for itself."""


class Decoder(Protocol):
    """Rows that grow by a token a step."""

    joins: bool
    """Whether prompts can enter while other rows are running."""

    def start(self, prompts: Sequence[list[int]], copies: Sequence[int], rows: Tensor) -> Tensor:
        """[n, D] the states after each prompt, once for each of its copies, which go to these n rows."""
        ...

    def step(self, tokens: Tensor, running: Tensor) -> Tensor:
        """[B, D] the states after one more token of each row.

        tokens   [B]
        running  [B] bool; what the others give is of no use
        """
        ...

    def keep(self, rows: Tensor) -> None:
        """Go on with these rows alone, renumbered from 0."""
        ...


def make_decoder(
    network: Network, products: cpu.Products, rows: int, longest_prompt: int, max_new_tokens: int
) -> Decoder:
    """The fast one where the body takes packed batches."""
    if network.packs:
        return SlotDecoder(network, products, rows, longest_prompt, max_new_tokens)
    return PaddedDecoder(network)


class SlotDecoder:
    """A cache of fixed size whose rows are filled, left and filled again.

    All rows write the same column at a step. A row that enters has its prompt in the columns just before, whatever the
    others have there: where its own begin is all that its attention needs to know.
    """

    joins = True

    def __init__(self, network: Network, products: cpu.Products, rows: int, longest_prompt: int, max_new_tokens: int):
        self.network = network
        self.fused = cpu.decode_step(network, products)
        self.longest_prompt = longest_prompt
        self.columns = longest_prompt + max_new_tokens + SPARE_COLUMNS
        self.column = longest_prompt  # the next to be written
        self.starts = torch.zeros(0, dtype=torch.long, device=network.device)  # [B] first column of each row
        config: Any = network.body.config
        self.layers = [_Slots(self, rows) for _ in range(config.get_text_config().num_hidden_layers)]
        self.cache: Any = Cache(layers=list(self.layers))
        self.pages: cpu.Pages | None = None  # where it lies on a CPU
        self.first = 0  # of the columns that a step looks at
        self.targets: tuple[Tensor, Tensor, Tensor] | None = None  # of a prefill: (rows, columns, packed places)
        self.last: Tensor | None = None  # [1] `column` on the device, of a step that must not know it
        self.bound = 0  # the columns it looks at
        own = weakref.proxy(self)  # not a circle
        self.recorded = recorded.Recorded(lambda *given: own._recorded_step(*given))

    def start(self, prompts: Sequence[list[int]], copies: Sequence[int], rows: Tensor) -> Tensor:
        """[n, D]. Prompts are packed, and computed once for all copies."""
        device = self.network.device
        batch = collate([TokenSequence(prompt, []) for prompt in prompts], device=device)
        which = torch.repeat_interleave(torch.arange(len(prompts)), torch.tensor(copies)).to(device)  # [n]
        lengths = batch.prompt_lengths[which]
        if int(rows.max()) >= len(self.starts):
            more = int(rows.max()) + 1 - len(self.starts)
            self.starts = torch.cat([self.starts, self.starts.new_full((more,), self.column)])
        self.starts[rows] = self.column - lengths
        row, step = (torch.arange(batch.places.shape[1], device=device) < lengths[:, None]).nonzero(as_tuple=True)
        self.targets = (rows[row], self.starts[rows[row]] + step, batch.places[which[row], step])
        last = batch.places.gather(1, batch.prompt_lengths[:, None] - 1)[:, 0]  # [prompts]
        layout = PackedRows(batch.rows)
        if self.fused is None:
            states = self._forward(batch.token_ids[None], batch.positions[None], layout)[0, last]
        else:
            states = self.fused.fill(batch.token_ids, batch.positions, layout, last, self.layers)
        self.targets = None
        return states[which]

    def step(self, tokens: Tensor, running: Tensor) -> Tensor:
        """[B, D]."""
        self.starts = torch.where(running, self.starts, self.column)  # a row that is done looks at itself alone
        if self.column == self.columns:
            self._move_to_front()
        if recorded.records(tokens.device):
            last = torch.full((1,), self.column, device=tokens.device)
            bound = min(math.ceil((self.column + 1) / COLUMNS_AT_ONCE) * COLUMNS_AT_ONCE, self.columns)
            self.column += 1
            return self.recorded(tokens, self.starts, last, bound)[0]
        self.first = int(self.starts.min())
        if self.fused is not None:
            states = self.fused(tokens, self.column - self.starts, self.starts, self.column, self.layers)
            self.column += 1
            return states
        seen = torch.arange(self.first, self.column + 1, device=tokens.device) >= self.starts[:, None]  # [B, S]
        bias = None if bool(seen.all()) else bias_where(seen)[:, None, None]
        positions = (self.column - self.starts)[:, None]
        hidden = self._forward(tokens[:, None], positions, CacheRows(bias))
        self.column += 1
        return hidden[:, 0]

    def _recorded_step(self, tokens: Tensor, starts: Tensor, last: Tensor, bound: int) -> tuple[Tensor]:
        """([B, D]) as `step`, of nothing but what is on the device; [B], [B], [1], and how many columns to look at."""
        self.last, self.bound = last, bound
        try:
            hidden = self._forward(tokens[:, None], (last - starts)[:, None], CacheColumns(starts, last))
        finally:
            self.last = None
        return (hidden[:, 0],)

    def keep(self, rows: Tensor) -> None:
        """Copy them together."""
        self.starts = self.starts[rows]
        first = int(self.starts.min())
        for layer in self.layers:
            layer.move(rows, slice(first, self.column), first)

    def zeros(self, shape: tuple[int, ...], like: Tensor) -> Tensor:
        """For a layer's cache: what is masked is still multiplied, and 0 times what memory held may be no number."""
        if not cpu.serves(like):
            return like.new_zeros(shape)
        size = math.prod(shape) * like.element_size()
        if self.pages is None:  # of all layers together, as one of a few rows would not fill a large page
            self.pages = cpu.pages(2 * len(self.layers) * size)
        if self.pages is None:
            return like.new_zeros(shape)
        return self.pages.take(size).view(like.dtype).view(shape)

    def _forward(self, ids: Tensor, positions: Tensor, layout: Any) -> Tensor:
        return self.network.body(
            input_ids=ids, position_ids=positions, past_key_values=self.cache, layout=layout, use_cache=True
        ).last_hidden_state

    def _move_to_front(self) -> None:
        first = int(self.starts.min())
        by = min(first, self.column - self.longest_prompt)  # a prompt yet to come needs its columns
        for layer in self.layers:
            layer.move(slice(0, len(self.starts)), slice(first, self.column), first - by)
        self.column -= by
        self.starts -= by


class _Slots(DynamicLayer):  # type: ignore[misc]
    """One layer's keys and values, [rows, G, C, d] each, allotted once."""

    def __init__(self, owner: SlotDecoder, rows: int):
        super().__init__()
        self.owner: SlotDecoder = weakref.proxy(owner)  # a circle would keep all its memory until it is collected
        self.rows = rows
        self.keys: Tensor | None = None
        self.values: Tensor | None = None

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Take in new keys and values; returns those that the tokens at hand may attend to."""
        owner = self.owner
        if self.keys is None or self.values is None:
            shape = (self.rows, key_states.shape[1], owner.columns)
            self.keys = owner.zeros((*shape, key_states.shape[3]), key_states)
            self.values = owner.zeros((*shape, value_states.shape[3]), value_states)
            self.is_initialized = True
        if owner.targets is not None:
            rows, columns, places = owner.targets
            self.keys[rows, :, columns] = key_states[0].transpose(0, 1)[places]
            self.values[rows, :, columns] = value_states[0].transpose(0, 1)[places]
            return key_states, value_states
        count, column = len(key_states), owner.column
        if owner.last is not None:
            kept = self.keys[:count], self.values[:count]
            for store, states in zip(kept, (key_states, value_states), strict=True):
                store.index_copy_(2, owner.last, states)
            return kept[0][:, :, : owner.bound], kept[1][:, :, : owner.bound]
        self.keys[:count, :, column] = key_states[:, :, 0]
        self.values[:count, :, column] = value_states[:, :, 0]
        seen = slice(owner.first, column + 1)
        return self.keys[:count, :, seen], self.values[:count, :, seen]

    def move(self, rows: Tensor | slice, columns: slice, to: int) -> None:
        """Copy these rows' columns to the first rows, from column `to` on."""
        for store in (self.keys, self.values):
            assert store is not None
            moved = store[rows, :, columns].clone()
            store[: len(moved), :, to : to + moved.shape[2]] = moved

    def get_seq_length(self) -> int:
        """Positions are always given, so nothing may be counted from this."""
        return 0


class PaddedDecoder:
    """For families that take no packed batches: prompts padded on the left, a cache that grows."""

    joins = False

    def __init__(self, network: Network):
        self.network = network
        self.cache: Any = None
        self.mask = torch.zeros(0, 0)
        self.takes_positions = "position_ids" in inspect.signature(network.body.forward).parameters

    def start(self, prompts: Sequence[list[int]], copies: Sequence[int], rows: Tensor) -> Tensor:
        """[n, D]; the rows are always 0 to n - 1."""
        device = self.network.device
        longest = max(len(prompt) for prompt in prompts)
        ids = torch.tensor([[0] * (longest - len(p)) + p for p in prompts], device=device)
        mask = torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in prompts], device=device)
        self.cache = DynamicCache(config=self.network.body.config)
        states = self._forward(ids, mask)
        which = torch.repeat_interleave(torch.arange(len(prompts)), torch.tensor(copies)).to(device)
        self.cache.batch_select_indices(which)
        self.mask = mask[which]
        return states[which]

    def step(self, tokens: Tensor, running: Tensor) -> Tensor:
        """[B, D]."""
        self.mask = torch.cat([self.mask, self.mask.new_ones(len(tokens), 1)], dim=1)
        return self._forward(tokens[:, None], self.mask)

    def keep(self, rows: Tensor) -> None:
        """Leave the others out."""
        self.cache.batch_select_indices(rows)
        self.mask = self.mask[rows]

    def _forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        """[B, D] the state after the last of the given ids. Positions come from the mask, so padding shifts nothing."""
        positions = (mask.cumsum(1) - 1).clamp(min=0)[:, -ids.shape[1] :]
        given = {"position_ids": positions} if self.takes_positions else {}
        hidden = self.network.body(
            input_ids=ids,
            attention_mask=None if bool(mask.all()) else mask,
            past_key_values=self.cache,
            use_cache=True,
            **given,
        ).last_hidden_state
        return hidden[:, -1]
