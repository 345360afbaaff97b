"""Binding a file's tensors to what an architecture declares, by name.

An architecture writes its tensors down once, as dataclass fields named after the GGUF tensors, each with its shape:

    @dataclass(frozen=True)
    class Block:
        attn_q: Affine = affine("C C", bias="optional")      # blk.{i}.attn_q.weight and .bias

`bind` fills the declaration. Whatever is missing, mis-shaped or left over is listed in ONE error, as llama.cpp refuses
such a file too. Weights stay mapped and as the file has them; `Ops` decides how to decode.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import field, fields, replace
from typing import Any, Literal, NamedTuple, TypeAlias, TypeVar

from refembed.errors import ModelError
from refembed.gguf import Tensor

Presence = Literal["required", "optional", "absent"]
Layers: TypeAlias = Mapping[str, Collection[int]]
Sizes: TypeAlias = Mapping[str, int]  # letter of a shape -> number
NO_KINDS: Layers = {}  # all layers are alike
Declaration = TypeVar("Declaration")


class Affine(NamedTuple):
    """A weight and its bias, as `ops.linear(x, *w)` and `ops.layer_norm(x, *w, eps)` take them."""

    weight: Tensor
    bias: Tensor | None


def affine(
    shape: str, *, bias: Presence = "required", presence: Presence = "required", unless: str = "", name: str = "",
    layers: str = "",
) -> Any:  # fmt: skip
    """Declare `<name>.weight` of that shape, rows first ("F C" is (F, C)), and `<name>.bias` (see `bias_shape`).

    A shape may leave a choice: "F|2F C" is (F, C) or (2F, C).
    unless  where the tensor of that name is there, this one must not be; where it is not, this one must
    name    the GGUF name, where it is not the field's
    layers  the kind of layers that have it, a key of `Hparams.layers`; "": all
    """
    facts = {"kind": "affine", "shape": shape, "bias": bias, "presence": presence, "unless": unless, "layers": layers}
    return field(metadata=facts | ({"name": name} if name else {}))


def tensor(
    shape: str, *, presence: Presence = "required", first: Presence | None = None, name: str = "", layers: str = "",
    needed: str = "", unless: str = "", end: str = "weight", unread_bias: bool = False,
) -> Any:  # fmt: skip
    """Declare `<name>.weight` alone, or `<name>.<end>`; where the end is empty, `<name>`.

    first        its presence in layer 0, where that is another than in the rest
    unless       where the tensor of that name is there, this one must not be
    needed       the kind of layers where it must be there, though it is optional in others
    unread_bias  `<name>.bias` may be in a file: llama.cpp loads it, and its graph does not add it
    """
    bias = "optional" if unread_bias else "absent"
    facts = {"kind": "tensor", "shape": shape, "bias": bias, "presence": presence, "layers": layers}
    facts |= {"unless": unless, "first": first or "", "end": end, "needed": needed}
    return field(metadata=facts | ({"name": name} if name else {}))


def full_name(name: str, facts: Mapping[str, Any]) -> str:
    """The GGUF name of a declared tensor, with its end."""
    end = facts.get("end", "weight")
    return f"{name}.{end}" if end else name


def blocks(block: type, *, name: str = "") -> Any:
    """Declare `blk.0` ... `blk.{n_layer - 1}`, each a `block`. name: the GGUF name, where it is not the field's."""
    return field(metadata={"kind": "blocks", "block": block} | ({"name": name} if name else {}))


def bias_shape(shape: str) -> str:
    """Of a matrix its rows; of experts' matrices "X F C" an expert's rows each, "X F"; of a norm's weights theirs."""
    return shape.rpartition(" ")[0] or shape


def four_dimensions(shape: tuple[int, ...]) -> tuple[int, ...]:
    """A shape with ones in front, as ggml counts dimensions: a file may write them or leave them out."""
    return (1,) * (4 - len(shape)) + shape


class Binder:
    """Takes tensors out of a file one by one and notes what is wrong on the way."""

    def __init__(
        self, tensors: Mapping[str, Tensor], sizes: Sizes, layers: Layers, sizes_of: Callable[[int], Sizes] | None
    ) -> None:
        self.tensors = tensors
        self.left = dict(tensors)
        self.sizes = self.sizes_of_model = sizes
        self.sizes_of = sizes_of or (lambda il: sizes)
        self.layers = layers
        self.faults: list[str] = []

    def take(self, name: str, shape: str, presence: Presence) -> Tensor | None:
        """The tensor of that name if it is there and has that shape."""
        found = self.left.pop(name, None)
        if presence == "absent":
            if found is not None:
                self.left[name] = found
            return None
        choices = list(itertools.product(*([self.sizes[c] for c in letter.split("|")] for letter in shape.split())))
        want = " or ".join(str(choice) for choice in choices)
        if found is None:
            if presence == "required":
                self.faults.append(f"missing    {name} {want}")
            return None
        if found.shape in choices:
            return found
        for choice in choices:
            if four_dimensions(choice) == four_dimensions(found.shape):
                return replace(found, shape=choice)
        self.faults.append(f"mis-shaped {name}: {found.shape}, but the metadata ask for ({shape}) = {want}")
        return found

    def rows(self, shape: str, weight: Tensor | None) -> str:
        """The shape of a weight's bias; where its rows leave a choice, that of the weight."""
        first, _, more = bias_shape(shape).partition(" ")
        letters = first.split("|")
        own = next((c for c in letters if weight and weight.shape[:1] == (self.sizes[c],)), letters[0])
        return f"{own} {more}".strip()

    def fill(self, declaration: type[Declaration], prefix: str, n_layer: int) -> Declaration:
        """An instance of the declaration, filled with the tensors below `prefix`."""
        values: dict[str, Any] = {}
        for f in fields(declaration):  # type: ignore[arg-type]
            m, name = f.metadata, prefix + f.metadata.get("name", f.name)
            if m["kind"] == "blocks":
                values[f.name] = tuple(self.fill_layer(m["block"], f"{name}.{i}.", i) for i in range(n_layer))
                continue
            replaced = m["unless"] and f"{prefix}{m['unless']}.weight" in self.tensors
            presence = "absent" if replaced else presence_of(m, prefix, self.layers)
            weight = self.take(full_name(name, m), m["shape"], presence)
            bias = self.take(f"{name}.bias", self.rows(m["shape"], weight), m["bias"] if weight else "absent")
            values[f.name] = weight if m["kind"] == "tensor" else Affine(weight, bias) if weight else None
        return declaration(**values)

    def fill_layer(self, declaration: type[Declaration], prefix: str, il: int) -> Declaration:
        """`fill` for layer il, whose shapes are its own."""
        self.sizes = self.sizes_of(il)
        filled = self.fill(declaration, prefix, 0)
        self.sizes = self.sizes_of_model
        return filled


def presence_of(facts: Mapping[str, Any], prefix: str, layers: Layers) -> Presence:
    """Whether the weight below `prefix` must be there. One that is no layer's goes with layers of its kind, if any."""
    if kind := facts.get("layers"):
        il = int(prefix.split(".")[-2]) if prefix else min(layers[kind], default=-1)
        if il not in layers[kind]:
            return "absent"
    if (needed := facts.get("needed")) and int(prefix.split(".")[-2]) in layers[needed]:
        return "required"
    first: Presence | None = facts.get("first") if prefix.endswith("blk.0.") else None
    presence: Presence = facts["presence"]
    return first or presence


def bind(
    declaration: type[Declaration], tensors: Mapping[str, Tensor], sizes: Sizes, n_layer: int, path: str,
    layers: Layers = NO_KINDS, sizes_of: Callable[[int], Sizes] | None = None,
) -> Declaration:  # fmt: skip
    """Fill a declaration with a file's tensors.

    sizes     what the letters of the declared shapes stand for
    layers    kind of layer -> their numbers, where not all layers have the same tensors (`Hparams.layers`)
    sizes_of  what the letters stand for in a layer, where that differs (`Hparams.sizes_of`)
    Raises one ModelError that lists every tensor that is missing, mis-shaped, or that the architecture does not read.
    """
    binder = Binder(tensors, sizes, layers, sizes_of)
    filled = binder.fill(declaration, "", n_layer)
    faults = binder.faults + [f"unexpected {name} {t.shape}" for name, t in binder.left.items()]
    if faults:
        shown = "\n".join(f"  {fault}" for fault in faults[:20])
        more = f"\n  ... and {len(faults) - 20} more" if len(faults) > 20 else ""
        hint = "the file was converted for another architecture or is incomplete; convert it again"
        raise ModelError(f"{path}: {len(faults)} tensors do not fit the architecture\n{shown}{more}", hint=hint)
    return filled


def declared(
    declaration: type, n_layer: int, prefix: str = "", layers: Layers = NO_KINDS
) -> Iterator[tuple[str, str, Presence]]:
    """Name, shape and presence of every tensor that a declaration may read, in order. For writers of models."""
    for f in fields(declaration):
        m, name = f.metadata, prefix + f.metadata.get("name", f.name)
        if m["kind"] == "blocks":
            for i in range(n_layer):
                yield from declared(m["block"], n_layer, f"{name}.{i}.", layers)
            continue
        presence = presence_of(m, prefix, layers)
        if presence == "absent":
            continue
        yield full_name(name, m), m["shape"], presence
        if m["bias"] != "absent":
            yield f"{name}.bias", bias_shape(m["shape"]), "optional" if m["presence"] == "optional" else m["bias"]
