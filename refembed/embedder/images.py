"""Texts with images: what an Embedder with a vision tower does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from refembed._version import __version__
from refembed.arrays import F32
from refembed.embedder.base import EmbedderBase
from refembed.errors import RequestError
from refembed.kernels.numerics import spell_numerics
from refembed.kernels.ops import NO_TAP, Tap
from refembed.model.batch import Batch
from refembed.model.trace import Recorder, Trace
from refembed.pipeline.inputs import has_image
from refembed.pipeline.vectors import VectorOptions, cut_and_normalize, forward_and_pool


class Numbered(NamedTuple):
    """An input with images among those of a stream, and which one it is."""

    number: int
    given: Mapping[str, Any]


class TextsWithImages(EmbedderBase):
    """Methods of `Embedder`."""

    def vector_of(self, given: Any, index: int, options: VectorOptions, truncate: bool = False) -> F32:
        """The vector (D) of one input, (T, D) where nothing is pooled. One with images runs alone.

        >>> e = Embedder.load("minilm")
        >>> e.vector_of("a cat", 0, e.resolve_options()).shape
        (384,)
        """
        if not has_image(given):
            return self.vectors([self.ids_of(given, index, truncate)], *options)[0]
        return self.vector_of_batch(self.image_batch(given, index), options)

    def vector_of_batch(self, batch: Batch, options: VectorOptions) -> F32:
        """The vector (D) of a batch of one text, (T, D) where nothing is pooled.

        >>> e = Embedder.load("minilm")
        >>> e.vector_of_batch(pack([[101, 4937, 102]]), e.resolve_options()).shape
        (384,)
        """
        (row,) = forward_and_pool(self.model, self.ops, batch, options.pooling)
        return cut_and_normalize(row, options.normalize, options.dimensions, self.ops.if_not_finite)

    def image_batch(self, given: Mapping[str, Any], index: int = 0, tap: Tap = NO_TAP) -> Batch:
        """A text with images, {"text": ..., "image": ...}, as the text model runs it.

        tap  is given every tensor of the tower
        Raises RequestError for an image that cannot be taken, and where there is no tower.

        >>> from refembed.testing.synthetic import synthetic  # a model and a tower with random weights
        >>> from refembed.testing.synthetic_mmproj import synthetic_mmproj
        >>> model, mmproj = synthetic("model.gguf", "gemma-embedding"), synthetic_mmproj("mmproj.gguf")
        >>> e = Embedder.load(model, mmproj=mmproj)
        >>> (image,) = e.image_batch({"text": "the <__media__> cat", "image": np.zeros((9, 9, 3), np.uint8)}).images
        >>> image.end - image.begin, image.rows.shape  # 6 x 6 patches, 2 x 2 of them a token
        (9, (9, 36))
        """
        what = f"input {index}"
        if self.tower is None:
            hint = "Embedder.load(model, mmproj=FILE); on the command line, --mmproj FILE"
            raise RequestError(f"{what}: an image, but no vision tower was loaded with the model", hint=hint)
        from refembed.pipeline.images import image_input
        from refembed.pipeline.multimodal import batch_of

        limit = self.info.n_ctx
        return batch_of(image_input(given, index), self.tower, self.tokenizer, self.ops, limit, what, tap)

    def trace_image(self, image: Any) -> Trace:
        """Every tensor of the vision tower on one image, under llama.cpp's names, from pixels to the text model's rows.

        image  a path, a file's bytes, or pixels (height, width, 3) of uint8
        Raises RequestError for an image that cannot be taken, and where there is no tower.

        >>> from refembed.testing.synthetic import synthetic
        >>> from refembed.testing.synthetic_mmproj import synthetic_mmproj
        >>> model, mmproj = synthetic("model.gguf", "gemma-embedding"), synthetic_mmproj("mmproj.gguf", image_size=42)
        >>> Embedder.load(model, mmproj=mmproj).trace_image(np.zeros((9, 9, 3), np.uint8))["inp_raw"].shape
        (3, 42, 42)
        """
        meta = {"engine": f"refembed {__version__}", "numerics": spell_numerics(self.ops), "model": str(self.info.path)}
        recorder = Recorder(meta)
        self.image_batch({"image": image}, tap=recorder)
        return recorder.trace

    def streamed(self, given: Any, index: int, truncate: bool) -> Any:
        """What `embed_iter` puts into batches: token ids, or an input with images and its number.

        Raises RequestError for an image while a pool of processes runs.
        """
        if not has_image(given):
            return self.ids_of(given, index, truncate)
        if self.running_pool() is not None:
            raise RequestError(f"input {index}: an image, while a pool of processes runs", hint="stop_pool() first")
        return Numbered(index, given)

    def vectors_of(self, inputs: Sequence[Any], options: VectorOptions) -> list[F32]:
        """Vectors of a batch of `streamed` inputs."""
        if any(isinstance(given, Numbered) for given in inputs):
            return [
                self.vector_of(given.given, given.number, options)
                if isinstance(given, Numbered)
                else self.vectors([given], *options)[0]
                for given in inputs
            ]
        return self.vectors(inputs, *options)
