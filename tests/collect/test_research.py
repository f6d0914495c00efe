"""What the researcher sees is what the log says, however it came to be counted."""

import math
import random
import statistics
import threading
from itertools import combinations

import choix
import numpy as np
import pytest
from campaign import PLAIN, campaign, people_named
from campaign import quick_passwords as quick_passwords
from site_of_pages import make_site
from sqlalchemy import select

from plaudit.collect import figures as figures_module
from plaudit.collect.assignment import claim, skip
from plaudit.collect.campaigns import CampaignSettings, NewTask, add_gold, create_campaign, find_campaign
from plaudit.collect.figures import AllFigures, Figures
from plaudit.collect.head_to_head import HeadToHead
from plaudit.collect.judging import newest_judgment, submit
from plaudit.collect.priorities import uncertainty
from plaudit.models.score_facts import ScoreFacts
from plaudit.records import Annotator, Prompt, Response
from plaudit.statistics.agreement import agreement
from plaudit.statistics.biases import drift, position_bias
from plaudit.statistics.intervals import rate, share
from plaudit.statistics.sequential import ConfidenceSequence
from plaudit.store import Store, tables

PEOPLE = ("ann", "bob", "cid", "dora")


@pytest.fixture
def store(database_place):
    store = Store.open(database_place)
    people_named(store, *PEOPLE)
    yield store
    store.database.engine.dispose()


def found(store, name="compare"):
    with store.database.reading() as connection:
        return find_campaign(connection, name)


def figures_of(store, name="compare"):
    made = Figures(found(store, name), {"dora": "researcher"})
    assert made.catch_up(store)
    return made


def judge_all(store, name="compare", *, seed=0, ties=True):
    """Everybody judges everything in some order, with corrections, skips, comments and gold."""
    chance, at = random.Random(seed), 1000.0
    working = list(PEOPLE)
    while working:
        who, at = chance.choice(working), at + 100
        held = claim(store, name, who, at=at)
        if held is None:
            working.remove(who)
            continue
        if chance.random() < 0.05:
            skip(store, held.id, who, "no")
            continue
        more = {"seconds": chance.uniform(1, 90), "comment": "a remark" * (chance.random() < 0.2), "at": at + 95}
        flags = ["spam"] * (chance.random() < 0.1)
        submit(store, held.id, who, verdict(chance, ties), submission=f"{at}", flags=flags, **more)
        if chance.random() < 0.2:
            with store.database.reading() as connection:
                newest = newest_judgment(connection, who, name)
            submit(store, newest.assignment, who, verdict(chance, ties), submission=f"{at} again", at=at + 99)


def verdict(chance, ties):
    if ties and chance.random() < 0.3:
        return {"choice": chance.choice(["tie", "both_bad"])}
    return {"choice": str(chance.randrange(2)), "grade": str(chance.randint(1, 4))}


def log(store):
    with store.database.reading() as connection:
        return list(connection.execute(select(tables.judgments).order_by(tables.judgments.c.number)).mappings())


@pytest.mark.parametrize("ties", [True, False])
def test_figures_are_what_the_log_gives_when_it_is_counted_by_hand(store, ties):
    prompts = campaign(store, tasks=20, people_per_task=3, gold_every=4, pause_below=0.0)  # chance pauses nobody
    known = [
        (NewTask(p.id, (f"sample-001:{p.id}:1", f"sample-001:{p.id}:2")), {"choice": f"sample-001:{p.id}:1"}, "")
        for p in prompts[:6]
    ]
    add_gold(store, "compare", known, screening=False, actor="test")
    judge_all(store, ties=ties)
    summary, rows = figures_of(store).summary(), log(store)
    first = [row for row in rows if row["supersedes"] is None]
    real = [row for row in first if not row["is_gold"]]
    chose = [[row["answer"]["choice"] == row["shown"][place] for row in real].count(True) for place in (0, 1)]
    assert summary["judgments"] == len(first)
    assert summary["position"] == position_bias(*chose)
    seconds = [row["seconds"] for row in first if row["seconds"] is not None]
    assert summary["median_seconds"] == pytest.approx(statistics.median(seconds), abs=0.01)
    assert sum(number for _, number in summary["hours"]) == len(first)
    assert dict(summary["flags"]).get("spam", 0) == sum("spam" in row["flags"] for row in rows)
    direct = agreement(store.comparisons())
    for name in ("raw", "fleiss", "alpha", "gwet_ac1"):
        assert summary["agreement"][name]["value"] == pytest.approx(direct[name]["value"]), name
    for name in ("alpha_ordinal", "gwet_ac2_quadratic"):
        assert summary["agreement"]["graded"][name]["value"] == pytest.approx(direct["graded"][name]["value"]), name
    for who in PEOPLE:
        mine, person = [row for row in first if row["annotator"] == who], summary["people"][who]
        assert person["judgments"] == len(mine)
        right = [row["is_right"] for row in mine if row["is_right"] is not None]
        assert person["gold"] == (rate(sum(right), len(right)) if right else None)
        assert person["agreement"]["value"] == pytest.approx(with_the_rest(store, who))
        assert person["last"] == max(row["created"] for row in rows if row["annotator"] == who)
    cross = [same for pair, same in pairs_of(store) if ("dora" in pair)]
    assert summary["agreement"]["researchers"]["raw"]["value"] == pytest.approx(sum(cross) / len(cross))


def pairs_of(store):
    """((annotator, annotator), whether they say the same) for every two who judged a task, by standing comparisons."""
    said = {}
    for c in store.comparisons():
        better = {"first": c.first, "second": c.second, "tie": "tie"}[c.choice]
        said.setdefault(tuple(sorted((c.first, c.second))), {})[c.annotator] = better
    return [(pair, s[pair[0]] == s[pair[1]]) for s in said.values() for pair in combinations(sorted(s), 2)]


def with_the_rest(store, who):
    mine = [same for pair, same in pairs_of(store) if who in pair]
    return sum(mine) / len(mine)


def test_counting_as_it_comes_gives_what_counting_at_the_end_gives(store, monkeypatch):
    monkeypatch.setattr(figures_module, "ROWS_AT_ONCE", 7)
    campaign(store, tasks=12, people_per_task=3)
    live = Figures(found(store), {"dora": "researcher"})
    chance = random.Random(3)
    for who in PEOPLE * 9:
        held = claim(store, "compare", who)
        if held is not None:
            submit(store, held.id, who, verdict(chance, True), submission=held.id, seconds=1.0)
            if chance.random() < 0.4:
                submit(store, held.id, who, verdict(chance, True), submission=held.id + "c")
            live.catch_up(store)
    assert live.summary(at=0.0) == figures_of(store).summary()
    assert live.summary(at=0.0)["agreement"] is not None


def test_several_threads_count_every_judgment_once(store, monkeypatch):
    monkeypatch.setattr(figures_module, "MOST_SECONDS", 1000.0)
    monkeypatch.setattr(figures_module, "ROWS_AT_ONCE", 5)
    campaign(store, tasks=15, people_per_task=3)
    shared = Figures(found(store), {"dora": "researcher"})
    going, errors = [True], []

    def watch():
        seen = 0
        try:
            while going:
                shared.catch_up(store)
                shared.summary()
                assert shared.judgments >= seen  # what was counted is not lost
                seen = shared.judgments
        except Exception as error:
            errors.append(error)

    watchers = [threading.Thread(target=watch) for _ in range(4)]
    [one.start() for one in watchers]
    judge_all(store)
    going.clear()
    [one.join() for one in watchers]
    assert errors == []
    shared.catch_up(store)
    assert shared.summary(at=math.inf) == figures_of(store).summary()


def test_a_long_log_is_counted_behind_the_page_and_then_is_whole(store, monkeypatch):
    monkeypatch.setattr(figures_module, "ROWS_AT_ONCE", 5)
    campaign(store, tasks=10, people_per_task=3)
    judge_all(store)
    every = AllFigures(store)
    _, is_complete = every.of(found(store))
    assert not is_complete
    for _ in range(1000):
        counted, is_complete = every.of(found(store))
        if is_complete:
            break
        every._counting["compare"].join(0.1)
    assert is_complete
    assert counted.judgments == len([row for row in log(store) if row["supersedes"] is None])


def test_figures_that_take_long_are_computed_behind_the_page(store, monkeypatch):
    campaign(store, tasks=3)
    figures = figures_of(store)
    old = figures.summary(at=0.0)
    monkeypatch.setattr(figures_module, "MOST_SECONDS", 0.0)
    held = claim(store, "compare", "ann")
    submit(store, held.id, "ann", {"choice": "tie"}, submission="x")
    figures.catch_up(store)
    assert figures.summary(at=1.0) is old  # fresh enough
    assert figures.summary(at=100.0) is old  # a thread has begun
    figures._computing.join()
    assert figures.summary(at=101.0)["judgments"] == 1


def test_the_pages_show_the_figures(tmp_path):
    site = make_site(Store.open(tmp_path / "feedback.sqlite"))
    rhea = site.visit("rhea")
    page = rhea.get("/research/compare").text
    assert "2 of 6" in page
    assert page.count(site.people["ann"]) >= 1
    assert rhea.get("/research/compare/live").text in page
    assert "2 of 6" in rhea.get("/research").text
    answer = site.post(
        rhea, "/research/compare/decide", {"annotator": site.people["ann"], "include": "no", "reason": "too quick"}
    )
    assert answer.status_code == 303
    page = rhea.get("/research/compare").text
    assert "too quick" in page
    assert "not learnt from" in page
    assert [c.annotator for c in site.store.comparisons()] == [site.people["bob"]]
    assert site.post(rhea, "/research/compare/state", {"open": "no"}).status_code == 303
    assert "closed" in rhea.get("/research").text


def test_drift_is_of_the_order_in_which_somebody_agreed(store):
    agreed = [1.0] * 40 + [0.0] * 20
    measured = drift(agreed, window=20)
    assert measured["flagged"]
    assert measured["difference"]["value"] == -1.0


# Policies against each other


def run_sequence(values, alpha=0.05):
    return ConfidenceSequence(alpha).extend(values)


def ever_excludes_half(draw, *, runs, length):
    """Share of runs in which the sequence, and a Wilson interval at every step, ever exclude 1/2."""
    wrong = {"sequence": 0, "wilson": 0}
    for seed in range(runs):
        values = draw(np.random.default_rng(seed), length)
        wrong["sequence"] += run_sequence(values).decides
        n, mean = np.arange(1, length + 1), np.cumsum(values) / np.arange(1, length + 1)
        z = 1.96
        centre, half = (mean + z * z / (2 * n)) / (1 + z * z / n), z / (1 + z * z / n)
        half = half * np.sqrt(mean * (1 - mean) / n + z * z / (4 * n * n))
        wrong["wilson"] += bool((abs(centre - 0.5) > half)[9:].any())  # not before the tenth
    return {name: count / runs for name, count in wrong.items()}


NULLS = {
    "coins": lambda random, n: random.integers(0, 2, n).astype(float),
    "with ties": lambda random, n: random.choice([0.0, 0.5, 1.0], n, p=[0.3, 0.4, 0.3]),
    "skewed": lambda random, n: random.choice([0.0, 0.625], n, p=[0.2, 0.8]),
}


@pytest.mark.parametrize("null", NULLS)
def test_looking_all_the_time_errs_at_most_as_often_as_promised(null):
    """1000 runs: 5 % and three standard errors of it. A fixed interval, watched so, errs far more often."""
    wrong = ever_excludes_half(NULLS[null], runs=1000, length=1500)
    assert wrong["sequence"] <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 1000)
    if null == "coins":
        assert wrong["wilson"] > 0.2


def test_the_sequence_covers_the_mean_at_all_times():
    missed = 0
    for seed in range(500):
        sequence = run_sequence((np.random.default_rng(seed).random(800) < 0.7).astype(float))
        missed += not sequence.low <= 0.7 <= sequence.high  # its running intersection: at any time before, too
    assert missed / 500 <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 500)


def test_it_stops_for_a_better_policy_and_never_widens():
    stopped = []
    for seed in range(100):
        sequence, width = ConfidenceSequence(), 1.0
        for value in (np.random.default_rng(seed).random(3000) < 0.6).astype(float):
            sequence.add(value)
            assert sequence.high - sequence.low <= width + 1e-12
            width = sequence.high - sequence.low
            if sequence.decides:
                break
        stopped.append(sequence.n if sequence.low > 0.5 else None)
    assert None not in stopped
    assert 150 < statistics.median(stopped) < 1000


def test_one_at_a_time_and_all_at_once_are_the_same_and_follow_the_formula():
    values = np.random.default_rng(1).choice([0, 0.25, 0.5, 1], 300)
    one, parts = ConfidenceSequence(), run_sequence(values[:100]).extend(values[100:101]).extend(values[101:])
    total = squares = bets = weighted = variation = 0.0
    low, high = 0.0, 1.0
    for t, x in enumerate(values, start=1):
        one.add(x)
        mean, variance = (0.5 + total) / t, (0.25 + squares) / t
        bet = min(math.sqrt(2 * math.log(40) / (variance * t * math.log(1 + t))), 0.5)
        bets, weighted = bets + bet, weighted + bet * x
        variation += 4 * (x - mean) ** 2 * (-math.log(1 - bet) - bet) / 4
        total += x
        squares += (x - (0.5 + total) / (t + 1)) ** 2
        width = (math.log(40) + variation) / bets
        low, high = max(low, weighted / bets - width), min(high, weighted / bets + width)
    for sequence in (one, parts, run_sequence(values)):
        assert (sequence.low, sequence.high, sequence.n) == (pytest.approx(low), pytest.approx(high), 300)


@pytest.mark.parametrize("value", [-0.1, 1.1, math.nan])
def test_the_sequence_takes_numbers_from_0_to_1(value):
    with pytest.raises(ValueError, match="not between"):
        ConfidenceSequence().add(value)


def test_a_match_counts_tasks_and_stops_only_on_what_everybody_has_judged():
    match = HeadToHead(people_per_task=2)
    chance = random.Random(0)
    for i in range(400):
        match.put(f"t{i}", f"p{i}", "ann", ("a", "b"), 1.0 if chance.random() < 0.75 else 0.0)
    (half,) = match.matches()
    assert (half.tasks, half.at_any_time, half.may_stop) == (400, (0.0, 1.0), False)
    for i in range(400):
        match.put(f"t{i}", f"p{i}", "bob", ("b", "a"), 0.0 if chance.random() < 0.75 else 1.0)
    (whole,) = match.matches()
    assert whole.may_stop
    assert whole.at_any_time[0] > 0.5
    assert whole.win_rate["low"] < 0.75 < whole.win_rate["high"]
    scores = match._scores["a", "b"]
    assert whole.wins == pytest.approx(sum(sum(said.values()) / 2 for said in scores.values()))
    match.put("t0", "p0", "ann", ("a", "b"), 0.5)  # a correction
    match.put("t0", "p0", "bob", ("a", "b"), 0.5)
    assert match.matches()[0].tasks == 400
    assert match.matches()[0].ties >= 1


def test_strengths_are_those_that_choix_finds():
    chance, strength = random.Random(0), {"a": 4.0, "b": 2.0, "c": 1.0, "d": 0.5}
    match, wins = HeadToHead(people_per_task=1), []
    names = sorted(strength)
    for i in range(600):
        one, other = chance.sample(names, 2)
        won = chance.random() < strength[one] / (strength[one] + strength[other])
        match.put(f"t{i}", f"p{i}", "ann", (one, other), float(won))
        wins.append((names.index(one), names.index(other)) if won else (names.index(other), names.index(one)))
    expected = np.exp(choix.ilsr_pairwise(4, wins))
    ours = match.strengths()
    assert sum(ours.values()) == pytest.approx(1.0)
    assert list(ours) == names
    assert list(ours.values()) == pytest.approx(list(expected / expected.sum()), rel=1e-3)


def test_strengths_with_ties_are_those_of_half_a_win_each():
    match, data = HeadToHead(people_per_task=1), []
    chance = random.Random(1)
    for i in range(300):
        one, other = chance.sample(range(3), 2)
        score = chance.choice([0.0, 0.5, 1.0, 1.0 if one < other else 0.0])
        match.put(f"t{i}", f"p{i}", "ann", ("abc"[one], "abc"[other]), score)
        data += [(one, other)] * round(2 * score) + [(other, one)] * round(2 - 2 * score)
    expected = np.exp(choix.ilsr_pairwise(3, data))
    assert list(match.strengths().values()) == pytest.approx(list(expected / expected.sum()), rel=1e-3)


@pytest.mark.parametrize(
    "games",
    [
        [("a", "b", 1.0), ("b", "c", 1.0)],  # a never lost
        [("a", "b", 1.0), ("b", "a", 1.0), ("c", "d", 1.0), ("d", "c", 1.0)],  # never met
        [("a", "b", 1.0), ("b", "a", 1.0)],  # two alone
        [],
    ],
)
def test_strengths_that_do_not_exist_are_none(games):
    match = HeadToHead(people_per_task=1)
    for i, (one, other, score) in enumerate(games):
        match.put(f"t{i}", f"p{i}", "ann", (one, other), score)
    assert match.strengths() is None


def test_a_tie_connects_those_who_had_it():
    match = HeadToHead(people_per_task=1)
    for i, (one, other) in enumerate([("a", "b"), ("b", "c")]):
        match.put(f"t{i}", f"p{i}", "ann", (one, other), 0.5)
    assert match.strengths() == pytest.approx({"a": 1 / 3, "b": 1 / 3, "c": 1 / 3})


def test_policies_are_told_apart_by_where_their_answers_come_from(store):
    prompts = [Prompt([{"role": "user", "content": f"question {i}"}]) for i in range(6)]
    store.add_prompts(prompts)
    runs = ("old", "new")
    store.add_responses([Response(f"{run}:{p.id}", p.id, f"{run} {p.text}", run) for p in prompts for run in runs])
    store.add_annotators([Annotator("eve", "person")])
    tasks = [NewTask(p.id, tuple(f"{run}:{p.id}" for run in runs)) for p in prompts]
    create_campaign(store, "match", kind="compare", tasks_=tasks, settings=CampaignSettings(**PLAIN))
    for i in range(6):
        held = claim(store, "match", "eve")
        new = next(place for place, response in enumerate(held.shown) if response.startswith("new"))
        choice = {"choice": "tie"} if i == 0 else {"choice": str(new if i < 5 else 1 - new), "grade": "1"}
        submit(store, held.id, "eve", choice, submission=f"{i}")
    (match,) = figures_of(store, "match").summary()["matches"]
    assert (match.one, match.other, match.tasks, match.ties, match.wins) == ("new", "old", 6, 1, 4.5)
    assert match.win_rate == share([0.5, 1, 1, 1, 1, 0], range(6))


# What a reward model is unsure of


def test_a_single_model_is_least_sure_of_equal_scores():
    facts = ScoreFacts()
    assert uncertainty([(1.0,), (1.0,)], facts) == 1.0
    assert uncertainty([(3.0,), (1.0,)], facts) == pytest.approx(1 - abs(2 / (1 + math.exp(-2.0)) - 1))
    assert uncertainty([(3.0,), (1.0,)], facts) == uncertainty([(1.0,), (3.0,)], facts)
    warm = ScoreFacts(temperatures=(2.0,))
    assert uncertainty([(3.0,), (1.0,)], warm) == pytest.approx(1 - abs(2 / (1 + math.exp(-1.0)) - 1))
    assert uncertainty([(0.0,), (1.0,), (1.0,)], facts) == pytest.approx(
        statistics.fmean([uncertainty([(0.0,), (1.0,)], facts)] * 2 + [1.0])
    )
    assert uncertainty([(900.0,), (-900.0,)], facts) == 0.0


def test_an_ensemble_is_unsure_where_its_members_disagree_and_only_there():
    facts = ScoreFacts(heads=("one", "two"), is_ensemble=True)
    assert uncertainty([(5.0, 1.0), (4.0, 0.0)], facts) == 0.0  # both by one, whatever their scale
    assert uncertainty([(1.0, 0.0), (0.0, 1.0)], facts) == pytest.approx(1.0)  # gaps of +1 and -1
    assert uncertainty([(1.0, 3.0)], facts) == pytest.approx(1.0)  # a response alone
