"""Who said what, when a file is imported: a vote of somebody else, a correction, or the same judgment once more.

A judgment is of one annotator about one pair (or one response) by one criterion. Where that is taken already:

- said by nobody's name, it is another person's vote, each time that a file has it. The k-th row of one content in a
  file is the same vote whenever the file is imported, in whatever order;
- said by the same annotator and equal, it is there already;
- said by the same annotator and another, the later one counts: by the time that both say, else by the order in which
  they came. The earlier stays in the database, and `corrections` names what took its place.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from operator import attrgetter
from typing import Any

from sqlalchemy import Connection, select

from plaudit.records import Comparison, Label, content_id, is_named
from plaudit.store import tables
from plaudit.store.rows import JudgedRow

Record = Comparison | Label
Place = tuple[str, str]
"""(table, id)"""
Content = tuple[Any, ...]

SAID: dict[str, tuple[str, ...]] = {
    "comparisons": (
        "first", "second", "choice", "grade", "probability_first", "seconds", "soft_preference", "ranking",
    ),
    "labels": ("value",),
}  # fmt: skip
"""What a judgment says beside who says it of what."""
_CONTENT: dict[str, Callable[[Record], Any]] = {
    "comparisons": attrgetter(*SAID["comparisons"]),
    "labels": lambda record: (record.value,),  # type: ignore[union-attr]
}


@dataclass(frozen=True, slots=True)
class Said:
    """A judgment that is there.

    created   when it was said; None where it does not say so itself
    """

    content: Content
    created: str | None

    def is_of(self, created: str) -> bool:
        """Whether it may have been said at this time; a time that is not known may be any."""
        return self.created is None or not created or self.created == created

    def is_just(self, record: Record) -> bool:
        """Whether it is the same judgment of the same time, which is known."""
        return self.created is not None and (self.content, self.created) == (_content(record), record.created)


@dataclass
class Settled:
    """What becomes of some rows.

    corrections   (table, id of what no longer stands, id of what took its place)
    prompts       table -> id of every judgment of the rows, new or not -> its prompt
    added         rows that are new
    votes         of these, votes beside others on the same, of people who are not named
    corrected     of these, corrections of what the same annotator said before
    overruled     of these, such as the same annotator corrected later
    """

    comparisons: list[Comparison] = field(default_factory=list)
    labels: list[Label] = field(default_factory=list)
    corrections: list[tuple[str, str, str]] = field(default_factory=list)
    prompts: dict[str, dict[str, str]] = field(default_factory=lambda: {"comparisons": {}, "labels": {}})
    added: int = 0
    votes: int = 0
    corrected: int = 0
    overruled: int = 0


class Identities:
    """Who said what in one file, chunk by chunk.

    It keeps a number for each judgment, some 80 bytes, to know how often a file has the same.
    """

    def __init__(self, connection: Connection):
        self._connection = connection
        imports = connection.execute(select(tables.imports.c.number, tables.imports.c.created))
        self._import_times: dict[int, str] = dict(imports.tuples().all())
        self._seen: dict[int, int] = {}
        self._last: dict[Place, int] = {}
        self._heads: dict[Place, str] = {}
        self._known: dict[Place, Said] = {}
        self._superseded: set[Place] = set()

    def settle(self, rows: Sequence[JudgedRow]) -> Settled:
        """Decide on a chunk of rows, in their order."""
        self._known = self._read(_place(record) for row in rows for record in _records(row))
        self._superseded = self._superseded_of(self._known)
        found = Settled()
        votes: list[JudgedRow] = []
        for row in rows:
            if is_named(row.annotator):
                self._take_named(found, row)
                continue
            times = self._times(*_records(row))
            if times > 1 or self._is_taken(row):
                votes.append(_vote(row, times))
            else:
                self._take(found, _records(row))
        there = self._read(_place(record) for vote in votes for record in _records(vote))
        self._known |= there
        for vote in votes:
            found.votes += self._take(found, _records(vote))
        return found

    def _take(self, found: Settled, records: Iterable[Record]) -> bool:
        """Keep those that are new; returns whether any is."""
        records = list(records)
        for record in records:
            found.prompts[_place(record)[0]][record.id] = record.prompt_id
        new = [record for record in records if _place(record) not in self._known]
        for record in new:
            self._known[_place(record)] = Said(_content(record), record.created or None)
            (found.comparisons if isinstance(record, Comparison) else found.labels).append(record)  # type: ignore[arg-type]
        found.added += bool(new)
        return bool(new)

    def _is_taken(self, row: JudgedRow) -> bool:
        """Whether something else stands in the place of one of its judgments.

        What a comparison says of safety has a time of its own, which the row does not tell.
        """
        timed = not row.comparisons
        for record in _records(row):
            said = self._known.get(_place(record))
            if said is not None and said.content != _content(record):
                return True
            if said is not None and (timed or isinstance(record, Comparison)) and not said.is_of(record.created):
                return True
        return False

    def _contradicts(self, place: Place, record: Record) -> bool:
        """Whether the annotator has said something else in this place; the same at another time is no news."""
        said = self._known.get(place)
        if said is None:
            return False
        if said.content != _content(record) or place not in self._superseded:
            return said.content != _content(record)
        if said.created is None and record.created:  # the same once more, or said again after what took its place
            standing = self._standing(place)
            return standing.created is not None and _time(record.created) > _time(standing.created)
        return not said.is_of(record.created)

    def _times(self, *records: Record) -> int:
        """How often the file has said just this, now included."""
        said = hash(tuple([(_place(record), _content(record), record.created) for record in records]))
        self._seen[said] = self._seen.get(said, 0) + 1
        return self._seen[said]

    def _take_named(self, found: Settled, row: JudgedRow) -> None:
        kept: list[Record] = []
        corrected = overruled = False
        for record in _records(self._own_ranking(row)):
            place, said, times = _place(record), hash((_content(record), record.created)), self._times(record)
            if place not in self._last and not self._contradicts(place, record):
                kept.append(record)
                continue
            if self._last.get(place) == said:
                continue
            if times == 1 and self._known[place].is_just(record):
                kept.append(record)
                continue
            self._last[place] = said
            again = _corrected(record, times)
            self._known |= self._read([_place(again)])
            kept.append(again)
            if _place(again) not in self._known:
                is_later = self._correct(found, place, again)
                corrected, overruled = corrected or is_later, overruled or not is_later
        if self._take(found, kept):
            found.corrected += corrected
            found.overruled += overruled and not corrected

    def _own_ranking(self, row: JudgedRow) -> JudgedRow:
        """One of other answers by the same annotator that shares a pair is a judgment of its own."""
        for pair in row.comparisons:
            said = self._known.get(_place(pair))
            if said is not None and pair.ranking is not None and said.content[-1] not in (None, pair.ranking):
                own = row.under(content_id("ranking", pair.ranking))
                self._known |= self._read(_place(record) for record in _records(own))
                return own
        return row

    def _correct(self, found: Settled, place: Place, record: Record) -> bool:
        """Whether the record is the later word and takes the place of what stands; else it is superseded by that."""
        table, name = place
        head, standing = self._head(place), self._standing(place)
        is_later = standing.created is None or not record.created or _time(record.created) >= _time(standing.created)
        if is_later:
            found.corrections.append((table, head, record.id))
            self._heads[table, name] = record.id
        else:
            found.corrections.append((table, record.id, head))
        return is_later

    def _standing(self, place: Place) -> Said:
        at = (place[0], self._head(place))
        return self._known.get(at) or self._read([at])[at]

    def _head(self, place: Place) -> str:
        """What stands now of all that was said in one place."""
        if place not in self._heads:
            table, name = place
            corrections = tables.corrections.c
            while True:
                query = select(corrections.by).where(corrections.kind == table, corrections.id == name)
                later = self._connection.scalar(query)
                if later is None:
                    break
                name = later
            self._heads[place] = name
        return self._heads[place]

    def _superseded_of(self, places: Iterable[Place]) -> set[Place]:
        """Those of them that no longer stand."""
        corrections = tables.corrections.c
        wanted, found = [name for _, name in places], set()
        for start in range(0, len(wanted), 500):
            query = select(corrections.kind, corrections.id).where(corrections.id.in_(wanted[start : start + 500]))
            found |= set(self._connection.execute(query).tuples())
        return found

    def _read(self, places: Iterable[Place]) -> dict[Place, Said]:
        """Those of them that are in the database."""
        wanted: dict[str, list[str]] = {"comparisons": [], "labels": []}
        for table, name in places:
            wanted[table].append(name)
        found: dict[Place, Said] = {}
        for table, names in wanted.items():
            columns = tables.metadata.tables[table].c
            said = [columns[name] for name in SAID[table]]
            for start in range(0, len(names), 500):
                query = select(columns.id, columns.created, columns.import_number, *said)
                query = query.where(columns.id.in_(names[start : start + 500]))
                for name, created, number, *content in self._connection.execute(query):
                    is_said = number is not None and created != self._import_times.get(number)
                    found[table, name] = Said(tuple(content), created if is_said else None)
        return found


def _records(row: JudgedRow) -> list[Record]:
    return [*row.comparisons, *row.labels]


def _place(record: Record) -> Place:
    return ("comparisons" if isinstance(record, Comparison) else "labels"), record.id


def _content(record: Record) -> Content:
    return tuple(_CONTENT["comparisons" if isinstance(record, Comparison) else "labels"](record))


def _vote(row: JudgedRow, times: int) -> JudgedRow:
    """The row as a vote of its own: of nobody else than the so many-th who said just this."""
    said = [[record.id, *map(str, _content(record)), record.created] for record in _records(row)]
    return row.under(content_id("vote", said, times))


def _corrected(record: Record, times: int) -> Record:
    said = [str(value) for value in _content(record)]
    return replace(record, judgment=content_id("correction", record.id, said, record.created, times))


def _time(created: str) -> float:
    """Seconds since 1970; imports of before times were checked may hold anything, which is before all others."""
    try:
        return datetime.fromisoformat(created).timestamp()
    except ValueError:
        return float("-inf")
