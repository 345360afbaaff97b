"""What becomes of a text that has more tokens than the model reads."""

from __future__ import annotations


def truncate(ids: list[int], limit: int, *, keep_last: bool) -> list[int]:
    """The first `limit` token ids of a text; with keep_last the first limit - 1 and the last one.

    ids        (T) with special tokens; unchanged where T <= limit
    limit      tokens, at least 1
    keep_last  the last id ends every text in training ([SEP], EOS: `Vocab.is_closed`), so it stays
    returns    (min(T, limit))

    llama.cpp truncates nothing: llama-embedding stops ("exceeds batch size", examples/embedding/embedding.cpp), and
    llama-server answers with an error ("too large to process", tools/server/server-context.cpp). With keep_last this is
    what `truncation=True` means in Hugging Face's tokenizers, which add special tokens after they have cut.

        >>> truncate([101, 1996, 4937, 2938, 102], 4, keep_last=True)
        [101, 1996, 4937, 102]
        >>> truncate([101, 1996, 4937, 2938, 102], 4, keep_last=False)
        [101, 1996, 4937, 2938]
    """
    if len(ids) <= limit:
        return ids
    return ids[: limit - 1] + ids[-1:] if keep_last else ids[:limit]
