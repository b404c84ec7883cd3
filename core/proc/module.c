/* module.c - opening modules; see module.h. */
#include "proc/module.h"
#include "proc/elf_head.h"
#include "proc/harden.h"

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

const kars_module_t *const *kars__module_builtins;

/* What this release cannot do yet must not be asked of it in silence. */
static int
module_supported(const kars_module_t *m, kars_err_t *err)
{
    for (const kars_hook_t *h = m->hooks; h != NULL && h->phase != 0; h++) {
        if (h->phase == KARS_PHASE_CONNECT ? h->connect == NULL
                                           : h->run == NULL) {
            return kars__err(err, 0, "a hook of phase %u without a function",
                             h->phase);
        }
    }
    for (const kars_filter_def_t *f = m->filters; f != NULL && f->dir != 0;
         f++) {
        if (f->dir != KARS_REQUEST && f->dir != KARS_RESPONSE) {
            return kars__err(err, 0, "a filter of no direction: %u", f->dir);
        }
        if (f->dir == KARS_REQUEST && f->event != NULL) {
            return kars__err(err, 0,
                             "requests have no events: a filter of "
                             "KARS_REQUEST has head and body");
        }
    }
    return KARS_OK;
}

/* A module of ours is as large as today's structs; older ones are smaller and
 * what they lack reads as zero. Strides are checked to be today's. */
static int
module_adopt(kars_pool_t *pool, const kars_module_t *self, kars__mod_t **ret,
             kars_err_t *err)
{
    kars__mod_t *mod = kars__pnew(pool, kars__mod_t);

    if (mod == NULL) {
        return kars__err(err, ENOMEM, "a module");
    }
    memcpy(&mod->def, self,
           self->size < sizeof(mod->def) ? self->size : sizeof(mod->def));
    mod->self = self;
    if (mod->def.name == NULL || mod->def.name[0] == '\0') {
        return kars__err(err, 0, "the module has no name");
    }
    if (module_supported(&mod->def, err) != KARS_OK) {
        return KARS_ERROR;
    }
    if (mod->def.directives != NULL &&
        kars__dtable_init(&mod->table, pool, mod->def.name, mod->def.directives,
                          mod->def.directive_size, mod->def.conf_size,
                          err) != KARS_OK) {
        return KARS_ERROR;
    }
    mod->table.owner = mod->def.name;
    mod->table.conf_size = mod->def.conf_size;
    if (kars__harden_check(mod, err) != KARS_OK) {
        return KARS_ERROR;
    }
    if (mod->def.api != NULL) {
        *mod->def.api = &kars__api;
    }
    *ret = mod;
    return KARS_OK;
}

static int
module_load(kars_pool_t *pool, int fd, kars__mod_t **ret, kars_err_t *err)
{
    kars__elf_head_t head;
    char path[64];

    if (kars__elf_head_read(fd, &head, err) != KARS_OK ||
        kars__elf_head_check(&head, err) != KARS_OK) {
        return KARS_ERROR;
    }

    /* By descriptor: what was checked is what is loaded. By a number that no
     * module had before: dlopen knows what it has loaded by its name. */
    static int number = 128;
    int own = fcntl(fd, F_DUPFD_CLOEXEC, number);

    if (own == -1) {
        return kars__err(err, errno, "a descriptor");
    }
    number = own + 1;
    (void) snprintf(path, sizeof(path), "/proc/self/fd/%d", own);

    void *handle = dlopen(path, RTLD_NOW | RTLD_LOCAL);

    (void) close(own);
    if (handle == NULL) {
        return kars__err(err, 0, "%s", dlerror());
    }

    const kars_module_t *self = dlsym(handle, "kars_module");

    if (self == NULL) {
        return kars__err(err, 0, "exports no kars_module");
    }
    return module_adopt(pool, self, ret, err);
}

int
kars__module_open(kars_pool_t *pool, const char *dir, kars_str_t name,
                  kars__mod_t **ret, kars_err_t *err)
{
    for (const kars_module_t *const *m = kars__module_builtins;
         m != NULL && *m != NULL; m++) {
        if (kars_str_eq(name, kars__strz((*m)->name))) {
            return module_adopt(pool, *m, ret, err);
        }
    }

    char path[4096];
    int has_slash = name.len != 0 && memchr(name.data, '/', name.len) != NULL;
    int n = has_slash ? snprintf(path, sizeof(path), "%.*s", KARS_STR_ARG(name))
                      : snprintf(path, sizeof(path), "%s/%.*s.so", dir,
                                 KARS_STR_ARG(name));

    if (n < 0 || (size_t) n >= sizeof(path)) {
        return kars__err(err, ENAMETOOLONG, "module \"%.*s\"",
                         KARS_STR_ARG(name));
    }

    int fd = open(path, O_RDONLY | O_CLOEXEC);

    if (fd == -1) {
        return kars__err(err, errno, "module \"%s\"", path);
    }

    int rc = module_load(pool, fd, ret, err);

    (void) close(fd);
    return rc == KARS_OK ? KARS_OK
                         : kars__err_prefix(err, "module \"%s\"", path);
}

/* Does a list of names hold this one? "*" holds all. */
static int
module_named(const char *list, const char *name)
{
    size_t n = strlen(name);

    while (list != NULL && *list != '\0') {
        size_t len = strcspn(list, " ");

        if ((len == n && memcmp(list, name, n) == 0) ||
            (len == 1 && *list == '*')) {
            return 1;
        }
        list += len;
        list += strspn(list, " ");
    }
    return 0;
}

int
kars__modules_order(kars__mod_t *const *mods, size_t n, kars_err_t *err)
{
    for (size_t i = 0; i < n; i++) {
        for (size_t j = 0; j < n; j++) {
            const char *a = mods[i]->def.name, *b = mods[j]->def.name;

            if (i != j && strcmp(a, b) == 0) {
                return kars__err(err, 0, "module \"%s\" is loaded twice", a);
            }
            if (j > i && module_named(mods[i]->def.after, b)) {
                return kars__err(err, 0,
                                 "load_module %s must stand after "
                                 "load_module %s",
                                 a, b);
            }
            if (j < i && module_named(mods[i]->def.before, b)) {
                return kars__err(err, 0,
                                 "load_module %s must stand before "
                                 "load_module %s",
                                 a, b);
            }
        }
    }
    return KARS_OK;
}

static int
module_find_service(kars__mod_t *const *mods, size_t n, const char *name,
                    const void **ret, kars_err_t *err)
{
    const char *by = NULL;

    *ret = NULL;
    for (size_t i = 0; i < n; i++) {
        for (const kars_service_t *s = mods[i]->def.provides;
             s != NULL && s->name != NULL; s++) {
            if (strcmp(s->name, name) != 0) {
                continue;
            }
            if (by != NULL) {
                return kars__err(err, 0,
                                 "both %s and %s provide %s: load one of them",
                                 by, mods[i]->def.name, name);
            }
            by = mods[i]->def.name;
            *ret = s->vtable;
        }
    }
    return KARS_OK;
}

/* A module that provides another version of a service: "jws/2" for "jws/1". */
static const kars_service_t *
module_other_version(kars__mod_t *const *mods, size_t n, const char *name,
                     const char **ret_module)
{
    size_t stem = strcspn(name, "/");

    for (size_t i = 0; i < n; i++) {
        for (const kars_service_t *s = mods[i]->def.provides;
             s != NULL && s->name != NULL; s++) {
            if (strcspn(s->name, "/") == stem &&
                memcmp(s->name, name, stem) == 0) {
                *ret_module = mods[i]->def.name;
                return s;
            }
        }
    }
    return NULL;
}

static int
module_lacks(kars__mod_t *const *mods, size_t n, const kars__mod_t *m,
             const char *name, kars_err_t *err)
{
    const char *by;
    const kars_service_t *other = module_other_version(mods, n, name, &by);

    return other != NULL
               ? kars__err(err, 0,
                           "module %s needs the service %s, module %s "
                           "provides %s: load versions that fit",
                           m->def.name, name, by, other->name)
               : kars__err(err, 0,
                           "module %s needs the service %s: load a module "
                           "that provides it",
                           m->def.name, name);
}

static int
module_needs(kars__mod_t *const *mods, size_t n, const kars__mod_t *m,
             kars_err_t *err)
{
    for (const kars_need_t *need = m->def.needs;
         need != NULL && need->name != NULL; need++) {
        const void *vtable;

        if (module_find_service(mods, n, need->name, &vtable, err) != KARS_OK) {
            return KARS_ERROR;
        }
        if (vtable == NULL && !need->optional) {
            return module_lacks(mods, n, m, need->name, err);
        }
        if (vtable != NULL && *(const size_t *) vtable < need->min_size) {
            return kars__err(err, 0,
                             "module %s needs %zu bytes of the service %s, "
                             "its provider has %zu",
                             m->def.name, need->min_size, need->name,
                             *(const size_t *) vtable);
        }
        *need->slot = vtable;
    }
    return KARS_OK;
}

int
kars__modules_link(kars__mod_t *const *mods, size_t n, kars_err_t *err)
{
    for (size_t i = 0; i < n; i++) {
        const void *vtable;

        for (const kars_service_t *s = mods[i]->def.provides;
             s != NULL && s->name != NULL; s++) {
            if (module_find_service(mods, n, s->name, &vtable, err) !=
                KARS_OK) {
                return KARS_ERROR;
            }
        }
        if (module_needs(mods, n, mods[i], err) != KARS_OK) {
            return KARS_ERROR;
        }
    }
    return KARS_OK;
}

static int
module_provides(const kars__mod_t *m, const char *name)
{
    for (const kars_service_t *s = m->def.provides;
         s != NULL && s->name != NULL; s++) {
        if (strcmp(s->name, name) == 0) {
            return 1;
        }
    }
    return 0;
}

/* Does m need a service of one that is not in done[0..ndone)? */
static int
module_waits(kars__mod_t *const *mods, size_t n, const kars__mod_t *m,
             kars__mod_t *const *done, size_t ndone)
{
    for (const kars_need_t *need = m->def.needs;
         need != NULL && need->name != NULL; need++) {
        for (size_t i = 0; i < n; i++) {
            size_t j = 0;

            while (j < ndone && done[j] != mods[i]) {
                j++;
            }
            if (j == ndone && mods[i] != m &&
                module_provides(mods[i], need->name)) {
                return 1;
            }
        }
    }
    return 0;
}

void
kars__modules_start_order(kars__mod_t *const *mods, size_t n, kars__mod_t **ret)
{
    size_t ndone = 0;

    while (ndone < n) {
        kars__mod_t *next = NULL, *first = NULL;

        for (size_t i = 0; i < n && next == NULL; i++) {
            size_t j = 0;

            while (j < ndone && ret[j] != mods[i]) {
                j++;
            }
            if (j < ndone) {
                continue;
            }
            first = first != NULL ? first : mods[i];
            if (!module_waits(mods, n, mods[i], ret, ndone)) {
                next = mods[i];
            }
        }
        ret[ndone++] = next != NULL ? next : first; /* a circle: load order */
    }
}
