/* Reading the size of a JPEG from its markers: ISO/IEC 10918-1, annex B.
 *
 * Included by jpeg_kernel.c alone, which takes `byte` and `explain` from here too. Stricter than
 * the library: whoever wants memory for a picture has to say plainly how large it is.
 */
#ifndef VDAG_JPEG_HEADER_H
#define VDAG_JPEG_HEADER_H

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "jpeg_kernel.h"

typedef unsigned char byte;

static int explain(char text[VDAG_JPEG_TEXT], const char *format, ...)
{
    va_list values;
    va_start(values, format);
    vsnprintf(text, VDAG_JPEG_TEXT, format, values);
    va_end(values);
    return -1;
}

static int subsampling_of(const byte *factors, int components)
{
    /* Luma's sampling factors over chroma's, as 16 * horizontal + vertical. */
    static const byte ratios[] = {0x11, 0x21, 0x22, 0, 0x12, 0x41, 0x14};

    if (components != 3)
        return components == 1 ? VDAG_JPEG_GRAY : VDAG_JPEG_OTHER;
    byte luma = factors[1], chroma = factors[4];
    if (chroma != factors[7] || (luma >> 4) % (chroma >> 4) || (luma & 15) % (chroma & 15))
        return VDAG_JPEG_OTHER;
    byte ratio = (byte)((luma >> 4) / (chroma >> 4) << 4 | (luma & 15) / (chroma & 15));
    for (int i = 0; i < VDAG_JPEG_OTHER; i++)
        if (ratios[i] == ratio)
            return i;
    return VDAG_JPEG_OTHER;
}

/* `segment` is a frame header from its length on, all of it there. */
static int read_frame(const byte *segment, size_t length, vdag_jpeg_info *info, char *text)
{
    byte frame[8 + 3 * 4] = {0}; /* a copy: the data may be shared, and change between checks */

    memcpy(frame, segment, length < sizeof frame ? length : sizeof frame);
    if (length < 8 || length != 8 + 3 * (size_t)frame[7])
        return explain(text, "frame header has %zu bytes", length);
    info->height = frame[3] << 8 | frame[4];
    info->width = frame[5] << 8 | frame[6];
    info->components = frame[7];
    if (frame[2] != 8)
        return explain(text, "samples have %d bits, not 8", frame[2]);
    if (info->width == 0 || info->height == 0)
        return explain(text, "picture of %d x %d pixels is empty", info->width, info->height);
    if (info->width > VDAG_JPEG_MAX_SIDE || info->height > VDAG_JPEG_MAX_SIDE)
        return explain(text, "picture of %d x %d pixels exceeds side %d", info->width,
                       info->height, VDAG_JPEG_MAX_SIDE);
    if (info->components != 1 && info->components != 3 && info->components != 4)
        return explain(text, "picture has %d components, not 1, 3 or 4", info->components);
    for (int i = 0; i < info->components; i++) {
        int across = frame[9 + 3 * i] >> 4, down = frame[9 + 3 * i] & 15;
        if (across < 1 || across > 4 || down < 1 || down > 4)
            return explain(text, "sampling factors %d x %d are outside 1..4", across, down);
    }
    info->subsampling = subsampling_of(frame + 8, info->components);
    return 0;
}

int vdag_jpeg_header(const byte *data, size_t nbytes, vdag_jpeg_info *info,
                     char text[VDAG_JPEG_TEXT])
{
    size_t at = 2;

    if (nbytes < 2 || data[0] != 0xFF || data[1] != 0xD8)
        return explain(text, "data does not start with the JPEG marker ffd8");
    for (;;) {
        if (at < nbytes && data[at] != 0xFF)
            return explain(text, "byte %zu is no JPEG marker", at);
        while (at < nbytes && data[at] == 0xFF) /* any number of fill bytes */
            at++;
        if (nbytes - at < 3) /* code and length */
            return explain(text, "data of %zu bytes ends before its frame header", nbytes);
        int code = data[at++];
        if (code == 0x01 || (code >= 0xD0 && code <= 0xD7))
            continue; /* no length follows */
        if (code == 0x00 || (code >= 0xD8 && code <= 0xDA))
            return explain(text, "marker ff%02x comes before the frame header", code);
        size_t length = (size_t)data[at] << 8 | data[at + 1];
        if (length < 2 || length > nbytes - at)
            return explain(text, "data of %zu bytes ends before its frame header", nbytes);
        if (code == 0xC0 || code == 0xC1 || code == 0xC2 || code == 0xC9 || code == 0xCA)
            return read_frame(data + at, length, info, text);
        if (code >= 0xC0 && code <= 0xCF && code != 0xC4 && code != 0xCC)
            return explain(text, "coding process ff%02x is not supported", code);
        at += length;
    }
}

#endif
