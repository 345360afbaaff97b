// Rotary position embedding (Su et al. 2021): exact/rope.py, whose cosines and sines the host computes in double.
#include "common.cuh"

// x, out    (T, H, D)
// pos       (T)
// cosines, sines  (P, n_dims/2)  of every place and pair
// adjacent  whether channel 2i turns with 2i+1; else i with i + n_dims/2
extern "C" __global__ void rope(const float* x, const long long* pos, const float* cosines, const float* sines,
                                long long rows, int heads, int D, int n_dims, int adjacent, float* out) {
    long long i = thread_number();
    if (i >= rows * heads * D) return;
    int channel = (int)(i % D);
    if (channel >= n_dims) {
        out[i] = x[i];
        return;
    }
    int half = n_dims / 2;
    int pair = adjacent ? channel / 2 : channel % half;
    bool first = adjacent ? channel % 2 == 0 : channel < half;
    long long other = i + (first ? 1 : -1) * (adjacent ? 1 : half);
    long long turn = pos[i / ((long long)heads * D)] * half + pair;
    float c = cosines[turn], s = sines[turn];
    out[i] = first ? x[i] * c - x[other] * s : x[other] * s + x[i] * c;
}
