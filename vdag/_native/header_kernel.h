/* The descriptor header as it lies in memory; `reference_header.py` has the table. */

#ifndef VDAG_HEADER_KERNEL_H
#define VDAG_HEADER_KERNEL_H

#include <stddef.h>
#include <stdint.h>

typedef struct {
    char magic[4];
    uint16_t version, header_nbytes;
    uint32_t link_nbytes;
    uint8_t kind, dtype, ndim, hop;
    uint64_t plan, stream, seq, cam_frame_id;
    int64_t capture_ns, deadline_ns, pts_ns;
    uint32_t shape[4];
    uint64_t arena, generation, offset, payload_nbytes;
    uint32_t slot, route_nbytes, context_nbytes, padding;
} vdag_header;

/* Packing is one memcpy, so the compiler must lay the fields out as the wire does. */
_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "the wire is little-endian");
_Static_assert(offsetof(vdag_header, version) == 4, "layout");
_Static_assert(offsetof(vdag_header, link_nbytes) == 8, "layout");
_Static_assert(offsetof(vdag_header, kind) == 12, "layout");
_Static_assert(offsetof(vdag_header, plan) == 16, "layout");
_Static_assert(offsetof(vdag_header, capture_ns) == 48, "layout");
_Static_assert(offsetof(vdag_header, shape) == 72, "layout");
_Static_assert(offsetof(vdag_header, arena) == 88, "layout");
_Static_assert(offsetof(vdag_header, slot) == 120, "layout");
_Static_assert(offsetof(vdag_header, padding) == 132, "layout");
_Static_assert(sizeof(vdag_header) == 136, "layout");

#endif
