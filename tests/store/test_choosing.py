"""Some of the prompts, chosen by source and number."""

import pytest

import plaudit
from plaudit.errors import DataError
from plaudit.records import Prompt
from plaudit.store.choosing import choose_prompts

PROMPTS = [Prompt([{"role": "user", "content": f"question {i}"}], source="ab"[i % 2]) for i in range(40)]


def test_prompts_are_chosen_by_source_and_number_and_a_smaller_draw_is_part_of_a_larger():
    assert choose_prompts(PROMPTS, None, None, setting="sample") == PROMPTS
    assert choose_prompts(PROMPTS, ["b"], None, setting="sample") == PROMPTS[1::2]
    few, more = (choose_prompts(PROMPTS, ["a"], most, setting="sample", seed=0) for most in (5, 12))
    assert (len(few), len(more)) == (5, 12)
    assert [prompt for prompt in more if prompt in few] == few
    assert {prompt.source for prompt in more} == {"a"}
    assert choose_prompts(PROMPTS, None, 99, setting="sample") == PROMPTS


def test_the_seed_draws_others_and_no_seed_the_same():
    def drawn(**more):
        return choose_prompts(PROMPTS, None, 10, setting="sample", **more)

    assert drawn(seed=0) != drawn(seed=1)
    assert drawn() == drawn()


def test_an_unknown_source_is_named_with_those_that_are_there():
    with pytest.raises(DataError, match=r"`evaluate.sources`: no prompt to answer is of `import` \(a, b\)"):
        choose_prompts(PROMPTS, ["import"], None, setting="evaluate")


def test_sample_and_evaluate_take_so_many(workspace, tiny_model):
    changes = [f"sample.policy={tiny_model}", "sample.most_prompts=7", "sample.samples_per_prompt=1"]
    run = plaudit.sample(workspace, workspace.config(overrides=changes))
    assert (run.result["prompts"], run.info["data"]["prompts"]["count"]) == (7, 7)
    with pytest.raises(DataError, match=r"`sample\.sources`"):
        plaudit.sample(workspace, workspace.config(overrides=[*changes, "sample.sources=[nowhere]"]))
    policies = [f"evaluate.policy={tiny_model}", f"evaluate.baseline={tiny_model}", "evaluate.reward=null"]
    few = [*policies, "evaluate.most_prompts=3", "evaluate.sources=[import]", "evaluate.samples_per_prompt=1"]
    one = plaudit.evaluate(workspace, workspace.config(overrides=few))
    assert one.result["prompts"] == one.result["answers"] == 3
    again = plaudit.evaluate(workspace, workspace.config(overrides=[*few, "seed=5"]))
    assert again.info["data"] == one.info["data"]
