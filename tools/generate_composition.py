"""Write refembed/tokenizer/_composition_data.py: of Unicode 16, what its composed form needs and interpreters may lack.

    pip install "unicodedata2==16.0.*"
    python tools/generate_composition.py            # writes the file
    python tools/generate_composition.py --check    # exit status 1 where the file would change

Combining classes of all code points, and those pairs that compose to a code point of Unicode 14 and later. Pairs of
older ones are every interpreter's own: Unicode promises that they stay (stability policy, normalization).
"""

from __future__ import annotations

import importlib
import sys
import textwrap
from collections.abc import Iterable
from itertools import groupby
from pathlib import Path

TARGET = Path(__file__).parent.parent / "refembed" / "tokenizer" / "_composition_data.py"
VERSION = "16.0.0"
CODE_POINTS = range(0x110000)

HEAD = '''"""Unicode {version}, made by tools/generate_composition.py: not to be edited by hand.

CLASS_RUNS   first, last, canonical combining class (hexadecimal) of code points that have one
LATER_PAIRS  code point, the two that compose to it (hexadecimal), where it is of Unicode 14 or later
"""

from __future__ import annotations

CLASS_RUNS = """
{classes}
"""

LATER_PAIRS = """
{pairs}
"""
'''


def class_runs(classes: Iterable[int]) -> str:
    """ "300,314,e6 ...": runs of neighbors with one class."""
    found = []
    for value, run in groupby(enumerate(classes), key=lambda pair: pair[1]):
        points = [cp for cp, _ in run]
        found += [f"{points[0]:x},{points[-1]:x},{value:x}"] if value else []
    return "\n".join(textwrap.wrap(" ".join(found), 116))


def table(classes: Iterable[int], pairs: dict[int, tuple[int, int]]) -> str:
    """The file: the class of each code point, and what two code points later ones are composed of."""
    listed = " ".join(f"{cp:x},{first:x},{second:x}" for cp, (first, second) in sorted(pairs.items()))
    return HEAD.format(version=VERSION, classes=class_runs(classes), pairs="\n".join(textwrap.wrap(listed, 116)))


def main() -> int:
    """Write the table, or with --check compare it."""
    import unicodedata

    unicodedata2 = importlib.import_module("unicodedata2")  # installed for this only

    if unicodedata2.unidata_version != VERSION or unicodedata.unidata_version > "15.1.0":
        sys.exit(f"needs unicodedata2 of Unicode {VERSION} and Python 3.10 to 3.13")
    pairs = {}
    for cp in CODE_POINTS:
        parts = [int(part, 16) for part in unicodedata2.decomposition(chr(cp)).split() if "<" not in part]
        composes = unicodedata2.normalize("NFC", chr(cp)) == chr(cp)
        if unicodedata.category(chr(cp)) == "Cn" and len(parts) == 2 and composes:
            pairs[cp] = parts[0], parts[1]
    text = table(map(unicodedata2.combining, map(chr, CODE_POINTS)), pairs)
    if "--check" in sys.argv[1:]:
        return int(TARGET.read_text(encoding="utf-8") != text)
    TARGET.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
