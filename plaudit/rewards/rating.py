"""A judge's ratings as the reward of policy optimisation: RLAIF without a reward model.

Lee et al. 2023 (arXiv:2309.00267), direct RLAIF: the probabilities of the possible ratings are renormalised, and their
mean, brought to [-1, 1], is the score.

B answers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import torch
from torch import Tensor

from plaudit.errors import JudgeError
from plaudit.judges.ai import AIJudge
from plaudit.judges.models import EndpointBackend
from plaudit.judges.parsing import normalised_score
from plaudit.rewards.scoring import Answered


class RatingScorer:
    """Scores in [-1, 1]: the judge's expected rating, the worst as -1 and the best as 1.

    An answer whose rating cannot be read has the least score of those that were rated with it: were it spared, a policy
    could live by confusing the judge. `unread` counts them since it was last set to 0.
    """

    def __init__(self, judge: AIJudge):
        self.judge = judge
        self.unread = 0
        self._failures: Counter[str] = Counter()

    def __call__(self, answers: Sequence[Answered]) -> Tensor:
        """[B]. Raises JudgeError when an endpoint gave no answer or not one rating can be read, ModelError when a digit
        is no single token.
        """
        ratings = self.judge.rate([(answer.conversation, answer.text) for answer in answers])
        if lost := self._lost():
            raise JudgeError(
                f"the judge {self.judge.name} left {sum(lost.values())} of {len(answers)} answers without a rating: "
                f"{', '.join(lost)}. A policy must not learn from that. Repair the judge, then continue with --resume."
            )
        scores = [None if rating is None else normalised_score(rating) for rating in ratings]
        readable = [score for score in scores if score is not None]
        if not readable:
            raise JudgeError(
                f"the judge {self.judge.name} gave no readable rating of any of {len(answers)} answers, so there is no "
                "reward. Try it with `plaudit judge`, or name another judge in `rl.reward`."
            )
        self.unread += len(scores) - len(readable)
        least = min(readable)  # what an endpoint refuses to rate is the answer's fault, as far as one can tell
        return torch.tensor([least if score is None else score for score in scores])

    def _lost(self) -> dict[str, int]:
        """Reasons why questions had no answer since this was last asked; refusals of a single question are none."""
        backend = self.judge.backend
        failures = Counter(backend.endpoint.failures) if isinstance(backend, EndpointBackend) else Counter()
        new, self._failures = failures - self._failures, failures
        return {reason: count for reason, count in new.items() if not reason.startswith("refused")}
