/* Looking at an arena without touching it: counts, and the invariants of ring_kernel.h. */
#include "ring_kernel.h"

#include <stdbool.h>
#include <string.h>

uint64_t ring_tallied(const struct ring *ring, enum ring_tally what) {
    return atomic_load_explicit(&ring->control->tallies[what], memory_order_relaxed);
}

void ring_count(const struct ring *ring, const struct ring_class *size,
                struct ring_counts *counts) {
    memset(counts, 0, sizeof *counts);
    for (uint32_t i = 0; i < size->count; i++) {
        struct ring_slot *s = ring_slot_at(ring, size->first + i);
        uint64_t seen = atomic_load(&s->state);
        counts->free += ring_phase_of(seen) == RING_FREE;
        counts->loaned += ring_phase_of(seen) == RING_LOANED;
        counts->committed += ring_phase_of(seen) == RING_COMMITTED;
        if (ring_phase_of(seen) != RING_COMMITTED) continue;
        for (uint32_t k = 0; k < ring_high_of(seen); k++)
            counts->leases +=
                ring_is_lease(atomic_load(&s->tickets[k]), ring_generation_of(seen));
    }
}

uint32_t ring_count_processes(const struct ring *ring) {
    uint32_t n = 0;
    for (uint32_t i = 0; i < RING_PROCESSES; i++)
        n += atomic_load(&ring->control->processes[i].identity) != 0;
    return n;
}

static bool is_registered(const struct ring *ring, uint32_t holder) {
    struct ring_process *process = &ring->control->processes[ring_entry_of(holder)];
    return atomic_load(&process->identity) != 0 &&
           atomic_load(&process->incarnation) == holder >> 6;
}

static const char *check_slot(const struct ring *ring, uint32_t slot) {
    struct ring_slot *s = ring_slot_at(ring, slot);
    uint64_t seen = atomic_load(&s->state);
    uint32_t phase = ring_phase_of(seen), leases = 0;
    for (uint32_t i = 0; i < RING_LEASES; i++) {
        uint64_t ticket = atomic_load(&s->tickets[i]);
        if (!ring_is_lease(ticket, ring_generation_of(seen))) continue;
        leases++;
        if (!is_registered(ring, ring_holder_of(ticket))) return "is leased to nobody";
        if ((ticket & 0xff) == RING_PENDING) return "has a lease that was never opened";
        if (phase != RING_COMMITTED) return "has a lease without being committed";
        if (i >= ring_high_of(seen)) return "has a lease above its mark";
    }
    if (phase == RING_COMMITTED) return leases > 0 ? NULL : "is committed without a lease";
    if (phase == RING_LOANED)
        return is_registered(ring, ring_aux_of(seen)) ? NULL : "is loaned to nobody";
    if (phase != RING_FREE) return "is in no state";
    return ring_is_listed(ring, slot) ? NULL : "is free and not listed";
}

/* NULL, or what is wrong with `*slot`. True only while nobody else works on the arena. */
const char *ring_check(const struct ring *ring, uint32_t *slot) {
    for (*slot = 0; *slot < ring->header.n_slots; (*slot)++) {
        const char *fault = check_slot(ring, *slot);
        if (fault != NULL) return fault;
    }
    return NULL;
}
