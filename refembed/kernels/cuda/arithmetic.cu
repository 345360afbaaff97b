// Sums, products and columns of arrays: what NumPy writes x + y, x * y and np.split. A thread has a number.
#include "common.cuh"

// x + y: x (n), and y (m) again and again, where n is a multiple of m: one shape, a row for all rows, or one number.
extern "C" __global__ void add(const float* x, const float* y, long long n, long long m, float* out) {
    long long i = thread_number();
    if (i < n) out[i] = x[i] + y[i % m];
}

// x * y, likewise.
extern "C" __global__ void multiply(const float* x, const float* y, long long n, long long m, float* out) {
    long long i = thread_number();
    if (i < n) out[i] = x[i] * y[i % m];
}

// factor x.
extern "C" __global__ void scale(const float* x, float factor, long long n, float* out) {
    long long i = thread_number();
    if (i < n) out[i] = x[i] * factor;
}

// Columns first:first+width of x (rows, n): (rows, width).
extern "C" __global__ void columns(const float* x, long long rows, long long n, long long first, long long width,
                                   float* out) {
    long long i = thread_number();
    if (i < rows * width) out[i] = x[i / width * n + first + i % width];
}

// Rows of x (., n) by their numbers: out[t] = x[ids[t]], (rows, n).
extern "C" __global__ void gather(const float* x, const long long* ids, long long rows, long long n, float* out) {
    long long i = thread_number();
    if (i < rows * n) out[i] = x[ids[i / n] * n + i % n];
}
