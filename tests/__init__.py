import os

# Before NumPy is imported: BLAS threads wait for each other by spinning. With two test processes on two cores the tests
# of `exact` took five times as long with them: 12 s of processor time for 2.4 s. tests/kernels/exact/test_matmul.py
# asks for threads.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
