/* SPDX-License-Identifier: Apache-2.0 */
/* volume: what happens while a volume is read. A failpoint makes each open fail, or slow enough for a
 * writer to come in between. */
#include <pthread.h>
#include <stdatomic.h>
#include <sys/wait.h>

#include "lib/volume-fixture.h"

static const struct volume_key old_keys[] = {{"a", "old a"}, {"b", "old b"}, {"c", "old c"}, {0}};
static const struct volume_key new_keys[] = {{"a", "new a"}, {"b", "new b"}, {"d", "new d"}, {0}};

/* Failpoints are armed once a process: this case runs in a child, before any other. */
static int scan_with_eio(const struct fixture *f)
{
    const unsigned before = open_fds();
    struct volume_scan *s = NULL;
    struct error *err = NULL;
    int r;

    (void)setenv("NEXUS_FAILPOINTS", "volume.scan.open=3*error(EIO)", 1);
    r = volume_scan(f->fd, true, &volume_limits_default, &s, &err);
    if (r != -EIO || !strstr(err->message, "/b: opening it: Input/output error"))
        return 1; /* passes: the generation, a, b */
    if (open_fds() != before)
        return 2;
    /* the next one is whole again */
    return volume_scan(f->fd, true, &volume_limits_default, &s, NULL) == 0 ? 0 : 3;
}

static void an_io_error_names_the_file(void **state)
{
    const struct fixture *f = *state;
    int status;
    pid_t pid;

    kubelet_write(f->fd, old_keys);
    pid = fork();
    if (pid == 0)
        _exit(scan_with_eio(f));
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(status, 0);
}

struct writer {
    int fd;
    atomic_bool stop;
    atomic_uint swaps;
};

static void *write_all_the_time(void *userdata)
{
    struct writer *w = userdata;

    while (!atomic_load(&w->stop)) {
        kubelet_write(w->fd, atomic_fetch_add(&w->swaps, 1) % 2 ? old_keys : new_keys);
    }
    return NULL;
}

/* All of one generation: texts, names, and the links that go with them. */
static void assert_one_generation(const struct volume_scan *s)
{
    char path[300];
    bool is_new;

    (void)snprintf(path, sizeof(path), "%s/d", s->target);
    is_new = entry_of(s, path) != NULL;
    for (const struct volume_key *k = is_new ? new_keys : old_keys; k->name; k++) {
        (void)snprintf(path, sizeof(path), "%s/%s", s->target, k->name);
        assert_non_null(entry_of(s, path));
        assert_string_equal(text_of(entry_of(s, path)), k->text);
        assert_true(!s->is_settled || entry_of(s, k->name));
    }
    (void)snprintf(path, sizeof(path), "%s/%s", s->target, is_new ? "c" : "d");
    assert_null(entry_of(s, path));
    assert_string_equal(entry_of(s, "..data")->link, s->target);
    if (s->is_settled) {
        assert_null(entry_of(s, is_new ? "c" : "d"));
        assert_int_equal(s->n, 9);
    }
}

/* Scans as long as there are swaps; *ret_again: how many were told to try again. */
static void scan_against_swaps(const struct fixture *f, unsigned tries, unsigned swaps,
                               unsigned *ret_good, unsigned *ret_again)
{
    struct volume_limits limits = volume_limits_default;
    struct writer w = {.fd = f->fd};
    const unsigned before = open_fds();
    unsigned settled = 0;
    pthread_t thread;

    limits.tries = tries;
    *ret_good = *ret_again = 0;
    kubelet_write(f->fd, old_keys);
    assert_int_equal(pthread_create(&thread, NULL, write_all_the_time, &w), 0);
    while (atomic_load(&w.swaps) < swaps) {
        struct error *err = NULL;
        struct volume_scan *s = NULL;
        int r = volume_scan(f->fd, true, &limits, &s, &err);

        if (r == 0) {
            assert_one_generation(s);
            *ret_good += 1;
            settled += s->is_settled;
            volume_scan_free(s);
        } else {
            assert_int_equal(r, -EAGAIN);
            assert_int_equal(error_class_of(err, r), ERROR_UNAVAILABLE);
            *ret_again += 1;
        }
        error_free(err);
    }
    atomic_store(&w.stop, true);
    assert_int_equal(pthread_join(thread, NULL), 0);
    print_message("# %u swaps: %u scans (%u settled), %u told to try again\n",
                  atomic_load(&w.swaps), *ret_good, settled, *ret_again);
    assert_int_equal(open_fds(), before);
}

static void swaps_give_all_old_or_all_new(void **state)
{
    unsigned good, again;
    struct volume_scan *s;
    const struct fixture *f = *state;

    scan_against_swaps(f, volume_limits_default.tries, 500, &good, &again);
    assert_true(good > 0);
    scan_against_swaps(f, 1, 2000, &good, &again);
#ifdef NEXUS_FAILPOINTS
    /* after some hundred scans each is slower than a swap: it must have been met by one */
    assert_true(again > 0);
#endif
    assert_int_equal(volume_scan(f->fd, true, &volume_limits_default, &s, NULL), 0);
    assert_one_generation(s);
    volume_scan_free(s);
}

static void *grow_all_the_time(void *userdata)
{
    struct writer *w = userdata;

    while (!atomic_load(&w->stop)) {
        assert_int_equal(write_full(w->fd, "0123456789", 10), 0);
        if (atomic_fetch_add(&w->swaps, 1) % 512 == 511)
            assert_int_equal(ftruncate(w->fd, 0), 0);
    }
    return NULL;
}

/* What is told of a file is true for one moment: a size it had, with the mtime of that size. */
static void a_growing_file_is_read_again_or_refused(void **state)
{
    const struct fixture *f = *state;
    struct writer w = {.fd = openat(f->fd, "log", O_WRONLY | O_CREAT | O_APPEND, 0644)};
    struct volume_limits limits = volume_limits_default;
    unsigned good = 0, again = 0;
    pthread_t thread;

    limits.tries = 1;
    assert_int_equal(pthread_create(&thread, NULL, grow_all_the_time, &w), 0);
    while (atomic_load(&w.swaps) < 100000) {
        struct volume_scan *s = NULL;
        int r = volume_scan(f->fd, false, &limits, &s, NULL);

        assert_true(r == 0 || r == -EAGAIN);
        if (r == 0)
            assert_int_equal(entry_of(s, "log")->size % 10, 0);
        good += r == 0;
        again += r < 0;
        volume_scan_free(s);
    }
    atomic_store(&w.stop, true);
    assert_int_equal(pthread_join(thread, NULL), 0);
    print_message("# %u read, %u told to try again\n", good, again);
#ifdef NEXUS_FAILPOINTS
    assert_true(again > 0);
#endif
    (void)close(w.fd);
}

#define CASE(f) cmocka_unit_test_setup_teardown(f, fixture_setup_fast, fixture_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
#ifdef NEXUS_FAILPOINTS
        CASE(an_io_error_names_the_file),
#endif
        CASE(swaps_give_all_old_or_all_new),
        CASE(a_growing_file_is_read_again_or_refused),
    };

    (void)setenv("NEXUS_FAILPOINTS", "volume.scan.open=2000+delay(1)", 1);
    return cmocka_run_group_tests(tests, NULL, NULL) != 0;
}
