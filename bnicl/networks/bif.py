"""The interchange format of Bayesian networks (BIF), read by its grammar.

    file         network? (variable | probability)*
    network      "network" name? "{" property* "}"
    variable     "variable" name "{" ("type" "discrete" "[" n "]" "{" states "}" ";" | property)* "}"
    probability  "probability" "(" name ("|" names)? ")" "{" (row | property)* "}"
    row          ("table" | "default" | "(" states ")") numbers ";"
    property     "property" anything ";"

Blanks, line ends and comments (`// ...`, `/* ... */`) may stand between any two words; commas between names, states and
numbers may be left out. A name is a quoted text or the words up to the next mark, so that it may hold blanks. The
values of `table` have the node's own state slowest and the last parent's fastest. A row `default` stands for all that
are not listed, `*` for every state of a parent; the more specific row wins. Reference: F. G. Cozman, The Interchange
Format for Bayesian Networks, version 0.15.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch

from bnicl.networks.graph import BayesianNetwork

ROUNDED = 1e-2  # how far from 1 a row may sum: tables are printed with two digits, or six
_TOKEN = re.compile(
    r"""(?P<blank> \s+ | (?<!:)//[^\n]* | /\*.*?\*/ )
      | "(?P<quoted> [^"\n]* )"
      | (?P<mark> [{}()\[\]|;,] )
      | (?P<word> (?: (?!(?<!:)//|/\*) [^\s{}()\[\]|;,"] )+ )
      | (?P<odd> /\* | . )""",
    re.VERBOSE | re.DOTALL,
)


class Token(NamedTuple):
    """A quoted text, a mark, a word, or a character that is none of these; kind "end" closes the file."""

    kind: str
    text: str
    offset: int


@dataclass
class Block:
    """What a `probability` block says: its node, the parents, and its rows as (states or None, numbers, token)."""

    at: Token
    parents: tuple[str, ...]
    table: tuple[list[float], Token] | None
    rows: list[tuple[tuple[str, ...], list[float], Token]]


def read_bif(text: str, source: str, tables: bool = True) -> BayesianNetwork:
    """The network that a BIF file describes, its nodes sorted topologically.

    text: what the file holds. source: its name, for messages. tables: whether the numbers are read; if not,
    they need not be there or be right, and `cpts` is None. A row that sums to 1 within 0.01 is divided by its sum.

    Raises ValueError with the line, what was expected and what was got: for a file that is cut short, a name that is
    not declared, a variable without its block or with two, and where tables are read for numbers that are missing, too
    many, negative, not finite, or do not sum to 1.

    >>> text = "variable a { type discrete [2] {no, yes}; } probability (a) { table 0.3, 0.7; }"
    >>> read_bif(text, "a.bif").tables[0]
    tensor([0.3000, 0.7000], dtype=torch.float64)
    """
    return _Reader(text, source, tables).network()


class _Reader:
    """One pass over the tokens of a file."""

    def __init__(self, text: str, source: str, tables: bool) -> None:
        self.text, self.source, self.tables = text.replace("\r\n", "\n").replace("\r", "\n"), source, tables
        self.tokens = _tokens(self.text)
        self.ahead = next(self.tokens)
        self.states: dict[str, list[str]] = {}
        self.blocks: dict[str, Block] = {}

    # --- words ------------------------------------------------------------------------------------

    def wrong(self, expected: str, token: Token, got: str = "") -> ValueError:
        line = self.text.count("\n", 0, token.offset) + 1
        ends = {"end": "the end of the file", "odd": f"{token.text!r}" + " without an end" * (token.text == "/*")}
        got = got or ends.get(token.kind, repr(token.text))
        return ValueError(f"{self.source}, line {line}: expected {expected}, got {got}")

    def take(self) -> Token:
        token, self.ahead = self.ahead, next(self.tokens, self.ahead)
        return token

    def mark(self, expected: str) -> Token:
        token = self.take()
        if token.kind != "mark" or token.text != expected:
            raise self.wrong(repr(expected), token)
        return token

    def up_to(self, marks: str) -> list[Token]:
        """The tokens before the next of the marks, which stays."""
        found = []
        while not self.sees(marks):
            if self.ahead.kind in ("end", "odd"):
                raise self.wrong(" or ".join(map(repr, marks)), self.ahead)
            found.append(self.take())
        return found

    def skip_property(self) -> None:
        while not self.sees(";"):
            if self.ahead.kind == "end":
                raise self.wrong("';' after a property", self.ahead)
            self.take()
        self.take()

    def at(self, word: str) -> bool:
        return self.ahead.kind == "word" and self.ahead.text == word

    def sees(self, marks: str) -> bool:
        return self.ahead.kind == "mark" and self.ahead.text in marks

    # --- blocks -----------------------------------------------------------------------------------

    def network(self) -> BayesianNetwork:
        first = self.ahead
        readers: dict[str, Callable[[Token], None]] = {
            "network": self.network_block, "variable": self.variable_block, "probability": self.probability_block,
        }  # fmt: skip
        while self.ahead.kind != "end":
            token = self.take()
            if token.kind != "word" or token.text not in (*readers, "property"):
                raise self.wrong("network, variable or probability", token)
            if token.text == "property":
                self.skip_property()
            else:
                readers[token.text](token)
        if not self.states:
            raise self.wrong("a BIF file with variables", first, "a file without any")
        for name in self.states:
            if name not in self.blocks:
                raise self.wrong(
                    f"a probability block for every variable (probability ( {name} ) {{ }} says that there are no "
                    f"parents)", self.ahead, f"none for {name}",
                )  # fmt: skip
        return self.built()

    def network_block(self, _: Token) -> None:
        self.up_to("{")
        self.take()
        while not self.sees("}"):
            if not self.at("property"):
                raise self.wrong("property or '}'", self.ahead)
            self.skip_property()
        self.take()

    def variable_block(self, start: Token) -> None:
        words = self.up_to("{")
        name = " ".join(token.text for token in words)
        if not name:
            raise self.wrong("the name of a variable", self.ahead)
        if name in self.states:
            raise self.wrong("each variable once", start, f"{name} twice")
        self.take()
        while not self.sees("}"):
            if self.at("property"):
                self.skip_property()
            elif self.at("type") and name not in self.states:
                self.states[name] = self.type_line(name)
            else:
                raise self.wrong("type discrete [ n ] { states }, property or '}'", self.ahead)
        if name not in self.states:
            raise self.wrong(f"type discrete [ n ] {{ states }} for {name}", self.ahead)
        self.take()

    def type_line(self, name: str) -> list[str]:
        self.take()
        if not self.at("discrete"):
            raise self.wrong(f"{name} to be discrete", self.ahead)
        self.take()
        declared = None
        if self.sees("["):
            self.take()
            declared = " ".join(token.text for token in self.up_to("]"))
            self.take()
        opening = self.mark("{")
        tokens = self.up_to("}")
        self.take()
        if self.sees(";"):
            self.take()
        own = _listed(tokens)
        if declared is not None and str(len(own)) != declared and not any(t.text == "," for t in tokens):
            own = [token.text for token in tokens]
        if declared is not None and str(len(own)) != declared:
            raise self.wrong(f"{declared} states of {name}", opening, f"{len(own)}: {', '.join(own)}"[:200])
        if len(own) < 2 or len(set(own)) < len(own):
            raise self.wrong(f"two different states of {name} or more", opening, ", ".join(own)[:200] or "none")
        return own

    def probability_block(self, start: Token) -> None:
        self.mark("(")
        before = self.up_to("|)")
        after: list[Token] = []
        if self.take().text == "|":
            after = self.up_to(")")
            self.take()
        names = [name for part in (before, after) for name in self.known(part, [self.states] * len(part), "variable")]
        if not names or len(set(names)) < len(names):
            raise self.wrong("a variable and its parents, each once", start, ", ".join(names) or "none")
        if names[0] in self.blocks:
            raise self.wrong("one probability block for each variable", start, f"two for {names[0]}")
        self.blocks[names[0]] = block = Block(start, tuple(names[1:]), None, [])
        self.mark("{")
        if self.tables:
            self.rows(names[0], block)
        else:
            while not self.sees("}"):
                if self.ahead.kind == "end":
                    raise self.wrong("'}'", self.ahead)
                if self.take().text == "property":
                    self.skip_property()
        self.mark("}")

    def known(self, tokens: list[Token], options: Sequence[dict[str, list[str]] | list[str]], what: str) -> list[str]:
        """The names that tokens spell, each an option in its turn; a piece between commas may hold several."""
        names: list[str] = []
        for piece in _pieces(tokens):
            while piece:
                allowed = options[len(names)] if len(names) < len(options) else []
                words = 1 if piece[0].kind == "quoted" else _words(piece)
                runs = range(words, 0, -1)  # a name is a quoted text, or the longest run of words that is one
                length = next((n for n in runs if " ".join(t.text for t in piece[:n]) in allowed), 0)
                if not length:
                    shown = ", ".join(itertools.islice(allowed, 5)) or f"no more {what}s"
                    raise self.wrong(f"a {what} ({shown})", piece[0])
                names.append(" ".join(token.text for token in piece[:length]))
                piece = piece[length:]
        return names

    def rows(self, name: str, block: Block) -> None:
        options = [[*self.states[parent], "*"] for parent in block.parents]
        while not self.sees("}"):
            token = self.take()
            if token.kind == "word" and token.text == "property":
                self.skip_property()
            elif token.kind == "word" and token.text == "table" and block.table is None:
                block.table = (self.numbers(), token)
            elif token.kind == "word" and token.text == "default":
                block.rows.append((("*",) * len(options), self.numbers(), token))
            elif token.kind == "mark" and token.text == "(":
                states = self.known(self.up_to(")"), options, "state")
                if len(states) != len(options):
                    raise self.wrong(f"a state of each of {', '.join(block.parents)}", token, ", ".join(states))
                self.take()
                block.rows.append((tuple(states), self.numbers(), token))
            else:
                raise self.wrong(f"table, default or (states) for {name}", token)

    def numbers(self) -> list[float]:
        values = []
        for token in self.up_to(";"):
            if token.kind == "mark" and token.text == ",":
                continue
            try:
                values.append(float(token.text))
            except ValueError:
                raise self.wrong("a number", token) from None
        self.take()
        return values

    # --- the network ------------------------------------------------------------------------------

    def built(self) -> BayesianNetwork:
        edges = [(parent, name) for name in self.states for parent in self.blocks[name].parents]
        cards = {name: len(own) for name, own in self.states.items()}
        try:
            net = BayesianNetwork.from_edges(edges, cards, nodes=list(self.states), states=self.states)
        except ValueError as error:
            raise ValueError(f"{self.source}: {error}") from error
        index = {name: m for m, name in enumerate(net.names)}
        parents = tuple(tuple(index[p] for p in self.blocks[name].parents) for name in net.names)
        tables = tuple(torch.from_numpy(self.cpt(name)) for name in net.names) if self.tables else None
        return replace(net, parents=parents, cpts=tables)

    def cpt(self, name: str) -> np.ndarray:
        """The table of a node, [*evidence_card, card], each row divided by its sum."""
        block, card = self.blocks[name], len(self.states[name])
        shape = [len(self.states[parent]) for parent in block.parents]
        table = np.full((*shape, card), math.nan)
        written = np.zeros(shape, dtype=np.int64)  # 0: not yet; else 1 + the number of parents that a row names
        if block.table is not None:
            values, token = block.table
            if len(values) != table.size:
                raise self.wrong(f"{table.size} numbers in the table of {name}", token, str(len(values)))
            table[...] = np.moveaxis(np.reshape(values, (card, *shape)), 0, -1)
            written[...] = 1
        at = [block.table[1]] if block.table else []
        for states, values, token in sorted(block.rows, key=lambda row: -row[0].count("*")):
            if len(values) != card:
                raise self.wrong(f"{card} numbers in a row of {name}", token, str(len(values)))
            where = tuple(
                slice(None) if state == "*" else self.states[parent].index(state)
                for parent, state in zip(block.parents, states, strict=True)
            )
            rank = 1 + len(states) - states.count("*")
            again = written[where] == rank
            if np.any(again & np.any(table[where] != values, axis=-1)) or (np.all(again) and "*" not in states):
                raise self.wrong(f"each row of {name} once", token, f"({', '.join(states)}) twice")
            table[where], written[where] = values, rank
            at.append(token)
        return self.normalised(name, block, table, written, at[0] if at else block.at)

    def normalised(self, name: str, block: Block, table: np.ndarray, written: np.ndarray, at: Token) -> np.ndarray:
        totals = table.sum(-1)
        bad = (written == 0) | ~(np.abs(totals - 1) <= ROUNDED + 1e-9) | ~(table >= 0).all(-1)
        if bad.any():
            first = tuple(int(i) for i in np.argwhere(bad)[0])
            states = tuple(self.states[parent][i] for parent, i in zip(block.parents, first, strict=True))
            token = next((row[2] for row in block.rows if row[0] == states), at)
            given = f"{name} given {', '.join(states)}" if states else name
            if written[first] == 0:
                raise self.wrong(f"a row for every state of the parents of {name}", block.at, f"none for {given}")
            if not (table[first] >= 0).all():
                raise self.wrong(f"probabilities for {given}", token, ", ".join(map(str, table[first])))
            raise self.wrong(
                f"a row of {given} that sums to 1 within {ROUNDED}", token, f"a sum of {totals[first]:.6g}"
            )
        return table / totals[..., None]


def _tokens(text: str) -> Iterator[Token]:
    for found in _TOKEN.finditer(text):
        if found.lastgroup != "blank":
            assert found.lastgroup is not None
            yield Token(found.lastgroup, found[found.lastgroup], found.start())
    yield Token("end", "", len(text))


def _pieces(tokens: list[Token]) -> list[list[Token]]:
    """The tokens between the commas."""
    pieces: list[list[Token]] = [[]]
    for token in tokens:
        if token.kind == "mark" and token.text == ",":
            pieces.append([])
        else:
            pieces[-1].append(token)
    return [piece for piece in pieces if piece]


def _words(piece: list[Token]) -> int:
    """How many words stand before the first quoted text."""
    return next((i for i, token in enumerate(piece) if token.kind == "quoted"), len(piece))


def _listed(tokens: list[Token]) -> list[str]:
    """Names separated by commas; without commas, each quoted text is a name, and all words together are one."""
    listed = []
    for piece in _pieces(tokens):
        quoted = all(token.kind == "quoted" for token in piece)
        listed += [token.text for token in piece] if quoted else [" ".join(t.text for t in piece)]
    return listed
