"""What quantization costs retrieval: python -m benchmarks retrieval [--wordnet FOLDER] [--documents N] [--queries N]

A retrieval and a similarity made of WordNet's nouns, by rules that anyone can repeat, and `refembed evaluate` on them:
MiniLM's weights as F32, F16, Q8_0, Q4_0, Q4_K_M, Q2_K, its vectors as float32, int8, binary, product quantization and
the first 128 dimensions. Prints the tables that docs/evaluate.md has. --save FOLDER keeps the data as files for
`refembed evaluate`; --json FILE and --html FILE keep the report.

WordNet 3.0 is the Debian package wordnet-base (data.noun, in /usr/share/wordnet); where it is not installed, `apt-get
download` fetches it, and nothing is installed.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Any, NamedTuple

from refembed.evaluate import Collection, Grid, Pair, evaluate_retrieval, evaluate_sts
from refembed.evaluate.page import evaluation_page
from refembed.html.page import write_page

INSTALLED = Path("/usr/share/wordnet")
WEIGHTS = ("F32", "F16", "Q8_0", "Q4_0", "Q4_K_M", "Q2_K")
VECTORS = ("float32", "int8", "binary", "pq", "matryoshka:128")
LEAST_WORDS = 5  # of a definition


class Synset(NamedTuple):
    """A meaning: its words, what it means, its lexicographer's file, and the meanings right above it."""

    id: str
    words: tuple[str, ...]
    definition: str
    file: str
    above: tuple[str, ...]


def main(argv: list[str] | None = None) -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--wordnet", type=Path, help="the folder with data.noun")
    p.add_argument("--model", default="minilm")
    p.add_argument("--documents", type=int, default=3000)
    p.add_argument("--queries", type=int, default=500)
    p.add_argument("--pairs", type=int, default=1000)
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--save", type=Path)
    p.add_argument("--json", type=Path)
    p.add_argument("--html", type=Path)
    args = p.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        synsets = read_nouns(args.wordnet or found_wordnet(Path(folder)))
    chosen = choose(synsets, args.documents, args.seed)
    collection, pairs = retrieval(chosen, args.queries, args.seed), similarity(chosen, args.pairs, args.seed)
    if args.save:
        save(args.save, collection, pairs)
    grid = Grid((args.model,), weights=WEIGHTS, vectors=VECTORS)
    reports = {
        "retrieval": evaluate_retrieval(collection, grid, ["ndcg@10", "recall@10", "mrr@10"], memory=True, say=say),
        "similarity": evaluate_sts(pairs, grid, memory=True, say=say),
    }
    found = {name: report.as_object() for name, report in reports.items()}
    for report in found.values():
        print_markdown(report)
    if args.json:
        args.json.write_text(json.dumps(found, indent=1) + "\n")
    if args.html:
        write_page(args.html, evaluation_page(reports["retrieval"]))


def say(message: str) -> None:
    print(message, file=sys.stderr, flush=True)


def found_wordnet(folder: Path) -> Path:
    """The installed package, or that which apt-get downloads, unpacked into a folder."""
    if (INSTALLED / "data.noun").is_file():
        return INSTALLED
    try:
        subprocess.run(
            ["apt-get", "-o", "APT::Sandbox::User=root", "download", "wordnet-base"],
            check=True,
            cwd=folder,
            stdout=subprocess.DEVNULL,
        )
        package = next(folder.glob("wordnet-base*.deb"))
        subprocess.run(["dpkg-deb", "-x", package, folder], check=True)
    except (OSError, subprocess.CalledProcessError, StopIteration) as e:
        sys.exit(f"no WordNet: {e}; --wordnet FOLDER names a folder with its data.noun (Debian: wordnet-base)")
    return folder / INSTALLED.relative_to("/")


def read_nouns(folder: Path) -> dict[str, Synset]:
    """data.noun, as wndb(5WN) describes it."""
    found = {}
    for line in (folder / "data.noun").read_text(encoding="ascii").splitlines():
        if line.startswith("  "):  # the license
            continue
        fields, _, gloss = line.partition(" | ")
        id, file, _, count, *rest = fields.split()
        n = int(count, 16)
        words = tuple(word.replace("_", " ") for word in rest[: 2 * n : 2])
        pointers = rest[2 * n + 1 :]
        above = tuple(
            pointers[i + 1] for i in range(0, 4 * int(rest[2 * n]), 4) if pointers[i] in ("@", "@i")
        )  # fmt: skip
        found[id] = Synset(id, words, re.split(r'; "', gloss.strip())[0].strip(), file, above)
    return found


def choose(synsets: dict[str, Synset], count: int, seed: int) -> dict[str, Synset]:
    """So many meanings at random, each with those right above it.

    A definition has five words at least, none of them the meaning's own, so that no word gives the answer away.
    """
    fit = {s.id: s for s in synsets.values() if len(s.definition.split()) >= LEAST_WORDS and not says_itself(s)}
    order = list(fit)
    random.Random(seed).shuffle(order)
    chosen: dict[str, Synset] = {}
    for id in order:
        if any(above in fit for above in fit[id].above):
            chosen.update({i: fit[i] for i in (id, *fit[id].above) if i in fit})
        if len(chosen) >= count:
            break
    return dict(sorted(list(chosen.items())[:count]))


def says_itself(s: Synset) -> bool:
    """Whether the definition has a word of the meaning's, or of a part of it."""
    said = set(re.findall(r"[a-z]+", s.definition.lower()))
    return any(part in said for word in s.words for part in re.findall(r"[a-z]+", word.lower()) if len(part) > 2)


def retrieval(chosen: dict[str, Synset], count: int, seed: int) -> Collection:
    """Documents are definitions. A query is a meaning's words, none of which has a second meaning among all chosen.

    Its own definition is relevant (2); those right above and right below are somewhat (1).
    """
    meanings: dict[str, set[str]] = defaultdict(set)
    below: dict[str, list[str]] = defaultdict(list)
    for s in chosen.values():
        for word in s.words:
            meanings[word.lower()].add(s.id)
        for above in s.above:
            below[above].append(s.id)
    clear = [s for s in chosen.values() if all(len(meanings[word.lower()]) == 1 for word in s.words)]
    queries = random.Random(seed + 1).sample(clear, min(count, len(clear)))
    qrels = {
        s.id: {s.id: 2} | {i: 1 for i in (*s.above, *below[s.id]) if i in chosen}
        for s in queries
    }  # fmt: skip
    return Collection.of(
        {s.id: ", ".join(s.words) for s in queries}, {s.id: s.definition for s in chosen.values()}, qrels
    )


def similarity(chosen: dict[str, Synset], count: int, seed: int) -> list[Pair]:
    """Pairs of definitions, as many of each kind.

    3 one right above the other · 2 both right under one · 1 of the same lexicographer's file · 0 of different files
    """
    rng, below = random.Random(seed + 2), defaultdict(list)
    for s in chosen.values():
        for above in s.above:
            below[above].append(s)
    every = list(chosen.values())
    kinds: dict[int, list[tuple[Synset, Synset]]] = {
        3: [(s, chosen[a]) for s in every for a in s.above if a in chosen],
        2: [(a, b) for group in below.values() for i, a in enumerate(group) for b in group[:i]],
        1: [], 0: [],
    }  # fmt: skip
    while min(len(kinds[0]), len(kinds[1])) < count:
        a, b = rng.sample(every, 2)
        if not set(a.above) & {*b.above, b.id} and a.id not in b.above:
            kinds[int(a.file == b.file)].append((a, b))
    drawn = [
        (a, b, kind) for kind, all_of in kinds.items() for a, b in rng.sample(all_of, min(count // 4, len(all_of)))
    ]
    return [Pair(a.definition, b.definition, kind) for a, b, kind in drawn]


def save(folder: Path, collection: Collection, pairs: list[Pair]) -> None:
    """The data as `refembed evaluate` reads it."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, texts in (("queries", collection.queries), ("corpus", collection.documents)):
        lines = [json.dumps({"_id": id, "text": text}) for id, text in texts.items()]
        (folder / f"{name}.jsonl").write_text("\n".join(lines) + "\n")
    rows = ["query-id\tcorpus-id\tscore"]
    rows += [f"{q}\t{d}\t{level}" for q, levels in collection.qrels.items() for d, level in levels.items()]
    (folder / "qrels.tsv").write_text("\n".join(rows) + "\n")
    (folder / "pairs.tsv").write_text("".join(f"{p.first}\t{p.second}\t{p.score:g}\n" for p in pairs))


def print_markdown(report: dict[str, Any]) -> None:
    """The table for a page: weights down, vectors across; a difference that is not chance is bold."""
    lines, first = report["lines"], report["measures"][0]
    by_place = {(line["weights"], line["vectors"]): line for line in lines}
    weights, vectors = (list(dict.fromkeys(line[name] for line in lines)) for name in ("weights", "vectors"))
    print(f"\n{first}; {report['measured_on']}; {report['resamples']:,} draws, seed {report['seed']}\n")
    bytes_a_vector = {line["vectors"]: line["bytes_a_vector"] for line in lines}
    print("| weights | MiB | " + " | ".join(f"{v}, {bytes_a_vector[v]} bytes" for v in vectors) + " |")
    print("|---|---:|" + "---|" * len(vectors))
    for w in weights:
        size = by_place[w, vectors[0]]["file_bytes"] / 2**20
        print(f"| {w} | {size:.1f} | " + " | ".join(cell(by_place[w, v], first) for v in vectors) + " |")


def cell(line: dict[str, Any], first: str) -> str:
    """A value, its interval, or that of its difference to the first line."""
    value = f"{line['values'][first]:.3f}"
    if line["difference"] is None:
        low, high = line["interval"]
        return f"{value} (95%: {low:.3f} to {high:.3f})"
    low, high = line["difference"]
    value = f"**{value}**" if low > 0 or high < 0 else value
    return f"{value} ({low:+.3f} {high:+.3f})"


if __name__ == "__main__":
    main()
