"""The texts that `verify` uses when it is given none: few, and each provokes a difference that people have reported.

Which text differs is evidence in itself: capitals point at lower-casing, long ones at truncation, `[SEP]` spelt out at
the parsing of special tokens. The lengths are a ladder, so that a cut shows between which two rungs it lies.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

TEXTS = (
    "hello",
    "Hello, world!",
    "The quick brown fox jumps over the lazy dog.",
    "the quick brown fox jumps over the lazy dog.",
    "NASA sent Maria to Paris in May",
    "café naïve Größe schön Müller Ångström",
    "日本語のテキスト and 中文 with 한국어",
    "Привет, мир! Καλημέρα κόσμε",
    "a [SEP] b [CLS] <s> </s> <|endoftext|>",
    "  leading, trailing  and\tdouble   spaces \n",
    "emoji 😀👍🏽 and ﬁne ligatures — “quoted”",
    "query: how do I cook pasta?",
    "x = 3.14159; y == -1.0e-3 # code, 100% of it",
)
SENTENCES = (
    "Embedding models turn a text into a list of numbers.",
    "Two texts that mean the same get lists that point the same way.",
    "Rain fell on the harbour all night, and by morning the boats were full.",
    "She counted eleven red doors, three dogs and one very old bicycle.",
    "An engine that rounds differently is right; one that forgets a token is not.",
    "Prices rose by 4.2% in 2023, then fell again after the summer.",
    "Where the river bends, the road crosses it on a bridge of grey stone.",
)
DENSE = (  # more tokens for as many characters: a cut at characters is none at tokens
    "On 2.5.97 at 7:30, x=1, y=2; z=3!",
    "No. 4-b (p. 19): 8/9, 6 % of it.",
)
LADDER = (20, 48, 80, 140, 200, 300, 500)  # tokens, about; rungs beyond the model's window are left out


def default_texts(count: Callable[[str], int], n_ctx: int, most: int = LADDER[-1]) -> list[str]:
    """TEXTS, and texts of LADDER's lengths, the last of them near the window, that one also in DENSE's words.

    count  how many tokens a text has
    n_ctx  of the model
    most   rungs above it are left out
    """
    window = min(n_ctx, most)
    rungs = [n for n in LADDER if n <= window - 4]
    if n_ctx <= most and n_ctx - 2 not in rungs and n_ctx > LADDER[0]:
        rungs.append(n_ctx - 2)
    long = [text_of(n, count, SENTENCES, shift) for shift, n in enumerate(rungs)]
    return [t for t in TEXTS if count(t) <= n_ctx] + long + [text_of(n, count, DENSE) for n in rungs[-1:]]


def text_of(n: int, count: Callable[[str], int], sentences: Sequence[str] = SENTENCES, shift: int = 0) -> str:
    """Sentences, then words of one, up to n tokens."""
    words = [w for i in range(n) for w in sentences[(i + shift) % len(sentences)].split()][:n]
    low, high = 1, len(words)
    while low < high:  # the longest beginning of at most n tokens
        middle = (low + high + 1) // 2
        low, high = (middle, high) if count(" ".join(words[:middle])) <= n else (low, middle - 1)
    return " ".join(words[:low])


def shortest(items: Sequence[object], lengths: Sequence[int], n: int) -> list[int]:
    """Places of n texts, short first, lengths all different where that can be had."""
    order = sorted(range(len(items)), key=lambda i: lengths[i])
    fresh = [i for k, i in enumerate(order) if k == 0 or lengths[i] != lengths[order[k - 1]]]
    return (fresh + [i for i in order if i not in fresh])[:n]
