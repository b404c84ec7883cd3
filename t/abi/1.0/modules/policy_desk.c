/*
 * policy_desk.c - a module from outside the tree that uses what outlives a
 * request: a watched folder and its snapshots, a shared map, owned keys.
 *
 *     desk_policy /etc/desk;             # every file begins with one same line
 *     route GET /desk/show        { desk show; }    # by which policy, twice
 *     route GET /desk/watched     { desk watched; } # how the folder stands
 *     route PUT /desk/note/{key}  { desk note; }    # keeps what it is given
 *     route GET /desk/note/{key}  { desk note; }
 *     route PUT /desk/own/{key}   { desk own; }     # owns the key, for a
 * minute route GET /desk/own/{key}   { desk own; }     # asks its owner who it
 * is route DELETE /desk/own/{key} { desk own; }    # gives it back
 *
 * A policy whose line has "closed" in it ends the streams that are open.
 */
#include "kars_module.h"

#include <errno.h>
#include <stdio.h>
#include <unistd.h>

enum { DESK_NONE = 0, DESK_SHOW, DESK_WATCHED, DESK_NOTE, DESK_OWN };
enum { DESK_ASKS = 64, DESK_TEXT = 256 };

typedef struct {
    kars_str_t path;
    kars_snapshot_t *policy;
    int32_t what;
} desk_conf_t;

/* A question to an owner, until the request that waits for it has read it. */
typedef struct {
    kars_token_t token;
    int error;
    char text[DESK_TEXT];
} desk_ask_t;

typedef struct {
    const kars_str_t *first; /* what show saw before it waited */
    desk_ask_t *ask;
} desk_ctx_t;

static kars_map_t *desk_notes;
static desk_ask_t desk_asks[DESK_ASKS];
static unsigned desk_next;

/* clang-format off */
static const kars_directive_t desk_directives[] = {
    { .name = "desk_policy", .at = KARS_AT_MAIN, .type = KARS_T_PATH,
      .offset = offsetof(desk_conf_t, path),
      .doc = "a folder of files that begin with one same line" },
    { .name = "desk", .at = KARS_AT_ROUTE, .type = KARS_T_ENUM,
      .offset = offsetof(desk_conf_t, what), .dflt = "none",
      .values = "none show watched note own",
      .doc = "what the desk answers here" },
    { 0 },
};
/* clang-format on */

/* The policy is the first line, which all files must agree on. */

static kars_str_t
desk_line(kars_str_t bytes)
{
    const char *end = memchr(bytes.data, '\n', bytes.len);

    return end != NULL ? (kars_str_t){ bytes.data, (size_t) (end - bytes.data) }
                       : bytes;
}

static int
desk_parse(kars_pool_t *pool, const kars_file_t *files, size_t n, void *data,
           void **ret, kars_err_t *err)
{
    kars_str_t line = { "", 0 };

    for (size_t i = 0; i < n; i++) {
        kars_str_t of = desk_line(files[i].bytes);

        if (of.len == 0 || kars_str_starts(of, KARS_STR("bad"))) {
            return kars_err(err, 0, "%.*s:1: no policy",
                            KARS_STR_ARG(files[i].name));
        }
        if (i > 0 && !kars_str_eq(of, line)) {
            return kars_err(err, 0, "%.*s:1: of another policy than %.*s",
                            KARS_STR_ARG(files[i].name),
                            KARS_STR_ARG(files[0].name));
        }
        line = of;
    }

    kars_str_t *policy = kars_pnew(pool, kars_str_t);
    char *copy = kars_palloc(pool, line.len + 1);

    if (policy == NULL || copy == NULL) {
        return kars_err(err, ENOMEM, "a policy");
    }
    memcpy(copy, line.data, line.len);
    *policy = (kars_str_t){ copy, line.len };
    *ret = policy;
    return KARS_OK;
}

static int
desk_check(const kars_place_t *place, void *conf, kars_err_t *err)
{
    desk_conf_t *dc = conf;
    kars_watch_t watch = { .size = sizeof(watch),
                           .path = dc->path,
                           .kind = KARS_STR("DeskPolicy"),
                           .parse_all = desk_parse };

    return dc->path.len == 0
               ? KARS_OK
               : kars_watch(place->cycle, &watch, &dc->policy, err);
}

static int
desk_text(kars_req_t *r, int status, kars_str_t text)
{
    return kars_respond(r, status, KARS_STR("text/plain"), text);
}

/* show: "WORKER POLICY POLICY", the second one after a wait. */

static int
desk_show_again(kars_req_t *r, int error, const void *conf, void *ctx)
{
    const desk_conf_t *dc = conf;
    const kars_str_t *first = ((desk_ctx_t *) ctx)->first;
    const kars_str_t *now = kars_snapshot(r, dc->policy);
    char text[DESK_TEXT];
    int n = snprintf(text, sizeof(text), "%d %.*s %.*s", (int) getpid(),
                     KARS_STR_ARG(*first), KARS_STR_ARG(*now));

    return desk_text(r, 200, (kars_str_t){ text, (size_t) n });
}

static int
desk_show(kars_req_t *r, const desk_conf_t *dc, desk_ctx_t *ctx)
{
    ctx->first = kars_snapshot(r, dc->policy);
    if (ctx->first == NULL) {
        return kars_reject(r, 503, KARS_STR("policy_unavailable"),
                           KARS_STR("no policy has been loaded yet"));
    }

    kars_token_t token = kars_suspend(r, 3, desk_show_again); /* 3 ms */

    return token != 0 ? KARS_AGAIN : KARS_ERROR;
}

/* watched: "KIND DIGEST ERROR" a line. */

typedef struct {
    char text[2 * DESK_TEXT];
    size_t n;
} desk_list_t;

static void
desk_watch(const kars_watch_state_t *s, void *data)
{
    desk_list_t *l = data;
    int n = snprintf(l->text + l->n, sizeof(l->text) - l->n, "%.*s ",
                     KARS_STR_ARG(s->kind));

    l->n += n > 0 ? (size_t) n : 0;
    for (size_t i = 0; i < s->digest.len && l->n + 3 < sizeof(l->text); i++) {
        (void) snprintf(l->text + l->n, 3, "%02x",
                        (unsigned char) s->digest.data[i]);
        l->n += 2;
    }
    n = snprintf(l->text + l->n, sizeof(l->text) - l->n, " %.*s\n",
                 KARS_STR_ARG(s->error));
    l->n += n > 0 ? (size_t) n : 0;
    if (l->n > sizeof(l->text)) {
        l->n = sizeof(l->text);
    }
}

static int
desk_watched(kars_req_t *r)
{
    desk_list_t list = { .n = 0 };

    kars_api->watch_each(kars_req_cycle(r), desk_watch, &list);
    return desk_text(r, 200, (kars_str_t){ list.text, list.n });
}

/* note: a map. */

static int
desk_note(kars_req_t *r, kars_str_t key)
{
    const kars_buf_t *body = kars_req_body(r);
    kars_str_t note = body != NULL ? kars_buf_str(body) : KARS_STR("");

    if (kars_str_eq(kars_req_method(r), KARS_STR("PUT"))) {
        return kars_map_put(desk_notes, key, note, 0, 0) == KARS_OK
                   ? desk_text(r, 200, KARS_STR("kept"))
                   : desk_text(r, 507, KARS_STR("full"));
    }
    return kars_map_get(desk_notes, key, kars_req_pool(r), &note) == KARS_OK
               ? desk_text(r, 200, note)
               : desk_text(r, 404, KARS_STR("no such note"));
}

/* own: one worker has the key, the others ask it. */

static int
desk_told(kars_req_t *r, int error, const void *conf, void *ctx)
{
    desk_ask_t *ask = ((desk_ctx_t *) ctx)->ask;

    ask->token = 0;
    if (error != 0 || ask->error != 0) {
        return desk_text(r, ask->error == ENOENT ? 404 : 502,
                         KARS_STR("no owner"));
    }
    return desk_text(r, 200, (kars_str_t){ ask->text, strlen(ask->text) });
}

static void
desk_answered(kars_cycle_t *cycle, int error, kars_str_t reply, void *data)
{
    desk_ask_t *ask = data;

    ask->error = error;
    (void) snprintf(ask->text, sizeof(ask->text), "%.*s", KARS_STR_ARG(reply));
    (void) kars_resume(ask->token, 0);
}

static int
desk_ask(kars_req_t *r, kars_str_t key, desk_ctx_t *ctx)
{
    desk_ask_t *ask = &desk_asks[desk_next++ % DESK_ASKS];

    ctx->ask = ask;
    ask->token = kars_suspend(r, 5000, desk_told);
    if (ask->token == 0) {
        return KARS_ERROR;
    }
    return kars_owner_call(kars_req_cycle(r), key, KARS_STR("who?"), 2000,
                           desk_answered, ask) == KARS_OK
               ? KARS_AGAIN
               : KARS_ERROR;
}

static int
desk_own(kars_req_t *r, kars_str_t key, desk_ctx_t *ctx)
{
    kars_cycle_t *cycle = kars_req_cycle(r);
    char text[32];

    if (kars_str_eq(kars_req_method(r), KARS_STR("GET"))) {
        return desk_ask(r, key, ctx);
    }
    if (kars_str_eq(kars_req_method(r), KARS_STR("DELETE"))) {
        kars_owner_release(cycle, key);
        return desk_text(r, 200, KARS_STR("released"));
    }

    int rc = kars_owner_claim(cycle, key, 60000);
    int n = snprintf(text, sizeof(text), "%d", (int) getpid());

    return rc == KARS_OK ? desk_text(r, 200, (kars_str_t){ text, (size_t) n })
                         : desk_text(r, rc == KARS_DECLINED ? 409 : 500,
                                     KARS_STR("another's"));
}

static int
desk_served(kars_cycle_t *cycle, kars_str_t key, kars_str_t message,
            kars_token_t call, void *data)
{
    char text[DESK_TEXT];
    int n = snprintf(text, sizeof(text), "%d owns %.*s, asked: %.*s",
                     (int) getpid(), KARS_STR_ARG(key), KARS_STR_ARG(message));

    return call != 0
               ? kars_owner_reply(cycle, call, (kars_str_t){ text, (size_t) n })
               : KARS_OK;
}

static int
desk_content(kars_req_t *r, const void *conf, void *ctx)
{
    const desk_conf_t *dc = conf;
    kars_str_t key = kars_req_segment(r, KARS_STR("key"));

    switch (dc->what) {
    case DESK_SHOW:
        return desk_show(r, dc, ctx);
    case DESK_WATCHED:
        return desk_watched(r);
    case DESK_NOTE:
        return desk_note(r, key);
    case DESK_OWN:
        return desk_own(r, key, ctx);
    default:
        return KARS_OK;
    }
}

/* The policy that is now, not the one that the stream began with. */
static int
desk_recheck(kars_req_t *r, const void *conf, void *ctx)
{
    const desk_conf_t *dc = conf;
    const kars_str_t *now =
        dc->policy != NULL ? kars_snapshot_now(dc->policy) : NULL;

    return now != NULL && memmem(now->data, now->len, "closed", 6) == NULL
               ? KARS_OK
               : kars_reject(r, 403, KARS_STR("policy_denied"),
                             KARS_STR("the desk is closed"));
}

static int
desk_start(kars_cycle_t *cycle, kars_err_t *err)
{
    const kars_map_def_t notes = { .size = sizeof(notes),
                                   .name = KARS_STR("policy-desk.notes"),
                                   .version = 1,
                                   .max_entries = 32,
                                   .max_key = 64,
                                   .max_value = 256 };

    desk_notes = kars_map(cycle, &notes, err);
    return desk_notes != NULL ? kars_owner_serve(cycle, desk_served, NULL)
                              : KARS_ERROR;
}

static const kars_hook_t desk_hooks[] = {
    { .phase = KARS_PHASE_CONTENT,
      .run = desk_content,
      .flags = KARS_NEEDS_BODY },
    { 0 },
};

KARS_MODULE(policy_desk) = {
    KARS_MODULE_HEAD,
    .name = "policy-desk",
    .version = "1.0.0",
    .flags = KARS_ALWAYS,
    .conf_size = sizeof(desk_conf_t),
    .ctx_size = sizeof(desk_ctx_t),
    .directives = desk_directives,
    .hooks = desk_hooks,
    .check = desk_check,
    .worker_start = desk_start,
    .recheck = desk_recheck,
};
