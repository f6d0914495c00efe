import pytest
import torch
from conftest import make_model

from plaudit import cpu
from plaudit.config import LoraSettings, ModelSettings
from plaudit.models.loading import load_causal
from plaudit.models.network import make_trainable
from plaudit.sampling import in_process
from plaudit.sampling.in_process import sample
from plaudit.text.batches import collate
from plaudit.text.chat import Stops, TokenSequence

PROMPTS = [[1, 50, 60], [1, 33, 44, 55, 66, 77], [9], [1, 2, 3, 4], [7, 7]]
SETTINGS = ModelSettings(dtype="float32")


@pytest.fixture(scope="module")
def model(tiny_model):
    return load_causal(str(tiny_model), SETTINGS)


def draw(network, **changes):
    options = {"stops": Stops(frozenset(range(100, 150))), "max_new_tokens": 10, "seed": 3, "samples_per_prompt": 3}
    return sample(network, PROMPTS, **{**options, **changes})


@pytest.mark.parametrize("temperature", [1.0, 0.6])
@pytest.mark.parametrize("adapted", [False, True])
def test_sampled_log_probs_equal_the_trainers(tiny_model, temperature, adapted):
    """With uneven prompts, shared prefill, rows that leave early, and an adapter: 1e-4 nats a token in float32."""
    network = load_causal(str(tiny_model), SETTINGS).network
    if adapted:
        network = make_trainable(network, LoraSettings(rank=4), role="policy", seed=0)
        with torch.no_grad():
            for parameter in network.trainable_parameters():
                parameter += 0.1 * torch.randn_like(parameter)
    groups = draw(network, temperature=temperature)
    pairs = [(p, c) for p, group in zip(PROMPTS, groups, strict=True) for c in group]
    with torch.no_grad():
        trained, _ = network.log_probs(
            collate([TokenSequence(p, c.token_ids) for p, c in pairs]), temperature=temperature
        )
    assert len({len(c.token_ids) for _, c in pairs}) > 2
    for row, (_, completion) in enumerate(pairs):
        length = len(completion.token_ids)
        torch.testing.assert_close(torch.tensor(completion.log_probs), trained[row, :length], atol=1e-4, rtol=0)


def test_left_padding_shifts_no_position_of_a_model_with_absolute_ones(tmp_path):
    from conftest import make_tokenizer
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    config = GPT2Config(vocab_size=377, n_embd=32, n_layer=2, n_head=4, n_positions=64, initializer_range=0.3)
    config.eos_token_id = config.bos_token_id = 2
    GPT2LMHeadModel(config).save_pretrained(tmp_path / "gpt2")
    make_tokenizer().save_pretrained(tmp_path / "gpt2")
    network = load_causal(str(tmp_path / "gpt2"), SETTINGS).network
    pairs = [(p, c) for p, group in zip(PROMPTS, draw(network), strict=True) for c in group]
    with torch.no_grad():
        trained, _ = network.log_probs(collate([TokenSequence(p, c.token_ids) for p, c in pairs]))
    for row, (_, completion) in enumerate(pairs):
        sampled = torch.tensor(completion.log_probs)
        torch.testing.assert_close(sampled, trained[row, : len(sampled)], atol=1e-4, rtol=0)


def test_finished_means_ended_by_a_stop_token_and_nothing_follows_it(model):
    stops = frozenset(range(100, 150))
    completions = [c for group in draw(model.network) for c in group]
    assert {c.finished for c in completions} == {True, False}
    for completion in completions:
        assert completion.finished == (completion.token_ids[-1] in stops)
        assert not stops & set(completion.token_ids[:-1])
        assert completion.finished or len(completion.token_ids) == 10


def test_the_seed_decides(model):
    assert draw(model.network) == draw(model.network) != draw(model.network, seed=4)


def test_samples_of_one_prompt_differ(model):
    assert all(len({tuple(c.token_ids) for c in group}) == 3 for group in draw(model.network))


@pytest.mark.parametrize("size", [1, 4, 100])
def test_results_come_in_the_order_of_the_prompts_for_every_batch_size(model, size):
    """Near temperature 0 the draw is the argmax, so batches cannot change it."""
    cold = {"temperature": 1e-4, "samples_per_prompt": 1, "stops": Stops(frozenset({2}))}
    whole = draw(model.network, **cold)
    assert [c[0].token_ids for c in draw(model.network, **cold, sequences_per_batch=size)] == [
        c[0].token_ids for c in whole
    ]


def test_a_cold_sample_is_transformers_greedy_decoding(tiny_model, model):
    from transformers import AutoModelForCausalLM

    theirs = AutoModelForCausalLM.from_pretrained(tiny_model).eval()
    ours = draw(model.network, temperature=1e-4, samples_per_prompt=1, stops=Stops(frozenset({2})))
    for prompt, group in zip(PROMPTS, ours, strict=True):
        ids = torch.tensor([prompt])
        out = theirs.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=10, do_sample=False, eos_token_id=2
        )
        assert out[0, len(prompt) :].tolist() == group[0].token_ids


def test_tokens_follow_the_models_distribution(tmp_path):
    """First tokens of 6,000 samples against the softmax: chi-squared over the 20 likeliest, with the rest."""
    from scipy import stats

    network = load_causal(str(make_model(tmp_path / "flat", initializer_range=0.5)), SETTINGS).network
    drawn = sample(
        network, [[5, 6]], stops=Stops(frozenset()), max_new_tokens=1, seed=0, samples_per_prompt=6000,
        sequences_per_batch=6000,
    )[0]  # fmt: skip
    with torch.no_grad():
        logits = network.head(network.body(torch.tensor([[5, 6]])).last_hidden_state[0, -1])
    probabilities = logits.softmax(-1)
    top = probabilities.topk(20).indices.tolist()
    counts = [sum(c.token_ids[0] == token for c in drawn) for token in top]
    expected = [6000 * float(probabilities[token]) for token in top]
    result = stats.chisquare([*counts, 6000 - sum(counts)], [*expected, 6000 - sum(expected)])
    assert result.pvalue > 1e-4


def test_batches_are_handed_over_as_they_end(model):
    seen = []
    draw(model.network, sequences_per_batch=3, on_batch=lambda batch: seen.extend(index for index, _ in batch))
    assert sorted(seen) == list(range(len(PROMPTS)))


def test_a_stop_string_ends_a_response_as_a_stop_token_does(model):
    """Whatever tokens spell it; the response keeps the tokens that complete it, its text does not."""
    from plaudit.text.chat import ChatFormat

    free = draw(model.network, stops=Stops(frozenset()), max_new_tokens=12)
    text = model.format.tokenizer.decode(free[0][0].token_ids)
    stop = text[5:8]
    form = ChatFormat(model.format.tokenizer, stop_strings=[stop])
    cut = draw(model.network, stops=Stops(frozenset(), form.ended_by_text), max_new_tokens=12)
    for whole, short in zip((c for g in free for c in g), (c for g in cut for c in g), strict=True):
        assert whole.token_ids[: len(short.token_ids)] == short.token_ids
        spelt = model.format.tokenizer.decode(short.token_ids)
        assert short.finished == (stop in spelt)
        assert stop not in model.format.tokenizer.decode(short.token_ids[:-1])
        assert stop not in form.decode_response(short.token_ids)
    assert any(c.finished for group in cut for c in group)
    finished = next(c for group in cut for c in group if c.finished)
    assert form.scored_ids(finished.token_ids, finished=True)[-1] == form.end_id


def test_top_p_draws_from_the_likeliest_tokens_and_gives_their_own_log_probs(tiny_model):
    network = load_causal(str(tiny_model), SETTINGS).network
    drawn = sample(
        network, [[5, 6]], stops=Stops(frozenset()), max_new_tokens=1, seed=0, samples_per_prompt=4000, top_p=0.3,
        sequences_per_batch=4000,
    )  # fmt: skip
    with torch.no_grad():
        probabilities = network.logits(collate([TokenSequence([5, 6], [0])]))[0].softmax(-1)
    ordered, places = probabilities.sort(descending=True)
    kept = int((ordered.cumsum(0) < 0.3).sum()) + 1
    allowed = set(places[:kept].tolist())
    counts = torch.zeros(len(probabilities))
    for completion in drawn[0]:
        counts[completion.token_ids[0]] += 1
        expected = probabilities[completion.token_ids[0]] / ordered[:kept].sum()
        assert completion.log_probs[0] == pytest.approx(float(expected.log()), abs=1e-4)
    assert set(counts.nonzero().flatten().tolist()) <= allowed
    torch.testing.assert_close(counts[places[:kept]] / 4000, ordered[:kept] / ordered[:kept].sum(), atol=0.04, rtol=0)


def test_decoding_is_tried_once_for_each_body(tiny_model, monkeypatch):
    tried = []
    monkeypatch.setattr(in_process, "_try_decoding", lambda network, *_: tried.append(network.body))
    one, other = (load_causal(str(tiny_model), SETTINGS).network for _ in range(2))
    for network in (one, one, other, one):
        draw(network, max_new_tokens=1)
    assert tried == [one.body, other.body]


@pytest.mark.parametrize("size", [2, 100])
def test_every_response_is_counted_once_as_it_ends(model, size):
    ended = []
    draw(model.network, sequences_per_batch=size, progress=ended.append)
    assert sum(ended) == 3 * len(PROMPTS)
    assert min(ended) > 0
    assert len(ended) > 1


@pytest.mark.parametrize(
    ("most", "together"), [(6, [[1, 2, 3], [4], [6]]), (7, [[1, 2, 3], [4], [6]]), (5, [[1, 2], [3], [4], [6]])]
)
def test_prompts_are_read_together_up_to_so_many_tokens_and_a_longer_one_alone(
    model, monkeypatch, without_trials, most, together
):
    """The shortest first."""
    read, make = [], in_process.make_decoder

    def watched(*given):
        decoder = make(*given)
        start = decoder.start
        decoder.start = lambda prompts, *more: (read.append([*map(len, prompts)]), start(prompts, *more))[1]
        return decoder

    monkeypatch.setattr(in_process, "PREFILL_TOKENS", most)
    monkeypatch.setattr(in_process, "make_decoder", watched)
    draw(model.network, samples_per_prompt=1)
    assert read == together


def test_the_whole_distribution_is_drawn_from_by_the_engine_and_a_part_of_it_is_not(model, monkeypatch):
    monkeypatch.setenv(cpu.VARIABLE, "auto")
    drawn, take = [], cpu.draw

    def counted(product, states, *given, **named):
        drawn.append(len(states))
        return take(product, states, *given, **named)

    monkeypatch.setattr(cpu, "draw", counted)
    draw(model.network, top_p=0.9, max_new_tokens=2)
    assert not drawn
    draw(model.network, max_new_tokens=1)
    assert sum(drawn) == 3 * len(PROMPTS)
