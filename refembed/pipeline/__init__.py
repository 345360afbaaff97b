"""From a text to its vector, step by step. Each step is a function that can be called by itself.

    step       function                        the text "hi" in MiniLM (C = 384)
    tokenize   Tokenizer.encode                [101, 7632, 102]
    truncate   truncate                        the same: at most 512 token ids
    pack       pack_batches, then model.pack   texts that share a forward pass, end to end: a Batch of T = 3 tokens
    forward    Model.forward                   hidden states (3, 384)
    pool       pooling.heads.pooled            one row a text: (1, 384)
    normalize  cut_and_normalize               (384), of length 1

`opening` opens a model's file, `Embedder.embed` calls the steps in this order. Command line, corpus writer, vector
cache, server and `verify` call the same functions; docs/tour.md has the chain of calls. `spans` has the chunks of a
text that is read in one pass, `sparse` the weights of the vocabulary, `multi_vector` a vector for each token, `images`,
`jpeg` and `multimodal` texts with images. `processes`, `worker` and `messages` let other processes do the last four
steps (`Embedder.start_pool`), `tokenizer_pool` the first (`Embedder.embed_iter`).
"""
