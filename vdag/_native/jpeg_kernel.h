/* JPEG coding over libturbojpeg, which is found at run time.
 *
 * Nothing here knows Python: `jpeg.pyx` checks shapes and holds the buffers, this file calls the
 * library. A job is one picture to encode or decode; a batch of jobs is run by some threads.
 */
#ifndef VDAG_JPEG_KERNEL_H
#define VDAG_JPEG_KERNEL_H

#include <stddef.h>

enum {
    VDAG_JPEG_MAX_SIDE = 65500, /* libjpeg's JPEG_MAX_DIMENSION */
    VDAG_JPEG_MAX_THREADS = 64,
    VDAG_JPEG_TEXT = 200, /* libjpeg's longest message, JMSG_LENGTH_MAX */
};

/* Numbers as in the library's enum TJSAMP, and one past its last. */
enum {
    VDAG_JPEG_444,
    VDAG_JPEG_422,
    VDAG_JPEG_420,
    VDAG_JPEG_GRAY,
    VDAG_JPEG_440,
    VDAG_JPEG_411,
    VDAG_JPEG_441,
    VDAG_JPEG_OTHER,
};

typedef struct {
    int width, height, components, subsampling;
} vdag_jpeg_info;

typedef struct {
    /* Pixels. `rows` is the lowest address, whichever row lies there. */
    unsigned char *rows;
    int pitch; /* bytes from row to row, positive */
    int width, height;
    int channels; /* 3, or 1 to encode gray pixels */
    int bottom_up; /* the last row lies first in memory */
    int rgb;

    /* JPEG. To encode: room of at least vdag_jpeg_bound(), and then the bytes written. */
    unsigned char *jpeg;
    size_t nbytes;

    /* Encoding. */
    int quality, subsampling;

    /* Decoding. `info` is what vdag_jpeg_header() found; the library must see the same. */
    vdag_jpeg_info info;
    int reduce; /* 1, 2, 4 or 8 */
    int strict; /* warnings are errors */
    int shared; /* somebody may write to `jpeg` meanwhile: decode from a private copy */

    int failed;
    char text[VDAG_JPEG_TEXT]; /* why it failed */
} vdag_jpeg_job;

enum { VDAG_JPEG_DECODE, VDAG_JPEG_ENCODE };

/* Load a library by path or name. Returns 3 (its tj3* functions are used), 2 (the older tj*), or 0
 * with the reason in `text`. `legacy` asks for the older functions even where there are newer.
 * No job may be running. */
int vdag_jpeg_open(const char *path, int legacy, char text[VDAG_JPEG_TEXT]);

/* Where the loaded library lies; valid until the process ends. */
const char *vdag_jpeg_path(void);

/* Read the size of a picture from its markers, without the library and without memory.
 * Returns 0, or -1 with the reason in `text`. */
int vdag_jpeg_header(const unsigned char *data, size_t nbytes, vdag_jpeg_info *info,
                     char text[VDAG_JPEG_TEXT]);

/* Bytes that a JPEG of this size never exceeds. */
size_t vdag_jpeg_bound(int width, int height, int subsampling);

/* Run a batch on the calling thread and up to `threads - 1` others; returns when all are done.
 * Returns -1, or the number of the first job that failed; later ones may then not have been run. */
ptrdiff_t vdag_jpeg_run(vdag_jpeg_job *jobs, size_t count, int kind, int threads);

/* Library handles that exist, and those of them that wait for the next job. */
void vdag_jpeg_coders(int *live, int *idle);

/* Free the waiting handles and keep none from now on. */
void vdag_jpeg_close(void);

#endif
