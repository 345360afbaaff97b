"""`refembed serve`: an HTTP server that clients of llama-server, OpenAI, Ollama and TEI can talk to.

    run           sockets, loop, a clean end          connection    limits of one connection
    app           every route in one table; keys      admission     limits of all requests together
    settings      flags; how long a text may be       state         the model, threads and processes
    reading       bodies -> token ids                 inputs        shapes of a text
    text_process  large bodies, in other processes    json_text     JSON in and out
    worker        the threads that compute            model_files   notices that the model's file has changed
    replies       answers                             errors        what a request can fail with
    native        llama-server's and OpenAI's forms   info, facts   health, models, properties, slots
    ollama        Ollama's                            tei           Text Embeddings Inference's
    status        the page at /, and its figures      metrics       counters
    openapi       what all of it takes and gives

Needs the extra `server`: Starlette and uvicorn.
"""
