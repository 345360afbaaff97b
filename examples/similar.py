"""Which of these sentences say the same thing?  python examples/similar.py"""

from refembed import Embedder, cosine

SENTENCES = ["How do I cook pasta?", "A recipe for spaghetti", "The stock market fell today"]


def main() -> None:
    """Print the cosine of each pair."""
    vectors = Embedder.load("minilm").embed(SENTENCES)
    for i, a in enumerate(SENTENCES):
        for j in range(i):
            print(f"{cosine(vectors[i], vectors[j]):+.3f}  {a!r} and {SENTENCES[j]!r}")


if __name__ == "__main__":
    main()
