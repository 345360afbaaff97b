"""The `exact` numerics: each operation as textbooks write it, in float64. `ops` puts them together."""
