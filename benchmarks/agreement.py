"""Agreement of people on two published data sets, and how fast it is known over a million judgments.

    python benchmarks/agreement.py DATA

DATA/ukpconvarg1/pairs.jsonl.gz       UKPConvArg1 (Habernal and Gurevych 2016): which of two arguments convinces more,
                                      five crowd workers a pair
DATA/summeval/annotations.jsonl.gz    SummEval (Fabbri et al. 2021): summaries rated 1 to 5 on four criteria by three
                                      experts and five crowd workers

Writes agreement.json beside this file.
"""

from __future__ import annotations

import argparse
import gzip
import json
import random
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from plaudit.statistics.coefficients import (
    Patterns,
    cross_coefficients,
    fleiss_kappa,
    leave_one_out,
    nominal_coefficients,
    ordinal_coefficients,
)
from plaudit.statistics.tally import Tally

RESULTS = Path(__file__).parent / "agreement.json"
LABELS = ("a1", "equal", "a2")
CRITERIA = ("coherence", "consistency", "fluency", "relevance")
GROUPS = {"experts": "expert_annotations", "crowd": "turker_annotations"}
ITEMS, ANNOTATORS, EACH = 300_000, 40, 5
REPEATS = 5


def rows_of(path: Path) -> Iterator[dict[str, Any]]:
    """Of a gzipped JSONL file."""
    with gzip.open(path, "rt", encoding="utf-8") as file:
        yield from map(json.loads, file)


def arguments(data: Path) -> dict[str, Any]:
    """UKPConvArg1: all pairs, and Fleiss' kappa over those with exactly five workers."""
    tally = Tally(LABELS)
    for row in rows_of(data / "ukpconvarg1" / "pairs.jsonl.gz"):
        for judgment in row["annotations"]:
            tally.add(row["pair_id"], judgment["worker"], judgment["value"])
    patterns = tally.patterns()
    five = patterns.counts.sum(axis=1) == 5
    return {
        "judgments": tally.judgments,
        "pairs": tally.items,
        "workers": len(tally.annotators),
        **nominal_coefficients(patterns),
        **{name: found for name, found in ordinal_coefficients(patterns).items() if name != "reasons"},
        "fleiss_of_five": fleiss_kappa(leave_one_out(Patterns.of(patterns.counts[five], patterns.weights[five]))),
    }


def summaries(data: Path) -> dict[str, Any]:
    """SummEval: experts and crowd among themselves and against each other, by criterion."""
    tallies = {criterion: Tally((1, 2, 3, 4, 5)) for criterion in CRITERIA}
    for number, row in enumerate(rows_of(data / "summeval" / "annotations.jsonl.gz")):
        for group, column in GROUPS.items():
            for place, judgment in enumerate(row[column]):
                for criterion, tally in tallies.items():
                    tally.add(number, f"{group} {place}", judgment[criterion], role=group)
    found: dict[str, Any] = {}
    for criterion, tally in tallies.items():
        found[criterion] = {group: ordinal_coefficients(tally.patterns(group)) for group in GROUPS}
        crossed = cross_coefficients(tally.between_roles("experts", "crowd"), ordered=True)
        found[criterion]["experts against crowd"] = crossed
    return found


def seconds(work: Callable[[], object]) -> float:
    """Median of several runs."""
    taken = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        work()
        taken.append(time.perf_counter() - start)
    return statistics.median(taken)


def speed() -> dict[str, Any]:
    """Seconds to add 1.5 million judgments, in random order, and to know the statistics then."""
    draw = random.Random(0)
    names = [f"annotator {i}" for i in range(ANNOTATORS)]
    roles = {name: "researcher" if i < 4 else "annotator" for i, name in enumerate(names)}
    judgments = [(i, who, draw.choice(LABELS)) for i in range(ITEMS) for who in draw.sample(names, EACH)]
    draw.shuffle(judgments)
    tally = Tally(LABELS)
    start = time.perf_counter()
    for item, who, category in judgments:
        tally.add(item, who, category, role=roles[who])
    added = time.perf_counter() - start
    return {
        "judgments": tally.judgments,
        "add_all": added,
        "all_annotators": seconds(lambda: nominal_coefficients(tally.patterns())),
        "one_against_the_rest": seconds(lambda: cross_coefficients(tally.with_rest(names[0]))),
        "each_against_the_rest": seconds(lambda: [cross_coefficients(tally.with_rest(name)) for name in names]),
        "two_annotators": seconds(lambda: cross_coefficients(tally.between(names[0], names[1]))),
        "two_roles": seconds(lambda: cross_coefficients(tally.between_roles("researcher", "annotator"))),
    }


def shown(interval: dict[str, float]) -> str:
    """A value with its interval."""
    return f"{interval['value']:.4f} ({interval['low']:.4f} to {interval['high']:.4f})"


def main() -> None:
    """From the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    data = parser.parse_args().data
    found = {"ukpconvarg1": arguments(data), "summeval": summaries(data), "seconds": speed()}
    for name, value in found["ukpconvarg1"].items():
        print(f"UKPConvArg1 {name}: {shown(value) if isinstance(value, dict) and 'low' in value else value}")
    for criterion, groups in found["summeval"].items():
        for group, coefficients in groups.items():
            for name, value in coefficients.items():
                if name != "reasons":
                    print(f"SummEval {criterion}, {group}, {name}: {shown(value)}")
    for name, value in found["seconds"].items():
        print(f"{name}: {value:.4g}")
    RESULTS.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
