// What several kernels share. It needs no headers, as NVRTC has none.
//
// All kernels are compiled with --fmad=false: a product and a sum are fused where the source says fmaf, and nowhere
// else. So an operation has the same bits on every GPU, and only expf, tanhf, erfcf and log1pf are the library's.
// A row (in attention: a query) is computed in an order that depends on nothing around it.

#define WARP 32u
#define ALL 0xffffffffu
#define INFINITE __int_as_float(0x7f800000)

// The sum of one number of each of a warp's threads; every thread has it.
__device__ __forceinline__ double warp_sum(double x) {
    for (int other = 16; other > 0; other /= 2) x += __shfl_xor_sync(ALL, x, other);
    return x;
}

__device__ __forceinline__ float warp_sum(float x) {
    for (int other = 16; other > 0; other /= 2) x += __shfl_xor_sync(ALL, x, other);
    return x;
}

// The largest of one number of each of a warp's threads.
__device__ __forceinline__ float warp_max(float x) {
    for (int other = 16; other > 0; other /= 2) x = fmaxf(x, __shfl_xor_sync(ALL, x, other));
    return x;
}

// This thread's place among all threads of a launch; as 64 bits, since a matrix may have more than 2^31 numbers.
__device__ __forceinline__ long long thread_number() {
    return (long long)blockIdx.x * blockDim.x + threadIdx.x;
}

// The warp that this thread belongs to, among all warps of a launch, and its place in it.
__device__ __forceinline__ long long warp_number() { return thread_number() / WARP; }
__device__ __forceinline__ int lane_number() { return threadIdx.x % WARP; }
