"""One text's way through a model, for people who want to understand it: each stage with formula, source and numbers.

watch        a traced run that also keeps which operation made each tensor
operands     what a formula's letters stand for
formula...   the formula of each tensor
taps         what each of llama.cpp's tensor names means, and the paper: a table
walkthrough  a text -> its stages, from the tokenizer's own stages and a run
page         the same, illustrated

    from refembed import Embedder
    from refembed.explain import explain
    walkthrough = explain(Embedder.load("minilm"), ["Hello, world!"])
    for step in walkthrough.inside:               # layer 0
        print(step.name, step.formula, step.where, step.numbers)
"""

from refembed.explain.walkthrough import Walkthrough, explain

__all__ = ["Walkthrough", "explain"]
