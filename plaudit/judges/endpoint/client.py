"""Asks an OpenAI-compatible chat endpoint many questions: at once, within limits and a budget, and none of them twice.

An answer is kept on disk, with what it cost, before it is handed on; so a run that was killed goes on where it was, and
pays for nothing again. Questions are taken one by one as there is room: any number of them fits into memory.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence

from plaudit.judges.endpoint.asking import Asking, Outcome
from plaudit.judges.endpoint.connection import Connection
from plaudit.judges.endpoint.questions import Question


class Endpoint(Connection):
    """A chat endpoint, with what a run's folder has asked it and spent.

    Several endpoints may share a folder: each keeps its own budget against what all of them have spent. What it is made
    of and raises: `Connection`.
    """

    def __repr__(self) -> str:
        return f"Endpoint({self.settings.base_url}, {self.settings.model})"

    def ask(self, questions: Sequence[Question]) -> Iterator[Outcome]:
        """(place in questions, answer), as they come; every place once, kept or cached questions among them.

        What stays without an answer is Unanswered, with the reason: a busy or broken endpoint after all attempts, one
        that refuses this content, or the budget, of which a question's worst case has to be left. Once it is not, that
        question and all after it stay unanswered, but for those whose answers are kept.

        Raises JudgeError when the endpoint would refuse every question (key, model, address), cannot be reached, or
        has left many in a row unanswered; what came until then has been handed on. Stop it at any time: what was
        answered is kept.
        """
        asking = Asking(self, questions)
        thread = threading.Thread(target=asking.run, name="plaudit-endpoint", daemon=True)
        thread.start()
        try:
            while (item := asking.outcomes.get()) is not None:
                if isinstance(item, BaseException):
                    raise item
                asking.taken()
                yield item
        finally:
            asking.cancel()
            thread.join()
