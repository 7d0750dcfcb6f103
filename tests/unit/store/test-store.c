/* SPDX-License-Identifier: Apache-2.0 */
/* store: a record is there whole or not at all, damage is set aside and never fatal. */
#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "base/file.h"
#include "base/limit.h"
#include "base/str.h"
#include "lib/test.h"
#include "store/store.h"

struct fixture {
    sd_event *event;
    struct store_queue *queue;
    char dir[32];
    int dirfd;
    struct store *store;
    unsigned good, bad;
    char seen[256];
};

static int setup(void **state)
{
    struct fixture *f = xcalloc(1, sizeof(*f));

    memcpy(f->dir, "/tmp/nexus-store.XXXXXX", sizeof("/tmp/nexus-store.XXXXXX"));
    if (!mkdtemp(f->dir) || sd_event_new(&f->event) < 0 ||
        store_queue_new(f->event, &f->queue, NULL) < 0 ||
        store_open(f->dir, f->queue, &f->store, NULL) < 0)
        return -1;
    f->dirfd = open(f->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;

    store_free(f->store);
    store_queue_free(f->queue);
    sd_event_unref(f->event);
    close_fd(f->dirfd);
    (void)dir_remove_tree(AT_FDCWD, f->dir);
    free(f);
    return 0;
}

static void on_written(void *userdata, int r, const struct error *err)
{
    *(int *)userdata = r;
    assert_int_equal(r < 0, err != NULL);
}

/* To the end. */
static int put(struct fixture *f, const char *name, const json_t *doc, struct error **err)
{
    int end = 1, r = store_put(f->store, name, doc, 0, on_written, &end, NULL, err);

    assert_int_equal(store_queue_drain(f->queue, 60000), 0);
    return r < 0 ? r : end;
}

static int delete (struct fixture *f, const char *name)
{
    int end = 1, r = store_delete(f->store, name, on_written, &end, NULL, NULL);

    assert_int_equal(store_queue_drain(f->queue, 60000), 0);
    return r < 0 ? r : end;
}

static void on_good(const char *name, const json_t *doc, void *userdata)
{
    struct fixture *f = userdata;
    size_t n = strlen(f->seen);

    f->good++;
    (void)snprintf(f->seen + n, sizeof(f->seen) - n, "%s ", name);
}

static void on_bad(const char *name, const char *reason, void *userdata)
{
    struct fixture *f = userdata;

    assert_non_null(reason);
    f->bad++;
}

static void scan(struct fixture *f, unsigned good, unsigned bad)
{
    f->good = f->bad = 0;
    f->seen[0] = '\0';
    assert_int_equal(store_scan(f->store, on_good, on_bad, f, NULL), 0);
    assert_int_equal(f->good, good);
    assert_int_equal(f->bad, bad);
}

static void put_number(struct fixture *f, const char *name, int n)
{
    json_t *doc =
        json_pack("{s:s, s:i, s:[n, b, f]}", "text", "ü and \x01", "n", n, "list", 1, 0.1);

    assert_int_equal(put(f, name, doc, NULL), 0);
    json_decref(doc);
}

static int get_number(struct fixture *f, const char *name)
{
    json_t *doc = NULL;
    int n, r = store_get(f->store, name, &doc, NULL);

    if (r < 0)
        return r;
    n = (int)json_integer_value(json_object_get(doc, "n"));
    json_decref(doc);
    return n;
}

static unsigned count_damaged(struct fixture *f)
{
    int fd = openat(f->dirfd, "damaged", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *d = fd < 0 ? NULL : fdopendir(fd);
    unsigned n = 0;
    struct dirent *e;

    while (d && (e = readdir(d)))
        n += e->d_name[0] != '.';
    if (d)
        (void)closedir(d);
    return n;
}

static void a_record_comes_back_and_is_replaced(void **state)
{
    struct fixture *f = *state;

    assert_int_equal(get_number(f, "a"), -ENOENT);
    put_number(f, "b", 1);
    put_number(f, "a", 7);
    put_number(f, "a", 8);
    assert_int_equal(get_number(f, "a"), 8);
    scan(f, 2, 0);
    assert_string_equal(f->seen, "a b ");
    assert_int_equal(delete (f, "a"), 0);
    assert_int_equal(delete (f, "a"), 0);
    assert_int_equal(get_number(f, "a"), -ENOENT);
}

static void names_that_are_paths_are_refused(void **state)
{
    struct fixture *f = *state;
    static const char *const names[] = {"", ".", "..", ".x", "a/b", "../x", "a b", "a\n", "ä"};
    char longest[202];
    json_t *doc = json_object();

    for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
        print_message("# '%s'\n", names[i]);
        assert_int_equal(put(f, names[i], doc, NULL), -EINVAL);
        assert_int_equal(get_number(f, names[i]), -EINVAL);
        assert_int_equal(delete (f, names[i]), -EINVAL);
    }
    memset(longest, 'x', 201);
    longest[201] = '\0';
    assert_int_equal(put(f, longest, doc, NULL), -EINVAL);
    longest[200] = '\0';
    assert_int_equal(put(f, longest, doc, NULL), 0);
    json_decref(doc);
}

static void a_record_over_the_limit_is_refused_and_the_old_one_stands(void **state)
{
    struct fixture *f = *state;
    char *big = malloc(LIMIT_RECORD_BYTES);
    struct error *err = NULL;
    json_t *doc;

    memset(big, 'x', LIMIT_RECORD_BYTES - 1);
    big[LIMIT_RECORD_BYTES - 1] = '\0';
    doc = json_pack("{s:s}", "n", big);
    put_number(f, "a", 3);
    assert_int_equal(put(f, "a", doc, &err), -E2BIG);
    assert_int_equal(err->class, ERROR_EXHAUSTED);
    assert_int_equal(get_number(f, "a"), 3);
    error_free(err);
    json_decref(doc);
    free(big);
}

/* Reliability F5: whichever byte is flipped, the record is unchanged in meaning or set aside, and the
 * other record loads. */
static void each_flipped_byte_is_noticed_or_harmless(void **state)
{
    struct fixture *f = *state;
    char *text = NULL;
    size_t len = 0;
    unsigned aside = 0;

    put_number(f, "a", 42);
    put_number(f, "b", 1);
    assert_int_equal(file_read_all(f->dirfd, "a.json", 1 << 20, &text, &len), 0);
    for (size_t i = 0; i < len; i++) {
        for (unsigned bit = 0; bit < 8; bit++) {
            text[i] = (char)(text[i] ^ (1 << bit));
            assert_int_equal(file_write_atomic(f->dirfd, "a.json", text, len, 0600, false), 0);
            text[i] = (char)(text[i] ^ (1 << bit));
            f->good = f->bad = 0;
            assert_int_equal(store_scan(f->store, on_good, on_bad, f, NULL), 0);
            assert_int_equal(f->good + f->bad, 2);
            aside += f->bad;
            if (f->bad == 0)
                assert_int_equal(get_number(f, "a"), 42);
        }
    }
    assert_true(aside > len * 7);
    assert_int_equal(count_damaged(f), aside);
    free(text);
}

static void each_truncation_and_tail_is_set_aside(void **state)
{
    struct fixture *f = *state;
    char *text = NULL;
    size_t len = 0;

    put_number(f, "a", 42);
    assert_int_equal(file_read_all(f->dirfd, "a.json", 1 << 20, &text, &len), 0);
    for (size_t cut = 0; cut < len - 1; cut++) { /* without the last newline it is still whole */
        assert_int_equal(file_write_atomic(f->dirfd, "a.json", text, cut, 0600, false), 0);
        assert_int_equal(get_number(f, "a"), -EBADMSG);
        assert_int_equal(get_number(f, "a"), -ENOENT);
    }
    text[len - 1] = '}';
    assert_int_equal(file_write_atomic(f->dirfd, "a.json", text, len, 0600, false), 0);
    scan(f, 0, 1);
    free(text);
}

static void swapped_and_copied_records_are_set_aside(void **state)
{
    struct fixture *f = *state;

    put_number(f, "a", 1);
    put_number(f, "b", 2);
    assert_int_equal(renameat2(f->dirfd, "a.json", f->dirfd, "b.json", RENAME_EXCHANGE), 0);
    scan(f, 0, 2);
    put_number(f, "a", 1);
    assert_int_equal(linkat(f->dirfd, "a.json", f->dirfd, "c.json", 0), 0);
    scan(f, 0, 2);
}

static void what_is_no_file_of_ours_is_set_aside(void **state)
{
    struct fixture *f = *state;

    assert_int_equal(mkfifoat(f->dirfd, "fifo.json", 0600), 0);
    assert_int_equal(mkdirat(f->dirfd, "dir.json", 0700), 0);
    assert_int_equal(symlinkat("/etc/passwd", f->dirfd, "link.json"), 0);
    put_number(f, "open", 1);
    assert_int_equal(fchmodat(f->dirfd, "open.json", 0666, 0), 0);
    put_number(f, "fine", 1);
    scan(f, 1, 4);
    assert_string_equal(f->seen, "fine ");
    assert_int_equal(count_damaged(f), 4);
    scan(f, 1, 0);
}

static const struct {
    const char *name;
    const char *text;
    int r;
} forms[] = {
    {"mended_by_hand", "{\"schema\":1,\"checksum\":null,\"record\":{\"n\":5}}", 5},
    {"no_checksum", "{\"schema\":1,\"record\":{\"n\":5}}", -EBADMSG},
    {"extra_key", "{\"schema\":1,\"checksum\":null,\"record\":{\"n\":5},\"x\":1}", -EBADMSG},
    {"duplicate_key", "{\"schema\":1,\"schema\":1,\"checksum\":null,\"record\":{}}", -EBADMSG},
    {"schema_zero", "{\"schema\":0,\"checksum\":null,\"record\":{\"n\":5}}", -EBADMSG},
    {"newer_schema", "{\"schema\":2,\"checksum\":null,\"record\":{\"n\":5}}", -EPROTONOSUPPORT},
    {"newer_schema_wrong_sum", "{\"schema\":2,\"checksum\":\"crc32c:00000000\",\"record\":{}}",
     -EBADMSG},
    {"record_is_list", "{\"schema\":1,\"checksum\":null,\"record\":[]}", -EBADMSG},
    {"nan", "{\"schema\":1,\"checksum\":null,\"record\":{\"n\":NaN}}", -EBADMSG},
    {"two_values", "{\"schema\":1,\"checksum\":null,\"record\":{\"n\":5}}{}", -EBADMSG},
    {"empty", "", -EBADMSG},
};

static void envelope_forms(void **state)
{
    struct fixture *f = *state;

    for (size_t i = 0; i < ARRAY_SIZE(forms); i++) {
        print_message("# %s\n", forms[i].name);
        assert_int_equal(file_write_atomic(f->dirfd, "a.json", forms[i].text, strlen(forms[i].text),
                                           0600, false),
                         0);
        assert_int_equal(get_number(f, "a"), forms[i].r);
    }
}

static void a_newer_record_stops_the_scan_before_anything_is_touched(void **state)
{
    struct fixture *f = *state;
    static const char newer[] = "{\"schema\":2,\"checksum\":null,\"record\":{}}";

    put_number(f, "a", 1);
    assert_int_equal(file_write_atomic(f->dirfd, "bad.json", "x", 1, 0600, false), 0);
    assert_int_equal(file_write_atomic(f->dirfd, "z.json", newer, strlen(newer), 0600, false), 0);
    assert_int_equal(store_scan(f->store, on_good, on_bad, f, NULL), -EPROTONOSUPPORT);
    assert_int_equal(f->good + f->bad, 0);
    assert_int_equal(count_damaged(f), 0);
    assert_int_equal(faccessat(f->dirfd, "bad.json", F_OK, 0), 0);
}

static void open_sweeps_temporaries_and_keeps_records(void **state)
{
    struct fixture *f = *state;

    put_number(f, "a", 1);
    assert_int_equal(file_write_atomic(f->dirfd, ".a.json.tmp0badcafe", "x", 1, 0600, false), 0);
    store_free(f->store);
    f->store = NULL;
    assert_int_equal(store_open(f->dir, f->queue, &f->store, NULL), 0);
    assert_int_equal(faccessat(f->dirfd, ".a.json.tmp0badcafe", F_OK, 0), -1);
    scan(f, 1, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(a_record_comes_back_and_is_replaced, setup, teardown),
        cmocka_unit_test_setup_teardown(names_that_are_paths_are_refused, setup, teardown),
        cmocka_unit_test_setup_teardown(a_record_over_the_limit_is_refused_and_the_old_one_stands,
                                        setup, teardown),
        cmocka_unit_test_setup_teardown(each_flipped_byte_is_noticed_or_harmless, setup, teardown),
        cmocka_unit_test_setup_teardown(each_truncation_and_tail_is_set_aside, setup, teardown),
        cmocka_unit_test_setup_teardown(swapped_and_copied_records_are_set_aside, setup, teardown),
        cmocka_unit_test_setup_teardown(what_is_no_file_of_ours_is_set_aside, setup, teardown),
        cmocka_unit_test_setup_teardown(envelope_forms, setup, teardown),
        cmocka_unit_test_setup_teardown(a_newer_record_stops_the_scan_before_anything_is_touched,
                                        setup, teardown),
        cmocka_unit_test_setup_teardown(open_sweeps_temporaries_and_keeps_records, setup, teardown),
    };

    return cmocka_run_group_tests(tests, NULL, NULL) != 0;
}
