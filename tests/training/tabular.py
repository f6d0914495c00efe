"""A network without a body: a token's log-prob is a number of its own and one of its prompt's first token."""

from contextlib import nullcontext

import torch
from torch import nn


class Tabular:
    """Stands for a Network where log-probs and values alone are asked for.

    token   [V] what a response token adds
    prompt  [V] what the prompt's first token adds to each token of the response
    """

    masters = None

    def __init__(self, token, prompt=None, dtype=torch.float64):
        self.token = nn.Parameter(torch.tensor(token, dtype=dtype))
        self.prompt = nn.Parameter(torch.tensor(prompt or [0.0] * len(token), dtype=dtype))
        self.device = torch.device("cpu")
        self.passes = 0

    def states(self, batch):
        """[M, 2] the response token and its prompt's first one."""
        self.passes += 1
        sequence, _ = batch.predicting_positions
        return torch.stack([batch.response_ids, batch.token_ids[batch.places[sequence, 0]]], dim=1)

    def log_probs_of(self, states, batch, *, temperature=1.0, with_entropy=False):
        """Divided by the temperature; the entropy of a token is a tenth of its id."""
        values = (self.token[states[:, 0]] + self.prompt[states[:, 1]]) / temperature
        return batch.to_grid(values), batch.to_grid(states[:, 0] / 10.0) if with_entropy else None

    def log_probs(self, batch, *, temperature=1.0, **more):
        return self.log_probs_of(self.states(batch), batch, temperature=temperature, **more)

    def values_of(self, states, batch):
        return batch.to_grid(self.token[states[:, 0]] + self.prompt[states[:, 1]])

    def of(self, sequence, *, temperature=1.0):
        """The log-prob of one response, nats."""
        lead = self.prompt[sequence.prompt_ids[0]] * len(sequence.response_ids)
        return (self.token[torch.tensor(sequence.response_ids)].sum() + lead).item() / temperature

    def active(self):
        return nullcontext()

    def trainable_parameters(self):
        return [self.token, self.prompt]

    def gradient_of(self, parameter):
        return parameter.grad

    def publish(self):
        pass
