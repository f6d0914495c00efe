"""Reward models on what people said: HH-RLHF beside TRL's RewardTrainer, debates never seen, and ranked replies.

    python benchmarks/reward_models.py hh DATA WORK [--criteria NAME ...] [--words N] [--peer PYTHON] [--only NAME ...]
                                                    [--seed N]
    python benchmarks/reward_models.py arguments DATA WORK
    python benchmarks/reward_models.py replies DATA WORK

hh         DATA holds {helpful,harmless}-base.{train,validation}.jsonl.gz of Anthropic's HH-RLHF (Bai et al. 2022).
           Pairs of these criteria whose transcripts have at most N words; one epoch, eight pairs a step; PYTHON is of
           an environment made from peers/trl.txt, and trains on the same texts with the same steps and rate.
arguments  DATA holds arguments.jsonl.gz and pairs.jsonl.gz of UKPConvArg1 (Habernal and Gurevych 2016): which of two
           arguments for one side of a debate convinces more. Two folds of whole debates, so that both sides of a
           debate are tested by a model that has seen neither.
replies    DATA holds trees.jsonl.gz of Open-Assistant (Köpf et al. 2023): rankings of two to nine sibling replies, as
           pairs and as whole rankings. Two folds of whole conversation trees.

What is done already in WORK is kept. Each adds its part to reward_models.json beside this file.
"""

from __future__ import annotations

import argparse
import gzip
import json
import subprocess
from collections import defaultdict
from itertools import combinations
from pathlib import Path
from typing import Any

import plaudit
from plaudit.config import Config, resolve
from plaudit.evaluation.scoring_files import evaluate_reward
from plaudit.evaluation.statistics import cluster_bootstrap
from plaudit.store.formats import open_source
from plaudit.store.formats.format import LeftOut
from plaudit.store.importing import Kind

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


def lines(path: Path) -> list[dict[str, Any]]:
    """Of a gzipped JSONL file."""
    with gzip.open(path, "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
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


def pairs(data: Path, split: str, criteria: list[str], words: int) -> list[dict[str, Any]]:
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


def train(
    work: Path, rows: list[dict[str, Any]], settings: list[str], kind: Kind = "comparisons"
) -> tuple[str, Config]:
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
    for entrant in list(ENTRANTS)[:2] if peer is not None else []:
        if only and f"TRL {entrant}" not in only:
            continue
        name = entrant + of_seed
        scored = work / f"trl-{name.replace(' ', '-')}.json"
        if not scored.exists():
            rate = next(s.split("=")[1] for s in ENTRANTS[entrant] if "learning_rate" in s)
            train_file = write(work / "train.jsonl", learn)
            arguments = [train_file, validation, scored, rate, "lora" if entrant == "LoRA" else "full", seed]
            from plaudit.models.loading import _resolve

            command = [peer, HERE / "peers" / "reward.py", _resolve("smollm2-135m-instruct"), *arguments]
            subprocess.run([str(c) for c in command], check=True)
        remember(part, f"TRL {name}", measured(json.loads(scored.read_text()), judge))
        print(shown(f"TRL {name}", measured(json.loads(scored.read_text()), judge)), flush=True)


def measured(differences: list[float], rows: list[dict[str, Any]]) -> dict[str, Any]:
    """A peer's differences of scores, chosen minus rejected, as `evaluate_reward` would see them."""
    from plaudit.evaluation.reward_quality import Judged, reward_quality

    judged = [
        Judged(json.dumps(row["prompt"]), "", (str(i), "x"), difference, 1.0, None,
               len(row["chosen"].split()) - len(row["rejected"].split()))
        for i, (difference, row) in enumerate(zip(differences, rows, strict=True))
    ]  # fmt: skip
    return reward_quality(judged)


def arguments(data: Path, work: Path) -> None:
    """Cross-topic accuracy on the strict pairs of UKPConvArg1."""
    texts = {(row["topic"], row["arg_id"]): row for row in lines(data / "arguments.jsonl.gz")}
    debates: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for pair in lines(data / "pairs.jsonl.gz"):
        if not pair["strict"]:
            continue
        one, other = (texts[pair["topic"], pair[side]] for side in ("arg1", "arg2"))
        best, worst = (one, other) if pair["gold"] == "a1" else (other, one)
        question = f"{pair['title']}\nGive an argument for this side: {best['stance']}"
        debates[pair["title"]].append({"prompt": question, "chosen": best["text"], "rejected": worst["text"]})
    settings = [*LORA, "reward.optimiser.learning_rate=0.0005", "reward.head_scale=0.05", "reward.batch_size=1",
                "reward.epochs=3", "data.max_prompt_tokens=512", LARGE]  # fmt: skip
    across("arguments", debates, work, settings, "comparisons")


REPLIES = {"pairs": "bradley-terry", "whole rankings": "plackett-luce"}


def replies(data: Path, work: Path) -> None:
    """Accuracy on the pairs of ranked sibling replies in conversation trees never seen."""
    trees: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for where, row in open_source(data / "trees.jsonl.gz", "rankings"):
        if not isinstance(row, LeftOut):
            trees[where].append(row)
    for name, loss in REPLIES.items():
        settings = [*LORA, "reward.optimiser.learning_rate=0.0005", "reward.head_scale=0.05", "reward.batch_size=4",
                    "reward.epochs=2", "data.max_prompt_tokens=2048", f"reward.loss={loss}", LARGE]  # fmt: skip
        across(f"replies, {name}", trees, work / name.replace(" ", "-"), settings, "rankings")


def pairs_of(row: dict[str, Any]) -> int:
    """Decided pairs of a comparison, or of a ranking."""
    return sum(one != other for one, other in combinations(row["ranks"], 2)) if "ranks" in row else 1


def across(part: str, groups: dict[str, list[dict[str, Any]]], work: Path, settings: list[str], kind: Kind) -> None:
    """Train on all but a fold of whole groups and judge that fold, for each fold."""
    order = sorted(groups, key=lambda name: (-len(groups[name]), name))
    right: list[tuple[float, int]] = []
    longer: list[tuple[float, int]] = []
    for fold in range(FOLDS):
        out = [name for place, name in enumerate(order) if place % FOLDS == fold]
        learn = [row for name in order if name not in out for row in groups[name]]
        judge = [{**row, "subset": name} for name in out for row in groups[name]]
        folder, config = train(work / f"fold-{fold}", learn, settings, kind)
        found = evaluate_reward(folder, write(work / f"judge-{fold}.jsonl", judge), config)
        print(shown(f"{part}, fold {fold}, {len(out)} of {len(order)} groups", found), flush=True)
        counts = {name: sum(pairs_of(row) for row in groups[name]) for name in out}
        right += [(found["accuracy_by_subset"][name]["value"], counts[name]) for name in out]
        longer.append((found["longer_wins"]["value"], sum(counts.values())))
        remember(part, f"fold {fold}", {"groups": out, "pairs": sum(counts.values()), **found})
    values = [
        hit for share, count in right for hit in [1.0] * round(share * count) + [0.0] * round((1 - share) * count)
    ]
    clusters = [str(place) for place, (_, count) in enumerate(right) for _ in range(count)]
    length = sum(share * count for share, count in longer) / len(values)
    summary = {"accuracy": cluster_bootstrap(values, clusters), "longer_wins": length}
    remember(part, "all", summary)
    print(part, json.dumps(summary))


def main() -> None:
    """From the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["hh", "arguments", "replies"])
    parser.add_argument("data", type=Path)
    parser.add_argument("work", type=Path)
    parser.add_argument("--criteria", nargs="+", choices=list(FILES), default=list(FILES), help="hh: of which pairs")
    parser.add_argument("--words", type=int, default=200, help="hh: of a transcript, at most")
    parser.add_argument("--peer", help="the peer's Python")
    parser.add_argument("--only", nargs="*", default=[], help="entrants")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    if given.what == "hh":
        hh(given.data, given.work, given.criteria, given.words, given.peer, given.only, given.seed)
    elif given.what == "arguments":
        arguments(given.data, given.work)
    else:
        replies(given.data, given.work)


if __name__ == "__main__":
    main()
