"""Reward and cost models: each loss from the judgments it needs, several annotators, and what is stored beside."""

import math
import random

import pytest
import torch
from conftest import TINY, WORDS, make_model, write_lines
from torch import nn

import plaudit
from plaudit.config import ModelSettings, RewardSettings, resolve
from plaudit.errors import ConfigError, DataError, ModelError
from plaudit.evaluation.scoring_files import evaluate_reward, score_file
from plaudit.models.loading import load_reward, one_head
from plaudit.objectives import bradley_terry, centring_penalty, cost_comparison, plackett_luce, safety_classification
from plaudit.records import Comparison
from plaudit.rewards.scoring import Answered, RewardModelScorer, RewardModelScores
from plaudit.statistics.reward_quality import ScoredPair
from plaudit.text.batches import collate
from plaudit.text.chat import TokenSequence
from plaudit.training.data.annotators import combine_annotators
from plaudit.training.data.judged_prompts import JudgedPrompt, Rating
from plaudit.training.data.judged_prompts import PairJudgment as Judgment
from plaudit.training.reward import _temperatures
from plaudit.training.steps.reward import LOG_TIE, _bootstrap_count, group_losses, losses_by_head, ranks_of

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


@pytest.mark.parametrize(("loss", "sign"), [("bradley-terry", 1), ("cost", -1)])
def test_right_is_what_has_the_higher_score_of_the_preferred_and_equal_scores_are_not(loss, sign):
    judged = [
        Judgment(0, 1, 1.0),
        Judgment(1, 0, 0.9),
        Judgment(2, 1, 1.0),
        Judgment(0, 1, 0.5),
        Judgment(1, 2, 0.4),
    ]
    found = total(sign * torch.tensor([2.0, 1.0, 1.0]), [prompt(judged, 3, [True] * 3)], loss=loss)
    assert (found.right, found.decided) == (1.0, 4)


def test_centring_is_a_mean_over_each_prompts_pairs_with_its_coefficient():
    """Of three pairs and of two; the sum over prompts, whichever way round a pair stands."""
    plain, centred = (total(centring_coefficient=c).total.item() for c in (0.0, 0.25))
    ranked = [centring_penalty(SCORES[[i]], SCORES[[j]]).item() for i, j in ((0, 1), (0, 2), (1, 2))]
    pairs = centring_penalty(SCORES[[3]], SCORES[[4]]).item()
    assert centred - plain == pytest.approx(0.25 * (sum(ranked) / 3 + pairs), abs=1e-6)
    safe = total(safety_coefficient=0.5, centring_coefficient=0.25).total.item()
    alone = total(safety_coefficient=0.5).total.item()
    assert safe - alone == pytest.approx(centred - plain, abs=1e-6)


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
        {"loss": "cost", "criteria": ["a", "b"]},
        {"criteria": ["a", "b"], "safety_coefficient": 0.5},
        {"criteria": ["a", "b"], "criterion": "a"},
        {"criteria": ["a", "a"]},
        {"criteria": ["a", "b"], "members": 2},
        {"loss": "rating", "margin": "small"},
        {"loss": "rating", "centring_coefficient": 0.01},
        {"loss": "rating", "safety_coefficient": 0.01},
        {"loss": "davidson", "criteria": ["a", "b"]},
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


def test_ties_are_votes_for_neither_side():
    votes = {("first", "tie", "second"): 0.5, ("tie", "tie"): 0.5, ("tie", "first"): 1.0, ("tie", "tie", "second"): 0.0}
    for choices, preference in votes.items():
        (found,) = combine_annotators([judged(*((str(i), c, None) for i, c in enumerate(choices)))], "majority")
        assert found.judgments == [Judgment(0, 1, preference)], choices


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


def ready_to_learn(base):
    """A workspace with a tiny model, all of whose weights a reward model trains."""
    changes = [*LEARN, f"model.name={make_model(base / 'model')}", f"reward.model={base / 'model'}"]
    return plaudit.init(base / "workspace", config=resolve(overrides=changes))


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    """Rankings of four, comparisons with safety labels by another criterion, and a tie now and then."""
    base = tmp_path_factory.mktemp("reward")
    made = ready_to_learn(base)
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
    with pytest.raises(DataError, match="no judgments on training prompts"):
        plaudit.reward(workspace, workspace.config(overrides=["reward.criterion=''", "reward.loss=cost"]))
    assert "have a response without a `safe` label" in capsys.readouterr().err


def test_several_criteria_need_a_name(workspace):
    with pytest.raises(
        DataError, match=r'by several criteria: "" \(none named\), harmlessness. Name .* `reward.criteria`'
    ):
        plaudit.reward(workspace)
    with pytest.raises(DataError, match=r"Name the one to learn by `prefer.criterion`\."):
        plaudit.prefer(workspace)
    with pytest.raises(DataError, match="no comparisons by criterion `wit`"):
        plaudit.reward(workspace, workspace.config(overrides=["reward.criterion=wit"]))


def test_demonstrations_may_be_what_scores_zero(workspace, tmp_path):
    rows = [{"prompt": question, "completion": TEXTS[1]} for question in QUESTIONS]
    plaudit.import_file(workspace.store, write_lines(tmp_path / "d.jsonl", rows), kind="demonstrations")
    changes = ["reward.criterion=''", "reward.zero=demonstrations", "reward.unit_variance=false"]
    run = plaudit.reward(workspace, workspace.config(overrides=changes))
    model = load_reward(str(run.model_folder), ModelSettings(dtype="float32"))
    assert model.scores.std == (1.0,)
    assert model.scores.mean[0] == pytest.approx(scores_of(run, TEXTS[1:2])[0], abs=0.3)


def test_a_loss_that_is_none_is_refused_by_its_name(workspace):
    with pytest.raises(ConfigError, match=r"reward\.loss"):
        workspace.config(overrides=["reward.loss=elo"])


def test_preferences_by_one_criterion_of_several(workspace):
    start = f"prefer.policy={workspace.config().model.name}"
    run = plaudit.prefer(workspace, workspace.config(overrides=["prefer.criterion=harmlessness", start]))
    assert run.result["train_items"] == run.info["data"]["comparisons"]["count"] - run.result["held_out_items"]


def by_heads(scores, group, **settings):
    return losses_by_head(RewardSettings(**settings), scores, group, nn.Linear(1, 1), seed=0)


def test_each_criterion_is_learnt_by_its_own_head():
    mixed = prompt([Judgment(0, 1, 1.0, criterion="wit"), Judgment(1, 2, 0.0, criterion="truth")], 3)
    only = prompt([Judgment(0, 1, 1.0, criterion="wit")], 2)
    scores = torch.randn(5, 2, generator=torch.Generator().manual_seed(0), requires_grad=True)
    found = by_heads(scores, [mixed, only], criteria=["wit", "truth"])
    wit = bt(*scores[:2, 0].tolist()) + bt(*scores[3:, 0].tolist())
    truth = bt(*scores[[2, 1], 1].tolist())
    assert found.total.item() == pytest.approx((wit + truth) / 2, abs=1e-5)
    assert found.decided == 3
    found.total.backward()
    assert not scores.grad[3:, 1].any()  # nobody asked about the truth of these


def test_how_often_a_prompt_is_in_a_bootstrap_sample_is_poissons_of_mean_1():
    """The distribution function is 1, 2, 5/2, 8/3 ... over e; at each of its values the count is the next one."""
    assert [_bootstrap_count(u) for u in (0.0, math.nextafter(math.exp(-1), 0), math.exp(-1))] == [0, 0, 1]
    for count, part in enumerate((1, 2, 5 / 2, 8 / 3, 65 / 24)):
        assert _bootstrap_count(part / math.e - 1e-9) == count
        assert _bootstrap_count(part / math.e + 1e-9) == count + 1
    assert _bootstrap_count(1.0) == 20  # where the sum of chances has been 1 for long


def test_members_of_an_ensemble_see_bootstrap_samples():
    prompts = [JudgedPrompt(f"p{i}", ["a", "b"], [SEQUENCE] * 2, [Judgment(0, 1, 1.0)], []) for i in range(2000)]
    scores = torch.zeros(4000, 3, requires_grad=True)
    found = by_heads(scores, prompts, members=3)
    found.total.backward()
    counts = (-scores.grad[::2] * 2 * 3).round()  # the gradient of a pair of equal scores is one half
    assert counts.mean(dim=0).tolist() == pytest.approx([1.0] * 3, abs=0.1)
    assert counts.var(dim=0).tolist() == pytest.approx([1.0] * 3, abs=0.15)
    assert (counts == 0).float().mean().item() == pytest.approx(0.368, abs=0.03)
    assert abs(torch.corrcoef(counts.T)[0, 1].item()) < 0.07


def test_ratings_are_learnt_by_squared_error():
    rated = JudgedPrompt(
        "p", ["a", "b"], [SEQUENCE] * 2, [], [], (), (Rating(0, 1.5, ""), Rating(1, -1.0, ""), Rating(1, 0.0, ""))
    )
    found = total(torch.tensor([0.5, 1.0]), [rated], loss="rating")
    assert found.total.item() == pytest.approx((1.0 + 4.0 + 1.0) / 3)
    assert (found.right, found.decided) == (0.0, 0)


@pytest.fixture(scope="module")
def rated(tmp_path_factory):
    """Four answers to each question, rated from 1 to 10 for help and for gloom, which are opposed."""
    base = tmp_path_factory.mktemp("rated")
    made = ready_to_learn(base)
    draw = random.Random(0)
    scales = {"help": [9, 7, 4, 2], "gloom": [1, 4, 6, 9]}
    rows = [
        {"prompt": question, "completion": text, "rating": scale[i] + draw.choice([-1, 0, 1]), "criterion": criterion,
         "annotator": name}
        for question in QUESTIONS
        for i, text in enumerate(TEXTS)
        for name in ("ann", "bob")
        for criterion, scale in scales.items()
    ]  # fmt: skip
    plaudit.import_file(made.store, write_lines(base / "ratings.jsonl", rows), kind="ratings")
    return made


def by_head(run):
    with torch.no_grad():
        return torch.tensor(scores_of(run)).T.tolist()


def test_ratings_of_several_criteria_are_learnt_on_one_body(rated, tmp_path):
    changes = ["reward.loss=rating", "reward.criteria=[help, gloom]"]
    run = plaudit.reward(rated, rated.config(overrides=changes))
    assert min(run.result["rating_correlation"].values()) > 0.9
    assert max(run.result["rating_error"].values()) < 0.25
    assert min(row["value"] for row in run.result["accuracy_by_criterion"].values()) > 0.9
    helpful, gloomy = by_head(run)
    assert helpful == sorted(helpful, reverse=True)
    assert gloomy == sorted(gloomy)
    assert run.result["train_ratings"] == 16 * run.result["train_prompts"]

    rows = [{"prompt": QUESTIONS[0], "completion": text} for text in TEXTS]
    config = rated.config()
    scored = score_file(str(run.model_folder), write_lines(tmp_path / "a.jsonl", rows), config, None)
    assert [row["rating"]["help"] for row in scored] == pytest.approx([9, 7, 4, 2], abs=1.2)
    assert [row["rating"]["gloom"] for row in scored] == pytest.approx([1, 4, 6, 9], abs=1.2)

    pairs = [{"prompt": QUESTIONS[0], "chosen": TEXTS[0], "rejected": TEXTS[3], "criterion": "help"},
             {"prompt": QUESTIONS[0], "chosen": TEXTS[3], "rejected": TEXTS[0], "criterion": "gloom"}]  # fmt: skip
    file = write_lines(tmp_path / "c.jsonl", pairs)
    assert evaluate_reward(str(run.model_folder), file, config)["accuracy"]["value"] == 1.0
    assert evaluate_reward(str(run.model_folder), file, config, head="help")["accuracy"]["value"] == 0.5
    file = write_lines(tmp_path / "d.jsonl", [{**pairs[0], "criterion": "wit"}])
    with pytest.raises(ModelError, match=r"scores help, gloom; .* has comparisons by 'wit'"):
        evaluate_reward(str(run.model_folder), file, config)


def test_ratings_need_a_criterion_and_a_spread(rated, tmp_path):
    with pytest.raises(DataError, match="the ratings are by several criteria: gloom, help"):
        plaudit.reward(rated, rated.config(overrides=["reward.loss=rating"]))
    flat = plaudit.init(tmp_path / "w", config=rated.config())
    rows = [{"prompt": question, "completion": "tea", "rating": 3} for question in QUESTIONS]
    plaudit.import_file(flat.store, write_lines(tmp_path / "r.jsonl", rows), kind="ratings")
    with pytest.raises(DataError, match="all ratings by `rating` are 3"):
        plaudit.reward(flat, flat.config(overrides=["reward.loss=rating"]))


def test_heads_are_rewards_of_their_own_and_an_ensembles_mean_is_one(workspace, tmp_path):
    run = plaudit.reward(workspace, workspace.config(overrides=["reward.criterion=''", "reward.members=3"]))
    assert run.result["accuracy"]["value"] > 0.95
    assert len(run.result["score_mean"]) == 3
    members = by_head(run)
    assert all(scores[0] > max(scores[2:]) for scores in members)
    assert members[0] != members[1]
    model = load_reward(str(run.model_folder), ModelSettings(dtype="float32"))
    assert model.scores.heads == ("member-0", "member-1", "member-2")
    assert model.config.id2label[2] == "member-2"

    form = model.format
    question = [{"role": "user", "content": QUESTIONS[0]}]
    answers = [
        Answered(question, TokenSequence(form.encode_prompt(question), form.encode_response(text)), text, True)
        for text in TEXTS
    ]
    together = RewardModelScores(model, 512)
    facts = model.scores
    normalised = (torch.tensor(members) - torch.tensor(facts.mean)[:, None]) / torch.tensor(facts.std)[:, None]
    for normalise, expected in ((True, normalised), (False, torch.tensor(members))):
        found = RewardModelScorer(together, normalise)(answers)
        torch.testing.assert_close(found, expected.mean(dim=0), atol=1e-5, rtol=1e-5)
        alone = one_head(model, None, normalised=normalise)
        torch.testing.assert_close(
            RewardModelScorer(RewardModelScores(alone, 512), normalise)(answers), found, atol=1e-5, rtol=1e-5
        )
        second = one_head(model, "member-1", normalised=normalise)
        torch.testing.assert_close(
            RewardModelScorer(RewardModelScores(second, 512), normalise)(answers), expected[1], atol=1e-5, rtol=1e-5
        )
    torch.testing.assert_close(RewardModelScorer(together, True, "member-1")(answers), normalised[1], atol=1e-5, rtol=0)

    rows = [{"prompt": QUESTIONS[0], "completion": text} for text in TEXTS]
    scored = score_file(str(run.model_folder), write_lines(tmp_path / "a.jsonl", rows), workspace.config(), None)
    assert [row["mean_score"] for row in scored] == pytest.approx(normalised.mean(dim=0).tolist(), abs=1e-4)
    assert [row["disagreement"] for row in scored] == pytest.approx(
        normalised.std(dim=0, correction=0).tolist(), abs=1e-4
    )


def test_a_policy_may_learn_from_the_heads_of_one_run(workspace):
    """One forward of the body for all heads, whether its members are combined or criteria weighed."""
    both = plaudit.reward(workspace, workspace.config(overrides=["reward.criteria=['', harmlessness]"]))
    ensemble = plaudit.reward(workspace, workspace.config(overrides=["reward.criterion=''", "reward.members=3"]))
    quick = ["rl.steps=1", "rl.prompts_per_step=4", "rl.minibatches=1", "rl.algorithm=reinforce",
             "rl.missing_eos_score=null", f"rl.policy={workspace.config().model.name}"]  # fmt: skip
    careful = plaudit.rl(
        workspace,
        workspace.config(overrides=[*quick, f"rl.reward={ensemble.name}", "rl.combine=mean-minus-deviation"]),
    )
    plain = plaudit.rl(workspace, workspace.config(overrides=[*quick, f"rl.reward={ensemble.name}"]))
    assert careful.metrics()[0]["score"] < plain.metrics()[0]["score"]
    heads = f"[{{source: {both.name}, head: ''}}, {{source: {both.name}, head: harmlessness, weight: 0.5}}]"
    weighed = plaudit.rl(workspace, workspace.config(overrides=[*quick, f"rl.reward={heads}"]))
    assert weighed.parents["reward_1"] == both.name
    with pytest.raises(ModelError, match=r"scores several things: name one of '', 'harmlessness' by `rl.reward: head`"):
        plaudit.rl(workspace, workspace.config(overrides=[*quick, f"rl.reward={both.name}"]))
    wrong = f"rl.reward=[{{source: {ensemble.name}, head: wit}}]"
    with pytest.raises(ModelError, match=r"has no head `wit` for `rl.reward: head`; it has: 'member-0'"):
        plaudit.rl(workspace, workspace.config(overrides=[*quick, wrong]))


def test_a_head_that_nothing_would_teach_is_refused(rated, tmp_path):
    made = plaudit.init(tmp_path / "w", config=rated.config())
    rows = [{"prompt": q, "completion": text, "rating": i, "criterion": "help"}
            for q in QUESTIONS for i, text in enumerate(TEXTS)]  # fmt: skip
    plaudit.import_file(made.store, write_lines(tmp_path / "r.jsonl", rows), kind="ratings", held_out_share=0.0)
    other = {"prompt": "How do you do?", "criterion": "gloom"}
    rows = [{**other, "completion": text, "rating": i} for i, text in enumerate(TEXTS)]
    plaudit.import_file(made.store, write_lines(tmp_path / "g.jsonl", rows), kind="ratings", held_out_share=1.0)
    with pytest.raises(DataError, match=r"is judged by `gloom`, so no head can learn it"):
        plaudit.reward(made, made.config(overrides=["reward.loss=rating", "reward.criteria=[help, gloom]"]))


def test_each_criterion_has_a_temperature_of_its_own(rated):
    judged = [
        ScoredPair(f"p{i}", "x", (f"a{i}", f"b{i}"), difference, float(i % 4 > 0), None, 1.0, criterion=criterion)
        for i in range(400)
        for criterion, difference in (("sure", 4.0), ("shy", 0.2))
    ]
    sure, shy = _temperatures(judged, RewardSettings(criteria=["sure", "shy"]))
    assert sure == pytest.approx(4.0 / math.log(3), rel=1e-2)  # right three times in four
    assert shy == pytest.approx(0.2 / math.log(3), rel=1e-2)
    assert len(_temperatures(judged, RewardSettings(members=3))) == 1


def test_fewer_prompts_are_a_part_of_more(workspace):
    def trained_on(count):
        changes = ["reward.criterion=''", "reward.epochs=1", f"reward.most_prompts={count}"]
        return plaudit.reward(workspace, workspace.config(overrides=changes)).result

    few, more = trained_on(5), trained_on(9)
    assert (few["train_prompts"], more["train_prompts"]) == (5, 9)
    assert few["held_out_prompts"] == more["held_out_prompts"]
