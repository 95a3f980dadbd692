/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Runs a fuzz target on stored inputs, where libFuzzer is not linked in: on the files and folders that are named, or on
 * the target's corpus in the source tree.
 */
#include <dirent.h>
#include <libgen.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#define INPUT_MAX (4u << 20)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static unsigned inputs;

static int replay_file(const char *path)
{
    FILE *file = fopen(path, "r");
    uint8_t *data = malloc(INPUT_MAX);
    size_t size;

    if (file == NULL || data == NULL) {
        perror(path);
        return 1;
    }
    size = fread(data, 1, INPUT_MAX, file);
    fclose(file);
    data = realloc(data, size > 0 ? size : 1); /* so that a sanitizer sees a read beyond its end */
    LLVMFuzzerTestOneInput(data, size);
    free(data);
    inputs++;
    return 0;
}

static int replay_folder(const char *path)
{
    DIR *dir = opendir(path);
    struct dirent *entry;
    int r = 0;

    if (dir == NULL) {
        perror(path);
        return 1;
    }
    while (r == 0 && (entry = readdir(dir)) != NULL) {
        char file[4096];

        if (entry->d_name[0] == '.')
            continue;
        snprintf(file, sizeof(file), "%s/%s", path, entry->d_name);
        r = replay_file(file);
    }
    closedir(dir);
    return r;
}

static int replay(const char *path)
{
    struct stat st;

    if (stat(path, &st) == 0 && S_ISDIR(st.st_mode))
        return replay_folder(path);
    return replay_file(path);
}

int main(int argc, char **argv)
{
    const char *srcdir = getenv("srcdir");
    char corpus[4096];
    int r = 0;

    snprintf(corpus, sizeof(corpus), "%s/tests/fuzz/corpus/%s", srcdir != NULL ? srcdir : ".", basename(argv[0]));
    if (argc == 1)
        r = replay(corpus);
    for (int i = 1; i < argc && r == 0; i++)
        r = replay(argv[i]);
    printf("%u inputs replayed\n", inputs);
    return r != 0 || inputs == 0;
}
