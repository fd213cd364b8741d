/* JPEG coding over libturbojpeg: see jpeg_kernel.h.
 *
 * jpeg_library.h brings the library's functions, jpeg_header.h the reading of headers.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE /* dladdr */
#endif
#include "jpeg_kernel.h"

#include <dlfcn.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "jpeg_header.h"
#include "jpeg_library.h"

/* ---- One picture ---------------------------------------------------------------------------- */

static int same_size(vdag_jpeg_job *job, int width, int height)
{
    if (width == job->info.width && height == job->info.height)
        return 1;
    /* The output was sized by our own reading of the header: never let the library write more. */
    explain(job->text, "header says %d x %d pixels, the decoder found %d x %d", job->info.width,
            job->info.height, width, height);
    return 0;
}

static int pixel_format(const vdag_jpeg_job *job)
{
    return job->channels == 1 ? TJPF_GRAY : job->rgb ? TJPF_RGB : TJPF_BGR;
}

/* What a return code of the library means for the job: 0, or -1 with its message kept. */
static int settle(vdag_jpeg_job *job, void *tj, int code)
{
    if (code == 0)
        return 0;
    if (!job->strict && (newer ? tj3GetErrorCode(tj) : tjGetErrorCode(tj)) == TJERR_WARNING)
        return 0;
    return explain(job->text, "%s", newer ? tj3GetErrorStr(tj) : tjGetErrorStr2(tj));
}

static int decode_newer(vdag_jpeg_job *job, void *tj, const byte *jpeg)
{
    const tjscalingfactor scale = {1, job->reduce};

    tj3Set(tj, TJPARAM_STOPONWARNING, job->strict);
    tj3Set(tj, TJPARAM_BOTTOMUP, job->bottom_up);
    tj3Set(tj, TJPARAM_SCANLIMIT, MAX_SCANS);
    if (settle(job, tj, tj3DecompressHeader(tj, jpeg, job->nbytes)))
        return -1;
    if (!same_size(job, tj3Get(tj, TJPARAM_JPEGWIDTH), tj3Get(tj, TJPARAM_JPEGHEIGHT)))
        return -1;
    if (settle(job, tj, tj3SetScalingFactor(tj, scale)))
        return -1;
    return settle(job, tj,
                  tj3Decompress8(tj, jpeg, job->nbytes, job->rows, job->pitch, pixel_format(job)));
}

static int decode_older(vdag_jpeg_job *job, void *tj, const byte *jpeg)
{
    int width = 0, height = 0, subsampling, colourspace;
    int flags = TJFLAG_ACCURATEDCT | TJFLAG_LIMITSCANS | (job->strict ? TJFLAG_STOPONWARNING : 0) |
                (job->bottom_up ? TJFLAG_BOTTOMUP : 0);

    if (settle(job, tj, tjDecompressHeader3(tj, jpeg, job->nbytes, &width, &height, &subsampling,
                                            &colourspace)))
        return -1;
    if (!same_size(job, width, height))
        return -1;
    return settle(job, tj, tjDecompress2(tj, jpeg, job->nbytes, job->rows, job->width, job->pitch,
                                         job->height, pixel_format(job), flags));
}

static int encode_newer(vdag_jpeg_job *job, void *tj)
{
    byte *room = job->jpeg;

    tj3Set(tj, TJPARAM_STOPONWARNING, 1);
    tj3Set(tj, TJPARAM_BOTTOMUP, job->bottom_up);
    tj3Set(tj, TJPARAM_NOREALLOC, 1);
    tj3Set(tj, TJPARAM_QUALITY, job->quality);
    tj3Set(tj, TJPARAM_SUBSAMP, job->subsampling);
    return settle(job, tj, tj3Compress8(tj, job->rows, job->width, job->pitch, job->height,
                                        pixel_format(job), &room, &job->nbytes));
}

static int encode_older(vdag_jpeg_job *job, void *tj)
{
    byte *room = job->jpeg;
    unsigned long nbytes = job->nbytes;
    int flags =
        TJFLAG_ACCURATEDCT | TJFLAG_NOREALLOC | (job->bottom_up ? TJFLAG_BOTTOMUP : 0);
    int code = tjCompress2(tj, job->rows, job->width, job->pitch, job->height, pixel_format(job),
                           &room, &nbytes, job->subsampling, job->quality, flags);

    job->nbytes = nbytes;
    return settle(job, tj, code);
}

size_t vdag_jpeg_bound(int width, int height, int subsampling)
{
    return newer ? tj3JPEGBufSize(width, height, subsampling)
                 : tjBufSize(width, height, subsampling);
}

/* ---- Coders: handles that are used again ---------------------------------------------------- */

typedef struct {
    void *tj;
    byte *copy; /* private copy of a JPEG that may change meanwhile */
    size_t copy_nbytes;
} coder;

enum {
    MAX_IDLE = 16, /* of each kind */
    KEPT_COPY_NBYTES = 4 << 20, /* larger copies are freed at once */
};

/* One exchange takes a coder, one compare-and-swap gives it back: no lock that a fork() in another
 * thread could leave held for ever in the child. */
static _Atomic(coder *) idle_coders[2][MAX_IDLE];
static atomic_int live_coders;
static atomic_int closed;

static void destroy(coder *c)
{
    if (newer)
        tj3Destroy(c->tj);
    else
        tjDestroy(c->tj);
    free(c->copy);
    free(c);
    atomic_fetch_sub(&live_coders, 1);
}

static coder *create(int kind)
{
    coder *c = calloc(1, sizeof *c);

    if (c == NULL)
        return NULL;
    if (newer)
        c->tj = tj3Init(kind == VDAG_JPEG_ENCODE ? TJINIT_COMPRESS : TJINIT_DECOMPRESS);
    else
        c->tj = kind == VDAG_JPEG_ENCODE ? tjInitCompress() : tjInitDecompress();
    if (c->tj == NULL) {
        free(c);
        return NULL;
    }
    atomic_fetch_add(&live_coders, 1);
    return c;
}

static coder *take(int kind)
{
    for (int i = 0; i < MAX_IDLE; i++) {
        coder *c = atomic_exchange(&idle_coders[kind][i], NULL);
        if (c != NULL)
            return c;
    }
    return create(kind);
}

static void give_back(int kind, coder *c)
{
    if (c->copy_nbytes > KEPT_COPY_NBYTES) {
        free(c->copy);
        c->copy = NULL;
        c->copy_nbytes = 0;
    }
    for (int i = 0; i < MAX_IDLE && !atomic_load(&closed); i++) {
        coder *nobody = NULL;
        if (atomic_compare_exchange_strong(&idle_coders[kind][i], &nobody, c))
            return;
    }
    destroy(c);
}

static void destroy_idle(void)
{
    for (int kind = 0; kind < 2; kind++)
        for (int i = 0; i < MAX_IDLE; i++) {
            coder *c = atomic_exchange(&idle_coders[kind][i], NULL);
            if (c != NULL)
                destroy(c);
        }
}

void vdag_jpeg_coders(int *live, int *idle)
{
    *live = atomic_load(&live_coders);
    *idle = 0;
    for (int kind = 0; kind < 2; kind++)
        for (int i = 0; i < MAX_IDLE; i++)
            *idle += atomic_load(&idle_coders[kind][i]) != NULL;
}

void vdag_jpeg_close(void)
{
    atomic_store(&closed, 1);
    destroy_idle();
}

int vdag_jpeg_open(const char *path, int legacy, char text[VDAG_JPEG_TEXT])
{
    Dl_info where;
    void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);

    if (library == NULL) {
        explain(text, "%s", dlerror());
        return 0;
    }
    destroy_idle(); /* they belong to the functions of the library before */
    newer = !legacy && find_newer(library);
    if (!newer && !find_older(library)) {
        explain(text, "it has not the functions of TurboJPEG 2.0 or later");
        dlclose(library);
        return 0;
    }
    if (dladdr(newer ? *(void **)(&tj3Init) : *(void **)(&tjInitDecompress), &where) == 0)
        where.dli_fname = path;
    snprintf(loaded_path, sizeof loaded_path, "%s", where.dli_fname);
    return newer ? 3 : 2; /* never closed again: a thread may be in it when the process ends */
}

const char *vdag_jpeg_path(void)
{
    return loaded_path;
}

/* ---- Jobs ----------------------------------------------------------------------------------- */

static const byte *private_copy(vdag_jpeg_job *job, coder *c)
{
    if (c->copy_nbytes < job->nbytes) {
        free(c->copy);
        c->copy = malloc(job->nbytes);
        c->copy_nbytes = c->copy == NULL ? 0 : job->nbytes;
        if (c->copy == NULL) {
            explain(job->text, "no memory for a copy of %zu bytes", job->nbytes);
            return NULL;
        }
    }
    return memcpy(c->copy, job->jpeg, job->nbytes);
}

static int decode(vdag_jpeg_job *job, coder *c)
{
    const byte *jpeg = job->shared ? private_copy(job, c) : job->jpeg;

    if (jpeg == NULL)
        return -1;
    return newer ? decode_newer(job, c->tj, jpeg) : decode_older(job, c->tj, jpeg);
}

static int encode(vdag_jpeg_job *job, coder *c)
{
    return newer ? encode_newer(job, c->tj) : encode_older(job, c->tj);
}

/* ---- A batch on several threads --------------------------------------------------------------
 *
 * Helpers are started per batch, which costs as much as waking a pool's would, and leaves nothing
 * that fork() or the end of the interpreter would have to care for. The caller works too, and
 * waits for helpers that have begun a job, not for those that the busy machine has not let run
 * yet: they are detached, find no job left, and the last one out frees the batch.
 */
typedef struct {
    vdag_jpeg_job *jobs;
    size_t count;
    int kind;
    atomic_size_t next; /* job to take; at `count` there is none */
    pthread_mutex_t lock; /* of `working` */
    pthread_cond_t idle;
    int working; /* threads that may touch `jobs` */
    atomic_int owners; /* threads that may touch this */
} batch;

/* Take jobs in order until there is none. As a failure only keeps jobs from being begun, every job
 * before the failed one is run: which failure comes first does not depend on the threads. */
static void work(batch *b)
{
    coder *c = NULL;

    for (;;) {
        size_t i = atomic_fetch_add(&b->next, 1);
        if (i >= b->count)
            break;
        vdag_jpeg_job *job = &b->jobs[i];
        if (c == NULL && (c = take(b->kind)) == NULL)
            job->failed = explain(job->text, "no memory for a coder");
        else
            job->failed = b->kind == VDAG_JPEG_ENCODE ? encode(job, c) : decode(job, c);
        if (job->failed) {
            atomic_store(&b->next, b->count);
            if (c != NULL)
                destroy(c); /* some versions leave half a header in it, and trip over that later */
            return;
        }
    }
    if (c != NULL)
        give_back(b->kind, c);
}

static void disown(batch *b)
{
    if (atomic_fetch_sub(&b->owners, 1) > 1)
        return;
    pthread_cond_destroy(&b->idle);
    pthread_mutex_destroy(&b->lock);
    free(b);
}

static void *help(void *argument)
{
    batch *b = argument;

    pthread_mutex_lock(&b->lock);
    b->working++; /* before a job is taken: the caller looks for jobs first, and then here */
    pthread_mutex_unlock(&b->lock);
    work(b);
    pthread_mutex_lock(&b->lock);
    if (--b->working == 0)
        pthread_cond_signal(&b->idle);
    pthread_mutex_unlock(&b->lock);
    disown(b);
    return NULL;
}

static void start(batch *b, int helpers)
{
    sigset_t all, before;
    pthread_attr_t detached;
    pthread_t thread;

    pthread_attr_init(&detached);
    pthread_attr_setdetachstate(&detached, PTHREAD_CREATE_DETACHED);
    sigfillset(&all); /* signals are the interpreter's, not a helper's */
    pthread_sigmask(SIG_SETMASK, &all, &before);
    while (helpers-- > 0) {
        atomic_fetch_add(&b->owners, 1);
        if (pthread_create(&thread, &detached, help, b) != 0) {
            disown(b); /* fewer threads are slower, not wrong */
            break;
        }
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pthread_attr_destroy(&detached);
}

static void run_together(batch *b, int threads)
{
    pthread_mutex_init(&b->lock, NULL);
    pthread_cond_init(&b->idle, NULL);
    start(b, threads - 1);
    work(b);
    pthread_mutex_lock(&b->lock);
    while (b->working > 0)
        pthread_cond_wait(&b->idle, &b->lock);
    pthread_mutex_unlock(&b->lock);
    disown(b);
}

ptrdiff_t vdag_jpeg_run(vdag_jpeg_job *jobs, size_t count, int kind, int threads)
{
    batch *shared = NULL;

    if ((size_t)threads > count)
        threads = (int)count;
    if (threads > 1)
        shared = calloc(1, sizeof *shared);
    if (shared != NULL) {
        shared->jobs = jobs;
        shared->count = count;
        shared->kind = kind;
        atomic_store(&shared->owners, 1);
        run_together(shared, threads);
    } else {
        batch alone = {.jobs = jobs, .count = count, .kind = kind};
        work(&alone);
    }
    for (size_t i = 0; i < count; i++)
        if (jobs[i].failed)
            return (ptrdiff_t)i;
    return -1;
}
