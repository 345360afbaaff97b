"""Engines that take images: what each shows of a picture, and how it is asked.

| engine               | rows of an image | vector of text and image | tensors of the tower     |
|----------------------|------------------|--------------------------|--------------------------|
| live llama.cpp       | yes              | yes                      | yes (`mtmd`'s graph)     |
| llama-server         |                  | yes                      |                          |
| a recording          |                  | `embeddings`, in order   | a saved Trace of a tower |
| a transformers folder| yes              |                          |                          |
| a Python function    |                  | yes                      | `trace_image`, if it has |

Rows are what the vision tower hands to the text model, (n, E) of each image. Pixels are handed over as they are, to a
server as a PNG file, so that no decoder of JPEG comes between.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from refembed.arrays import F32, U8
from refembed.errors import EngineError, RequestError
from refembed.html.picture import png
from refembed.model.trace import Trace
from refembed.pipeline.images import MARKER, ImageInput
from refembed.verify.engines.base import Spec, as_vector, checked, open_engine, which
from refembed.verify.engines.callables import CallableEngine, door
from refembed.verify.engines.http import HttpEngine
from refembed.verify.engines.http_shapes import embeddings, in_order
from refembed.verify.engines.live import LiveLlamaCpp
from refembed.verify.engines.recorded import RecordedTrace, RecordedVectors


class ImageEngine(Protocol):
    """An engine under test that takes images. None from a method: it does not show that."""

    name: str
    info: dict[str, Any]

    def image_rows(self, image: U8) -> F32 | None:
        """What the tower makes of an image (height, width, 3): (n, E)."""

    def embed_images(self, items: Sequence[ImageInput]) -> list[F32] | None:
        """A vector (D), or (T, D) where nothing is pooled, of each text with its images."""

    def trace_image(self, image: U8) -> Trace | None:
        """Every tensor of the tower on an image."""

    def close(self) -> None:
        """Let go of whatever is open."""


class ShowsNothing:
    """The answers of an engine that shows nothing: others replace those that they have."""

    name = "engine"

    def __init__(self, info: dict[str, Any]) -> None:
        self.info = info

    def image_rows(self, image: U8) -> F32 | None:
        return None

    def embed_images(self, items: Sequence[ImageInput]) -> list[F32] | None:
        return None

    def trace_image(self, image: U8) -> Trace | None:
        return None

    def close(self) -> None:
        """Nothing is open."""


class LiveImages(ShowsNothing):
    """libmtmd from the pinned wheel. Options as `LiveLlamaCpp` has them; flash attention is off unless asked for."""

    name = "llama.cpp"

    def __init__(self, model: Path, mmproj: Path, **options: Any) -> None:
        self.engine = LiveLlamaCpp(model, mmproj=mmproj, **options)
        super().__init__(self.engine.info)

    def image_rows(self, image: U8) -> F32 | None:
        chunks = self.engine.engine.image_chunks(MARKER, [image])
        return next(chunk for chunk in chunks if isinstance(chunk, np.ndarray))

    def embed_images(self, items: Sequence[ImageInput]) -> list[F32] | None:
        return [self.engine.engine.embed_images(text, images) for text, images in items]

    def trace_image(self, image: U8) -> Trace | None:
        return self.engine.engine.trace_image(image)

    def close(self) -> None:
        self.engine.close()


class ServedImages(ShowsNothing):
    """llama-server: {"prompt_string": ..., "multimodal_data": [base64]}, with the marker that its /props names."""

    def __init__(self, engine: HttpEngine) -> None:
        if engine.server != "llama-server":
            hint = "of servers, llama-server's own requests are known: POST /embedding with multimodal_data"
            raise EngineError(f"{engine.info['url']} ({engine.info['server']}) is not asked for images", hint=hint)
        if not (engine.props.get("modalities") or {}).get("vision"):
            hint = "start it with --mmproj FILE"
            raise EngineError(f"{engine.info['url']} has no vision tower (modalities of /props)", hint=hint)
        super().__init__(engine.info)
        self.engine, self.name = engine, engine.name
        self.marker = str(engine.props.get("media_marker") or MARKER)

    def embed_images(self, items: Sequence[ImageInput]) -> list[F32] | None:
        vectors = [self.asked(*item) for item in items]
        return [v[0] if v.ndim == 2 and len(v) == 1 else v for v in checked(vectors, list(vectors), self.name)]

    def asked(self, text: str, images: Sequence[U8]) -> Any:
        """One request; lengths as the model gives them."""
        data = [base64.b64encode(png(image)).decode() for image in images]
        prompt = {"prompt_string": text.replace(MARKER, self.marker), "multimodal_data": data}
        path = f"{self.engine.prefix}/embedding"
        answer = self.engine.client.post(path, {"content": prompt, "embd_normalize": -1})
        return in_order(embeddings(answer, self.engine.client.origin + path), 1, path)[0]

    def close(self) -> None:
        self.engine.close()


class RecordedImages(ShowsNothing):
    """A file: a Trace of a tower, which stands for every image that is asked about, or vectors in the images' order."""

    name = "recorded"

    def __init__(self, recorded: RecordedTrace | RecordedVectors) -> None:
        super().__init__({k: v for k, v in recorded.info.items() if k != "texts"})
        self.recorded = recorded
        if isinstance(recorded, RecordedTrace) and not is_of_tower(recorded.recorded):
            hint = "`refembed trace --mmproj FILE --image FILE --save run.npz` writes one"
            raise EngineError(f"{recorded.path}: no run of a vision tower: no tensor inp_raw in it", hint=hint)

    def embed_images(self, items: Sequence[ImageInput]) -> list[F32] | None:
        if isinstance(self.recorded, RecordedTrace):
            return None
        if len(self.recorded.vectors) != len(items):
            message = f"{self.recorded.path}: {len(self.recorded.vectors)} vectors for {len(items)} images"
            raise EngineError(message, hint="one vector for each --image, in their order")
        return [np.asarray(v, np.float32) for v in self.recorded.vectors]

    def trace_image(self, image: U8) -> Trace | None:
        return self.recorded.recorded if isinstance(self.recorded, RecordedTrace) else None


def is_of_tower(trace: Trace) -> bool:
    """Whether a trace may be of a vision tower: it shows what the tower reads, which printed runs do not."""
    return "inp_raw" in trace or bool(trace.meta.get("partial"))


class CalledImages(ShowsNothing):
    """A Python function of a list of {"text": ..., "image": [pixels, ...]}, giving a vector for each."""

    name = "callable"

    def __init__(self, engine: CallableEngine) -> None:
        super().__init__(engine.info)
        self.engine = engine
        owner = getattr(engine.function, "__self__", None)
        self.tracer = door("trace_image", engine.function, owner)

    def embed_images(self, items: Sequence[ImageInput]) -> list[F32] | None:
        asked = [{"text": text, "image": list(images)} for text, images in items]
        found = self.engine.asked(self.engine.function, asked)
        return checked(list(found), asked, self.info["model"])  # type: ignore[arg-type]

    def trace_image(self, image: U8) -> Trace | None:
        return None if self.tracer is None else self.engine.asked(self.tracer, image)


def open_image_engine(spec: Spec, model: Path, mmproj: Path, **options: Any) -> ImageEngine:
    """The engine that `spec` stands for, as `open_engine` has it, ready to be asked about images.

    model, mmproj  the files on refembed's side: live llama.cpp loads them
    options        of the engine's own class
    """
    module, _, argument = which(spec)
    if module == "live":
        return LiveImages(model, mmproj, **options)
    if module == "sentence_transformers":
        from refembed.verify.engines.transformers_images import TransformersImages

        return TransformersImages(argument, **options)
    if module == "onnx":
        raise RequestError(f"{argument}: ONNX Runtime is not asked for images", hint="compare texts: leave --image out")
    engine = open_engine(spec, model, **options)
    try:
        return of_engine(engine)
    except EngineError:
        engine.close()
        raise


def of_engine(engine: Any) -> ImageEngine:
    """An engine of `open_engine` as one that takes images. EngineError for one that does not."""
    if hasattr(engine, "embed_images"):
        found: ImageEngine = engine
        return found
    if isinstance(engine, HttpEngine):
        return ServedImages(engine)
    if isinstance(engine, (RecordedTrace, RecordedVectors)):
        return RecordedImages(engine)
    if isinstance(engine, CallableEngine):
        return CalledImages(engine)
    hint = "open_image_engine(spec, model, mmproj) opens engines with images; on the command line, --mmproj FILE"
    raise EngineError(f"{engine.name} takes no images", hint=hint)


def rows_of(value: Any, who: str) -> F32:
    """Rows (n, E) as float32. EngineError for anything else."""
    rows = as_vector(value, who, 0)
    if rows.ndim != 2:
        raise EngineError(f"{who}: rows of an image of shape {rows.shape}, where (n, E) is meant")
    return rows
