/*
 * elf_head.c - the constant `kars_module`, found in a file without running it.
 *
 * The way is the dynamic linker's: the dynamic segment names the symbol, hash
 * and string tables by address, the load segments say where an address is in
 * the file. Nothing is trusted: each read is a copy, checked against the size
 * of the file, and each loop ends with the file at the latest.
 */
#include "proc/elf_head.h"

#include <elf.h>
#include <endian.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#define ELF_SYMBOL    "kars_module"
#define ELF_SEGMENTS  64      /* more is no module */
#define ELF_SYMBOLS   1048576 /* of one hash chain */
#define ELF_DYNAMIC   1024    /* entries of the dynamic segment */
#define ELF_MALFORMED "a malformed ELF file: "

/* Bytes of a file: in memory, or behind a descriptor. */
typedef struct {
    const unsigned char *p; /* NULL: fd */
    int fd;
    uint64_t n;
    Elf64_Ehdr head;
    Elf64_Phdr segments[ELF_SEGMENTS];
    uint64_t symtab; /* addresses; 0: none */
    uint64_t strtab;
    uint64_t strsz;
    uint64_t hash;
    uint64_t gnu_hash;
} elf_t;

/* The head of the header file and the fields of ours are the same. */
_Static_assert(offsetof(kars_module_t, abi_minor) ==
                   offsetof(kars__elf_head_t, abi_minor),
               "head");
_Static_assert(offsetof(kars_module_t, command_size) ==
                   offsetof(kars__elf_head_t, command_size),
               "head");
_Static_assert(offsetof(kars_module_t, api) == sizeof(kars__elf_head_t),
               "head");

static int
elf_get(const elf_t *e, uint64_t off, void *ret, uint64_t len)
{
    if (off > e->n || len > e->n - off) {
        return KARS_ERROR;
    }
    if (e->p != NULL) {
        memcpy(ret, e->p + off, len);
        return KARS_OK;
    }

    unsigned char *to = ret;

    while (len > 0) {
        ssize_t n = pread(e->fd, to, len, (off_t) off);

        if (n == 0 || (n == -1 && errno != EINTR)) {
            return KARS_ERROR; /* it shrank, or cannot be read */
        }
        if (n > 0) {
            to += n;
            off += (uint64_t) n;
            len -= (uint64_t) n;
        }
    }
    return KARS_OK;
}

/* Where the file has len bytes that will be loaded at this address. */
static int
elf_map(const elf_t *e, uint64_t addr, uint64_t len, uint64_t *ret_off)
{
    for (size_t i = 0; i < e->head.e_phnum; i++) {
        const Elf64_Phdr *ph = &e->segments[i];

        if (ph->p_type == PT_LOAD && addr >= ph->p_vaddr &&
            addr - ph->p_vaddr < ph->p_filesz &&
            len <= ph->p_filesz - (addr - ph->p_vaddr)) {
            uint64_t in = addr - ph->p_vaddr;

            /* The segment may claim more than the file has. */
            if (ph->p_offset > e->n || in > e->n - ph->p_offset ||
                len > e->n - ph->p_offset - in) {
                return KARS_ERROR;
            }
            *ret_off = ph->p_offset + in;
            return KARS_OK;
        }
    }
    return KARS_ERROR;
}

/* len bytes at an address. */
static int
elf_at(const elf_t *e, uint64_t addr, void *ret, uint64_t len)
{
    uint64_t off;

    if (elf_map(e, addr, len, &off) != KARS_OK) {
        return KARS_ERROR;
    }
    return elf_get(e, off, ret, len);
}

/* The same, of item i of a table; no address wraps around. */
static int
elf_item(const elf_t *e, uint64_t table, uint64_t i, void *ret, uint64_t size)
{
    uint64_t off;

    if (__builtin_mul_overflow(i, size, &off) ||
        __builtin_add_overflow(off, table, &off)) {
        return KARS_ERROR;
    }
    return elf_at(e, off, ret, size);
}

static const char *
elf_machine_name(unsigned machine)
{
    switch (machine) {
    case EM_X86_64:
        return "x86_64";
    case EM_AARCH64:
        return "aarch64";
    case EM_RISCV:
        return "riscv";
    case EM_PPC64:
        return "ppc64";
    case EM_S390:
        return "s390x";
    case EM_386:
        return "i386";
    case EM_ARM:
        return "arm";
    default:
        return "another machine";
    }
}

#if defined(__x86_64__)
#define ELF_MACHINE EM_X86_64
#elif defined(__aarch64__)
#define ELF_MACHINE EM_AARCH64
#else
#error "which ELF machine is this?"
#endif
#if __BYTE_ORDER != __LITTLE_ENDIAN
#error "modules are read as little-endian"
#endif

static int
elf_open(elf_t *e, kars_err_t *err)
{
    Elf64_Ehdr *h = &e->head;

    if (elf_get(e, 0, h, EI_NIDENT) != KARS_OK ||
        memcmp(h->e_ident, ELFMAG, SELFMAG) != 0) {
        return kars__err(err, 0, "not an ELF file");
    }
    if (h->e_ident[EI_CLASS] != ELFCLASS64 ||
        h->e_ident[EI_DATA] != ELFDATA2LSB) {
        return kars__err(err, 0, "not a 64-bit little-endian ELF file");
    }
    if (elf_get(e, 0, h, sizeof(*h)) != KARS_OK) {
        return kars__err(err, 0, ELF_MALFORMED "no header");
    }
    if (h->e_machine != ELF_MACHINE) {
        return kars__err(err, 0, "built for %s, this router is %s",
                         elf_machine_name(h->e_machine),
                         elf_machine_name(ELF_MACHINE));
    }
    if (h->e_type != ET_DYN) {
        return kars__err(err, 0, "not a shared object");
    }
    if (h->e_phentsize != sizeof(Elf64_Phdr) || h->e_phnum == 0 ||
        h->e_phnum > ELF_SEGMENTS) {
        return kars__err(err, 0, ELF_MALFORMED "%u segments of %u bytes",
                         h->e_phnum, h->e_phentsize);
    }
    if (elf_get(e, h->e_phoff, e->segments,
                h->e_phnum * sizeof(e->segments[0])) != KARS_OK) {
        return kars__err(err, 0, ELF_MALFORMED "segments beyond its end");
    }
    return KARS_OK;
}

/* The dynamic segment; and load segments must be in order, as the ELF standard
 * has it: which of two that overlap would count? */
static const Elf64_Phdr *
elf_find_dynamic(const elf_t *e, kars_err_t *err)
{
    const Elf64_Phdr *found = NULL;
    uint64_t end = 0;

    for (size_t i = 0; i < e->head.e_phnum; i++) {
        const Elf64_Phdr *ph = &e->segments[i];

        if (ph->p_type == PT_DYNAMIC && found == NULL) {
            found = ph;
        }
        if (ph->p_type == PT_LOAD &&
            (ph->p_vaddr < end || ph->p_filesz > ph->p_memsz ||
             __builtin_add_overflow(ph->p_vaddr, ph->p_memsz, &end))) {
            (void) kars__err(err, 0, ELF_MALFORMED "segments that overlap");
            return NULL;
        }
    }
    if (found == NULL) {
        (void) kars__err(err, 0, "not a shared object");
    }
    return found;
}

static int
elf_read_dynamic(elf_t *e, kars_err_t *err)
{
    const Elf64_Phdr *ph = elf_find_dynamic(e, err);

    if (ph == NULL) {
        return KARS_ERROR;
    }

    for (uint64_t i = 0;
         i < ELF_DYNAMIC && i < ph->p_filesz / sizeof(Elf64_Dyn); i++) {
        Elf64_Dyn dyn;

        if (ph->p_offset > e->n || elf_get(e, ph->p_offset + i * sizeof(dyn),
                                           &dyn, sizeof(dyn)) != KARS_OK) {
            return kars__err(err, 0, ELF_MALFORMED "a cut dynamic segment");
        }

        switch (dyn.d_tag) {
        case DT_NULL:
            return KARS_OK;
        case DT_SYMTAB:
            e->symtab = dyn.d_un.d_ptr;
            break;
        case DT_STRTAB:
            e->strtab = dyn.d_un.d_ptr;
            break;
        case DT_STRSZ:
            e->strsz = dyn.d_un.d_val;
            break;
        case DT_HASH:
            e->hash = dyn.d_un.d_ptr;
            break;
        case DT_GNU_HASH:
            e->gnu_hash = dyn.d_un.d_ptr;
            break;
        default:
            break;
        }
    }
    return KARS_OK;
}

/* Is symbol i the one? DECLINED: another; ERROR: it cannot be read. */
static int
elf_symbol(const elf_t *e, uint64_t i, Elf64_Sym *ret)
{
    char name[sizeof(ELF_SYMBOL)];

    if (elf_item(e, e->symtab, i, ret, sizeof(*ret)) != KARS_OK) {
        return KARS_ERROR;
    }
    if (e->strsz < sizeof(name) || ret->st_name > e->strsz - sizeof(name) ||
        elf_item(e, e->strtab + ret->st_name, 0, name, sizeof(name)) !=
            KARS_OK ||
        memcmp(name, ELF_SYMBOL, sizeof(name)) != 0) {
        return KARS_DECLINED;
    }
    return ret->st_shndx == SHN_UNDEF ? KARS_DECLINED : KARS_OK;
}

static uint32_t
elf_gnu_hash_of(const char *name)
{
    uint32_t h = 5381;

    for (; *name != '\0'; name++) {
        h = h * 33 + (unsigned char) *name;
    }
    return h;
}

static uint32_t
elf_sysv_hash_of(const char *name)
{
    uint32_t h = 0;

    for (; *name != '\0'; name++) {
        h = (h << 4) + (unsigned char) *name;
        h = (h ^ (h >> 24 & 0xf0)) & 0x0fffffff;
    }
    return h;
}

/* header, bloom words, buckets, then a chain of hashes for each symbol from
 * symoffset on; the low bit of a hash ends its chain. */
static int
elf_find_gnu(const elf_t *e, Elf64_Sym *ret)
{
    struct {
        uint32_t nbuckets;
        uint32_t symoffset;
        uint32_t bloom_size;
        uint32_t bloom_shift;
    } head;
    uint32_t want = elf_gnu_hash_of(ELF_SYMBOL);
    uint32_t i;

    if (elf_at(e, e->gnu_hash, &head, sizeof(head)) != KARS_OK ||
        head.nbuckets == 0) {
        return KARS_ERROR;
    }

    uint64_t buckets =
        e->gnu_hash + sizeof(head) + (uint64_t) head.bloom_size * 8;
    uint64_t chains = buckets + (uint64_t) head.nbuckets * 4;

    if (elf_item(e, buckets, want % head.nbuckets, &i, sizeof(i)) != KARS_OK) {
        return KARS_ERROR;
    }
    if (i == 0) {
        return KARS_DECLINED;
    }

    for (uint64_t at = i; i >= head.symoffset && at - i < ELF_SYMBOLS; at++) {
        uint32_t h;
        int rc = KARS_DECLINED;

        if (elf_item(e, chains, at - head.symoffset, &h, sizeof(h)) !=
            KARS_OK) {
            return KARS_ERROR;
        }
        if ((h | 1) == (want | 1)) {
            rc = elf_symbol(e, at, ret);
        }
        if (rc != KARS_DECLINED || (h & 1) != 0) {
            return rc;
        }
    }
    return KARS_ERROR;
}

/* nbucket, nchain, buckets, chains; 0 ends a chain. */
static int
elf_find_sysv(const elf_t *e, Elf64_Sym *ret)
{
    struct {
        uint32_t nbuckets;
        uint32_t nchains;
    } head;
    uint32_t want = elf_sysv_hash_of(ELF_SYMBOL);
    uint32_t i;

    if (elf_at(e, e->hash, &head, sizeof(head)) != KARS_OK ||
        head.nbuckets == 0) {
        return KARS_ERROR;
    }

    uint64_t buckets = e->hash + sizeof(head);
    uint64_t chains = buckets + (uint64_t) head.nbuckets * 4;

    if (elf_item(e, buckets, want % head.nbuckets, &i, sizeof(i)) != KARS_OK) {
        return KARS_ERROR;
    }

    /* A chain visits no symbol twice, unless it is a loop. */
    for (uint64_t n = 0; i != 0 && n < head.nchains && n < ELF_SYMBOLS; n++) {
        int rc = elf_symbol(e, i, ret);

        if (rc != KARS_DECLINED) {
            return rc;
        }
        if (i >= head.nchains ||
            elf_item(e, chains, i, &i, sizeof(i)) != KARS_OK) {
            return KARS_ERROR;
        }
    }
    return KARS_DECLINED;
}

static int
elf_find(const elf_t *e, Elf64_Sym *ret, kars_err_t *err)
{
    int rc;

    if (e->symtab == 0 || e->strtab == 0 ||
        (e->gnu_hash == 0 && e->hash == 0)) {
        return kars__err(err, 0, "exports no " ELF_SYMBOL);
    }

    rc = e->gnu_hash != 0 ? elf_find_gnu(e, ret) : elf_find_sysv(e, ret);
    if (rc == KARS_DECLINED) {
        return kars__err(err, 0, "exports no " ELF_SYMBOL);
    }
    if (rc != KARS_OK) {
        return kars__err(err, 0, ELF_MALFORMED "symbols that lead nowhere");
    }
    if (ELF64_ST_TYPE(ret->st_info) != STT_OBJECT ||
        ELF64_ST_BIND(ret->st_info) != STB_GLOBAL ||
        ret->st_shndx >= SHN_LORESERVE) {
        return kars__err(err, 0, "its " ELF_SYMBOL " is not a global constant");
    }
    return KARS_OK;
}

static int
elf_read_head(elf_t *e, kars__elf_head_t *ret, kars_err_t *err)
{
    Elf64_Sym sym;
    kars__elf_head_t head;

    if (elf_open(e, err) != KARS_OK || elf_read_dynamic(e, err) != KARS_OK ||
        elf_find(e, &sym, err) != KARS_OK) {
        return KARS_ERROR;
    }
    if (sym.st_size < sizeof(head)) {
        return kars__err(err, 0,
                         "its " ELF_SYMBOL " has %" PRIu64
                         " bytes, the head alone has %zu",
                         (uint64_t) sym.st_size, sizeof(head));
    }
    if (elf_at(e, sym.st_value, &head, sizeof(head)) != KARS_OK) {
        return kars__err(err, 0,
                         ELF_MALFORMED ELF_SYMBOL " is not in the file");
    }

    /* Who copies `size` bytes from there must find them. */
    uint64_t off;

    if (head.magic == KARS_MODULE_MAGIC &&
        (head.size > sym.st_size ||
         elf_map(e, sym.st_value, head.size, &off) != KARS_OK)) {
        return kars__err(err, 0,
                         "its " ELF_SYMBOL " has %" PRIu64 " bytes and says %u",
                         (uint64_t) sym.st_size, head.size);
    }

    *ret = head;
    return KARS_OK;
}

int
kars__elf_head_read(int fd, kars__elf_head_t *ret, kars_err_t *err)
{
    elf_t e = { .fd = fd };
    struct stat st;

    if (fstat(fd, &st) == -1) {
        return kars__err(err, errno, "cannot read it");
    }
    if (!S_ISREG(st.st_mode)) {
        return kars__err(err, 0, "not a regular file");
    }

    e.n = (uint64_t) st.st_size;
    return elf_read_head(&e, ret, err);
}

int
kars__elf_head_parse(const unsigned char *p, size_t n, kars__elf_head_t *ret,
                     kars_err_t *err)
{
    elf_t e = { .p = n == 0 ? (const unsigned char *) "" : p, .n = n };

    return elf_read_head(&e, ret, err);
}

/* clang-format off */
/* The sizes that releases shipped, the newest first; 0 ends a row. A release
 * that lets a struct grow puts the new sizeof in front of the number that the
 * old one had. */
static const struct {
    const char *name;
    size_t offset; /* in kars__elf_head_t */
    uint32_t known[8];
} elf_sizes[] = {
#define ELF_SIZE(field, ...) \
    { #field, offsetof(kars__elf_head_t, field), { __VA_ARGS__ } }
    ELF_SIZE(size,           sizeof(kars_module_t)),
    ELF_SIZE(api_size,       sizeof(kars_api_t)),
    ELF_SIZE(directive_size, sizeof(kars_directive_t)),
    ELF_SIZE(hook_size,      sizeof(kars_hook_t)),
    ELF_SIZE(filter_size,    sizeof(kars_filter_def_t)),
    ELF_SIZE(json_size,      sizeof(kars_json_watch_t)),
    ELF_SIZE(service_size,   sizeof(kars_service_t)),
    ELF_SIZE(need_size,      sizeof(kars_need_t)),
    ELF_SIZE(os_need_size,   sizeof(kars_os_need_t)),
    ELF_SIZE(command_size,   sizeof(kars_command_t)),
#undef ELF_SIZE
};
/* clang-format on */

static int
elf_check_size(const char *name, uint32_t size, const uint32_t *known, size_t n,
               kars_err_t *err)
{
    char list[100];
    size_t len = 0;

    list[0] = '\0';
    for (size_t i = 0; i < n && known[i] != 0; i++) {
        if (known[i] == size) {
            return KARS_OK;
        }
        if (len < sizeof(list)) {
            len += (size_t) snprintf(list + len, sizeof(list) - len, " %u",
                                     known[i]);
        }
    }
    return kars__err(err, 0, "%s %u, known:%s", name, size, list);
}

int
kars__elf_head_check(const kars__elf_head_t *head, kars_err_t *err)
{
    if (head->magic != KARS_MODULE_MAGIC) {
        return kars__err(err, 0, "magic %08x, a module of kars has %08x",
                         head->magic, KARS_MODULE_MAGIC);
    }
    if (head->abi_major != KARS_ABI_MAJOR || head->abi_minor > KARS_ABI_MINOR) {
        return kars__err(err, 0, "built for ABI %u.%u, this router has %u.%u",
                         head->abi_major, head->abi_minor, KARS_ABI_MAJOR,
                         KARS_ABI_MINOR);
    }

    for (size_t i = 0; i < KARS_NELTS(elf_sizes); i++) {
        uint32_t size;

        memcpy(&size, (const char *) head + elf_sizes[i].offset, sizeof(size));
        if (elf_check_size(elf_sizes[i].name, size, elf_sizes[i].known,
                           KARS_NELTS(elf_sizes[i].known), err) != KARS_OK) {
            return KARS_ERROR;
        }
    }
    return KARS_OK;
}
