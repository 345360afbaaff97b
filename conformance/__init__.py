"""Is refembed llama.cpp, number for number? Cases as data, bounds as measured, one command: `python -m conformance run`."""

from __future__ import annotations

from pathlib import Path

FOLDER = Path(__file__).parent
