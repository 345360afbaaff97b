// Activation functions: exact/activations.py and exact/recurrent.py. A thread has a number.
#include "common.cuh"

// x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3)))      Hendrycks & Gimpel 2016
__device__ __forceinline__ float gelu_of(float x) {
    return 0.5f * x * (1.0f + tanhf(0.79788456080286535588f * x * (1.0f + 0.044715f * x * x)));
}

// x/2 erfc(-x / sqrt(2))      Hendrycks & Gimpel 2016
//
// Far to the left the rounding of z = -x / sqrt(2) would be multiplied by 2 z, so it is put back by erfc's derivative.
__device__ __forceinline__ float gelu_erf_of(float x) {
    float z = x * -0.70710677f, off = fmaf(x, -0.70710677f, -z) + x * -1.2101617e-8f;  // the two add up to 1 / sqrt(2)
    return 0.5f * x * (erfcf(z) - 1.1283792f * expf(-z * z) * off);
}

// x / (1 + e^-x)      Elfwing, Uchibe & Doya 2017
__device__ __forceinline__ float silu_of(float x) { return x / (1.0f + expf(-x)); }

// 1 / (1 + e^-x), by no power that overflows
__device__ __forceinline__ float sigmoid_of(float x) {
    float e = expf(-fabsf(x));
    return (x < 0.0f ? e : 1.0f) / (1.0f + e);
}

// min(g, 7) / (1 + e^(-1.702 min(g, 7))) (1 + max(-7, min(u, 7)))      gpt-oss
__device__ __forceinline__ float swiglu_oai_of(float gate, float up) {
    float g = gate > 7.0f ? 7.0f : gate;  // a comparison, as NaN stays NaN
    float u = up > 7.0f ? 7.0f : up < -7.0f ? -7.0f : up;
    return g / (1.0f + expf(-1.702f * g)) * (1.0f + u);
}

#define OF_ONE(name, formula)                                                      \
    extern "C" __global__ void name(const float* given, long long n, float* out) { \
        long long i = thread_number();                                             \
        if (i >= n) return;                                                        \
        float x = given[i];                                                        \
        out[i] = formula;                                                          \
    }

#define OF_TWO(name, formula)                                                                           \
    extern "C" __global__ void name(const float* gates, const float* ups, long long n, float* out) {    \
        long long i = thread_number();                                                                  \
        if (i >= n) return;                                                                             \
        float gate = gates[i], up = ups[i];                                                             \
        out[i] = formula;                                                                               \
    }

OF_ONE(gelu, gelu_of(x))
OF_ONE(gelu_erf, gelu_erf_of(x))
OF_ONE(silu, silu_of(x))
OF_ONE(sigmoid, sigmoid_of(x))
OF_ONE(relu, x <= 0.0f ? 0.0f : x)  // a comparison that NaN does not pass
OF_ONE(tanh_, tanhf(x))
OF_ONE(exp_, expf(x))
OF_TWO(geglu, gelu_of(gate) * up)
OF_TWO(swiglu, silu_of(gate) * up)
OF_TWO(swiglu_oai, swiglu_oai_of(gate, up))
