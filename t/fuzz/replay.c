/*
 * replay.c - a main() for fuzz targets that needs no fuzzer: runs every file
 * of the folders (or every file) that it is given through the target.
 *
 * Each input lies in memory of exactly its size, so that ASan sees a read past
 * its end.
 */
#include <dirent.h>
#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static unsigned int replay_n;

static void
replay_fail(const char *path)
{
    fprintf(stderr, "replay: %s: %s\n", path, strerror(errno));
    exit(1);
}

static void
replay_file(const char *path, size_t size)
{
    FILE *file = fopen(path, "rb");
    uint8_t *data = malloc(size > 0 ? size : 1);

    if (file == NULL || data == NULL || fread(data, 1, size, file) != size) {
        replay_fail(path);
    }

    /* A crash in the target leaves this as the last word. */
    setvbuf(stdout, NULL, _IONBF, 0);
    if (getenv("REPLAY_VERBOSE") != NULL) {
        printf("%s\n", path);
    }

    LLVMFuzzerTestOneInput(data, size);
    replay_n++;
    free(data);
    fclose(file);
}

static void
replay_path(const char *path, int depth)
{
    struct stat st;

    if (stat(path, &st) == -1) {
        replay_fail(path);
    }
    if (!S_ISDIR(st.st_mode)) {
        replay_file(path, (size_t) st.st_size);
        return;
    }
    if (depth > 1) {
        return;
    }

    struct dirent **entries;
    int n = scandir(path, &entries, NULL, alphasort);

    if (n == -1) {
        replay_fail(path);
    }
    for (int i = 0; i < n; i++) {
        char child[4096];

        if (entries[i]->d_name[0] != '.') {
            snprintf(child, sizeof(child), "%s/%s", path, entries[i]->d_name);
            replay_path(child, depth + 1);
        }
        free(entries[i]);
    }
    free(entries);
}

int
main(int argc, char **argv)
{
    for (int i = 1; i < argc; i++) {
        replay_path(argv[i], 0);
    }

    printf("%u inputs\n", replay_n);
    return replay_n > 0 ? 0 : 1;
}
