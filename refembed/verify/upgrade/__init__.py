"""Two engines, or two records of one: must an index of stored vectors be made anew? docs/upgrade.md"""
