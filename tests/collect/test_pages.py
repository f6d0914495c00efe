"""The annotators' pages in a real browser: by keys, mouse and touch, on a desk and a phone, and without scripts."""

from __future__ import annotations

import itertools
import re
import shutil
import socket
import threading
import time
from contextlib import contextmanager

import pytest
import uvicorn
from campaign import FORMS, PLAIN, SHOWN, account
from sqlalchemy import select, update

from plaudit.collect import people
from plaudit.collect.assignment import claim
from plaudit.collect.campaigns import CampaignSettings, NewTask, add_gold, create_campaign, set_open
from plaudit.collect.judging import submit
from plaudit.collect.web.app import create_app
from plaudit.collect.web.markup import markdown
from plaudit.records import Prompt, Response
from plaudit.store import Store, tables

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no browser: install chromium to test the pages")
PASSWORD = "correct horse battery"
RUN = "secretrun-007"
WIDE = {"viewport": {"width": 1280, "height": 900}, "reduced_motion": "reduce"}
PHONE = {
    "viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True, "color_scheme": "dark",
    "reduced_motion": "reduce",
}  # fmt: skip
KINDS = list(FORMS)
_numbers = itertools.count(1)


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="no playwright: install it to test the pages")
    with playwright.sync_playwright() as running:
        browser = running.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return Store.open(tmp_path_factory.mktemp("pages") / "feedback.sqlite")


@pytest.fixture(scope="module")
def site(store):
    """The address of a running server."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    server = uvicorn.Server(uvicorn.Config(create_app(store, local_token="open"), port=port, log_level="warning"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.02)
    yield f"http://127.0.0.1:{port}"
    server.should_exit = True
    thread.join()


class Visit:
    """Somebody in a browser of their own."""

    def __init__(self, site, store, context, who):
        self.site, self.store, self.context, self.who = site, store, context, who
        self.page = context.new_page()
        self.said, self.asked, self.dialogs = [], [], []
        self.expected = set()
        self.answer_dialogs = True
        self.page.on("console", lambda message: self.said.append((message.type, message.text)))
        self.page.on("pageerror", lambda error: self.said.append(("error", str(error))))
        context.on("request", lambda request: self.asked.append(request.url))
        self.page.on("dialog", self._dialog)

    def _dialog(self, dialog):
        self.dialogs.append(dialog.message)
        dialog.accept() if self.answer_dialogs else dialog.dismiss()

    def go(self, path):
        self.page.goto(self.site + path)
        return self

    def press(self, *keys):
        for key in keys:
            self.page.keyboard.press(key)

    def rows(self, table, **equal):
        query = select(table).where(*(table.c[name] == value for name, value in equal.items()))
        with self.store.database.reading() as connection:
            return [dict(row) for row in connection.execute(query).mappings()]

    def held(self):
        """The assignment that was given last."""
        return max(self.rows(tables.assignments, annotator=self.who, state="leased"), key=lambda row: row["created"])

    @contextmanager
    def leaving(self):
        """What is done within leads to another page, which is then there."""
        with self.page.expect_navigation(wait_until="load"):
            yield

    def check_quiet(self):
        loud = [
            said for said in self.said
            if said[0] in ("error", "warning") and not any(text in said[1] for text in self.expected)
        ]  # fmt: skip
        assert not loud
        assert [url for url in self.asked if not url.startswith(self.site)] == []


@pytest.fixture
def visit(browser, site, store):
    """Make a visit: visit(who, **options of the browser). What it says and asks for is looked at in the end."""
    visits = []

    def make(who=None, *, options=WIDE, **more):
        context = browser.new_context(**options, **more)
        context.set_default_timeout(20_000)
        if who is not None:
            token = people.open_session(store, who)
            context.add_cookies([{"name": "plaudit", "value": token, "url": site, "httpOnly": True}])
        visits.append(Visit(site, store, context, who))
        return visits[-1]

    yield make
    for one in visits:
        one.context.close()
    for one in visits:
        one.check_quiet()


@pytest.fixture(scope="module")
def ann(store):
    return account(store, "ann")


@pytest.fixture
def somebody(store):
    """The pseudonym of somebody new."""
    return account(store, f"somebody-{next(_numbers)}", password=PASSWORD)


def ask(store, kind, *, tasks=2, texts=None, question=None, guideline="", gold=0, **settings):
    """A campaign of its own; its name."""
    name = f"{kind}-{next(_numbers)}"
    prompts, found = [], []
    for i in range(tasks + gold):
        messages = question or [{"role": "user", "content": f"What grows in garden {i}?"}]
        prompts.append(
            Prompt([*messages[:-1], {**messages[-1], "content": f"{messages[-1]['content']} ({name}, {i})"}])
        )
    store.add_prompts(prompts)
    answers = texts or [f"Answer number {k}." for k in range(SHOWN[kind])]
    responses = [Response(f"{RUN}:{p.id}:{k}", p.id, t, RUN) for p in prompts for k, t in enumerate(answers)]
    if responses:
        store.add_responses(responses)
    for prompt in prompts:
        found.append(NewTask(prompt.id, tuple(f"{RUN}:{prompt.id}:{k}" for k in range(len(answers)))))
    rules = CampaignSettings(**{**PLAIN, **settings})
    create_campaign(store, name, kind=kind, tasks_=found[:tasks], settings=rules, guideline=guideline)
    known = [(task, {"choice": task.responses[0], "grade": 3}, "because") for task in found[tasks:]]
    if gold:
        add_gold(store, name, known, screening=True, actor="test")
    return name


def answered(kind, shown):
    """What the actions below say of answers in the order shown."""
    return {
        "compare": lambda: {"choice": shown[0], "grade": 3},
        "rank": lambda: {"ranks": dict(zip(shown, (2, 1, 2), strict=True))},
        "rate": lambda: {"ratings": {shown[0]: 6}},
        "safety": lambda: {"safe": {shown[0]: False}},
        "demonstrate": lambda: {"text": "Roses, mostly."},
        "edit": lambda: {"text": "Roses, mostly."},
    }[kind]()


def by_keyboard(visit, kind):
    if kind in ("demonstrate", "edit"):
        visit.press("Control+a")
        visit.page.keyboard.type("Roses, mostly.")
        visit.press("Control+Enter")
    else:
        visit.press(*{"compare": "2", "rank": "212", "rate": "6", "safety": "n"}[kind], "Enter")


def by_pointer(act):
    """By `click` or `tap` alone, but for writing."""

    def answer(visit, kind):
        page = visit.page
        press = lambda found: getattr(found, act)()  # noqa: E731
        choices = {
            "compare": [("verdict", "0:3")],
            "rank": [("rank-0", "2"), ("rank-1", "1"), ("rank-2", "2")],
            "rate": [("rating-0", "6")],
            "safety": [("safe-0", "no")],
        }
        for name, value in choices.get(kind, []):
            press(page.locator(f".choice:has(input[name={name}][value='{value}'])"))
        if kind in ("demonstrate", "edit"):
            press(page.locator("textarea[name=text]"))
            page.locator("textarea[name=text]").fill("Roses, mostly.")
        press(page.get_by_role("button", name="Submit"))

    return answer


WAYS = {
    "keyboard": (by_keyboard, WIDE, {}),
    "mouse": (by_pointer("click"), WIDE, {"color_scheme": "dark"}),
    "touch": (by_pointer("tap"), PHONE, {}),
    "no-scripts": (by_pointer("click"), WIDE, {"java_script_enabled": False}),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_task_can_be_done_in_every_way(visit, store, ann, kind, way):
    answer, options, more = WAYS[way]
    name = ask(store, kind, tasks=2)
    one = visit(ann, options=options, **more).go(f"/work/{name}")
    held = one.held()
    if way != "no-scripts":
        check_page(one, phone=options is PHONE)
    with one.leaving():
        answer(one, kind)
    (kept,) = one.rows(tables.judgments, campaign=name)
    assert (kept["assignment"], kept["shown"]) == (held["id"], held["shown"])
    assert kept["answer"] == answered(kind, held["shown"])
    if way == "no-scripts":
        assert kept["seconds"] is None
    else:
        assert 0 <= kept["seconds"] < 20
    with one.leaving():
        answer(one, kind)
    assert len(one.rows(tables.judgments, campaign=name)) == 2
    assert one.page.get_by_role("heading", name="All done").is_visible()
    if way != "no-scripts":
        check_page(one, phone=options is PHONE)


# What every page must be


PROBLEMS = """
(phone) => {
  const problems = [];
  const shown = (el) => el.checkVisibility({ opacityProperty: true, visibilityProperty: true });
  if (document.documentElement.lang !== "en") problems.push("no language");
  const wide = document.scrollingElement;
  if (wide.scrollWidth > wide.clientWidth) problems.push(`scrolls sideways: ${wide.scrollWidth} > ${wide.clientWidth}`);
  let above = 0;
  for (const heading of [...document.querySelectorAll("h1, h2, h3, h4, h5, h6")].filter(shown)) {
    const level = Number(heading.tagName[1]);
    if (level > above + 1) problems.push(`${heading.tagName} after h${above}: ${heading.textContent}`);
    above = level;
  }
  if (document.querySelectorAll("h1").length !== 1) problems.push("not one h1");
  const ids = [...document.querySelectorAll("[id]")].map((el) => el.id);
  if (new Set(ids).size !== ids.length) problems.push("an id twice");
  const numbers = (color) => color.match(/[\\d.]+/g).map(Number);
  const light = (color) => {
    const linear = (c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
    const [r, g, b] = numbers(color).map((c) => linear(c / 255));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const ground = (el) => {
    for (; el; el = el.parentElement) {
      const color = getComputedStyle(el).backgroundColor;
      if (color !== "rgba(0, 0, 0, 0)" && color !== "transparent") return color;
    }
    return "rgb(255, 255, 255)";
  };
  const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (texts.nextNode()) {
    const el = texts.currentNode.parentElement;
    if (!texts.currentNode.data.trim() || !shown(el) || el.closest("script, noscript")) continue;
    const [one, other] = [light(getComputedStyle(el).color), light(ground(el))].sort((x, y) => y - x);
    const ratio = (one + 0.05) / (other + 0.05);
    if (ratio < 4.5) problems.push(`contrast ${ratio.toFixed(2)}: ${texts.currentNode.data.trim().slice(0, 40)}`);
  }
  const targets = "a[href], button, summary, textarea, label:has([type=checkbox]), .choice, input";
  for (const el of document.querySelectorAll(targets)) {
    if (!phone || !shown(el) || el.matches("[type=hidden], [type=checkbox], .skip-link, .prose *")) continue;
    const around = el.parentElement.textContent.trim() !== el.textContent.trim();
    if (el.matches("p a") && around) continue;
    const { height, width } = el.getBoundingClientRect();
    if (height < 44 || width < 44) problems.push(`${width} x ${height}: ${el.outerHTML.slice(0, 80)}`);
  }
  return problems;
}
"""
MUST_HAVE_NAMES = {
    "textbox", "radio", "checkbox", "button", "link", "spinbutton", "combobox", "region", "dialog",
    "DisclosureTriangle", "navigation", "heading",
}  # fmt: skip


def check_page(visit, *, phone=False):
    visit.page.wait_for_load_state()
    assert visit.page.evaluate(PROBLEMS, phone) == []
    session = visit.context.new_cdp_session(visit.page)
    nodes = session.send("Accessibility.getFullAXTree")["nodes"]
    session.detach()
    named = [node for node in nodes if not node["ignored"] and node["role"]["value"] in MUST_HAVE_NAMES]
    assert [node["role"]["value"] for node in named if not node["name"]["value"].strip()] == []


@pytest.mark.parametrize("kind", ["compare", "rank", "edit"])
def test_the_focus_goes_through_the_page_in_order_and_can_be_seen(visit, store, ann, kind):
    one = visit(ann).go(f"/work/{ask(store, kind, tasks=1)}")
    one.page.locator(".skip-link").focus()
    look = """() => {
      const el = document.activeElement;
      if (el === document.body) return "end";
      const seen = el.matches(".choice input") ? el.nextElementSibling : el;
      const box = seen.getBoundingClientRect();
      const top = document.elementFromPoint(box.left + box.width / 2, box.top + Math.min(box.height / 2, 40));
      const is_after = !window.last || Boolean(window.last.compareDocumentPosition(el) & 4);
      window.last = el;
      const label = el.name || el.textContent.trim().split("\\n")[0];
      return [label, is_after, getComputedStyle(seen).outlineStyle, el === top || seen.contains(top)];
    }"""
    found = [one.page.evaluate(look)]
    while found[-1] != "end" and len(found) < 40:
        one.press("Tab")
        found.append(one.page.evaluate(look))
    *steps, end = found
    assert end == "end"
    assert [step for step in steps if step[1:] != [True, "solid", True]] == []
    names = [step[0] for step in steps]
    assert names[:2] == ["Jump to content", "Plaudit"]
    for needed in ("Instructions G", "Comment or flag C", "Submit ↵" if kind != "edit" else "Submit Ctrl ↵"):
        assert needed in names


def test_what_is_said_aloud(visit, store, ann):
    """Roles and names as the browser gives them to a screen reader."""
    one = visit(ann).go(f"/work/{ask(store, 'compare', tasks=1)}")
    page = one.page
    one.press("2")
    chosen = page.get_by_role("radio", name="A better", exact=True)
    assert chosen.is_checked()
    assert chosen.evaluate("el => el === document.activeElement")
    assert page.get_by_role("group", name="Which is better?").get_by_role("radio").count() == 10
    assert page.get_by_role("region", name="Answer A").is_visible()
    assert page.locator("#status").evaluate("el => el.getAttribute('role')") == "status"
    one.go(f"/work/{ask(store, 'rank', tasks=1)}").press("2")
    assert page.get_by_role("status").inner_text() == "Answer A: 2. Now Answer B."
    assert page.get_by_role("region", name="Answer B").evaluate("el => el === document.activeElement")


# Keys


def test_arrows_between_choices_hand_nothing_in_and_enter_does(visit, store, ann):
    name = ask(store, "compare", tasks=1)
    one = visit(ann).go(f"/work/{name}")
    one.press("1", "ArrowRight", "ArrowDown", "ArrowLeft")
    assert one.page.locator("[name=verdict]:checked").input_value() == "0:3"
    assert one.rows(tables.judgments, campaign=name) == []
    with one.leaving():
        one.press("Enter")
    (kept,) = one.rows(tables.judgments, campaign=name)
    assert kept["answer"]["grade"] == 3


def test_arrows_move_the_mark_and_digits_answer_for_it(visit, store, ann):
    name = ask(store, "rank", tasks=1)
    one = visit(ann).go(f"/work/{name}")
    one.press("ArrowDown", "ArrowDown", "ArrowUp", "1", "3", "ArrowUp", "ArrowUp", "2", "9")
    places = [one.page.locator(f"[name=rank-{i}]:checked").input_value() for i in range(3)]
    assert places == ["2", "1", "3"]
    one.page.locator("[name=rank-1]:checked").focus()
    one.press("ArrowDown")  # between the choices of one answer, arrows are the browser's
    assert one.page.locator("[name=rank-1]:checked").input_value() == "2"


@pytest.mark.parametrize(
    ("scale", "keys", "values"), [((0, 10), "70", [7, 0]), ((1, 10), "03", [10, 3]), ((1, 100), ["8", "7"], [87, 5])]
)
def test_ratings_on_every_scale_have_keys(visit, store, ann, scale, keys, values):
    name = ask(store, "rate", tasks=1, texts=["One.", "Two."], scale=scale)
    one = visit(ann).go(f"/work/{name}")
    one.press(*keys)
    if scale == (1, 100):
        one.press("Tab", "5")
    check_page(one)
    with one.leaving():
        one.press("Enter")
    (kept,) = one.rows(tables.judgments, campaign=name)
    assert [kept["answer"]["ratings"][shown] for shown in kept["shown"]] == values


def test_enter_without_an_answer_hands_nothing_in(visit, store, ann):
    name = ask(store, "compare", tasks=1)
    one = visit(ann).go(f"/work/{name}")
    one.press("Enter")
    assert one.page.evaluate("document.activeElement.name") == "verdict"
    assert one.rows(tables.judgments, campaign=name) == []


@pytest.mark.parametrize(("kind", "keys"), [("compare", ["2", "Enter"]), ("edit", ["x", "Control+Enter"])])
def test_a_key_pressed_twice_or_held_hands_in_once(visit, store, ann, kind, keys):
    name = ask(store, kind, tasks=3)
    one = visit(ann).go(f"/work/{name}")
    one.press(keys[0])
    for key in keys[1].split("+"):
        one.page.keyboard.down(key)
    for _ in range(
        30 if kind == "edit" else 10
    ):  # a key that is down already repeats; an edit is filled in from the start
        one.page.keyboard.down("Enter")
        one.page.wait_for_timeout(50)
    one.page.keyboard.up("Enter")
    if kind == "compare":
        one.press("Enter")  # and once more, on the page that came
    one.page.wait_for_timeout(150)
    assert len(one.rows(tables.judgments, campaign=name)) == 1


def test_two_clicks_hand_in_once_without_scripts_too(visit, store, ann):
    name = ask(store, "compare", tasks=1)
    one = visit(ann, java_script_enabled=False).go(f"/work/{name}")
    one.page.locator(".choice").first.click()
    one.page.get_by_role("button", name="Submit").dblclick()
    one.page.get_by_role("heading", name="All done").wait_for()
    assert len(one.rows(tables.judgments, campaign=name)) == 1


def test_keys_do_nothing_else_while_somebody_writes(visit, store, ann):
    one = visit(ann).go(f"/work/{ask(store, 'compare', tasks=1)}")
    one.press("c")
    one.page.keyboard.type("suf?g3u")
    assert one.page.locator("[name=comment]").input_value() == "suf?g3u"
    assert one.page.locator("[name=verdict]:checked").count() == 0
    one.press("Escape", "3")
    assert one.page.locator("[name=verdict]:checked").input_value() == "0:2"


def test_the_keys_are_explained(visit, store, ann):
    one = visit(ann).go(f"/work/{ask(store, 'compare', tasks=1)}")
    one.press("?")
    help_ = one.page.get_by_role("dialog", name="Keys")
    assert help_.is_visible()
    check_page(one)
    one.press("3", "Escape")
    assert not help_.is_visible()
    assert one.page.locator("[name=verdict]:checked").count() == 0
    one.page.get_by_role("button", name="Keys").click()
    help_.get_by_role("button", name="Close").click()
    one.press("g")
    assert not one.page.locator(".guideline .prose").is_visible()


def test_an_answer_can_be_dragged_into_its_place(visit, store, ann):
    name = ask(store, "rank", tasks=1)
    one = visit(ann).go(f"/work/{name}")
    page = one.page
    page.locator("[data-place='2'] > h2").drag_to(
        page.locator("[data-place='0'] > h2"), target_position={"x": 5, "y": 2}
    )
    assert [page.locator(f"[name=rank-{i}]:checked").input_value() for i in range(3)] == ["2", "3", "1"]
    assert page.get_by_role("status").inner_text() == "Ranked as they stand: Answer C, Answer A, Answer B."
    with one.leaving():
        one.press("Enter")
    (kept,) = one.rows(tables.judgments, campaign=name)
    assert [kept["answer"]["ranks"][shown] for shown in kept["shown"]] == [2, 3, 1]


# Comments, flags, skipping, undoing


def test_a_comment_and_flags_are_kept(visit, store, ann):
    name = ask(store, "safety", tasks=1)
    one = visit(ann).go(f"/work/{name}")
    one.press("f", "Space", "Tab", "Tab", "Space", "c")
    one.page.keyboard.type("because, »so«\nit is")
    one.press("Escape", "y")
    with one.leaving():
        one.press("Enter")
    (kept,) = one.rows(tables.judgments, campaign=name)
    assert (kept["comment"], kept["flags"]) == ("because, »so«\nit is", ["spam", "unsafe"])


def test_the_last_answer_can_be_opened_and_corrected(visit, store, ann):
    name = ask(store, "compare", tasks=2)
    one = visit(ann).go(f"/work/{name}")
    assert one.page.get_by_role("button", name="Open my last answer").count() == 0
    one.press("2", "c")
    one.page.keyboard.type("first thought")
    one.press("Escape", "1")
    with one.leaving():
        one.press("Enter")
    with one.leaving():
        one.press("u")
    check_page(one)
    assert one.page.get_by_role("heading", name="Your last answer, reopened").is_visible()
    assert one.page.locator("[name=verdict]:checked").input_value() == "0:4"
    assert one.page.locator("[name=comment]").input_value() == "first thought"
    one.press("9")
    with one.leaving():
        one.page.get_by_role("button", name="Replace my answer").click()
    first, second = sorted(one.rows(tables.judgments, campaign=name), key=lambda row: row["number"])
    assert second["supersedes"] == first["id"]
    assert second["answer"] == {"choice": first["shown"][1], "grade": 4}
    assert one.page.get_by_role("heading", name="task 2").is_visible()
    one.go(f"/mine/{name}")
    check_page(one)
    assert one.page.locator("tr.replaced").inner_text().split("\t")[1].strip() == "A significantly better"
    with one.leaving():
        one.press("u")
    assert one.page.locator("[name=verdict]:checked").input_value() == "1:4"


@pytest.mark.parametrize("kind", KINDS)
def test_an_answer_that_is_opened_again_is_as_it_was(visit, store, ann, kind):
    name = ask(store, kind, tasks=1)
    one = visit(ann).go(f"/work/{name}")
    with one.leaving():
        by_keyboard(one, kind)
    with one.leaving():
        one.press("u")
    one.page.wait_for_timeout(1050)  # before, it could be the second click of two
    with one.leaving():
        one.page.get_by_role("button", name="Replace my answer").click()
    first, second = one.rows(tables.judgments, campaign=name)
    assert first["answer"] == second["answer"]


def test_a_task_is_skipped_with_a_reason_and_without_a_question(visit, store, ann):
    name = ask(store, "compare", tasks=2)
    one = visit(ann).go(f"/work/{name}")
    held = one.held()["id"]
    one.press("2", "s", "Escape", "s", "Tab")
    check_page(one)
    with one.leaving():
        one.press("Enter")
    (skipped,) = one.rows(tables.assignments, id=held)
    assert (skipped["state"], skipped["reason"]) == ("skipped", "I would rather not read this")
    assert one.dialogs == []
    assert one.rows(tables.judgments, campaign=name) == []


def test_skipping_asks_before_it_throws_text_away(visit, store, ann):
    one = visit(ann).go(f"/work/{ask(store, 'demonstrate', tasks=2)}")
    held = one.held()["id"]
    one.page.keyboard.type("an hour of work")
    one.answer_dialogs = False
    one.press("Escape", "s", "Enter")
    assert one.dialogs == ["Skip this task and throw away what you wrote?"]
    assert one.held()["id"] == held
    assert one.page.locator("[name=text]").input_value() == "an hour of work"
    one.answer_dialogs = True
    with one.leaving():
        one.press("Enter")
    assert one.rows(tables.assignments, id=held)[0]["state"] == "skipped"
    assert one.page.evaluate("(id) => localStorage.getItem(`plaudit-draft-${id}`)", held) is None


# Drafts, time and the lease


def test_a_draft_survives_a_reload_with_its_time_and_is_gone_when_handed_in(visit, store, ann):
    name = ask(store, "demonstrate", tasks=2)
    one = visit(ann).go(f"/work/{name}")
    page, held = one.page, one.held()["id"]
    page.keyboard.type("half an answer")
    one.press("Escape", "f", "Space")
    page.evaluate(
        """(id) => { const key = `plaudit-draft-${id}`, kept = JSON.parse(localStorage.getItem(key));
        addEventListener("pagehide", () => localStorage.setItem(key, JSON.stringify({ ...kept, seconds: 300 }))); }""",
        held,
    )
    page.reload()
    assert page.locator("[name=text]").input_value() == "half an answer"
    assert page.get_by_role("checkbox", name="unsafe").is_checked()
    assert page.get_by_role("status").inner_text() == "Your draft was restored."
    with store.database.writing() as connection:
        mine = tables.assignments.c.id == held
        connection.execute(update(tables.assignments).where(mine).values(created=time.time() - 1000))
    one.press("Control+End", ".")
    with one.leaving():
        one.press("Control+Enter")
    (kept,) = one.rows(tables.judgments, campaign=name)
    assert (kept["answer"]["text"], kept["flags"]) == ("half an answer.", ["unsafe"])
    assert 300 <= kept["seconds"] < 320
    assert page.locator("[name=text]").input_value() == ""
    assert page.evaluate("(id) => localStorage.getItem(`plaudit-draft-${id}`)", held) is None


def test_a_draft_survives_the_end_of_the_session(visit, store, somebody, site):
    one = visit(somebody).go(f"/work/{ask(store, 'demonstrate', tasks=2)}")
    address = one.page.url
    one.page.keyboard.type("kept")
    one.context.clear_cookies()
    with one.leaving():
        one.press("Control+Enter")
    assert one.page.get_by_role("heading", name="Log in").is_visible()
    token = people.open_session(store, somebody)
    one.context.add_cookies([{"name": "plaudit", "value": token, "url": site}])
    one.go(f"/work/{ask(store, 'demonstrate', tasks=1)}")
    one.page.goto(address)
    assert one.page.locator("[name=text]").input_value() == "kept"


def test_time_is_counted_only_while_the_page_is_looked_at(visit, store, ann):
    name = ask(store, "compare", tasks=1)
    one = visit(ann)
    one.page.clock.install()
    one.go(f"/work/{name}")
    hide = "(yes) => { Object.defineProperty(document, 'hidden', { value: yes, configurable: true });"
    hide += " document.dispatchEvent(new Event('visibilitychange')); }"
    one.page.clock.run_for(20_000)
    one.page.evaluate(hide, True)
    one.page.clock.run_for(500_000)
    one.page.evaluate(hide, False)
    one.page.clock.run_for(10_000)
    with store.database.writing() as connection:
        mine = tables.assignments.c.campaign == name
        connection.execute(update(tables.assignments).where(mine).values(created=time.time() - 1000))
    one.press("2")
    with one.leaving():
        one.press("Enter")
    (kept,) = one.rows(tables.judgments, campaign=name)
    assert 30 <= kept["seconds"] < 40


def test_the_page_holds_its_task_and_says_when_it_cannot(visit, store, somebody):
    one = visit(somebody)
    one.page.clock.install()
    one.go(f"/work/{ask(store, 'compare', tasks=1, lease_minutes=1)}")
    before = one.held()["expires"]
    with one.page.expect_response(re.compile("/renew$")) as answer:
        one.page.clock.run_for(21_000)
    assert answer.value.status == 204
    assert one.held()["expires"] > before
    with store.database.writing() as connection:
        mine = tables.assignments.c.annotator == somebody
        connection.execute(update(tables.assignments).where(mine).values(expires=1.0))
    one.expected |= {"410", "ERR_INTERNET_DISCONNECTED"}
    with one.page.expect_response(re.compile("/renew$")) as answer:
        one.page.clock.run_for(21_000)
    one.page.get_by_text("held for too long").wait_for()
    one.context.set_offline(True)
    one.page.clock.run_for(21_000)
    one.page.get_by_text("The server is not answering").wait_for()
    one.context.set_offline(False)
    one.context.clear_cookies()
    one.page.clock.run_for(21_000)
    one.page.get_by_text("You are no longer logged in").wait_for()


# What goes wrong


def test_an_answer_that_is_refused_stays_in_the_form(visit, store, ann):
    one = visit(ann, java_script_enabled=False).go(f"/work/{ask(store, 'demonstrate', tasks=1)}")
    one.expected.add("422")
    page = one.page
    page.locator("[name=text]").fill("  \n ")
    page.locator("#more summary").click()
    page.locator("[name=comment]").fill("\nkept")
    page.get_by_role("checkbox", name="spam").check()
    page.get_by_role("button", name="Submit").click()
    assert page.get_by_role("alert").inner_text() == "The answer is empty; write one, or skip the task."
    assert page.locator("[name=comment]").input_value() == "\nkept"
    assert page.get_by_role("checkbox", name="spam").is_checked()


def test_what_comes_too_late_is_shown_to_be_copied(visit, store, somebody, ann):
    name = ask(store, "demonstrate", tasks=1)
    one = visit(somebody).go(f"/work/{name}")
    one.page.keyboard.type("a late answer")
    with store.database.writing() as connection:
        mine = tables.assignments.c.annotator == somebody
        connection.execute(update(tables.assignments).where(mine).values(expires=1.0))
    taken = claim(store, name, ann)
    submit(store, taken.id, ann, {"text": "first"}, submission=taken.id)
    one.expected.add("409")
    with one.leaving():
        one.press("Control+Enter")
    check_page(one)
    assert one.page.get_by_role("textbox", name="What you wrote").input_value() == "a late answer"
    assert len(one.rows(tables.judgments, campaign=name)) == 1


def test_the_longest_answer_in_the_widest_letters_is_kept(visit, store, ann):
    name = ask(store, "demonstrate", tasks=1)
    one = visit(ann).go(f"/work/{name}")
    text = ("界" * 98 + "\n\n") * 500
    one.page.locator("[name=text]").fill(text)
    with one.leaving():
        one.press("Control+Enter")
    (kept,) = one.rows(tables.judgments, campaign=name)
    assert kept["answer"]["text"] == text.strip()


def test_a_page_that_is_not_there_says_so(visit, ann):
    one = visit(ann)
    one.expected.add("404")
    one.go("/work/nowhere")
    check_page(one)
    assert one.page.get_by_role("heading", name="There is no such page").is_visible()


# The test before the work


def test_the_test_before_the_work_and_what_came_of_it(visit, store, somebody):
    name = ask(store, "compare", tasks=1, gold=2, screening_tasks=2)
    one = visit(somebody).go("/")
    with one.leaving():
        one.page.locator("article", has_text=name).get_by_role("link", name="Begin the test").click()
    for number in (1, 2):
        assert one.page.get_by_role("heading", name=f"test, {number} of 2").is_visible()
        assert one.page.get_by_text("Skip").count() == 0
        known = one.held()["shown"][0].endswith(":0")
        one.press("2" if known else "8")
        with one.leaving():
            one.press("Enter")
    assert one.page.get_by_text("The test is done: 2 of 2 as expected.").is_visible()
    assert one.page.get_by_role("heading", name="task 1").is_visible()
    assert one.page.get_by_role("button", name="Open my last answer").count() == 0
    assert [row["is_right"] for row in one.rows(tables.judgments, campaign=name)] == [True, True]
    check_page(one)


def test_who_fails_the_test_learns_how_and_cannot_open_it_again(visit, store, somebody):
    name = ask(store, "compare", tasks=1, gold=1, screening_tasks=1)
    one = visit(somebody, options=PHONE).go(f"/work/{name}")
    known = one.held()["shown"][0].endswith(":0")
    one.press("8" if known else "2")
    with one.leaving():
        one.press("Enter")
    assert one.page.get_by_text("You answered 0 of 1 tasks of the test as expected; 75 % are needed.").is_visible()
    assert one.page.get_by_role("button").all_inner_texts() == ["Leave"]
    check_page(one, phone=True)
    one.go("/")
    assert one.page.get_by_text("You cannot work here at the moment").is_visible()
    one.go(f"/mine/{name}")
    assert one.page.get_by_role("row").count() == 2


def test_a_closed_campaign_takes_what_is_in_hand_and_gives_nothing_more(visit, store, somebody):
    name = ask(store, "compare", tasks=2)
    one = visit(somebody).go(f"/work/{name}")
    with store.database.writing() as connection:
        set_open(connection, name, False, actor="test")
    one.press("2")
    with one.leaving():
        one.press("Enter")
    assert one.page.get_by_role("heading", name=f"{name} is closed").is_visible()
    with one.leaving():
        one.press("u")
    assert one.page.locator("[name=verdict]:checked").input_value() == "0:3"


# Coming in


@pytest.mark.parametrize("scripts", [True, False])
def test_joining_leaving_coming_in_and_another_password(visit, store, scripts):
    login = f"new.{next(_numbers)}@example.org"
    one = visit(options=PHONE, java_script_enabled=scripts)
    page = one.page
    one.expected |= {"403", "404", "422"}
    invitation = f"/join/{people.invite(store, 'annotator', actor='test')}"
    one.go(invitation)
    if scripts:
        check_page(one, phone=True)
    page.get_by_label("Name or e-mail address").fill(login)
    page.get_by_label("Password").fill(login)
    page.get_by_role("button", name="Create the account").click()
    assert page.get_by_role("alert").is_visible()
    assert page.get_by_label("Name or e-mail address").input_value() == login
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button", name="Create the account").click()
    page.get_by_role("heading", name="Your work").wait_for()
    page.get_by_role("link", name=login).click()
    if scripts:
        check_page(one, phone=True)
    page.get_by_label("Current password").fill("not this at all")
    page.get_by_label("New password").fill("another horse battery")
    page.get_by_role("button", name="Change it").click()
    assert page.get_by_role("alert").inner_text() == "The old password is not right."
    page.get_by_label("Current password").fill(PASSWORD)
    page.get_by_label("New password").fill("another horse battery")
    page.get_by_role("button", name="Change it").click()
    page.get_by_role("button", name="Leave").click()
    for password in (PASSWORD, "another horse battery"):
        page.get_by_label("Name").fill(login)
        page.get_by_label("Password").fill(password)
        page.get_by_role("button", name="Log in").click()
        if password == PASSWORD:
            assert page.get_by_role("alert").inner_text() == "This name and password do not belong together."
            assert page.get_by_label("Name").input_value() == login
    page.get_by_role("heading", name="Your work").wait_for()
    assert {cookie["httpOnly"] for cookie in one.context.cookies()} == {True}
    one.context.clear_cookies()
    one.go(invitation)
    assert page.get_by_role("heading", name="This invitation is not valid").is_visible()


def test_whoever_runs_the_server_comes_in_by_its_link(visit):
    one = visit().go("/enter/open")
    one.page.get_by_role("heading", name="Your work").wait_for()
    check_page(one)


# What no page may tell, and what no text may do


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_in_a_page_tells_where_an_answer_comes_from(visit, site, store, somebody, kind):
    name = ask(store, kind, tasks=2)
    one = visit(somebody)
    told = []

    def look():
        told.extend([one.page.url, one.page.content(), str(one.context.cookies())])

    one.page.on("response", lambda response: told.append(f"{response.url} {response.headers}"))
    one.go("/")
    look()
    one.go(f"/work/{name}")
    look()
    with one.leaving():
        by_keyboard(one, kind)
    look()
    with one.leaving():
        one.press("Escape", "u")
    look()
    one.go(f"/mine/{name}")
    look()
    told += [one.context.request.get(f"{site}/static/{name}").text() for name in ("plaudit.css", "task.js", "keys.js")]
    told.append(one.page.evaluate("JSON.stringify([{ ...localStorage }, { ...sessionStorage }])"))
    ids = [row["id"] for row in one.rows(tables.responses) if row["id"] in str(one.rows(tables.tasks, campaign=name))]
    task_ids = [row["id"] for row in one.rows(tables.tasks, campaign=name)]
    for secret in [*ids, *task_ids, "secretrun", "model", "checkpoint", "sample"]:
        assert (secret, [text for text in told if secret in text.lower()]) == (secret, [])


NASTY = [
    "<script>window.ran = 1; alert(1)</script><img src=https://evil.example/a.png onerror='window.ran = 2'>",
    "[click](javascript:window.ran=3) ![picture](https://evil.example/b.png) <svg onload=window.ran=4> "
    "[x](data:text/html,<script>window.ran=5</script>) <iframe src=https://evil.example></iframe>",
    "```html\n<script>window.ran = 6</script>\n" + "x = y + " * 300 + "\n```\n\n# Heading\n\n##### Deep\n\n"
    "<style>body { display: none }</style>\n\n<form action=https://evil.example><input name=form_token></form>",
]
LONG = [
    "A" * 3000 + " " + "https://example.org/" + "b" * 500,
    "مرحبا بالعالم، هذا جواب طويل. " * 40 + "\u202e never mind",
    ("word " * 20 + "\n\n") * 100 + "| a | b |\n|---|---|\n" + "| " + "c" * 400 + " | d |\n",
]


@pytest.mark.parametrize(
    ("texts", "is_markdown", "phone"),
    [(NASTY, True, False), (NASTY, False, True), (LONG, True, True), (LONG, False, False)],
    ids=["nasty-markdown-wide", "nasty-plain-phone", "long-markdown-phone", "long-plain-wide"],
)
def test_nothing_in_a_text_runs_loads_or_breaks_the_page(visit, store, ann, texts, is_markdown, phone):
    talk = [{"role": role, "content": text} for role, text in zip(("user", "assistant", "user"), texts, strict=True)]
    name = ask(
        store, "rank", tasks=2, texts=texts, question=talk, guideline="\n\n".join(texts), is_markdown=is_markdown
    )
    one = visit(ann, options=PHONE if phone else WIDE).go("/")
    one.go(f"/work/{name}")
    one.press("c")
    one.page.keyboard.insert_text(texts[0][:4000] + '"><script>window.ran = 7</script>')
    one.press("Escape", "1", "2", "3")
    check_page(one, phone=phone)
    with one.leaving():
        one.press("Enter")
    with one.leaving():
        one.press("u")
    check_page(one, phone=phone)
    one.go(f"/mine/{name}")
    check_page(one, phone=phone)
    assert one.page.evaluate("window.ran") is None
    (kept,) = one.rows(tables.judgments, campaign=name)
    assert kept["comment"].startswith(texts[0][:4000].strip())
    one.go(f"/work/{name}")
    assert one.page.locator(".prose :is(img, script, style, form, iframe, svg, input)").count() == 0
    if texts is NASTY:  # what is not run is shown
        assert one.page.locator(".candidate", has_text="<script>window.ran = 1; alert(1)</script>").count() == 1
    links = one.page.locator("main a").evaluate_all("all => all.map((a) => a.protocol)")
    assert set(links) <= {"http:", "https:"}


def test_names_of_people_are_text(visit, store):
    one = visit()
    one.expected.add("403")
    one.go("/login")
    one.page.get_by_label("Name").fill('"><script>window.ran=1</script>')
    one.page.get_by_label("Password").fill("whatever it is")
    one.page.get_by_role("button", name="Log in").click()
    assert one.page.get_by_label("Name").input_value() == '"><script>window.ran=1</script>'
    assert one.page.evaluate("window.ran") is None


# Text as it is shown


def lines_of(locator):
    """How many lines of a browser's a text takes."""
    return locator.evaluate(
        "e => { const r = document.createRange(); r.selectNodeContents(e);"
        " return new Set([...r.getClientRects()].filter(x => x.width > 0).map(x => Math.round(x.bottom))).size }"
    )


def test_line_breaks_indentation_code_and_tex_are_seen_as_they_were_written(visit, store, ann):
    poem = "Roses are red\nViolets are blue\n        Sugar is __sweet__ \\(a_1\\)"
    one = visit(ann).go(f"/work/{ask(store, 'compare', texts=[poem, ' '.join(poem.split()) + '!'])}")
    shown = {text.count("\n"): text for text in one.page.locator(".candidate .prose").all_inner_texts()}
    assert shown == {2: poem, 0: " ".join(poem.split()) + "!"}
    candidates = one.page.locator(".candidate .prose p")
    assert sorted(lines_of(candidates.nth(i)) for i in range(2)) == [1, 3]


def test_answers_that_markdown_would_make_alike_are_shown_as_written_and_spaces_are_pointed_out(visit, store, ann):
    alike, spaces = ["1. a\n2. b", "1) a\n2) b"], ["a b", "a\nb"]
    one = visit(ann).go(f"/work/{ask(store, 'compare', texts=alike)}")
    assert sorted(one.page.locator(".candidate .plain").all_inner_texts()) == sorted(alike)
    assert one.page.get_by_text("only in spaces and line breaks").count() == 0
    one.go(f"/work/{ask(store, 'compare', texts=spaces)}")
    assert one.page.get_by_text("only in spaces and line breaks").count() == 1


def test_a_table_keeps_its_words_whole(visit, store, ann):
    table = "| Language | speakers |\n|---|---|\n| Quechua | 8 million of people |"
    one = visit(ann, options=PHONE).go(f"/work/{ask(store, 'compare', texts=[table, 'none'])}")
    assert one.page.locator(".prose td").first.inner_text() == "Quechua"
    assert lines_of(one.page.locator(".prose th").first) == 1


def test_pictures_are_told_in_words_and_headings_follow_those_of_the_page():
    assert "[image: a &lt;cat&gt;]" in markdown("![a <cat>](https://evil.example/a.png)")
    assert re.findall("<h[1-6]>", markdown("# a\n\n### b\n\n# c\n\n## d\n\n### e")) == [
        "<h3>", "<h4>", "<h3>", "<h4>", "<h5>",
    ]  # fmt: skip


def test_deep_lists_are_shown_to_the_bottom():
    assert "bottom" in markdown("\n".join("  " * depth + "- item" for depth in range(25)) + " bottom")
