"""Images as inputs: what is taken, and what is refused with one sentence. Files: tests/peers/test_image_files.py."""

from __future__ import annotations

import pickle
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from refembed import Embedder
from refembed.errors import ModelError, RequestError, TooLongError
from refembed.gguf import open_gguf
from refembed.model.vision import load_tower
from refembed.pipeline.images import MARKER, image_input, read_image
from refembed.testing.synthetic import synthetic
from refembed.testing.synthetic_mmproj import synthetic_mmproj
from tests.copies import copied, without
from tests.model.vision.towers import picture, text_model
from tests.pngs import png

GRAY = np.arange(6, dtype=np.uint8).reshape(2, 3)


@pytest.fixture(scope="module")
def embedder(tmp_path_factory: pytest.TempPathFactory) -> Embedder:
    folder = tmp_path_factory.mktemp("images")
    return Embedder.load(
        text_model(folder, pooling=1), mmproj=synthetic_mmproj(folder / "mmproj.gguf"), numerics="fast"
    )


def test_gray_pixels_are_three_equal_colors_and_transparency_is_dropped() -> None:
    assert (read_image(GRAY) == GRAY[..., None]).all()
    assert (read_image(GRAY[..., None]) == GRAY[..., None]).all()
    four = np.concatenate([picture(3, 2), GRAY[..., None]], axis=2)
    assert (read_image(four) == picture(3, 2)).all()


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (GRAY.astype(np.float32), r"an array of shape \(2, 3\) and type float32"),
        (np.zeros((2, 3, 2), np.uint8), r"an array of shape \(2, 3, 2\)"),
        (np.zeros((0, 3, 3), np.uint8), r"an array of shape \(0, 3, 3\)"),
        (np.zeros((3, 2, 3, 3), np.uint8), r"an array of shape \(3, 2, 3, 3\)"),
        (np.broadcast_to(np.uint8(0), (50_000, 50_000, 3)), "50000 x 50000 pixels; at most 67,108,864 are taken"),
        ("no/such.png", "'no/such.png': no such file"),
        ("https://example.com/a.jpg", "no such file\n  hint: no URL is fetched"),
        (Path(), "'.': "),
        ("a\0b", "null"),
        (None, "None of type NoneType is no image"),
        (7, "7 of type int is no image"),
        ({}, "{} of type dict is no image"),
    ],
)
def test_what_is_no_image_is_refused(source: Any, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        read_image(source)


def test_without_pillow_files_are_refused_with_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "PIL", None)
    (tmp_path / "a.png").write_bytes(png(1, 1, 8, 2, bytes(4)))
    with pytest.raises(RequestError, match=r"a.png': reading image files needs Pillow(.|\n)*refembed\[images\]"):
        read_image(tmp_path / "a.png")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"text": f"a {MARKER} b {MARKER}", "image": GRAY}, f"input 0: 2 markers {MARKER} for 1 images"),
        ({"text": MARKER, "image": [GRAY, GRAY]}, f"input 0: 1 markers {MARKER} for 2 images"),
        ({"text": MARKER, "image": []}, f"input 0: 1 markers {MARKER} for 0 images"),
        ({"text": 5, "image": GRAY}, "input 0: the text is of type int"),
        ({"text": "a", "images": [GRAY], "image": GRAY}, r"input 0: unknown keys \['images'\]"),
        ({"image": [GRAY, "a text"]}, "input 0, image 1: 'a text': no such file"),
    ],
)
def test_texts_and_images_that_do_not_fit_are_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        image_input(given, 0)


def test_images_stand_before_a_text_that_does_not_say_where() -> None:
    assert image_input({"text": "a cat", "image": [GRAY, GRAY]}, 0).text == f"{MARKER}{MARKER}a cat"
    assert image_input({"image": GRAY}, 0).text == MARKER
    assert image_input({"text": f"a {MARKER}", "image": GRAY}, 0).text == f"a {MARKER}"


def test_an_input_alone_gives_one_vector_and_several_in_order(embedder: Embedder) -> None:
    given = {"text": f"the cat {MARKER}", "image": picture(20, 30)}
    alone = embedder.embed(given)  # type: ignore[call-overload]
    both = embedder.embed(["the cat", given, "a dog"])
    assert alone.shape == (36,)
    assert np.array_equal(both[1], alone)
    assert np.array_equal(both[[0, 2]], embedder.embed(["the cat", "a dog"]))
    rows = embedder.embed([given], pooling="none")
    assert len(rows[0]) == embedder.trace(given)["inp_scaled"].shape[0]  # type: ignore[arg-type]


def test_a_stream_may_have_images_among_its_texts(embedder: Embedder) -> None:
    given: Any = {"text": f"the cat {MARKER}", "image": picture(20, 30)}
    inputs = ["the cat", given, given, "a dog", "it sat"]
    assert np.array_equal(np.stack(list(embedder.embed_iter(iter(inputs), batch_tokens=1))), embedder.embed(inputs))


def test_a_copy_of_an_embedder_has_its_tower(embedder: Embedder) -> None:
    given: Any = {"image": picture(20, 30)}
    copy = pickle.loads(pickle.dumps(embedder))
    assert np.array_equal(copy.embed([given]), embedder.embed([given]))


def test_an_image_with_more_columns_than_the_tower_has_places_for_is_refused(tmp_path: Path) -> None:
    tower = synthetic_mmproj(tmp_path / "mmproj.gguf", "gemma4v", P=4, n_merge=3, n_layer=1, S=40)
    e = Embedder.load(text_model(tmp_path, P=2048), mmproj=tower)
    with pytest.raises(RequestError, match="an image of 75 x 21 patches of 4 pixels; the tower has places for 40"):
        e.embed([{"image": picture(300, 80)}])
    assert len(e.embed([{"image": picture(120, 120)}])) == 1


def test_another_image_is_another_vector_and_so_is_another_place(embedder: Embedder) -> None:
    texts = [f"the cat {MARKER} sat", f"{MARKER} the cat sat"]
    vectors = [
        embedder.embed({"text": text, "image": picture(20, 30, seed)})  # type: ignore[call-overload]
        for text in texts
        for seed in (0, 1)
    ]
    assert len({v.tobytes() for v in vectors}) == 4


def test_an_image_without_a_tower_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"input 1: an image, but no vision tower(.|\n)*--mmproj FILE"):
        Embedder.load(text_model(tmp_path)).embed(["a", {"image": GRAY}])


def test_more_tokens_than_the_model_reads_are_refused(embedder: Embedder) -> None:
    given = {"text": "cat " * 250, "image": GRAY}
    with pytest.raises(TooLongError, match=r"tokens, but the model reads at most 256(.|\n)*images are 9 of them"):
        embedder.embed([given])


def test_a_tower_of_another_model_is_refused(tmp_path: Path) -> None:
    other = synthetic_mmproj(tmp_path / "mmproj.gguf", E=48)
    with pytest.raises(ModelError, match=r"mmproj.gguf is for a text model of 48 channels; .* has 36"):
        Embedder.load(text_model(tmp_path), mmproj=other)


def test_a_text_model_that_takes_no_images_is_refused(tmp_path: Path) -> None:
    model, tower = synthetic(tmp_path / "bert.gguf", "bert"), synthetic_mmproj(tmp_path / "mmproj.gguf")
    with pytest.raises(ModelError, match="architecture bert with images is not computed yet"):
        Embedder.load(model, mmproj=tower)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"clip.projector_type": ("resampler", "STRING")}, "the vision tower 'resampler' is not computed yet"),
        ({"clip.has_vision_encoder": (False, "BOOL")}, "no vision tower in it"),
        ({"clip.use_silu": (True, "BOOL")}, "use_gelu and clip.use_silu are both true"),
        ({"clip.vision.image_std": ([1.0, 0.0, 1.0], "ARRAY[FLOAT32]")}, "clip.vision.image_std is"),
        ({"clip.vision.image_mean": ([1.0], "ARRAY[FLOAT32]")}, "clip.vision.image_mean is"),
        ({"clip.vision.patch_size": (100, "UINT32")}, "patches of 100 pixels in an image of 42"),
        ({"clip.vision.projector.scale_factor": (4, "UINT32")}, "6 patches to a side are not a multiple of 4"),
        ({"clip.vision.attention.head_count": (4, "UINT32")}, "4 heads of 7 are not 30 channels"),
        ({"clip.vision.block_count": (3, "UINT32")}, "missing    v.blk.2.ln1.weight"),
    ],
)
def test_a_file_that_is_no_tower_is_refused(keys: dict[str, Any], message: str, tmp_path: Path) -> None:
    file = copied(synthetic_mmproj(tmp_path / "a.gguf"), tmp_path / "b.gguf", keys=keys)
    with pytest.raises(ModelError, match=message):
        load_tower(open_gguf(file))


def test_a_text_model_is_no_tower_and_a_tensor_too_few_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"general.architecture is 'gemma-embedding', not 'clip'"):
        load_tower(open_gguf(text_model(tmp_path)))
    less = without(synthetic_mmproj(tmp_path / "a.gguf"), tmp_path / "b.gguf", "mm.soft_emb_norm.weight")
    with pytest.raises(ModelError, match=r"missing    mm.soft_emb_norm.weight"):
        load_tower(open_gguf(less))
