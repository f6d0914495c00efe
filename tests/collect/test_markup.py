"""What annotators see of a text: Markdown that is meant as such, and all else as it was written."""

import html
import itertools
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plaudit.collect.web.markup import markdown, told_apart


def seen(text):
    """The letters that a reader sees, line breaks included."""
    return html.unescape(re.sub(r"<[^>]+>", "", str(markdown(text)).replace("\n", "").replace("<br>", "\n")))


@pytest.mark.parametrize(
    "text",
    [
        "Roses are red\nViolets are blue\n   Sugar is sweet",
        "    x = 1\n    y = 2",
        "\tx\n\t\ty",
        "call __init__ and _name_ of snake_case_words",
        r"the area is \(a_1\), \[b*c*d\], $x *y* z$ and \*not bold\* \_ \\",
        "$$\na *b* c\n- d\n= e\n$$",
        "\\begin{align}\na &= b \\\\\n- c\n\\end{align}",
        "2*3*4 and a**b**c, f(*args, **kwargs)",
        "# a comment\nx = 1",
        "+ 3\n+ 4",
        "title\n===\ntext",
        "a &amp; b &lt; c &#65;",
        "<http://example.org> <b>x</b> <!-- y -->",
        "[1]: https://example.org\n\nsee [1]",
        "[a](javascript:b) [c](#d) [e](f)",
        "it costs $5 and then $10 *more",
        "two  spaces   and more",
        "```the answer is 4",
        "a line with a backslash \\\nand one more",
    ],
)
def test_what_is_not_plainly_markdown_is_shown_as_written(text):
    assert seen(text) == text.replace("\n\n", "")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("**bold** and *slanted*", "<strong>bold</strong> and <em>slanted</em>"),
        ("use `a  _b_ \n c` now", "<code>a  _b_ \n c</code>"),
        ("## Title\ntext", "<h3>Title</h3>"),
        ("# Title\n\ntext", "<h3>Title</h3>"),
        ("- a\n- b", "<li>"),
        ("```\n  x\n\n    # y\n```", "<pre><code>  x\n\n    # y\n</code></pre>"),
        ("```py\nx\n```", "<p><code>py</code></p>\n<pre><code>x\n</code></pre>"),
        ("| a | b |\n|---|---|\n| 1 | 2 |\n| 3 | 4 |", "<td>4</td>"),
        ("> said\n\nanswer", "<blockquote>"),
        ("~~no~~", "<s>no</s>"),
    ],
)
def test_what_is_plainly_markdown_is_set_as_such(text, shown):
    assert shown in markdown(text)


def test_items_keep_their_numbers_and_what_follows_a_list_or_a_quote_is_outside():
    assert re.findall(r'value="(\d+)"', markdown("3. a\n7. b\n7. c")) == ["3", "7", "7"]
    assert markdown("- a\n- b\nSo it is.").endswith("</ul>\n<p>So it is.</p>\n")
    assert markdown("> asked\nanswered").endswith("</blockquote>\n<p>answered</p>\n")


def test_addresses_are_told_beside_the_words():
    assert seen("[here](https://example.org/a 'b')") == "here (https://example.org/a b)"
    assert seen("![a <cat>](https://example.org/c.png)") == "[image: a <cat>] (https://example.org/c.png)"
    assert seen("[https://example.org](https://example.org)") == "https://example.org"


PAIRS = [
    ("Roses\nViolets", "Roses Violets"),
    ("    x", "x"),
    ("__init__", "init"),
    ("__init__", "**init**"),
    (r"\(a\)", "(a)"),
    ("# a\n\nb", "## a\n\nb"),
    ("- a\n- b", "* a\n* b"),
    ("1. a\n2. b", "1. a\n1. b"),
    ("[x](https://a.org)", "[x](https://b.org)"),
    ("`x`", "``x``"),
    ("```py\nx\n```", "```js\nx\n```"),
    ("```\nx\n```", "~~~\nx\n~~~"),
    ("a\n\nb", "a\n\n\n\nb"),
    ("a ", "a"),
    ("> a\nb", "> a\n> b"),
]


@pytest.mark.parametrize(("one", "other"), PAIRS)
def test_two_answers_that_differ_never_look_the_same(one, other):
    shown, are_blind = told_apart([one, other, one], True)
    assert shown[0] == shown[2]
    assert shown[0] != shown[1] or shown == [None, None, None]
    assert are_blind == (one.split() == other.split() or "".join(one.split()) == "".join(other.split()))
    assert told_apart([one, other], False)[0] == [None, None]


def test_without_markdown_everything_is_as_written_and_one_text_needs_no_other():
    assert told_apart([], True) == ([], False)
    assert told_apart(["**a**"], True) == ([markdown("**a**")], False)


WORDS = "abc *x* **y** __z__ `q` ~~s~~ \\( \\) $ - 1. # > | [a](b) <b> &amp; \\ _ * \n \n\n    ".split(" ")
PIECES = st.lists(st.sampled_from([*WORDS, "```", "```py", "~~~ x y", "\n", "  ", "\t", "\n\n"]), max_size=14).map(
    " ".join
)


@given(text=PIECES | st.text(max_size=60))
@settings(max_examples=300, deadline=None)
def test_no_word_of_a_text_is_lost(text):
    """Whatever is set as Markdown: letters and digits all stay, in their order."""
    text = text.replace("\x00", "")
    kept = "".join(character for character in text if character.isalnum())
    told = "".join(character for character in seen(text) if character.isalnum())
    markers = re.sub(r"^[\s>*-]*\d{1,9}[.)](?=\s|$)", "", text, flags=re.MULTILINE) != text
    assert told == kept or markers  # numbers of items are shown by the list


def test_a_text_of_brackets_is_shown_at_once():
    for text in ("[" * 50_000, "![" * 25_000, "a" + "*" * 50_000, "a" + "`" * 20_001 + "x", "\\[" * 900, "$a" * 20_000):
        assert len(seen(text)) == len(text)


def test_html_of_a_text_is_text():
    for tag, text in itertools.product(
        ("script", "img src=x", "style", "form"), ("{}", "- {}", "| {} |\n|--|\n| {} |")
    ):
        assert f"<{tag}" not in markdown(text.replace("{}", f"<{tag}>"))
