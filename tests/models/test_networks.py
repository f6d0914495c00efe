"""Log-probs, values and scores: equal to the plain way of computing them, whatever stands beside or behind."""

import pytest
import torch
from conftest import make_model

from plaudit.config import LoraSettings, ModelSettings
from plaudit.models import log_probs
from plaudit.models.loading import load_causal, reward_from_causal
from plaudit.models.log_probs import chunked_log_probs
from plaudit.models.network import make_trainable
from plaudit.text.batches import collate
from plaudit.text.chat import TokenSequence

SETTINGS = ModelSettings(dtype="float32")
SEQUENCES = [
    TokenSequence([1, 50, 60, 70], [80, 90, 2]),
    TokenSequence([1, 33], [44, 55, 66, 77, 2]),
    TokenSequence([9], [2]),
]


@pytest.fixture(scope="module")
def model(tiny_model):
    return load_causal(str(tiny_model), SETTINGS)


def perturbed(network, seed=1):
    """The same role after some training: its trained weights moved."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in network.trainable_parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return network


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_log_probs_equal_those_from_the_full_logits(model, temperature):
    batch = collate(SEQUENCES)
    found, entropy = model.network.log_probs(batch, temperature=temperature, with_entropy=True)
    for row, sequence in enumerate(SEQUENCES):
        ids = torch.tensor([sequence.prompt_ids + sequence.response_ids])
        logits = model.network.head(model.network.body(ids).last_hidden_state)[0] / temperature
        all_log_probs = logits.log_softmax(-1)
        start = len(sequence.prompt_ids)
        for t, token in enumerate(sequence.response_ids):
            expected = all_log_probs[start - 1 + t]
            assert found[row, t].item() == pytest.approx(expected[token].item(), abs=1e-5)
            assert entropy[row, t].item() == pytest.approx(-(expected.exp() * expected).sum().item(), abs=1e-4)
        assert found[row, len(sequence.response_ids) :].eq(0).all()


@pytest.mark.parametrize("kernels_serve", [True, False])
@pytest.mark.parametrize("frozen", [True, False])
@pytest.mark.parametrize("softcap", [None, 1.5])
@pytest.mark.parametrize(("tokens", "outputs", "kept"), [(1, 1, 0), (3, 7, 7), (3, 30, 10), (256, 2048, 10)])
def test_pieces_change_neither_log_probs_nor_gradients(
    tokens, outputs, kept, softcap, frozen, kernels_serve, monkeypatch
):
    """By kernels and by tensors, under a frozen head and under one that is trained, all logits kept, some, or none."""
    monkeypatch.setattr(log_probs, "BYTES_KEPT", kept * 30 * 4)
    monkeypatch.setenv("PLAUDIT_CPU_KERNELS", "auto" if kernels_serve else "off")
    monkeypatch.setattr(log_probs, "BYTES_IN_CACHE", 4 * 30 * 4)  # four rows
    monkeypatch.setattr(log_probs, "TOKENS_PER_PRODUCT", tokens)
    monkeypatch.setattr(log_probs, "OUTPUTS_PER_PRODUCT", outputs)
    torch.manual_seed(0)
    head = torch.nn.Linear(8, 30).requires_grad_(not frozen)
    hidden, ids = torch.randn(10, 8, requires_grad=True), torch.randint(30, (10,))
    weights = torch.randn(10)
    logits = head(hidden) if softcap is None else softcap * torch.tanh(head(hidden) / softcap)
    whole = (logits / 0.7).log_softmax(-1)
    chosen = whole.gather(1, ids[:, None]).squeeze(1)
    trained = [hidden] if frozen else [hidden, head.weight, head.bias]
    expected = torch.autograd.grad((chosen * weights).sum(), trained, retain_graph=True)
    found, entropy = chunked_log_probs(hidden, ids, head, temperature=0.7, softcap=softcap, with_entropy=True)
    gradients = torch.autograd.grad((found * weights).sum(), trained)
    torch.testing.assert_close(found, chosen)
    torch.testing.assert_close(entropy, -(whole.exp() * whole).sum(dim=-1))
    torch.testing.assert_close(gradients, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("asked", [True, False])
@pytest.mark.parametrize("frozen", [True, False])
def test_logits_stay_no_longer_than_they_are_needed(frozen, asked, monkeypatch):
    """Those of a trained head until the backward pass, up to the bytes that may be kept; others not at all."""
    monkeypatch.setattr(log_probs, "TOKENS_PER_PRODUCT", 2)
    monkeypatch.setattr(log_probs, "BYTES_KEPT", 5 * 30 * 4)
    head = torch.nn.Linear(8, 30, bias=False).requires_grad_(not frozen)
    hidden, ids = torch.randn(10, 8, requires_grad=True), torch.randint(30, (10,))
    held: list[torch.Tensor] = []
    hooks = torch.autograd.graph.saved_tensors_hooks(lambda x: held.append(x) or x, lambda x: x)
    with torch.set_grad_enabled(asked), hooks:
        found, _ = chunked_log_probs(hidden, ids, head)
    assert found.requires_grad == asked
    logits = [len(x) for x in held if x.shape[1:] == (30,)]
    assert logits == ([2, 2] if asked and not frozen else [])


@pytest.mark.parametrize("outputs", [7, 2048])
def test_a_trained_head_in_bfloat16_goes_backward_in_parts_of_the_vocabulary(outputs, monkeypatch):
    """Within rounding of each part's gradient to the states, of which the sum is taken in float32."""
    monkeypatch.setattr(log_probs, "OUTPUTS_PER_PRODUCT", outputs)
    torch.manual_seed(0)
    head = torch.nn.Linear(8, 30).bfloat16()
    hidden, ids = torch.randn(10, 8).bfloat16().requires_grad_(), torch.randint(30, (10,))
    exact = torch.nn.Linear(8, 30)
    exact.load_state_dict(head.state_dict())
    states = hidden.detach().float().requires_grad_()
    exact(states).log_softmax(-1).gather(1, ids[:, None]).sum().backward()
    chunked_log_probs(hidden, ids, head)[0].sum().backward()
    for found, expected in ((head.weight, exact.weight), (head.bias, exact.bias), (hidden, states)):
        scale = float(expected.grad.abs().max())
        torch.testing.assert_close(found.grad.float(), expected.grad, rtol=0.02, atol=0.02 * scale)


def test_nothing_changes_with_batch_mates(model):
    scorer = reward_from_causal(model, seed=0).network
    together = collate(SEQUENCES)
    for read in (
        lambda b: model.network.log_probs(b)[0],
        lambda b: scorer.values_of(scorer.states(b), b),
        lambda b: scorer.scores(b)[:, None],
    ):
        with torch.no_grad():
            whole = read(together)
            for row, sequence in enumerate(SEQUENCES):
                alone = read(collate([sequence]))
                torch.testing.assert_close(whole[row, : alone.shape[1]], alone[0], atol=1e-5, rtol=1e-5)


def test_value_at_the_last_state_before_the_end_is_read_where_the_token_is_predicted(model):
    scorer = reward_from_causal(model, seed=0).network
    sequence = SEQUENCES[0]
    batch = collate([sequence])
    values = scorer.values_of(scorer.states(batch), batch)[0]
    for t in range(len(sequence.response_ids)):
        before = TokenSequence(sequence.prompt_ids[:1], (sequence.prompt_ids[1:] + sequence.response_ids)[: 3 + t])
        assert values[t].item() == pytest.approx(scorer.scores(collate([before])).item(), abs=1e-5)


def test_score_is_read_at_the_last_token(model):
    scorer = reward_from_causal(model, seed=0).network
    sequence = SEQUENCES[1]
    changed = TokenSequence(sequence.prompt_ids, [*sequence.response_ids[:-1], 3])
    assert scorer.scores(collate([sequence])).item() != scorer.scores(collate([changed])).item()


@pytest.mark.parametrize("lora", [LoraSettings(rank=4), LoraSettings(rank=4, targets="attention"), None])
def test_a_trained_role_starts_equal_and_leaves_the_frozen_role_alone(tiny_model, lora):
    model = load_causal(str(tiny_model), SETTINGS)
    batch = collate(SEQUENCES)
    with torch.no_grad():
        before = model.network.log_probs(batch)[0]
        policy = make_trainable(model.network, lora, role="policy", seed=0)
        assert policy.log_probs(batch)[0].equal(before)
        perturbed(policy)
        assert not torch.allclose(policy.log_probs(batch)[0], before, atol=1e-2)
        assert model.network.log_probs(batch)[0].equal(before)


def test_gradients_reach_all_adapter_weights_and_nothing_else(tiny_model):
    model = load_causal(str(tiny_model), SETTINGS)
    policy = perturbed(make_trainable(model.network, LoraSettings(rank=4), role="policy", seed=0))
    policy.log_probs(collate(SEQUENCES))[0].sum().backward()
    trained = policy.trainable_parameters()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in trained)
    others = [p for n, p in policy.body.named_parameters() if ".lora_" not in n]
    assert all(p.grad is None for p in others)
    assert len(trained) == 2 * 7 * 2  # A and B of seven layers in each of two blocks


def test_tied_weights_stay_tied_in_a_full_copy(tiny_model):
    model = load_causal(str(tiny_model), SETTINGS)
    policy = make_trainable(model.network, None, role="policy", seed=0)
    assert policy.head.weight is policy.body.get_input_embeddings().weight


def test_bfloat16_body_trains_float32_adapters(tiny_model):
    model = load_causal(str(tiny_model), ModelSettings(dtype="bfloat16"))
    policy = make_trainable(model.network, LoraSettings(rank=4), role="policy", seed=0)
    assert {p.dtype for p in policy.trainable_parameters()} == {torch.float32}
    assert policy.log_probs(collate(SEQUENCES))[0].dtype == torch.float32
    full = make_trainable(model.network, None, role="policy", seed=0)
    assert {p.dtype for p in full.trainable_parameters()} == {torch.float32}


def test_untied_models_get_their_own_output_layer(tmp_path):
    model = load_causal(str(make_model(tmp_path / "untied", tie_word_embeddings=False)), SETTINGS)
    assert model.network.head.weight is not model.network.body.get_input_embeddings().weight
