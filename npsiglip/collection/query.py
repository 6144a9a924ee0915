"""What is searched for: words, pictures, their sums and differences, as one vector of unit norm.

    beach                               words
    ./me.jpg                            a picture: a path, or a name that ends like a picture's
    2:beach + ./me.jpg - crowd          weights; + and - stand between spaces, so that a t-shirt stays one
    "rock + roll" - '2:1'               within quotes everything is words

Each term becomes the unit vector that the model gives it, times its weight; their sum is scaled to unit norm. Pictures
are much more like each other than like words, so a picture in a sum counts for more than words of the same weight.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from npsiglip.errors import InputError
from npsiglip.images.kinds import is_picture_name

Floats = NDArray[np.float32]

_OPERATOR = re.compile(r"(?:^|(?<=\s))([+-])(?=\s|$)")
_WEIGHT = re.compile(r"(\d+\.?\d*|\.\d+):\s*(?=\S)")
_QUOTED = re.compile(r"""(["'])((?:(?!\1).)+)\1\s*(?=$|[+-](?:\s|$))""", re.DOTALL)
_PATH = re.compile(r"(\.{1,2}|~)?[/\\]|[A-Za-z]:[/\\]|[a-z][a-z0-9+.-]*://", re.IGNORECASE)
LEAST_NORM = 1e-3  # of a sum of unit vectors: below it, what is left is rounding and chance


class Model(Protocol):
    """What embeds terms: a `SigLIP`, or something that does as it does."""

    @property
    def tokenizer(self) -> Any:
        """Tells texts that are too long; None: nobody does."""

    def encode_text(self, texts: list[str]) -> Floats:
        """[N, D], unit norm."""

    def encode_image(self, images: list[str]) -> Floats:
        """[N, D], unit norm."""


@dataclass(frozen=True)
class Term:
    """Words or a picture, and how much they count."""

    weight: float
    """Not 0; below 0: what should be unlike it."""
    value: str
    """The words, or the picture's path."""
    picture: bool


@dataclass(frozen=True)
class Query:
    """What is searched for: the sum of its terms."""

    text: str
    """As it was written."""
    terms: tuple[Term, ...]

    def has_probability(self, kind: str) -> bool:
        """Whether a model says how probable it is that an item matches: words and pictures, pictures and texts.

        Not of a sum or a difference, whose cosines are others.

        Args:
            kind: of the items, "image" or "text".
        """
        return len(self.terms) == 1 and self.terms[0].picture == (kind != "image")


def _quoted(text: str) -> str:
    return repr(text) if len(text) <= 100 else f"{text[:60]!r}..."


def _picture(value: str, text: str) -> bool:
    """Whether a term is a picture.

    Raises:
        InputError: it is spelt like one, and is no file.
    """
    if not (_PATH.match(value) or is_picture_name(value)):
        return False
    try:
        path = Path(value).expanduser()
        there, folder = path.is_file(), path.is_dir()
    except (OSError, ValueError, RuntimeError):
        there = folder = False
    if there:
        return True
    if "://" in value:
        raise InputError(
            f"the query {_quoted(text)}: {_quoted(value)} is not fetched; save the picture to a file first"
        )
    raise InputError(
        f"the query {_quoted(text)}: the picture {_quoted(value)} "
        + ("is a folder" if folder else f"does not exist (working directory: {Path.cwd()})")
        + "; expected the path of a picture, or words within quotes"
    )


def _term(sign: float, body: str, quoted: bool, weight: float, text: str) -> Term:
    if quoted or not _picture(body, text):
        return Term(sign * weight, body, False)
    return Term(sign * weight, str(Path(body).expanduser()), True)


def parse(text: str) -> Query:
    """The terms of a query.

    Raises:
        InputError: nothing in it, or nothing behind an operator; a weight of 0; only what it should be unlike; a quote
            that is not closed; a picture that does not exist.
    """
    if not isinstance(text, str) or not text.strip():
        raise InputError(f"a query is empty, {text!r}; expected words, or the path of a picture")
    terms, rest, sign = [], text.strip(), 1.0
    if start := _OPERATOR.match(rest):
        sign, rest = (-1.0 if start[1] == "-" else 1.0), rest[1:].lstrip()
    while True:
        weight = 1.0
        if found := _WEIGHT.match(rest):
            weight, rest = float(found[1]), rest[found.end() :]
            if not 0 < weight < np.inf:
                raise InputError(f"the query {_quoted(text)}: a weight must be above 0; got {found[1]}")
        if quote := _QUOTED.match(rest):
            body, quoted, rest = quote[2].strip(), True, rest[quote.end() :]
        elif rest.startswith('"'):
            raise InputError(f"the query {_quoted(text)}: a quote is not closed before the end or an operator")
        else:
            operator = _OPERATOR.search(rest)
            end = operator.start() if operator else len(rest)
            body, quoted, rest = rest[:end].strip(), False, rest[end:]
        if not body:
            raise InputError(
                f"the query {_quoted(text)}: an operator needs words or a picture on its right; a + or - that is no "
                "operator stands within quotes"
            )
        terms.append(_term(sign, body, quoted, weight, text))
        if not rest:
            break
        sign, rest = (-1.0 if rest[0] == "-" else 1.0), rest[1:].lstrip()
    if all(term.weight < 0 for term in terms):
        raise InputError(
            f"the query {_quoted(text)} only says what pictures should not show; add what they should, such as "
            f"'a photo - {terms[0].value}'"
        )
    return Query(text, tuple(terms))


def _check_lengths(model: Model, texts: Sequence[str]) -> None:
    tokenizer = model.tokenizer
    if tokenizer is None or not texts:
        return
    for text, too_long in zip(texts, tokenizer.truncated(texts), strict=True):
        if too_long:
            raise InputError(
                f"the words {_quoted(text)} are more than the {tokenizer.seq_len} tokens that the model reads; shorten "
                "them, or make a sum of them: first half + second half"
            )


def embed(model: Model, queries: Sequence[Query]) -> Floats:
    """Queries [Q] to unit vectors [Q, D], every term embedded once.

    Raises:
        InputError: words that are too long for the model, a picture that cannot be used, terms that cancel each other.
    """
    terms = [term for query in queries for term in query.terms]
    names = {kind: list(dict.fromkeys(t.value for t in terms if t.picture is kind)) for kind in (False, True)}
    _check_lengths(model, names[False])
    vectors: dict[tuple[bool, str], Floats] = {}
    for picture, encode in ((False, model.encode_text), (True, model.encode_image)):
        if names[picture]:
            vectors |= {(picture, name): row for name, row in zip(names[picture], encode(names[picture]), strict=True)}
    return np.stack([_sum(query, vectors) for query in queries])


def filled(query: Query, template: str) -> Query:
    """The query with its words put into a sentence, at its `{}`.

    Raises:
        InputError: a template without exactly one `{}`.
    """
    if template.count("{}") != 1:
        raise InputError(f"the template must have exactly one {{}} for the words, got {template!r}")
    return replace(
        query, terms=tuple(t if t.picture else replace(t, value=template.replace("{}", t.value)) for t in query.terms)
    )


def _sum(query: Query, vectors: dict[tuple[bool, str], Floats]) -> Floats:
    if len(query.terms) == 1:
        return vectors[query.terms[0].picture, query.terms[0].value]
    parts = [term.weight * vectors[term.picture, term.value].astype(np.float64) for term in query.terms]
    total = np.sum(parts, axis=0)
    norm = np.linalg.norm(total)
    if norm < LEAST_NORM * max(abs(term.weight) for term in query.terms):
        raise InputError(f"the query {_quoted(query.text)}: its terms cancel each other, nothing is left to search for")
    found: Floats = (total / norm).astype(np.float32)
    return found
