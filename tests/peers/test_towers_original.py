"""`semantics="original"` for towers against image processors of `transformers`, and `verify` of folders with them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from refembed import Embedder
from refembed.gguf import open_gguf
from refembed.model.vision import Tower, load_tower
from refembed.model.vision.published import original_tower
from refembed.testing.synthetic_mmproj import synthetic_mmproj
from refembed.verify.images.pictures import drawn
from refembed.verify.run import verify
from tests.model.vision.towers import picture, qwen_text_model, text_model

pytestmark = [pytest.mark.peers, pytest.mark.filterwarnings("ignore")]

torch = pytest.importorskip("torch", reason="PyTorch is not installed: the extra `peers`")
from tests.peers.test_towers_published import (  # noqa: E402  # which needs it
    GEMMA4,
    QWEN,
    SIGLIP,
    fill,
    gemma3_projector,
    gemma4_patches,
)

SIZES = [(60, 40), (40, 61), (200, 90), (7, 5), (300, 20), (64, 64)]  # width, height
COLUMNS_FIRST = [(40, 61)]
COLORS: dict[str, tuple[Any, str]] = {
    "vision.image_mean": ([0.0] * 3, "ARRAY[FLOAT32]"),
    "vision.image_std": ([1.0] * 3, "ARRAY[FLOAT32]"),
}
KINDS: dict[str, dict[str, Any]] = {
    "gemma3": {},
    "gemma4v": {"P": 4, "n_merge": 3, "n_layer": 1, "keys": COLORS},
    "qwen3vl_merger": {"P": 6, "C": 24, "S": 25},
}


def mmproj_of(folder: Path, kind: str) -> Path:
    return synthetic_mmproj(folder / "mmproj.gguf", kind, **KINDS[kind])


def processor_of(tower: Tower) -> Any:
    """The image processor that the published model has, with the tower's numbers."""
    hp = tower.hparams
    colors = {"image_mean": list(hp.mean), "image_std": list(hp.std)}
    if hp.projector == "gemma3":
        from transformers.models.gemma3.image_processing_pil_gemma3 import Gemma3ImageProcessorPil

        return Gemma3ImageProcessorPil(size={"height": hp.image_size, "width": hp.image_size}, **colors)
    if hp.projector == "gemma4v":
        from transformers.models.gemma4.image_processing_pil_gemma4 import Gemma4ImageProcessorPil

        return Gemma4ImageProcessorPil(patch_size=hp.patch_size, pooling_kernel_size=hp.n_merge)
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    side = (hp.patch_size * 2) ** 2
    limits = {"min_pixels": 8 * side, "max_pixels": 4096 * side}
    return Qwen2VLImageProcessorPil(patch_size=hp.patch_size, **limits, **colors)


def patches_of(planes: Any, hp: Any) -> Any:
    """Planes as a processor lays patches out."""
    P, (_, h, w) = hp.patch_size, planes.shape
    if hp.projector == "gemma3":
        return planes
    if hp.projector == "gemma4v":
        return planes.reshape(3, h // P, P, w // P, P).transpose(1, 3, 2, 4, 0).reshape(-1, 3 * P * P)
    x = planes.reshape(3, h // P // 2, 2, P, w // P // 2, 2, P).transpose(1, 4, 2, 5, 0, 3, 6)
    return np.repeat(x.reshape(-1, 3, 1, P * P), 2, axis=2).reshape(-1, 6 * P * P)


@pytest.mark.parametrize("kind", KINDS)
def test_original_pixels_are_those_of_the_published_processor(kind: str, tmp_path: Path) -> None:
    """Pillow resizes in both; what is left is how float32 divides. Measured 1.2e-7 of numbers up to 1.

    But Pillow 13 resizes columns before rows where that is less work, and two roundings change places.
    """
    tower = original_tower(load_tower(open_gguf(mmproj_of(tmp_path, kind))))
    processor = processor_of(tower)
    for size in SIZES:
        image = picture(*size)
        want = np.asarray(processor(images=image, return_tensors="np")["pixel_values"])
        want = want[0] if kind != "qwen3vl_merger" else want
        got = patches_of(tower.pixels(image), tower.hparams)
        want = want[: len(got)]  # gemma4 fills up to its budget
        assert got.shape == want.shape, size
        steps = 0 if size not in COLUMNS_FIRST else 2 / 255 / min(tower.hparams.std)
        assert np.abs(got - want).max() <= 5e-7 + steps


def model_of(tower: Tower, **text: Any) -> Any:
    """The published model with the tower's weights, and a small random text model of `text`."""
    hp = tower.hparams
    vision: dict[str, Any] = {"hidden_size": hp.n_embd, "intermediate_size": hp.n_ff, "patch_size": hp.patch_size}
    if hp.projector == "gemma3":
        from transformers import Gemma3Config, Gemma3Model

        vision |= {"num_hidden_layers": hp.n_layer, "num_attention_heads": hp.n_head, "image_size": hp.image_size,
                   "vision_use_head": False}  # fmt: skip
        model = Gemma3Model(Gemma3Config(vision_config=vision, text_config=text, mm_tokens_per_image=9))
        fill(model.vision_tower, tower, SIGLIP)
        fill(model.multi_modal_projector, tower, {}, gemma3_projector(tower))
    elif hp.projector == "gemma4v":
        from transformers import Gemma4Config, Gemma4Model

        vision |= {"num_hidden_layers": hp.n_layer, "num_attention_heads": hp.n_head, "num_key_value_heads": hp.n_head,
                   "head_dim": hp.n_embd_head, "position_embedding_size": hp.n_pos}  # fmt: skip
        text |= {"hidden_size_per_layer_input": 0, "vocab_size_per_layer_input": 64, "num_kv_shared_layers": 0,
                 "global_head_dim": 6, "layer_types": ["full_attention"]}  # fmt: skip
        model = Gemma4Model(Gemma4Config(vision_config=vision, text_config=text, audio_config=None))
        fill(model.vision_tower, tower, GEMMA4, gemma4_patches(tower))
        fill(model.embed_vision, tower, {r"embedding_projection": "mm.input_projection"})
    else:
        from transformers import Qwen3VLConfig, Qwen3VLModel

        vision |= {"depth": hp.n_layer, "num_heads": hp.n_head, "out_hidden_size": hp.n_proj,
                   "num_position_embeddings": hp.n_pos, "deepstack_visual_indexes": [0]}  # fmt: skip
        model = Qwen3VLModel(Qwen3VLConfig(vision_config=vision, text_config=text))
        frames = [tower.weights.patch_embd.dequantize(), tower.weights.patch_embd_1.dequantize()]
        fill(model.visual, tower, QWEN, {"patch_embed.proj.weight": lambda: np.stack(frames, axis=2)})
    return model.eval()


def folder_of(tower: Tower, folder: Path) -> Path:
    """A folder with the published model and its image processor."""
    small = {"num_attention_heads": 6, "num_key_value_heads": 6, "head_dim": 6, "num_hidden_layers": 1}
    model = model_of(tower, hidden_size=tower.width, intermediate_size=8, vocab_size=64, **small)
    model.save_pretrained(folder)
    processor_of(tower).save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    ("kind", "size", "cause"),
    [
        ("gemma3", (60, 40), "stretched"),
        ("gemma3", (64, 64), ""),
        ("gemma4v", (60, 40), "published"),
        ("qwen3vl_merger", (100, 60), "published"),
    ],
)
def test_verify_names_what_the_published_model_does_otherwise(
    kind: str, size: tuple[int, int], cause: str, tmp_path: Path
) -> None:
    from refembed.verify.engines.transformers_images import TransformersImages

    mmproj = mmproj_of(tmp_path, kind)
    model = qwen_text_model(tmp_path) if kind == "qwen3vl_merger" else text_model(tmp_path)
    engine = TransformersImages(folder_of(load_tower(open_gguf(mmproj)), tmp_path / "folder"))
    inputs = [{"image": drawn(*size)}, {"image": drawn(2 * size[0], 2 * size[1])}]
    verdict = verify(Embedder.load(model, mmproj=mmproj, numerics="fast"), engine, inputs)
    if not cause:
        assert (verdict.kind, verdict.causes, verdict.first_wrong_tensor) == ("within rounding", (), None)
    else:
        assert (verdict.kind, [c.id for c in verdict.causes]) == ("differs", [cause])
        assert verdict.first_wrong_tensor == "inp_raw"
    published = Embedder.load(model, mmproj=mmproj, numerics="fast", semantics="original")
    verdict = verify(published, engine, inputs)
    assert (verdict.kind, verdict.first_wrong_tensor) == ("within rounding", None)
    assert len(verdict.evidence.tensors) > 10
