"""`Precision`: which kernels multiply with matrices, and what these keep of a matrix.

    float32           chains of multiply-adds (matmul.cu)
    tf32, fp16, bf16  tensor cores (tensor_cores.cu): x and W rounded, sums in float32; W in words of 32 bits, with
                      one number of tf32, or two of 16 bits

Nothing but products with the model's matrices depends on it: norms, softmax, attention, activation functions and all
else are of float32, and so are activations between operations.
"""

from __future__ import annotations

from typing import NamedTuple

from refembed.errors import RequestError
from refembed.kernels.cuda.device import Device

STEP = 8  # words of one instruction of tensor cores; rows of W are filled up to a multiple
TENSOR_CORES = (8, 0)  # the compute capability from which on they take all three formats


class Precision(NamedTuple):
    """A way to multiply with matrices.

    >>> PRECISIONS["fp16"].words(384), PRECISIONS["fp16"].words(385), PRECISIONS["tf32"].words(384)
    (192, 200, 384)
    """

    name: str
    kernel: str  # of products; with "_few", of few rows
    tall: int  # rows of a block of that
    threads: int  # of a block
    numbers: int  # in a word; 0: a matrix is in float32
    largest: str = ""  # number that it has
    wider: str = "precision float32 has more"  # a hint for numbers beyond that

    def words(self, depth: int) -> int:
        """How many words, or numbers of float32, a row of W (., depth) takes."""
        step = STEP * self.numbers
        return -(-depth // step) * STEP if step else depth


WIDER = "precision bf16 and tf32 go as far as float32"  # a hint
FLOAT32 = Precision("float32", "matmul", tall=64, threads=64, numbers=0)
PRECISIONS = {
    p.name: p
    for p in (
        FLOAT32,
        Precision("tf32", "matmul_tf32", tall=128, threads=128, numbers=1, largest="3.4e38"),
        Precision("fp16", "matmul_fp16", tall=128, threads=128, numbers=2, largest="65504", wider=WIDER),
        Precision("bf16", "matmul_bf16", tall=128, threads=128, numbers=2, largest="3.4e38"),
    )
}


def precision_on(device: Device, name: str) -> Precision:
    """The precision of that name. RequestError where the device has no tensor cores for it."""
    precision, (major, minor) = PRECISIONS[name], device.capability()
    if precision.numbers and (major, minor) < TENSOR_CORES:
        needed = ".".join(map(str, TENSOR_CORES))
        message = f"precision {name}: {device.name} has compute capability {major}.{minor}, tensor cores need {needed}"
        raise RequestError(message, hint="precision float32")
    return precision
