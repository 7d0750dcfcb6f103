/* SPDX-License-Identifier: Apache-2.0 */
/* base: the promises other modules lean on. */
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include "base/arena.h"
#include "base/buf.h"
#include "base/checked.h"
#include "base/error.h"
#include "base/failpoint.h"
#include "base/fdpass.h"
#include "base/file.h"
#include "base/hashmap.h"
#include "base/log.h"
#include "base/numparse.h"
#include "base/str.h"
#include "lib/test.h"

static void error_keeps_the_first_and_adds_prefixes(void **state)
{
    _cleanup_(error_freep) struct error *err = NULL;

    assert_int_equal(error_set(&err, -ENOENT, "no %s", "pod"), -ENOENT);
    assert_int_equal(error_set(&err, -EIO, "second"), -EIO);
    assert_int_equal(error_prefix(&err, -ENOENT, "run %d", 7), -ENOENT);
    assert_string_equal(err->message, "run 7: no pod");
    assert_int_equal(err->class, ERROR_NOT_FOUND);
    for (int c = 0; c < ERROR_CLASS_COUNT; c++)
        assert_int_equal(error_class_parse(error_class_name((enum error_class)c)), c);
}

static void buf_never_passes_its_limit(void **state)
{
    struct buf b;

    buf_init(&b, 10);
    assert_int_equal(buf_append(&b, "12345678", 8), 0);
    assert_int_equal(buf_append(&b, "abc", 3), -EMSGSIZE);
    assert_int_equal(b.used, 8);
    buf_consume(&b, 3);
    assert_memory_equal(b.data, "45678", 5);
    buf_done(&b);
}

static void numbers_are_whole_or_refused(void **state)
{
    static const struct {
        const char *in;
        int r;
        uint64_t v;
    } rows[] = {
        {"0", 0, 0},
        {"42", 0, 42},
        {"", -EINVAL, 0},
        {" 1", -EINVAL, 0},
        {"-1", -EINVAL, 0},
        {"1x", -EINVAL, 0},
        {"+1", -EINVAL, 0},
        {"100", 0, 100},
        {"101", -ERANGE, 0},
        {"99999999999999999999", -ERANGE, 0},
        {"99999999999999999999x", -EINVAL, 0},
    };
    uint64_t v;
    int64_t i;

    for (size_t k = 0; k < ARRAY_SIZE(rows); k++) {
        v = 0;
        print_message("# '%s'\n", rows[k].in);
        assert_int_equal(parse_u64(rows[k].in, 100, &v), rows[k].r);
        assert_int_equal(v, rows[k].v);
    }
    assert_int_equal(parse_i64("-9223372036854775808", INT64_MIN, 0, &i), 0);
    assert_true(i == INT64_MIN);
    assert_int_equal(parse_size("64Mi", UINT64_MAX, &v), 0);
    assert_int_equal(v, 64 << 20);
    assert_int_equal(parse_size("64Q", UINT64_MAX, &v), -EINVAL);
    assert_int_equal(parse_size("99999999999T", UINT64_MAX, &v), -ERANGE);
    assert_int_equal(parse_span_ms("2m", 1000000, &v), 0);
    assert_int_equal(v, 120000);
}

static void hashmap_survives_removal_in_chains(void **state)
{
    static int values[500];
    struct hashmap m;
    char key[16];

    hashmap_init(&m);
    for (int i = 0; i < 500; i++) {
        (void)snprintf(key, sizeof(key), "k%d", i);
        assert_int_equal(hashmap_put(&m, key, &values[i]), 0);
        assert_int_equal(hashmap_put(&m, key, &values[0]), -EEXIST);
    }
    for (int i = 0; i < 500; i += 2) {
        (void)snprintf(key, sizeof(key), "k%d", i);
        assert_ptr_equal(hashmap_remove(&m, key), &values[i]);
    }
    for (int i = 0; i < 500; i++) {
        (void)snprintf(key, sizeof(key), "k%d", i);
        assert_ptr_equal(hashmap_get(&m, key), i % 2 ? &values[i] : NULL);
    }
    assert_int_equal(hashmap_count(&m), 250);
    hashmap_done(&m);
}

static void atomic_write_leaves_old_or_new(void **state)
{
    char dir[] = "/tmp/nexus-base-XXXXXX";
    char *text = NULL;
    int fd;

    assert_non_null(mkdtemp(dir));
    fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    assert_int_equal(file_write_atomic(fd, "a", "one", 3, 0600, true), 0);
    assert_int_equal(file_write_atomic(fd, "a/b", "x", 1, 0600, true), -EINVAL);
    assert_int_equal(file_write_atomic(fd, "a", "two", 3, 0600, false), 0);
    assert_int_equal(file_read_all(fd, "a", 3, &text, NULL), 0);
    assert_string_equal(text, "two");
    free(text);
    assert_int_equal(file_read_all(fd, "a", 2, &text, NULL), -EFBIG);
    assert_int_equal(mkfifoat(fd, "fifo", 0600), 0);
    assert_int_equal(file_read_all(fd, "fifo", 10, &text, NULL), -EINVAL);
    assert_int_equal(symlinkat("/etc", fd, "out"), 0);
    assert_int_equal(file_open_beneath(fd, "out/passwd", O_RDONLY, 0), -ELOOP);
    assert_int_equal(file_open_beneath(fd, "../x", O_RDONLY, 0), -EXDEV);
    close(fd);
    assert_int_equal(dir_remove_tree(AT_FDCWD, dir), 0);
    assert_int_equal(access(dir, F_OK), -1);
}

static void fds_travel_with_their_bytes(void **state)
{
    int sv[2], p[2], got[4];
    size_t n = 0;
    char c[8];

    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sv), 0);
    assert_int_equal(pipe2(p, O_CLOEXEC), 0);
    assert_int_equal(fdpass_send(sv[0], "hello", 5, p, 2), 5);
    assert_int_equal(fdpass_recv(sv[1], c, sizeof(c), got, 4, &n), 5);
    assert_int_equal(n, 2);
    assert_int_equal(write(got[1], "x", 1), 1);
    assert_int_equal(read(p[0], c, 1), 1);
    assert_int_equal(fdpass_send(sv[0], "h", 1, p, 2), 1);
    assert_int_equal(fdpass_recv(sv[1], c, sizeof(c), got + 2, 1, &n), -EMSGSIZE);
    assert_int_equal(n, 0);
    close(p[0]);
    close(p[1]);
    close(got[0]);
    close(got[1]);
    close(sv[0]);
    close(sv[1]);
}

static void arena_stops_at_its_cap(void **state)
{
    _cleanup_(arena_freep) struct arena *a = arena_new(10000);

    assert_non_null(arena_alloc(a, 9000));
    assert_null(arena_alloc(a, 2000));
    assert_string_equal(arena_printf(a, "%d-%s", 1, "x"), "1-x");
    assert_null(arena_alloc(a, SIZE_MAX));
}

static void text_from_outside_is_checked(void **state)
{
    char out[32];

    assert_true(str_is_clean("ok \xc3\xa4", 5));
    assert_false(str_is_clean("a\nb", 3));
    assert_false(str_is_clean("\xc0\xaf", 2));     /* overlong */
    assert_false(str_is_clean("\xed\xa0\x80", 3)); /* surrogate */
    assert_false(str_is_clean("\xe2\x82", 2));     /* cut */
    log_escape(out, sizeof(out), "a\x1b\"\n", true);
    assert_string_equal(out, "a\\x1b\\\"\\n");
}

static char logged[100];

static void keep_fields(enum log_level level, const char *fields, const char *text)
{
    (void)snprintf(logged, sizeof(logged), "%s: %s", fields, text);
}

static void a_line_shows_each_field_once(void **state)
{
    LOG_SCOPE(outer, "rpc", "/A");
    LOG_SCOPE(pod, "pod", "p");

    log_set_sink(keep_fields);
    {
        LOG_SCOPE(inner, "rpc", "B");
        log_error("x");
        assert_string_equal(logged, "pod=p rpc=B: x");
    }
    log_error("y");
    log_set_sink(NULL);
    assert_string_equal(logged, "rpc=/A pod=p: y");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(error_keeps_the_first_and_adds_prefixes),
        cmocka_unit_test(buf_never_passes_its_limit),
        cmocka_unit_test(numbers_are_whole_or_refused),
        cmocka_unit_test(hashmap_survives_removal_in_chains),
        cmocka_unit_test(atomic_write_leaves_old_or_new),
        cmocka_unit_test(fds_travel_with_their_bytes),
        cmocka_unit_test(arena_stops_at_its_cap),
        cmocka_unit_test(text_from_outside_is_checked),
        cmocka_unit_test(a_line_shows_each_field_once),
    };
    return cmocka_run_group_tests_name("base", tests, NULL, NULL) != 0;
}
