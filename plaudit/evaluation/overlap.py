"""Overlap of an answer with a reference text."""

from __future__ import annotations

from collections.abc import Sequence

from rouge_score.rouge_scorer import RougeScorer


def rouge_l(answers: Sequence[str], references: Sequence[str]) -> list[float]:
    """ROUGE-L F1 of each answer against its reference, in [0, 1], with Porter stemming.

    Lin 2004; the `rouge_score` package's tokenisation.
    """
    scorer = RougeScorer(["rougeL"], use_stemmer=True)
    return [float(scorer.score(r, a)["rougeL"].fmeasure) for a, r in zip(answers, references, strict=True)]
