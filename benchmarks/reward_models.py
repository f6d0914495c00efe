"""Reward models on what people said: HH-RLHF beside TRL's RewardTrainer, debates never seen, and ranked replies.

    python benchmarks/reward_models.py hh DATA WORK [--criteria NAME ...] [--words N] [--peer PYTHON] [--only NAME ...]
                                                    [--seed N]
    python benchmarks/reward_models.py arguments DATA WORK
    python benchmarks/reward_models.py replies DATA WORK [--words N] [--peer PYTHON] [--only NAME ...] [--seed N]

hh         DATA holds {helpful,harmless}-base.{train,validation}.jsonl.gz of Anthropic's HH-RLHF (Bai et al. 2022).
           Pairs of these criteria whose transcripts have at most N words; one epoch, eight pairs a step; PYTHON is of
           an environment made from peers/trl.txt, and trains on the same texts with the same steps and rate.
arguments  DATA holds arguments.jsonl.gz and pairs.jsonl.gz of UKPConvArg1 (Habernal and Gurevych 2016): which of two
           arguments for one side of a debate convinces more. Two folds of whole debates, so that both sides of a
           debate are tested by a model that has seen neither.
replies    DATA holds trees.jsonl.gz of Open-Assistant (Köpf et al. 2023): rankings of two to nine sibling replies, as
           pairs and as whole rankings, of conversations with at most N words up to the end of the reply. Two folds of
           whole conversation trees; what the peer learns too takes one epoch, eight pairs a step.

What is done already in WORK is kept. Each adds its part to reward_models.json beside this file.
"""

from __future__ import annotations

import argparse
import gzip
import json
import subprocess
from collections import defaultdict
from collections.abc import Callable
from itertools import combinations
from pathlib import Path
from typing import Any

import plaudit
from plaudit.config import Config, resolve
from plaudit.evaluation.scoring_files import evaluate_reward
from plaudit.statistics.intervals import share
from plaudit.store.formats import open_source
from plaudit.store.formats.format import LeftOut
from plaudit.store.importing import Kind

Rows = list[dict[str, Any]]
HERE = Path(__file__).parent
RESULTS = HERE / "reward_models.json"
FOLDS = 2
FILES = {"helpfulness": "helpful-base", "harmlessness": "harmless-base"}
"""Criterion -> which of HH's files was judged by it."""
BASE = ["model.system_prompt=''", "model.name=smollm2-135m-instruct", "reward.model=smollm2-135m-instruct",
        "data.held_out_share=0", "reward.save_every=1000000"]  # fmt: skip
LORA = ["model.lora={rank: 16, alpha: 32, targets: attention}"]
LARGE = "reward.optimiser.epsilon=1e-5"
ENTRANTS: dict[str, list[str]] = {
    "LoRA": [*LORA, "reward.optimiser.learning_rate=0.0002", LARGE],
    "all weights": ["model.lora=null", "reward.optimiser.learning_rate=0.00002", LARGE],
    "LoRA, small epsilon": [*LORA, "reward.optimiser.learning_rate=0.0002"],
    "LoRA, small head, small epsilon": [*LORA, "reward.optimiser.learning_rate=0.0002", "reward.head_scale=0.05"],
    "all weights, small epsilon": ["model.lora=null", "reward.optimiser.learning_rate=0.00002"],
    "LoRA, small head": [*LORA, "reward.optimiser.learning_rate=0.0002", "reward.head_scale=0.05", LARGE],
    "LoRA, small head, higher rate": [*LORA, "reward.optimiser.learning_rate=0.001", "reward.head_scale=0.05", LARGE],
    "LoRA, a head each": [*LORA, "reward.optimiser.learning_rate=0.0002", "reward.head_scale=0.05",
                          "reward.criteria=[helpfulness, harmlessness]"],
}  # fmt: skip
"""Name -> settings; the first two are the peer's too."""


def lines(path: Path) -> Rows:
    """Of a gzipped JSONL file."""
    with gzip.open(path, "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def write(path: Path, rows: Rows) -> Path:
    """As JSONL."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def remember(part: str, name: str, found: dict[str, Any]) -> None:
    """Into reward_models.json."""
    kept = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    kept.setdefault(part, {})[name] = found
    RESULTS.write_text(json.dumps(kept, indent=1) + "\n")


def shown(name: str, found: dict[str, Any]) -> str:
    """A line."""
    accuracy, length = found["accuracy"], found["longer_wins"]["value"]
    return (
        f"{name}: accuracy {accuracy['value']:.3f} ({accuracy['low']:.3f} to {accuracy['high']:.3f}), log loss "
        f"{found['log_loss']:.3f}, ECE {found['calibration_error']:.3f}, longer wins {length:.3f}"
    )


def turns(transcript: str) -> list[dict[str, str]]:
    """Messages of a transcript with its turns marked as HH-RLHF marks them."""
    messages = []
    for piece in transcript.split("\n\nHuman: ")[1:]:
        question, *answers = piece.split("\n\nAssistant: ")
        messages.append({"role": "user", "content": question.strip()})
        messages += [{"role": "assistant", "content": answer.strip()} for answer in answers]
    return messages


def pairs(data: Path, split: str, criteria: list[str], words: int) -> Rows:
    """Comparisons of transcripts of at most so many words; those whose earlier turns differ are left out."""
    found, left_out = [], 0
    for criterion in criteria:
        for row in lines(data / f"{FILES[criterion]}.{split}.jsonl.gz"):
            one, other = turns(row["chosen"]), turns(row["rejected"])
            if max(len(row[side].split()) for side in ("chosen", "rejected")) > words:
                continue
            if one[:-1] != other[:-1] or one == other or {one[-1]["role"], other[-1]["role"]} != {"assistant"}:
                left_out += 1
                continue
            sides = {"chosen": one[-1]["content"], "rejected": other[-1]["content"]}
            if all(sides.values()):
                found.append({"prompt": one[:-1], **sides, "criterion": criterion})
    print(f"{split}: {len(found)} pairs; {left_out} left out, since more than the last turn differs")
    return found


def without_criterion(row: dict[str, Any]) -> dict[str, Any]:
    """As if all had been asked the same."""
    return {key: value for key, value in row.items() if key != "criterion"}


def train(work: Path, rows: Rows, settings: list[str], kind: Kind = "comparisons") -> tuple[str, Config]:
    """(model folder, its settings) of a reward model trained on judgments in a workspace of its own."""
    config = resolve(overrides=[*BASE, *settings])
    if (work / "plaudit.yaml").exists():
        workspace = plaudit.Workspace(work)
    else:
        workspace = plaudit.init(work, config=config)
        plaudit.import_file(workspace.store, write(work / "train.jsonl", rows), kind=kind, held_out_share=0.0)
    done = [run for run in workspace.runs("reward") if run.status == "complete"]
    return str((done[0] if done else plaudit.reward(workspace, config)).model_folder), config


def hh(data: Path, work: Path, criteria: list[str], words: int, peer: str | None, only: list[str], seed: int) -> None:
    """Each entrant of HH, and the peer."""
    learn, judge = (pairs(data, split, criteria, words) for split in ("train", "validation"))
    part = f"hh, {' and '.join(criteria)}, {words} words"
    validation = write(work / "validation.jsonl", judge)
    plain = write(
        work / "validation-plain.jsonl", [{k: v for k, v in row.items() if k != "criterion"} for row in judge]
    )
    of_seed = f", seed {seed}" if seed else ""
    for entrant, settings in ENTRANTS.items():
        if only and entrant not in only:
            continue
        heads = "reward.criteria" in " ".join(settings)
        if heads and len(criteria) == 1:
            continue
        rows = learn if heads else [without_criterion(row) for row in learn]
        own = [*settings, "reward.batch_size=8", f"seed={seed}"]
        name = entrant + of_seed
        folder, config = train(work / name.replace(" ", "-"), rows, own)
        found = evaluate_reward(folder, validation if heads else plain, config)
        parts = evaluate_reward(folder, validation, config)["accuracy_by_criterion"] if heads else None
        remember(part, name, {**found, "train_pairs": len(rows), "accuracy_by_criterion": parts})
        print(shown(name, found), flush=True)
    if peer is None:
        return
    for entrant in list(ENTRANTS)[:2]:
        if only and f"TRL {entrant}" not in only:
            continue
        name = entrant + of_seed
        found = of_peer(peer, work / f"trl-{name.replace(' ', '-')}", learn, judge, ENTRANTS[entrant], seed)
        remember(part, f"TRL {name}", found)
        print(shown(f"TRL {name}", found), flush=True)


def of_peer(peer: str, work: Path, learn: Rows, judge: Rows, settings: list[str], seed: int) -> dict[str, Any]:
    """What the peer, trained with these settings, says of pairs to judge, as `evaluate_reward` would see it."""
    from plaudit.models.loading import _resolve
    from plaudit.statistics.reward_quality import ScoredPair, reward_quality

    scored = work.with_suffix(".json")
    if not scored.exists():
        train_file, validation = (write(work / f"{name}.jsonl", rows) for name, rows in [("t", learn), ("v", judge)])
        rate = next(s.split("=")[1] for s in settings if "learning_rate" in s)
        how = "full" if "model.lora=null" in settings else "lora"
        command = [peer, HERE / "peers" / "reward.py", _resolve("smollm2-135m-instruct"), train_file, validation]
        subprocess.run([str(c) for c in [*command, scored, rate, how, seed]], check=True)
    differences = json.loads(scored.read_text())  # of scores, chosen minus rejected
    judged = [
        ScoredPair(json.dumps(row["prompt"]), "", (str(i), "x"), difference, 1.0, None,
               len(row["chosen"].split()) - len(row["rejected"].split()), subset=row.get("subset", ""))
        for i, (difference, row) in enumerate(zip(differences, judge, strict=True))
    ]  # fmt: skip
    return reward_quality(judged)


def arguments(data: Path, work: Path) -> None:
    """Cross-topic accuracy on the strict pairs of UKPConvArg1."""
    texts = {(row["topic"], row["arg_id"]): row for row in lines(data / "arguments.jsonl.gz")}
    debates: dict[str, Rows] = defaultdict(list)
    for pair in lines(data / "pairs.jsonl.gz"):
        if not pair["strict"]:
            continue
        one, other = (texts[pair["topic"], pair[side]] for side in ("arg1", "arg2"))
        best, worst = (one, other) if pair["gold"] == "a1" else (other, one)
        question = f"{pair['title']}\nGive an argument for this side: {best['stance']}"
        debates[pair["title"]].append({"prompt": question, "chosen": best["text"], "rejected": worst["text"]})
    settings = [*LORA, "reward.optimiser.learning_rate=0.0005", "reward.head_scale=0.05", "reward.batch_size=1",
                "reward.epochs=3", "data.max_prompt_tokens=512", LARGE]  # fmt: skip
    across("arguments", debates, work, by_settings(settings, "comparisons"))


LONG = ["data.max_prompt_tokens=2048", "reward.max_response_tokens=2048"]
RANKINGS = [*LORA, *LONG, "reward.optimiser.learning_rate=0.0005", "reward.head_scale=0.05", "reward.batch_size=4",
            "reward.epochs=2", LARGE]  # fmt: skip
REPLIES: dict[str, list[str]] = {
    "pairs": [*RANKINGS, "reward.loss=bradley-terry"],
    "whole rankings": [*RANKINGS, "reward.loss=plackett-luce"],
}
REPLIES_IN_PAIRS: dict[str, list[str]] = {
    "LoRA": [*LORA, *LONG, "reward.optimiser.learning_rate=0.0005", "reward.batch_size=8"],
    "all weights": ["model.lora=null", *LONG, "reward.optimiser.learning_rate=0.00005", "reward.batch_size=8"],
}
"""What the peer, which knows no rankings, learns too."""


def replies(data: Path, work: Path, words: int, peer: str | None, only: list[str], seed: int) -> None:
    """Accuracy on the pairs of ranked sibling replies in conversation trees never seen."""
    trees: dict[str, Rows] = defaultdict(list)
    for where, row in open_source(data / "trees.jsonl.gz", "rankings"):
        if isinstance(row, LeftOut):
            continue
        before = sum(len(message["content"].split()) for message in row["prompt"])
        kept = [i for i, reply in enumerate(row["responses"]) if before + len(reply.split()) <= words]
        short = {**row, "responses": [row["responses"][i] for i in kept], "ranks": [row["ranks"][i] for i in kept]}
        if pairs_of(short):
            trees[where].append(short)
    in_pairs = {name: [pair for row in rows for pair in as_pairs(row)] for name, rows in trees.items()}
    print(f"{sum(map(len, in_pairs.values()))} pairs in {len(trees)} trees")
    of_seed = f", seed {seed}" if seed else ""
    entrants: list[tuple[str, dict[str, Rows], Entrant]] = []
    for name, settings in REPLIES.items():
        entrants.append((name, trees, by_settings([*settings, f"seed={seed}"], "rankings")))
    for name, settings in REPLIES_IN_PAIRS.items():
        entrants.append((name, in_pairs, by_settings([*settings, f"seed={seed}"], "comparisons")))
        if peer is not None:
            entrants.append((f"TRL {name}", in_pairs, by_peer(peer, settings, seed)))
    for name, groups, entrant in entrants:
        if not only or name in only:
            named = f"{words} words, {name}{of_seed}"
            across(f"replies, {named}", groups, work / named.replace(" ", "-"), entrant)


def pairs_of(row: dict[str, Any]) -> int:
    """Decided pairs of a comparison, or of a ranking."""
    return sum(one != other for one, other in combinations(row["ranks"], 2)) if "ranks" in row else 1


def as_pairs(row: dict[str, Any]) -> Rows:
    """A ranking's decided pairs; rank 1 is the best."""
    ranked = sorted(zip(row["ranks"], row["responses"], strict=True))
    return [
        {"prompt": row["prompt"], "chosen": better, "rejected": worse}
        for (high, better), (low, worse) in combinations(ranked, 2)
        if high != low
    ]


Entrant = Callable[[Path, Rows, Rows], dict[str, Any]]
"""(folder, what to learn, what to judge) -> what was found."""


def by_settings(settings: list[str], kind: Kind) -> Entrant:
    """A reward model of ours."""

    def entrant(work: Path, learn: Rows, judge: Rows) -> dict[str, Any]:
        folder, config = train(work, learn, settings, kind)
        return evaluate_reward(folder, write(work / "judge.jsonl", judge), config)

    return entrant


def by_peer(peer: str, settings: list[str], seed: int) -> Entrant:
    """The peer's, of the same settings."""
    return lambda work, learn, judge: of_peer(peer, work, learn, judge, settings, seed)


def across(part: str, groups: dict[str, Rows], work: Path, entrant: Entrant) -> None:
    """Train on all but a fold of whole groups and judge that fold, for each fold."""
    order = sorted(groups, key=lambda name: (-len(groups[name]), name))
    right: list[tuple[float, int]] = []
    longer: list[tuple[float, int]] = []
    for fold in range(FOLDS):
        out = [name for place, name in enumerate(order) if place % FOLDS == fold]
        learn = [row for name in order if name not in out for row in groups[name]]
        judge = [{**row, "subset": name} for name in out for row in groups[name]]
        found = entrant(work / f"fold-{fold}", learn, judge)
        print(shown(f"{part}, fold {fold}, {len(out)} of {len(order)} groups", found), flush=True)
        counts = {name: sum(pairs_of(row) for row in groups[name]) for name in out}
        right += [(found["accuracy_by_subset"][name]["value"], counts[name]) for name in out]
        longer.append((found["longer_wins"]["value"], sum(counts.values())))
        remember(part, f"fold {fold}", {"groups": out, "pairs": sum(counts.values()), **found})
    values = [share for share, count in right for _ in range(count)]  # of a tie a half
    clusters = [str(place) for place, (_, count) in enumerate(right) for _ in range(count)]
    length = sum(share * count for share, count in longer) / len(values)
    summary = {"accuracy": share(values, clusters), "longer_wins": length}
    remember(part, "all", summary)
    print(part, json.dumps(summary))


def main() -> None:
    """From the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["hh", "arguments", "replies"])
    parser.add_argument("data", type=Path)
    parser.add_argument("work", type=Path)
    parser.add_argument("--criteria", nargs="+", choices=list(FILES), default=list(FILES), help="hh: of which pairs")
    parser.add_argument("--words", type=int, default=200, help="hh, replies: of a transcript, at most")
    parser.add_argument("--peer", help="the peer's Python")
    parser.add_argument("--only", nargs="*", default=[], help="entrants")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    if given.what == "hh":
        hh(given.data, given.work, given.criteria, given.words, given.peer, given.only, given.seed)
    elif given.what == "arguments":
        arguments(given.data, given.work)
    else:
        replies(given.data, given.work, given.words, given.peer, given.only, given.seed)


if __name__ == "__main__":
    main()
