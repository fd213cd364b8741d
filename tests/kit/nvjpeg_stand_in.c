/* The calls of nvJPEG that vdag makes, on the host's memory, for files of a format of its own:
 * "FAKE", width, height and components as little-endian 32 bits, then the pixels. A width of 6666
 * makes its decoding fail, one of 7777 the device's. It has decoders in hardware if told so, which
 * take no file whose height is odd. Declared after nvjpeg.h of CUDA 13. */

#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

typedef struct {
    unsigned char *channel[4];
    size_t pitch[4];
} image;

struct state { int batch, threads, format; };

int live, has_hardware, by_hardware;

static int number(const unsigned char *data, int index)
{
    int32_t value;
    memcpy(&value, data + 4 + 4 * index, 4);
    return value;
}

int nvjpegCreateEx(int backend, void *device, void *pinned, unsigned flags, void **handle)
{
    if (device || pinned || flags != 32 || (backend == 3 && !has_hardware))
        return 7;
    live++;
    *handle = calloc(1, 1);
    **(char **)handle = backend == 3;
    return 0;
}

int nvjpegDestroy(void *handle)
{
    live--;
    free(handle);
    return 0;
}

int nvjpegJpegStateCreate(void *handle, void **state)
{
    live++;
    *state = calloc(1, sizeof(struct state));
    return handle ? 0 : 2;
}

int nvjpegJpegStateDestroy(void *state)
{
    live--;
    free(state);
    return 0;
}

int nvjpegGetImageInfo(void *handle, const unsigned char *data, size_t length, int *components,
                       int *subsampling, int *widths, int *heights)
{
    if (length < 16 || memcmp(data, "FAKE", 4))
        return 3;
    widths[0] = number(data, 0);
    heights[0] = number(data, 1);
    *components = number(data, 2);
    *subsampling = 0;
    return handle ? 0 : 2;
}

int nvjpegDecodeBatchedInitialize(void *handle, struct state *state, int batch, int threads,
                                  int format)
{
    *state = (struct state){batch, threads, format};
    return handle && format == 6 ? 0 : 2;
}

int nvjpegDecodeBatched(void *handle, struct state *state, const unsigned char *const *data,
                        const size_t *lengths, image *images, void *stream)
{
    if (!handle || !stream || state->batch < 1 || state->threads < 1)
        return 2;
    for (int i = 0; i < state->batch; i++) {
        const int width = number(data[i], 0), height = number(data[i], 1);
        if (width == 7777)
            return 6;
        if (*(char *)handle && height % 2)
            return 4;
        if (width == 6666 || lengths[i] < 16 + (size_t)width * height * 3)
            return 10;
        for (int row = 0; row < height; row++)
            memcpy(images[i].channel[0] + row * images[i].pitch[0],
                   data[i] + 16 + (size_t)row * width * 3, (size_t)width * 3);
    }
    by_hardware += *(char *)handle;
    return 0;
}
