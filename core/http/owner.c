/* owner.c - leases of keys, messages to their owners, and calls. */
#include "http/owner.h"
#include "base/map.h"
#include "base/pool.h"
#include "http/request.h"
#include "net/mesh.h"

#include <errno.h>

#define OWNER_KEYS    2048u
#define OWNER_CALLS   1024u /* of ours, and of others to us */
#define OWNER_LOCAL   1024u /* messages of a worker to itself */
#define OWNER_CALL_MS 30000u
#define OWNER_NAME    32u /* bytes of a module's name, with its end */

enum { OWNER_SEND = 1, OWNER_CALL, OWNER_REPLY };

/* What goes before the module's name, the key and the message. */
typedef struct {
    uint32_t kind;
    int32_t error; /* of a reply */
    uint64_t id;   /* of the call */
    uint32_t timeout_ms;
    uint16_t name_len;
    uint16_t key_len;
} owner_head_t;

#define OWNER_HEAD_MAX (sizeof(owner_head_t) + OWNER_NAME + KARS__OWNER_KEY)

/* A question of ours that waits for its answer. */
typedef struct owner_call_s owner_call_t;
struct owner_call_s {
    owner_call_t *next;
    kars__timer_t timer;
    uint64_t id;
    kars__link_t *link; /* NULL: to ourselves */
    kars_cycle_t *cycle;
    kars__mod_t *mod;
    void (*fn)(kars_cycle_t *cycle, int error, kars_str_t reply, void *data);
    void *data;
};

/* A question of another, or of ourselves, that waits for owner_reply(). */
typedef struct owner_ask_s owner_ask_t;
struct owner_ask_s {
    owner_ask_t *next;
    kars__timer_t timer;
    kars_cycle_t *cycle;
    kars_token_t token;
    uint64_t id;
    kars__link_t *link;
};

typedef struct owner_local_s owner_local_t;
struct owner_local_s {
    owner_local_t *next;
    size_t len;
    char bytes[];
};

/* Who of our modules hears. */
typedef struct {
    int (*receive)(kars_cycle_t *cycle, kars_str_t key, kars_str_t message,
                   void *data);
    void *receive_data;
    int (*serve)(kars_cycle_t *cycle, kars_str_t key, kars_str_t message,
                 kars_token_t call, void *data);
    void *serve_data;
} owner_ear_t;

struct kars__owners_s {
    kars_cycle_t *cycle;
    kars_map_t *map;
    kars__mesh_t *mesh;
    owner_ear_t *ears; /* by module index */
    owner_call_t *calls;
    owner_ask_t *asks;
    size_t ncalls;
    size_t nasks;
    uint64_t last_id;
    kars_token_t last_token;
    kars__work_t local_work;
    owner_local_t *local;
    owner_local_t **local_last;
    size_t nlocal;
    uint32_t stopped;
};

typedef struct kars__owners_s owners_t;

static void owner_message(kars__link_t *l, kars_str_t bytes, void *data);
static void owner_link_gone(kars__link_t *l, void *data);

static const kars__mesh_handler_t owner_handler = {
    .message = owner_message,
    .gone = owner_link_gone,
};

/* Messages to ourselves go the same way as those of others, later in the turn.
 */
static void
owner_run_local(kars__work_t *work)
{
    owners_t *o = (owners_t *) ((char *) work - offsetof(owners_t, local_work));
    owner_local_t *f = o->local, *next;

    o->local = NULL;
    o->local_last = &o->local;
    o->nlocal = 0;
    for (; f != NULL; f = next) {
        next = f->next;
        owner_message(NULL, (kars_str_t){ f->bytes, f->len }, o);
        kars__free(f);
    }
}

static uint64_t
owner_now(const void *of)
{
    return kars__loop_now(of);
}

static int
owner_make(kars_cycle_t *c, owners_t *o, kars_err_t *err)
{
    const kars_map_def_t def = {
        .size = sizeof(def),
        .name = KARS_STR("kars.owners"),
        .version = 1,
        .max_entries = OWNER_KEYS,
        .max_key = OWNER_NAME + KARS__OWNER_KEY,
        .max_value = sizeof(uint64_t),
    };

    o->cycle = c;
    o->local_last = &o->local;
    o->local_work.fn = owner_run_local;
    o->ears = kars__pnewn(c->pool, owner_ear_t, c->nmods + 1);
    if (o->ears == NULL) {
        return kars__err(err, ENOMEM, "owned keys");
    }
    o->map = kars__map_open(c->pool, c->zone, &def,
                            (kars__map_clock_t){ owner_now, c->loop }, err);
    if (o->map == NULL) {
        return KARS_ERROR;
    }
    o->mesh = kars__mesh_create(c->loop, c->zone, c->worker_id, &owner_handler,
                                o, err);
    return o->mesh != NULL ? KARS_OK : KARS_ERROR;
}

/* Made by the first use of one of these functions. NULL: outside a worker, or
 * it was said why not. */
static owners_t *
owner_get(kars_cycle_t *c)
{
    kars_err_t err = KARS_ERR_INIT;

    if (c->owners != NULL) {
        return c->owners->stopped ? NULL : c->owners;
    }
    if (c->zone == NULL) {
        return NULL;
    }

    owners_t *o = kars__pnew(c->pool, owners_t);

    if (o == NULL || owner_make(c, o, &err) != KARS_OK) {
        kars__log(KARS_LOG_ERR, "owner: %s", err.text);
        return NULL;
    }
    c->owners = o;
    return o;
}

/* As owner_get(), and others can reach us. */
static owners_t *
owner_get_open(kars_cycle_t *c)
{
    owners_t *o = owner_get(c);
    kars_err_t err = KARS_ERR_INIT;

    if (o != NULL && kars__mesh_listen(o->mesh, &err) != KARS_OK) {
        kars__log(KARS_LOG_ERR, "owner: %s", err.text);
        return NULL;
    }
    return o;
}

/* Leases. */

typedef struct {
    owners_t *o;
    uint32_t lease_ms;
    uint64_t owner; /* found: alive; 0: nobody's */
    char key[OWNER_NAME + KARS__OWNER_KEY];
    size_t len;
} owner_lease_t;

/* The key among those of all modules: "module NUL key". */
static int
owner_key(owner_lease_t *l, owners_t *o, const kars__mod_t *mod, kars_str_t key)
{
    size_t name = mod != NULL ? strlen(mod->def.name) : 0;

    memset(l, 0, sizeof(*l));
    l->o = o;
    if (name == 0 || name >= OWNER_NAME || key.len == 0 ||
        key.len > KARS__OWNER_KEY) {
        return KARS_ERROR;
    }
    memcpy(l->key, mod->def.name, name + 1);
    memcpy(l->key + name + 1, key.data, key.len);
    l->len = name + 1 + key.len;
    return KARS_OK;
}

static void
owner_read(owner_lease_t *l, kars_str_t old)
{
    l->owner = 0;
    if (old.len == sizeof(l->owner)) {
        memcpy(&l->owner, old.data, sizeof(l->owner));
    }
    if (l->owner != 0 &&
        !kars__zone_worker_alive(l->o->cycle->zone, l->owner)) {
        l->owner = 0;
    }
}

static int
owner_look_fn(kars_str_t old, kars__map_new_t *ret, void *data)
{
    owner_read(data, old);
    return KARS_DECLINED;
}

static int
owner_claim_fn(kars_str_t old, kars__map_new_t *ret, void *data)
{
    owner_lease_t *l = data;
    uint64_t us = l->o->cycle->worker_id;

    owner_read(l, old);
    if (l->owner != 0 && l->owner != us) {
        return KARS_DECLINED;
    }
    memcpy(ret->value, &us, sizeof(us));
    ret->len = sizeof(us);
    ret->ttl_ms = l->lease_ms;
    return KARS_OK;
}

static int
owner_release_fn(kars_str_t old, kars__map_new_t *ret, void *data)
{
    owner_lease_t *l = data;

    owner_read(l, old);
    return l->owner == l->o->cycle->worker_id ? KARS_DONE : KARS_DECLINED;
}

static int
owner_drop_dead(kars_str_t key, kars_str_t value, void *data)
{
    owner_lease_t l = { .o = data };

    owner_read(&l, value);
    return l.owner == 0 ? KARS_DECLINED : KARS_OK;
}

/* The live owner; 0: nobody. */
static uint64_t
owner_of(owners_t *o, const kars__mod_t *mod, kars_str_t key)
{
    owner_lease_t l;

    if (owner_key(&l, o, mod, key) != KARS_OK) {
        return 0;
    }
    (void) kars__map_update(o->map, (kars_str_t){ l.key, l.len }, owner_look_fn,
                            &l);
    return l.owner;
}

int
kars__owner_claim(kars_cycle_t *c, kars_str_t key, uint32_t lease_ms)
{
    owners_t *o = owner_get_open(c);
    owner_lease_t l;

    if (o == NULL || lease_ms == 0 ||
        owner_key(&l, o, kars__mod_now, key) != KARS_OK) {
        return KARS_ERROR;
    }
    l.lease_ms = lease_ms;

    kars_str_t full = { l.key, l.len };
    int rc = kars__map_update(o->map, full, owner_claim_fn, &l);

    if (rc == KARS_ERROR) { /* full, maybe of what the dead left */
        kars__map_each(o->map, owner_drop_dead, o);
        rc = kars__map_update(o->map, full, owner_claim_fn, &l);
    }
    return rc;
}

void
kars__owner_release(kars_cycle_t *c, kars_str_t key)
{
    owners_t *o = owner_get(c);
    owner_lease_t l;

    if (o != NULL && owner_key(&l, o, kars__mod_now, key) == KARS_OK) {
        (void) kars__map_update(o->map, (kars_str_t){ l.key, l.len },
                                owner_release_fn, &l);
    }
}

/* Messages out. */

static int
owner_put_local(owners_t *o, kars_str_t head, kars_str_t message)
{
    owner_local_t *f = o->nlocal < OWNER_LOCAL
                           ? kars__alloc(sizeof(*f) + head.len + message.len)
                           : NULL;

    if (f == NULL) {
        return KARS_ERROR;
    }
    f->len = head.len + message.len;
    memcpy(f->bytes, head.data, head.len);
    if (message.len != 0) {
        memcpy(f->bytes + head.len, message.data, message.len);
    }
    *o->local_last = f;
    o->local_last = &f->next;
    o->nlocal++;
    kars__work_queue(o->cycle->loop, &o->local_work, KARS__POST);
    return KARS_OK;
}

/* link NULL: to ourselves. */
static int
owner_put(owners_t *o, kars__link_t *link, owner_head_t head,
          const kars__mod_t *mod, kars_str_t key, kars_str_t message)
{
    char bytes[OWNER_HEAD_MAX];
    size_t n = sizeof(head);

    if (message.len > KARS__OWNER_MESSAGE) {
        return KARS_ERROR;
    }
    head.name_len = (uint16_t) (mod != NULL ? strlen(mod->def.name) : 0);
    head.key_len = (uint16_t) key.len;
    memcpy(bytes, &head, sizeof(head));
    if (mod != NULL) {
        memcpy(bytes + n, mod->def.name, head.name_len);
        n += head.name_len;
    }
    if (key.len != 0) {
        memcpy(bytes + n, key.data, key.len);
        n += key.len;
    }

    kars_str_t h = { bytes, n };

    return link != NULL ? kars__link_send(link, h, message)
                        : owner_put_local(o, h, message);
}

/* Where the owner is: OK, and a link (NULL: us); DECLINED: nobody's; ERROR: not
 * to be reached. */
static int
owner_reach(owners_t *o, kars_str_t key, kars__link_t **ret)
{
    uint64_t owner = owner_of(o, kars__mod_now, key);

    *ret = NULL;
    if (owner == 0) {
        return KARS_DECLINED;
    }
    if (owner != o->cycle->worker_id) {
        *ret = kars__mesh_link(o->mesh, owner);
        return *ret != NULL ? KARS_OK : KARS_ERROR;
    }
    return KARS_OK;
}

int
kars__owner_send(kars_cycle_t *c, kars_str_t key, kars_str_t message)
{
    owners_t *o = owner_get(c);
    kars__link_t *link;

    if (o == NULL || owner_reach(o, key, &link) != KARS_OK) {
        return KARS_ERROR;
    }
    return owner_put(o, link, (owner_head_t){ .kind = OWNER_SEND },
                     kars__mod_now, key, message);
}

/* Calls. */

/* It ends: fn runs, from the loop. */
static void
owner_call_end(owners_t *o, owner_call_t *call, int error, kars_str_t reply)
{
    owner_call_t **at = &o->calls;
    kars__mod_t *was = kars__mod_now;

    while (*at != call) {
        at = &(*at)->next;
    }
    *at = call->next;
    o->ncalls--;
    kars__timer_stop(o->cycle->loop, &call->timer);
    kars__mod_now = call->mod;
    call->fn(o->cycle, error, reply, call->data);
    kars__mod_now = was;
    kars__free(call);
}

static void
owner_call_late(kars__timer_t *t)
{
    owner_call_t *call =
        (owner_call_t *) ((char *) t - offsetof(owner_call_t, timer));

    owner_call_end(call->cycle->owners, call, ETIMEDOUT,
                   (kars_str_t){ NULL, 0 });
}

static void
owner_reply_to(owners_t *o, kars__link_t *link, uint64_t id, int error,
               kars_str_t reply)
{
    owner_head_t head = { .kind = OWNER_REPLY, .id = id, .error = error };

    (void) owner_put(o, link, head, NULL, (kars_str_t){ NULL, 0 }, reply);
}

int
kars__owner_call(kars_cycle_t *c, kars_str_t key, kars_str_t message,
                 uint32_t timeout_ms,
                 void (*fn)(kars_cycle_t *cycle, int error, kars_str_t reply,
                            void *data),
                 void *data)
{
    owners_t *o = owner_get(c);
    owner_call_t *call = o != NULL && o->ncalls < OWNER_CALLS &&
                                 message.len <= KARS__OWNER_MESSAGE &&
                                 key.len <= KARS__OWNER_KEY
                             ? kars__alloc(sizeof(*call))
                             : NULL;

    if (call == NULL) {
        return KARS_ERROR;
    }

    kars__link_t *link;
    owner_head_t head = { .kind = OWNER_CALL, .id = ++o->last_id };
    int reached = owner_reach(o, key, &link);
    int rc = KARS_OK;

    head.timeout_ms = timeout_ms != 0 ? timeout_ms : OWNER_CALL_MS;
    if (reached == KARS_OK) {
        rc = owner_put(o, link, head, kars__mod_now, key, message);
    } else { /* heard of by the same door, later */
        link = NULL;
        head.kind = OWNER_REPLY;
        head.error = reached == KARS_DECLINED ? ENOENT : ECONNRESET;
        rc = owner_put(o, NULL, head, NULL, (kars_str_t){ NULL, 0 },
                       (kars_str_t){ NULL, 0 });
    }
    if (rc != KARS_OK) {
        kars__free(call);
        return KARS_ERROR;
    }
    call->id = head.id;
    call->link = link;
    call->cycle = c;
    call->mod = kars__mod_now;
    call->fn = fn;
    call->data = data;
    call->timer.fn = owner_call_late;
    call->next = o->calls;
    o->calls = call;
    o->ncalls++;
    kars__timer_start(c->loop, &call->timer, head.timeout_ms);
    return KARS_OK;
}

/* Messages in. */

static void
owner_ask_free(owners_t *o, owner_ask_t *ask)
{
    owner_ask_t **at = &o->asks;

    while (*at != ask) {
        at = &(*at)->next;
    }
    *at = ask->next;
    o->nasks--;
    kars__timer_stop(o->cycle->loop, &ask->timer);
    kars__free(ask);
}

static void
owner_ask_late(kars__timer_t *t)
{
    owner_ask_t *ask =
        (owner_ask_t *) ((char *) t - offsetof(owner_ask_t, timer));

    owner_ask_free(ask->cycle->owners, ask); /* its caller knows by itself */
}

static owner_ask_t *
owner_ask_make(owners_t *o, kars__link_t *link, const owner_head_t *head)
{
    owner_ask_t *ask =
        o->nasks < OWNER_CALLS ? kars__alloc(sizeof(*ask)) : NULL;

    if (ask == NULL) {
        return NULL;
    }
    ask->cycle = o->cycle;
    ask->token = ++o->last_token;
    ask->id = head->id;
    ask->link = link;
    ask->timer.fn = owner_ask_late;
    ask->next = o->asks;
    o->asks = ask;
    o->nasks++;
    kars__timer_start(o->cycle->loop, &ask->timer, head->timeout_ms);
    return ask;
}

static owner_ask_t *
owner_ask_find(const owners_t *o, kars_token_t token)
{
    owner_ask_t *ask = o->asks;

    while (ask != NULL && ask->token != token) {
        ask = ask->next;
    }
    return ask;
}

int
kars__owner_reply(kars_cycle_t *c, kars_token_t token, kars_str_t reply)
{
    owners_t *o = owner_get(c);
    owner_ask_t *ask = o != NULL ? owner_ask_find(o, token) : NULL;

    if (reply.len > KARS__OWNER_MESSAGE) {
        return KARS_ERROR;
    }
    if (ask != NULL) {
        owner_reply_to(o, ask->link, ask->id, 0, reply);
        owner_ask_free(o, ask);
    }
    return KARS_OK;
}

/* A question or a message, for a module that hears. ERROR: nobody does. */
static int
owner_hear(owners_t *o, const owner_ear_t *ear, kars_token_t token,
           kars_str_t key, kars_str_t message)
{
    if (ear->serve != NULL) {
        return ear->serve(o->cycle, key, message, token, ear->serve_data);
    }
    return token == 0 && ear->receive != NULL
               ? ear->receive(o->cycle, key, message, ear->receive_data)
               : KARS_ERROR;
}

static void
owner_asked(owners_t *o, kars__link_t *link, const owner_head_t *head,
            kars__mod_t *mod, kars_str_t key, kars_str_t message)
{
    int is_call = head->kind == OWNER_CALL;

    if (mod == NULL || owner_of(o, mod, key) != o->cycle->worker_id) {
        if (is_call) {
            owner_reply_to(o, link, head->id, ENOENT, (kars_str_t){ NULL, 0 });
        }
        return;
    }

    owner_ask_t *ask = is_call ? owner_ask_make(o, link, head) : NULL;
    kars_token_t token = ask != NULL ? ask->token : 0;
    int rc = KARS_ERROR;

    if (!is_call || ask != NULL) {
        kars__mod_now = mod;
        rc = owner_hear(o, &o->ears[mod->index], token, key, message);
        kars__mod_now = NULL;
    }
    if (!is_call || (rc != KARS_ERROR && token != 0)) {
        return;
    }
    ask = token != 0 ? owner_ask_find(o, token) : NULL;
    if (ask != NULL || token == 0) { /* it will not be answered */
        owner_reply_to(o, link, head->id, ECONNRESET, (kars_str_t){ NULL, 0 });
    }
    if (ask != NULL) {
        owner_ask_free(o, ask);
    }
}

static kars__mod_t *
owner_mod(const kars_cycle_t *c, kars_str_t name)
{
    for (size_t i = 0; i < c->nmods; i++) {
        if (strlen(c->mods[i]->def.name) == name.len &&
            memcmp(c->mods[i]->def.name, name.data, name.len) == 0) {
            return c->mods[i];
        }
    }
    return NULL;
}

static void
owner_message(kars__link_t *l, kars_str_t bytes, void *data)
{
    owners_t *o = data;
    owner_head_t head;

    if (bytes.len < sizeof(head)) {
        return;
    }
    memcpy(&head, bytes.data, sizeof(head));

    size_t at = sizeof(head) + head.name_len + head.key_len;

    if (at > bytes.len) {
        return;
    }

    kars_str_t name = { bytes.data + sizeof(head), head.name_len };
    kars_str_t key = { name.data + name.len, head.key_len };
    kars_str_t message = { bytes.data + at, bytes.len - at };

    if (head.kind == OWNER_SEND || head.kind == OWNER_CALL) {
        owner_asked(o, l, &head, owner_mod(o->cycle, name), key, message);
    } else if (head.kind == OWNER_REPLY) {
        for (owner_call_t *c = o->calls; c != NULL; c = c->next) {
            if (c->id == head.id && c->link == l) {
                owner_call_end(o, c, head.error, message);
                return;
            }
        }
    }
}

static void
owner_link_gone(kars__link_t *l, void *data)
{
    owners_t *o = data;
    owner_call_t *call;
    owner_ask_t *next;

    for (owner_ask_t *a = o->asks; a != NULL; a = next) {
        next = a->next;
        if (a->link == l) {
            owner_ask_free(o, a);
        }
    }
    do { /* from the start: fn may have asked again */
        call = o->calls;
        while (call != NULL && call->link != l) {
            call = call->next;
        }
        if (call != NULL) {
            owner_call_end(o, call, ECONNRESET, (kars_str_t){ NULL, 0 });
        }
    } while (call != NULL);
}

int
kars__owner_receive(kars_cycle_t *c,
                    int (*fn)(kars_cycle_t *cycle, kars_str_t key,
                              kars_str_t message, void *data),
                    void *data)
{
    owners_t *o = owner_get_open(c);

    if (o == NULL || kars__mod_now == NULL) {
        return KARS_ERROR;
    }
    o->ears[kars__mod_now->index].receive = fn;
    o->ears[kars__mod_now->index].receive_data = data;
    return KARS_OK;
}

int
kars__owner_serve(kars_cycle_t *c,
                  int (*fn)(kars_cycle_t *cycle, kars_str_t key,
                            kars_str_t message, kars_token_t call, void *data),
                  void *data)
{
    owners_t *o = owner_get_open(c);

    if (o == NULL || kars__mod_now == NULL) {
        return KARS_ERROR;
    }
    o->ears[kars__mod_now->index].serve = fn;
    o->ears[kars__mod_now->index].serve_data = data;
    return KARS_OK;
}

void
kars__owners_stop(kars_cycle_t *c)
{
    owners_t *o = c->owners;

    if (o == NULL) {
        return;
    }
    o->stopped = 1;
    while (o->calls != NULL) {
        owner_call_end(o, o->calls, ECONNRESET, (kars_str_t){ NULL, 0 });
    }
}

void
kars__owners_destroy(kars_cycle_t *c)
{
    owners_t *o = c->owners;
    owner_local_t *next;

    if (o == NULL) {
        return;
    }
    kars__owners_stop(c);
    while (o->asks != NULL) {
        owner_ask_free(o, o->asks);
    }
    kars__work_cancel(c->loop, &o->local_work);
    for (owner_local_t *f = o->local; f != NULL; f = next) {
        next = f->next;
        kars__free(f);
    }
    kars__mesh_destroy(o->mesh);
    c->owners = NULL;
}
