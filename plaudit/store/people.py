"""Annotators whose name is an e-mail address: called by a pseudonym, the address staying in the workspace."""

from __future__ import annotations

import re
import secrets
from typing import Any

from sqlalchemy import Connection, select

from plaudit.records import AnnotatorKind
from plaudit.store import tables

ADDRESS = re.compile(r"[^@\s<>]+@[^@\s<>]+\.[^@\s<>]+")
ADDRESS_KEY, PSEUDONYM_KEY = "address", "pseudonym"
"""Keys of an annotator's parameters: the name that files gave, and what files are told in its place."""


class Pseudonyms:
    """Name in a file -> name in the store, the same for one address whatever file has it.

    A pseudonym is drawn by chance, since one that is computed could be found out by trying addresses.
    """

    def __init__(self, connection: Connection):
        columns = tables.annotators.c
        rows = connection.execute(select(columns.name, columns.kind, columns.parameters))
        self.kinds: dict[str, AnnotatorKind] = {}
        """Of everybody in the store."""
        self._names: dict[str, str] = {}
        self._addresses: dict[str, str] = {}
        for name, kind, parameters in rows:
            self.kinds[name] = kind
            address = (parameters or {}).get(ADDRESS_KEY)
            if address is not None:
                self._names[address] = name
            elif ADDRESS.search(name):  # of before there were pseudonyms: it stays one and the same annotator
                self._names[name] = name

    def pseudonym(self, name: str) -> str:
        """What an annotator is called in the store."""
        if not ADDRESS.search(name):
            return name
        if name not in self._names:
            self._names[name] = f"person-{secrets.token_hex(4)}"
            self._addresses[self._names[name]] = name
        return self._names[name]

    def parameters(self, name: str) -> dict[str, Any]:
        """What the store keeps with an annotator who is new."""
        return {ADDRESS_KEY: self._addresses[name]} if name in self._addresses else {}


def names_outside(connection: Connection) -> dict[str, str]:
    """Name in the store -> the name that files are told, of annotators who are still called by their address."""
    rows = connection.execute(select(tables.annotators.c.name, tables.annotators.c.parameters))
    return {
        name: str((parameters or {}).get(PSEUDONYM_KEY, "person")) for name, parameters in rows if ADDRESS.search(name)
    }
