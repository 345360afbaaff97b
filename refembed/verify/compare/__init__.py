"""Two runs side by side: tensors paired by name, compared, replayed one operation at a time."""
