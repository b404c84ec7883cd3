/* main.c - kars-router: arguments, and what to do with them. */
#include "kars_config.h"
#include "proc/cycle.h"
#include "proc/effective.h"
#include "proc/master.h"
#include "proc/module.h"
#include "proc/probe.h"
#include "proc/reference.h"

#include <getopt.h>
#include <stdio.h>
#include <unistd.h>

static const char main_usage[] =
    "usage: kars-router [-c FILE]           serve\n"
    "       kars-router [-c FILE] -t        check the configuration\n"
    "       kars-router [-c FILE] -T        print it as it is in effect\n"
    "       kars-router [-c FILE] NAME …    run a module's command, such as\n"
    "                                       `audit verify` or `signing "
    "keygen`\n"
    "       kars-router [-c FILE] probe [GET|POST] [PATH] [JSON]\n"
    "                                       ask the running router "
    "(/healthz)\n"
    "       kars-router -V                  version and build\n"
    "       kars-router --directives        the reference of directives\n"
    "\n"
    "  -c FILE   the configuration (" KARS_CONF_PATH ")\n"
    "signals: HUP load the configuration again, USR1 open the logs again,\n"
    "USR2 go on with the binary that is there now, QUIT finish open requests\n"
    "and stop, TERM and INT stop\n"
    "exit codes: 0 done, 1 it failed and said why, 2 it was called wrongly\n";

enum { MAIN_TAKEOVER = 256 }; /* options without a letter */

static int
main_check(const char *conf)
{
    kars_err_t err = KARS_ERR_INIT;
    kars_cycle_t *c = kars__cycle_load(conf, KARS__CYCLE_CHECK, -1, &err);

    if (c == NULL) {
        (void) fprintf(stderr, "kars-router: %s\n", err.text);
        return 1;
    }
    (void) printf("kars-router: the configuration %s is good\n", conf);
    kars__cycle_destroy(c);
    return 0;
}

static int
main_effective(const char *conf)
{
    kars_err_t err = KARS_ERR_INIT;

    if (kars__effective_print(conf, stdout, &err) != KARS_OK) {
        (void) fprintf(stderr, "kars-router: %s\n", err.text);
        return 1;
    }
    return 0;
}

static const kars_command_t *
main_find_command(const kars_cycle_t *c, const char *name,
                  const kars__mod_t **ret_mod)
{
    for (size_t i = 0; i < c->nmods; i++) {
        const kars_command_t *cmd = c->mods[i]->def.commands;

        for (; cmd != NULL && cmd->name != NULL; cmd++) {
            if (strcmp(cmd->name, name) == 0) {
                *ret_mod = c->mods[i];
                return cmd;
            }
        }
    }
    return NULL;
}

static int
main_run_command(kars_cycle_t *c, const kars_command_t *cmd,
                 const kars__mod_t *mod, int argc, char **argv)
{
    c->command = 1;
    kars__mod_now = c->mods[mod->index];
    int code = cmd->run(c, argc, argv);
    kars__mod_now = NULL;

    kars__cycle_destroy(c);
    return code;
}

/* A module that is named like its command and needs no configuration. */
static int
main_bare_command(int argc, char **argv, int *ret_code)
{
    kars_err_t err = KARS_ERR_INIT;
    kars_cycle_t *c = kars__cycle_bare(&err);
    const kars__mod_t *mod;

    if (c == NULL ||
        kars__cycle_add_module(c, kars__module_dir(), kars__strz(argv[0]),
                               &err) != KARS_OK) {
        if (c != NULL) {
            kars__cycle_destroy(c);
        }
        return KARS_ERROR;
    }

    const kars_command_t *cmd = main_find_command(c, argv[0], &mod);

    if (cmd == NULL || !(cmd->flags & KARS_CMD_NOCONF)) {
        kars__cycle_destroy(c);
        return KARS_ERROR;
    }
    *ret_code = main_run_command(c, cmd, mod, argc, argv);
    return KARS_OK;
}

static int
main_command(const char *conf, int argc, char **argv)
{
    kars_err_t err = KARS_ERR_INIT;
    const kars__mod_t *mod;
    int code;

    if (strchr(argv[0], '/') != NULL) {
        (void) fprintf(stderr, "kars-router: \"%s\" is no command\n", argv[0]);
        return 2;
    }
    if (main_bare_command(argc, argv, &code) == KARS_OK) {
        return code;
    }

    kars_cycle_t *c = kars__cycle_load(conf, KARS__CYCLE_COMMAND, -1, &err);

    if (c == NULL) {
        (void) fprintf(stderr, "kars-router: %s: %s\n", argv[0], err.text);
        return 2;
    }

    const kars_command_t *cmd = main_find_command(c, argv[0], &mod);

    if (cmd == NULL) {
        (void) fprintf(stderr,
                       "kars-router: no module of %s has a command \"%s\"\n",
                       conf, argv[0]);
        kars__cycle_destroy(c);
        return 2;
    }
    return main_run_command(c, cmd, mod, argc, argv);
}

static int
main_version(void)
{
    (void) printf("kars-router %s\nmodule ABI %d.%d\nmodules %s\nbuilt in",
                  KARS_VERSION, KARS_ABI_MAJOR, KARS_ABI_MINOR,
                  kars__module_dir());
    for (size_t i = 0; kars__builtins[i] != NULL; i++) {
        (void) printf(" %s", kars__builtins[i]->name);
    }
    (void) puts(kars__builtins[0] == NULL ? " none" : "");
    return 0;
}

static int
main_directives(void)
{
    kars_err_t err = KARS_ERR_INIT;

    if (kars__reference_print(kars__module_dir(), &err) != KARS_OK) {
        (void) fprintf(stderr, "kars-router: %s\n", err.text);
        return 1;
    }
    return 0;
}

int
main(int argc, char **argv)
{
    const char *conf = KARS_CONF_PATH;
    const char *given = NULL; /* the same, if it was said */
    int check = 0, effective = 0, opt;

    static const struct option options[] = {
        { "takeover-check", no_argument, NULL, MAIN_TAKEOVER },
        { "directives", no_argument, NULL, 'D' },
        { "version", no_argument, NULL, 'V' },
        { "help", no_argument, NULL, 'h' },
        { 0 },
    };

    kars__module_builtins = kars__builtins;
    while ((opt = getopt_long(argc, argv, "+c:tTVh", options, NULL)) != -1) {
        switch (opt) {
        case 'D':
            return main_directives();
        case MAIN_TAKEOVER:
            return kars__master_takeover_check();
        case 'c':
            conf = given = optarg;
            break;
        case 't':
            check = 1;
            break;
        case 'T':
            effective = 1;
            break;
        case 'V':
            return main_version();
        case 'h':
            (void) fputs(main_usage, stdout);
            return 0;
        default:
            (void) fputs(main_usage, stderr);
            return 2;
        }
    }
    if (effective) {
        return main_effective(conf);
    }
    if (check) {
        return main_check(conf);
    }
    if (optind < argc && strcmp(argv[optind], "probe") == 0) {
        return kars__probe_run(given, argc - optind, argv + optind);
    }
    return optind < argc ? main_command(conf, argc - optind, argv + optind)
                         : kars__master_run(conf, argv);
}
