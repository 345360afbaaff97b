"""Activation functions and their gates: a part of `Ops`, which see."""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np

from refembed.arrays import Float


class ActivationOps(ABC):
    """Functions of each number by itself, of two in the same place, or of a row (softmax)."""

    @abstractmethod
    def gelu(self, x: Float) -> Float:
        """The tanh form of GELU (Hendrycks & Gimpel 2016), which llama.cpp uses for BERT.

            y = x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x³)))

        x  any shape; so is y

        >>> from refembed.kernels.numerics import load_ops
        >>> load_ops("exact").gelu(np.array([[-1.0, 0.0, 1.0]])).round(6)
        array([[-0.158808,  0.      ,  0.841192]])
        """

    @abstractmethod
    def gelu_erf(self, x: Float) -> Float:
        """GELU itself (Hendrycks & Gimpel 2016): x times the share of a normal distribution below x.

            y = x Phi(x) = x/2 (1 + erf(x / sqrt(2)))

        x  any shape; so is y

        >>> from refembed.kernels.numerics import load_ops
        >>> load_ops("exact").gelu_erf(np.array([[-1.0, 0.0, 1.0]])).round(6)
        array([[-0.158655,  0.      ,  0.841345]])
        """

    @abstractmethod
    def silu(self, x: Float) -> Float:
        """The sigmoid linear unit (Elfwing, Uchibe & Doya 2017), also called swish.

            y = x / (1 + e^-x)

        x  any shape; so is y

        >>> from refembed.kernels.numerics import load_ops
        >>> load_ops("exact").silu(np.array([[-1.0, 0.0, 1.0]])).round(6)
        array([[-0.268941,  0.      ,  0.731059]])
        """

    def relu(self, x: Float) -> Float:
        """The rectified linear unit (Nair & Hinton 2010).

            y = max(x, 0)

        x  any shape; so is y

        >>> from refembed.kernels.numerics import load_ops
        >>> load_ops("exact").relu(np.array([[-1.0, 0.0, 1.0]]))
        array([[0., 0., 1.]])
        """
        return np.where(x > 0, x, x.dtype.type(0))

    @abstractmethod
    def sigmoid(self, x: Float) -> Float:
        """The logistic function: a gate between 0 and 1.

            y = 1 / (1 + e^-x)

        x  (T, C); so is y

        >>> from refembed.kernels.numerics import load_ops
        >>> load_ops("exact").sigmoid(np.log([[1.0, 3.0]]))
        array([[0.5 , 0.75]])
        """

    @abstractmethod
    def geglu(self, gate: Float, up: Float) -> Float:
        """A gated linear unit with GELU, the tanh form (Shazeer 2020).

            y = gelu(gate) up

        gate, up  (T, F); so is y

        >>> from refembed.kernels.numerics import load_ops
        >>> load_ops("exact").geglu(np.array([[1.0]]), np.array([[10.0]])).round(5)
        array([[8.41192]])
        """

    @abstractmethod
    def swiglu(self, gate: Float, up: Float) -> Float:
        """A gated linear unit with SiLU (Shazeer 2020).

            y = silu(gate) up

        gate, up  (T, F); so is y

        >>> from refembed.kernels.numerics import load_ops
        >>> load_ops("exact").swiglu(np.array([[1.0]]), np.array([[10.0]])).round(5)
        array([[7.31059]])
        """

    @abstractmethod
    def swiglu_oai(self, gate: Float, up: Float) -> Float:
        """The gated linear unit of gpt-oss: both inputs clamped, a steeper sigmoid, and 1 added to what is gated.

            g = min(gate, 7)
            y = g / (1 + e^(-1.702 g)) (1 + max(-7, min(up, 7)))

        gate, up  (T, F); so is y

        >>> from refembed.kernels.numerics import load_ops
        >>> load_ops("exact").swiglu_oai(np.array([[0.0, 1.0]]), np.array([[5.0, 9.0]])).round(6)
        array([[0.      , 6.766366]])
        """

    @abstractmethod
    def softmax(self, x: Float) -> Float:
        """Softmax over the last axis.

            y_i = e^x_i / (e^x_1 + ... + e^x_n)

        x  (T, n); so is y

        >>> from refembed.kernels.numerics import load_ops
        >>> load_ops("exact").softmax(np.log([[1.0, 3.0]])).round(6)
        array([[0.25, 0.75]])
        """

    @abstractmethod
    def tanh(self, x: Float) -> Float:
        """The hyperbolic tangent.

        x  any shape; so is y

        >>> from refembed.kernels.numerics import load_ops
        >>> load_ops("exact").tanh(np.array([[0.0, 1.0]])).round(6)
        array([[0.      , 0.761594]])
        """

    @abstractmethod
    def exp(self, x: Float) -> Float:
        """The exponential function.

        x  any shape; so is y

        >>> from refembed.kernels.numerics import load_ops
        >>> load_ops("exact").exp(np.array([[0.0, 1.0]])).round(6)
        array([[1.      , 2.718282]])
        """
