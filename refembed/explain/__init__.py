"""One text's way through a model, for people who want to understand it: each stage with formula, source and numbers.

taps      what each of llama.cpp's tensor names means: a table
journey   a text -> its stages, from the tokenizer's own stages and a trace of the model
page      the same, illustrated
"""

from refembed.explain.journey import Journey, explain

__all__ = ["Journey", "explain"]
