/*
 * test_conf_image.c - a tree of directives comes back from its image as it was,
 * and nothing comes back from anything else.
 */
#include "conf/conf_image.h"
#include "t.h"

#include <errno.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

static const char image_text[] = "user kars;\n"
                                 "server {\n"
                                 "    listen \"a b\"\n"
                                 "        class=agent;\n"
                                 "    route GET \"/x\" { models; }\n"
                                 "    empty { }\n"
                                 "}\n";

static kars__conf_node_t *
image_tree(kars_pool_t *pool)
{
    kars__conf_node_t *root = NULL;
    kars_err_t err = KARS_ERR_INIT;

    CU_ASSERT_EQUAL_FATAL(
        kars__conf_parse_text(pool, "t.conf", t_str(image_text), &root, &err),
        KARS_OK);
    return root;
}

static void
image_same(const kars__conf_node_t *a, const kars__conf_node_t *b)
{
    for (; a != NULL && b != NULL; a = a->next, b = b->next) {
        CU_ASSERT_STRING_EQUAL(a->file, b->file);
        CU_ASSERT_EQUAL(a->line, b->line);
        CU_ASSERT_EQUAL(a->column, b->column);
        CU_ASSERT_EQUAL(a->has_block, b->has_block);
        CU_ASSERT_EQUAL_FATAL(a->argc, b->argc);
        for (size_t i = 0; i < a->argc; i++) {
            CU_ASSERT(kars_str_eq(a->argv[i], b->argv[i]));
            CU_ASSERT_EQUAL(b->argv[i].data[b->argv[i].len], '\0');
            CU_ASSERT_EQUAL(a->lines[i], b->lines[i]);
            CU_ASSERT_EQUAL(a->columns[i], b->columns[i]);
        }
        image_same(a->child, b->child);
    }
    CU_ASSERT(a == NULL && b == NULL);
}

static void
test_conf_image_gives_the_tree_back(void)
{
    kars_pool_t *pool = kars__pool_create(0);
    kars__conf_node_t *root = image_tree(pool), *back = NULL;
    kars_err_t err = KARS_ERR_INIT;
    int fd = kars__conf_image_make(root, &err);

    CU_ASSERT_NOT_EQUAL_FATAL(fd, -1);
    CU_ASSERT_EQUAL_FATAL(kars__conf_image_read(pool, fd, &back, &err),
                          KARS_OK);
    image_same(root, back);
    CU_ASSERT_EQUAL(back->child->next->argc, 1);
    CU_ASSERT_EQUAL(pwrite(fd, "x", 1, 0), -1);
    CU_ASSERT_EQUAL(errno, EPERM);
    close(fd);
    kars__pool_destroy(pool);
}

/* The first n bytes of what is in fd, and then `more`. */
static int
image_cut(int fd, size_t n, const char *more)
{
    char bytes[4096];
    int ret = memfd_create("cut", MFD_CLOEXEC);

    CU_ASSERT_FATAL(n <= sizeof(bytes) && ret != -1);
    CU_ASSERT_EQUAL(pread(fd, bytes, n, 0), (ssize_t) n);
    CU_ASSERT_EQUAL(write(ret, bytes, n), (ssize_t) n);
    CU_ASSERT_EQUAL(write(ret, more, strlen(more)), (ssize_t) strlen(more));
    return ret;
}

static void
test_conf_image_refuses_what_is_cut_or_too_long(void)
{
    kars_pool_t *pool = kars__pool_create(0);
    kars_err_t err = KARS_ERR_INIT;
    int fd = kars__conf_image_make(image_tree(pool), &err);
    struct stat st;

    CU_ASSERT_NOT_EQUAL_FATAL(fd, -1);
    CU_ASSERT_EQUAL_FATAL(fstat(fd, &st), 0);
    for (size_t n = 0; n <= (size_t) st.st_size; n++) {
        kars__conf_node_t *back;
        int cut = image_cut(fd, n, n == (size_t) st.st_size ? "x" : "");

        CU_ASSERT_EQUAL(kars__conf_image_read(pool, cut, &back, &err),
                        KARS_ERROR);
        close(cut);
    }
    close(fd);
    kars__pool_destroy(pool);
}

static void
test_conf_image_survives_each_allocation_failing(void)
{
    kars_pool_t *pool = kars__pool_create(0);
    kars_err_t err = KARS_ERR_INIT;
    int fd = kars__conf_image_make(image_tree(pool), &err);
    uint64_t n = 1;
    int rc = KARS_ERROR;

    for (; n < 200 && rc != KARS_OK; n++) {
        kars_pool_t *other = kars__pool_create(0);
        kars__conf_node_t *back;

        kars__pool_fail_at(n);
        rc = kars__conf_image_read(other, fd, &back, &err);
        kars__pool_fail_at(0);
        kars__pool_destroy(other);
    }
    CU_ASSERT(n > 20 && n < 200);
    close(fd);
    kars__pool_destroy(pool);
}

void
suite_conf_image(void)
{
    T_SUITE(conf_image);
    T_TEST(conf_image, test_conf_image_gives_the_tree_back);
    T_TEST(conf_image, test_conf_image_refuses_what_is_cut_or_too_long);
    T_TEST(conf_image, test_conf_image_survives_each_allocation_failing);
}
