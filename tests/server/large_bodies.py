"""The largest bodies that each endpoint takes, of the kinds that cost most to read: (path, what, body)."""

from __future__ import annotations

from collections.abc import Iterator

MIB = 1 << 20


def large_bodies(size: int, max_inputs: int = 16_384) -> Iterator[tuple[str, str, bytes]]:
    """One after the other, each of about `size` bytes."""
    string = b"a" * size
    words = b"the cat sat on the mat " * (size // 23)
    emoji = rb"\ud83d\ude00" * (size // 12)
    ids = b",".join([b"1037"] * (size // 5))
    nested = b"[" + b"[]," * (size // 3 - 1) + b"[]]"
    texts = b",".join([b'"a b c"'] * max_inputs)
    for path, key in (
        ("/embedding", b"content"),
        ("/v1/embeddings", b"input"),
        ("/api/embed", b"input"),
        ("/api/embeddings", b"prompt"),
        ("/embed", b"inputs"),
        ("/embed_all", b"inputs"),
        ("/tokenize", b"content"),
    ):
        yield path, "a string that does not end", b'{"%b": "' % key + string
        yield path, "words", b'{"%b": "%b"}' % (key, words)
    yield "/v1/embeddings", "one long word", b'{"input": "%b"}' % string[: 4 * MIB]
    yield "/v1/embeddings", "escapes", b'{"input": "%b"}' % emoji
    yield "/v1/embeddings", "token ids", b'{"input": [%b]}' % ids
    yield "/v1/embeddings", "empty lists", b'{"input": %b}' % nested
    yield "/v1/embeddings", "a long name of a model", b'{"input": "a", "model": "%b"}' % string
    yield "/tokenize", "words with pieces", b'{"with_pieces": true, "content": "%b"}' % words[: size // 4]
    yield "/detokenize", "token ids", b'{"tokens": [%b]}' % ids
    yield (
        "/similarity",
        "2047 sentences",
        b'{"inputs": {"source_sentence": "%b", "sentences": [%b]}}'
        % (
            b"a",
            b",".join([b'"a"'] * 2047),
        ),
    )
    yield "/similarity", "words", b'{"inputs": {"source_sentence": "%b", "sentences": ["a"]}}' % words
    yield "/v1/embeddings", "as many texts as it takes", b'{"input": [%b]}' % texts
    yield "/v1/embeddings", "likewise, in base64", b'{"encoding_format": "base64", "input": [%b]}' % texts
    yield "/embedding", "likewise, in llama-server's form", b'{"content": [%b]}' % texts
