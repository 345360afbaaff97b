"""Where two tokenizers part. Each pair of files here differs in one rule on purpose: the cause has to be that rule."""

from __future__ import annotations

import importlib.util
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from refembed.errors import EngineError, ModelError, RefembedError, RequestError
from refembed.tokenizer import Tokenizer, load_tokenizer
from refembed.verify.tokens.compare import CAUSES, Difference, compare
from refembed.verify.tokens.token_sources import open_other
from tests.llama_server import llama_server
from tests.tokenizer.kinds import of_kind
from tests.tokenizer.vocabs import NORMAL, USER_DEFINED, Key, Typed, flag, role, write_vocab

HAVE_TOKENIZERS = importlib.util.find_spec("tokenizers") is not None


def swapped(tokens: list[Typed], a: str, b: str) -> list[Typed]:
    """Two tokens under each other's ids."""
    texts = [t for t, _ in tokens]
    i, j = texts.index(a), texts.index(b)
    result = list(tokens)
    result[i], result[j] = result[j], result[i]
    return result


def without(tokens: list[Typed], *texts: str) -> list[Typed]:
    """Tokens that lost their text; ids stay."""
    return [(f"lost {t}" if t in texts else t, kind) for t, kind in tokens]


def keys_of(kind: str, *more: Key) -> list[Key]:
    """A kind's own keys with others over them."""
    return list({k[0]: k for k in (*of_kind(kind)[1], *more)}.values())


BERT, GPT2, LLAMA = (of_kind(kind)[0] for kind in ("bert", "gpt2", "llama"))
ADDS = [role("bos", 1), role("eos", 2), flag("add_eos_token", True)]
CASED = [flag("normalizer.lowercase", False), flag("normalizer.strip_accents", True)]

# cause -> ours, theirs (tokens and keys), a text on which they differ
PAIRS: dict[str, tuple[str, tuple[list[Typed], list[Key]], tuple[list[Typed], list[Key]], str]] = {
    "one adds EOS": ("added", (LLAMA, keys_of("llama")), (LLAMA, keys_of("llama", *ADDS)), "the hello"),
    "one adds no BOS": (
        "added", (LLAMA, keys_of("llama")), (LLAMA, keys_of("llama", flag("add_bos_token", False))), "the",
    ),
    "a special token of one alone": (
        "special tokens", (GPT2, keys_of("gpt2")),
        ([(t, NORMAL if t == "<user>" else k) for t, k in GPT2], keys_of("gpt2")), "the<user>the",
    ),
    "one strips behind special tokens": (
        "special tokens", (LLAMA, keys_of("llama")),
        (LLAMA, keys_of("llama", ("general.name", "phi-3", "STRING"))), "the<|user|> the",
    ),
    "one keeps capitals": ("normalized", (BERT, []), (BERT, CASED), "the Hello"),
    "one sets no space in front": (
        "normalized", (LLAMA, keys_of("llama")), (LLAMA, keys_of("llama", flag("add_space_prefix", False))), "the",
    ),
    "one cuts numbers": (
        "pre-tokens", (GPT2, keys_of("gpt2")), (GPT2, keys_of("gpt2", ("pre", "qwen2", "STRING"))), "the 1234",
    ),
    "one lacks a token": ("pieces", (BERT, []), (without(BERT, "▁hello"), []), "the hello"),
    "one lacks a merge": (
        "pieces", (GPT2, keys_of("gpt2")), (GPT2, keys_of("gpt2", ("merges", [b"x y"], "ARRAY[STRING]"))), "the hello",
    ),
    "two ids changed places": ("ids", (BERT, []), (swapped(BERT, "▁hello", "▁world"), []), "the hello"),
}  # fmt: skip

# What a server, which shows ids alone, gives away less of.
FROM_IDS = {"one keeps capitals": "pieces", "one cuts numbers": "pieces", "two ids changed places": "normalized"}


@pytest.fixture(params=PAIRS)
def pair(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, Path, Path]:
    """Name of a pair and its two files."""
    _, ours, theirs, _ = PAIRS[request.param]
    files = [write_vocab(tmp_path / f"{i}.gguf", t, *keys) for i, (t, keys) in enumerate((ours, theirs))]
    return request.param, files[0], files[1]


def test_the_cause_is_the_rule_that_differs(pair: tuple[str, Path, Path]) -> None:
    name, a, b = pair
    cause, _, _, text = PAIRS[name]
    ours = load_tokenizer(a)
    found = compare(ours, open_other(str(b), ours), text)
    assert found is not None
    assert [c.stage for c in found.causes] == [cause]
    assert found.causes[0].detail


def test_a_difference_says_where(pair: tuple[str, Path, Path]) -> None:
    name, a, b = pair
    text = PAIRS[name][3]
    ours, theirs = load_tokenizer(a), load_tokenizer(b)
    found = compare(ours, open_other(str(b), ours), text)
    assert isinstance(found, Difference)
    assert (found.ours, found.theirs) == (ours.encode(text, True, True), theirs.encode(text, True, True))
    assert found.ours[: found.at] == found.theirs[: found.at]
    assert found.ours[found.at : found.at + 1] != found.theirs[found.at : found.at + 1]
    assert found.our_tokens == [ours.vocab.tokens[i] for i in found.ours]
    assert found.their_tokens == [theirs.vocab.tokens[i] for i in found.theirs]
    assert found.before == ours.decode_bytes(found.ours[: found.at])


def test_a_file_is_the_same_as_itself(pair: tuple[str, Path, Path]) -> None:
    name, a, _ = pair
    ours = load_tokenizer(a)
    for text in (PAIRS[name][3], "", b"\xff", "Привет <s> 日本"):
        assert compare(ours, open_other(str(a), ours), text) is None


def test_two_causes_are_both_named(tmp_path: Path) -> None:
    a = write_vocab(tmp_path / "a.gguf", LLAMA, *keys_of("llama"))
    b = write_vocab(tmp_path / "b.gguf", LLAMA, *keys_of("llama", *ADDS, flag("add_space_prefix", False)))
    ours = load_tokenizer(a)
    found = compare(ours, open_other(str(b), ours), "the")
    assert found is not None
    assert [c.stage for c in found.causes] == ["added", "normalized"]
    assert found.causes[0].detail == "[1] ... [], not [1] ... [2]"


def test_switched_off_a_rule_makes_no_difference(tmp_path: Path) -> None:
    a = write_vocab(tmp_path / "a.gguf", LLAMA, *keys_of("llama"))
    b = write_vocab(tmp_path / "b.gguf", LLAMA, *keys_of("llama", *ADDS))
    ours = load_tokenizer(a)
    assert compare(ours, open_other(str(b), ours), "the hello", add_special=False) is None


# -- a server ---------------------------------------------------------------------------------------------------------

Answer = Callable[[dict[str, Any]], tuple[int, bytes]]


@contextmanager
def serving(answer: Answer) -> Iterator[str]:
    """A server on the loopback device that answers POST."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            status, raw = answer(body | {"path": self.path})
            self.send_response(status)
            self.send_header("Content-Length", str(len(raw)))
            self.end_headers()
            self.wfile.write(raw)

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def tokenizing(tokenizer: Tokenizer, pieces: bool = False) -> Answer:
    """llama-server's /tokenize, of this tokenizer."""

    def answer(body: dict[str, Any]) -> tuple[int, bytes]:
        if body["path"] != "/tokenize":
            return 404, b"no such place"
        ids = tokenizer.encode(body["content"], body["add_special"], body["parse_special"])
        return 200, json.dumps({"tokens": [{"id": i, "piece": "?"} if pieces else i for i in ids]}).encode()

    return answer


def test_a_servers_ids_betray_the_rule(pair: tuple[str, Path, Path]) -> None:
    name, a, b = pair
    cause, _, _, text = PAIRS[name]
    ours = load_tokenizer(a)
    with serving(tokenizing(load_tokenizer(b))) as url:
        found = compare(ours, open_other(url, ours), text)
    assert found is not None
    assert [c.stage for c in found.causes] == [FROM_IDS.get(name, cause)]


@pytest.mark.parametrize("address", ["", "/", "/tokenize"])
@pytest.mark.parametrize("pieces", [False, True])
def test_a_server_of_the_same_file_agrees(tmp_path: Path, address: str, pieces: bool) -> None:
    ours = load_tokenizer(write_vocab(tmp_path / "a.gguf", BERT))
    with serving(tokenizing(ours, pieces)) as url:
        for add, parse in ((True, True), (False, True), (True, False)):
            assert compare(ours, open_other(url + address, ours), "the [SEP] hello", add, parse) is None


@pytest.mark.parametrize(
    ("status", "raw", "said"),
    [
        (404, b"{}", r"/tokenize answers 404: \{\}"),
        (500, b"<html>\nno", "answers 500: <html> no"),
        (200, b"hello", "not JSON"),
        (200, b"[1, 2]", "something other than"),
        (200, b'{"tokens": "1 2"}', "something other than"),
        (200, b'{"tokens": [1, true]}', "something other than"),
        (200, b'{"tokens": [{"token": 1}]}', "something other than"),
        (200, b'{"data": [1]}', "something other than"),
    ],
)
def test_another_answer_is_an_error(tmp_path: Path, status: int, raw: bytes, said: str) -> None:
    ours = load_tokenizer(write_vocab(tmp_path / "a.gguf", BERT))
    with serving(lambda body: (status, raw)) as url, pytest.raises(EngineError, match=said):
        compare(ours, open_other(url, ours), "hello")


def test_ids_beyond_our_vocabulary_are_no_crash(tmp_path: Path) -> None:
    ours = load_tokenizer(write_vocab(tmp_path / "a.gguf", BERT))
    with serving(lambda body: (200, b'{"tokens": [101, 99999, -4]}')) as url:
        found = compare(ours, open_other(url, ours), "hello")
    assert found is not None
    assert found.their_tokens == [b"[CLS]", None, None]


def test_an_address_without_a_server_is_an_error(tmp_path: Path) -> None:
    ours = load_tokenizer(write_vocab(tmp_path / "a.gguf", BERT))
    with serving(lambda body: (200, b"")) as url:
        pass
    with pytest.raises(EngineError, match="cannot be reached"):
        compare(ours, open_other(url, ours), "hello")


def test_bytes_that_are_no_utf8_cannot_be_sent(tmp_path: Path) -> None:
    ours = load_tokenizer(write_vocab(tmp_path / "a.gguf", BERT))
    with pytest.raises(RequestError, match="no UTF-8 from byte 1 on"):
        compare(ours, open_other("http://127.0.0.1:9", ours), b"a\xff")


@pytest.mark.parametrize("source", ["no.gguf", "no.json", "http://", "https://:80/tokenize", "http://[::1"])
def test_what_cannot_be_opened_is_one_error(tmp_path: Path, source: str) -> None:
    ours = load_tokenizer(write_vocab(tmp_path / "a.gguf", BERT))
    with pytest.raises(RefembedError):
        open_other(source if "//" in source else str(tmp_path / source), ours)


@pytest.mark.oracle
def test_llama_server_agrees(tiny: Path) -> None:
    ours = load_tokenizer(tiny)
    with llama_server(tiny) as url:
        other = open_other(url, ours)
        for text in ("the cat", "a [MASK] b", "", "Hello, WORLD!", "Привет\n\t日本"):
            for switch in (False, True):
                assert compare(ours, other, text, switch, switch) is None


# -- tokenizer.json ---------------------------------------------------------------------------------------------------


@pytest.mark.skipif(HAVE_TOKENIZERS, reason="`tokenizers` is installed")
def test_without_the_library_a_sentence_says_what_to_install(tmp_path: Path) -> None:
    ours = load_tokenizer(write_vocab(tmp_path / "a.gguf", BERT))
    (tmp_path / "tokenizer.json").write_text("{}")
    for source in (tmp_path, tmp_path / "tokenizer.json"):
        with pytest.raises(EngineError, match=r"the library `tokenizers` is needed\n  hint: pip install tokenizers"):
            open_other(str(source), ours)


def word_piece(path: Path, lowercase: bool = True) -> Path:
    """bert() as a tokenizer.json: what a publisher of that model would write."""
    library = pytest.importorskip("tokenizers")
    plain = {t for t, kind in BERT if kind == NORMAL and isinstance(t, str)}
    vocab = {
        (t[1:] if t.startswith("▁") else f"##{t}") if t in plain and t != "▁" else str(t): i
        for i, (t, _) in enumerate(BERT)
    }
    made = library.Tokenizer(library.models.WordPiece(vocab, unk_token="[UNK]"))
    made.normalizer = library.normalizers.BertNormalizer(lowercase=lowercase)
    made.pre_tokenizer = library.pre_tokenizers.BertPreTokenizer()
    made.post_processor = library.processors.BertProcessing(("[SEP]", 102), ("[CLS]", 101))
    made.add_special_tokens([t for t, kind in BERT if kind == 3])
    made.add_tokens([library.AddedToken(t, normalized=False) for t, kind in BERT if kind == USER_DEFINED])
    made.save(str(path))
    return path


def test_the_librarys_word_pieces_agree_but_for_what_llama_cpp_does_otherwise(tmp_path: Path) -> None:
    ours = load_tokenizer(write_vocab(tmp_path / "a.gguf", BERT))
    other = open_other(str(word_piece(tmp_path / "tokenizer.json")), ours)
    for text in ("the hello", "Unaffable, naïve [SEP] caf\u00e9!", "<user>the", ""):
        assert compare(ours, other, text) is None, text
    for text, cause in (("하", "normalized"), ("x" * 150, "pieces")):
        found = compare(ours, other, text)
        assert found is not None
        assert [c.stage for c in found.causes] == [cause]


def test_the_librarys_normalizer_is_named(tmp_path: Path) -> None:
    ours = load_tokenizer(write_vocab(tmp_path / "a.gguf", BERT))
    found = compare(ours, open_other(str(word_piece(tmp_path / "tokenizer.json", lowercase=False)), ours), "the Hello")
    assert found is not None
    assert [c.stage for c in found.causes] == ["normalized"]


def test_a_broken_tokenizer_json_is_an_error(tmp_path: Path) -> None:
    pytest.importorskip("tokenizers")
    ours = load_tokenizer(write_vocab(tmp_path / "a.gguf", BERT))
    (tmp_path / "tokenizer.json").write_text('{"version": 7}')
    with pytest.raises(ModelError, match=r"tokenizer\.json: the library `tokenizers` cannot read it"):
        open_other(str(tmp_path), ours)


def test_every_cause_has_a_pair() -> None:
    assert {cause for cause, *_ in PAIRS.values()} == set(CAUSES)
