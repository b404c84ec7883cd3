/* offload.c - a few threads and a queue. */
#include "event/offload.h"
#include "base/pool.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>

#define OFFLOAD_THREADS 2
#define OFFLOAD_QUEUE   4096u

typedef struct offload_job_s offload_job_t;
struct offload_job_s {
    offload_job_t *next;
    int (*work)(void *data);
    void (*done)(int error, void *data);
    void *data;
    int error;
};

typedef struct {
    offload_job_t *first;
    offload_job_t **last;
} offload_list_t;

struct kars__offload_s {
    kars__loop_t *loop;
    kars__wake_t wake;
    pthread_mutex_t lock;
    pthread_cond_t more;
    pthread_t threads[OFFLOAD_THREADS];
    int nthreads;
    int stop;
    int held;
    unsigned waiting;
    offload_list_t todo;
    offload_list_t ended;
};

static void
list_push(offload_list_t *l, offload_job_t *job)
{
    job->next = NULL;
    *l->last = job;
    l->last = &job->next;
}

static offload_job_t *
list_take_all(offload_list_t *l)
{
    offload_job_t *first = l->first;

    l->first = NULL;
    l->last = &l->first;
    return first;
}

static offload_job_t *
offload_next(kars__offload_t *o)
{
    while (o->todo.first == NULL && !o->stop) {
        (void) pthread_cond_wait(&o->more, &o->lock);
    }
    if (o->todo.first == NULL) {
        return NULL;
    }

    offload_job_t *job = o->todo.first;

    o->todo.first = job->next;
    if (o->todo.first == NULL) {
        o->todo.last = &o->todo.first;
    }
    o->waiting--;
    return job;
}

static void *
offload_thread(void *arg)
{
    kars__offload_t *o = arg;
    offload_job_t *job;

    (void) pthread_mutex_lock(&o->lock);
    while ((job = offload_next(o)) != NULL) {
        (void) pthread_mutex_unlock(&o->lock);
        job->error = job->work(job->data);
        (void) pthread_mutex_lock(&o->lock);
        list_push(&o->ended, job);
        kars__wake(&o->wake);
    }
    (void) pthread_mutex_unlock(&o->lock);
    return NULL;
}

static void
offload_ended(kars__wake_t *wake)
{
    kars__offload_t *o =
        (kars__offload_t *) ((char *) wake - offsetof(kars__offload_t, wake));

    (void) pthread_mutex_lock(&o->lock);
    offload_job_t *job = list_take_all(&o->ended);
    (void) pthread_mutex_unlock(&o->lock);

    while (job != NULL) {
        offload_job_t *next = job->next;

        job->done(job->error, job->data);
        kars__free(job);
        job = next;
    }
}

kars__offload_t *
kars__offload_create(kars__loop_t *loop, kars_err_t *err)
{
    kars__offload_t *o = kars__alloc(sizeof(*o));

    if (o == NULL) {
        (void) kars__err(err, ENOMEM, "threads");
        return NULL;
    }
    o->loop = loop;
    o->todo.last = &o->todo.first;
    o->ended.last = &o->ended.first;
    (void) pthread_mutex_init(&o->lock, NULL);
    (void) pthread_cond_init(&o->more, NULL);
    kars__wake_start(loop, &o->wake, offload_ended);
    return o;
}

void
kars__offload_drain(kars__offload_t *o)
{
    (void) pthread_mutex_lock(&o->lock);
    o->stop = 1;
    (void) pthread_cond_broadcast(&o->more);
    (void) pthread_mutex_unlock(&o->lock);
    for (int i = 0; i < o->nthreads; i++) {
        (void) pthread_join(o->threads[i], NULL);
    }
    o->nthreads = 0;
    offload_ended(&o->wake);
}

void
kars__offload_destroy(kars__offload_t *o)
{
    if (o == NULL) {
        return;
    }

    kars__offload_drain(o);
    kars__wake_stop(&o->wake);
    (void) pthread_cond_destroy(&o->more);
    (void) pthread_mutex_destroy(&o->lock);
    kars__free(o);
}

/* Signals belong to the loop's thread, but for those that a thread's own code
 * brings upon itself: they say where it crashed. */
static int
offload_start(kars__offload_t *o)
{
    static const int own[] = {
        SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGABRT, SIGSYS
    };
    sigset_t all, was;

    (void) sigfillset(&all);
    for (size_t i = 0; i < KARS_NELTS(own); i++) {
        (void) sigdelset(&all, own[i]);
    }
    (void) pthread_sigmask(SIG_SETMASK, &all, &was);
    while (o->nthreads < OFFLOAD_THREADS &&
           pthread_create(&o->threads[o->nthreads], NULL, offload_thread, o) ==
               0) {
        o->nthreads++;
    }
    (void) pthread_sigmask(SIG_SETMASK, &was, NULL);
    return o->nthreads > 0 ? KARS_OK : KARS_ERROR;
}

void
kars__offload_hold(kars__offload_t *o)
{
    o->held = 1;
}

int
kars__offload_release(kars__offload_t *o)
{
    o->held = 0;
    return o->todo.first == NULL ? KARS_OK : offload_start(o);
}

int
kars__offload(kars__offload_t *o, int (*work)(void *data),
              void (*done)(int error, void *data), void *data)
{
    if (o->stop ||
        (!o->held && o->nthreads == 0 && offload_start(o) != KARS_OK)) {
        return KARS_ERROR;
    }

    offload_job_t *job = kars__alloc(sizeof(*job));

    if (job == NULL) {
        return KARS_ERROR;
    }
    job->work = work;
    job->done = done;
    job->data = data;

    (void) pthread_mutex_lock(&o->lock);
    int full = o->waiting >= OFFLOAD_QUEUE;

    if (!full) {
        o->waiting++;
        list_push(&o->todo, job);
        (void) pthread_cond_signal(&o->more);
    }
    (void) pthread_mutex_unlock(&o->lock);
    if (full) {
        kars__free(job);
        return KARS_ERROR;
    }
    return KARS_OK;
}
