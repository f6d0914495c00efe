"""The page that a chain of runs ends in: what it shows, what it admits not to know, and that it needs no network."""

from __future__ import annotations

import itertools
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from conftest import write_lines

from plaudit.collect.web import rendering
from plaudit.config import Config, resolve
from plaudit.records import Comparison
from plaudit.reporting.annotators import liked
from plaudit.reporting.drawing import running_mean
from plaudit.reporting.page import _alpha, evenly_spaced, extremes, report, short_name, verdict, visible
from plaudit.reporting.plots import win_rate_plot
from plaudit.reporting.text import agreement_lines, result_lines
from plaudit.statistics.agreement import agreement_report
from plaudit.workspace import Run, Sources, Workspace

RL_METRICS = (
    "reward score kl entropy clip_fraction value_clip_fraction length finished_rate value_loss explained_variance "
    "policy_gradient_norm value_gradient_norm sampler_gap"
).split()
RL_PLOTS = (
    "Score and reward|KL from the reference|Score against distance|Entropy|Clipping|Response length|Finished responses|"
    "Value loss|Explained variance of the returns|Gradient norms|Sampler against trainer"
).split("|")
ALL_PLOTS = [
    "Fine-tuning loss",
    "Reward model loss",
    "Reward model accuracy",
    "Held-out reliability",
    *RL_PLOTS,
    "Win rate",
    "Agreement of annotators",
    "Time by stage",
]


def interval(value: float, width: float = 0.1, n: int = 40) -> dict:
    return {"value": value, "low": value - width, "high": value + width, "n": n}


def side(text: str, utility: float = 0.0, **changes) -> dict:
    return {"text": text, "finished": True, "tokens": 7, "utility": utility, "reward": 0.5, **changes}


def sample_row(place: int, gain: float, text: str = "an answer") -> dict:
    return {
        "prompt_id": f"p{place}",
        "prompt": f"question {place}",
        "policy": side(text, utility=gain),
        "baseline": side("a baseline answer"),
    }


def means(length: float) -> dict:
    names = ("words", "utility", "finished_rate", "answers", "tone", "repetition")
    return {"length": interval(length, 2), **{name: interval(0.25) for name in names}}


def evaluation_result(**changes) -> dict:
    return {
        "prompts": 40,
        "answers": 80,
        "win_rate": interval(0.7),
        "win_rate_by_reward": interval(0.8),
        "kl": interval(3.25, 0.5),
        "perplexity": {"policy": 22.0, "baseline": 20.0, "texts": 9, "tokens": 99, "ratio": interval(1.1, 0.02, 9)},
        "rouge_l": {"policy": interval(0.31), "baseline": interval(0.32)},
        "policy": means(30.0),
        "baseline": means(20.0),
        **changes,
    }


def add_run(
    workspace: Workspace,
    kind: str,
    parents: dict,
    *,
    result: dict,
    config: Config | None = None,
    judged: str = "",
    **files,
) -> Run:
    """A complete run as its stage would leave it; `files` are rows of JSONL."""
    data = {"prompts": {"count": 40, "sha256": "0123456789abcdef" * 4}}
    sources = Sources(comparisons=(judged,)) if judged else Sources()
    with workspace.new_run(kind, config or Config(), parents=parents, sources=sources, data=data) as run:
        for name, rows in files.items():
            write_lines(run.path / f"{name}.jsonl", rows)
        run.update(result=result)
    return run


def add_training(workspace: Workspace, *, steps: int = 12) -> None:
    """sft-001, sample-001, judge-001, reward-001, rl-001."""
    losses = [{"step": i + 1, "loss": 1 / (i + 1)} for i in range(steps)]
    add_run(
        workspace,
        "sft",
        {"model": "/somewhere/on/this/machine/tiny"},
        result={"held_out_loss_before": 3.0, "held_out_loss_after": 2.0},
        metrics=losses,
    )
    add_run(workspace, "sample", {"policy": "sft-001"}, result={"responses": 80})
    pairs = {"ann / <b>ob": 0.7, "ann / cy $x$": 0.6}
    agreement = {"raw": interval(0.65), "alpha": interval(0.31), "pairs": 60, "by_annotators": pairs}
    add_run(workspace, "judge", {"samples": "sample-001"}, result={"agreement": agreement})
    bins = [{"confidence": 0.5 + i / 20, "accuracy": 0.4 + i / 20, "count": 9} for i in range(10)]
    quality = {"accuracy": interval(0.66), "log_loss": 0.6, "ceiling": 0.78, "longer_wins": interval(0.55)}
    add_run(
        workspace,
        "reward",
        {"model": "sft-001"},
        judged="judge-001",
        result={**quality, "reliability": bins, "train_judgments_by_people": 8},
        metrics=[{**row, "accuracy": 0.6} for row in losses],
    )
    rows = [{"step": i + 1, **dict.fromkeys(RL_METRICS, i / steps)} for i in range(steps)]
    add_run(workspace, "rl", {"policy": "sft-001", "reward": "reward-001"}, result={"steps": steps}, metrics=rows)


def write_page(workspace: Workspace, parents: dict, rows: list[dict] | None = None, **changes) -> str:
    files = {} if rows is None else {"samples": rows}
    add_run(workspace, "evaluate", parents, result=evaluation_result(**changes), **files)
    return report(workspace).read_text(encoding="utf-8")


@pytest.fixture
def empty(tmp_path) -> Workspace:
    return Workspace.create(tmp_path / "workspace")


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> str:
    """Of a whole lineage."""
    workspace = Workspace.create(tmp_path_factory.mktemp("report") / "workspace")
    add_training(workspace)
    parents = {"policy": "rl-001", "baseline": "sft-001", "reward": "reward-001"}
    return write_page(workspace, parents, [sample_row(i, gain=i - 20) for i in range(40)])


class Reader(HTMLParser):
    """Checks that every element is closed in order; collects ids, headings, attributes and plain text."""

    void = frozenset(("meta", "br", "link", "img", "hr", "input"))

    def __init__(self, html: str):
        super().__init__()
        self.open: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.headings: list[int] = []
        self.words: list[str] = []
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        if tag not in self.void:
            self.open.append(tag)
        if re.fullmatch("h[1-6]", tag):
            self.headings.append(int(tag[1]))
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_startendtag(self, tag, attrs):
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open:
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def values(self, name: str, tag: str | None = None) -> list[str]:
        return [value for t, n, value in self.attributes if n == name and tag in (None, t)]


def captions(html: str) -> list[str]:
    return re.findall(r"<figcaption><strong>(.+?)\.</strong>", html)


def test_every_plot_of_a_whole_lineage_is_there_and_described(page):
    assert captions(page) == ALL_PLOTS
    labels = Reader(page).values("aria-label", "svg")
    assert len(labels) == len(ALL_PLOTS)
    assert all(len(label) > 20 for label in labels)


def test_the_verdict_names_rate_interval_and_which_side_of_one_half_it_is_on(page):
    text = Reader(page).text.replace("\u202f", " ")
    assert "On 40 held-out prompts the policy’s answers win 70.0 % of comparisons" in text
    assert "(95 % interval 60.0 % to 80.0 %): the lower end is above 1/2" in text


@pytest.mark.parametrize(
    ("low", "high", "expected"), [(0.51, 0.7, "better"), (0.5, 0.7, "undecided"), (0.3, 0.49, "worse")]
)
def test_an_interval_that_touches_one_half_shows_no_improvement(low, high, expected):
    assert verdict({"value": 0.5, "low": low, "high": high, "n": 9})[0] == expected


def test_headline_figures_have_their_intervals(page):
    text = Reader(page).text.replace("\u202f", " ")
    for part in (
        "Win rate, by the reward model 80.0 % 95 %: 70.0 % to 90.0 % 40 prompts",
        "KL from the baseline 3.25 nats a response 95 %: 2.75 to 3.75",
        "Length 20.0 → 30.0 tokens before, 95 %: 18.0 to 22.0 after, 95 %: 28.0 to 32.0",
        "Perplexity on plain text (alignment tax) × 1.100 95 %: 1.080 to 1.120 20.00 → 22.00",
        "ROUGE-L against demonstrations 0.320 → 0.310",
        "accuracy 66.0 % 95 %: 56.0 % to 76.0 % ceiling, given the judges' noise: 78.0 % “longer wins”: 55.0 %",
        "Annotators' agreement 65.0 % 95 %: 55.0 % to 75.0 % Krippendorff's α 0.31, 95 %: 0.21 to 0.41 (0 is chance)",
        "Judgments by people 8",
    ):
        assert part in text


def test_an_agreement_of_an_earlier_version_and_one_without_a_value_are_shown():
    assert _alpha(0.31) == "0.31"
    assert _alpha(None) == "not measured"


def test_the_page_is_one_file_that_runs_and_fetches_nothing(page):
    reader = Reader(page)
    tags = {tag for tag, _, _ in reader.attributes}
    assert not tags & {"script", "img", "link", "iframe", "object"}
    assert "http" not in page
    assert "@import" not in page
    assert all(target.startswith("#") for target in [*reader.values("href"), *reader.values("src")])
    assert all(target.startswith("#") for target in re.findall(r"url\(([^)]+)", page))
    assert not any(name.startswith("on") for _, name, _ in reader.attributes)


def test_ids_are_unique_and_every_reference_meets_one(page):
    reader = Reader(page)
    ids = reader.values("id")
    assert len(ids) == len(set(ids))
    assert {target[1:] for target in reader.values("href")} <= set(ids)
    assert set(re.findall(r"url\(#([^)]+)", page)) <= set(ids)


def test_headings_descend_one_level_at_a_time(page):
    levels = Reader(page).headings
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))


def test_plots_take_their_colours_from_the_page(page):
    drawings = re.findall(r"<svg.*?</svg>", page, flags=re.DOTALL)
    assert len(drawings) == len(ALL_PLOTS)
    assert all("var(--plot-text)" in drawing for drawing in drawings)
    assert not any(re.search(r"(fill|stroke): #", drawing) for drawing in drawings)
    assert "prefers-color-scheme: dark" in page


def test_text_from_models_and_people_is_escaped(empty):
    add_training(empty, steps=1)
    evil = "</p><script>alert('x')</script>&<img src=http://example.org>"
    row = {**sample_row(0, 1.0, text=evil), "prompt": evil}
    html = write_page(empty, {"policy": "rl-001", "baseline": "sft-001"}, [row])
    assert "<script" not in html
    assert "<img" not in html
    assert "<b>" not in html  # an annotator's name
    assert Reader(html).text.count("alert('x')") == 4  # prompt and answer, among the samples and the gains


def test_control_characters_become_visible():
    assert visible("a\x00b\x7fc\nd\té\U0001f600") == "a\u2400b\u2421c\nd\té\U0001f600"


def test_an_answer_with_a_line_separator_is_one_row(empty):
    run = add_run(empty, "evaluate", {"policy": "hub/one", "baseline": "hub/two"}, result=evaluation_result())
    rows = [json.dumps(sample_row(i, 0.0, text="one\u2028two"), ensure_ascii=False) for i in range(3)]
    (run.path / "samples.jsonl").write_text("\n".join(rows) + "\n", encoding="utf-8")
    assert "3 of 3 pairs" in report(empty).read_text(encoding="utf-8")


def test_models_from_elsewhere_give_a_page_that_says_what_was_not_measured(empty):
    perplexity = {"policy": 22.0, "baseline": 20.0, "texts": 9, "tokens": 99}
    nothing = {"win_rate_by_reward": None, "kl": None, "rouge_l": None, "perplexity": perplexity}
    rows = [{**sample_row(0, 1.0), **dict.fromkeys(("policy", "baseline"), side("words", reward=None))}]
    html = write_page(empty, {"policy": "hub/one", "baseline": "/models/two"}, rows, **nothing)
    text = Reader(html).text
    assert captions(html) == ["Win rate", "Time by stage"]
    for label in (
        "Win rate, by the reward model",
        "KL from the baseline",
        "ROUGE-L against demonstrations",
        "Reward model's held-out accuracy",
        "Annotators' agreement",
    ):
        assert f"{label} not measured" in text
    assert "ratio not measured" in text
    assert text.count("Not measured: no such run led to this evaluation.") == 3
    assert "Judgments by people" not in text
    assert "None" not in text


def test_a_run_without_metrics_or_quality_loses_its_plots_and_nothing_else(empty):
    add_run(empty, "sft", {"model": "tiny"}, result={"held_out_loss_before": None, "held_out_loss_after": None})
    add_run(empty, "reward", {"model": "sft-001"}, result={"train_prompts": 3, "train_judgments_by_people": 0})
    add_run(empty, "rl", {"policy": "sft-001", "reward": "reward-001"}, result={})
    html = write_page(empty, {"policy": "rl-001", "baseline": "sft-001", "reward": "reward-001"})
    text = Reader(html).text
    assert captions(html) == ["Win rate", "Time by stage"]
    assert "Not measured: Reward model loss, Reward model accuracy, Held-out reliability." in text
    assert f"Not measured: {', '.join(RL_PLOTS)}." in text
    assert "samples.jsonl has no answers to show" in text
    assert "None" not in text


def test_steps_without_a_finite_value_are_left_out_of_a_curve(empty):
    add_training(empty, steps=3)
    rows = [{"step": 1, "score": float("nan"), "kl": -1.0}, {"step": 2, "score": 2.0, "kl": -0.5}]
    write_lines(empty.path / "runs" / "rl-001" / "metrics.jsonl", rows)
    html = write_page(empty, {"policy": "rl-001", "baseline": "sft-001"})
    assert "over 1 steps: score from 2 to 2" in html
    assert "1 of 1 steps have an estimate below 0, drawn at 0" in html
    assert "Value loss" in Reader(html).text.partition("Not measured: ")[2]


def test_long_runs_are_smoothed_and_say_so(empty):
    add_training(empty, steps=60)
    html = write_page(empty, {"policy": "rl-001", "baseline": "sft-001"})
    assert "strong line: mean of 5 steps" in html


def test_a_running_mean_narrows_at_the_ends():
    assert running_mean([0.0, 3.0, 6.0, 0.0], 3) == [1.5, 3.0, 3.0, 3.0]


def test_two_runs_of_a_kind_each_have_their_curves(empty):
    add_training(empty)
    rows = [{"step": i + 1, **dict.fromkeys(RL_METRICS, 0.5)} for i in range(3)]
    add_run(empty, "rl", {"policy": "rl-001", "reward": "reward-001"}, result={}, metrics=rows)
    html = write_page(empty, {"policy": "rl-002", "baseline": "sft-001"})
    assert captions(html).count("Entropy") == 2
    ids = Reader(html).values("id")
    assert len(ids) == len(set(ids))


def test_a_chain_from_pretraining_and_ratings_has_their_units(empty):
    losses = [{"step": i + 1, "loss": 3.0 - i, "held_out_loss": 3.5 - i} for i in range(2)]
    add_run(empty, "pretrain", {}, result={"parameters": 1_000_000, "held_out_loss": 2.5}, metrics=losses)
    add_run(empty, "sft", {"model": "pretrain-001"}, result={}, metrics=losses)
    rated = {"train_ratings": 90, "rating_error": {"help": 0.4}, "rating_correlation": {"help": 0.81}}
    add_run(empty, "reward", {"model": "sft-001"}, result=rated, metrics=losses)
    add_run(empty, "rl", {"policy": "sft-001", "reward": "reward-001"}, result={})
    html = write_page(empty, {"policy": "rl-001", "baseline": "sft-001", "reward": "reward-001"})
    text = Reader(html).text
    assert "Pretraining loss" in captions(html)
    assert "held out from 3.5 to 2.5" in html
    assert "squared error (variances of the ratings)" in html
    assert "their mean alone, 1 1" in html
    assert "Correlation with ratings, help 0.810" in text
    assert "Training ratings 90" in text


def test_samples_are_evenly_spaced_and_never_repeated():
    rows = [{"place": i} for i in range(10)]
    assert [row["place"] for row in evenly_spaced(rows, 4)] == [0, 2, 5, 7]
    assert evenly_spaced(rows, 99) == rows
    assert evenly_spaced([], 4) == []


def test_extremes_are_the_largest_of_their_sign_alone():
    rows = [sample_row(i, gain) for i, gain in enumerate([0.0, 2.0, -1.0, 5.0, -3.0, 2.0])]
    assert [row["prompt_id"] for row in extremes(rows, 2, sign=1)] == ["p3", "p1"]
    assert [row["prompt_id"] for row in extremes(rows, 3, sign=-1)] == ["p4", "p2"]


def test_folders_of_this_machine_are_named_by_their_last_part_alone(empty):
    add_run(empty, "sft", {"model": "/somewhere/on/this/machine/tiny"}, result={})
    config = resolve(overrides=["evaluate.perplexity_text=/home/somebody/prose.jsonl", "model.system_prompt=/no_think"])
    parents = {"policy": "sft-001", "baseline": "/home/somebody/base"}
    add_run(empty, "evaluate", parents, result=evaluation_result(), config=config)
    html = report(empty).read_text(encoding="utf-8")
    assert "/home/" not in html
    assert "/somewhere/" not in html
    assert str(empty.path) not in html
    assert "baseline: base" in html
    assert "perplexity_text: prose.jsonl" in html
    assert "system_prompt: /no_think" in html


@pytest.mark.parametrize(
    ("reference", "shown"),
    [("/a/b/tiny", "tiny"), ("C:\\models\\tiny", "tiny"), ("owner/tiny", "owner/tiny"), ("rl-001", "rl-001")],
)
def test_only_absolute_paths_are_shortened(reference, shown):
    assert short_name(reference) == shown


def test_the_lineage_table_has_every_run_with_parents_data_and_seed(page):
    text = Reader(page).text
    for name in ("sft-001", "sample-001", "judge-001", "reward-001", "rl-001", "evaluate-001"):
        assert f"{name} {name.split('-')[0]}" in text
    assert "policy: sft-001 reward: reward-001 40 prompts, 01234567 0" in text


def test_page_and_summary_are_both_written_and_agree(empty):
    html = write_page(empty, {"policy": "hub/one", "baseline": "hub/two"})
    summary = json.loads((empty.path / "summary.json").read_text(encoding="utf-8"))
    assert summary["win_rate"]["value"] == 0.7
    assert report(empty) == empty.path / "report.html"
    assert (empty.path / "report.html").read_text(encoding="utf-8") == html  # the same runs give the same page


def test_simulated_annotators_are_shown_with_their_settings_and_habits(empty):
    first, longer = interval(0.62), None
    habits = {"ann": {"first": first, "longer": longer, "seconds": 36.84}}
    result = {
        "agreement": {"raw": interval(0.65), "alpha": interval(0.31), "pairs": 60, "by_annotators": {"ann / bob": 0.7}},
        "simulated": {"ann": {"noise": 0.77391, "position_bias": 0.5}, "bob": {"noise": 1.0}},
        "habits": habits,
        "utility": "function:/home/somebody/likes.py:most",
    }
    add_run(empty, "judge", {}, result=result)
    add_run(empty, "reward", {}, judged="judge-001", result={})
    html = write_page(empty, {"policy": "hub/one", "baseline": "hub/two", "reward": "reward-001"})
    text = Reader(html).text
    assert "by the scores of likes.py:most." in text
    assert "ann noise 0.774, position bias 0.5 70.0 % 62.0 % 52.0 % to 72.0 % not measured 36.8 s" in text
    assert "bob noise 1 70.0 % not measured not measured not kept" in text
    assert "/home/" not in html
    rules = [{"fact": "words", "weight": -0.05}, {"pattern": "<b>", "weight": 1.0}]
    assert liked({"utility": rules}) == "the rules -0.05 × words, +1 × /<b>/"
    assert "simulated annotators" not in Reader(write_page(empty, {"policy": "a/b", "baseline": "c/d"})).text


@pytest.fixture
def one_thread():
    """Tiny matrices on several threads are slow beyond measure where other programs hold the processor."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("one_thread")
def test_the_stages_log_what_the_page_draws(workspace):
    """The real stages on a tiny model: a metric renamed in one of them would lose its plot."""
    import plaudit

    for stage in (plaudit.sft, plaudit.sample, plaudit.judge, plaudit.reward, plaudit.rl, plaudit.evaluate):
        stage(workspace)
    path: Path = report(workspace)
    html = path.read_text(encoding="utf-8")
    assert captions(html) == ALL_PLOTS
    assert "Not measured" not in html
    assert str(workspace.path) not in html


ALONE = {"value": 1.0, "low": None, "high": None, "n": 1}
"""Of a single prompt."""


def test_a_value_without_an_interval_says_so_wherever_it_is_printed():
    assert verdict(ALONE)[0] == "undecided"
    assert list(result_lines({"accuracy": ALONE})) == ["  accuracy: 1 (of a single one, so without an interval)"]
    law = {"value": None, "low": None, "high": None}
    assert list(result_lines({"limit": law})) == ["  limit: none (no interval)"]
    assert list(result_lines({"rate": ALONE | {"low": 0.5, "high": 1.0}})) == ["  rate: 1 (95 % 0.5 to 1)"]
    assert "no interval" in win_rate_plot({"by the guideline preference": ALONE}).svg
    assert _alpha(ALONE) == "1.00, 95 %: no interval of one"
    assert rendering.share(ALONE) == "1.00 (no interval)"
    assert rendering.share(ALONE | {"low": 0.25, "high": 1.0}) == "1.00 (0.25 to 1.00)"


def test_agreement_of_few_prompts_says_that_its_intervals_are_rough():
    rows = [
        Comparison(f"p{i}", f"a{i}", f"b{i}", who, "first" if i else "second", "r") for i in range(3) for who in "xy"
    ]
    said = "\n".join(agreement_lines(agreement_report(rows)))
    assert "3 independent items are few" in said
    said = "\n".join(agreement_lines(agreement_report(rows[:2])))
    assert "raw: 1.000 (of a single one, so without an interval)" in said
