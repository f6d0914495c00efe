"""`plaudit evaluate reward` and `plaudit score`: a reward model against files, from the command line."""

import json

import pytest
import torch
from conftest import make_model, write_lines
from torch.nn.functional import logsigmoid
from typer.testing import CliRunner

from plaudit.cli import app
from plaudit.config import ModelSettings, resolve
from plaudit.errors import DataError
from plaudit.evaluation.scoring_files import evaluate_reward, score_file
from plaudit.models.loading import load_causal, load_reward, reward_from_causal
from plaudit.models.saving import save_reward
from plaudit.models.score_facts import ScoreFacts
from plaudit.records import Prompt
from plaudit.rewards.answers import score_answers
from plaudit.statistics.reward_quality import ScoredPair, reward_quality

FLOAT32 = ModelSettings(dtype="float32")
CONFIG = resolve(overrides=["model.dtype=float32"])
ANSWERS = ["a good happy answer", "bad sad rain", "why does it fall on stone and river and moon", "tea"]
QUESTION = "what should I do"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A reward model of random weights."""
    base = tmp_path_factory.mktemp("scorer")
    model = reward_from_causal(load_causal(str(make_model(base / "causal")), FLOAT32), seed=0)
    save_reward(model.network, model, base / "reward", ScoreFacts(mean=(0.25,), std=(2.0,), temperatures=(1.7,)))
    return base / "reward"


@pytest.fixture(scope="module")
def scores(folder):
    prompt = Prompt([{"role": "user", "content": QUESTION}])
    found = score_answers(load_reward(str(folder), FLOAT32), [(prompt, text) for text in ANSWERS], CONFIG)
    return [score for (score,) in found]


def run(*arguments):
    result = CliRunner().invoke(app, [str(a) for a in arguments])
    assert result.exit_code == 0, result.output
    return result.stdout


def pairs(scores, **columns):
    """Every pair, the response that the model scores higher preferred; the last pair the other way round."""
    order = sorted(range(4), key=lambda i: -scores[i])
    rows = [
        {"prompt": QUESTION, "chosen": ANSWERS[a], "rejected": ANSWERS[b], **columns}
        for k, a in enumerate(order)
        for b in order[k + 1 :]
    ]
    rows[-1]["chosen"], rows[-1]["rejected"] = rows[-1]["rejected"], rows[-1]["chosen"]
    return rows


def test_a_model_is_measured_on_a_file_by_grade_criterion_subset_and_length(folder, scores, tmp_path):
    rows = pairs(scores, subset="chat", criterion="helpfulness", annotator="ann")
    rows[0]["grade"], rows[-1]["grade"] = 4, "negligibly better"
    plot = tmp_path / "plot.svg"
    found = json.loads(
        run("evaluate", "reward", folder, "--comparisons", write_lines(tmp_path / "c.jsonl", rows), "--json",
            "--plot", plot, "model.dtype=float32")
    )  # fmt: skip
    assert found["accuracy"]["value"] == pytest.approx(5 / 6)
    assert (found["judgments"], found["prompts"], found["left_out"]) == (6, 1, 0)
    assert list(found["accuracy_by_grade"]) == ["none given", "negligibly better", "significantly better"]
    assert found["accuracy_by_grade"]["negligibly better"]["value"] == 0
    assert found["accuracy_by_subset"]["chat"]["n"] == 1
    assert found["accuracy_by_criterion"].keys() == {"helpfulness"}
    assert sum(found["longer_wins"]["value"] * 6 for _ in "x") == pytest.approx(
        sum(len(r["chosen"].split()) > len(r["rejected"].split()) for r in rows)
    )
    assert "<svg" in plot.read_text()
    margins = [scores[ANSWERS.index(r["chosen"])] - scores[ANSWERS.index(r["rejected"])] for r in rows]
    over = torch.tensor(margins, dtype=torch.float64) / 1.7
    assert found["stored_temperature"] == 1.7
    assert found["calibrated_log_loss"] == pytest.approx(-logsigmoid(over).mean().item(), abs=1e-5)
    assert found["calibrated_error"] == pytest.approx(  # six judgments are six bins of one
        sum(abs((m > 0) - torch.sigmoid(over[i].abs()).item()) for i, m in enumerate(margins)) / 6, abs=1e-5
    )
    shown = run("evaluate", "reward", folder, "--comparisons", tmp_path / "c.jsonl", "model.dtype=float32")
    assert "accuracy: 0.8333" in shown


def test_rankings_are_measured_as_their_pairs(folder, scores, tmp_path):
    order = sorted(range(4), key=lambda i: -scores[i])
    row = {"prompt": QUESTION, "responses": ANSWERS, "ranks": [order.index(i) + 1 for i in range(4)]}
    found = evaluate_reward(str(folder), write_lines(tmp_path / "r.jsonl", [row]), CONFIG)
    assert (found["accuracy"]["value"], found["judgments"]) == (1.0, 6)


def test_of_a_cost_model_the_lower_score_is_preferred(folder, scores, tmp_path):
    config = json.loads((folder / "config.json").read_text())
    cost = tmp_path / "cost"
    cost.mkdir()
    for file in folder.iterdir():
        (cost / file.name).write_bytes(file.read_bytes())
    (cost / "config.json").write_text(json.dumps({**config, **ScoreFacts(is_cost=True).keep()}))
    rows = write_lines(tmp_path / "c.jsonl", pairs(scores))
    one, other = (evaluate_reward(str(f), rows, CONFIG) for f in (folder, cost))
    assert one["accuracy"]["value"] == pytest.approx(1 - other["accuracy"]["value"])
    assert one["length_correlation"] == pytest.approx(-other["length_correlation"])


def test_scores_are_those_of_the_model_raw_and_normalised(folder, scores, tmp_path):
    rows = [{"prompt": QUESTION, "completion": text, "mine": i} for i, text in enumerate(ANSWERS)]
    turns = [{"role": "user", "content": QUESTION}, {"role": "assistant", "content": ANSWERS[2]}]
    data = write_lines(tmp_path / "a.jsonl", [*rows, {"messages": turns}])
    run("score", folder, "--data", data, "--output", tmp_path / "out.jsonl", "model.dtype=float32")
    found = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [row["score"] for row in found] == pytest.approx([*scores, scores[2]], abs=1e-5)
    assert [row["normalised_score"] for row in found] == pytest.approx([(row["score"] - 0.25) / 2 for row in found])
    assert found[1]["mine"] == 1
    lines = run("score", folder, "--data", data, "model.dtype=float32").splitlines()
    assert [json.loads(line) for line in lines] == found


def test_an_answer_beyond_the_context_is_counted_not_cut(folder, tmp_path, capsys):
    rows = [{"prompt": QUESTION, "completion": "tea"}, {"prompt": QUESTION, "completion": "rain " * 400}]
    found = score_file(str(folder), write_lines(tmp_path / "a.jsonl", rows), CONFIG, None)
    assert found[0]["score"] is not None
    assert found[1]["score"] is None
    assert "1 of 2 answers are beyond the model's context" in capsys.readouterr().err
    output = tmp_path / "scored.jsonl"
    told = run(
        "score", folder, "--data", tmp_path / "a.jsonl", "--output", output, "-w", tmp_path, "model.dtype=float32"
    )
    assert told == f"Wrote 2 lines, 1 of them with a score to {output}.\n"


def test_an_answer_that_calls_a_tool_is_refused_with_its_line(folder, tmp_path):
    call = {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "look"}}]}
    row = {"messages": [{"role": "user", "content": QUESTION}, call]}
    with pytest.raises(DataError, match="line 1: there are rows whose `messages` ends in a call of a tool"):
        score_file(str(folder), write_lines(tmp_path / "a.jsonl", [row]), CONFIG, None)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"prompt": "p", "chosen": "a", "rejected": "b", "tie": True}, "no comparison that is not a tie"),
        ({"prompt": "p", "chosen": "a"}, "column `rejected` is missing"),
    ],
)
def test_a_file_that_says_nothing_is_refused(folder, tmp_path, row, message):
    with pytest.raises(DataError, match=message):
        evaluate_reward(str(folder), write_lines(tmp_path / "c.jsonl", [row]), CONFIG)


def test_a_model_that_loves_length_is_seen():
    """Twenty pairs; the model gives words as its score, and people prefer the longer in fifteen."""
    judged = [
        ScoredPair(str(i), "a", (f"a{i}", f"b{i}"), float(words), float(i % 4 > 0), None, words)
        for i, words in enumerate([30, 5, 2, 8] * 5)
    ]
    found = reward_quality(judged)
    assert found["scores_longer"] == 1.0
    assert found["longer_wins"]["value"] == found["accuracy"]["value"] == 0.75
    by_length = {name: row["value"] for name, row in found["accuracy_by_length"].items()}
    assert by_length == {"over 20 words shorter": 0.0, "within 3 words": 1.0, "longer": 1.0}
    assert found["brier"] == pytest.approx(
        sum((1 / (1 + 2.718281828 ** (w if i % 4 else -w))) ** 2 for i, w in enumerate([30, 5, 2, 8] * 5)) / 20
    )


def test_evaluating_a_policy_is_still_what_evaluate_means_by_itself(tmp_path):
    result = CliRunner().invoke(app, ["evaluate", "--help"])
    assert "policy" in result.stdout
    assert "reward" in result.stdout
    result = CliRunner().invoke(app, ["evaluate", "--workspace", str(tmp_path / "none")])
    assert "none" in str(result.exception)
