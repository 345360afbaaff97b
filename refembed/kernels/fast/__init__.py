"""The `fast` numerics: the same operations in float32, compiled, on all cores. `ops` is the way in."""
