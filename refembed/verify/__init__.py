"""Is an engine right, and if not, where does it go wrong first?

    engines/    what can be compared: live llama.cpp in a process of its own
    compare     two arrays -> how far apart they are, in numbers
    align       two traces -> which tensor of one is which tensor of the other
    replay      each operation of ours on the other engine's inputs -> its local error

Import from those modules: this package itself imports nothing, so that the process which runs llama.cpp stays small.
"""
