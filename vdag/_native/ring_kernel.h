/* Slots of a node's shared-memory arena: layout in memory and how they are shared.
 *
 * Theory of operation
 * -------------------
 * One file in /dev/shm. Its front, the control region, is mapped read-write by every attached
 * process; the slots' data behind it read-only by processes that only consume. Any process may be
 * killed between any two instructions, so nothing here is ever true in two places at once:
 *
 *   state    one word per slot: {generation:40, phase:2, aux:22}. FREE; LOANED, aux = who; or
 *            COMMITTED, aux = {high:6, version:16}. The only truth about who may write the slot.
 *   tickets  56 words per slot: {generation:40, holder:16, kind:8}. Each is one lease, and names
 *            the one process that answers for it. A ticket of another generation is no ticket.
 *   index    one bit per slot, "may be free", and the slot freed last. Only a way to find free
 *            slots, hottest first: a bit too many costs one look at a state word. A linked list
 *            would be a second truth, and a slot between the two be nowhere.
 *
 * Every step that moves responsibility is one compare-and-swap (CAS) on one word:
 *
 *   loan      state FREE(g) -> LOANED(g, me); clear the index bit
 *   commit    write n tickets {g, me, TRANSIT}; state LOANED(g, me) -> COMMITTED(g)
 *   adopt     ticket {g, sender, TRANSIT} -> {g, me, HELD}: a descriptor in flight is the sender's
 *             until this succeeds; it fails, StaleFrame, if a reaper took the ticket first
 *   share     tickets empty -> {g, me, PENDING}; state version + 1 (and high, the number of tickets
 *             in use); tickets -> TRANSIT
 *   release   ticket -> 0; then free
 *   free      read state, see no ticket below `high`, state COMMITTED(g) -> FREE(g + 1); set the
 *             index bit; if somebody is `waiting`, count `freed` and wake
 *
 * Why nobody reads a slot that is written again: a slot is written only while LOANED, and becomes
 * FREE only by a CAS from the state word that was read before its tickets were. Let a TRANSIT or
 * HELD ticket exist at that CAS. Its version step, or its commit, came before it was adoptable; had
 * that come after the read, the CAS would fail; so it came before, and the look at the tickets saw
 * it. PENDING tickets cannot be adopted: so this holds for a sharer that dies half way too.
 *
 * Why no slot is lost: of several that release at once, the one whose ticket is cleared last sees
 * no other, because clearing and looking are sequentially consistent (both write, then read what
 * the other wrote: acquire and release alone would let both miss it). A sharer that gives up its
 * PENDING tickets looks too, since somebody may have seen them and left.
 *
 * Orders: state, tickets, index bits, `freed` and `waiting` are seq_cst throughout, for the reason
 * above and its like in waiting (`waiting` is set, index bits read; an index bit is set, `waiting`
 * read). Pixels, and their length, need less and get it: they are written before the ticket that is
 * adopted after, and read before the ticket is cleared, which is seen before the state word that
 * the next writer swaps. Only statistics and the `hot` hint are relaxed. Nothing relies on x86.
 *
 * Death of a process between two steps, and what `ring_reap` finds of it (RING_POINTS names them):
 *
 *   registered, nothing done     an identity without leases: entry freed
 *   LOANED(g, dead), bit set or not, tickets written or not
 *                                -> FREE(g + 1), which voids the tickets, and bit set
 *   committed, never sent; sent, not adopted; adopted, not mapped; held
 *                                tickets {g, dead, any}: cleared; the last one frees
 *   PENDING, counted or not      the same
 *   last ticket cleared, COMMITTED without tickets: freed. FREE without its bit: bit set.
 *   freed, nobody woken          `freed` is counted and everybody woken at the end of a reap
 *   marked as waiting            bit cleared, with the entry
 *
 * Every one of these steps is the CAS that a live process would have made, so a reap is safe beside
 * live ones: adopter and reaper swap the same word, one of them loses. It assumes only that the
 * dead do nothing any more: dead is who has no /proc entry, another start time (the pid was used
 * again), or is a zombie without threads. Only the owner reaps, so two never meet. If the owner
 * dies, the arena is over; mapped views stay readable, and its file goes at the next sweep.
 *
 * A lease in flight outlives the receiver that dies before it adopts; whoever sent it drops it
 * then, which fails if it was adopted after all. So an exchange adopts what passes through it, and
 * answers for what waits there.
 *
 * Generations start at a number drawn per arena, so that a descriptor from a node's earlier arena
 * is stale here too. They wrap after 2^40 reuses of one slot.
 */
#ifndef VDAG_RING_KERNEL_H
#define VDAG_RING_KERNEL_H

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

#define RING_MAGIC 0x31474e4952474456ull /* "VDGRING1" as bytes */
#define RING_VERSION 1
#define RING_PROCESSES 64u
#define RING_LEASES 56u
#define RING_CLASSES 16u
#define RING_SLOTS 65536u

typedef _Atomic uint64_t ring_word;
_Static_assert(ATOMIC_LLONG_LOCK_FREE == 2 && sizeof(ring_word) == 8, "64-bit lock-free atomics");
_Static_assert(sizeof(void *) == 8, "a 64-bit address space");
_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "the layout is little-endian");

/* Constant after creation. Offsets count from the start of the file. */
struct ring_class {
    uint64_t slot_nbytes;
    uint64_t stride;       /* slot_nbytes rounded up: to pages from a page on, else to 64 */
    uint64_t data_offset;  /* of slot `first`; on a page */
    uint64_t index_offset; /* word 0: 1 + position of the slot freed last; then one bit per slot */
    uint32_t first, count;
};

struct ring_header {
    uint64_t magic;
    uint32_t version, page_nbytes;
    uint64_t total_nbytes, control_nbytes, slots_offset;
    uint64_t arena_id, owner, pid_namespace;
    uint32_t n_classes, n_slots;
    struct ring_class classes[RING_CLASSES]; /* sizes ascend */
};

struct ring_process {
    ring_word identity;    /* pid | start time in clock ticks << 22; 0: nobody */
    ring_word incarnation; /* tells the entry's users apart: holder = incarnation:10 | entry:6 */
};

/* What changes. Words that are written together share a cache line, others do not. */
struct ring_control {
    struct ring_header header;
    _Alignas(64) _Atomic uint32_t freed; /* futex: changes when a slot came back and was awaited */
    ring_word waiting;                   /* one bit per process that sleeps on `freed` */
    _Alignas(64) ring_word tallies[4];   /* by enum ring_tally */
    _Alignas(64) struct ring_process processes[RING_PROCESSES];
};

struct ring_slot {
    _Alignas(64) ring_word state;
    ring_word nbytes; /* of the committed payload */
    ring_word reserved[6];
    ring_word tickets[RING_LEASES];
};
_Static_assert(sizeof(struct ring_class) == 40 && sizeof(struct ring_header) == 712, "layout");
_Static_assert(offsetof(struct ring_control, freed) == 768, "layout");
_Static_assert(offsetof(struct ring_control, tallies) == 832, "layout");
_Static_assert(offsetof(struct ring_control, processes) == 896, "layout");
_Static_assert(sizeof(struct ring_control) == 1920 && sizeof(struct ring_slot) == 512, "layout");

/* One attachment, private to its process. The header is a copy that nobody else can change. */
struct ring {
    struct ring_header header;
    struct ring_control *control;
    unsigned char *data;
    uint32_t holder;
    int writable;
};

struct ring_counts {
    uint32_t free, loaned, committed, leases;
};
struct ring_reaped {
    uint32_t processes, leases, slots;
};

enum ring_status {
    RING_OK = 0,
    RING_STALE = -1,
    RING_CROWDED = -2, /* no ticket, or no process entry, is left */
    RING_FULL = -3,
    /* why a file is not attached to */
    RING_NOT_ARENA = 1,
    RING_OTHER_VERSION,
    RING_BAD_LAYOUT,
    RING_TRUNCATED,
    RING_EXPOSED,
    RING_OTHER_NAMESPACE,
    RING_ORPHAN,
    RING_ERRNO, /* errno says why */
};

enum ring_phase { RING_FREE = 1, RING_LOANED = 2, RING_COMMITTED = 3 };
enum ring_ticket { RING_PENDING = 1, RING_TRANSIT = 2, RING_HELD = 3 };
enum ring_tally { RING_WAITS, RING_MISSES, RING_STALES, RING_RECLAIMED };

#define RING_GENERATIONS ((1ull << 40) - 1)

static inline uint64_t ring_generation_of(uint64_t word) { return word >> 24; }
static inline uint32_t ring_phase_of(uint64_t state) { return (uint32_t)(state >> 22 & 3); }
static inline uint32_t ring_aux_of(uint64_t state) { return (uint32_t)(state & 0x3fffff); }
static inline uint32_t ring_high_of(uint64_t state) {
    uint32_t high = ring_aux_of(state) >> 16;
    return high < RING_LEASES ? high : RING_LEASES;
}
static inline uint32_t ring_holder_of(uint64_t ticket) { return (uint32_t)(ticket >> 8 & 0xffff); }
static inline uint32_t ring_entry_of(uint32_t holder) { return holder & (RING_PROCESSES - 1); }
static inline int ring_is_lease(uint64_t ticket, uint64_t generation) {
    return ticket != 0 && ring_generation_of(ticket) == generation;
}
static inline struct ring_slot *ring_slot_at(const struct ring *ring, uint32_t slot) {
    return (struct ring_slot *)((unsigned char *)ring->control + ring->header.slots_offset) + slot;
}
static inline const struct ring_class *ring_class_of(const struct ring *ring, uint32_t slot) {
    const struct ring_class *size = ring->header.classes;
    while (slot - size->first >= size->count) size++;
    return size;
}
static inline ring_word *ring_index_of(const struct ring *ring, const struct ring_class *size) {
    return (ring_word *)((unsigned char *)ring->control + size->index_offset);
}
static inline int ring_is_listed(const struct ring *ring, uint32_t slot) {
    const struct ring_class *size = ring_class_of(ring, slot);
    uint32_t i = slot - size->first;
    return (int)(atomic_load(&ring_index_of(ring, size)[1 + i / 64]) >> i % 64 & 1);
}

/* Points where a test may end the process at once, as kill -9 would. */
#define RING_POINTS(X)                                                                    \
    X(loan_claimed) X(loan_unlisted) X(commit_tickets) X(commit_done) X(adopted)          \
    X(share_pending) X(share_counted) X(share_opened) X(release_cleared) X(free_unlisted) \
    X(free_listed) X(free_counted) X(wait_marked) X(registered) X(leave_cleared)          \
    X(create_unnamed) X(create_named)
enum ring_point {
    POINT_NONE,
#define X(name) POINT_##name,
    RING_POINTS(X)
#undef X
    POINT_COUNT
};
extern int ring_crash_at;
const char *ring_point_name(int point);
void ring_crash(void) __attribute__((noreturn, cold));
#define RING_POINT(name)                                                     \
    do {                                                                     \
        if (__builtin_expect(ring_crash_at == POINT_##name, 0)) ring_crash(); \
    } while (0)

/* ring_segment.c: the file, its mappings, and processes */
extern unsigned ring_forks; /* how often this process is the child of a fork */
int ring_layout(struct ring_header *header);
int ring_create(struct ring *ring, const char *path, int prefault);
int ring_inspect(const char *path, struct ring_header *header);
int ring_attach(struct ring *ring, const char *path, int writable, int prefault);
void ring_unmap(struct ring *ring);
uint64_t ring_free_nbytes(void);
int ring_self(struct ring_header *header);
int ring_alive(uint64_t identity);
void ring_gather(unsigned char *dst, const unsigned char *src, int ndim, const ptrdiff_t *shape,
                 const ptrdiff_t *strides, size_t itemsize);

/* ring_kernel.c: the slots. `slot` is below header.n_slots everywhere. */
void ring_format(struct ring *ring);
int ring_register(struct ring *ring);
uint64_t ring_offset(const struct ring *ring, uint32_t slot);
uint64_t ring_generation(const struct ring *ring, uint32_t slot);
uint64_t ring_payload(const struct ring *ring, uint32_t slot);
int64_t ring_loan(struct ring *ring, uint64_t nbytes);
int ring_commit(struct ring *ring, uint32_t slot, uint64_t generation, uint64_t nbytes,
                uint32_t readers);
void ring_abandon(struct ring *ring, uint32_t slot, uint64_t generation);
int ring_adopt(struct ring *ring, uint32_t slot, uint64_t generation, uint32_t holder, int kind);
int ring_share(struct ring *ring, uint32_t slot, uint64_t generation, uint32_t readers);
int ring_release(struct ring *ring, uint32_t slot, uint64_t generation, int ticket, int kind);
uint32_t ring_freed(const struct ring *ring);
void ring_mark_waiting(struct ring *ring, int waiting);
int ring_wait(struct ring *ring, uint32_t seen, int64_t timeout_ns);
void ring_wake(struct ring *ring);
void ring_leave(struct ring *ring);
void ring_forge_death(struct ring *ring);
void ring_reap(struct ring *ring, struct ring_reaped *reaped);
void ring_tally(struct ring *ring, enum ring_tally what, uint64_t n);

/* ring_census.c: looking without touching */
uint64_t ring_tallied(const struct ring *ring, enum ring_tally what);
void ring_count(const struct ring *ring, const struct ring_class *size, struct ring_counts *counts);
uint32_t ring_count_processes(const struct ring *ring);
const char *ring_check(const struct ring *ring, uint32_t *slot);

#endif
