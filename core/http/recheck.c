/* recheck.c - long-lived requests and their second decision. */
#include "http/recheck.h"
#include "http/request.h"

void
kars__lasting_add(kars_req_t *r,
                  void (*end)(kars_req_t *r, const kars_denial_t *denial))
{
    kars_cycle_t *c = r->cycle;

    if (r->lasting || r->finished) {
        return;
    }
    r->lasting = 1;
    r->lasting_end = end;
    r->lasting_prev = NULL;
    r->lasting_next = c->lasting;
    if (c->lasting != NULL) {
        c->lasting->lasting_prev = r;
    }
    c->lasting = r;
}

void
kars__lasting_del(kars_req_t *r)
{
    if (!r->lasting) {
        return;
    }
    r->lasting = 0;
    if (r->lasting_prev != NULL) {
        r->lasting_prev->lasting_next = r->lasting_next;
    } else {
        r->cycle->lasting = r->lasting_next;
    }
    if (r->lasting_next != NULL) {
        r->lasting_next->lasting_prev = r->lasting_prev;
    }
}

/* One module's word: OK, or an end. */
static int
recheck_ask(kars_req_t *r, kars__mod_t *m)
{
    void *ctx = kars__req_ctx(r, m->index);

    r->rechecking = 1;
    kars__mod_now = m;
    int rc = ctx != NULL ? m->def.recheck(r, kars__req_conf(r, m->index), ctx)
                         : KARS_ERROR;
    kars__mod_now = NULL;
    if (rc != KARS_OK && rc != KARS_DECLINED &&
        (rc != KARS_DONE || r->late == NULL)) {
        kars__log(KARS_LOG_ERR, "router: a recheck hook failed module=%s",
                  m->def.name);
        r->late = NULL;
        (void) kars__req_refuse(r, 500, "server_error", "internal_error",
                                "the router failed; its log says more");
        rc = KARS_ERROR;
    }
    r->rechecking = 0;
    return rc == KARS_OK || rc == KARS_DECLINED ? KARS_OK : KARS_DONE;
}

static void
recheck_end(kars_req_t *r)
{
    kars__lasting_del(r);
    if (r->late == NULL) { /* not even a refusal could be made */
        r->proto->abort(r);
    } else if (r->lasting_end != NULL) {
        r->lasting_end(r, r->late);
    } else {
        kars__pass_cancel(r);
        kars__req_end_late(r, r->late);
    }
}

static void
recheck_one(kars_req_t *r)
{
    const kars_cycle_t *c = r->cycle;

    for (size_t i = 0; i < c->nmods; i++) {
        if (c->mods[i]->def.recheck != NULL && r->route->active[i] &&
            kars__req_listens(r, c->mods[i]->index) &&
            recheck_ask(r, c->mods[i]) != KARS_OK) {
            recheck_end(r);
            return;
        }
    }
}

static void
recheck_run(kars__work_t *work)
{
    kars_cycle_t *c =
        (kars_cycle_t *) ((char *) work - offsetof(kars_cycle_t, recheck));
    kars_req_t *next;

    for (kars_req_t *r = c->lasting; r != NULL; r = next) {
        next = r->lasting_next;
        if (!r->last_in) { /* else its end is on its way already */
            recheck_one(r);
        }
    }
}

void
kars__recheck_soon(kars_cycle_t *c)
{
    c->recheck.fn = recheck_run;
    kars__work_queue(c->loop, &c->recheck, KARS__POST);
}
