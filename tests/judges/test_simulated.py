import math

import pytest

from plaudit.config import GuidelinePreference, SimulatedAnnotatorSettings
from plaudit.judges.guideline_preference import guideline_facts, utility
from plaudit.judges.simulated import SimulatedAnnotator
from plaudit.judges.utilities import utility_of_guideline
from plaudit.records import Prompt, Response, content_id

PROMPT = Prompt([{"role": "user", "content": "How do I cook rice well?"}])
GUIDELINE = GuidelinePreference()


def response(name, text, finished=True):
    return Response(name, PROMPT.id, text, "run", finished=finished)


def annotator(noise, seed=0):
    return SimulatedAnnotator(
        SimulatedAnnotatorSettings(name="someone", noise=noise), utility_of_guideline(GUIDELINE), seed
    )


def facts(text, finished=True):
    guideline_preference = GuidelinePreference(comfortable_words=10, fewest_words=4)
    return guideline_facts(PROMPT.text, text, finished=finished, guideline_preference=guideline_preference)


def test_each_fact_is_what_it_says():
    good = facts("Cooking rice is easy and wonderful.")
    assert good["finished"] == 1
    assert good["answers"] == 1  # cook and rice
    assert good["tone"] > 0.5
    assert good["length"] == good["repetition"] == 0
    assert facts("Just boil rice.")["length"] == pytest.approx(1 / 4)  # three words of the fewest, four
    assert facts("")["length"] == 1
    assert facts("A terrible awful idea.")["tone"] < -0.5
    assert facts("Rice.")["answers"] == 0.5
    assert facts("word " * 15)["length"] == pytest.approx(0.5)
    assert facts("word " * 50)["length"] == 1
    assert facts("one two three one two three")["repetition"] == pytest.approx(0.25)
    assert facts("", finished=False)["finished"] == 0


def test_utility_adds_up_and_an_empty_answer_is_worst():
    text = "Cooking rice well is quite easy."
    found = guideline_facts(PROMPT.text, text, finished=True, guideline_preference=GUIDELINE)
    assert utility(PROMPT.text, text, finished=True, guideline_preference=GUIDELINE) == pytest.approx(
        GUIDELINE.finished + GUIDELINE.answers + GUIDELINE.tone * found["tone"]
    )
    assert utility(PROMPT.text, " ", finished=True, guideline_preference=GUIDELINE) < utility(
        PROMPT.text, "terrible awful bad", finished=False, guideline_preference=GUIDELINE
    )


def test_choices_follow_bradley_terry_at_the_stated_noise():
    """4,000 pairs of the same two texts: the share of the better one is sigmoid(gap / noise)."""
    good, bad = "Rice is really lovely to cook.", "Rice is really something to cook."
    gap = utility(PROMPT.text, good, finished=True, guideline_preference=GUIDELINE) - utility(
        PROMPT.text, bad, finished=True, guideline_preference=GUIDELINE
    )
    someone = annotator(noise=2.0)
    wins = shown_first = 0
    for i in range(4000):
        judgment = someone.compare(PROMPT, response(f"g{i}", good), response(f"b{i}", bad), run="r")
        first_is_good = judgment.first.startswith("g")
        assert judgment.probability_first == pytest.approx(1 / (1 + math.exp(-(gap if first_is_good else -gap) / 2.0)))
        wins += (judgment.choice == "first") == first_is_good
        shown_first += first_is_good
    assert wins / 4000 == pytest.approx(1 / (1 + math.exp(-gap / 2.0)), abs=0.025)
    assert shown_first / 4000 == pytest.approx(0.5, abs=0.025)


def test_a_judgment_does_not_depend_on_the_order_of_asking():
    one, other = response("x", "Rice is lovely."), response("y", "Boil rice.")
    assert annotator(1.0).compare(PROMPT, one, other, run="r") == annotator(1.0).compare(PROMPT, other, one, run="r")


def test_settings_without_habits_choose_as_they_always_have():
    """Of three annotators, 91 pairs each: order, choice, probability and id as when they knew noise alone."""
    words = "Rice is lovely to cook slowly with water and a good lid but never in awful haste".split()
    responses = [
        response(f"r{i}", " ".join(words[i % 5 : i % 5 + 3 + i]) if i else "", finished=i % 3 > 0) for i in range(14)
    ]
    made = []
    for name, noise in (("careful", 0.3), ("average", 0.6), ("hasty", 1.2)):
        settings = SimulatedAnnotatorSettings(name=name, noise=noise)
        someone = SimulatedAnnotator(settings, utility_of_guideline(GUIDELINE), 7)
        made.append([list(item) for item in sorted(someone.annotator.parameters.items())])
        for i in range(14):
            for j in range(i):
                c = someone.compare(PROMPT, responses[i], responses[j], run="r")
                made.append([c.first, c.second, c.choice, c.probability_first, c.grade, c.seconds, c.id])
    assert content_id(made) == "a9a254715765ad3b"


@pytest.mark.parametrize("finished", [True, False])
@pytest.mark.parametrize(
    "text", ["", "  ", "Rice.", "Lovely rice. " * 12, "Cook it in a terrible awful way, " * 9, "Boil rice."]
)
def test_what_the_taste_likes_is_its_utility_to_the_last_bit(text, finished):
    utility_function = utility_of_guideline(GUIDELINE)
    expected = utility(PROMPT.text, text, finished=finished, guideline_preference=GUIDELINE)
    assert utility_function.utility(PROMPT, response("x", text, finished)) == expected
    doubled = utility_function.utility(
        PROMPT, response("x", text, finished), dict.fromkeys(utility_function.weights, 2.0)
    )
    assert doubled == pytest.approx(2 * expected)
