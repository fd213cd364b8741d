/* The functions of libturbojpeg that are used, found in a library at run time.
 *
 * Prototypes and numbers are those of the TurboJPEG C API, as documented in the library's own
 * turbojpeg.h (versions 2.0 to 3.1). Version 3 has one function per sample size, and parameters in
 * the handle; before it, parameters were flags of each call. Included by jpeg_kernel.c alone.
 */
#ifndef VDAG_JPEG_LIBRARY_H
#define VDAG_JPEG_LIBRARY_H

#include <dlfcn.h>
#include <stddef.h>

typedef unsigned char byte;

typedef struct {
    int num, denom;
} tjscalingfactor;

enum { TJPF_RGB = 0, TJPF_BGR = 1, TJPF_GRAY = 6 };
enum { TJINIT_COMPRESS = 0, TJINIT_DECOMPRESS = 1 };
enum { TJERR_WARNING = 0 };
enum {
    TJPARAM_STOPONWARNING = 0,
    TJPARAM_BOTTOMUP = 1,
    TJPARAM_NOREALLOC = 2,
    TJPARAM_QUALITY = 3,
    TJPARAM_SUBSAMP = 4,
    TJPARAM_JPEGWIDTH = 5,
    TJPARAM_JPEGHEIGHT = 6,
    TJPARAM_SCANLIMIT = 13,
};
enum {
    TJFLAG_BOTTOMUP = 2,
    TJFLAG_NOREALLOC = 1024,
    TJFLAG_ACCURATEDCT = 4096,
    TJFLAG_STOPONWARNING = 8192,
    TJFLAG_LIMITSCANS = 32768,
};

/* A progressive picture of a few kilobytes may hold thousands of scans, each as much work as a
 * picture; the older API has this limit built in. */
enum { MAX_SCANS = 500 };

#define NEWER_CALLS(X)                                                                            \
    X(void *, tj3Init, (int))                                                                     \
    X(void, tj3Destroy, (void *))                                                                 \
    X(char *, tj3GetErrorStr, (void *))                                                           \
    X(int, tj3GetErrorCode, (void *))                                                             \
    X(int, tj3Set, (void *, int, int))                                                            \
    X(int, tj3Get, (void *, int))                                                                 \
    X(size_t, tj3JPEGBufSize, (int, int, int))                                                    \
    X(int, tj3DecompressHeader, (void *, const byte *, size_t))                                   \
    X(int, tj3SetScalingFactor, (void *, tjscalingfactor))                                        \
    X(int, tj3Decompress8, (void *, const byte *, size_t, byte *, int, int))                      \
    X(int, tj3Compress8, (void *, const byte *, int, int, int, int, byte **, size_t *))

#define OLDER_CALLS(X)                                                                            \
    X(void *, tjInitCompress, (void))                                                             \
    X(void *, tjInitDecompress, (void))                                                           \
    X(int, tjDestroy, (void *))                                                                   \
    X(char *, tjGetErrorStr2, (void *))                                                           \
    X(int, tjGetErrorCode, (void *))                                                              \
    X(unsigned long, tjBufSize, (int, int, int))                                                  \
    X(int, tjDecompressHeader3, (void *, const byte *, unsigned long, int *, int *, int *, int *)) \
    X(int, tjDecompress2,                                                                         \
      (void *, const byte *, unsigned long, byte *, int, int, int, int, int))                     \
    X(int, tjCompress2,                                                                           \
      (void *, const byte *, int, int, int, int, byte **, unsigned long *, int, int, int))

#define DECLARE(type, name, arguments) static type(*name) arguments;
NEWER_CALLS(DECLARE)
OLDER_CALLS(DECLARE)
#undef DECLARE

static int newer; /* which of the two sets is used */
static char loaded_path[4096];

#define FIND(type, name, arguments) &&(*(void **)(&name) = dlsym(library, #name)) != NULL

static int find_newer(void *library)
{
    return 1 NEWER_CALLS(FIND);
}

static int find_older(void *library)
{
    return 1 OLDER_CALLS(FIND);
}

#endif
