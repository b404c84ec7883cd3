/*
 * test_elf_head.c - module heads, from files made here byte by byte, and from
 * this program's own.
 */
#include "proc/elf_head.h"
#include "t.h"

#include <elf.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#define BASE 0x10000u /* the address of the file's first byte */

#if defined(__x86_64__)
#define MACHINE    EM_X86_64
#define THIS       "x86_64"
#define OTHER      EM_AARCH64
#define OTHER_NAME "aarch64"
#else
#define MACHINE    EM_AARCH64
#define THIS       "aarch64"
#define OTHER      EM_X86_64
#define OTHER_NAME "x86_64"
#endif

/* A shared object with one symbol: all that a loader would look at. */
typedef struct {
    Elf64_Ehdr head;
    Elf64_Phdr load;
    Elf64_Phdr dynamic;
    Elf64_Dyn dyn[6];
    Elf64_Sym sym[2];
    char names[16];
    uint32_t gnu[8]; /* head, one bloom word of two halves, bucket, chain */
    uint32_t sysv[5];
    uint32_t pad;
    kars_module_t module;
} file_t;

static uint32_t
file_gnu_hash(const char *s)
{
    uint32_t h = 5381;

    for (; *s != '\0'; s++) {
        h = h * 33 + (unsigned char) *s;
    }
    return h;
}

#define AT(field) (BASE + offsetof(file_t, field))

static file_t
file_make(const char *name, int gnu)
{
    static const kars_api_t *kars_api;
    const kars_module_t module = { KARS_MODULE_HEAD, .name = "x" };
    file_t f = {
        .head = { .e_type = ET_DYN,
                  .e_machine = MACHINE,
                  .e_version = 1,
                  .e_phoff = offsetof(file_t, load),
                  .e_phentsize = sizeof(Elf64_Phdr),
                  .e_phnum = 2 },
        .load = { .p_type = PT_LOAD,
                  .p_vaddr = BASE,
                  .p_filesz = sizeof(f),
                  .p_memsz = sizeof(f) },
        .dynamic = { .p_type = PT_DYNAMIC,
                     .p_offset = offsetof(file_t, dyn),
                     .p_vaddr = AT(dyn),
                     .p_filesz = sizeof(f.dyn) },
        .dyn = { { DT_SYMTAB, { AT(sym) } },
                 { DT_STRTAB, { AT(names) } },
                 { DT_STRSZ, { sizeof(f.names) } },
                 { gnu ? DT_GNU_HASH : DT_HASH,
                   { gnu ? AT(gnu) : AT(sysv) } } },
        .sym = { { 0 },
                 { .st_name = 1,
                   .st_info = ELF64_ST_INFO(STB_GLOBAL, STT_OBJECT),
                   .st_shndx = 1,
                   .st_value = AT(module),
                   .st_size = sizeof(f.module) } },
        .gnu = { 1, 1, 1, 6, UINT32_MAX, UINT32_MAX, 1,
                 file_gnu_hash(name) | 1 },
        .sysv = { 1, 2, 1, 0, 0 },
        .module = module,
    };

    memcpy(f.head.e_ident, ELFMAG, SELFMAG);
    f.head.e_ident[EI_CLASS] = ELFCLASS64;
    f.head.e_ident[EI_DATA] = ELFDATA2LSB;
    snprintf(f.names + 1, sizeof(f.names) - 1, "%s", name);
    return f;
}

/* What the loader would say of n bytes: "" or the error. */
static const char *
file_say(const void *p, size_t n)
{
    static kars_err_t err;
    kars__elf_head_t head;

    err = (kars_err_t) KARS_ERR_INIT;
    if (kars__elf_head_parse(p, n, &head, &err) == KARS_OK) {
        (void) kars__elf_head_check(&head, &err);
    }
    return err.text;
}

static void
test_elf_head_finds_the_module_by_either_hash(void)
{
    for (int gnu = 0; gnu < 2; gnu++) {
        file_t f = file_make("kars_module", gnu);
        kars__elf_head_t head = { 0 };

        CU_ASSERT_STRING_EQUAL(file_say(&f, sizeof(f)), "");
        CU_ASSERT_EQUAL(
            kars__elf_head_parse((void *) &f, sizeof(f), &head, NULL), KARS_OK);
        CU_ASSERT_EQUAL(head.magic, KARS_MODULE_MAGIC);
        CU_ASSERT_EQUAL(head.command_size, sizeof(kars_command_t));

        f = file_make("some_module", gnu);
        CU_ASSERT_STRING_EQUAL(file_say(&f, sizeof(f)),
                               "exports no kars_module");
    }
}

/* Each line breaks one thing in a good file and says what is answered. */
#define BROKEN(change, text)                                   \
    do {                                                       \
        file_t f = file_make("kars_module", 1);                \
        T_CASE(#change);                                       \
        change;                                                \
        CU_ASSERT_STRING_EQUAL(file_say(&f, sizeof(f)), text); \
    } while (0)

static void
test_elf_head_refuses_what_is_no_module(void)
{
    CU_ASSERT_STRING_EQUAL(file_say(NULL, 0), "not an ELF file");
    CU_ASSERT_STRING_EQUAL(file_say("#!/bin/sh\n# a script", 20),
                           "not an ELF file");
    BROKEN(f.head.e_ident[1] = 'x', "not an ELF file");
    BROKEN(f.head.e_ident[EI_CLASS] = ELFCLASS32,
           "not a 64-bit little-endian ELF file");
    BROKEN(f.head.e_ident[EI_DATA] = ELFDATA2MSB,
           "not a 64-bit little-endian ELF file");
    BROKEN(f.head.e_machine = OTHER,
           "built for " OTHER_NAME ", this router is " THIS);
    BROKEN(f.head.e_machine = 7,
           "built for another machine, this router is " THIS);
    BROKEN(f.head.e_type = ET_EXEC, "not a shared object");
    BROKEN(f.dynamic.p_type = PT_NOTE, "not a shared object");
    BROKEN(f.dyn[0].d_tag = DT_NULL, "exports no kars_module");
    BROKEN(f.gnu[7] ^= 4, "exports no kars_module");
    BROKEN(f.gnu[6] = 0, "exports no kars_module");
    BROKEN(f.sym[1].st_shndx = SHN_UNDEF, "exports no kars_module");
    BROKEN(f.names[12] = 'x', "exports no kars_module");
    BROKEN(f.dyn[2].d_un.d_val = 12, "exports no kars_module");
    BROKEN(f.sym[1].st_info = ELF64_ST_INFO(STB_WEAK, STT_OBJECT),
           "its kars_module is not a global constant");
    BROKEN(f.sym[1].st_info = ELF64_ST_INFO(STB_GLOBAL, STT_FUNC),
           "its kars_module is not a global constant");
    BROKEN(f.sym[1].st_size = 47,
           "its kars_module has 47 bytes, the head alone has 48");
}

static void
test_elf_head_refuses_malformed_files(void)
{
    BROKEN(f.head.e_phoff = UINT64_MAX,
           "a malformed ELF file: segments beyond its end");
    BROKEN(f.head.e_phnum = 65535,
           "a malformed ELF file: 65535 segments of 56 bytes");
    BROKEN(f.load.p_vaddr = UINT64_MAX - 4,
           "a malformed ELF file: segments that overlap");
    BROKEN(f.load.p_memsz = 1, "a malformed ELF file: segments that overlap");
    BROKEN(f.dynamic = f.load, "a malformed ELF file: segments that overlap");
    BROKEN(f.dynamic.p_offset = UINT64_MAX - 8,
           "a malformed ELF file: a cut dynamic segment");
    BROKEN(f.sym[1].st_value = UINT64_MAX - 3,
           "a malformed ELF file: kars_module is not in the file");
    BROKEN(f.load.p_offset = UINT64_MAX - 0x100,
           "a malformed ELF file: symbols that lead nowhere");
    BROKEN(f.gnu[0] = 0, "a malformed ELF file: symbols that lead nowhere");
    BROKEN(f.gnu[6] = UINT32_MAX,
           "a malformed ELF file: symbols that lead nowhere");

    /* A chain that runs in circles ends all the same. */
    file_t f = file_make("some_module", 0);

    f.sysv[1] = UINT32_MAX;
    f.sysv[4] = 1;
    CU_ASSERT_STRING_EQUAL(file_say(&f, sizeof(f)), "exports no kars_module");
}

static void
test_elf_head_names_both_sides(void)
{
    char want[200];

    BROKEN(f.module.magic = 1, "magic 00000001, a module of kars has 4b415253");
    BROKEN(f.module.abi_major = 2, "built for ABI 2.0, this router has 1.0");
    BROKEN(f.module.abi_major = 0, "built for ABI 0.0, this router has 1.0");
    BROKEN(f.module.abi_minor = KARS_ABI_MINOR + 1,
           "built for ABI 1.1, this router has 1.0");

    snprintf(want, sizeof(want), "directive_size 71, known: %zu",
             sizeof(kars_directive_t));
    BROKEN(f.module.directive_size = 71, want);
    snprintf(want, sizeof(want), "command_size 0, known: %zu",
             sizeof(kars_command_t));
    BROKEN(f.module.command_size = 0, want);
    snprintf(want, sizeof(want), "size 48, known: %zu", sizeof(kars_module_t));
    BROKEN(f.module.size = 48, want);
    snprintf(want, sizeof(want), "its kars_module has %zu bytes and says %zu",
             sizeof(kars_module_t), sizeof(kars_module_t) + 8);
    BROKEN(f.module.size += 8, want);
}

/* The bytes in memory of exactly their size, where a sanitizer sees all. */
static void
file_try(const void *p, size_t n)
{
    void *copy = malloc(n == 0 ? 1 : n);

    memcpy(copy, p, n);
    (void) file_say(copy, n);
    free(copy);
}

static void
test_elf_head_survives_each_byte_and_each_cut(void)
{
    for (int gnu = 0; gnu < 2; gnu++) {
        file_t f = file_make("kars_module", gnu);
        unsigned char *bytes = (unsigned char *) &f;

        for (size_t i = 0; i < sizeof(f); i++) {
            for (unsigned flip = 1; flip < 256; flip <<= 1) {
                bytes[i] ^= (unsigned char) flip;
                file_try(bytes, sizeof(f));
                bytes[i] ^= (unsigned char) flip;
            }
            bytes[i] ^= 0xff;
            file_try(bytes, sizeof(f));
            bytes[i] ^= 0xff;
            CU_ASSERT_FATAL(file_say(bytes, i)[0] != '\0');
            file_try(bytes, i);
        }
    }
}

static void
test_elf_head_reads_this_program_and_its_pieces(void)
{
    int fd = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
    struct stat st;
    kars__elf_head_t head;
    kars_err_t err = KARS_ERR_INIT;

    CU_ASSERT_FATAL(fd != -1 && fstat(fd, &st) == 0);
    CU_ASSERT_EQUAL(kars__elf_head_read(fd, &head, &err), KARS_ERROR);
    CU_ASSERT_STRING_EQUAL(err.text, "exports no kars_module");

    size_t size = (size_t) st.st_size;
    unsigned char *bytes = malloc(size);

    CU_ASSERT_EQUAL_FATAL(pread(fd, bytes, size, 0), (ssize_t) size);
    for (size_t n = 0; n < size; n += n < 8192 ? 61 : size / 64) {
        file_try(bytes, n);
    }
    free(bytes);
    close(fd);

    fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
    CU_ASSERT_EQUAL(kars__elf_head_read(fd, &head, &err), KARS_ERROR);
    CU_ASSERT_STRING_EQUAL(err.text, "not a regular file");
    close(fd);
}

static void
test_elf_head_reads_a_file_as_it_reads_memory(void)
{
    file_t f = file_make("kars_module", 1);
    FILE *file = tmpfile();
    kars__elf_head_t head = { 0 };
    kars_err_t err = KARS_ERR_INIT;

    CU_ASSERT_PTR_NOT_NULL_FATAL(file);
    CU_ASSERT_EQUAL(fwrite(&f, sizeof(f), 1, file), 1);
    fflush(file);
    CU_ASSERT_EQUAL(kars__elf_head_read(fileno(file), &head, &err), KARS_OK);
    CU_ASSERT_EQUAL(memcmp(&head, &f.module, sizeof(head)), 0);
    CU_ASSERT_EQUAL(ftruncate(fileno(file), 300), 0);
    CU_ASSERT_EQUAL(kars__elf_head_read(fileno(file), &head, &err), KARS_ERROR);
    CU_ASSERT_EQUAL(kars__elf_head_read(-1, &head, &err), KARS_ERROR);
    fclose(file);
}

void
suite_elf_head(void)
{
    T_SUITE(elf_head);
    T_TEST(elf_head, test_elf_head_finds_the_module_by_either_hash);
    T_TEST(elf_head, test_elf_head_refuses_what_is_no_module);
    T_TEST(elf_head, test_elf_head_refuses_malformed_files);
    T_TEST(elf_head, test_elf_head_names_both_sides);
    T_TEST(elf_head, test_elf_head_survives_each_byte_and_each_cut);
    T_TEST(elf_head, test_elf_head_reads_this_program_and_its_pieces);
    T_TEST(elf_head, test_elf_head_reads_a_file_as_it_reads_memory);
}
