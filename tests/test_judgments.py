"""Which judgments count, and of what kind they are: the same for training as for agreement."""

from functools import partial

import pytest
from conftest import write_lines

import plaudit
from plaudit.config import PreferSettings
from plaudit.errors import DataError, WorkspaceError
from plaudit.judgments import judgments_of, latest, mixture
from plaudit.records import Annotator, Comparison, Label, Prompt, Response
from plaudit.statistics.agreement import agreement_report
from plaudit.store import Store
from plaudit.training.data.choosing import (
    COMPARISONS,
    LABELS,
    RATINGS,
    JudgmentSet,
    choose,
    choose_labels,
    has_comparisons,
)
from plaudit.training.preference import _comparisons_beside

PROMPT = Prompt([{"role": "user", "content": "which"}])


def said(who, choice="first", run="judge-001", pair="ab", **more):
    return Comparison(PROMPT.id, pair[0], pair[1], who, choice, run, created=f"2026-01-0{run[-1]}", **more)


def test_of_two_judgments_of_one_annotator_the_latest_counts_and_unnamed_votes_all_do():
    rows = [said("ann"), said("ann", "second", "judge-002"), said("imported"), said("imported", judgment="2")]
    assert latest(rows) == rows[1:]
    apart = [said("ann"), said("ann", criterion="wit"), said("ann", pair="ac"), said("bob")]
    assert latest(apart) == apart


def test_a_ranking_counts_as_a_whole():
    one = [said("ann", pair=pair, ranking="r1") for pair in ("ab", "ac", "bc")]
    again = [said("ann", run="judge-002", pair=pair, ranking="r2") for pair in ("ab", "ac", "bc")]
    other = [said("ann", run="judge-003", pair=pair, ranking="r3") for pair in ("ab", "ad", "bd")]
    assert latest([*one, *again, *other]) == [*again, *other]


def test_labels_count_once_an_annotator_too():
    rows = [Label(PROMPT.id, "a", "ann", value, run, created=run) for value, run in ((1.0, "r1"), (0.0, "r2"))]
    assert latest(rows) == rows[1:]


@pytest.fixture
def judged(workspace):
    """Judgments by a person, one whom a file named, a model and a simulated annotator, in a run each."""
    store = workspace.store
    kinds = {"me": "person", "ann": "imported", "robot": "model", "sim": "simulated"}
    store.add_prompts([PROMPT])
    store.add_responses([Response(name, PROMPT.id, name, "sample-001") for name in "ab"])
    store.add_annotators([Annotator(name, kind) for name, kind in kinds.items()])
    runs = {"me": "campaign:x1", "ann": "import-1", "robot": "judge-001", "sim": "judge-002"}
    store.add_comparisons([said(name, run=run) for name, run in runs.items()])
    store.add_labels([Label(PROMPT.id, "a", name, 1.0, run) for name, run in runs.items()])
    return workspace


def test_who_a_file_names_is_people(judged):
    found = mixture(judged, judged.store.comparisons())
    assert found == {
        "people": {"campaign:x1": 1, "import-1": 1}, "models": {"judge-001": 1},
        "simulated annotators": {"judge-002": 1},
    }  # fmt: skip


def test_kinds_of_annotators_are_mixed_on_request_alone(judged, capsys):
    for chosen_by, what in ((partial(choose, kind=COMPARISONS), "comparisons"), (choose_labels, "labels")):
        with pytest.raises(DataError) as refused:
            chosen_by(judged, wanted=None, setting="prefer.comparisons")
        assert f"the {what} in {judged.path} are by annotators of several kinds" in str(refused.value)
        assert "  1 judgments by models (judge-001: 1)\n" in str(refused.value)
        assert "`prefer.comparisons=[campaign:x1, import-1]`" in str(refused.value)
        chosen = chosen_by(judged, wanted=["import-1", "campaign:x1"], setting="prefer.comparisons")
        assert (len(chosen.rows), chosen.sources) == (2, ("campaign:x1", "import-1"))
        said_so = f"Learning from {what}: 2 judgments by people (campaign:x1: 1, import-1: 1)."
        assert said_so in capsys.readouterr().err.replace("\n", " ")
    chosen = choose(judged, COMPARISONS, ["import-1", "campaign:x1"], setting="reward.comparisons")
    assert len(chosen.rows) == 2


def test_one_kind_needs_no_name(workspace, tmp_path):
    rows = [{"prompt": f"{i}", "chosen": "a", "rejected": "b"} for i in range(4)]
    plaudit.import_file(workspace.store, write_lines(tmp_path / "c.jsonl", rows), kind="comparisons")
    assert len(choose(workspace, COMPARISONS, None, setting="reward.comparisons").rows) == 4


def test_a_run_that_is_not_there_is_missing_whatever_is_learnt_from(judged):
    by_kind = [partial(choose, kind=kind) for kind in (COMPARISONS, RATINGS, LABELS)]
    for chosen_by in (*by_kind, choose_labels):
        with pytest.raises(WorkspaceError, match="judge-009"):
            chosen_by(judged, wanted=["import-1", "judge-009"], setting="reward.comparisons")


def test_what_is_missing_is_named(judged, workspace):
    with pytest.raises(DataError, match=r"has no ratings to learn from\. Add some"):
        choose(judged, RATINGS, None, setting="reward.comparisons")
    judged.store.add_labels([Label(PROMPT.id, "a", "ann", 3.0, "import-1", "wit")])
    assert len(choose(judged, RATINGS, ["import-1"], setting="reward.comparisons").rows) == 1
    with pytest.raises(DataError, match=r"`reward\.comparisons`: no ratings of campaign:x1 in the store \(import-1\)"):
        choose(judged, RATINGS, ["import-1", "campaign:x1"], setting="reward.comparisons")
    with pytest.raises(DataError, match="names nothing to learn from; null is for all"):
        choose(judged, RATINGS, [], setting="reward.comparisons")
    with pytest.raises(DataError, match="no ratings by criterion `help`; there are: wit"):
        choose(judged, RATINGS, ["import-1"], setting="reward.comparisons", criteria=["help"])


def test_comparisons_stand_beside_labels_where_the_sources_have_any(judged):
    """import-2 has labels alone, import-1 both, and import-3 comparisons alone."""
    judged.store.add_labels([Label(PROMPT.id, "b", "ann", 0.0, "import-2")])
    judged.store.add_comparisons([said("ann", run="import-3")])
    assert [has_comparisons(judged, f"import-{i}") for i in (1, 2, 3)] == [True, False, True]

    def beside(*wanted):
        labels = choose_labels(judged, wanted, setting="prefer.comparisons")
        return _comparisons_beside(judged, PreferSettings(comparisons=[*wanted]), labels)

    assert beside("import-1", "import-2").sources == ("import-1",)
    assert beside("import-2", "import-3").sources == ("import-3",)
    assert beside("import-2") == JudgmentSet([])
    with pytest.raises(DataError, match="no comparisons of import-4"):
        beside("import-2", "import-4")
    labels = JudgmentSet(judged.store.labels())
    with pytest.raises(DataError, match=r"the comparisons in .* are by annotators of several kinds"):
        _comparisons_beside(judged, PreferSettings(), labels)  # all there are, and not labels alone


def test_what_was_given_again_later_is_said_of_comparisons_and_of_labels(judged, capsys):
    judged.store.add_comparisons([said("ann", "second", "import-2")])
    judged.store.add_labels([Label(PROMPT.id, "a", "ann", 0.0, "import-2")])
    for chosen_by in (partial(choose, kind=COMPARISONS), choose_labels):
        chosen = chosen_by(judged, wanted=["import-1", "import-2"], setting="prefer.comparisons")
        assert (len(chosen.rows), chosen.sources) == (1, ("import-2",))
        assert "1 judgments were given again by the same annotator later" in capsys.readouterr().err


def test_agreement_and_training_count_the_same(judged):
    """Also where somebody judged a pair in two runs, and where several votes name nobody."""
    judged.store.add_annotators([Annotator("imported", "imported")])
    judged.store.add_comparisons(
        [said("sim", "second", "judge-003"), said("imported", run="import-2")]
        + [said("imported", "second", "import-2", judgment=f"{i}") for i in range(3)]
    )
    counted = judgments_of(judged, None, Store.comparisons)
    assert counted.superseded == 1
    report = agreement_report(counted.rows)["better altogether"]
    assert report["judgments"] == len(counted.rows) == 8
    assert (report["annotators"], report["unnamed"]) == (4, 4)
    assert report["with_the_rest"].keys() == {"me", "ann", "robot", "sim"}
    first = 4  # me, ann, robot and one vote; the others chose the second
    same = (first * (first - 1) + (8 - first) * (7 - first)) / (8 * 7)
    assert report["coefficients"]["raw"]["value"] == pytest.approx(same)
    assert not any("imported" in pair for pair in report["coefficients"]["by_annotators"])
