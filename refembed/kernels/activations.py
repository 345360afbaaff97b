"""Activation functions: the definitions. Numba twins of the same name are in jit.py."""

from __future__ import annotations

import numpy as np

from refembed.arrays import Float

SQRT_2_OVER_PI = 0.79788456080286535587989211986876


def gelu(x: Float) -> Float:
    """The tanh form of the Gaussian error linear unit, which llama.cpp uses for BERT.

        y = x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3)))      Hendrycks & Gimpel 2016, section 2

    x        any shape
    returns  x's shape and dtype

    BERT was trained with the erf form, from which this one differs by up to 4.7e-4. llama.cpp's CPU backend looks it up
    in a table of float16 (x rounded to float16, y rounded to float16), which is coarser still: docs/numerics.md.
    """
    return 0.5 * x * (1 + np.tanh(SQRT_2_OVER_PI * x * (1 + 0.044715 * x * x)))
