"""The stages of the loop: one entry each, from which commands, recipes, reports and the Python API are made.

A stage is a function of a workspace that makes a run. To add one: its module, its section of the settings, and an entry
here.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from plaudit.methods import ALGORITHMS, PREFERENCE_LOSSES, REWARD_LOSSES

COMMON = ("seed", "model", "data")
"""Sections of the settings that every stage reads, beside the one of its own name."""


@dataclass(frozen=True)
class Shortcut:
    """An option of a stage's command that stands for a setting.

    option   as typed, for example "--loss"
    setting  which it sets, for example "prefer.loss"
    type     of its value; bool for a flag, which sets the setting to true
    help     what the command's help says
    """

    option: str
    setting: str
    type: type
    help: str


@dataclass(frozen=True)
class Stage:
    """One stage.

    kind          of its runs, and the section of its settings unless `section` is another
    function      "module:function": f(workspace, config, *, keep, resume where it is resumable) returns a run; with
                  `keep` it looks for one by `Workspace.find_run` before it makes one
    title         the heading of its part of a report; none where it has no plots
    purpose       said when a recipe comes to it
    help          of its command: one sentence, and more below it
    section       of its settings
    reads_also    sections that it reads beside COMMON and its own
    command       what is typed after `plaudit`; its kind unless named
    shortcuts     options of its command, each for a setting
    is_resumable  whether an interrupted run goes on with --resume
    in_recipes    whether a recipe may have it
    makes_policy  whether its runs have a model that writes answers
    makes_reward  whether its runs have a model that scores answers
    asks_people   whether it may put pairs before a person at the terminal
    """

    kind: str
    function: str
    purpose: str
    help: str
    title: str = ""
    section: str = ""
    reads_also: tuple[str, ...] = ()
    command: str = ""
    shortcuts: tuple[Shortcut, ...] = ()
    is_resumable: bool = True
    in_recipes: bool = True
    makes_policy: bool = False
    makes_reward: bool = False
    asks_people: bool = False

    @property
    def typed(self) -> str:
        """What to type after `plaudit`."""
        return self.command or self.kind

    @property
    def reads(self) -> tuple[str, ...]:
        """Names of all sections that its result depends on."""
        return (*COMMON, self.section or self.kind, *self.reads_also)

    @property
    def name(self) -> str:
        """Name of its function, in Python: `plaudit.NAME`; the kind, but for studies."""
        return self.function.partition(":")[2] if not self.in_recipes else self.kind

    def load(self) -> Callable[..., Any]:
        """Its function, imported when it is asked for."""
        module, _, function = self.function.partition(":")
        return getattr(importlib.import_module(module), function)


_ALL = (
    Stage(
        "pretrain",
        "plaudit.training.pretraining:pretrain",
        purpose="learn a language from plain text",
        help="Train a small decoder of your own from plain text (pretrain.text='[FILE, ...]').",
        title="Pretraining",
        makes_policy=True,
    ),
    Stage(
        "sft",
        "plaudit.training.sft:sft",
        purpose="learn from demonstrations",
        help="Fine-tune `model.name` on the demonstrations (supervised; loss on the answers alone).",
        title="Supervised fine-tuning",
        makes_policy=True,
    ),
    Stage(
        "sample",
        "plaudit.sampling.stage:sample_responses",
        purpose="sample responses",
        help="Sample responses of `sample.policy` to the prompts, with token ids and log-probs kept.",
    ),
    Stage(
        "judge",
        "plaudit.judges.stage:judge",
        purpose="collect comparisons",
        help="Compare the sampled responses: by simulated annotators, by models (judge.models), and by you with "
        "--annotate.",
        shortcuts=(Shortcut("--annotate", "judge.people", int, "Pairs that you judge first, in the terminal."),),
        asks_people=True,
    ),
    Stage(
        "revise",
        "plaudit.judges.revising:revise",
        purpose="criticise and revise",
        help="Make demonstrations by critique and revision under a constitution, to fine-tune on "
        "(sft.sources=[revise-001]).",
    ),
    Stage(
        "reward",
        "plaudit.training.reward:reward",
        purpose="learn a reward model",
        help="Train a reward model, or a cost model, on the comparisons, and report its held-out quality.\n\n"
        f"Losses (reward.loss): {', '.join(REWARD_LOSSES)}.",
        title="Reward model",
        reads_also=("sft",),  # the limit of demonstrations that may score 0
        makes_reward=True,
    ),
    Stage(
        "rl",
        "plaudit.training.online:rl",
        purpose="optimise the policy",
        help="Optimise the policy for a reward, with a price on departing from where it started.\n\n"
        f"Algorithms (rl.algorithm): {', '.join(ALGORITHMS)}.\n\n"
        "The reward (rl.reward) is a reward run, function:FILE.py:NAME, judge:MODEL, or a list of several.",
        title="Policy optimisation",
        reads_also=("judge",),  # whose judges may rate
        shortcuts=(
            Shortcut("--algorithm", "rl.algorithm", str, "Short for rl.algorithm=NAME."),
            Shortcut("--anyway", "rl.anyway", bool, "Optimise also for a reward run no better than chance or length."),
        ),
        makes_policy=True,
    ),
    Stage(
        "prefer",
        "plaudit.training.preference:prefer",
        purpose="optimise the policy from comparisons",
        help="Optimise a policy straight from the comparisons, without a reward model: DPO and its family.\n\n"
        f"Losses (prefer.loss): {', '.join(PREFERENCE_LOSSES)}.",
        title="Policy from preferences",
        shortcuts=(Shortcut("--loss", "prefer.loss", str, "Short for prefer.loss=NAME."),),
        makes_policy=True,
    ),
    Stage(
        "evaluate",
        "plaudit.evaluation.stage:evaluate",
        purpose="judge the result on held-out prompts",
        help="Compare a policy with a baseline on held-out prompts: win rate, KL, length, ROUGE-L, perplexity.",
        is_resumable=False,
    ),
    Stage(
        "study",
        "plaudit.studies.reward_scaling:reward_scaling",
        purpose="measure how reward models get better",
        help="Train reward models over a grid of data and model sizes, and fit how they get better.",
        section="reward_scaling",
        reads_also=("reward",),
        command="study reward-scaling",
        in_recipes=False,
    ),
)

STAGES: dict[str, Stage] = {stage.kind: stage for stage in _ALL}
RUN = re.compile(rf"({'|'.join(STAGES)})-\d{{3,}}")
"""Names of runs."""
RECIPE_STAGES = tuple(stage.kind for stage in _ALL if stage.in_recipes)
POLICIES = tuple(stage.kind for stage in _ALL if stage.makes_policy)
"""Kinds whose runs have a model that writes answers."""
