/* SPDX-License-Identifier: Apache-2.0 */
/* store: writes do not block the loop, come to the disk in order, and are told when they are there. A
 * failpoint makes the disk slow. */
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/str.h"
#include "lib/test.h"
#include "store/store.h"

struct fixture {
    char dir[32];
    sd_event *event;
    struct store_queue *queue;
    struct store *a, *b;
    char told[64]; /* a letter per callback; capital: failed */
    char text[128];
};

static struct fixture *the; /* for callbacks that know only their letter */

static int setup(void **state)
{
    struct fixture *f = xcalloc(1, sizeof(*f));
    char sub[48];

    memcpy(f->dir, "/tmp/nexus-queue.XXXXXX", sizeof("/tmp/nexus-queue.XXXXXX"));
    assert_non_null(mkdtemp(f->dir));
    assert_true(sd_event_new(&f->event) >= 0);
    assert_int_equal(store_queue_new(f->event, &f->queue, NULL), 0);
    (void)snprintf(sub, sizeof(sub), "%s/a", f->dir);
    assert_int_equal(store_open(sub, f->queue, &f->a, NULL), 0);
    (void)snprintf(sub, sizeof(sub), "%s/b", f->dir);
    assert_int_equal(store_open(sub, f->queue, &f->b, NULL), 0);
    *state = the = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;

    store_free(f->a);
    store_free(f->b);
    assert_int_equal(store_queue_drain(f->queue, 60000), 0);
    store_queue_free(f->queue);
    sd_event_unref(f->event);
    assert_int_equal(dir_remove_tree(AT_FDCWD, f->dir), 0);
    free(f);
    return 0;
}

static void on_end(void *userdata, int r, const struct error *err)
{
    size_t n = strlen(the->told);

    the->told[n] = *(const char *)userdata;
    if (r < 0) {
        the->told[n] = (char)(the->told[n] - 'a' + 'A');
        (void)snprintf(the->text, sizeof(the->text), "%s", error_text(err, r));
    }
}

static struct store_op *put(struct store *s, const char *name, int n, const char *letter)
{
    json_t *doc = json_pack("{s:i}", "n", n);
    struct store_op *op = NULL;

    assert_int_equal(store_put(s, name, doc, 0, on_end, (void *)(uintptr_t)letter, &op, NULL), 0);
    assert_non_null(op);
    json_decref(doc);
    return op;
}

static void del(struct store *s, const char *name, const char *letter)
{
    assert_int_equal(store_delete(s, name, on_end, (void *)(uintptr_t)letter, NULL, NULL), 0);
}

static int get(struct store *s, const char *name)
{
    json_t *doc = NULL;
    int n, r = store_get(s, name, &doc, NULL);

    if (r < 0)
        return r;
    n = (int)json_integer_value(json_object_get(doc, "n"));
    json_decref(doc);
    return n;
}

static void drain(struct fixture *f)
{
    assert_int_equal(store_queue_drain(f->queue, 60000), 0);
}

/* The first write of this program takes three seconds. */
static void the_loop_turns_while_the_disk_is_slow(void **state)
{
    struct fixture *f = *state;

    put(f->a, "x", 1, "p");
    for (int i = 0; i < 1000; i++)
        assert_true(sd_event_run(f->event, 0) >= 0);
    assert_string_equal(f->told, "");
    assert_int_equal(get(f->a, "x"), -ENOENT);
    put(f->b, "x", 10, "q"); /* another store's */
    put(f->a, "y", 20, "r");
    put(f->a, "x", 2, "s"); /* behind the one that is being written */
    put(f->a, "x", 3, "t"); /* instead of the one before */
    put(f->a, "z", 30, "u");
    while (strlen(f->told) < 6)
        assert_true(sd_event_run(f->event, UINT64_MAX) >= 0);
    assert_string_equal(f->told, "pqrstu");
    assert_int_equal(get(f->a, "x"), 3);
    assert_int_equal(get(f->b, "x"), 10);
    assert_int_equal(get(f->a, "y"), 20);
}

static void what_is_forgotten_is_written_all_the_same(void **state)
{
    struct fixture *f = *state;

    store_forget(put(f->a, "x", 1, "p"));
    store_forget(put(f->a, "x", 2, "q"));
    put(f->a, "x", 3, "r");
    store_forget(NULL);
    drain(f);
    assert_string_equal(f->told, "r");
    assert_int_equal(get(f->a, "x"), 3);
}

/* The first delete of this program takes a second, the second fails. */
static void puts_and_deletes_of_a_name_keep_their_order(void **state)
{
    struct fixture *f = *state;

    del(f->a, "x", "p");
    put(f->a, "x", 1, "q");
    put(f->a, "x", 2, "r");
    del(f->a, "x", "s");
    put(f->a, "x", 3, "t");
    drain(f);
    assert_string_equal(f->told, "pqrSt");
    assert_non_null(strstr(f->text, "cannot delete record x: Input/output error"));
    assert_int_equal(get(f->a, "x"), 3);
    put(f->a, "x", 4, "u");
    del(f->a, "x", "v");
    drain(f);
    assert_int_equal(get(f->a, "x"), -ENOENT);
}

static void a_store_that_is_closed_is_still_written(void **state)
{
    struct fixture *f = *state;
    char path[48];
    struct store *again = NULL;

    for (int i = 0; i < 20; i++) {
        char name[8];

        (void)snprintf(name, sizeof(name), "n%d", i);
        put(f->b, name, i, "p");
    }
    store_free(TAKE(f->b));
    drain(f);
    assert_int_equal(strlen(f->told), 20);
    (void)snprintf(path, sizeof(path), "%s/b", f->dir);
    assert_int_equal(store_open(path, NULL, &again, NULL), 0);
    assert_int_equal(get(again, "n19"), 19);
    assert_int_equal(store_delete(again, "n19", NULL, NULL, NULL, NULL), -EROFS);
    store_free(again);
}

static void on_end_put_again(void *userdata, int r, const struct error *err)
{
    struct fixture *f = userdata;

    assert_int_equal(r, 0);
    put(f->a, "again", 2, "q");
}

static void a_callback_may_put(void **state)
{
    struct fixture *f = *state;
    json_t *doc = json_pack("{s:i}", "n", 1);

    assert_int_equal(store_put(f->a, "again", doc, 0, on_end_put_again, f, NULL, NULL), 0);
    json_decref(doc);
    drain(f);
    assert_string_equal(f->told, "q");
    assert_int_equal(get(f->a, "again"), 2);
}

static void the_queue_has_a_bound(void **state)
{
    struct fixture *f = *state;
    _cleanup_(error_freep) struct error *err = NULL;
    size_t size = 3500000;
    char *text = xcalloc(1, size + 1);
    char name[8] = "big0";
    json_t *doc;
    int r = 0, n = 0;

    memset(text, 'x', size);
    doc = json_pack("{s:s, s:i}", "text", text, "n", 5);
    for (; r == 0 && n < 9; n++, name[3]++)
        r = store_put(f->a, name, doc, 0, on_end, (void *)(uintptr_t) "p", NULL, &err);
    assert_int_equal(r, -EAGAIN);
    assert_int_equal(error_class_of(err, r), ERROR_UNAVAILABLE);
    assert_in_range(n, 5, 9); /* four fit, however many the disk has taken meanwhile */
    drain(f);
    assert_int_equal(strlen(f->told), n - 1);
    assert_int_equal(get(f->a, "big0"), 5);
    json_decref(doc);
    free(text);
}

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        T(the_loop_turns_while_the_disk_is_slow),
        T(what_is_forgotten_is_written_all_the_same),
        T(puts_and_deletes_of_a_name_keep_their_order),
        T(a_store_that_is_closed_is_still_written),
        T(a_callback_may_put),
        T(the_queue_has_a_bound),
    };

#ifndef NEXUS_FAILPOINTS
    return 77; /* a build without failpoints: skipped */
#endif
    (void)setenv("NEXUS_FAILPOINTS", "store.put=1*delay(3000);store.delete=2*error(EIO)", 1);
    return cmocka_run_group_tests(tests, NULL, NULL) != 0;
}
