"""Rounding to fp16 and bf16 as PyTorch and ml_dtypes have it, on numbers of all sizes."""

from __future__ import annotations

import numpy as np
import pytest

from refembed.kernels.exact import tensor_cores
from tests.kernels.exact.test_tensor_cores import drawn

pytestmark = [pytest.mark.peers, pytest.mark.filterwarnings("ignore")]

torch = pytest.importorskip("torch", reason="PyTorch is not installed: the extra `peers`")


def test_bf16_is_that_of_pytorch_and_of_ml_dtypes() -> None:
    x = drawn(3, 200_000)
    got = tensor_cores.round_bf16(x)
    assert np.array_equal(got, torch.tensor(x).to(torch.bfloat16).to(torch.float32).numpy())
    ml_dtypes = pytest.importorskip("ml_dtypes", reason="ml_dtypes is not installed")
    assert np.array_equal(got, x.astype(ml_dtypes.bfloat16).astype(np.float32))


def test_fp16_is_pytorchs_up_to_its_infinity() -> None:
    x = drawn(4, 200_000)
    theirs = torch.tensor(x).to(torch.float16).to(torch.float32).numpy()
    got = tensor_cores.round_fp16(x)
    assert np.array_equal(np.isnan(got), np.isinf(theirs))
    assert np.array_equal(got[np.isfinite(got)], theirs[np.isfinite(theirs)])
