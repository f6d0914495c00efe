import pytest
import torch

from plaudit.config import ModelSettings
from plaudit.models.loading import load_causal
from plaudit.objectives import best_of_n_distribution
from plaudit.sampling.best_of_n import sample_best_of
from plaudit.sampling.in_process import sample

WORTH = {"tea": 1.0, "moon": 0.0, "book": 2.0, "lamp": -1.0}
CONVERSATION = [{"role": "user", "content": "What should I do about my dog tea today?"}]


def worth(answers):
    return torch.tensor([WORTH.get(answer.text, -1.0) for answer in answers])


@pytest.fixture
def model(four_answers):
    return load_causal(str(four_answers.run("sft-001").model_folder), ModelSettings(dtype="float32"))


def frequencies(model, groups):
    texts = [model.format.decode_response(completion.token_ids) for group in groups for completion in group]
    return torch.tensor([texts.count(word) / len(texts) for word in WORTH], dtype=torch.float64)


@pytest.mark.parametrize("n", [2, 4])
def test_the_best_of_n_has_the_distribution_that_theory_gives_it(model, n):
    """Frequencies of 2,000 picks against F(y)^n - F_below(y)^n from the policy's own frequencies."""
    options = {"max_new_tokens": 6, "temperature": 1.0, "sequences_per_batch": 4000}
    prompt = model.format.encode_prompt(CONVERSATION)
    base = frequencies(
        model, sample(model.network, [prompt], stops=model.format.stops, samples_per_prompt=4000, seed=1, **options)
    )
    picks = sample_best_of(
        model, [CONVERSATION], worth, n=n, samples_per_prompt=2000, prompt_limit=100, seed=2, **options
    )
    assert len(picks[0]) == 2000
    assert base.sum() > 0.95
    expected = best_of_n_distribution(base / base.sum(), torch.tensor(list(WORTH.values()), dtype=torch.float64), n=n)
    torch.testing.assert_close(frequencies(model, picks), expected, atol=0.04, rtol=0)


def test_a_finished_answer_is_chosen_before_an_unfinished_one(model):
    def likes_the_unfinished(answers):
        return torch.tensor([0.0 if answer.finished else 9.0 for answer in answers])

    picks = sample_best_of(
        model, [CONVERSATION], likes_the_unfinished, n=200, prompt_limit=100, seed=3, max_new_tokens=4, temperature=3.0
    )
    assert picks[0][0].finished


def test_best_of_one_is_plain_sampling(model):
    prompt = model.format.encode_prompt(CONVERSATION)
    plain = sample(model.network, [prompt], stops=model.format.stops, samples_per_prompt=5, seed=4, max_new_tokens=6)
    best = sample_best_of(
        model, [CONVERSATION], worth, n=1, samples_per_prompt=5, prompt_limit=100, seed=4, max_new_tokens=6
    )
    assert plain == best
