"""What Argilla and Label Studio export: answers that several people gave to questions about the same texts.

Their projects name fields and questions freely, so what is read goes by these rules. The prompt is the field `prompt`,
`instruction`, `question` or `input`; every other text field is an answer to it.

Argilla 2 (`dataset.records.to_json`): `fields`, and `responses`, question -> [{"value", "user_id"}].
    comparisons      a value that is the name of one of exactly two answer fields, or `tie`
    rankings         a list of names of answer fields, the best first, or of {"value": name, "rank": number}
    ratings          a number, where there is one answer field
    demonstrations   a text that names no field
Label Studio (JSON): `data`, and `annotations`, each with `result` items of a `type` and `completed_by`.
    comparisons      pairwise: `selected` is left or right of the two fields that `to_name` names, or of the only two
    rankings         ranker: ids of the items in a list field of `data`, the best first
    ratings          rating: stars, of the field that `to_name` names, or of the only answer
    demonstrations   textarea: each text
The criterion is the name of the question.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from plaudit.store.formats.format import Format, LeftOut, Values, answer_pair, messages_of, ranking_of, with_source
from plaudit.store.rows import MOST_RANKED, Kind

PROMPT_FIELDS = ("prompt", "instruction", "question", "input")
KINDS: tuple[Kind, ...] = ("prompts", "comparisons", "rankings", "ratings", "demonstrations")
TIES = ("tie", "equal")
NO_PROMPT = LeftOut(f"records without a field {', '.join(PROMPT_FIELDS)}")
OF_OTHER_KINDS = LeftOut("answers to questions of other kinds")


def is_argilla(row: Values) -> bool:
    """A record."""
    return isinstance(row.get("fields"), dict) and isinstance(row.get("responses"), dict)


def argilla(row: Values, kind: Kind) -> Iterator[Values | LeftOut]:
    """Every person's response to every question."""
    prompt, answers = _prompt_and_answers(row["fields"])
    if prompt is None:
        yield NO_PROMPT
    elif kind == "prompts":
        yield {"prompt": prompt}
    else:
        for question, responses in sorted(row["responses"].items()):
            for response in responses:
                if response.get("status", "submitted") != "submitted":
                    yield LeftOut("responses that were not submitted")
                    continue
                who = {"annotator": str(response["user_id"])} if response.get("user_id") else {}
                yield _argilla_answer(kind, prompt, answers, question, response.get("value"), who)


def _argilla_answer(
    kind: Kind, prompt: Any, answers: dict[str, str], question: str, value: Any, who: Values
) -> Values | LeftOut:
    names = {_plain(name): text for name, text in answers.items()}
    more = {"criterion": question, **who}
    if isinstance(value, list) and kind == "rankings":
        return _argilla_ranking(prompt, names, value, more)
    if isinstance(value, str) and (_plain(value) in names or _plain(value) in TIES):
        if kind != "comparisons" or len(names) != 2:
            return OF_OTHER_KINDS
        (first, one), (_, other) = names.items()
        if _plain(value) in TIES:
            return answer_pair(prompt, one, other, tie=True, **more)
        if _plain(value) == first:
            return answer_pair(prompt, one, other, **more)
        return answer_pair(prompt, other, one, shown_first="rejected", **more)
    if isinstance(value, int | float) and not isinstance(value, bool) and kind == "ratings" and len(answers) == 1:
        return _rated(prompt, next(iter(answers.values())), value, more)
    if isinstance(value, str) and value.strip() and kind == "demonstrations":
        return {"prompt": prompt, "completion": value, **who}
    return OF_OTHER_KINDS


def _argilla_ranking(prompt: Any, names: dict[str, str], value: list[Any], more: Values) -> Values | LeftOut:
    placed = [
        (item.get("value"), item.get("rank")) if isinstance(item, dict) else (item, place)
        for place, item in enumerate(value, start=1)
    ]
    if not all(_plain(str(name)) in names and isinstance(rank, int) for name, rank in placed):
        return LeftOut("rankings of what is no field of the record")
    return _ranked(prompt, [(names[_plain(str(name))], int(rank or 0)) for name, rank in placed], more)


def is_label_studio(row: Values) -> bool:
    """A task with its annotations."""
    return isinstance(row.get("data"), dict) and isinstance(row.get("annotations"), list)


def label_studio(row: Values, kind: Kind) -> Iterator[Values | LeftOut]:
    """Every result of every annotation that was not cancelled."""
    prompt, answers = _prompt_and_answers(row["data"])
    if prompt is None:
        yield NO_PROMPT
    elif kind == "prompts":
        yield {"prompt": prompt}
    else:
        for annotation in row["annotations"]:
            if annotation.get("was_cancelled"):
                yield LeftOut("annotations that were cancelled")
                continue
            for result in annotation.get("result") or []:
                yield from _studio_answers(kind, prompt, answers, row["data"], annotation, result)


def _studio_answers(
    kind: Kind, prompt: Any, answers: dict[str, str], data: Values, annotation: Values, result: Values
) -> Iterator[Values | LeftOut]:
    value, of = result.get("value") or {}, result.get("type")
    who = _who(annotation.get("completed_by"))
    more = {"criterion": str(result.get("from_name") or of), **who, **_when(annotation)}
    named = [name.strip() for name in str(result.get("to_name", "")).split(",")]
    if kind == "comparisons" and of == "pairwise":
        yield _studio_pair(prompt, answers, named, value.get("selected"), {**more, **_time(annotation)})
    elif kind == "rankings" and of == "ranker":
        yield _studio_ranking(prompt, data, value.get("ranker"), {**more, **_time(annotation)})
    elif kind == "ratings" and of == "rating":
        texts = [answers[name] for name in named if name in answers] or list(answers.values())
        unclear = LeftOut("ratings of which it is unclear what they rate")
        yield _rated(prompt, texts[0], value.get("rating"), more) if len(texts) == 1 else unclear
    elif kind == "demonstrations" and of == "textarea":
        texts = value.get("text") or []
        yield from ({"prompt": prompt, "completion": text, **who} for text in texts if str(text).strip())
    else:
        yield OF_OTHER_KINDS


def _studio_pair(
    prompt: Any, answers: dict[str, str], named: list[str], selected: Any, more: Values
) -> Values | LeftOut:
    sides = [answers[name] for name in named if name in answers]
    sides = sides if len(sides) == 2 else list(answers.values())
    if len(sides) != 2 or selected not in ("left", "right"):
        return LeftOut("pairs of which it is unclear what was compared or chosen")
    if selected == "left":
        return answer_pair(prompt, *sides, **more)
    return answer_pair(prompt, sides[1], sides[0], shown_first="rejected", **more)


def _studio_ranking(prompt: Any, data: Values, ranker: Any, more: Values) -> Values | LeftOut:
    """`ranker` is a list of ids, or one such list by the name of its column."""
    columns = [ids for ids in ranker.values() if ids] if isinstance(ranker, dict) else [ranker]
    if len(columns) != 1 or not isinstance(columns[0], list):
        return LeftOut("rankings in several columns")
    lists = [value for value in data.values() if isinstance(value, list) and all(isinstance(i, dict) for i in value)]
    texts = {str(item.get("id")): item.get("body") or item.get("text") or item.get("html") for i in lists for item in i}
    if not all(isinstance(texts.get(str(name)), str) for name in columns[0]):
        return LeftOut("rankings of what is no item of the task")
    return _ranked(prompt, [(str(texts[str(name)]), place) for place, name in enumerate(columns[0], start=1)], more)


def _ranked(prompt: Any, placed: list[tuple[str, int]], more: Values) -> Values | LeftOut:
    if len(placed) > MOST_RANKED:
        return LeftOut(f"rankings of over {MOST_RANKED} answers")
    return ranking_of(prompt, [text for text, _ in placed], [rank for _, rank in placed], **more)


def _rated(prompt: Any, text: str, value: Any, more: Values) -> Values | LeftOut:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return LeftOut("ratings that are no number")
    return {"prompt": prompt, "completion": text, "rating": value, **more}


def _prompt_and_answers(fields: Values) -> tuple[Any, dict[str, str]]:
    """(text or messages of the prompt, or None; the other texts by the name of their field)."""
    name = next((name for name in PROMPT_FIELDS if fields.get(name)), None)
    if name is None:
        return None, {}
    texts = {other: text for other, text in fields.items() if isinstance(text, str) and text.strip()}
    answers = {other: text for other, text in texts.items() if other != name}
    prompt = fields[name] if isinstance(fields[name], str) else messages_of(fields[name])
    return prompt, answers


def _who(completed_by: Any) -> Values:
    """Name by the number, or else by the address, for which the import has a pseudonym; nobody where there is
    neither."""
    who = completed_by
    if isinstance(completed_by, dict):
        who = completed_by.get("id") if completed_by.get("id") is not None else completed_by.get("email")
    if who is None or not str(who).strip():
        return {}
    return {"annotator": str(who) if "@" in str(who) else f"label-studio-{who}"}


def _when(annotation: Values) -> Values:
    """The time of its last change, by which a later answer of the same annotator is the one that counts."""
    created = annotation.get("updated_at") or annotation.get("created_at")
    return {"created": created} if created else {}


def _time(annotation: Values) -> Values:
    seconds = annotation.get("lead_time")
    return {"seconds": seconds} if isinstance(seconds, int | float) else {}


def _plain(name: str) -> str:
    """Names of fields differ from the answers that name them in case and in dashes."""
    return name.strip().lower().replace("-", "_").replace(" ", "_")


ARGILLA = Format(
    "argilla",
    KINDS,
    frozenset({"id", "fields", "responses", "status", "_server_id"}),
    is_argilla,
    lambda row, kind: with_source(argilla(row, kind), "argilla"),
)
LABEL_STUDIO = Format(
    "label-studio",
    KINDS,
    frozenset({"id", "data", "annotations"}),
    is_label_studio,
    lambda row, kind: with_source(label_studio(row, kind), "label-studio"),
    {
        "annotations": frozenset(
            "id result completed_by was_cancelled lead_time updated_at created_at type value from_name to_name "
            "selected ranker rating text".split()
        )
    },
)
