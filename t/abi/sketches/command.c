/* sketch: two commands - one on files alone, one on a configuration that has
 * to make a call, and so needs the loop. */
#include "kars_module.h"

#include <stdio.h>

typedef struct {
    kars_upstream_t *server;
} cmd_conf_t;

/* `kars-router sum FILE`: cycle is NULL, no configuration was read. */
static int
cmd_sum(kars_cycle_t *cycle, int argc, char **argv)
{
    FILE *f = argc == 2 ? fopen(argv[1], "re") : NULL;
    unsigned long sum = 0;

    if (f == NULL) {
        fprintf(stderr, "usage: kars-router sum FILE\n");
        return 2;
    }

    for (int c = getc(f); c != EOF; c = getc(f)) {
        sum += (unsigned long) c;
    }
    (void) fclose(f);
    printf("%lu\n", sum);
    return 0;
}

static void
cmd_done(kars_exchange_t *x, int error, void *data)
{
    *(int *) data = error;
}

static const kars_exchange_handler_t cmd_handler = { .size =
                                                         sizeof(cmd_handler),
                                                     .done = cmd_done };

/* `kars-router -c FILE reach`: is the server there? */
static int
cmd_reach(kars_cycle_t *cycle, int argc, char **argv)
{
    const cmd_conf_t *cc = kars_cycle_conf(cycle);
    int error = -1;
    kars_call_t call = { .size = sizeof(call),
                         .upstream = cc->server,
                         .method = KARS_STR("HEAD"),
                         .path = KARS_STR("/"),
                         .timeout_ms = 3000 };

    if (kars_exchange(cycle, &call, &cmd_handler, &error) == NULL) {
        return 1;
    }

    /* Here the loop has to turn until cmd_done ran: see the gaps. */
    printf("error=%d\n", error);
    return error != 0;
}

static const kars_directive_t cmd_directives[] = {
    { .name = "reach_server", .at = KARS_AT_MAIN, .type = KARS_T_UPSTREAM },
    { 0 },
};
static const kars_command_t cmd_commands[] = {
    { "sum", cmd_sum, "adds the bytes of a file", KARS_CMD_NOCONF },
    { "reach", cmd_reach, "asks whether the server answers", 0 },
    { 0 },
};

KARS_MODULE(command) = {
    KARS_MODULE_HEAD,
    .name = "command",
    .version = "1.0.0",
    .conf_size = sizeof(cmd_conf_t),
    .directives = cmd_directives,
    .commands = cmd_commands,
};
