"""Search by meaning through a server, with nothing but the standard library.

refembed serve &
python examples/server_search.py http://127.0.0.1:8080
"""

import json
import sys
import urllib.request

DOCUMENTS = ["A recipe for spaghetti", "The stock market fell today", "Boil water with salt, then add the noodles"]


def embed(server: str, texts: list[str]) -> list[list[float]]:
    """Unit vectors of texts: any server that speaks OpenAI's embeddings will do."""
    body = json.dumps({"input": texts, "model": "any"}).encode()
    request = urllib.request.Request(f"{server}/v1/embeddings", body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request) as answer:
        return [item["embedding"] for item in json.load(answer)["data"]]


def main() -> None:
    """Print the documents, nearest first."""
    server = sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:8080"
    query, *documents = embed(server, ["How do I cook pasta?", *DOCUMENTS])
    scores = [sum(x * y for x, y in zip(query, d, strict=True)) for d in documents]
    for score, text in sorted(zip(scores, DOCUMENTS, strict=True), reverse=True):
        print(f"{score:+.3f}  {text}")


if __name__ == "__main__":
    main()
