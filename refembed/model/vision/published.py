"""`semantics="original"` for vision towers: the models as they were published, where llama.cpp computes others.

| tower          | published                                                     | llama.cpp                          |
|----------------|---------------------------------------------------------------|------------------------------------|
| gemma3         | the image is stretched to the square                          | it keeps its ratio, black around   |
| gemma4v        | tanh GELU, where the file names no activation                 | quick GELU                         |
|                | each image as large as 280 tokens allow, stretched to squares | 70 to 1120 tokens, black around    |
| qwen3vl_merger | GELU itself in the projections                                | its tanh form                      |
|                | stretched to whole squares                                    | black around                       |

From `transformers`: models/siglip, models/gemma4 and models/qwen3_vl, and their image processors. Limits that a model's
own preprocessor_config.json sets are in no GGUF file: `gemma4v` takes the processor's default, `qwen3vl_merger`
llama.cpp's.
"""

from __future__ import annotations

import math
from dataclasses import replace

from refembed.arrays import F32, U8
from refembed.model.vision import Tower
from refembed.model.vision.hparams import VisionHparams
from refembed.model.vision.preprocess import Filter, Size, normalized, resize

TOKENS = 280  # of an image, at most (Gemma4ImageProcessor.max_soft_tokens)


def original_tower(tower: Tower) -> Tower:
    """The tower as it was published."""
    hp, how = tower.hparams, "bilinear" if tower.hparams.projector == "gemma3" else "bicubic"
    if hp.projector == "gemma4v":
        tower = tower.changed(size=size_within_budget)
        hp = replace(hp, activation="gelu" if hp.activation == "gelu_quick" else hp.activation)
    if hp.projector == "qwen3vl_merger":
        hp = replace(hp, projector_activation="gelu_erf")
    return stretching(replace(tower, hparams=hp), how)  # type: ignore[arg-type]


def stretching(tower: Tower, how: Filter) -> Tower:
    """A tower whose images fill their frame, whatever becomes of their ratio."""
    size = tower.module.size

    def pixels(image: U8, hp: VisionHparams) -> F32:
        width, height = size(Size(image.shape[1], image.shape[0]), hp)
        return normalized(resize(image, width, height, how), hp.mean, hp.std)

    return tower.changed(pixels=pixels)


def size_within_budget(given: Size, hp: VisionHparams, tokens: int = TOKENS) -> Size:
    """Whole squares of patches in about the image's ratio, as many as the tokens allow; of a strip at least one across.

    get_aspect_ratio_preserving_size of transformers.models.gemma4.image_processing_gemma4.
    """
    side = hp.patch_size * hp.n_merge
    factor = math.sqrt(tokens * side**2 / (given.width * given.height))
    nx, ny = (math.floor(factor * n / side) for n in given)
    if ny == 0:
        nx, ny = min(given.width // given.height, tokens), 1
    elif nx == 0:
        nx, ny = 1, min(given.height // given.width, tokens)
    return Size(nx * side, ny * side)
