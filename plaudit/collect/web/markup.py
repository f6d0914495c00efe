"""Markdown as annotators see it: what is plainly Markdown is set as such, and everything else is shown as written.

Two answers that differ must not look the same. So line breaks and indentation stay; underscores, backslashes, entities
and addresses in angle brackets are only what they are; TeX is left alone; numbers of lists are those that were written;
an address behind a word is told beside it. Text that CommonMark would set although it is seldom meant (a line of "#"
in code, a product of stars, a line with "+") stays text.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import nh3
from markdown_it import MarkdownIt
from markdown_it.rules_block import StateBlock
from markdown_it.rules_block.fence import fence
from markdown_it.rules_block.heading import heading as atx_heading
from markdown_it.rules_block.list import list_block
from markdown_it.rules_inline import StateInline
from markdown_it.rules_inline.backticks import backtick
from markdown_it.rules_inline.state_inline import Delimiter
from markdown_it.token import Token
from markupsafe import Markup, escape

TOP_HEADING = 3
"""Levels added to headings in a text: a page has its own first two."""
MOST_BRACKETS = 1000
"""Most opening brackets of a text in which links are looked for: the search takes a time that grows with their
square."""
OPENING = {"\\(": "\\)", "\\[": "\\]", "$$": "$$"}
DOLLARS = re.compile(r"\$(?![\s$])[^$\n]*(?<![\s\\])\$(?!\d)")
FENCE = re.compile(r"(`{3,}|~{3,})\s*[\w+#.-]*\s*")
DISPLAYED = re.compile(r"\s*(\$\$|\\\[|\\begin\{(\w+\*?)\})")
_TAGS = set("p br hr h3 h4 h5 h6 em strong s code pre blockquote ul ol li table thead tbody tr th td a".split())


def markdown(text: str) -> Markup:
    """Markdown as HTML with nothing that runs, loads or looks like a form: HTML in the text is shown as text."""
    if text.count("[") > MOST_BRACKETS:
        return Markup(f"<p>{_lines(text)}</p>")
    tokens = _markdown.parse(text)
    _set_headings(tokens)
    _tell_more(tokens)
    html = _markdown.renderer.render(tokens, _markdown.options, {})
    safe = nh3.clean(
        html, tags=_TAGS, attributes={"a": {"href"}, "li": {"value"}}, url_schemes={"http", "https"},
        link_rel="noopener noreferrer nofollow", set_tag_attribute_values={"a": {"target": "_blank"}},
    )  # fmt: skip
    return Markup(safe)


def told_apart(texts: Sequence[str], is_markdown: bool) -> tuple[list[Markup | None], bool]:
    """(each text as HTML, or None where it is to be shown as it was written; whether some differ in white space alone).

    All are shown as written where two that differ would look the same as Markdown, or differ in white space alone.
    """
    different = set(texts)
    blind = len({"".join(text.split()) for text in different}) < len(different)
    if is_markdown and not blind:
        shown = {text: markdown(text) for text in different}
        if len(set(shown.values())) == len(different):
            return [shown[text] for text in texts], False
    return [None for _ in texts], blind


def _set_headings(tokens: Sequence[Token]) -> None:
    """Headings go down from TOP_HEADING without a gap, so that a page can be read by them."""
    above = TOP_HEADING - 1
    for token in tokens:
        if token.type == "heading_open":
            above = min(int(token.tag[1]) + TOP_HEADING - 1, above + 1, 6)
        if token.type in ("heading_open", "heading_close"):
            token.tag = f"h{above}"


def _tell_more(tokens: Sequence[Token]) -> None:
    """What is not to be seen otherwise: numbers of items, addresses; and every paragraph, so that its spaces stay."""
    for token in tokens:
        if token.type == "list_item_open" and token.info:
            token.attrSet("value", token.info)
        token.hidden = False
        if token.children:
            token.children = _with_addresses(token.children)


def _with_addresses(children: Sequence[Token]) -> list[Token]:
    found: list[Token] = []
    opened = 0
    for child in children:
        found.append(child)
        if child.type == "link_open":
            opened = len(found)
        elif child.type == "link_close":
            link = found[opened - 1]
            words = "".join(token.content for token in found[opened:-1])
            address = " ".join(str(link.attrs[name]) for name in ("href", "title") if name in link.attrs)
            if words != address:
                found.append(Token("text", "", 0, content=f" ({address})"))
    return found


def _lines(text: str) -> str:
    return str(escape(text)).replace("\n", "<br>")


def _paragraph(state: StateBlock, start_line: int, end_line: int, silent: bool) -> bool:
    """Up to an empty line or to what ends it, with its spaces; a line less indented than its list's item is outside."""
    rules = state.md.block.ruler.getRules("paragraph")
    parent, state.parentType = state.parentType, "paragraph"
    line = start_line + 1
    while line < state.lineMax and not state.isEmpty(line) and state.sCount[line] >= state.blkIndent:
        if any(rule(state, line, state.lineMax, True) for rule in rules):
            break
        line += 1
    state.line = line
    state.push("paragraph_open", "p", 1).map = [start_line, line]
    token = state.push("inline", "", 0)
    token.content, token.map, token.children = state.getLines(start_line, line, state.blkIndent, False), [], []
    state.push("paragraph_close", "p", -1)
    state.parentType = parent
    return True


def _heading(state: StateBlock, start_line: int, end_line: int, silent: bool) -> bool:
    """A single "#" opens comments in code: it is a heading by itself, between empty lines."""
    begin, end = state.bMarks[start_line] + state.tShift[start_line], state.eMarks[start_line]
    if not state.src.startswith("##", begin):
        before, after = start_line - 1, start_line + 1
        alone = (before < 0 or state.isEmpty(before)) and (after >= state.lineMax or state.isEmpty(after))
        if not alone or begin >= end:
            return False
    return atx_heading(state, start_line, end_line, silent)


def _fence(state: StateBlock, start_line: int, end_line: int, silent: bool) -> bool:
    """Whose first line names at most a language."""
    first = state.src[state.bMarks[start_line] + state.tShift[start_line] : state.eMarks[start_line]]
    return FENCE.fullmatch(first) is not None and fence(state, start_line, end_line, silent)


def _list(state: StateBlock, start_line: int, end_line: int, silent: bool) -> bool:
    """Not by "+", which is a sign."""
    if state.src.startswith("+", state.bMarks[start_line] + state.tShift[start_line]):
        return False
    return list_block(state, start_line, end_line, silent)


def _displayed(state: StateBlock, start_line: int, end_line: int, silent: bool) -> bool:
    """A formula of several lines."""
    first = state.src[state.bMarks[start_line] + state.tShift[start_line] : state.eMarks[start_line]]
    opened = DISPLAYED.match(first)
    if opened is None:
        return False
    closing = f"\\end{{{opened[2]}}}" if opened[2] else OPENING[opened[1]]
    if closing in first[opened.end() :]:
        return False
    line = start_line + 1
    while line < state.lineMax:
        if closing in state.src[state.bMarks[line] : state.eMarks[line]]:
            break
        line += 1
    if line >= state.lineMax:
        return False
    if silent:
        return True
    state.line = line + 1
    token = state.push("as_written", "p", 0)
    token.content, token.map = state.getLines(start_line, line + 1, state.blkIndent, False), [start_line, line + 1]
    return True


def _ends_quote(state: StateBlock, start_line: int, end_line: int, silent: bool) -> bool:
    """A line without ">" is not quoted, though CommonMark is lazy there."""
    return silent and state.parentType == "blockquote"


def _formula(state: StateInline, silent: bool) -> bool:
    """TeX within a line."""
    opening = state.src[state.pos : state.pos + 2]
    end = -1
    if opening in OPENING:
        end = state.src.find(OPENING[opening], state.pos + 2, state.posMax) + 2
    elif opening[:1] == "$" and (match := DOLLARS.match(state.src, state.pos, state.posMax)):
        end = match.end()
    if end < state.pos + 2:
        return False
    if not silent:
        state.pending += state.src[state.pos : end]
    state.pos = end
    return True


def _stars(state: StateInline, silent: bool) -> bool:
    """Emphasis by stars around words, not within a word or after a backslash."""
    if silent or state.src[state.pos] != "*":
        return False
    found = state.scanDelims(state.pos, False)
    if state.pos and state.src[state.pos - 1] == "\\":
        state.pending += "*" * found.length
    else:
        for _ in range(found.length):
            state.push("text", "", 0).content = "*"
            place = len(state.tokens) - 1
            state.delimiters.append(Delimiter(ord("*"), found.length, place, -1, found.can_open, found.can_close))
    state.pos += found.length
    return True


def _code(state: StateInline, silent: bool) -> bool:
    """Between backticks, with all of its spaces and line breaks."""
    start, before = state.pos, len(state.tokens)
    if not backtick(state, silent):
        return False
    if not silent and len(state.tokens) > before and state.tokens[-1].type == "code_inline":
        token = state.tokens[-1]
        length = len(token.markup)
        token.content = state.src[start + length : state.pos - length]
    return True


def _line_break(state: StateInline, silent: bool) -> bool:
    if state.src[state.pos] != "\n":
        return False
    if not silent:
        state.push("softbreak", "br", 0)
    state.pos += 1
    return True


def _image_as_words(tokens: Sequence[Token], index: int, *_: object) -> str:
    """What a picture is said to show: loading it would tell another host who reads what."""
    token = tokens[index]
    return str(escape(f"[image: {token.content}] ({token.attrs.get('src', '')})"))


def _code_block(tokens: Sequence[Token], index: int, *_: object) -> str:
    """A code block, with the language that was named above it."""
    token = tokens[index]
    language = f"<p><code>{escape(token.info.strip())}</code></p>\n" if token.info.strip() else ""
    return f"{language}<pre><code>{escape(token.content)}</code></pre>\n"


def _made() -> MarkdownIt:
    made = MarkdownIt("commonmark", {"html": False, "linkify": False, "maxNesting": 100})
    made.enable(["table", "strikethrough"])
    made.disable(["code", "lheading", "reference", "html_block"])
    made.disable(["escape", "entity", "autolink", "html_inline"])
    made.validateLink = lambda url: url.lower().startswith(("http://", "https://"))  # type: ignore[method-assign]
    ends = ["paragraph", "reference", "blockquote"]
    made.block.ruler.at("paragraph", _paragraph)
    made.block.ruler.at("heading", _heading, {"alt": ends})
    made.block.ruler.at("list", _list, {"alt": ends})
    made.block.ruler.at("fence", _fence, {"alt": [*ends, "list"]})
    made.block.ruler.before("fence", "displayed", _displayed, {"alt": [*ends, "list"]})
    made.block.ruler.after("blockquote", "ends_quote", _ends_quote, {"alt": ["blockquote"]})
    made.inline.ruler.at("emphasis", _stars)
    made.inline.ruler.at("backticks", _code)
    made.inline.ruler.at("newline", _line_break)
    made.inline.ruler.before("backticks", "formula", _formula)
    rules = made.renderer.rules  # type: ignore[attr-defined]
    rules["image"] = _image_as_words
    rules["fence"] = _code_block
    rules["softbreak"] = lambda *_: "<br>"
    rules["as_written"] = lambda tokens, index, *_: f"<p>{_lines(tokens[index].content)}</p>\n"
    return made


_markdown = _made()
