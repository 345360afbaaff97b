"""Quantized blocks: decoded (`dequant*`), encoded (`quantize*`), and matrices decoded a block of rows at a time."""
