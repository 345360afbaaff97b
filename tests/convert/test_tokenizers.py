"""Tokenizers of folders: what becomes of their parts, what is refused by name, what is said.

Expected ids follow from the vocabulary at hand (a template says which ids go around a text, an unknown character is its
bytes), or were made by `tokenizers` 0.23; tests/peers/tokenizer_folders.py compares hundreds of drawn ones with it.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from refembed.convert.folder import convert
from refembed.errors import ModelError
from refembed.gguf import open_gguf
from refembed.tokenizer import load_tokenizer
from refembed.tokenizer.pairs import encode_pair
from tests.hf_folders import PIECES, bert_shapes, small, write_json, write_weights
from tests.record_models import DATA, FILE
from tests.record_models import build as build_recorded
from tests.sentencepiece_files import BPE, CONTROL, UNIGRAM, UNKNOWN, USER_DEFINED, WORD, llama_pieces, sentencepiece

RECORDS = json.loads((DATA / FILE).read_text(encoding="utf-8"))
TOKENIZER = "tokenizer.ggml."


def ids(path: Path, text: str, **options: Any) -> list[int]:
    return load_tokenizer(path).encode(text, **options)


def recorded(name: str, tmp_path: Path, **files: Any) -> Path:
    """A recorded folder with these JSON files over it; "a__b" is the file a.b."""
    folder = build_recorded(RECORDS[name], tmp_path / name)
    for file, change in files.items():
        path = folder / file.replace("__", ".")
        content = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        write_json(path, content | change)
    return folder


def template(*items: str, **numbers: int) -> dict[str, Any]:
    """A TemplateProcessing of these tokens; "A" is the text."""
    single = [{"Sequence" if t == "A" else "SpecialToken": {"id": t, "type_id": 0}} for t in items]
    named = {t: {"id": t, "ids": [i], "tokens": [t]} for t, i in numbers.items()}
    return {"type": "TemplateProcessing", "single": single, "pair": single, "special_tokens": named}


# -- byte-pair encoding: what a template puts around a text


@pytest.mark.parametrize("name", ["modern-bert", "eurobert", "qwen2", "roberta"])
@pytest.mark.parametrize(
    ("post", "front", "back"),
    [
        (template("<s>", "A", "</s>", **{"<s>": 110, "</s>": 111}), [110], [111]),
        (template("A", "</s>", **{"</s>": 111}), [], [111]),
        (template("<s>", "A", **{"<s>": 110}), [110], []),
        (template("</s>", "A", "<s>", **{"<s>": 110, "</s>": 111}), [111], [110]),
        ({"type": "RobertaProcessing", "cls": ["<s>", 110], "sep": ["</s>", 111]}, [110], [111]),
        ({"type": "ByteLevel"}, [], []),
        (None, [], []),
    ],
)
def test_what_a_byte_pair_tokenizer_puts_around_a_text_is_what_the_file_says(
    name: str, post: Any, front: list[int], back: list[int], tmp_path: Path
) -> None:
    vocab = RECORDS[name]["files"]["tokenizer.json"]["json"]["model"]["vocab"]
    added = [{"id": len(vocab) + i, "content": t, "special": True} for i, t in enumerate(("<s>", "</s>"))]
    post = json.loads(json.dumps(post).replace("110", str(len(vocab))).replace("111", str(len(vocab) + 1)))
    front, back = [i - 110 + len(vocab) for i in front], [i - 110 + len(vocab) for i in back]
    folder = recorded(name, tmp_path, tokenizer__json={"post_processor": post, "added_tokens": added})
    path = convert(folder, tmp_path / "x.gguf")
    assert ids(path, "ab") == [*front, vocab["a"], vocab["b"], *back]


def test_a_later_value_of_a_key_counts_and_keeps_its_place(tmp_path: Path) -> None:
    post = template("A", "</s>", **{"</s>": 114})
    vocab = RECORDS["modern-bert"]["files"]["tokenizer.json"]["json"]["model"]["vocab"]
    post["special_tokens"]["</s>"]["ids"] = [len(vocab) + 1]
    md = open_gguf(convert(recorded("modern-bert", tmp_path, tokenizer__json={"post_processor": post}),
                           tmp_path / "x.gguf")).metadata  # fmt: skip
    keys = [key for key in md if key.startswith(TOKENIZER)]
    assert keys[:3] == [f"{TOKENIZER}add_{name}_token" for name in ("bos", "eos", "sep")]
    assert md[f"{TOKENIZER}add_bos_token"] is False


def bpe(**model: Any) -> dict[str, Any]:
    return {"model": RECORDS["qwen2"]["files"]["tokenizer.json"]["json"]["model"] | model}


SPLIT = RECORDS["qwen2"]["files"]["tokenizer.json"]["json"]["pre_tokenizer"]
REMOVED = json.loads(json.dumps(SPLIT).replace("Isolated", "Removed"))
BPE_REFUSED: dict[str, tuple[Any, str]] = {
    "NFKC": ({"normalizer": {"type": "NFKC"}}, "a normalizer that GGUF has no key for: .*NFKC"),
    "Lowercase": ({"normalizer": {"type": "Lowercase"}}, "a normalizer that GGUF has no key for: .*Lowercase"),
    "two tokens in front": (
        {"post_processor": template("<s>", "</s>", "A", **{"<s>": 110, "</s>": 111})},
        "a template that GGUF has no key for: <s> </s> A",
    ),
    "a post-processor": ({"post_processor": {"type": "Sum"}}, "a post-processor that GGUF has no key for: Sum"),
    "pieces that are removed": ({"pre_tokenizer": REMOVED}, "a pre-tokenizer that has no name here"),
    "a suffix": (bpe(end_of_word_suffix="</w>"), "a setting that GGUF has no key for: end_of_word_suffix </w>"),
    "dropout": (bpe(dropout=0.1), "a setting that GGUF has no key for: dropout 0.1"),
    "a number of the library's own": (
        {"added_tokens": [{"id": 117, "content": "<far>", "special": True}]},
        "added token <far> has id 117, where .* 113",
    ),
}  # fmt: skip


@pytest.mark.parametrize("fault", BPE_REFUSED)
def test_byte_pairs_that_llama_cpp_has_not_are_refused_by_name(fault: str, tmp_path: Path) -> None:
    change, message = BPE_REFUSED[fault]
    with pytest.raises(ModelError, match=message) as caught:
        convert(recorded("qwen2", tmp_path, tokenizer__json=change), tmp_path / "x.gguf")
    assert caught.value.hint


def test_composed_characters_and_flags_that_contradict_are_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    change = {"normalizer": {"type": "NFC"}}
    convert(recorded("qwen2", tmp_path, tokenizer__json=change, tokenizer_config__json={"add_bos_token": True}),
            tmp_path / "x.gguf")  # fmt: skip
    said = [r.getMessage() for r in caplog.records if r.name == "refembed.convert"]
    assert ["NFC" in text for text in said] == [True, False]
    assert "add_bos_token true, but the post-processor puts none there" in said[1]


# -- WordPiece


def wordpiece(folder: Path, **change: Any) -> Path:
    small(folder)
    path = folder / "tokenizer.json"
    write_json(path, json.loads(path.read_text(encoding="utf-8")) | change)
    return folder


BERT_NORMALIZER = {"type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True, "strip_accents": None,
                   "lowercase": True}  # fmt: skip
WORDPIECE_REFUSED: dict[str, tuple[Any, str]] = {
    "WhitespaceSplit": ({"pre_tokenizer": {"type": "WhitespaceSplit"}}, "a pre-tokenizer .*WhitespaceSplit"),
    "no pre-tokenizer": ({"pre_tokenizer": None}, "a pre-tokenizer .*None"),
    "NFKC": (
        {"normalizer": {"type": "Sequence", "normalizers": [{"type": "NFKC"}, {"type": "Lowercase"}]}},
        "a normalizer .*NFKC",
    ),
    "no normalizer": ({"normalizer": None}, "a normalizer .*None"),
    "ideographs": ({"normalizer": BERT_NORMALIZER | {"handle_chinese_chars": False}}, "a normalizer .*chinese_chars"),
    "cleaning": ({"normalizer": BERT_NORMALIZER | {"clean_text": False}}, "a normalizer .*clean_text"),
    "no template": ({"post_processor": None}, "a template that GGUF has no key for: nothing around a text"),
    "[CLS] alone": ({"post_processor": template("[CLS]", "A", **{"[CLS]": 2})}, r"a template .*\[CLS\]"),
    "a segment": (
        {"post_processor": json.loads(json.dumps(template("[CLS]", "A", "[SEP]", **{"[CLS]": 2, "[SEP]": 3}))
                                      .replace('"type_id": 0', '"type_id": 1'))}, "llama.cpp computes with segment 0"
    ),
}  # fmt: skip


@pytest.mark.parametrize("fault", WORDPIECE_REFUSED)
def test_wordpiece_that_is_not_berts_is_refused_by_name(fault: str, tmp_path: Path) -> None:
    change, message = WORDPIECE_REFUSED[fault]
    with pytest.raises(ModelError, match=f"(?s)tokenizer.json: .*{message}") as caught:
        convert(wordpiece(tmp_path / "x", **change), tmp_path / "x.gguf")
    assert "BertPreTokenizer" in caught.value.hint or "segment" in caught.value.hint


def test_the_template_says_which_tokens_go_around_a_text(tmp_path: Path) -> None:
    """Whatever tokenizer_config.json calls [CLS] and [SEP]."""
    post = {"type": "BertProcessing", "cls": ["[MASK]", 4], "sep": ["[PAD]", 0]}
    path = convert(wordpiece(tmp_path / "x", post_processor=post), tmp_path / "x.gguf")
    assert ids(path, "hello") == [4, PIECES.index("hello"), 0]


def lines(folder: Path, pieces: list[str], **settings: Any) -> Path:
    """A folder with a vocab.txt alone."""
    small(folder, vocab_size=len(pieces))
    write_weights(folder, bert_shapes(32, 64, 1, len(pieces), 16), "F32")
    (folder / "tokenizer.json").unlink()
    (folder / "vocab.txt").write_text("\n".join(pieces) + "\n", encoding="utf-8")
    write_json(folder / "tokenizer_config.json", settings)
    return folder


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"tokenizer_class": "BertJapaneseTokenizer"}, "a tokenizer class .*BertJapaneseTokenizer"),
        ({"tokenizer_class": "AlbertTokenizer"}, "a tokenizer class .*AlbertTokenizer"),
        ({"word_tokenizer_type": "mecab"}, "a setting .*word_tokenizer_type: mecab"),
        ({"subword_tokenizer_type": "character"}, "a setting .*subword_tokenizer_type: character"),
        ({"tokenize_chinese_chars": False}, "a setting .*tokenize_chinese_chars: False"),
        ({"do_basic_tokenize": False}, "a setting .*do_basic_tokenize: False"),
        ({"cls_token": "[BEGIN]"}, r"no token \[BEGIN\]"),
    ],
)
def test_a_vocab_txt_of_another_tokenizer_is_refused_by_name(settings: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=message) as caught:
        convert(lines(tmp_path / "x", PIECES, **settings), tmp_path / "x.gguf")
    assert caught.value.hint


@pytest.mark.parametrize("missing", ["[CLS]", "[SEP]", "[UNK]"])
def test_a_vocab_txt_without_a_token_of_every_text_is_refused(missing: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=rf"no token \{missing[:-1]}\]"):
        convert(lines(tmp_path / "x", [p if p != missing else "zzz" for p in PIECES]), tmp_path / "x.gguf")


def test_a_blank_line_of_vocab_txt_is_no_piece(tmp_path: Path) -> None:
    """Else "dz" would be "", "d" going on, "z" going on, where BERT has no piece that begins with d."""
    pieces = [*(p for p in PIECES if p not in ("d", "dog")), "##d", "##z", "", "last"]
    path = convert(lines(tmp_path / "x", pieces), tmp_path / "x.gguf")
    assert ids(path, "dz last", add_special=False) == [PIECES.index("[UNK]"), pieces.index("last")]


def test_added_tokens_that_llama_cpp_finds_otherwise_are_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = small(tmp_path / "x", vocab_size=len(PIECES) + 2)
    write_weights(folder, bert_shapes(32, 64, 1, len(PIECES) + 2, 16), "F32")
    tokenizer = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    tokenizer["added_tokens"] += [
        {"id": len(PIECES), "content": "newword", "special": False, "normalized": True},
        {"id": len(PIECES) + 1, "content": "<x>", "special": True, "lstrip": True, "rstrip": True},
    ]
    write_json(folder / "tokenizer.json", tokenizer)
    convert(folder, tmp_path / "x.gguf")
    said = "\n".join(r.getMessage() for r in caplog.records if r.name == "refembed.convert")
    assert "newword is looked for before words are cut; <x> takes along the spaces before it and takes along" in said


# -- SentencePiece's own files


def spm(name: str, tmp_path: Path, pieces: Any, kind: int = BPE, settings: Any = (), **options: Any) -> Path:
    """A recorded folder with another SentencePiece model, and a vocabulary of its size."""
    old = RECORDS["roberta" if name == "xlm-roberta" else name]
    size, before = len(pieces) + options.pop("more", 0), old["files"]["config.json"]["json"]["vocab_size"]
    shapes = {k: [size if n == before else n for n in shape] for k, shape in old["shapes"].items()}
    content = old["files"]["config.json"]["json"] | {"vocab_size": size}
    if name == "xlm-roberta":
        content |= {"architectures": ["XLMRobertaModel"], "model_type": "xlm-roberta"}
    folder = build_recorded({"files": {"config.json": {"json": content}}, "shapes": shapes}, tmp_path / name)
    file = {"t5encoder": "spiece.model", "xlm-roberta": "sentencepiece.bpe.model"}.get(name, "tokenizer.model")
    (folder / file).write_bytes(sentencepiece(pieces, kind, **options))
    write_json(folder / "tokenizer_config.json", dict(settings))
    return folder


PLAIN = llama_pieces()
AT = {text: i for i, (text, _, _) in enumerate(PLAIN)}


@pytest.mark.parametrize(
    ("settings", "options", "prefix"),
    [
        ({}, {}, True),
        ({"add_prefix_space": False}, {}, False),
        ({"add_prefix_space": True}, {"add_dummy_prefix": False}, True),
        ({}, {"add_dummy_prefix": False}, False),
    ],
)
def test_llamas_space_before_a_text_is_the_folders(settings: Any, options: Any, prefix: bool, tmp_path: Path) -> None:
    path = convert(spm("llama", tmp_path, PLAIN, settings=settings, **options), tmp_path / "x.gguf")
    assert ids(path, "the cat") == [AT["<s>"], AT["▁the" if prefix else "the"], AT["▁cat"]]
    assert open_gguf(path).metadata.get(f"{TOKENIZER}add_space_prefix", True) is prefix


def test_a_unigram_vocabulary_of_llama_spells_bytes(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = convert(spm("llama", tmp_path, PLAIN, UNIGRAM), tmp_path / "x.gguf")
    assert open_gguf(path).metadata[f"{TOKENIZER}model"] == "llama"
    assert ids(path, "the é") == [AT["<s>"], AT["▁the"], AT["▁"], AT["<0xC3>"], AT["<0xA9>"]]
    assert "a Unigram vocabulary" in caplog.text


@pytest.mark.parametrize("file", ["added_tokens.json", "tokenizer_config.json"])
def test_a_token_beyond_the_table_of_embeddings_is_left_out_and_said(
    file: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = spm("gemma-embedding", tmp_path, PLAIN)
    plain = convert(folder, tmp_path / "plain.gguf").read_bytes()
    caplog.clear()
    image = {"content": "<image_soft_token>", "special": True}
    content = {"<image_soft_token>": len(PLAIN)} if file == "added_tokens.json" else {
        "added_tokens_decoder": {str(len(PLAIN)): image}}  # fmt: skip
    write_json(folder / file, content)
    assert convert(folder, tmp_path / "x.gguf").read_bytes() == plain
    assert f"added token <image_soft_token> has id {len(PLAIN)}, but the model has {len(PLAIN)} tokens" in caplog.text


def test_user_defined_pieces_are_found_in_texts(tmp_path: Path) -> None:
    pieces = [*PLAIN, ("<ent>", 0.0, USER_DEFINED), ("▁▁", 0.0, USER_DEFINED)]
    path = convert(spm("gemma-embedding", tmp_path, pieces), tmp_path / "x.gguf")
    assert ids(path, "the<ent>the  c", add_special=False) == [
        AT["the"], len(PLAIN), AT["the"], len(PLAIN) + 1, AT["c"]
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        (WORD, {}, "a vocabulary that GGUF has no key for: model_type 3"),
        (BPE, {"treat_whitespace_as_suffix": True}, "a setting .*treat_whitespace_as_suffix"),
        (BPE, {"escape_whitespaces": False}, "a setting .*escape_whitespaces false"),
    ],
)
def test_sentencepiece_models_of_other_kinds_are_refused_by_name(
    kind: int, options: Any, message: str, tmp_path: Path
) -> None:
    with pytest.raises(ModelError, match=message):
        convert(spm("llama", tmp_path, PLAIN, kind, **options), tmp_path / "x.gguf")


T5 = [("<pad>", 0.0, CONTROL), ("</s>", 0.0, CONTROL), ("▁", -3.0, 1), ("<unk>", 0.0, UNKNOWN), ("▁the", -1.0, 1),
      ("cat", -2.0, 1)]  # fmt: skip


def test_the_unknown_token_of_t5_is_the_vocabularys(tmp_path: Path) -> None:
    """llama.cpp takes token 2 for granted."""
    folder = spm("t5encoder", tmp_path, T5, UNIGRAM, unk_id=3, eos_id=1, remove_extra_whitespaces=True)
    assert ids(convert(folder, tmp_path / "x.gguf"), "the é cat") == [4, 2, 3, 2, 5, 1]


XLM = [("<unk>", 0.0, UNKNOWN), ("<s>", 0.0, CONTROL), ("</s>", 0.0, CONTROL), ("▁", -3.0, 1), ("▁the", -1.0, 1),
       ("cat", -2.0, 1)]  # fmt: skip


def test_xlm_robertas_own_file_has_the_numbers_of_its_tokenizers_class(tmp_path: Path) -> None:
    """<s>, <pad>, </s>, <unk>, the pieces from the fourth on, one later, and <mask>: XLMRobertaTokenizer."""
    folder = spm("xlm-roberta", tmp_path, XLM, UNIGRAM, remove_extra_whitespaces=True, more=4)
    path = convert(folder, tmp_path / "x.gguf")
    md = open_gguf(path).metadata
    assert list(md[f"{TOKENIZER}tokens"]) == ["<s>", "<pad>", "</s>", "<unk>", "▁", "▁the", "cat", "<mask>", "[PAD8]",
                                              "[PAD9]"]  # fmt: skip
    assert ids(path, "the é  cat") == [0, 5, 4, 3, 4, 6, 2]
    assert ids(path, "<mask>", parse_special=True) == [0, 7, 2]
    assert encode_pair(load_tokenizer(path), "the", "the") == [0, 5, 2, 2, 5, 2]


def test_unigram_that_merges_spaces_and_puts_none_before_a_text_is_refused(tmp_path: Path) -> None:
    for name, pieces in (("xlm-roberta", XLM), ("t5encoder", T5)):
        folder = spm(name, tmp_path, pieces, UNIGRAM, add_dummy_prefix=False, remove_extra_whitespaces=True, more=4)
        with pytest.raises(ModelError, match="a setting that GGUF has no key for: add_dummy_prefix false"):
            convert(folder, tmp_path / "x.gguf")


# -- SentencePiece's BPE in a tokenizer.json, without its own file


def merged_json(**change: Any) -> dict[str, Any]:
    """As `transformers` 5 saves Gemma: every pair of a piece stands with the others of that piece."""
    merges = [["t", "h"], ["h", "e"], ["t", "he"], ["th", "e"], ["▁", "the"], ["▁the", "c"]]
    vocab = {text: i for i, (text, _, _) in enumerate(PLAIN[:259])}
    for piece in ("th", "he", "the", "▁the", "▁thec", *"▁theca"):
        vocab[piece] = len(vocab)
    model = {"type": "BPE", "byte_fallback": True, "fuse_unk": True, "unk_token": "<unk>", "vocab": vocab,
             "merges": merges}  # fmt: skip
    added = [{"id": i, "content": t, "special": True} for i, t in enumerate(("<unk>", "<s>", "</s>"))]
    spaces = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
    post = template("<s>", "A", "</s>", **{"<s>": 1, "</s>": 2})
    return {"model": model, "added_tokens": added, "normalizer": spaces, "post_processor": post} | change


def merged_folder(tmp_path: Path, **change: Any) -> tuple[Path, dict[str, int]]:
    content = merged_json(**change)
    vocab = content["model"]["vocab"]
    folder = spm("gemma-embedding", tmp_path, [("x", 0.0, 1)] * len(vocab))
    (folder / "tokenizer.model").unlink()
    write_json(folder / "tokenizer.json", content)
    return folder, vocab


def test_merges_of_a_tokenizer_json_become_scores(tmp_path: Path) -> None:
    """ "he" is made before "the", "▁thec" last; "é" is its bytes."""
    folder, vocab = merged_folder(tmp_path)
    path = convert(folder, tmp_path / "x.gguf")
    assert open_gguf(path).metadata[f"{TOKENIZER}model"] == "llama"
    assert ids(path, "the thecé") == [
        1, vocab["the"], vocab["▁thec"], vocab["<0xC3>"], vocab["<0xA9>"], 2
    ]  # fmt: skip
    assert ids(path, "ht") == [1, vocab["h"], vocab["t"], 2]


def test_the_space_before_a_text_is_what_the_normalizer_says(tmp_path: Path) -> None:
    spaces = merged_json()["normalizer"]
    prepend = {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "▁"}, spaces]}
    folder, vocab = merged_folder(tmp_path, normalizer=prepend)
    assert ids(convert(folder, tmp_path / "x.gguf"), "the") == [1, vocab["▁the"], 2]


PAIRS = merged_json()["model"]["merges"]
MERGED_REFUSED: dict[str, tuple[list[list[str]], str]] = {
    "a pair is missing": ([p for p in PAIRS if p != ["th", "e"]], "merges .*: none of th and e, though the is a token"),
    "a pair is elsewhere": ([*(p for p in PAIRS if p != ["th", "e"]), ["th", "e"]], "the is made before and after"),
}


@pytest.mark.parametrize("fault", MERGED_REFUSED)
def test_merges_that_no_scores_lead_to_are_refused_by_name(fault: str, tmp_path: Path) -> None:
    merges, message = MERGED_REFUSED[fault]
    folder, _ = merged_folder(tmp_path, model=merged_json()["model"] | {"merges": merges})
    with pytest.raises(ModelError, match=message):
        convert(folder, tmp_path / "x.gguf")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"normalizer": {"type": "NFKC"}}, "a normalizer .*NFKC"),
        ({"normalizer": None}, "none that replaces spaces"),
        ({"normalizer": None, "pre_tokenizer": {"type": "Metaspace", "replacement": "▁", "split": True}}, "a pre-tok"),
    ],
)
def test_other_spaces_than_sentencepieces_are_refused_by_name(change: Any, message: str, tmp_path: Path) -> None:
    folder, _ = merged_folder(tmp_path, **change)
    with pytest.raises(ModelError, match=message):
        convert(folder, tmp_path / "x.gguf")


# -- files that disagree


@pytest.mark.parametrize("same", [True, False])
def test_a_tokenizer_json_of_another_vocabulary_is_said(
    same: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = spm("llama", tmp_path, PLAIN)
    vocab = {text: i for i, (text, _, _) in enumerate(PLAIN)}
    if not same:
        vocab["▁the"], vocab["▁cat"] = vocab["▁cat"], vocab["▁the"]
    write_json(folder / "tokenizer.json", {"model": {"type": "BPE", "vocab": vocab, "merges": []}})
    path = convert(folder, tmp_path / "x.gguf")
    assert ids(path, "the") == [AT["<s>"], AT["▁the"]]
    assert ("remove the one that is wrong" in caplog.text) is not same


def test_an_added_token_of_bert_beyond_the_table_is_left_out_and_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = small(tmp_path / "x")
    plain = convert(folder, tmp_path / "plain.gguf").read_bytes()
    tokenizer = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    tokenizer["added_tokens"].append({"id": len(PIECES), "content": "<image>", "special": True})
    write_json(folder / "tokenizer.json", tokenizer)
    assert convert(folder, tmp_path / "x.gguf").read_bytes() == plain
    assert f"added token <image> has id {len(PIECES)}" in caplog.text


def test_vocab_json_and_merges_txt_alone_say_how_to_go_on(tmp_path: Path) -> None:
    folder = recorded("roberta", tmp_path)
    (folder / "tokenizer.json").rename(folder / "vocab.json")
    (folder / "merges.txt").write_text("")
    with pytest.raises(ModelError, match=r"(?s)no tokenizer.json.*save_pretrained"):
        convert(folder, tmp_path / "x.gguf")


@pytest.mark.parametrize(("cased", "said"), [(True, True), (False, False)])
def test_texts_that_sentence_transformers_lowers_are_said(
    cased: bool, said: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = wordpiece(tmp_path / "x", normalizer=BERT_NORMALIZER | {"lowercase": not cased})
    write_json(folder / "tokenizer_config.json", {"do_lower_case": not cased})
    write_json(folder / "sentence_bert_config.json", {"max_seq_length": 16, "do_lower_case": True})
    convert(folder, tmp_path / "x.gguf")
    assert ("give texts in lower case" in caplog.text) is said


# -- live llama.cpp


def with_template(tmp_path: Path) -> Path:
    vocab = RECORDS["modern-bert"]["files"]["tokenizer.json"]["json"]["model"]["vocab"]
    post = template("<s>", "A", "</s>", **{"<s>": len(vocab), "</s>": len(vocab) + 1})
    return recorded("modern-bert", tmp_path, tokenizer__json={"post_processor": post})


LIVE: dict[str, Callable[[Path], Path]] = {
    "ModernBERT with a template": with_template,
    "Llama without a space": lambda p: spm("llama", p, PLAIN, settings={"add_prefix_space": False}),
    "Llama with Unigram": lambda p: spm("llama", p, PLAIN, UNIGRAM),
    "Gemma with merges": lambda p: merged_folder(p)[0],
    "XLM-RoBERTa's own file": lambda p: spm("xlm-roberta", p, XLM, UNIGRAM, remove_extra_whitespaces=True, more=4),
    "T5 with another unknown": lambda p: spm(
        "t5encoder", p, T5, UNIGRAM, unk_id=3, eos_id=1, remove_extra_whitespaces=True
    ),
}  # fmt: skip


@pytest.mark.oracle
@pytest.mark.parametrize("kind", LIVE)
def test_llama_cpp_reads_the_same_ids_from_the_file(kind: str, tmp_path: Path) -> None:
    from refembed.verify.engines.llamacpp import LlamaCpp

    path = convert(LIVE[kind](tmp_path), tmp_path / "x.gguf")
    texts = ["the cat", " the  cat ", "cat the", "thecat th", "é the"]
    with LlamaCpp(path, threads=1) as engine:
        assert [engine.tokenize(text) for text in texts] == [ids(path, text) for text in texts]
