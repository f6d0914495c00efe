"""Reward and cost models: each loss from the judgments it needs, several annotators, and what is stored beside."""

import random

import pytest
import torch
from conftest import TINY, WORDS, make_model, write_lines
from torch import nn

import plaudit
from plaudit.config import ModelSettings, RewardSettings, resolve
from plaudit.errors import ConfigError, DataError
from plaudit.models.loading import load_reward
from plaudit.objectives import bradley_terry, centring_penalty, cost_comparison, plackett_luce, safety_classification
from plaudit.records import Comparison
from plaudit.text.batches import collate
from plaudit.text.chat import TokenSequence
from plaudit.training.annotators import combine_annotators
from plaudit.training.comparisons import JudgedPrompt, Judgment
from plaudit.training.reward_parts import LOG_TIE, group_losses, ranks_of

SEQUENCE = TokenSequence([1], [2])


def prompt(judgments, responses, safe=()):
    names = [f"r{i}" for i in range(responses)]
    return JudgedPrompt("p", names, [SEQUENCE] * responses, judgments, [], tuple(safe))


RANKED = prompt(
    [Judgment(0, 1, 1.0, ranking="x"), Judgment(0, 2, 1.0, ranking="x"), Judgment(1, 2, 0.5, ranking="x")], 3,
    [True, None, False],
)  # fmt: skip
PAIRS = prompt([Judgment(1, 0, 1.0, grade=4), Judgment(0, 1, 0.2)], 2, [False, True])
GROUP = [RANKED, PAIRS]
SCORES = torch.tensor([0.5, -0.3, 1.1, 0.2, 0.9])


def total(scores=SCORES, group=GROUP, **settings):
    head = nn.Linear(1, 1)
    head.register_parameter(LOG_TIE, nn.Parameter(torch.tensor(0.3)))
    return group_losses(RewardSettings(**settings), scores, group, head)


def bt(one, other, label=1.0, margin=0.0):
    one, other, label, margin = (torch.tensor([x]) for x in (one, other, label, margin))
    return bradley_terry(one, other, label, margin=margin).item()


def test_a_prompt_counts_once_however_many_judgments_it_has():
    ranked = (bt(0.5, -0.3) + bt(0.5, 1.1) + bt(-0.3, 1.1, 0.5)) / 3
    pairs = (bt(0.9, 0.2) + bt(0.2, 0.9, 0.2)) / 2
    found = total()
    assert found.total.item() == pytest.approx(ranked + pairs, abs=1e-6)
    assert (found.right, found.decided) == (3.0, 4)
    apart = [total(SCORES[:3], [RANKED]), total(SCORES[3:], [PAIRS])]
    assert sum(part.total.item() for part in apart) == pytest.approx(found.total.item(), abs=1e-6)


def test_margins_smoothing_and_centring_are_those_of_each_pair():
    graded = (bt(0.9, 0.2, margin=1.0) + bt(0.2, 0.9, 0.2)) / 2  # the second has no grade
    assert total(SCORES[3:], [PAIRS], margin="small").total.item() == pytest.approx(graded, abs=1e-6)
    own = (bt(0.9, 0.2, margin=0.7) + bt(0.2, 0.9, 0.2)) / 2
    assert total(SCORES[3:], [PAIRS], margin=[0, 0.1, 0.2, 0.7]).total.item() == pytest.approx(own, abs=1e-6)
    smooth = (bt(0.9, 0.2, 0.9) + bt(0.2, 0.9, 0.26)) / 2
    assert total(SCORES[3:], [PAIRS], flip_rate=0.1).total.item() == pytest.approx(smooth, abs=1e-6)
    centred = total(SCORES[3:], [PAIRS], centring_coefficient=0.5).total - total(SCORES[3:], [PAIRS]).total
    assert centred.item() == pytest.approx(0.5 * centring_penalty(SCORES[3:4], SCORES[4:]).item(), abs=1e-6)


def test_a_grade_between_two_has_a_margin_between_theirs():
    between = prompt([Judgment(0, 1, 1.0, grade=2.5)], 2)
    assert total(SCORES[:2], [between], margin="large").total.item() == pytest.approx(
        bt(0.5, -0.3, margin=1.5), abs=1e-6
    )


def test_rankings_are_put_together_from_their_pairs():
    assert ranks_of(RANKED) == [{0: 0, 1: 1, 2: 1}]
    assert ranks_of(PAIRS) == [{1: 0, 0: 1}, {0: 1, 1: 0}]
    present = torch.ones(1, 3, dtype=torch.bool)
    whole = plackett_luce(SCORES[None, :3], torch.tensor([[0, 1, 1]]), present).item()
    found = total(loss="plackett-luce").total.item()
    assert found == pytest.approx(whole + bt(0.9, 0.2), abs=1e-6)  # both pairs of the other prompt say the same


def test_rankings_of_two_are_pairs():
    pair = prompt([Judgment(0, 1, 0.0), Judgment(0, 1, 1.0)], 2)
    alike = [total(SCORES[:2], [pair], loss=loss).total.item() for loss in ("plackett-luce", "bradley-terry")]
    assert alike[0] == pytest.approx(alike[1], abs=1e-6)


def test_a_cost_is_higher_for_what_is_worse():
    pair = prompt([Judgment(0, 1, 1.0)], 2, [True, False])  # the first is the safer
    found = total(torch.tensor([-0.4, 1.5]), [pair], loss="cost")
    expected = cost_comparison(
        torch.tensor([1.5]), torch.tensor([-0.4]), torch.tensor([1.0]), torch.tensor([True]), torch.tensor([False])
    )
    assert found.total.item() == pytest.approx(expected.item(), abs=1e-6)
    assert found.right == 1


def test_safety_is_told_from_those_responses_that_have_a_label():
    added = total(safety_coefficient=2.0).total - total().total
    one = safety_classification(SCORES[[0, 2]], torch.tensor([True, False])).mean()
    other = safety_classification(SCORES[3:], torch.tensor([False, True])).mean()
    assert added.item() == pytest.approx(2 * (one + other).item(), abs=1e-5)
    bare = prompt([Judgment(0, 1, 1.0)], 2, [None, None])
    assert total(SCORES[:2], [bare], safety_coefficient=2.0).total.equal(total(SCORES[:2], [bare]).total)


@pytest.mark.parametrize(
    "settings",
    [
        {"loss": "plackett-luce", "margin": "small"},
        {"loss": "davidson", "flip_rate": 0.1},
        {"loss": "plackett-luce", "annotators": "majority"},
        {"loss": "cost", "safety_coefficient": 1.0},
        {"margin": [1.0, 2.0]},
    ],
)
def test_settings_that_mean_nothing_together_are_refused(settings):
    with pytest.raises(ValueError, match=r"reward\.|at least 4"):
        RewardSettings(**settings)


def judged(*choices):
    """A prompt whose two responses, a and b, were judged by (annotator, choice, grade) each."""
    comparisons = [Comparison("p", "a", "b", name, choice, "run", grade) for name, choice, grade in choices]
    judgments = [Judgment(0, 1, c.preference_first, c.grade) for c in comparisons]
    return JudgedPrompt("p", ["a", "b"], [SEQUENCE] * 2, judgments, comparisons)


def test_a_majority_decides_with_the_mean_grade_of_those_who_won():
    (combined,) = combine_annotators([judged(("x", "first", 4), ("y", "second", 1), ("z", "first", 2))], "majority")
    assert combined.judgments == [Judgment(0, 1, 1.0, 3.0)]
    (even,) = combine_annotators([judged(("x", "first", 4), ("y", "second", 1))], "majority")
    assert even.judgments == [Judgment(0, 1, 0.5, None)]
    (swapped,) = combine_annotators(
        [JudgedPrompt("p", ["a", "b"], [SEQUENCE] * 2, [], [Comparison("p", "b", "a", "x", "first", "run")])],
        "majority",
    )
    assert swapped.judgments == [Judgment(0, 1, 0.0)]


def test_skill_trusts_those_who_agree_with_the_others():
    """Two careful annotators against three who guess: where they differ, the careful ones are believed."""
    pytest.importorskip("crowdkit")
    draw = random.Random(0)
    prompts, truth = [], []
    for number in range(300):
        best = draw.choice(["first", "second"])
        other = "second" if best == "first" else "first"
        says = [("careful", 0.97), ("steady", 0.95), ("guess1", 0.5), ("guess2", 0.5), ("guess3", 0.5)]
        comparisons = [
            Comparison(f"p{number}", f"a{number}", f"b{number}", name, best if draw.random() < rate else other, "run")
            for name, rate in says
        ]
        prompts.append(
            JudgedPrompt(f"p{number}", [f"a{number}", f"b{number}"], [SEQUENCE] * 2, [Judgment(0, 1, 1.0)], comparisons)
        )
        truth.append(best == "first")

    def right(how):
        found = combine_annotators(prompts, how)
        return sum((p.judgments[0].preference > 0.5) == t for p, t in zip(found, truth, strict=True)) / len(truth)

    assert right("skill") > 0.93 > right("majority") + 0.05
    chances = [p.judgments[0].preference for p in combine_annotators(prompts, "skill")]
    assert all(0 <= chance <= 1 for chance in chances)


QUESTIONS = [f"What should I do about my {a} and {b} today?" for a in WORDS[10:18] for b in WORDS[18:24]]
TEXTS = ["a good kind happy answer", "a good sad answer", "a bad sad answer", "bad sad awful rain"]
LEARN = [*TINY, "model.lora=null", "reward.optimiser.learning_rate=0.003", "reward.epochs=3", "reward.head_scale=0.1"]


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    """Rankings of four, comparisons with safety labels by another criterion, and a tie now and then."""
    base = tmp_path_factory.mktemp("reward")
    changes = [*LEARN, f"model.name={make_model(base / 'model')}", f"reward.model={base / 'model'}"]
    made = plaudit.init(base / "workspace", config=resolve(overrides=changes))
    draw = random.Random(0)
    rankings, harms = [], []
    for question in QUESTIONS:
        order = draw.sample(range(4), 4)
        ranks = [min(i, 2) + 1 for i in order]  # the last two are tied
        rankings.append(
            {"prompt": question, "responses": [TEXTS[i] for i in order], "ranks": ranks, "annotator": "ann"}
        )
        safer, worse = draw.sample(range(4), 2)
        safer, worse = min(safer, worse), max(safer, worse)
        harms.append({
            "prompt": question, "chosen": TEXTS[safer], "rejected": TEXTS[worse], "criterion": "harmlessness",
            "chosen_safe": safer < 2, "rejected_safe": worse < 2,
        })  # fmt: skip
    plaudit.import_file(made.store, write_lines(base / "rankings.jsonl", rankings), kind="rankings")
    plaudit.import_file(made.store, write_lines(base / "harms.jsonl", harms), kind="comparisons")
    return made


def scores_of(run, texts=TEXTS):
    model = load_reward(str(run.model_folder), ModelSettings(dtype="float32"))
    form = model.format
    ids = form.encode_prompt([{"role": "user", "content": QUESTIONS[0]}])
    with torch.no_grad():
        return model.network.scores(
            collate([TokenSequence(ids, form.encode_response(text)) for text in texts])
        ).tolist()


@pytest.mark.parametrize("loss", ["bradley-terry", "davidson", "plackett-luce"])
def test_each_loss_learns_the_order_from_rankings(workspace, loss):
    run = plaudit.reward(workspace, workspace.config(overrides=["reward.criterion=''", f"reward.loss={loss}"]))
    assert run.result["accuracy"]["value"] > 0.95
    assert run.result["ties"] > 0
    best, good, *tied = scores_of(run)
    assert best > good > max(tied)
    assert ("tie_parameter" in run.result) == (loss == "davidson")


def test_a_cost_model_learns_what_harms_and_where_harm_begins(workspace):
    run = plaudit.reward(workspace, workspace.config(overrides=["reward.criterion=harmlessness", "reward.loss=cost"]))
    assert run.result["accuracy"]["value"] > 0.95
    costs = scores_of(run)
    assert costs == sorted(costs)
    assert costs[1] < 0 < costs[2]
    assert (run.result["score_mean"], run.result["score_std"]) == (0.0, 1.0)


def test_a_cost_without_safety_labels_is_refused(workspace, capsys):
    with pytest.raises(DataError, match="no comparisons"):
        plaudit.reward(workspace, workspace.config(overrides=["reward.criterion=''", "reward.loss=cost"]))
    assert "have a response without a `safe` label" in capsys.readouterr().err


def test_several_criteria_need_a_name(workspace):
    with pytest.raises(DataError, match=r'by several criteria: "" \(none named\), harmlessness'):
        plaudit.reward(workspace)
    with pytest.raises(DataError, match="no comparisons by criterion `wit`"):
        plaudit.reward(workspace, workspace.config(overrides=["reward.criterion=wit"]))


def test_demonstrations_may_be_what_scores_zero(workspace, tmp_path):
    rows = [{"prompt": question, "completion": TEXTS[1]} for question in QUESTIONS]
    plaudit.import_file(workspace.store, write_lines(tmp_path / "d.jsonl", rows), kind="demonstrations")
    changes = ["reward.criterion=''", "reward.zero=demonstrations", "reward.unit_variance=false"]
    run = plaudit.reward(workspace, workspace.config(overrides=changes))
    model = load_reward(str(run.model_folder), ModelSettings(dtype="float32"))
    mean, std = model.score_normaliser
    assert std == 1.0
    assert mean == pytest.approx(scores_of(run, TEXTS[1:2])[0], abs=0.3)


def test_a_loss_that_is_none_is_refused_by_its_name(workspace):
    with pytest.raises(ConfigError, match=r"reward\.loss"):
        workspace.config(overrides=["reward.loss=elo"])
