"""A folder as Hugging Face publishes models, in sentence-transformers, or in transformers where nothing is pooled.

    open_folder("all-MiniLM-L6-v2")                              # modules.json: sentence-transformers
    open_folder("bert-base-uncased", pooling="cls")              # config.json alone: transformers

Neither package is needed by refembed: where they are absent one sentence says so. Tensors inside the model are seen by
forward hooks under llama.cpp's names (`hooks`), for BERT and similar models, and for Llama, Mistral, Qwen and Gemma.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.metadata
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from refembed.arrays import F32
from refembed.errors import EngineError, RequestError
from refembed.model.trace import Trace, TracedTensor
from refembed.parse_json import parse_object
from refembed.verify.engines.base import POOLINGS, Item, Plain, checked, need, pool
from refembed.verify.engines.hooks import watched

LIBRARIES = ("auto", "sentence-transformers", "transformers")


def open_folder(
    folder: str | Path,
    *,
    library: str = "auto",
    pooling: str = "none",
    batch: int = 1,
    prompt: str | None = None,
    dtype: str = "float32",
    device: str = "cpu",
    attention: str | None = None,
    threads: int | None = None,
) -> SentenceTransformersEngine | TransformersEngine:
    """The engine for a folder.

    library    auto: sentence-transformers where there is a modules.json, else transformers
    pooling    transformers only: what to make of the rows of a text's tokens
    batch      texts that are computed together, padded to the longest
    prompt     sentence-transformers only: put in front of each text; None: the model's default prompt
    dtype      torch's name: "float32", "float16", "bfloat16"; "auto": as stored
    attention  "eager" also shows the attention weights in traces; None: the library's choice
    threads    of PyTorch, for the whole process

    RequestError for a folder that holds no model; EngineError where the packages are absent or refuse.
    """
    path = Path(folder)
    if not (path / "config.json").is_file() and not (path / "modules.json").is_file():
        raise RequestError(
            f"{path}: neither config.json nor modules.json in it", hint="a folder as Hugging Face has it"
        )
    if library not in LIBRARIES:
        raise RequestError(f"library={library!r}: must be one of {', '.join(LIBRARIES)}")
    if pooling not in POOLINGS:
        raise RequestError(f"pooling={pooling!r}: must be one of {', '.join(POOLINGS)}")
    if isinstance(batch, bool) or not isinstance(batch, int) or batch < 1:
        raise RequestError(f"batch={batch!r}: must be a positive whole number")
    if library == "auto":
        library = LIBRARIES[1] if (path / "modules.json").is_file() else LIBRARIES[2]
    load: dict[str, Any] = {"dtype": dtype} | ({"attn_implementation": attention} if attention else {})
    if library == "transformers":
        return TransformersEngine(path, pooling, batch, load, device, threads)
    return SentenceTransformersEngine(path, batch, prompt, load, device, threads)


class Hooked(Plain):
    """What both have: a PyTorch module, its tokenizer, and hooks in it."""

    can_trace = can_tokenize = can_take_ids = True

    def __init__(self, path: Path, threads: int | None) -> None:
        super().__init__()
        self.path = path
        with patient_threads():
            self.torch = need("torch", "torch")
        if threads:
            self.torch.set_num_threads(threads)
        self.model: Any = None  # the transformer itself
        self.device = "cpu"

    def describe(self, *packages: str) -> None:
        config = self.model.config
        self.info = {
            "model": str(self.path),
            "architecture": type(self.model).__name__,
            "versions": {p: importlib.metadata.version(p) for p in ("torch", "transformers", *packages)},
            "dtype": str(self.model.dtype).removeprefix("torch."),
            "device": self.device,
            "attention": getattr(config, "_attn_implementation", None),
            "activation": getattr(config, "hidden_act", getattr(config, "hidden_activation", None)),
        }

    def features(self, ids: Sequence[Sequence[int]]) -> dict[str, Any]:
        """Token ids as the model's inputs, padded at the end; segment 0 throughout."""
        if not all(ids):
            raise EngineError(f"{self.path}: a text without tokens")
        longest = max(map(len, ids))
        pad = getattr(self.model.config, "pad_token_id", None) or 0
        rows = [[*row, *[pad] * (longest - len(row))] for row in ids]
        mask = [[1] * len(row) + [0] * (longest - len(row)) for row in ids]
        found = {"input_ids": rows, "attention_mask": mask}
        if getattr(self.model.config, "type_vocab_size", 0):
            found["token_type_ids"] = [[0] * longest for _ in ids]
        return {k: self.torch.tensor(v, device=self.device) for k, v in found.items()}

    @contextlib.contextmanager
    def guarded(self, what: str) -> Iterator[None]:
        """Without gradients; whatever the library raises is one EngineError."""
        try:
            with self.torch.inference_mode():
                yield
        except EngineError:
            raise
        except Exception as e:
            raise EngineError(f"{self.name} on {self.path} failed to {what}: {type(e).__name__}: {e}") from e

    def trace(self, item: Item) -> Trace:
        """What the hooks see of one text's run, and the pooled vector where the model pools."""
        ids = self.tokenize(item) if isinstance(item, str) else list(item)
        taps: list[TracedTensor] = []
        with self.guarded("trace a text"), watched(self.model, taps):
            result = self.run(ids)
        if not taps:
            raise EngineError(
                f"{self.name}: no module of {type(self.model).__name__} has a counterpart in llama.cpp's graph here",
                hint="vectors can be compared all the same",
            )
        if result is not None:
            taps.append(TracedTensor("result_embd_pooled", result.reshape(1, -1)))
        text = item if isinstance(item, str) else None
        return Trace(taps, {**self.info, "engine": self.name, "text": text, "tokens": ids})

    def run(self, ids: list[int]) -> F32 | None:
        """One text's run: its pooled vector (D), or None."""
        raise NotImplementedError


class SentenceTransformersEngine(Hooked):
    """sentence-transformers: its own `encode` for texts, its own modules for ids. It cuts texts at `max_seq_length`."""

    name = "sentence-transformers"

    def __init__(
        self, path: Path, batch: int, prompt: str | None, load: dict[str, Any], device: str, threads: int | None
    ) -> None:
        super().__init__(path, threads)
        library = need("sentence_transformers", "sentence-transformers")
        self.batch, self.device = batch, device
        with opening(path, self.name):
            self.pipeline = library.SentenceTransformer(
                os.fspath(path), device=device, local_files_only=True, model_kwargs=load
            )
        self.model = self.pipeline[0].auto_model
        usual = self.pipeline.prompts.get(self.pipeline.default_prompt_name or "", "")
        self.prompt: str = usual if prompt is None else prompt
        self.describe("sentence-transformers")
        self.info |= {
            "modules": [type(m).__name__ for m in self.pipeline],
            "max_seq_length": self.pipeline.max_seq_length,
            "prompt": self.prompt,
            "batch": batch,
        }

    def embed(self, items: Sequence[Item]) -> list[F32]:
        """One (D) for each item, normalized if the model has a Normalize module."""
        texts = [i for i in items if isinstance(i, str)]
        with self.guarded("embed"):
            encode = self.pipeline.encode
            found = iter(encode(texts, prompt=self.prompt or None, batch_size=self.batch, show_progress_bar=False))
            vectors = [next(found) if isinstance(i, str) else self.forward([i])[0] for i in items]
        return checked(vectors, items, self.name)

    def forward(self, ids: Sequence[Sequence[int]]) -> F32:
        """The modules in their order: (S, D)."""
        out: F32 = self.pipeline(self.features(ids))["sentence_embedding"].float().cpu().numpy()
        return out

    def tokenize(self, text: str) -> list[int]:
        """Ids as they are embedded: with the prompt and special tokens, cut at max_seq_length."""
        with self.guarded("tokenize"):
            split = getattr(self.pipeline, "preprocess", None) or self.pipeline.tokenize  # renamed in version 6
            return [int(i) for i in split([self.prompt + text])["input_ids"][0]]

    def run(self, ids: list[int]) -> F32 | None:
        """The vector behind the pooling module, before any Dense and Normalize."""
        pooled: list[F32] = []
        for module in self.pipeline:
            if type(module).__name__ == "Pooling":  # a copy: Normalize writes into the same dictionary
                handle = module.register_forward_hook(
                    lambda _m, _i, out: pooled.append(np.array(out["sentence_embedding"].float().cpu().numpy()))
                )
                break
        else:
            self.forward([ids])
            return None
        try:
            self.forward([ids])
        finally:
            handle.remove()
        return pooled[0][0]


class TransformersEngine(Hooked):
    """transformers: the last hidden states of AutoModel, (T, D), pooled only if asked for."""

    name = "transformers"

    def __init__(
        self, path: Path, pooling: str, batch: int, load: dict[str, Any], device: str, threads: int | None
    ) -> None:
        super().__init__(path, threads)
        library = need("transformers", "transformers")
        self.pooling, self.batch, self.device = pooling, batch, device
        with opening(path, self.name):
            opener = class_of(path, library)
            self.model = opener.from_pretrained(os.fspath(path), local_files_only=True, **load)
            if getattr(self.model.config, "is_encoder_decoder", False) and hasattr(self.model, "get_encoder"):
                self.model = self.model.get_encoder()  # a text is embedded by its encoder; nothing is decoded
            self.model = self.model.to(device).eval()
            self.tokenizer = library.AutoTokenizer.from_pretrained(os.fspath(path), local_files_only=True)
        self.describe()
        self.info |= {"pooling": pooling, "batch": batch}

    def embed(self, items: Sequence[Item]) -> list[F32]:
        """One (T, D), or (D) where it pools, for each item."""
        ids = [self.tokenize(i) if isinstance(i, str) else list(i) for i in items]
        vectors: list[F32] = []
        with self.guarded("embed"):
            for at in range(0, len(ids), self.batch):
                part = ids[at : at + self.batch]
                states = self.states(part)
                vectors += [pool(x[: len(row)], self.pooling) for x, row in zip(states, part, strict=True)]
        return checked(vectors, items, self.name)

    def states(self, ids: Sequence[Sequence[int]]) -> F32:
        """Last hidden states (S, T, D)."""
        out: F32 = self.model(**self.features(ids)).last_hidden_state.float().cpu().numpy()
        return out

    def tokenize(self, text: str) -> list[int]:
        """Ids with special tokens, not cut."""
        with self.guarded("tokenize"):
            return [int(i) for i in self.tokenizer(text)["input_ids"]]

    def run(self, ids: list[int]) -> F32 | None:
        """The pooled vector where one is asked for."""
        states = self.states([ids])[0]
        return None if self.pooling == "none" else pool(states, self.pooling)


def class_of(path: Path, library: Any) -> Any:
    """The class that config.json names, where it gives hidden states; else AutoModel, which goes by model_type alone.

    AutoModel opens a folder of T5EncoderModel as T5Model, which wants a text to decode as well.
    """
    try:
        names = parse_object((path / "config.json").read_bytes()).get("architectures")
    except (OSError, ValueError):
        names = None
    name = str(names[0]) if isinstance(names, list) and names else ""
    return getattr(library, name, library.AutoModel) if name.endswith("Model") else library.AutoModel


@contextlib.contextmanager
def patient_threads() -> Iterator[None]:
    """While PyTorch is loaded: its OpenMP threads are to sleep when they wait, not to spin.

    A spinning thread takes a core from whatever computes at the same time, us between two of its calls, or another
    process: a text then takes twenty times as long on a busy machine. libgomp reads this once, when it is loaded.
    """
    before = os.environ.get("OMP_WAIT_POLICY")
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        yield
    finally:
        if before is None:
            os.environ.pop("OMP_WAIT_POLICY", None)


@contextlib.contextmanager
def opening(path: Path, who: str) -> Iterator[None]:
    """Loading without progress bars; whatever it raises is one EngineError."""
    with contextlib.suppress(Exception):
        importlib.import_module("transformers").utils.logging.disable_progress_bar()
    try:
        yield
    except Exception as e:
        raise EngineError(f"{path}: {who} cannot load it: {type(e).__name__}: {e}") from e
