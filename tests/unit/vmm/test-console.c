/* SPDX-License-Identifier: Apache-2.0 */
/* console: the tail is bounded and keeps the newest, output waits for nobody, a panic is found in
 * whatever the guest said. */
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>

#include "base/limit.h"
#include "event/loop.h"
#include "lib/test.h"
#include "vmm/console.h"

static void say(struct console *c, const char *text)
{
    for (; *text; text++)
        console_put((uint8_t)*text, c);
}

static void tail_keeps_the_newest(void **state)
{
    static char out[LIMIT_CONSOLE_TAIL_BYTES + 1];
    static uint8_t many[2 * LIMIT_CONSOLE_TAIL_BYTES + 5];
    _cleanup_(console_freep) struct console *c = NULL;
    struct loop *loop = NULL;

    assert_int_equal(loop_new(&loop), 0);
    assert_int_equal(console_new(loop, -1, &c), 0);
    say(c, "first line\n");
    assert_int_equal(console_tail(c, out, sizeof(out)), 11);
    assert_memory_equal(out, "first line\n", 11);
    for (size_t i = 0; i < LIMIT_CONSOLE_TAIL_BYTES; i++)
        console_put('x', c);
    say(c, "end");
    assert_int_equal(console_tail(c, out, sizeof(out)), LIMIT_CONSOLE_TAIL_BYTES);
    assert_true(out[0] == 'x');
    assert_memory_equal(out + LIMIT_CONSOLE_TAIL_BYTES - 3, "end", 3);
    assert_int_equal(console_tail(c, out, 2), 2);
    assert_memory_equal(out, "nd", 2);
    /* more at once than is kept */
    for (size_t i = 0; i < sizeof(many); i++)
        many[i] = (uint8_t)(i % 251);
    console_write(c, many, sizeof(many));
    console_write(c, many, 0);
    assert_int_equal(console_tail(c, out, sizeof(out)), LIMIT_CONSOLE_TAIL_BYTES);
    assert_memory_equal(out, many + sizeof(many) - LIMIT_CONSOLE_TAIL_BYTES,
                        LIMIT_CONSOLE_TAIL_BYTES);
    console_free(c);
    c = NULL;
    loop_free(loop);
}

static void output_reaches_a_pipe_and_a_file(void **state)
{
    char got[16] = "";
    int pipes[2];

    for (int file = 0; file < 2; file++) {
        int fd = memfd_create("console", MFD_CLOEXEC);
        struct console *c = NULL;
        struct loop *loop = NULL;

        assert_int_equal(pipe2(pipes, O_CLOEXEC), 0);
        assert_int_equal(loop_new(&loop), 0);
        assert_int_equal(console_new(loop, file ? fd : pipes[1], &c), 0);
        say(c, "hello");
        for (int i = 0; i < 4; i++)
            assert_true(loop_turn(loop, 0) >= 0);
        assert_int_equal(file ? pread(fd, got, 15, 0) : read(pipes[0], got, 15), 5); /* at once */
        say(c, " you");
        console_free(c); /* writes the rest */
        loop_free(loop);
        memset(got, 0, sizeof(got));
        assert_int_equal(file ? pread(fd, got, 15, 5) : read(pipes[0], got, 15), 4);
        assert_string_equal(got, " you");
        (void)close(pipes[0]);
        (void)close(pipes[1]);
        (void)close(fd);
    }
}

static void nobody_reading_loses_output_and_nothing_else(void **state)
{
    struct console *c = NULL;
    struct loop *loop = NULL;
    char tail[4];
    int pipes[2];

    assert_int_equal(pipe2(pipes, O_CLOEXEC), 0);
    assert_int_equal(loop_new(&loop), 0);
    assert_int_equal(console_new(loop, pipes[1], &c), 0);
    for (unsigned i = 0; i < 4 * LIMIT_CONSOLE_TAIL_BYTES; i++) {
        console_put('y', c);
        if (i % 1024 == 0)
            assert_true(loop_turn(loop, 0) >= 0);
    }
    say(c, "last");
    assert_int_equal(console_tail(c, tail, 4), 4);
    assert_memory_equal(tail, "last", 4);
    console_free(c); /* does not block */
    loop_free(loop);
    (void)close(pipes[0]);
    (void)close(pipes[1]);
}

static const struct {
    const char *name, *tail, *text; /* text NULL: no panic */
} rows[] = {
    {"none", "Linux version 6.1\n", NULL},
    {"plain", "[ 1.0] Kernel panic - not syncing: Out of memory\r\nCPU: 0", "Out of memory"},
    {"at_the_end", "Kernel panic - not syncing: x", "x"},
    {"nothing_said", "Kernel panic - not syncing: \n", ""},
    {"cut_mark", "Kernel panic - not syncin", NULL},
    {"control_bytes", "Kernel panic - not syncing: a\x1b[31mb\x80\n", "a?[31mb?"},
    {"empty", "", NULL},
};

static void panic_is_found_and_cleaned(void **state)
{
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        char out[32] = "untouched";
        bool found = console_find_panic(rows[i].tail, strlen(rows[i].tail), out, sizeof(out));

        print_message("# %s\n", rows[i].name);
        assert_true(found == (rows[i].text != NULL));
        assert_string_equal(out, found ? rows[i].text : "untouched");
    }
}

static void long_panic_is_cut(void **state)
{
    char out[8];

    assert_true(console_find_panic("Kernel panic - not syncing: 0123456789", 38, out, 8));
    assert_string_equal(out, "0123456");
    assert_false(console_find_panic("Kernel panic - not syncing: 0", 29, out, 0));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(tail_keeps_the_newest),
        cmocka_unit_test(output_reaches_a_pipe_and_a_file),
        cmocka_unit_test(nobody_reading_loses_output_and_nothing_else),
        cmocka_unit_test(panic_is_found_and_cleaned),
        cmocka_unit_test(long_panic_is_cut),
    };

    return cmocka_run_group_tests(tests, NULL, NULL) != 0;
}
