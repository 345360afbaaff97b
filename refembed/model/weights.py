"""Binding a file's tensors to what an architecture declares, by name.

An architecture writes its tensors down once, as dataclass fields named after the GGUF tensors, each with its shape:

    @dataclass(frozen=True)
    class Block:
        attn_q: Affine = affine("C C", bias="optional")      # blk.{i}.attn_q.weight and .bias

`bind` fills the declaration. Whatever is missing, mis-shaped or left over is listed in ONE error, as llama.cpp refuses
such a file too. Weights stay mapped and as the file has them; `Ops` decides how to decode.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import field, fields
from typing import Any, Literal, NamedTuple, TypeVar

from refembed.errors import ModelError
from refembed.gguf import Tensor

Presence = Literal["required", "optional", "absent"]
Declaration = TypeVar("Declaration")


class Affine(NamedTuple):
    """A weight and its bias, as `ops.linear(x, *w)` and `ops.layer_norm(x, *w, eps)` take them."""

    weight: Tensor
    bias: Tensor | None


def affine(
    shape: str, *, bias: Presence = "required", presence: Presence = "required", unless: str = "", name: str = ""
) -> Any:
    """Declare `<name>.weight` of that shape, rows first ("F C" is (F, C)), and `<name>.bias` (its first letter).

    unless  where the tensor of that name is there, this one must not be; where it is not, this one must
    name    the GGUF name, where it is not the field's
    """
    facts = {"kind": "affine", "shape": shape, "bias": bias, "presence": presence, "unless": unless}
    return field(metadata=facts | ({"name": name} if name else {}))


def tensor(shape: str, *, presence: Presence = "required") -> Any:
    """Declare `<name>.weight` alone."""
    return field(metadata={"kind": "tensor", "shape": shape, "bias": "absent", "presence": presence, "unless": ""})


def blocks(block: type) -> Any:
    """Declare `blk.0` ... `blk.{n_layer - 1}`, each a `block`."""
    return field(metadata={"kind": "blocks", "block": block})


class Binder:
    """Takes tensors out of a file one by one and notes what is wrong on the way."""

    def __init__(self, tensors: Mapping[str, Tensor], sizes: Mapping[str, int]) -> None:
        self.tensors = tensors
        self.left = dict(tensors)
        self.sizes = sizes
        self.faults: list[str] = []

    def take(self, name: str, shape: str, presence: Presence) -> Tensor | None:
        """The tensor of that name if it is there and has that shape."""
        found = self.left.pop(name, None)
        if presence == "absent":
            if found is not None:
                self.left[name] = found
            return None
        want = tuple(self.sizes[letter] for letter in shape.split())
        if found is None:
            if presence == "required":
                self.faults.append(f"missing    {name} {want}")
            return None
        if found.shape != want:
            self.faults.append(f"mis-shaped {name}: {found.shape}, but the metadata ask for ({shape}) = {want}")
        return found

    def fill(self, declaration: type[Declaration], prefix: str, n_layer: int) -> Declaration:
        """An instance of the declaration, filled with the tensors below `prefix`."""
        values: dict[str, Any] = {}
        for f in fields(declaration):  # type: ignore[arg-type]
            m, name = f.metadata, prefix + f.metadata.get("name", f.name)
            if m["kind"] == "blocks":
                values[f.name] = tuple(self.fill(m["block"], f"{name}.{i}.", n_layer) for i in range(n_layer))
                continue
            replaced = m["unless"] and f"{prefix}{m['unless']}.weight" in self.tensors
            weight = self.take(f"{name}.weight", m["shape"], "absent" if replaced else m["presence"])
            bias = self.take(f"{name}.bias", m["shape"].split()[0], m["bias"] if weight else "absent")
            values[f.name] = weight if m["kind"] == "tensor" else Affine(weight, bias) if weight else None
        return declaration(**values)


def bind(
    declaration: type[Declaration], tensors: Mapping[str, Tensor], sizes: Mapping[str, int], n_layer: int, path: str
) -> Declaration:
    """Fill a declaration with a file's tensors.

    sizes  what the letters of the declared shapes stand for
    Raises one ModelError that lists every tensor that is missing, mis-shaped, or that the architecture does not read.
    """
    binder = Binder(tensors, sizes)
    filled = binder.fill(declaration, "", n_layer)
    faults = binder.faults + [f"unexpected {name} {t.shape}" for name, t in binder.left.items()]
    if faults:
        shown = "\n".join(f"  {fault}" for fault in faults[:20])
        more = f"\n  ... and {len(faults) - 20} more" if len(faults) > 20 else ""
        hint = "the file was converted for another architecture or is incomplete; llama.cpp refuses it too"
        raise ModelError(f"{path}: {len(faults)} tensors do not fit the architecture\n{shown}{more}", hint=hint)
    return filled


def declared(declaration: type, n_layer: int, prefix: str = "") -> Iterator[tuple[str, str, Presence]]:
    """Name, shape and presence of every tensor that a declaration may read, in order. For writers of models."""
    for f in fields(declaration):
        m, name = f.metadata, prefix + f.metadata.get("name", f.name)
        if m["kind"] == "blocks":
            for i in range(n_layer):
                yield from declared(m["block"], n_layer, f"{name}.{i}.")
            continue
        yield f"{name}.weight", m["shape"], m["presence"]
        if m["bias"] != "absent":
            yield f"{name}.bias", m["shape"].split()[0], "optional" if m["presence"] == "optional" else m["bias"]
