"""A text with images as one run of the text model: tokens of the text, and a tower's rows where images stand.

As mtmd_tokenize has it (tools/mtmd/mtmd.cpp): what lies between images is tokenized piece by piece, without special
tokens of its own; the tower's marks stand around each image; BOS and EOS are added at the ends, and no SEP.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

import numpy as np

from refembed.arrays import I64, U8, Float
from refembed.errors import ModelError, RequestError, TooLongError
from refembed.kernels.ops import NO_TAP, Ops, Tap
from refembed.kernels.wrapper import OpsWrapper
from refembed.model import Model
from refembed.model.batch import Batch, ImageRows, pack
from refembed.model.vision import Tower
from refembed.model.vision.preprocess import Size
from refembed.pipeline.images import MARKER, ImageInput
from refembed.tokenizer import Tokenizer

ONE_MODEL = "an mmproj file belongs to one model, and is published next to it"
NO_TOKEN = 0  # stands for a row of an image among token ids; the row takes the place of its embedding


def check_tower(model: Model, tower: Tower, path: str) -> None:
    """ModelError for a tower that is another model's, or a text model that takes no images."""
    if not model.module.TRAITS.images:
        hint = "images are computed for gemma3, gemma-embedding, gemma-embedding2 and qwen3vl"
        raise ModelError(f"{path}: architecture {model.hparams.arch} with images is not computed yet", hint=hint)
    if tower.width != model.hparams.n_embd:
        message = f"{tower.path} is for a text model of {tower.width} channels; {path} has {model.hparams.n_embd}"
        raise ModelError(message, hint=ONE_MODEL)
    hp, traits = model.hparams, tower.module.TRAITS
    if model.module.TRAITS.mrope != traits.mrope or hp.n_deepstack_layers != tower.n_further:
        message = f"{tower.path}: the tower {tower.hparams.projector} with {tower.n_further} layers of DeepStack"
        raise ModelError(f"{message} is not for {hp.arch} with {hp.n_deepstack_layers}: {path}", hint=ONE_MODEL)


def batch_of(
    given: ImageInput, tower: Tower, tokenizer: Tokenizer, ops: Ops, limit: int, what: str, tap: Tap = NO_TAP
) -> Batch:
    """A text with images as a batch of one sequence; its images go through the tower.

    limit  tokens that the text model reads, those of images included
    what   names the input in errors
    tap    is given every tensor of the tower
    """
    ids, begins = ids_within(given, tower, tokenizer, limit, what)
    return with_rows(ids, begins, [tower.rows(image, ops, tap) for image in given.images], given.images, tower)


def ids_within(
    given: ImageInput, tower: Tower, tokenizer: Tokenizer, limit: int, what: str
) -> tuple[list[int], list[int]]:
    """`token_ids` of an input that the text model can read: with an image, and at most `limit` tokens."""
    counts = [tower.n_tokens(image) for image in given.images]
    ids, begins = token_ids(given.text, counts, tower, tokenizer)
    if not begins:
        raise RequestError(f"{what}: no image in the text")
    if len(ids) > limit:
        hint = f"images are {sum(counts)} of them"
        raise TooLongError(f"{what}: {len(ids)} tokens, but the model reads at most {limit}", hint=hint)
    return ids, begins


def with_rows(
    ids: Sequence[int], begins: Sequence[int], rows: Sequence[Float], images: Sequence[U8], tower: Tower
) -> Batch:
    """The tokens of a text as a batch of one sequence, with rows of images in it.

    begins  where each image's rows stand among the tokens
    """
    batch = pack([ids])
    traits = tower.module.TRAITS
    found = tuple(
        ImageRows(begin, begin + len(own), own, traits.causal) for begin, own in zip(begins, rows, strict=True)
    )
    if not traits.mrope:
        return Batch(batch.ids, batch.pos, batch.offsets, found)
    streams = places_of(len(ids), found, [tower.grid(image) for image in images])
    return Batch(batch.ids, streams[0], batch.offsets, found, streams)


def places_of(T: int, images: Sequence[ImageRows], grids: Sequence[Size]) -> I64:
    """Places (3, T) of a text's rows: in time, by row, by column (mtmd_image_tokens_get_decoder_pos).

    Tokens are one behind the other in all three. An image is at one place in time, its rows and columns count on from
    there, and what follows is as far behind as its longer side is long.

    >>> image = ImageRows(1, 7, np.zeros((6, 1)))
    >>> places_of(9, [image], [Size(3, 2)]).tolist()  # a token, two rows of three, two tokens
    [[0, 1, 1, 1, 1, 1, 1, 4, 5], [0, 1, 1, 1, 2, 2, 2, 4, 5], [0, 1, 2, 3, 1, 2, 3, 4, 5]]
    """
    steps = np.ones(T, np.int64)
    for image, (nx, ny) in zip(images, grids, strict=True):
        steps[image.begin : image.end] = 0
        steps[image.end - 1] = max(nx, ny)
    time = np.cumsum(steps) - steps
    places = np.stack([time] * 3)
    for image, (nx, _) in zip(images, grids, strict=True):
        i = np.arange(image.end - image.begin)
        places[1, image.begin : image.end] = time[image.begin] + i // nx
        places[2, image.begin : image.end] = time[image.begin] + i % nx
    return places


def forward(model: Model, batch: Batch, ops: Ops, tap: Tap = NO_TAP) -> Float:
    """Hidden states (T, width) of a batch, as `Model.forward` gives them.

    A text with images in a causal model comes to llama.cpp in several micro-batches, each image in one of its own: in
    `ggml` it is computed like that, since the order of sums depends on the rows of a micro-batch.
    """
    own = ops
    while isinstance(own, OpsWrapper):
        own = own.base
    if not batch.images or own.name != "ggml" or model.module.TRAITS.encoder or not model.hparams.causal:
        return model.forward(batch, ops, tap)
    from refembed.kernels.ggml.attention import CacheCells

    cells, found = CacheCells(), []
    own.cells = cells  # type: ignore[attr-defined]  # of `Ggml`
    try:
        for chunk in chunks_of(batch):
            cells.rewind()
            found.append(model.forward(chunk, ops, tap))
    finally:
        own.cells = None  # type: ignore[attr-defined]
    return np.concatenate(found)


def chunks_of(batch: Batch) -> Iterator[Batch]:
    """The pieces of a text between images, and each image: batches whose places go on."""
    cuts = sorted({0, len(batch.ids), *(i for image in batch.images for i in (image.begin, image.end))})
    images = {image.begin: image for image in batch.images}
    for begin, end in itertools.pairwise(cuts):
        own: tuple[ImageRows, ...] = ()
        if (image := images.get(begin)) is not None:
            own = (ImageRows(0, end - begin, image.rows, image.causal),)
        streams = None if batch.streams is None else batch.streams[:, begin:end]
        yield Batch(batch.ids[begin:end], batch.pos[begin:end], np.array([0, end - begin]), own, streams)


def token_ids(text: str, counts: Sequence[int], tower: Tower, tokenizer: Tokenizer) -> tuple[list[int], list[int]]:
    """Token ids of a text, NO_TOKEN for each row of an image; and where images begin. counts: tokens of each image."""
    vocab, (begin, end) = tokenizer.vocab, tower.marks
    ids: list[int] = [tokenizer.role("bos")] if vocab.add_bos else []
    places: list[int] = []
    for i, piece in enumerate(text.split(MARKER)):
        if i:
            ids += encoded(tokenizer, begin)
            places.append(len(ids))
            ids += [NO_TOKEN] * counts[i - 1] + encoded(tokenizer, end)
        ids += encoded(tokenizer, piece)
    return ids + ([tokenizer.role("eos")] if vocab.add_eos else []), places


def encoded(tokenizer: Tokenizer, piece: str) -> list[int]:
    """Token ids of a piece of a text."""
    return tokenizer.encode(piece, add_special=False, parse_special=True) if piece else []
