"""How the program speaks: docstrings begin with what they are about."""

import ast
import re
from pathlib import Path

import plaudit

ROOT = Path(plaudit.__file__).parent
WITHOUT_NOUN = re.compile(r"(Of|As|By|With|In|Back|That|So many)\b")
WITH_DOCSTRING = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def docstrings(tree):
    """(line, text) of docstrings, and of the strings under settings, fields and constants."""
    for node in ast.walk(tree):
        if isinstance(node, WITH_DOCSTRING) and (text := ast.get_docstring(node)):
            yield node.body[0].lineno, text
        if isinstance(node, ast.Module | ast.ClassDef):
            for one, other in zip(node.body, node.body[1:], strict=False):
                is_text = isinstance(other, ast.Expr) and isinstance(other.value, ast.Constant)
                if isinstance(one, ast.Assign | ast.AnnAssign) and is_text and isinstance(other.value.value, str):
                    yield other.lineno, other.value.value


def test_a_docstring_begins_with_a_noun_phrase_or_an_imperative():
    found = [
        (str(path.relative_to(ROOT)), line, text)
        for path in sorted(ROOT.rglob("*.py"))
        for line, text in docstrings(ast.parse(path.read_text(encoding="utf-8")))
    ]
    assert len(found) > 2000
    assert not [one for one in found if WITHOUT_NOUN.match(one[2])]


def test_the_rule_knows_a_docstring_without_its_noun():
    tree = ast.parse('X = 1\n"""Of each annotator."""\n\ndef f():\n    """Back."""\n\ndef g():\n    """Biases."""\n')
    assert [text for _, text in docstrings(tree) if WITHOUT_NOUN.match(text)] == ["Of each annotator.", "Back."]
