"""Operations of layers that keep a state from token to token: a part of `Ops`, which see.

A text begins with a state of zeros, and no text sees another's. What a token needs of those before it is in the state,
so time grows with the length of a text, where attention's grows with its square.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

from refembed.arrays import I64, Float
from refembed.gguf import Tensor
from refembed.kernels.taps import NO_TAP, Tap


class StateOps(ABC):
    """Convolution along a text, the gated delta rule, selective scan, RWKV's state, and what decides how they decay.

    Shapes: T tokens of S texts, H heads of D channels; K heads of keys, or G groups of heads that share them.
    """

    @abstractmethod
    def short_conv(
        self, x: Float, w: Tensor, offsets: I64, ahead: int = 0, bias: Tensor | None = None, tap: Tap = NO_TAP,
        product: str = "",
    ) -> Float:  # fmt: skip
        """Convolution of each channel along each text (LFM2, Mamba, Qwen3-Next).

            y_t = w_0 x_(t-n+1+ahead) + ... + w_(n-1) x_(t+ahead) + bias      what lies outside the text is 0

        x        (T, C)
        w        (C, n)
        offsets  (S+1)   text s is rows offsets[s]:offsets[s+1]
        ahead            how many of the n tokens come after t; 0 looks back only
        bias     (C)     or None
        tap      is given the sum before the bias, under the name `product`
        returns  (T, C)

        >>> import numpy as np
        >>> from refembed.kernels.numerics import load_ops
        >>> load_ops("exact").short_conv(np.array([[1.0], [2.0], [3.0]]), Tensor.of([[10, 1]]), np.array([0, 3]))
        array([[ 1.],
               [12.],
               [23.]])
        """

    @abstractmethod
    def log_decay(self, x: Float, bias: Tensor, a: Tensor, tap: Tap = NO_TAP) -> Float:
        """How much of a state each token leaves, as a logarithm (Gu & Dao 2023; Yang, Kautz & Hatamizadeh 2024).

            g = a softplus(x + bias)      softplus(x) = ln(1 + e^x)

        x        (T, H)
        bias     (H)
        a        (H)     negative, so that e^g is between 0 and 1
        tap      is given `alpha_biased` and `a_softplus`
        returns  (T, H)

        >>> import numpy as np
        >>> from refembed.kernels.numerics import load_ops
        >>> bias, a = Tensor.of([1], "bias"), Tensor.of([-2], "a")
        >>> load_ops("exact").log_decay(np.array([[-1.0]]), bias, a).round(6)  # -2 ln(1 + e^0)
        array([[-1.386294]])
        """

    @abstractmethod
    def gated_delta_rule(self, q: Float, k: Float, v: Float, g: Float, beta: Float, offsets: I64) -> Float:
        """Linear attention that forgets, and replaces what it holds under a key (Yang, Kautz & Hatamizadeh 2024).

            S_t = e^g_t S_(t-1) (I - beta_t k_t k_tᵀ) + beta_t v_t k_tᵀ
            y_t = S_t q_t / sqrt(D)

        q, k     (T, K D)  heads side by side; head h of values goes with head h mod K
        v        (T, H D)
        g        (T, H)    logarithm of the decay
        beta     (T, H)    how far the value under a key is replaced, 0 to 1
        offsets  (S+1)     text s is rows offsets[s]:offsets[s+1]
        returns  (T, H D)

        The state is 2; then half of that, of which the key 1 takes half away and puts half of 8 in its place.

        >>> import numpy as np
        >>> from refembed.kernels.numerics import load_ops
        >>> one, v, half = np.ones((2, 1)), np.array([[2.0], [8.0]]), np.array([[1.0], [0.5]])
        >>> load_ops("exact").gated_delta_rule(one, one, v, np.log(half), half, np.array([0, 2]))
        array([[2. ],
               [4.5]])
        """

    @abstractmethod
    def selective_scan(
        self, x: Float, dt: Float, a: Tensor, b: Float, c: Float, n_group: int, offsets: I64, tap: Tap = NO_TAP
    ) -> Float:
        """A state space model whose step and matrices depend on the token (Gu & Dao 2023; Dao & Gu 2024).

            s   = softplus(dt_t)
            h_t = e^(s a) h_(t-1) + s x_t b_tᵀ
            y_t = h_t c_t

        x        (T, H P)  heads of P channels side by side
        dt       (T, H)    the step, before softplus
        a        (H, N)    decay of each of a head's N states; or (H, 1), one a head (Mamba 2); negative
        b, c     (T, G N)  each group shared by H/G neighboring heads
        n_group            G
        offsets  (S+1)     text s is rows offsets[s]:offsets[s+1]
        tap      is given `ssm_scan`, y and the last state in one row
        returns  (T, H P)

        >>> import numpy as np
        >>> from refembed.kernels.numerics import load_ops
        >>> x, one, dt = np.array([[4.0], [1.0]]), np.ones((2, 1)), np.full((2, 1), np.log(np.e - 1))  # s = 1
        >>> a = Tensor.of(np.log([[0.5]]))
        >>> load_ops("exact").selective_scan(x, dt, a, one, one, 1, np.array([0, 2])).round(4)  # 4, 4/2 + 1
        array([[4.],
               [3.]])
        """

    @abstractmethod
    def add_scaled(self, y: Float, x: Float, d: Tensor, tap: Tap = NO_TAP) -> Float:
        """What passes a state space model by: y + d x, a number for each head (Gu & Dao 2023).

        x, y     (T, H P)
        d        (H), or (H, 1)
        tap      is given `ssm_skip`, d x
        returns  (T, H P)

        >>> import numpy as np
        >>> from refembed.kernels.numerics import load_ops
        >>> load_ops("exact").add_scaled(np.array([[1.0, 2.0]]), np.array([[10.0, 20.0]]), Tensor.of([2]))
        array([[21., 42.]])
        """

    @abstractmethod
    def wkv7(
        self, r: Float, w: Float, k: Float, v: Float, a: Float, b: Float, n_head: int, offsets: I64, tap: Tap = NO_TAP
    ) -> Float:
        """RWKV-7's state: it decays channel by channel, and takes out along a what b puts back (Peng et al. 2025).

            S_t = S_(t-1) (diag(w_t) + a_t b_tᵀ) + v_t k_tᵀ
            y_t = S_t r_t

        r w k v a b  (T, H D)  heads side by side
        n_head                 H
        offsets      (S+1)     text s is rows offsets[s]:offsets[s+1]
        tap          is given `wkv`, y and the last state behind it, in rows of H D
        returns      (T, H D)

        >>> import numpy as np
        >>> from refembed.kernels.numerics import load_ops
        >>> one, v = np.ones((2, 1)), np.array([[2.0], [3.0]])
        >>> load_ops("exact").wkv7(one, one / 2, one, v, -one, one / 4, 1, np.array([0, 2]))  # 2 (1/2 - 1/4) + 3
        array([[2. ],
               [3.5]])
        """
