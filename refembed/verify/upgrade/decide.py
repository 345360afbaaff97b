"""From what was measured of two engines to a word, a sentence and what to do."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from refembed.verify.compare.length import length_of
from refembed.verify.engines.base import Engine
from refembed.verify.reference import Item, Reference
from refembed.verify.remedies import NOTHING
from refembed.verify.run import verify
from refembed.verify.upgrade.answer import REACH, Kind, MovedText, Upgrade
from refembed.verify.upgrade.common import in_common
from refembed.verify.upgrade.movement import Movement, all_of_length_1, common_width, pooling_between, spans
from refembed.verify.verdict import Verdict

if TYPE_CHECKING:
    from refembed.verify.upgrade.run import Measured

LISTED = 24  # texts in an answer
JUDGED = 16  # texts that `verify` is asked about: those that moved most, and as many others
ALL = "re-embed all texts, or go on with the old engine"


def answer(found: Measured) -> Upgrade:
    """The whole answer."""
    kind, cause, remedy = judged(found)
    named, better = by_model(found)
    m = found.movement
    order: list[int] = np.argsort(-m.moved, kind="stable")[:LISTED].tolist() if m is not None else []
    beyond = beyond_margin(found)
    rows = tuple(MovedText(str(found.items[i]), float(m.moved[i]), float(m.cosine[i]), i in beyond) for i in order if m)
    return Upgrade(
        kind=kind,
        cause=f"{cause}; {named}" if named and kind != "identical" else cause,
        remedy=f"{better}; else {remedy}" if better and kind in ("re-embed", "normalize") else remedy,
        count=len(found.items),
        same_tokens=not found.ids if found.show_tokens else None,
        moved=m.most if m else np.inf,
        cosine=float(m.cosine.max()) if m else np.inf,
        component=m.component if m else np.inf,
        texts=rows,
        ids=tuple(found.ids[:LISTED]),
        search=found.search,
        sides={side: side_of(*about) for side, about in zip(("old", "new"), sides(found), strict=True)},
        verdicts={side: v.as_dict() for side, v in found.verdicts.items()},
        remarks=tuple(found.remarks),
    )


def judged(found: Measured) -> tuple[Kind, str, str]:
    """The word, why, and what to do, of what the two engines show."""
    m = found.movement
    if m is None:
        return "re-embed", *shape_change(found)
    if m.same_bits:  # whatever ids the engines show: one of them may leave special tokens out
        return "identical", "", NOTHING
    beyond = beyond_margin(found)
    if found.ids and (found.search is None or beyond & changed_tokens(found)):
        return "re-embed", *token_change(found, m)
    other_ids = f"the engines show other tokens for {len(found.ids)} texts, but "
    tokens = other_ids if found.ids else "same tokens, " if found.show_tokens else ""
    moved = f"{tokens}vectors moved by at most {m.cosine.max():.2g} (1 - cos)"
    if beyond:
        which = in_common([str(i) for i in found.items], beyond)
        trait = f": all texts with {which}, and no others" if which else ""
        part = f"{len(beyond)} of {len(found.items)} texts moved far enough to change nearest neighbors{trait}"
        other = "another model, pooling, prompt or type of weights"
        return "re-embed", f"{moved}; {part}: {other}", ALL
    scale = length_change(found, m)
    if scale:
        remedy = "normalize vectors to length 1 before they go into the index, or search by cosine similarity"
        return "normalize", f"{moved}, but their lengths changed: {scale}", remedy
    return "valid", f"{moved}: the index stays valid", f"{NOTHING}: old and new vectors may stand in one index"


def beyond_margin(found: Measured) -> set[int]:
    """Texts whose movement reaches as far as the gap between neighbors of the median query."""
    if found.movement is None or found.search is None:
        return set()
    return set(np.flatnonzero(REACH * found.movement.moved >= found.search.gap).tolist())


def changed_tokens(found: Measured) -> set[int]:
    """Texts for which the engines show different ids."""
    texts = [str(i) for i in found.items]
    return {texts.index(t) for t, _, _ in found.ids}


def shape_change(found: Measured) -> tuple[str, str]:
    """Vectors of another length, or a vector for each token."""
    old, new = common_width(found.old), common_width(found.new)
    if old != new:
        return f"vectors had {old} numbers and have {new} now: another model, or vectors that are cut", ALL
    pooled, rows = found.pooled
    if pooled == rows:
        return "both engines give a vector for each token: these have no neighbors", "let both engines pool"
    one, several = (found.old, found.new) if pooled else (found.new, found.old)
    how, left = pooling_between(one, several)
    who = "the new engine" if pooled else "the old engine"
    other = "the old" if pooled else "the new"
    says = f"{who} gives a vector for each token, and {other} one for each text"
    if left <= 1e-6:
        says += f": the {how} of the others (1 - cos {left:.1g})"
    return says, f"start the new engine with --pooling {how}" if pooled else ALL


def token_change(found: Measured, m: Movement) -> tuple[str, str]:
    """Tokens changed, of all texts or of some."""
    texts, changed = [str(i) for i in found.items], changed_tokens(found)
    which = in_common(texts, changed)
    trait = f", all texts with {which} and no others" if which else ""
    says = f"the tokens of {len(changed)} of {len(texts)} texts changed{trait}"
    rest = [i for i in range(len(texts)) if i not in changed]
    if not rest:
        return says, ALL
    left = float(m.cosine[rest].max())
    if set(rest) & beyond_margin(found):
        return f"{says}, and the vectors of others moved too, by up to {left:.2g} (1 - cos)", ALL
    says += f"; the vectors of the others moved by at most {left:.2g} (1 - cos)"
    return says, f"re-embed the texts whose tokens changed{' (' + which + ')' if which else ''}; the others may stay"


def length_change(found: Measured, m: Movement) -> str:
    """What the new engine does to lengths that the old one did not; empty where lengths are the same."""
    of_1 = [all_of_length_1(lengths, error) for lengths, error in
            zip((m.old_length, m.new_length), found.errors, strict=True)]  # fmt: skip
    if all(of_1):
        return ""
    if of_1[0]:
        return f"they were 1, and are {spans(m.new_length)}"
    tokens = [len(str(i)) for i in found.items]
    length = length_of(found.new, found.old, tokens, max(1e-4, m.most))
    if length.kind == "raw":
        return ""
    return f"they were {spans(m.old_length)}, and are {spans(m.new_length)}"


# -- the model file --------------------------------------------------------------------------------------------------


def verdicts(
    reference: Reference, engines: tuple[Engine, Engine], found: Measured, budget: float | None,
    progress: Callable[[str], object],
) -> dict[str, Verdict]:  # fmt: skip
    """What `verify` says of either engine, on the texts that moved most and as many others."""
    chosen = judged_on(found)
    until = None if budget is None else time.monotonic() + budget
    made = {}
    for side, engine in zip(("old", "new"), engines, strict=True):
        progress(f"holding the {side} engine against the model")
        left = None if until is None else max(budget / 4 if budget else 0.0, until - time.monotonic())
        made[side] = verify(reference, engine, chosen, trace=False, budget=left)
    return made


def judged_on(found: Measured) -> list[Item]:
    """The texts that say most."""
    if len(found.items) <= 2 * JUDGED or found.movement is None:
        return found.items[: 2 * JUDGED]
    order = np.argsort(-found.movement.moved, kind="stable").tolist()
    step = max(1, (len(order) - JUDGED) // JUDGED)
    return [found.items[i] for i in (*order[:JUDGED], *order[JUDGED::step][:JUDGED])]


def by_model(found: Measured) -> tuple[str, str]:
    """Which side departs from the file, and how; what to do about the new one."""
    if not found.verdicts:
        return "", ""
    old, new = found.verdicts["old"], found.verdicts["new"]
    wrong = {side: v for side, v in (("old", old), ("new", new)) if v.exit_code}
    if not wrong:
        return "both engines are within rounding of the model file, so this is rounding", ""
    if len(wrong) == 2 and ids(old) == ids(new):
        return f"both engines depart from the model file in the same way: {clause(old)}", ""
    says = "; ".join(f"the {side} engine {clause(v)}" for side, v in wrong.items())
    fine = "; the other is as the model file says" if len(wrong) == 1 else ""
    return says + fine, new.remedy if "new" in wrong and new.kind == "differs" else ""


def ids(v: Verdict) -> Sequence[str]:
    """Of the causes."""
    return [c.id for c in v.causes]


def clause(v: Verdict) -> str:
    """A cause, without the words `the engine`."""
    return v.cause.removeprefix("the engine ")


def sides(found: Measured) -> list[tuple[str, dict[str, Any]]]:
    """Names of the two engines, and what each says of itself."""
    return list(zip(found.names, found.infos, strict=True))


def side_of(name: str, info: dict[str, Any]) -> dict[str, Any]:
    """One side of `Upgrade.sides`."""
    return {"engine": name, "info": {k: v for k, v in info.items() if k != "texts"}}
