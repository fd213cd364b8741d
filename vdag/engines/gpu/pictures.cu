/* Pictures into a planar tensor: `vdag/_native/preprocess_kernel.c` for a GPU.
 *
 * One thread makes one pixel of the tensor, all three channels; blockIdx.z is the picture. Positions
 * are float here and double there, which moves a sample by less than a thousandth of a level at
 * 8192 pixels. The file includes nothing, so that NVRTC needs no headers, and the test compiles it
 * with a compiler for CPUs. */

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned long long u64;

/* One picture: `ITEM` in pictures.py is the same. */
struct vdag_item {
    u64 src;    /* device address of its first sample */
    u64 stride; /* bytes from row to row */
    int src_width, src_height;
    int width, height; /* the rectangle that it fills */
    int left, top;     /* and where that begins */
};

#ifdef __CUDACC__
static __device__ __forceinline__ u16 vdag_half(float value)
{
    u16 bits;
    asm("{ cvt.rn.f16.f32 %0, %1; }" : "=h"(bits) : "f"(value));
    return bits;
}
#endif

static __device__ __forceinline__ void vdag_store(float *out, float value) { *out = value; }
static __device__ __forceinline__ void vdag_store(u16 *out, float value) { *out = vdag_half(value); }

/* Pixel centres are at halves; outside, the edge repeats. */
static __device__ __forceinline__ int vdag_neighbour(int at, int src_length, int length,
                                                     float *weight)
{
    const float ratio = (float)src_length / (float)length;
    const float position = ((float)at + 0.5f) * ratio - 0.5f;
    const float last = (float)(src_length - 1);
    const float inside = position < 0.0f ? 0.0f : position > last ? last : position;
    const int first = (int)inside;
    *weight = inside - (float)first;
    return first;
}

template <typename sample>
static __device__ __forceinline__ void vdag_pixel(const vdag_item *items, sample *out, int width,
                                                  int height, int rgb, const float *gain,
                                                  const float *bias, const float *pad)
{
    const int x = (int)(blockIdx.x * blockDim.x + threadIdx.x);
    const int y = (int)(blockIdx.y * blockDim.y + threadIdx.y);
    if (x >= width || y >= height)
        return;
    const vdag_item item = items[blockIdx.z];
    const u64 plane = (u64)width * (u64)height;
    sample *const to = out + (u64)blockIdx.z * 3 * plane + (u64)y * (u64)width + (u64)x;
    const int column = x - item.left, row = y - item.top;
    if (column < 0 || column >= item.width || row < 0 || row >= item.height) {
        for (int c = 0; c < 3; c++)
            vdag_store(to + (u64)c * plane, pad[c]);
        return;
    }
    float across, down;
    const int left = vdag_neighbour(column, item.src_width, item.width, &across);
    const int top = vdag_neighbour(row, item.src_height, item.height, &down);
    const int right = left + 1 < item.src_width ? left + 1 : left;
    const int bottom = top + 1 < item.src_height ? top + 1 : top;
    const u8 *const src = (const u8 *)item.src;
    const u8 *const upper = src + (u64)top * item.stride;
    const u8 *const lower = src + (u64)bottom * item.stride;
    for (int c = 0; c < 3; c++) {
        const int from = rgb ? 2 - c : c;
        const float a = upper[3 * left + from], b = upper[3 * right + from];
        const float d = lower[3 * left + from], e = lower[3 * right + from];
        const float above = a + (b - a) * across, below = d + (e - d) * across;
        vdag_store(to + (u64)c * plane, (above + (below - above) * down) * gain[c] + bias[c]);
    }
}

/* The numbers of a `Launch`, in its order. */
#define VDAG_KERNEL(name, sample)                                                                \
    extern "C" __global__ void name(const vdag_item *items, sample *out, int width, int height,  \
                                    int rgb, float gain0, float gain1, float gain2, float bias0, \
                                    float bias1, float bias2, float pad0, float pad1, float pad2) \
    {                                                                                            \
        const float gain[3] = {gain0, gain1, gain2};                                             \
        const float bias[3] = {bias0, bias1, bias2};                                             \
        const float pad[3] = {pad0, pad1, pad2};                                                 \
        vdag_pixel<sample>(items, out, width, height, rgb, gain, bias, pad);                     \
    }

VDAG_KERNEL(vdag_pictures_float32, float)
VDAG_KERNEL(vdag_pictures_float16, u16)
