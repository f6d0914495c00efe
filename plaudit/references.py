"""What a setting refers to: `KIND:NAME`, or a run, a folder or a hub name by itself."""

from __future__ import annotations

from typing import NamedTuple

from plaudit.stages import RUN

LATEST, STAGE, SNAPSHOT, CAMPAIGN = "latest", "stage", "snapshot", "campaign"
FUNCTION, JUDGE, REWARD, MODEL = "function", "judge", "reward", "model"
RUN_KIND, PLACE = "run", "place"
PREFIXES = frozenset({LATEST, STAGE, SNAPSHOT, CAMPAIGN, FUNCTION, JUDGE, REWARD, MODEL})
OF_OTHERS = frozenset({JUDGE, REWARD, MODEL})
"""Their names may be references themselves, as in judge:latest:sft."""


class Reference(NamedTuple):
    """A reference, taken apart.

    kind   latest (the newest run of a kind), stage (a recipe's run), snapshot, campaign, function, judge, reward or
           model, as written; run for a run's name; place for a folder or a hub name
    name   without the kind
    """

    kind: str
    name: str

    @property
    def text(self) -> str:
        """The reference as written."""
        return self.name if self.kind in (RUN_KIND, PLACE) else f"{self.kind}:{self.name}"


def parse(text: str) -> Reference:
    """The kind and the name that a text refers to."""
    kind, colon, name = text.partition(":")
    if colon and kind in PREFIXES:
        return Reference(kind, name)
    return Reference(RUN_KIND if RUN.fullmatch(text) else PLACE, text)


def is_of(kind: str, text: str) -> bool:
    """Whether a text refers to something of this kind."""
    return parse(text).kind == kind
