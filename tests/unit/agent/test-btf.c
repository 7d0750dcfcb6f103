/* SPDX-License-Identifier: Apache-2.0 */
/* Functions found in type information of the kernel, made up here piece by piece, whole and cut off. */
#include <errno.h>
#include <linux/btf.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "agent/btf.h"
#include "base/cleanup.h"
#include "lib/test.h"

/* Type information with two functions behind types of every length, its strings or types longer than a
 * piece that is read at a time. */
static int btf_file(size_t fillers, const char *pad)
{
    static const uint32_t others[] = {BTF_KIND_INT << 24,
                                      BTF_KIND_ARRAY << 24,
                                      BTF_KIND_STRUCT << 24 | 3,
                                      BTF_KIND_ENUM << 24 | 2,
                                      BTF_KIND_FUNC_PROTO << 24 | 1,
                                      BTF_KIND_PTR << 24,
                                      BTF_KIND_DATASEC << 24 | 1,
                                      BTF_KIND_VAR << 24};
    static const size_t extra[] = {1, 3, 9, 4, 2, 0, 3, 1}; /* words */
    struct btf_header h = {.magic = BTF_MAGIC, .version = 1, .hdr_len = sizeof(h)};
    FILE *f = tmpfile();
    uint32_t first, words = 0;

    assert_non_null(f);
    assert_int_equal(fseek(f, sizeof(h), SEEK_SET), 0);
    first = 1 + (uint32_t)strlen(pad) + 1; /* offset of the name among the strings */
    for (size_t i = 0; i < fillers; i++) {
        size_t k = i % ARRAY_SIZE(others);
        uint32_t type[12] = {first, others[k]}; /* the name, but of no function */

        assert_int_equal(fwrite(type, 4, 3 + extra[k], f), 3 + extra[k]);
        words += 3 + (uint32_t)extra[k];
    }
    for (size_t i = 0; i < 2; i++) {
        uint32_t type[3] = {first + (i ? 0 : 6), BTF_KIND_FUNC << 24};

        assert_int_equal(fwrite(type, 4, 3, f), 3);
        words += 3;
    }
    h.type_len = words * 4;
    h.str_off = h.type_len;
    h.str_len = 1 + (uint32_t)strlen(pad) + 1 + 12;
    assert_int_equal(fputc(0, f), 0);
    assert_true(fputs(pad, f) >= 0);
    assert_int_equal(fwrite("\0wante\0other", 1, 13, f), 13);
    assert_int_equal(fseek(f, 0, SEEK_SET), 0);
    assert_int_equal(fwrite(&h, sizeof(h), 1, f), 1);
    assert_int_equal(fflush(f), 0);
    return dup(fileno(f));
}

static void a_function_is_found_by_its_name(void **state)
{
    static const size_t counts[] = {0, 7, 2000, 50000};
    char *pad = calloc(1, 70001);

    memset(pad, 'x', 70000);
    for (size_t i = 0; i < ARRAY_SIZE(counts) * 2; i++) {
        size_t n = counts[i / 2];
        int fd = btf_file(n, i % 2 ? pad : "y");
        uint32_t id = 0;

        assert_int_equal(btf_find_function(fd, "wante", &id), 0);
        assert_int_equal(id, n + 2);
        assert_int_equal(btf_find_function(fd, "other", &id), 0);
        assert_int_equal(id, n + 1);
        assert_int_equal(btf_find_function(fd, "want", &id), -ENOENT);
        assert_int_equal(ftruncate(fd, sizeof(struct btf_header) + 5), 0);
        assert_true(btf_find_function(fd, "wante", &id) < 0);
        assert_int_equal(ftruncate(fd, 3), 0);
        assert_int_equal(btf_find_function(fd, "wante", &id), -EBADMSG);
        close(fd);
    }
    free(pad);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(a_function_is_found_by_its_name)};

    return cmocka_run_group_tests(tests, NULL, NULL) != 0;
}
