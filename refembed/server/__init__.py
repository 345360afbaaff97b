"""`refembed serve`: an HTTP server that clients of llama-server, OpenAI, Ollama and TEI can talk to.

    run      sockets, loop, a clean end          app      every route in one table; keys, CORS, errors
    state    flags, limits, the model            worker   the thread that computes, for many requests at a time
    inputs   shapes of a text -> token ids       jsontext JSON, with llama-server's words for what is wrong with it
    native   llama-server's and OpenAI's forms   about    health, models, properties, slots, metrics
    ollama   Ollama's                            tei      Text Embeddings Inference's
    status   the page at /, and its figures
    openapi  what all of it takes and gives      flags    those of llama-server's that mean nothing here

Needs the extra `server`: Starlette and uvicorn.
"""
