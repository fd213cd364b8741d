"""What `jpeg.pyx` uses of `jpeg_kernel.h`."""

from libc.stddef cimport ptrdiff_t


cdef extern from "jpeg_kernel.h" nogil:
    enum:
        VDAG_JPEG_GRAY
        VDAG_JPEG_DECODE
        VDAG_JPEG_ENCODE

    ctypedef struct vdag_jpeg_info:
        int width
        int height
        int components
        int subsampling

    ctypedef struct vdag_jpeg_job:
        unsigned char *rows
        int pitch
        int width
        int height
        int channels
        int bottom_up
        int rgb
        unsigned char *jpeg
        size_t nbytes
        int quality
        int subsampling
        vdag_jpeg_info info
        int reduce
        int strict
        int shared
        char *text  # an array in fact

    int vdag_jpeg_open(const char *path, int legacy, char *text) noexcept
    const char *vdag_jpeg_path() noexcept
    int vdag_jpeg_header(const unsigned char *data, size_t nbytes, vdag_jpeg_info *info,
                         char *text) noexcept
    size_t vdag_jpeg_bound(int width, int height, int subsampling) noexcept
    ptrdiff_t vdag_jpeg_run(vdag_jpeg_job *jobs, size_t count, int kind, int threads) noexcept
    void vdag_jpeg_coders(int *live, int *idle) noexcept
    void vdag_jpeg_close() noexcept
