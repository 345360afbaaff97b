"""refembed under the names that other libraries' users already type. docs/compat.md has the table.

    mullama, llama_crab, llama_cpp      the interfaces of Mullama, llama-crab and llama-cpp-python
    sentence_transformers               `encode`, `similarity`, `tokenize`
    langchain, llama_index, chroma, haystack
                                        an embedding class of each; these import their library
    ray, spark                          `embed`: rows of a Ray Dataset, or a Spark DataFrame, with their vectors

Nothing here computes: every number comes from `refembed.Embedder`. What another library does and refembed cannot, it
refuses with one error; what makes no difference to an embedding (GPU layers, threads, sampling) it takes and ignores,
and says so in its docstring.
"""
