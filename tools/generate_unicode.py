"""Write refembed/tokenizer/_unicode_data.py: what llama.cpp's src/unicode-data.cpp holds, as runs.

    pip install "unicodedata2==15.1.*"
    python tools/generate_unicode.py            # writes the file
    python tools/generate_unicode.py --check    # exit status 1 where the file would change

Categories come from unicodedata2, which carries exactly Unicode 15.1. Lowercase comes from the interpreter's str.lower,
limited to what 15.1 has assigned: Python 3.11 (Unicode 14) or later, as Unicode 15 and 15.1 brought no new pair.
"""

from __future__ import annotations

import importlib
import re
import sys
import textwrap
from collections.abc import Iterable
from itertools import groupby
from pathlib import Path

TARGET = Path(__file__).parent.parent / "refembed" / "tokenizer" / "_unicode_data.py"
VERSION = "15.1.0"
CODE_POINTS = range(0x110000)

HEAD = '''"""Unicode {version}, made by tools/generate_unicode.py: not to be edited by hand.

CATEGORY_RUNS   from code point 0 on: how many (hexadecimal) of which major class. C is Cc, Cf, Co and Cs; U is Cn
LOWERCASE_RUNS  first, last, step, lowercase of the first (hexadecimal); within a run the distance stays the same
"""

from __future__ import annotations

CATEGORY_RUNS = """
{categories}
"""

LOWERCASE_RUNS = """
{lowercase}
"""
'''


def major(category: str) -> str:
    """ "Lu" -> "L"; unassigned becomes U, so that C is left to what llama.cpp calls control."""
    return "U" if category == "Cn" else category[0]


def category_runs(categories: Iterable[str]) -> str:
    """ "20C1Z3P...": runs of equal classes, a line ends behind a class."""
    runs = (f"{len(list(run)):x}{letter}" for letter, run in groupby(categories))
    return "\n".join(re.findall(".{1,115}[A-Z]", "".join(runs)))


def lowercase_runs(pairs: dict[int, int]) -> str:
    """ "41,5a,1,61 ...": runs of equal distance between upper and lower case, each or every second code point."""
    runs: list[list[int]] = []  # first, last, step, target of the first
    for cp, target in sorted(pairs.items()):
        if runs:
            first, last, step, start = runs[-1]
            gap = cp - last
            if target - cp == start - first and (gap == step or (first == last and gap <= 2)):
                runs[-1] = [first, cp, gap, start]
                continue
        runs.append([cp, cp, 1, target])
    return "\n".join(textwrap.wrap(" ".join(",".join(f"{n:x}" for n in run) for run in runs), 116))


def table(categories: Iterable[str], pairs: dict[int, int]) -> str:
    """The file: major class of each code point, and what is lower-cased to what."""
    return HEAD.format(version=VERSION, categories=category_runs(categories), lowercase=lowercase_runs(pairs))


def main() -> int:
    """Write the table, or with --check compare it."""
    unicodedata2 = importlib.import_module("unicodedata2")  # installed for this only

    if unicodedata2.unidata_version != VERSION or sys.version_info < (3, 11):
        sys.exit(f"needs unicodedata2 of Unicode {VERSION} and Python 3.11 or later")
    categories = [major(unicodedata2.category(chr(cp))) for cp in CODE_POINTS]
    pairs = {cp: ord(low[0]) for cp in CODE_POINTS if (low := chr(cp).lower()) != chr(cp) and categories[cp] != "U"}
    text = table(categories, pairs)
    if "--check" in sys.argv[1:]:
        return int(TARGET.read_text(encoding="utf-8") != text)
    TARGET.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
