"""refembed/hub/__init__.py: which file a name means."""

from __future__ import annotations

import errno
import io
import os
import re
import sys
import types
from pathlib import Path
from typing import Any

import pytest

from refembed import hub
from refembed.convert import folder as convert
from refembed.convert import quantize_mix as quantize_types
from refembed.errors import DownloadError, ModelError, RequestError
from refembed.gguf import open_gguf
from refembed.hub import resolve, source_folder
from refembed.hub.models import MODELS
from refembed.hub.sources import Repository, Wheel
from tests.child import answer_to_code
from tests.hf_folders import small
from tests.hub.shelf import Shelf
from tests.hub.test_sources import left


def file_type(path: Path) -> int:
    return open_gguf(path).metadata.uint("general.file_type")


def test_the_default_model_is_pinned() -> None:
    (minilm,) = (model for model in MODELS if "minilm" in model.aliases)
    weights = {file.name: file.sha256 for file in minilm.files}["model.safetensors"]
    assert weights == "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
    assert [type(source) for source in minilm.sources] == [Wheel, Repository]
    assert all(re.fullmatch("[0-9a-f]{64}", file.sha256) and file.size > 0 for file in minilm.files)
    assert all(alias == alias.lower() for model in MODELS for alias in model.aliases)


def test_the_outtypes_are_those_that_can_be_converted_to() -> None:
    assert hub.OUTTYPES[:4] == tuple(convert.OUTTYPES)
    assert {t.upper() for t in hub.OUTTYPES} <= set(quantize_types.TYPES)
    assert len(set(hub.OUTTYPES)) == len(hub.OUTTYPES)


@pytest.mark.parametrize(
    ("name", "outtype", "expected"),
    [
        ("tiny", "f32", 0),
        ("Tiny", "f16", 1),
        ("TINY:q8_0", "f32", 7),
        ("tiny-BF16", "f32", 32),
        ("org/tiny:f16", "q8_0", 1),
        ("tiny:q4_0", "f32", 2),
    ],
)
def test_a_name_may_end_in_the_type_of_its_weights(
    name: str, outtype: str, expected: int, shelf: Shelf, cache: Path
) -> None:
    path = resolve(name, outtype=outtype)
    assert path.parent == cache / "gguf"
    assert file_type(path) == expected
    assert open_gguf(path).metadata["general.name"] == "Tiny"


def test_the_types_share_what_was_fetched(shelf: Shelf) -> None:
    assert len({resolve(f"tiny:{outtype}") for outtype in convert.OUTTYPES}) == 4
    assert set(shelf.asked.values()) == {1}


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("tiny:q9_0", r"(?s)tiny cannot be had as 'q9_0'.*f32, f16, bf16, q8_0"),
        ("tinny", r"(?s)tinny: no such file, and no model of that name.*did you mean tiny\?"),
        ("something else", r"(?s)no model of that name.*known names: tiny"),
        ("missing.gguf", r"missing.gguf: no such file"),
        ("some/missing.gguf", r"some/missing.gguf: no such file"),
        ("./tiny", r"./tiny: no such file"),
        ("", r"\(nothing\): no such file, and no model"),
        ("~no-such-user/x", r"no such file, and no model"),
        ("a\0b", r"no such file, and no model"),
    ],
)
def test_a_name_that_is_none_is_one_clear_error(name: str, message: str, shelf: Shelf) -> None:
    with pytest.raises(ModelError, match=message):
        resolve(name)


def test_an_outtype_that_is_none_is_a_request_error(shelf: Shelf) -> None:
    with pytest.raises(RequestError, match=r"(?s)outtype 'q9_0'.*one of f32, f16, bf16, q8_0"):
        resolve("tiny", outtype="q9_0")


def test_only_known_models_have_published_files(shelf: Shelf) -> None:
    with pytest.raises(ModelError, match=r"(?s)no model of the name tinny.*did you mean tiny\?"):
        source_folder("tinny")


def test_a_file_is_returned_as_it_is(tmp_path: Path, cache: Path) -> None:
    path = tmp_path / "some.gguf"
    path.write_bytes(b"GGUF")
    assert resolve(path) == path
    assert resolve(str(path), offline=True) == path
    assert not cache.exists()


def test_a_name_is_no_path_and_a_path_is_no_name(shelf: Shelf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    small(tmp_path / "tiny", layer_norm_eps=1e-5)
    eps = "bert.attention.layer_norm_epsilon"
    assert open_gguf(resolve("tiny")).metadata[eps] == pytest.approx(1e-12)
    assert open_gguf(resolve("./tiny")).metadata[eps] == pytest.approx(1e-5)


def test_a_home_folder_is_found(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    (tmp_path / "some.gguf").write_bytes(b"GGUF")
    assert resolve("~/some.gguf") == tmp_path / "some.gguf"


def test_a_folder_is_converted_once_and_again_when_it_changes(tmp_path: Path, cache: Path) -> None:
    folder = small(tmp_path / "mine")
    first = resolve(folder)
    assert first.parent == cache / "gguf"
    assert re.fullmatch(r"mine-[0-9a-f]{12}-f32.gguf", first.name)
    made = first.stat().st_mtime_ns
    assert resolve(folder) == first
    assert first.stat().st_mtime_ns == made
    small(folder, layer_norm_eps=1e-5)
    assert resolve(folder) == first
    assert open_gguf(first).metadata["bert.attention.layer_norm_epsilon"] == pytest.approx(1e-5)
    assert file_type(resolve(folder, outtype="q8_0")) == 7
    assert resolve(small(tmp_path / "other" / "mine")) != first
    assert left(cache / "work") == []


@pytest.mark.parametrize(
    ("inside", "hint"), [(["a.gguf"], "give the file: .*a.gguf"), ([], "a folder as Hugging Face")]
)
def test_a_folder_without_a_model_is_one_clear_error(inside: list[str], hint: str, tmp_path: Path, cache: Path) -> None:
    for name in inside:
        (tmp_path / name).write_bytes(b"GGUF")
    with pytest.raises(ModelError, match=f"(?s)a folder without config.json.*{hint}"):
        resolve(tmp_path)


@pytest.mark.parametrize("by_environment", [False, True])
def test_offline_takes_what_is_there_and_says_what_is_not(
    by_environment: bool, shelf: Shelf, cache: Path, files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    if by_environment:
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(DownloadError) as caught:
        resolve("tiny", offline=not by_environment)
    folder = cache / "models" / "tiny"
    lines = str(caught.value).splitlines()
    assert lines[0] == "tiny cannot be had:"
    assert "nothing was fetched, as offline was asked for; " in lines[1]
    assert str(folder) in lines[1]
    assert f"put its files into {folder}, or give the path of a .gguf file; REFEMBED_CACHE" in lines[2]
    for name, raw in files.items():  # by hand, as the hint has it
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(raw)
    (folder / "vocab.txt").write_text("a file of no account")
    assert resolve("tiny", offline=True).exists()
    (folder / "config.json").write_bytes(files["config.json"] + b" ")
    with pytest.raises(DownloadError, match=r"config.json: \d+ bytes, expected \d+"):
        resolve("tiny:f16", offline=True)
    assert not shelf.asked


def test_progress_tells_of_fetching_and_of_converting(shelf: Shelf, files: dict[str, bytes]) -> None:
    calls: list[tuple[str, int, int]] = []
    resolve("tiny", progress=lambda *call: calls.append(call))
    kinds = list(dict.fromkeys(what for what, _, _ in calls))
    assert kinds == [f"{shelf.url}/org/tiny", "converting"]
    total = sum(len(raw) for raw in files.values())
    assert max(done for what, done, _ in calls if what != "converting") == total
    assert {all for what, _, all in calls if what != "converting"} == {total}
    assert all(done <= total for _, done, total in calls)


def test_one_line_is_said_where_no_person_watches(shelf: Shelf, capsys: pytest.CaptureFixture[str]) -> None:
    resolve("tiny")
    assert capsys.readouterr() == ("", "refembed: getting tiny, once\n")
    resolve("tiny")
    assert capsys.readouterr() == ("", "")
    source_folder("tiny")
    assert capsys.readouterr() == ("", ""), "all of it is there"
    resolve("tiny", outtype="f16")
    assert capsys.readouterr() == ("", "refembed: converting tiny, once\n"), "it is there, but in another type"


def test_a_bar_is_shown_where_a_person_watches_and_goes_away(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    class Screen(io.StringIO):
        def isatty(self) -> bool:
            return True

    screen = Screen()
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setattr(sys, "stderr", screen)
    resolve("tiny")
    assert "converting" in screen.getvalue()
    assert "once" not in screen.getvalue()


def test_nothing_is_said_where_there_is_no_stderr(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", None)
    assert resolve("tiny").exists()


def test_a_warm_start_imports_nothing_that_takes_time() -> None:
    code = "import refembed, numpy, sys; before = {*sys.modules}; import refembed.hub; print(*{*sys.modules} - before)"
    out = answer_to_code(code).split()
    unwanted = {"urllib.request", "http.client", "ssl", "subprocess", "zipfile", "shutil", "rich", "gguf"}
    assert "refembed.hub" in out
    assert not set(out) & (unwanted | {"refembed.convert.folder"})


# ---- other repositories, by way of huggingface_hub


def test_other_repositories_need_the_extra_and_it_is_named(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(
        DownloadError, match=r"(?s)BAAI/bge-small-en-v1.5: .*huggingface_hub.*pip install huggingface_hub"
    ):
        resolve("BAAI/bge-small-en-v1.5")


def stand_in(folder: Path, calls: list[Any], error: Exception | None = None) -> types.ModuleType:
    """A huggingface_hub that has everything in a folder."""

    def snapshot_download(name: str, **options: Any) -> str:
        calls.append((name, options))
        if error:
            raise error
        return str(folder)

    def hf_hub_download(name: str, file: str, **options: Any) -> str:
        calls.append((name, file, options))
        return str(folder / file)

    def list_repo_files(name: str) -> list[str]:
        if error:
            raise error
        return [p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()]

    module = types.ModuleType("huggingface_hub")
    for function in (snapshot_download, hf_hub_download, list_repo_files):
        setattr(module, function.__name__, function)
    return module


def test_other_repositories_are_fetched_and_converted(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[Any] = []
    folder = small(tmp_path / "0123abc")
    (folder / "some.gguf").write_bytes(b"GGUF")
    monkeypatch.setitem(sys.modules, "huggingface_hub", stand_in(folder, calls))
    path = resolve("BAAI/bge-small-en-v1.5", outtype="q8_0", offline=True)
    assert file_type(path) == 7
    assert path.name.startswith("bge-small-en-v1.5-")
    assert open_gguf(path).metadata["general.name"] == "bge-small-en-v1.5"
    ((name, options),) = calls
    assert (name, options["local_files_only"]) == ("BAAI/bge-small-en-v1.5", True)
    assert {"config.json", "model*.safetensors", "*_Pooling/config.json"} <= set(options["allow_patterns"])
    assert resolve("org/model:some.gguf") == folder / "some.gguf"
    assert calls[1:] == [("org/model", "some.gguf", {"local_files_only": False})]


GGUFS = ("mmproj-F16.gguf", "m-BF16.gguf", "m-Q4_K_M.gguf", "m-IQ4_XS.gguf", "Q6_K/m-Q6_K-00001-of-00002.gguf",
         "Q6_K/m-Q6_K-00002-of-00002.gguf")  # fmt: skip


@pytest.mark.parametrize(
    ("spelled", "first", "count"),
    [
        ("org/model", "m-Q4_K_M.gguf", 1),
        ("org/model:q4_k_m", "m-Q4_K_M.gguf", 1),
        ("org/model:bf16", "m-BF16.gguf", 1),
        ("org/model:Q6_K", "Q6_K/m-Q6_K-00001-of-00002.gguf", 2),
        ("org/model:m-IQ4_XS.gguf", "m-IQ4_XS.gguf", 1),
    ],
)
def test_of_a_repository_of_gguf_files_one_is_fetched(
    spelled: str, first: str, count: int, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[Any] = []
    for name in GGUFS:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"GGUF")
    monkeypatch.setitem(sys.modules, "huggingface_hub", stand_in(tmp_path, calls))
    assert resolve(spelled) == tmp_path / first
    assert calls[0][1] == first
    assert len(calls) == count, "every shard, and nothing else"


def test_a_type_that_a_repository_lacks_is_converted_to_or_named(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = small(tmp_path / "0123abc")
    monkeypatch.setitem(sys.modules, "huggingface_hub", stand_in(folder, []))
    assert file_type(resolve("org/model:Q8_0")) == 7
    with pytest.raises(ModelError, match=r"org/model: nothing in it is 'Q9_Z'"):
        resolve("org/model:Q9_Z")
    (tmp_path / "gguf").mkdir()
    (tmp_path / "gguf" / "m-f16.gguf").write_bytes(b"GGUF")
    monkeypatch.setitem(sys.modules, "huggingface_hub", stand_in(tmp_path / "gguf", []))
    with pytest.raises(ModelError, match=r"org/model: no GGUF file of type 'Q8_0'\n  hint: it has m-f16.gguf"):
        resolve("org/model:Q8_0")


def test_a_full_disk_is_named_whatever_library_wraps_it(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    error = RuntimeError("data processing error")
    error.__cause__ = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(tmp_path / "blob"))
    monkeypatch.setitem(sys.modules, "huggingface_hub", stand_in(tmp_path, [], error))
    with pytest.raises(DownloadError, match=r"org/model cannot be kept: .*blob: No space left.*\n  hint: make room"):
        resolve("org/model")


def test_what_huggingface_hub_says_is_passed_on(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    error = OSError("401 Client Error.\nsecond line")
    monkeypatch.setitem(sys.modules, "huggingface_hub", stand_in(tmp_path, [], error))
    with pytest.raises(
        DownloadError, match=r"^org/model cannot be had from Hugging Face: 401 Client Error. second line\n  hint: ."
    ):
        resolve("org/model")


def test_a_folder_that_looks_like_a_repository_is_a_folder(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    small(tmp_path / "org" / "model")
    assert resolve(os.path.join("org", "model")).exists()  # noqa: PTH118 - a path as a person types it
