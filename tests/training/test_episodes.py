"""Episodes of several assistant turns: what is sampled, what is learnt, and credit across turns."""

import pytest
import torch
from tiny_task import rows, train

from plaudit.config import ModelSettings
from plaudit.errors import ConfigError, DataError
from plaudit.models.loading import load_causal
from plaudit.records import Prompt
from plaudit.sampling.episodes import roll_out

USERS = """
WORTH = {"tea": 1.0, "moon": 0.0, "book": 2.0, "lamp": -1.0}
def asks_again(conversation):
    return "What should I do about my dog tea today?"
def leaves_after_tea(conversation):
    return None if conversation[-1]["content"] == "tea" else "What should I do about my dog tea today?"
def says_a_number(conversation):
    return 3
def first_word_counts(prompts, responses):
    return [WORTH.get(prompt[1]["content"] if len(prompt) > 2 else response, -1.0)
            for prompt, response in zip(prompts, responses)]
def only_the_second_turn_pays(prompts, responses):
    return [WORTH.get(prompt[1]["content"], -1.0) if len(prompt) > 2 else 0.0 for prompt in prompts]
"""


@pytest.fixture(scope="module")
def users(tmp_path_factory):
    file = tmp_path_factory.mktemp("users") / "users.py"
    file.write_text(USERS)
    return file


def talk(workspace, users, name, *changes):
    return train(
        workspace, f"rl.episodes.user=function:{users}:{name}", "rl.samples_per_prompt=4",
        f"rl.reward=function:{users}:first_word_counts", *changes,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("algorithm", "reward"),
    [
        ("ppo", "end"),
        ("ppo", "turn"),
        ("reinforce", "turn"),
        ("rloo", "end"),
        ("grpo", "turn"),
        ("p3o", "end"),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in [("reinforce", "end"), ("rloo", "turn"), ("grpo", "end"), ("p3o", "turn")]
        ),
    ],
)
def test_a_reward_after_the_second_turn_teaches_the_first(four_answers, users, algorithm, reward):
    """The second answer never matters: whatever is learnt is learnt of the first, a turn of the user's before."""
    function = "first_word_counts" if reward == "end" else "only_the_second_turn_pays"
    run = talk(
        four_answers, users, "asks_again", f"rl.algorithm={algorithm}", f"rl.episodes.reward={reward}",
        f"rl.reward=function:{users}:{function}", "rl.steps=30",
    )  # fmt: skip
    assert rows(run)[0]["turns"] == 2.0
    assert run.result["first"]["score"] < 1.0
    assert run.result["last"]["score"] > 1.6


@pytest.mark.parametrize("algorithm", ["ppo", "rloo", "grpo", "p3o", "online-dpo", "reinforce"])
def test_the_second_turns_log_probs_are_the_samplers_and_the_start_is_the_reference(four_answers, users, algorithm):
    run = talk(four_answers, users, "leaves_after_tea", f"rl.algorithm={algorithm}", "rl.steps=2", "rl.temperature=1.2")
    first, second = rows(run)
    assert first["kl"] == 0.0
    assert first["first_ratio_gap"] == second["first_ratio_gap"] == 0.0
    assert first["sampler_gap"] < 1e-4
    assert 1.0 < first["turns"] < 2.0


def test_rewards_of_every_turn_are_summed_over_the_episode(four_answers, users):
    end = rows(talk(four_answers, users, "asks_again", "rl.steps=1"))[0]
    each = rows(talk(four_answers, users, "asks_again", "rl.steps=1", "rl.episodes.reward=turn"))[0]
    assert each["score"] == pytest.approx(2 * end["score"], abs=1e-5)  # both turns count the first word


def test_an_episodes_ids_are_those_of_the_template_and_only_the_policys_are_learnt(four_answers):
    """Rendering the finished conversation again gives the very ids, the user's turns masked out."""
    model = load_causal(str(four_answers.run("sft-001").model_folder), ModelSettings(dtype="float32"))
    prompt = Prompt([{"role": "user", "content": "What should I do about my dog tea today?"}])
    (episode,) = roll_out(
        model.network, model, [prompt], prompt_limit=100, samples_per_prompt=1, max_new_tokens=6, temperature=0.1,
        seed=0, user=lambda conversations: ["and my music?"] * len(conversations), turns=3,
    )  # fmt: skip
    assert [m["role"] for m in episode.messages] == ["user", "assistant"] * 3
    whole = model.format.tokenizer.apply_chat_template(episode.messages, tokenize=False)
    ids = model.format.tokenizer(whole, add_special_tokens=False)["input_ids"]
    assert ids[: len(episode.context)] == episode.context
    loss_mask = [i for i, own in zip(episode.token_ids, episode.loss_mask, strict=True) if own]
    assert loss_mask == [i for answer in episode.answers for i in answer.sequence.response_ids]
    assert model.format.tokenizer.decode(loss_mask).count("<|end|>") == 3
    assert all(p == 0 for p, own in zip(episode.log_probs, episode.loss_mask, strict=True) if not own)
    assert sum(p < 0 for p in episode.log_probs) >= 3


def test_an_episode_ends_where_the_context_does_and_keeps_no_unanswered_turn(tmp_path, four_answers):
    from dataclasses import replace

    model = load_causal(str(four_answers.run("sft-001").model_folder), ModelSettings(dtype="float32"))
    model.config.max_position_embeddings = 70
    prompt = Prompt([{"role": "user", "content": "What should I do about my dog tea today?"}])
    (episode,) = roll_out(
        model.network, replace(model), [prompt], prompt_limit=60, samples_per_prompt=1, max_new_tokens=6,
        temperature=0.1, seed=0, user=lambda conversations: ["again " * 6] * len(conversations), turns=9,
    )  # fmt: skip
    assert len(episode.context) <= 70
    assert episode.messages[-1]["role"] == "assistant"
    assert episode.ends[-1] == len(episode.token_ids)
    assert len(episode.answers) < 9
    assert episode.truncated


def test_a_model_can_be_the_user(four_answers):
    """And the same run comes out twice."""
    changes = ["rl.episodes.user=model:sft-001", "rl.steps=2", "rl.algorithm=rloo"]
    first, again = train(four_answers, *changes), train(four_answers, *changes)
    assert rows(first)[0]["turns"] > 1.0
    assert rows(first) == rows(again)


def test_a_user_that_says_no_text_is_refused(four_answers, users):
    with pytest.raises(DataError, match="must return a text, or None to end; it returned 3"):
        talk(four_answers, users, "says_a_number", "rl.steps=1")
    with pytest.raises(ConfigError, match="has no function `nobody`"):
        talk(four_answers, users, "nobody", "rl.steps=1")
    with pytest.raises(ConfigError, match="imitates single answers"):
        talk(four_answers, users, "asks_again", "rl.algorithm=rejection")


def test_what_stands_in_the_users_turn_carries_no_loss(four_answers):
    """The gradient is that of the policy's own tokens: the sum over them by hand, whatever the advantage elsewhere."""
    from plaudit.algorithms import make
    from plaudit.algorithms.base import Piece

    mask = torch.tensor([[True, False, True]])
    advantages = torch.tensor([[2.0, 99.0, 3.0]])
    log_probs = torch.zeros(1, 3, requires_grad=True)
    made = make(four_answers.config(overrides=["rl.algorithm=reinforce"]).rl)
    loss, _ = made.loss(log_probs, Piece(1, mask, torch.zeros(1, 3), advantages, torch.zeros(1), torch.zeros(1)))
    (gradient,) = torch.autograd.grad(loss.masked_fill(~mask, 0.0).sum(), log_probs)
    assert gradient[0].tolist() == [-2.0, 0.0, -3.0]
