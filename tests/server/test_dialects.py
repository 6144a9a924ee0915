"""Errors in the shape of the dialect that was spoken."""

import pytest

from npsiglip.server.dialects import dialect_of, error_body, place_of


@pytest.mark.parametrize(
    ("path", "dialect"),
    [
        ("/v1/embeddings", "openai"), ("/embeddings", "openai"), ("/v1/models/x", "openai"), ("/hf/a/b", "huggingface"),
        ("/zero-shot-image-classification", "huggingface"), ("/v1/classify", "plain"), ("/v1/embeddingsx", "plain"),
    ],
)  # fmt: skip
def test_a_route_tells_the_dialect(path, dialect):
    assert dialect_of(path) == dialect


def test_shapes():
    assert error_body("/v1/classify", 400, "x") == {"detail": "x"}
    assert error_body("/hf/a", 400, "x") == {"error": "x"}
    openai = {"error": {"message": "x", "type": "rate_limit_error", "param": "a", "code": "b"}}
    assert error_body("/v1/embeddings", 429, "x", "a", "b") == openai
    assert place_of(["input", 3, "image"]) == "input[3].image"
