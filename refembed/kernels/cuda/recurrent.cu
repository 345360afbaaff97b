// Layers that keep a state from token to token: exact/recurrent.py. A text begins with a state of zeros. A row of a
// state belongs to one warp (delta rule, RWKV-7) or one thread (selective scan) from the first token to the last.
#include "common.cuh"

// ln(1 + e^x)
__device__ __forceinline__ float softplus_of(float x) { return fmaxf(x, 0.0f) + log1pf(expf(-fabsf(x))); }

// a softplus(x + bias): x, out (n), bias and a (m), again and again
extern "C" __global__ void log_decay(const float* x, const float* bias, const float* a, long long n, long long m,
                                     float* out) {
    long long i = thread_number();
    if (i < n) out[i] = a[i % m] * softplus_of(x[i] + bias[i % m]);
}

// y + d x: x, y, out (n), d (heads), each for `width` neighbors of a row
extern "C" __global__ void add_scaled(const float* y, const float* x, const float* d, long long n, int heads,
                                      int width, float* out) {
    long long i = thread_number();
    if (i < n) out[i] = y[i] + x[i] * d[i / width % heads];
}

// S_t = e^g_t S_(t-1) (I - beta_t k_t k_t') + beta_t v_t k_t';  y_t = S_t q_t / sqrt(D)
//
// q, k     (T, K D)  head h of values goes with head h mod K
// v, out   (T, H D)
// g, beta  (T, H)
// states   (S, H, D, D)  zeros at first
// The grid: D rows of a state, one a warp; H heads; S texts.
extern "C" __global__ void gated_delta_rule(const float* q, const float* k, const float* v, const float* g,
                                            const float* beta, const long long* offsets, int key_heads, int heads,
                                            int D, float root, float* states, float* out) {
    int row = (blockIdx.x * blockDim.x + threadIdx.x) / WARP, lane = lane_number(), h = blockIdx.y;
    if (row >= D) return;
    long long text = blockIdx.z;
    float* state = states + ((text * heads + h) * D + row) * D;
    for (long long t = offsets[text]; t < offsets[text + 1]; t++) {
        const float* key = k + (t * key_heads + h % key_heads) * D;
        const float* query = q + (t * key_heads + h % key_heads) * D;
        float decay = expf(g[t * heads + h]), held = 0.0f, y = 0.0f;
        for (int i = lane; i < D; i += WARP) {
            state[i] = state[i] * decay;
            held = fmaf(state[i], key[i], held);
        }
        held = warp_sum(held);
        float change = beta[t * heads + h] * (v[(t * heads + h) * D + row] - held);
        for (int i = lane; i < D; i += WARP) {
            state[i] = fmaf(change, key[i], state[i]);
            y = fmaf(state[i], query[i], y);
        }
        y = warp_sum(y);
        if (lane == 0) out[(t * heads + h) * D + row] = y / root;
    }
}

// S_t = S_(t-1) (diag(w_t) + a_t b_t') + v_t k_t';  y_t = S_t r_t
//
// r w k v a b, out  (T, H D)
// states            (S, H, D, D)  zeros at first
// The grid: as in gated_delta_rule.
extern "C" __global__ void wkv7(const float* r, const float* w, const float* k, const float* v, const float* a,
                                const float* b, const long long* offsets, int heads, int D, float* states,
                                float* out) {
    int row = (blockIdx.x * blockDim.x + threadIdx.x) / WARP, lane = lane_number(), h = blockIdx.y;
    if (row >= D) return;
    long long text = blockIdx.z;
    float* state = states + ((text * heads + h) * D + row) * D;
    for (long long t = offsets[text]; t < offsets[text + 1]; t++) {
        long long at = (t * heads + h) * D;
        float held = 0.0f, y = 0.0f, value = v[at + row];
        for (int i = lane; i < D; i += WARP) held = fmaf(state[i], a[at + i], held);
        held = warp_sum(held);
        for (int i = lane; i < D; i += WARP) {
            state[i] = state[i] * w[at + i] + (held * b[at + i] + value * k[at + i]);
            y = fmaf(state[i], r[at + i], y);
        }
        y = warp_sum(y);
        if (lane == 0) out[at + row] = y;
    }
}

// s = softplus(dt_t);  h_t = e^(s a) h_(t-1) + s x_t b_t';  y_t = h_t c_t
//
// x, out   (T, H P)
// dt       (T, H)
// a        (H, N), or (H, 1): `rates` is N or 1
// b, c     (T, G N)      each shared by H/G neighboring heads
// states   (S, H, P, N)  zeros at first
// The grid: P channels, one a thread; H heads; S texts.
extern "C" __global__ void selective_scan(const float* x, const float* dt, const float* a, const float* b,
                                          const float* c, const long long* offsets, int heads, int P, int N,
                                          int groups, int rates, float* states, float* out) {
    int p = blockIdx.x * blockDim.x + threadIdx.x, h = blockIdx.y;
    if (p >= P) return;
    long long text = blockIdx.z;
    int group = h / (heads / groups);
    float* state = states + ((text * heads + h) * P + p) * N;
    for (long long t = offsets[text]; t < offsets[text + 1]; t++) {
        float step = softplus_of(dt[t * heads + h]);
        float given = step * x[(t * heads + h) * P + p], y = 0.0f;
        const float* in = b + (t * groups + group) * N;
        const float* read = c + (t * groups + group) * N;
        for (int i = 0; i < N; i++) {
            float kept = expf(step * a[h * rates + (rates == 1 ? 0 : i)]);
            state[i] = state[i] * kept + given * in[i];
            y = fmaf(state[i], read[i], y);
        }
        out[(t * heads + h) * P + p] = y;
    }
}
