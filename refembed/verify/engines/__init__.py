"""Engines that refembed can be compared with: `llamacpp.LlamaCpp`, live llama.cpp, is the reference."""
