/* The slots of an arena: who may write them, who reads them, who gets them back.
 * ring_kernel.h explains the protocol; the order of the steps below is what it rests on. */
#define _GNU_SOURCE
#include "ring_kernel.h"

#include <errno.h>
#include <limits.h>
#include <linux/futex.h>
#include <stdbool.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define RELAXED memory_order_relaxed

int ring_crash_at = POINT_NONE;

void ring_crash(void) { _exit(86); }

const char *ring_point_name(int point) {
    static const char *const names[] = {
        "none",
#define X(name) #name,
        RING_POINTS(X)
#undef X
    };
    return point >= 0 && point < POINT_COUNT ? names[point] : NULL;
}

/* ---- words ---- */

static uint64_t state_word(uint64_t generation, enum ring_phase phase, uint32_t aux) {
    return (generation & RING_GENERATIONS) << 24 | (uint64_t)phase << 22 | aux;
}

static uint64_t ticket_word(uint64_t generation, uint32_t holder, int kind) {
    return generation << 24 | (uint64_t)holder << 8 | (uint64_t)kind;
}

/* What a slot becomes when it is free again: nothing said about `generation` is true any more. */
static uint64_t freed_word(uint64_t generation) {
    return state_word(generation + 1, RING_FREE, 0);
}

static bool swap(ring_word *word, uint64_t from, uint64_t to) {
    return atomic_compare_exchange_strong(word, &from, to);
}

uint64_t ring_offset(const struct ring *ring, uint32_t slot) {
    const struct ring_class *size = ring_class_of(ring, slot);
    return size->data_offset + (slot - size->first) * size->stride;
}

uint64_t ring_generation(const struct ring *ring, uint32_t slot) {
    return ring_generation_of(atomic_load(&ring_slot_at(ring, slot)->state));
}

uint64_t ring_payload(const struct ring *ring, uint32_t slot) {
    return atomic_load_explicit(&ring_slot_at(ring, slot)->nbytes, RELAXED);
}

void ring_tally(struct ring *ring, enum ring_tally what, uint64_t n) {
    atomic_fetch_add_explicit(&ring->control->tallies[what], n, RELAXED);
}

/* ---- the index of free slots ---- */

void ring_wake(struct ring *ring) {
    if (atomic_load(&ring->control->waiting) == 0) return;
    atomic_fetch_add(&ring->control->freed, 1);
    RING_POINT(free_counted);
    /* All of them: they wait for different sizes, and one alone could be the wrong one. */
    syscall(SYS_futex, &ring->control->freed, FUTEX_WAKE, INT_MAX, NULL, NULL, 0);
}

/* Let others find `slot`, whose state has just become FREE. */
static void list(struct ring *ring, uint32_t slot) {
    const struct ring_class *size = ring_class_of(ring, slot);
    ring_word *index = ring_index_of(ring, size);
    uint32_t i = slot - size->first;
    RING_POINT(free_unlisted);
    atomic_fetch_or(&index[1 + i / 64], 1ull << i % 64);
    atomic_store_explicit(&index[0], i + 1, RELAXED);
    RING_POINT(free_listed);
    ring_wake(ring);
}

/* Claim slot `i` of a class. Claimed first and unlisted second, so that no death leaves a slot
 * that is free and cannot be found. */
static bool take(struct ring *ring, const struct ring_class *size, uint32_t i) {
    ring_word *state = &ring_slot_at(ring, size->first + i)->state;
    uint64_t seen = atomic_load(state);
    if (ring_phase_of(seen) != RING_FREE) return false;
    uint64_t ours = state_word(ring_generation_of(seen), RING_LOANED, ring->holder);
    if (!swap(state, seen, ours)) return false;
    RING_POINT(loan_claimed);
    atomic_fetch_and(&ring_index_of(ring, size)[1 + i / 64], ~(1ull << i % 64));
    RING_POINT(loan_unlisted);
    return true;
}

/* The slot freed last is the one most likely in a cache; else the lowest, to keep to few slots. */
static int64_t take_any(struct ring *ring, const struct ring_class *size) {
    ring_word *index = ring_index_of(ring, size);
    uint64_t hot = atomic_load_explicit(&index[0], RELAXED) - 1;
    if (hot < size->count && take(ring, size, (uint32_t)hot)) return size->first + (int64_t)hot;
    for (uint32_t base = 0; base < size->count; base += 64) {
        uint64_t bits = atomic_load(&index[1 + base / 64]);
        for (; bits != 0; bits &= bits - 1) {
            uint32_t i = base + (uint32_t)__builtin_ctzll(bits);
            if (i < size->count && take(ring, size, i)) return size->first + i;
        }
    }
    return RING_FULL;
}

/* Returns a slot of the smallest class that fits or of the next, RING_FULL, or RING_CROWDED if the
 * largest class is too small. */
int64_t ring_loan(struct ring *ring, uint64_t nbytes) {
    const struct ring_class *size = ring->header.classes;
    const struct ring_class *end = size + ring->header.n_classes;
    while (size < end && size->slot_nbytes < nbytes) size++;
    if (size == end) return RING_CROWDED;
    int64_t slot = take_any(ring, size);
    return slot < 0 && size + 1 < end ? take_any(ring, size + 1) : slot;
}

/* ---- leases ---- */

/* Free the slot if it is still of `generation`, committed and without tickets. */
static bool free_if_unused(struct ring *ring, uint32_t slot, uint64_t generation) {
    struct ring_slot *s = ring_slot_at(ring, slot);
    uint64_t seen = atomic_load(&s->state);
    do {
        if (ring_generation_of(seen) != generation || ring_phase_of(seen) != RING_COMMITTED)
            return false;
        for (uint32_t i = 0; i < ring_high_of(seen); i++)
            if (ring_is_lease(atomic_load(&s->tickets[i]), generation)) return false;
    } while (!atomic_compare_exchange_strong(&s->state, &seen, freed_word(generation)));
    list(ring, slot);
    return true;
}

int ring_commit(struct ring *ring, uint32_t slot, uint64_t generation, uint64_t nbytes,
                uint32_t readers) {
    struct ring_slot *s = ring_slot_at(ring, slot);
    atomic_store_explicit(&s->nbytes, nbytes, RELAXED);
    for (uint32_t i = 0; i < readers; i++)
        atomic_store(&s->tickets[i], ticket_word(generation, ring->holder, RING_TRANSIT));
    RING_POINT(commit_tickets);
    if (!swap(&s->state, state_word(generation, RING_LOANED, ring->holder),
              state_word(generation, RING_COMMITTED, readers << 16)))
        return RING_STALE;
    RING_POINT(commit_done);
    return RING_OK;
}

void ring_abandon(struct ring *ring, uint32_t slot, uint64_t generation) {
    if (swap(&ring_slot_at(ring, slot)->state, state_word(generation, RING_LOANED, ring->holder),
             freed_word(generation)))
        list(ring, slot);
}

static bool is_committed(struct ring_slot *s, uint64_t generation) {
    uint64_t seen = atomic_load(&s->state);
    return ring_generation_of(seen) == generation && ring_phase_of(seen) == RING_COMMITTED;
}

/* Make a lease that is in flight ours, as `kind`; returns its ticket or RING_STALE. */
int ring_adopt(struct ring *ring, uint32_t slot, uint64_t generation, uint32_t holder, int kind) {
    struct ring_slot *s = ring_slot_at(ring, slot);
    if (!is_committed(s, generation)) return RING_STALE;
    for (uint32_t i = 0; i < RING_LEASES; i++) {
        uint64_t flying = ticket_word(generation, holder, RING_TRANSIT);
        if (atomic_load(&s->tickets[i]) != flying) continue;
        if (swap(&s->tickets[i], flying, ticket_word(generation, ring->holder, kind))) {
            RING_POINT(adopted);
            return (int)i;
        }
    }
    return RING_STALE;
}

/* Give one lease back; false if it is not ours any more. */
int ring_release(struct ring *ring, uint32_t slot, uint64_t generation, int ticket, int kind) {
    ring_word *word = &ring_slot_at(ring, slot)->tickets[ticket];
    if (!swap(word, ticket_word(generation, ring->holder, kind), 0)) return 0;
    RING_POINT(release_cleared);
    free_if_unused(ring, slot, generation);
    return 1;
}

static uint32_t fill(struct ring_slot *s, uint64_t pending, uint32_t readers, uint8_t *filled) {
    uint32_t n = 0;
    for (uint32_t i = 0; i < RING_LEASES && n < readers; i++) {
        uint64_t seen = atomic_load(&s->tickets[i]);
        if (ring_is_lease(seen, ring_generation_of(pending))) continue;
        if (swap(&s->tickets[i], seen, pending)) filled[n++] = (uint8_t)i;
    }
    return n;
}

/* Count new tickets into the state word; false if the generation is over. */
static bool count_shared(struct ring_slot *s, uint64_t generation, uint32_t high) {
    uint64_t seen = atomic_load(&s->state), next;
    do {
        if (ring_generation_of(seen) != generation || ring_phase_of(seen) != RING_COMMITTED)
            return false;
        uint32_t most = ring_high_of(seen) > high ? ring_high_of(seen) : high;
        uint32_t version = (ring_aux_of(seen) + 1) & 0xffff;
        next = state_word(generation, RING_COMMITTED, most << 16 | version);
    } while (!atomic_compare_exchange_strong(&s->state, &seen, next));
    return true;
}

/* Add leases in flight to a slot that is still of `generation`; all of them or none. */
int ring_share(struct ring *ring, uint32_t slot, uint64_t generation, uint32_t readers) {
    struct ring_slot *s = ring_slot_at(ring, slot);
    uint64_t pending = ticket_word(generation, ring->holder, RING_PENDING);
    uint8_t filled[RING_LEASES];
    if (!is_committed(s, generation)) return RING_STALE;
    uint32_t n = fill(s, pending, readers, filled);
    int status = n < readers ? RING_CROWDED : RING_OK;
    RING_POINT(share_pending);
    if (status == RING_OK && !count_shared(s, generation, filled[n - 1] + 1u)) status = RING_STALE;
    if (status != RING_OK) {
        while (n > 0) swap(&s->tickets[filled[--n]], pending, 0);
        free_if_unused(ring, slot, generation); /* somebody may have left it to us */
        return status;
    }
    RING_POINT(share_counted);
    while (n > 0)
        atomic_store(&s->tickets[filled[--n]],
                     ticket_word(generation, ring->holder, RING_TRANSIT));
    RING_POINT(share_opened);
    return RING_OK;
}

/* ---- waiting ---- */

uint32_t ring_freed(const struct ring *ring) { return atomic_load(&ring->control->freed); }

void ring_mark_waiting(struct ring *ring, int waiting) {
    uint64_t bit = 1ull << ring_entry_of(ring->holder);
    if (waiting)
        atomic_fetch_or(&ring->control->waiting, bit);
    else
        atomic_fetch_and(&ring->control->waiting, ~bit);
    RING_POINT(wait_marked);
}

/* Sleep until a slot is freed after `seen` was read; 0, or the errno (ETIMEDOUT, EINTR). */
int ring_wait(struct ring *ring, uint32_t seen, int64_t timeout_ns) {
    struct timespec timeout = {timeout_ns / 1000000000, timeout_ns % 1000000000};
    long rc = syscall(SYS_futex, &ring->control->freed, FUTEX_WAIT, seen, &timeout, NULL, 0);
    return rc == 0 || errno == EAGAIN ? 0 : errno;
}

/* ---- processes ---- */

/* Every slot free, and the index says so. The file has no name yet: nobody else looks. */
void ring_format(struct ring *ring) {
    uint64_t generation = 1 + (ring->header.arena_id & 0xffffffff);
    memcpy(&ring->control->header, &ring->header, sizeof ring->header);
    for (uint32_t k = 0; k < ring->header.n_classes; k++) {
        const struct ring_class *size = &ring->header.classes[k];
        for (uint32_t i = 0; i < size->count; i++) {
            struct ring_slot *s = ring_slot_at(ring, size->first + i);
            atomic_store(&s->state, state_word(generation, RING_FREE, 0));
            atomic_fetch_or(&ring_index_of(ring, size)[1 + i / 64], 1ull << i % 64);
        }
    }
}

/* Enter this process; pid and start time become visible in one step. */
int ring_register(struct ring *ring) {
    struct ring_header self;
    if (ring_self(&self) != 0) return RING_ERRNO;
    for (uint32_t i = 0; i < RING_PROCESSES; i++) {
        struct ring_process *process = &ring->control->processes[i];
        if (!swap(&process->identity, 0, self.owner)) continue;
        RING_POINT(registered);
        uint64_t incarnation = (atomic_load(&process->incarnation) + 1) & 0x3ff;
        atomic_store(&process->incarnation, incarnation);
        ring->holder = (uint32_t)(incarnation << 6 | i);
        return RING_OK;
    }
    return RING_CROWDED;
}

/* Take back what process `entry` has of one slot. */
static void reclaim(struct ring *ring, uint32_t slot, uint32_t entry, struct ring_reaped *reaped) {
    struct ring_slot *s = ring_slot_at(ring, slot);
    uint64_t seen = atomic_load(&s->state);
    bool loaned = ring_phase_of(seen) == RING_LOANED && ring_entry_of(ring_aux_of(seen)) == entry;
    if (loaned && swap(&s->state, seen, freed_word(ring_generation_of(seen)))) {
        reaped->leases++;
        reaped->slots++;
        list(ring, slot);
    }
    bool cleared = false;
    for (uint32_t i = 0; i < RING_LEASES; i++) {
        uint64_t ticket = atomic_load(&s->tickets[i]);
        if (ticket == 0 || ring_entry_of(ring_holder_of(ticket)) != entry) continue;
        if (!swap(&s->tickets[i], ticket, 0)) continue;
        cleared = true;
        if (!loaned && ring_generation_of(ticket) == ring_generation_of(seen)) reaped->leases++;
    }
    if (cleared && free_if_unused(ring, slot, ring_generation_of(seen))) reaped->slots++;
}

static void dismiss(struct ring *ring, uint32_t entry, struct ring_reaped *reaped) {
    for (uint32_t slot = 0; slot < ring->header.n_slots; slot++)
        reclaim(ring, slot, entry, reaped);
    atomic_fetch_and(&ring->control->waiting, ~(1ull << entry));
    RING_POINT(leave_cleared);
    /* Last: until now nobody else can be given the entry. */
    atomic_store(&ring->control->processes[entry].identity, 0);
    reaped->processes++;
}

void ring_leave(struct ring *ring) {
    struct ring_reaped ignored = {0, 0, 0};
    dismiss(ring, ring_entry_of(ring->holder), &ignored);
}

/* For tests: from now on this attachment looks like a process that was killed. */
void ring_forge_death(struct ring *ring) {
    ring_word *identity = &ring->control->processes[ring_entry_of(ring->holder)].identity;
    atomic_store(identity, (atomic_load(identity) & ((1u << 22) - 1)) | 1ull << 22);
}

/* Finish what a process that is gone began and did not end. */
static bool mend(struct ring *ring, uint32_t slot) {
    uint64_t seen = atomic_load(&ring_slot_at(ring, slot)->state);
    if (ring_phase_of(seen) == RING_COMMITTED)
        return free_if_unused(ring, slot, ring_generation_of(seen));
    if (ring_phase_of(seen) != RING_FREE || ring_is_listed(ring, slot)) return false;
    list(ring, slot);
    return true;
}

void ring_reap(struct ring *ring, struct ring_reaped *reaped) {
    memset(reaped, 0, sizeof *reaped);
    for (uint32_t entry = 0; entry < RING_PROCESSES; entry++) {
        uint64_t identity = atomic_load(&ring->control->processes[entry].identity);
        if (identity != 0 && !ring_alive(identity)) dismiss(ring, entry, reaped);
    }
    for (uint32_t slot = 0; slot < ring->header.n_slots; slot++)
        reaped->slots += mend(ring, slot);
    ring_tally(ring, RING_RECLAIMED, reaped->leases);
    if (reaped->processes > 0) ring_wake(ring);
}
