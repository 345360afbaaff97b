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

// The reverse: x (rows, width) becomes columns first:first+width of out (rows, n).
extern "C" __global__ void set_columns(const float* x, long long rows, long long n, long long first, long long width,
                                       float* out) {
    long long i = thread_number();
    if (i < rows * width) out[i / width * n + first + i % width] = x[i];
}

// Axes in another order. out has the sizes (n0, n1, n2, n3, n4), n0 being what is left of n numbers; one further along
// an axis of out is a step of s0 ... s4 numbers in x.
extern "C" __global__ void transpose(const float* x, long long n, long long n1, long long n2, long long n3,
                                     long long n4, long long s0, long long s1, long long s2, long long s3,
                                     long long s4, float* out) {
    long long i = thread_number();
    if (i >= n) return;
    long long rest = i, from = rest % n4 * s4;
    rest /= n4;
    from += rest % n3 * s3;
    rest /= n3;
    from += rest % n2 * s2;
    rest /= n2;
    from += rest % n1 * s1;
    rest /= n1;
    out[i] = x[from + rest * s0];
}

// x, no less than `low` and no more than `high`; NaN stays NaN.
extern "C" __global__ void clip(const float* x, float low, float high, long long n, float* out) {
    long long i = thread_number();
    if (i >= n) return;
    float y = x[i] < low ? low : x[i];
    out[i] = y > high ? high : y;
}

// One number everywhere.
extern "C" __global__ void fill(float number, long long n, float* out) {
    long long i = thread_number();
    if (i < n) out[i] = number;
}

// Rows of x (., n) by their numbers: out[t] = x[ids[t]], (rows, n).
extern "C" __global__ void gather(const float* x, const long long* ids, long long rows, long long n, float* out) {
    long long i = thread_number();
    if (i < rows * n) out[i] = x[ids[i / n] * n + i % n];
}
