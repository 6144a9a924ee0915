"""Errors in the shape of the dialect that a request spoke: one sentence that says what was wrong, and where.

A dialect is known by its route: OpenAI and those like it at `/v1/embeddings`, Hugging Face's tasks, all else as FastAPI
has it, `{"detail": "..."}`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

OPENAI, HUGGING_FACE, PLAIN = "openai", "huggingface", "plain"
_ROUTES = (
    (re.compile(r"(/v1)?/(embeddings|models)(/|$)"), OPENAI),
    (re.compile(r"/(zero-shot-image-classification|pipeline|hf)(/|$)"), HUGGING_FACE),
)
_TYPES = {401: "authentication_error", 404: "not_found_error", 429: "rate_limit_error"}


class Refused(Exception):
    """A request that cannot be answered.

    Args:
        status: of HTTP.
        message: one sentence.
        where: the field that is to blame.
        code: a word for programs.
        headers: of the answer.
    """

    def __init__(
        self,
        status: int,
        message: str,
        where: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.where, self.code = status, message, where, code
        self.headers = dict(headers or {})


def dialect_of(path: str) -> str:
    """Which dialect is spoken at a path."""
    return next((name for pattern, name in _ROUTES if pattern.match(path)), PLAIN)


def error_body(path: str, status: int, message: str, where: str | None = None, code: str | None = None) -> Any:
    """What is answered, for JSON."""
    dialect = dialect_of(path)
    if dialect == OPENAI:
        kind = _TYPES.get(status, "server_error" if status >= 500 else "invalid_request_error")
        return {"error": {"message": message, "type": kind, "param": where, "code": code}}
    return {"error": message} if dialect == HUGGING_FACE else {"detail": message}


def place_of(parts: Sequence[str | int]) -> str:
    """Such as input[3].image, of a path into a request."""
    text = ""
    for part in parts:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else str(part)
    return text


_ALTERNATIVE = re.compile(r"[A-Z]|.*[\[\]()-]|(str|list|dict)$")  # what Pydantic calls the types of a union
_SAID = {
    "missing": "is missing",
    "string_type": "a text",
    "list_type": "a list",
    "dict_type": "an object",
    "model_attributes_type": "an object",
    "model_type": "an object",
    "int_type": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
}


def _cleaned(error: Mapping[str, Any]) -> str:
    parts = error["loc"][1:] if error["loc"][:1] in (("body",), ("query",), ("path",)) else error["loc"]
    return place_of([part for part in parts if isinstance(part, int) or not _ALTERNATIVE.match(str(part))])


def sentence_of(errors: Sequence[Mapping[str, Any]]) -> tuple[str, str | None]:
    """One sentence of Pydantic's errors, and where it is.

    Of the alternatives of a union that told most of what is there: a value that is wrong, before a type, before what
    is missing; and deep before shallow.
    """
    if not errors:
        return "the request is not valid", None

    def told(error: Mapping[str, Any]) -> tuple[int, int]:
        kind = error["type"]
        return 0 if kind == "missing" else 1 if kind in _SAID else 2, len(error["loc"])

    first = max(errors, key=told)
    where = _cleaned(first)
    name, kind, context = where or "the request", first["type"], first.get("ctx", {})
    if kind == "json_invalid":
        return f"the request is not JSON: {context.get('error', 'it cannot be parsed')}", None
    if kind == "missing":
        return (f"{where} is missing" if where else "the request has no body; expected JSON"), where or None
    if kind in _SAID:
        others = [
            _SAID[e["type"]] for e in errors if e["type"] in _SAID and e["type"] != "missing" and _cleaned(e) == where
        ]
        return f"{name}: expected {' or '.join(dict.fromkeys(others))}", where or None
    if kind == "string_pattern_mismatch":
        blank = (
            "needs a letter at least" if context.get("pattern") == r"\S" else "must have exactly one {} for the label"
        )
        return f"{name} {blank}", where or None
    if kind in ("too_short", "string_too_short"):
        return f"{name} is {'empty' if context.get('actual_length', 0) == 0 else 'too short'}", where or None
    message = str(first["msg"]).removeprefix("Value error, ")
    return f"{name}: {message[:1].lower()}{message[1:]}", where or None
