/* SPDX-License-Identifier: Apache-2.0 */
/* vmm: the CRI log holds every byte in whole records, whatever the pieces, the disk and rotation do. */
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "base/limit.h"
#include "lib/test.h"
#include "vmm/cri-log-internal.h"

#define HEADER CRI_RECORD_HEADER_BYTES

static int new_file(void)
{
    int fd = memfd_create("log", MFD_CLOEXEC);

    assert_true(fd >= 0);
    return fd;
}

/* The file's content with the times replaced by 'T', for comparison. Owned by the caller. */
static char *content(int fd)
{
    char *text = NULL, *out;
    size_t len = 0, at = 0;

    assert_true(lseek(fd, 0, SEEK_SET) == 0);
    assert_int_equal(fd_read_all(fd, 256U << 20, &text, &len), 0);
    out = calloc(1, len + 1);
    assert_non_null(out);
    for (char *p = text; *p;) {
        char *end = strchr(p, '\n');

        assert_non_null(end); /* whole records only */
        assert_true(end - p >= HEADER);
        assert_int_equal(p[4], '-');
        assert_int_equal(p[10], 'T');
        assert_int_equal(p[29], 'Z');
        assert_int_equal(p[30], ' ');
        out[at++] = 'T';
        memcpy(out + at, p + 30, (size_t)(end + 1 - (p + 30)));
        at += (size_t)(end + 1 - (p + 30));
        p = end + 1;
    }
    free(text);
    return out;
}

static const struct {
    const char *name;
    const char *out[4]; /* pieces of stdout */
    const char *want;
} rows[] = {
    {"line", {"hello\n"}, "T stdout F hello\n"},
    {"line_in_pieces", {"he", "ll", "o\nnext", "\n"}, "T stdout F hello\nT stdout F next\n"},
    {"empty_lines", {"\n\n"}, "T stdout F \nT stdout F \n"},
    {"last_line_without_newline_is_full", {"a\nb"}, "T stdout F a\nT stdout F b\n"},
    {"nothing_is_nothing", {""}, ""},
    {"control_bytes_pass", {"\x1b[1m\r\xff\t\n"}, "T stdout F \x1b[1m\r\xff\t\n"},
};

static void lines_become_records(void **state)
{
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        _cleanup_(cri_log_freep) struct cri_log *log = NULL;
        int fd = new_file(), copy = dup(fd);
        char *got;

        print_message("# %s\n", rows[i].name);
        assert_int_equal(cri_log_new(fd, &log), 0);
        for (int k = 0; k < 4 && rows[i].out[k]; k++)
            cri_log_write(log, CRI_STDOUT, rows[i].out[k], strlen(rows[i].out[k]));
        cri_log_end(log, CRI_STDOUT);
        cri_log_end(log, CRI_STDOUT);
        got = content(copy);
        assert_string_equal(got, rows[i].want);
        free(got);
        close(copy);
    }
}

static void complete_line_is_in_the_file_at_once(void **state)
{
    _cleanup_(cri_log_freep) struct cri_log *log = NULL;
    int fd = new_file(), copy = dup(fd);
    char *got;

    assert_int_equal(cri_log_new(fd, &log), 0);
    cri_log_write(log, CRI_STDERR, "now\nlater", 9);
    got = content(copy);
    assert_string_equal(got, "T stderr F now\n");
    free(got);
    close(copy);
}

static void streams_do_not_mix(void **state)
{
    _cleanup_(cri_log_freep) struct cri_log *log = NULL;
    int fd = new_file(), copy = dup(fd);
    static const char o[] = "out\n", e[] = "err\n";
    char *got;

    assert_int_equal(cri_log_new(fd, &log), 0);
    for (int i = 0; i < 4; i++) {
        cri_log_write(log, CRI_STDOUT, o + i, 1);
        cri_log_write(log, CRI_STDERR, e + i, 1);
    }
    got = content(copy);
    assert_string_equal(got, "T stdout F out\nT stderr F err\n");
    free(got);
    close(copy);
}

/* length of line → lengths of the records expected */
static const struct {
    size_t len;
    bool newline;
    size_t pieces[4];
} splits[] = {
    {LIMIT_LOG_CHUNK_BYTES - 1, true, {LIMIT_LOG_CHUNK_BYTES - 1}},
    {LIMIT_LOG_CHUNK_BYTES, true, {LIMIT_LOG_CHUNK_BYTES}},
    {LIMIT_LOG_CHUNK_BYTES, false, {LIMIT_LOG_CHUNK_BYTES}},
    {LIMIT_LOG_CHUNK_BYTES + 1, true, {LIMIT_LOG_CHUNK_BYTES, 1}},
    {3 * LIMIT_LOG_CHUNK_BYTES,
     false,
     {LIMIT_LOG_CHUNK_BYTES, LIMIT_LOG_CHUNK_BYTES, LIMIT_LOG_CHUNK_BYTES}},
};

static void long_lines_are_split(void **state)
{
    static const size_t steps[] = {1, 4096, 1000003};

    for (size_t i = 0; i < ARRAY_SIZE(splits) * ARRAY_SIZE(steps); i++) {
        _cleanup_(cri_log_freep) struct cri_log *log = NULL;
        int fd = new_file(), copy = dup(fd);
        size_t row = i / ARRAY_SIZE(steps), step = steps[i % ARRAY_SIZE(steps)];
        size_t len = splits[row].len + (splits[row].newline ? 1 : 0);
        char *bytes = malloc(len), *got, *p;

        assert_non_null(bytes);
        memset(bytes, 'x', len);
        if (splits[row].newline)
            bytes[len - 1] = '\n';
        assert_int_equal(cri_log_new(fd, &log), 0);
        for (size_t at = 0; at < len; at += step)
            cri_log_write(log, CRI_STDOUT, bytes + at, len - at < step ? len - at : step);
        cri_log_end(log, CRI_STDOUT);
        p = got = content(copy);
        for (int k = 0; k < 4 && splits[row].pieces[k]; k++) {
            bool last = k == 3 || splits[row].pieces[k + 1] == 0;
            char *end = strchr(p, '\n');

            assert_memory_equal(p, last ? "T stdout F " : "T stdout P ", 11);
            assert_int_equal(end - p - 11, splits[row].pieces[k]);
            p = end + 1;
        }
        assert_int_equal(*p, '\0');
        free(got);
        free(bytes);
        close(copy);
    }
}

/* The disk is full after `left` more bytes, for this process. */
static void limit_file_size(rlim_t bytes)
{
    struct rlimit lim;

    assert_int_equal(getrlimit(RLIMIT_FSIZE, &lim), 0);
    lim.rlim_cur = bytes;
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &lim), 0);
}

static void full_disk_drops_whole_records_and_tells(void **state)
{
    /* every cut inside the second record */
    for (rlim_t cut = HEADER + 6; cut < 2 * (HEADER + 6); cut += 5) {
        _cleanup_(cri_log_freep) struct cri_log *log = NULL;
        int fd = new_file(), copy = dup(fd);
        char *got;

        assert_int_equal(cri_log_new(fd, &log), 0);
        cri_log_set_retry_ns(log, UINT64_MAX / 4);
        limit_file_size(cut);
        cri_log_write(log, CRI_STDOUT, "first\nagain\n", 12);
        cri_log_write(log, CRI_STDOUT, "third\n", 6);
        limit_file_size(RLIM_INFINITY);
        got = content(copy);
        assert_string_equal(got, "T stdout F first\n");
        free(got);
        assert_int_equal(cri_log_dropped(log), 12);
        /* not tried again before its time */
        cri_log_write(log, CRI_STDOUT, "fourth\n", 7);
        assert_int_equal(cri_log_dropped(log), 19);
        cri_log_end(log, CRI_STDOUT);
        got = content(copy);
        assert_string_equal(got,
                            "T stdout F first\n"
                            "T stdout F [nexus-vmm: 19 bytes of output lost: File too large]\n");
        free(got);
        close(copy);
    }
}

static void writing_goes_on_when_there_is_room_again(void **state)
{
    _cleanup_(cri_log_freep) struct cri_log *log = NULL;
    int fd = new_file(), copy = dup(fd);
    char *got;

    assert_int_equal(cri_log_new(fd, &log), 0);
    cri_log_set_retry_ns(log, 0);
    limit_file_size(0);
    cri_log_write(log, CRI_STDOUT, "a\n", 2);
    cri_log_write(log, CRI_STDERR, "bc\n", 3);
    cri_log_write(log, CRI_STDERR, "d", 1); /* waits for its newline, not lost */
    limit_file_size(RLIM_INFINITY);
    cri_log_write(log, CRI_STDERR, "e\n", 2);
    got = content(copy);
    assert_string_equal(got, "T stdout F [nexus-vmm: 2 bytes of output lost: File too large]\n"
                             "T stderr F [nexus-vmm: 3 bytes of output lost: File too large]\n"
                             "T stderr F de\n");
    free(got);
    close(copy);
}

static void marker_closes_a_split_line(void **state)
{
    _cleanup_(cri_log_freep) struct cri_log *log = NULL;
    int fd = new_file(), copy = dup(fd);
    char *bytes = malloc(2 * LIMIT_LOG_CHUNK_BYTES), *got;

    assert_non_null(bytes);
    memset(bytes, 'y', 2 * LIMIT_LOG_CHUNK_BYTES);
    assert_int_equal(cri_log_new(fd, &log), 0);
    cri_log_set_retry_ns(log, 0);
    cri_log_write(log, CRI_STDOUT, bytes, LIMIT_LOG_CHUNK_BYTES + 1); /* one P, one byte waits */
    limit_file_size(1);
    cri_log_write(log, CRI_STDOUT, "z\n", 2);
    limit_file_size(RLIM_INFINITY);
    cri_log_write(log, CRI_STDOUT, "good\n", 5);
    got = content(copy);
    assert_memory_equal(got, "T stdout P yyy", 14);
    assert_string_equal(got + 11 + LIMIT_LOG_CHUNK_BYTES + 1,
                        "T stdout F [nexus-vmm: 3 bytes of output lost: File too large]\n"
                        "T stdout F good\n");
    free(got);
    free(bytes);
    close(copy);
}

static void reopen_switches_between_records(void **state)
{
    _cleanup_(cri_log_freep) struct cri_log *log = NULL;
    int a = new_file(), b = new_file(), copy_a = dup(a), copy_b = dup(b);
    char *bytes = malloc(LIMIT_LOG_CHUNK_BYTES + 1), *got;

    assert_non_null(bytes);
    memset(bytes, 'x', LIMIT_LOG_CHUNK_BYTES + 1);
    assert_int_equal(cri_log_new(a, &log), 0);
    cri_log_write(log, CRI_STDOUT, "half a ",
                  7); /* nothing written of it: the line goes to b whole */
    assert_int_equal(cri_log_reopen(log, b), 0);
    cri_log_write(log, CRI_STDOUT, "line\n", 5);
    got = content(copy_b);
    assert_string_equal(got, "T stdout F half a line\n");
    free(got);
    got = content(copy_a);
    assert_string_equal(got, "");
    free(got);

    /* in a split line the change waits for its end */
    a = new_file();
    close(copy_a);
    copy_a = dup(a);
    cri_log_write(log, CRI_STDOUT, bytes, LIMIT_LOG_CHUNK_BYTES + 1);
    assert_int_equal(cri_log_reopen(log, a), 0);
    cri_log_write(log, CRI_STDERR, "other\n", 6);
    cri_log_write(log, CRI_STDOUT, "end\nnew\n", 8);
    got = content(copy_a);
    assert_string_equal(got, "T stdout F new\n");
    free(got);
    got = content(copy_b);
    assert_non_null(strstr(got, "\nT stderr F other\nT stdout F xend\n"));
    free(got);
    free(bytes);
    close(copy_a);
    close(copy_b);
}

static void endless_line_cannot_hold_up_a_reopen(void **state)
{
    _cleanup_(cri_log_freep) struct cri_log *log = NULL;
    int a = new_file(), b = new_file(), copy_a = dup(a), copy_b = dup(b);
    char *bytes = malloc(4U << 20), *got;
    struct stat st;

    assert_non_null(bytes);
    memset(bytes, 'x', 4U << 20);
    assert_int_equal(cri_log_new(a, &log), 0);
    cri_log_write(log, CRI_STDOUT, bytes, 1U << 20);
    assert_int_equal(cri_log_reopen(log, b), 0);
    cri_log_write(log, CRI_STDOUT, bytes, 4U << 20);
    assert_int_equal(fstat(copy_a, &st), 0);
    assert_true(st.st_size < (3 << 20));
    got = content(copy_a);
    assert_memory_equal(strrchr(got, 'T'), "T stdout F x", 12); /* readable to its end */
    free(got);
    cri_log_end(log, CRI_STDOUT);
    got = content(copy_b);
    assert_memory_equal(strrchr(got, 'T'), "T stdout F x", 12);
    free(got);
    free(bytes);
    close(copy_a);
    close(copy_b);
}

static void reopen_helps_against_a_broken_file(void **state)
{
    _cleanup_(cri_log_freep) struct cri_log *log = NULL;
    int a = new_file(), b = new_file(), copy_b = dup(b);
    char *got;

    assert_int_equal(cri_log_new(a, &log), 0);
    cri_log_set_retry_ns(log, UINT64_MAX / 4);
    limit_file_size(0);
    cri_log_write(log, CRI_STDOUT, "lost\n", 5);
    limit_file_size(RLIM_INFINITY);
    assert_int_equal(cri_log_reopen(log, b), 0);
    cri_log_write(log, CRI_STDOUT, "good\n", 5);
    got = content(copy_b);
    assert_string_equal(got, "T stdout F [nexus-vmm: 5 bytes of output lost: File too large]\n"
                             "T stdout F good\n");
    free(got);
    close(copy_b);
}

static void only_regular_writable_files_are_taken(void **state)
{
    struct cri_log *log = NULL;
    int p[2], ro;

    assert_int_equal(pipe(p), 0);
    assert_int_equal(cri_log_new(p[1], &log), -EINVAL);
    close(p[0]);
    close(p[1]);
    ro = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
    assert_int_equal(cri_log_new(ro, &log), -EINVAL);
    close(ro);
    assert_int_equal(cri_log_new(-1, &log), 0); /* no log file wanted */
    cri_log_write(log, CRI_STDOUT, "gone\n", 5);
    cri_log_end(log, CRI_STDOUT);
    assert_int_equal(cri_log_dropped(log), 0);
    cri_log_free(log);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(lines_become_records),
        cmocka_unit_test(complete_line_is_in_the_file_at_once),
        cmocka_unit_test(streams_do_not_mix),
        cmocka_unit_test(long_lines_are_split),
        cmocka_unit_test(full_disk_drops_whole_records_and_tells),
        cmocka_unit_test(writing_goes_on_when_there_is_room_again),
        cmocka_unit_test(marker_closes_a_split_line),
        cmocka_unit_test(reopen_switches_between_records),
        cmocka_unit_test(endless_line_cannot_hold_up_a_reopen),
        cmocka_unit_test(reopen_helps_against_a_broken_file),
        cmocka_unit_test(only_regular_writable_files_are_taken),
    };

    (void)signal(SIGXFSZ, SIG_IGN);
    return cmocka_run_group_tests_name("cri-log", tests, NULL, NULL) != 0;
}
