/* sketch: a command that has to make a call, and so needs the loop. */
#include "kars_module.h"

#include <stdio.h>
#include <string.h>

typedef struct {
    kars_upstream_t *server;
} cmd_conf_t;

typedef struct {
    kars_cycle_t *cycle;
    int error;
} cmd_reach_t;

static void
cmd_done(kars_exchange_t *x, int error, void *data)
{
    cmd_reach_t *reach = data;

    reach->error = error;
    kars_loop_stop(reach->cycle);
}

/* clang-format off */
static const kars_exchange_handler_t cmd_handler = {
    .size = sizeof(cmd_handler), .done = cmd_done
};
/* clang-format on */

/* `kars-router -c FILE reach`: is the server there? Returns the exit code. */
static int
cmd_reach(kars_cycle_t *cycle, int argc, char **argv)
{
    const cmd_conf_t *cc = kars_cycle_conf(cycle);
    cmd_reach_t reach = { .cycle = cycle };
    kars_call_t call = { .size = sizeof(call),
                         .upstream = cc->server,
                         .method = KARS_STR("HEAD"),
                         .path = KARS_STR("/"),
                         .timeout_ms = 3000 };

    if (kars_exchange(cycle, &call, &cmd_handler, &reach) == NULL ||
        kars_loop_run(cycle, 5000) != KARS_OK) {
        (void) fprintf(stderr, "reach: nothing came of it\n");
        return 1;
    }
    (void) printf("%s\n", reach.error == 0 ? "ok" : strerror(reach.error));
    return reach.error != 0;
}

/* clang-format off */
static const kars_directive_t cmd_directives[] = {
    { .name = "reach_server", .at = KARS_AT_MAIN, .type = KARS_T_UPSTREAM,
      .offset = offsetof(cmd_conf_t, server) },
    { 0 },
};
static const kars_command_t cmd_commands[] = {
    { "reach", cmd_reach, "asks whether the server answers", 0 },
    { 0 },
};
/* clang-format on */

KARS_MODULE(command) = {
    KARS_MODULE_HEAD,
    .name = "command",
    .version = "1.0.0",
    .conf_size = sizeof(cmd_conf_t),
    .directives = cmd_directives,
    .commands = cmd_commands,
};
