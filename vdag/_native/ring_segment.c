/* The file of an arena: laid out, made, verified, mapped; and which processes are alive. */
#define _GNU_SOURCE
#include "ring_kernel.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#define SHM_DIR "/dev/shm"
#define MAX_SLOT_NBYTES (1ull << 36)

unsigned ring_forks;

static void count_fork(void) { ring_forks++; }

__attribute__((constructor)) static void watch_forks(void) {
    pthread_atfork(NULL, NULL, count_fork);
}

/* ---- processes ---- */

/* Read a few fields of /proc/PID/stat (proc_pid_stat(5)); 0, or the errno. */
static int read_stat(uint32_t pid, char *state, long *n_threads, uint64_t *start) {
    char path[32], text[1024];
    snprintf(path, sizeof path, "/proc/%u/stat", pid);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return errno;
    ssize_t n = read(fd, text, sizeof text - 1);
    int error = n < 0 ? errno : 0;
    close(fd);
    if (error != 0) return error;
    text[n] = 0;
    /* The name in field 2 may hold anything, also ") Z"; nothing after it holds a parenthesis. */
    char *field = strrchr(text, ')');
    if (field == NULL || sscanf(field + 1, " %c", state) != 1) return EPROTO;
    for (int i = 2; i < 22 && field != NULL; i++) {
        field = strchr(field + 1, ' ');
        if (field != NULL && i == 19) *n_threads = strtol(field + 1, NULL, 10);
    }
    if (field == NULL) return EPROTO;
    *start = strtoull(field + 1, NULL, 10);
    return 0;
}

/* Fill in who we are: `owner` and `pid_namespace`. 0, or -1 with errno. */
int ring_self(struct ring_header *header) {
    char state;
    long n_threads = 0;
    struct stat namespace;
    uint32_t pid = (uint32_t)getpid();
    errno = read_stat(pid, &state, &n_threads, &header->owner);
    if (errno != 0 || stat("/proc/self/ns/pid", &namespace) != 0) return -1;
    header->owner = header->owner << 22 | pid; /* pid_max is at most 2^22 */
    header->pid_namespace = namespace.st_ino;
    return 0;
}

/* A zombie whose other threads still run may still write; /proc counts them until they are gone. */
int ring_alive(uint64_t identity) {
    char state;
    long n_threads = 0;
    uint64_t start;
    int error = read_stat((uint32_t)(identity & ((1u << 22) - 1)), &state, &n_threads, &start);
    if (error == ENOENT || error == ESRCH) return 0;
    if (error != 0) return 1; /* unknown: whoever may live keeps its leases */
    return start == identity >> 22 && !((state == 'Z' || state == 'X') && n_threads <= 1);
}

/* ---- layout ---- */

static uint64_t round_up(uint64_t n, uint64_t step) { return (n + step - 1) / step * step; }

/* Place everything from page size, class sizes and counts; 0, or EINVAL if they have no meaning. */
int ring_layout(struct ring_header *header) {
    uint64_t page = header->page_nbytes, slots = 0;
    uint64_t at = sizeof(struct ring_control);
    if (page < 4096 || page > 1 << 20 || (page & (page - 1)) != 0) return EINVAL;
    if (header->n_classes < 1 || header->n_classes > RING_CLASSES) return EINVAL;
    for (uint32_t k = 0; k < header->n_classes; k++) {
        struct ring_class *size = &header->classes[k];
        uint64_t smallest = k == 0 ? 1 : size[-1].slot_nbytes + 1;
        if (size->slot_nbytes < smallest || size->slot_nbytes > MAX_SLOT_NBYTES) return EINVAL;
        if (size->count < 1 || size->count > RING_SLOTS - slots) return EINVAL;
        size->stride = round_up(size->slot_nbytes, size->slot_nbytes >= page ? page : 64);
        size->first = (uint32_t)slots;
        size->index_offset = at;
        slots += size->count;
        at += round_up(8 * (1 + round_up(size->count, 64) / 64), 64);
    }
    header->n_slots = (uint32_t)slots;
    header->slots_offset = at;
    header->control_nbytes = at = round_up(at + slots * sizeof(struct ring_slot), page);
    for (uint32_t k = 0; k < header->n_classes; k++) {
        struct ring_class *size = &header->classes[k];
        size->data_offset = at;
        at = round_up(at + size->count * size->stride, page);
    }
    header->total_nbytes = at; /* below 2^53: sixteen bits of slots of 2^36 bytes, and change */
    return 0;
}

/* ---- mappings ---- */

static void *map(int fd, size_t nbytes, off_t offset, int prot, int prefault) {
    int flags = MAP_SHARED | (prefault ? MAP_POPULATE : 0);
    void *at = mmap(NULL, nbytes, prot, flags, fd, offset);
    return at == MAP_FAILED ? NULL : at;
}

static int map_both(struct ring *ring, int fd, int prefault) {
    const struct ring_header *header = &ring->header;
    int prot = ring->writable ? PROT_READ | PROT_WRITE : PROT_READ;
    ring->control = map(fd, header->control_nbytes, 0, PROT_READ | PROT_WRITE, 1);
    if (ring->control == NULL) return RING_ERRNO;
    ring->data = map(fd, header->total_nbytes - header->control_nbytes,
                     (off_t)header->control_nbytes, prot, prefault);
    return ring->data != NULL ? RING_OK : RING_ERRNO;
}

void ring_unmap(struct ring *ring) {
    const struct ring_header *header = &ring->header;
    if (ring->data != NULL) munmap(ring->data, header->total_nbytes - header->control_nbytes);
    if (ring->control != NULL) munmap(ring->control, header->control_nbytes);
    ring->data = NULL;
    ring->control = NULL;
}

uint64_t ring_free_nbytes(void) {
    struct statvfs fs;
    if (statvfs(SHM_DIR, &fs) != 0) return 0;
    /* A tmpfs without a limit says that it has no blocks at all. */
    return fs.f_blocks == 0 ? UINT64_MAX : (uint64_t)fs.f_bavail * fs.f_frsize;
}

/* Take the memory now: without this, a full /dev/shm is a SIGBUS at the first write. */
static int reserve(int fd, uint64_t nbytes) {
    int error = nbytes > ring_free_nbytes() ? ENOSPC : 0;
    if (error == 0) do error = posix_fallocate(fd, 0, (off_t)nbytes); while (error == EINTR);
    errno = error;
    return error == 0 ? RING_OK : RING_ERRNO;
}

/* The mappings keep the file; without success nothing of it is kept. */
static int settle(struct ring *ring, int fd, int status) {
    int error = errno;
    if (status != RING_OK) ring_unmap(ring);
    if (fd >= 0) close(fd);
    errno = error;
    return status;
}

static int give_name(int fd, const char *path) {
    char self[32];
    snprintf(self, sizeof self, "/proc/self/fd/%d", fd);
    RING_POINT(create_unnamed);
    if (linkat(AT_FDCWD, self, AT_FDCWD, path, AT_SYMLINK_FOLLOW) != 0) return RING_ERRNO;
    RING_POINT(create_named);
    return RING_OK;
}

/* Make the arena that `ring->header` (laid out) describes. The file gets its name last, when it is
 * complete: nobody sees half of one, and a death before leaves nothing behind. */
int ring_create(struct ring *ring, const char *path, int prefault) {
    int fd = open(SHM_DIR, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
    if (fd < 0) return RING_ERRNO;
    ring->writable = 1;
    int status = fchmod(fd, 0600) == 0 ? reserve(fd, ring->header.total_nbytes) : RING_ERRNO;
    if (status == RING_OK) status = map_both(ring, fd, prefault);
    if (status == RING_OK) ring_format(ring);
    if (status == RING_OK) status = ring_register(ring);
    if (status == RING_OK) status = give_name(fd, path);
    return settle(ring, fd, status);
}

/* ---- verification: nothing of the file is believed before ---- */

static int verify(int fd, struct ring_header *header) {
    struct stat file;
    struct ring_header again;
    if (fstat(fd, &file) != 0) return RING_ERRNO;
    if (!S_ISREG(file.st_mode)) return RING_NOT_ARENA;
    if (file.st_uid != geteuid() || (file.st_mode & 077) != 0) return RING_EXPOSED;
    ssize_t n = pread(fd, header, sizeof *header, 0);
    if (n < 0) return RING_ERRNO;
    if (n < (ssize_t)sizeof header->magic || header->magic != RING_MAGIC) return RING_NOT_ARENA;
    if (n < (ssize_t)sizeof *header) return RING_TRUNCATED;
    if (header->version != RING_VERSION) return RING_OTHER_VERSION;
    memcpy(&again, header, sizeof again);
    if (ring_layout(&again) != 0 || memcmp(&again, header, sizeof again) != 0)
        return RING_BAD_LAYOUT;
    if (header->page_nbytes != (uint32_t)sysconf(_SC_PAGESIZE)) return RING_BAD_LAYOUT;
    return (uint64_t)file.st_size < header->total_nbytes ? RING_TRUNCATED : RING_OK;
}

/* In another pid namespace nobody could tell the living from the dead. */
static int verify_owner(const struct ring_header *header) {
    struct ring_header self;
    if (ring_self(&self) != 0) return RING_ERRNO;
    if (header->pid_namespace != self.pid_namespace) return RING_OTHER_NAMESPACE;
    return ring_alive(header->owner) ? RING_OK : RING_ORPHAN;
}

static int open_verified(const char *path, struct ring_header *header, int *fd) {
    *fd = open(path, O_RDWR | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    if (*fd < 0) return RING_ERRNO;
    int status = verify(*fd, header);
    return status == RING_OK ? verify_owner(header) : status;
}

/* Read and verify the header of a file; RING_ORPHAN if it is an arena whose owner is dead. */
int ring_inspect(const char *path, struct ring_header *header) {
    int fd, status = open_verified(path, header, &fd), error = errno;
    if (fd >= 0) close(fd);
    errno = error;
    return status;
}

int ring_attach(struct ring *ring, const char *path, int writable, int prefault) {
    int fd, status = open_verified(path, &ring->header, &fd);
    ring->writable = writable;
    if (status == RING_OK) status = map_both(ring, fd, prefault);
    if (status == RING_OK) status = ring_register(ring);
    return settle(ring, fd, status);
}

/* ---- copying ---- */

/* Copy an array of any strides to `dst`, in C order. The inner dimensions that lie densely in
 * memory go in one piece each: a picture with padded rows is a memcpy per row. */
void ring_gather(unsigned char *dst, const unsigned char *src, int ndim, const ptrdiff_t *shape,
                 const ptrdiff_t *strides, size_t itemsize) {
    size_t dense = itemsize, step;
    int inner = ndim;
    while (inner > 0 && strides[inner - 1] == (ptrdiff_t)dense)
        dense *= (size_t)shape[--inner];
    if (inner == 0) {
        memcpy(dst, src, dense);
        return;
    }
    step = itemsize;
    for (int i = 1; i < ndim; i++) step *= (size_t)shape[i];
    for (ptrdiff_t i = 0; i < shape[0]; i++)
        ring_gather(dst + (size_t)i * step, src + i * strides[0], ndim - 1, shape + 1, strides + 1,
                    itemsize);
}
