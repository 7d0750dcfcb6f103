/* SPDX-License-Identifier: Apache-2.0 */
/* image: pulls over a helper that does what a script says: results, errors, lies, silence, death. */
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "base/file.h"
#include "base/str.h"
#include "image/image-store.h"
#include "lib/test.h"

#define ID "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
#define TOP "cccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccc"
#define RESULT                                                                         \
    "{\"event\":\"done\",\"image\":{\"id\":\"sha256:" ID "\",\"digest\":\"sha256:" TOP \
    "\",\"meta_bytes\":4096,\"meta_sha256\":\"" ID                                     \
    "\",\"layers\":[],\"process\":{\"cmd\":[\"sh\"]}}}"
#define MAKE_META "truncate -s 4096 /proc/self/fd/4/meta/" ID ".2.erofs\n"

struct fixture {
    char dir[40], root[60], helper[60];
    sd_event *event;
    struct store_queue *queue;
    struct image_store *s;
    unsigned done, progress;
    int r;
    enum error_class cls;
    char id[80], text[256];
    struct image_pull_call *call;
};

static int setup(void **state)
{
    struct fixture *f = xcalloc(1, sizeof(*f));
    struct image_config cfg = {.root = f->root, .pull_helper = f->helper, .stall_ms = 60000};
    sigset_t set;

    (void)sigemptyset(&set);
    (void)sigaddset(&set, SIGCHLD);
    (void)sigprocmask(SIG_BLOCK, &set, NULL); /* as in any program of sd-event */
    memcpy(f->dir, "/tmp/nexus-pull.XXXXXX", sizeof("/tmp/nexus-pull.XXXXXX"));
    if (!mkdtemp(f->dir) || sd_event_new(&f->event) < 0 ||
        store_queue_new(f->event, &f->queue, NULL) < 0)
        return -1;
    cfg.queue = f->queue;
    (void)snprintf(f->root, sizeof(f->root), "%s/images", f->dir);
    (void)snprintf(f->helper, sizeof(f->helper), "%s/helper", f->dir);
    assert_int_equal(image_store_open(f->event, &cfg, NULL, NULL, &f->s, NULL), 0);
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;

    image_store_close(f->s);
    assert_int_equal(store_queue_drain(f->queue, 60000), 0);
    store_queue_free(f->queue);
    sd_event_unref(f->event);
    (void)dir_remove_tree(AT_FDCWD, f->dir);
    free(f);
    return 0;
}

static void script(struct fixture *f, const char *body)
{
    int fd = open(f->helper, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0700);

    assert_int_equal(write_full(fd, "#!/bin/sh\n", 10), 0);
    assert_int_equal(write_full(fd, body, strlen(body)), 0);
    close_fd(fd);
}

static void on_progress(uint64_t done_bytes, uint64_t total_bytes, void *userdata)
{
    ((struct fixture *)userdata)->progress++;
}

static void on_done(int r, const struct error *err, const struct image *image, void *userdata)
{
    struct fixture *f = userdata;

    f->done++;
    f->r = r;
    f->cls = error_class_of(err, r);
    f->id[0] = f->text[0] = '\0';
    if (image)
        (void)snprintf(f->id, sizeof(f->id), "%s", image->id);
    if (err)
        (void)snprintf(f->text, sizeof(f->text), "%.250s", err->message);
    assert_int_equal(image != NULL, r == 0);
    assert_int_equal(err != NULL, r < 0);
}

static void pull(struct fixture *f, const char *reference, const struct image_auth *auth)
{
    assert_int_equal(image_pull(f->s, reference, auth, on_progress, on_done, f, &f->call, NULL), 0);
}

static void run_until(struct fixture *f, unsigned done)
{
    while (f->done < done)
        assert_true(sd_event_run(f->event, UINT64_MAX) >= 0);
}

static void a_result_becomes_an_image(void **state)
{
    struct fixture *f = *state;

    script(f, "cat <&3 >/proc/self/fd/4/request\n" MAKE_META
              "echo '{\"event\":\"progress\",\"bytes\":1,\"total\":2}'\n"
              "echo '{\"event\":\"layer\"}'\n"
              "echo '" RESULT "'\n");
    pull(f, "busybox", NULL);
    assert_int_equal(f->done, 0); /* never from inside the call */
    run_until(f, 1);
    assert_int_equal(f->r, 0);
    assert_string_equal(f->id, "sha256:" ID);
    assert_int_equal(f->progress, 1);
    assert_string_equal(image_lookup(f->s, "busybox")->repo_digests[0],
                        "docker.io/library/busybox@sha256:" TOP);
}

static const struct {
    const char *name, *body;
    enum error_class cls;
} failures[] = {
    {"error_line",
     "echo '{\"event\":\"error\",\"class\":\"not-found\",\"code\":2,\"message\":\"no such tag\"}'; "
     "exit 1",
     ERROR_NOT_FOUND},
    {"error_line_of_unknown_class",
     "echo '{\"event\":\"error\",\"class\":\"odd\",\"message\":\"x\"}'; exit 1", ERROR_INTERNAL},
    {"error_line_without_anything", "echo '{\"event\":\"error\"}'; exit 1", ERROR_INTERNAL},
    {"silence", "exit 0", ERROR_INTERNAL},
    {"status", "exit 3", ERROR_INTERNAL},
    {"signal", "kill -9 $$", ERROR_INTERNAL},
    {"no_json", "echo hello; exec sleep 1000", ERROR_INVALID},
    {"deep_json", "yes '[' | head -c 100000 | tr -d '\\n'; echo; exec sleep 1000", ERROR_INVALID},
    {"endless_line", "head -c 9000000 /dev/zero; exec sleep 1000", ERROR_EXHAUSTED},
    {"files_are_missing", "echo '" RESULT "'", ERROR_INTERNAL},
    {"result_then_failure", MAKE_META "echo '" RESULT "'; exit 1", ERROR_INTERNAL},
    {"result_of_nothing", "echo '{\"event\":\"done\"}'", ERROR_INTERNAL},
    {"result_is_odd", "echo '{\"event\":\"done\",\"image\":{\"id\":7}}'", ERROR_INVALID},
};

static void whatever_the_helper_does_the_caller_gets_an_answer(void **state)
{
    struct fixture *f = *state;

    for (size_t i = 0; i < ARRAY_SIZE(failures); i++) {
        print_message("# %s\n", failures[i].name);
        script(f, failures[i].body);
        f->done = 0;
        pull(f, "busybox", NULL);
        run_until(f, 1);
        print_message("#   %s\n", f->text);
        assert_true(f->r < 0);
        assert_int_equal(f->cls, failures[i].cls);
        assert_null(image_lookup(f->s, "busybox"));
    }
}

static void equal_pulls_share_one_process_and_others_do_not(void **state)
{
    struct fixture *f = *state;
    const struct image_auth auth = {.username = "u", .password = "p"};
    _cleanup_(freep) char *text = NULL;
    char path[100];

    script(f, "echo x >>/proc/self/fd/4/count\n" MAKE_META "echo '" RESULT "'\n");
    for (int i = 0; i < 3; i++)
        pull(f, "busybox", NULL);
    pull(f, "docker.io/library/busybox:latest", NULL);
    pull(f, "busybox", &auth);
    pull(f, "busybox:2", NULL);
    run_until(f, 6);
    assert_int_equal(f->r, 0);
    (void)snprintf(path, sizeof(path), "%s/count", f->root);
    assert_int_equal(file_read_all(AT_FDCWD, path, 100, &text, NULL), 0);
    assert_string_equal(text, "x\nx\nx\n");
}

static void a_cancelled_pull_answers_nobody_and_leaves_nothing(void **state)
{
    struct fixture *f = *state;
    struct image_pull_call *first;
    char path[100];

    script(f, "t=$(sed 's/.*\"tag\": *\"\\([a-z0-9]*\\)\".*/\\1/' <&3)\n"
              "touch /proc/self/fd/4/layers/.tmp-$t-data-1\n"
              "echo '{\"event\":\"progress\",\"bytes\":1,\"total\":2}'\n"
              "test -e /proc/self/fd/4/go || exec sleep 1000\n" MAKE_META "echo '" RESULT "'\n");
    pull(f, "busybox", NULL);
    first = f->call;
    pull(f, "busybox", NULL);
    image_pull_cancel(first); /* the other one still waits */
    while (f->progress == 0)
        assert_true(sd_event_run(f->event, UINT64_MAX) >= 0);
    image_pull_cancel(f->call);
    (void)snprintf(path, sizeof(path), "%s/go", f->root);
    close_fd(open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600));
    pull(f, "busybox", NULL); /* a new process: the old one is dying */
    run_until(f, 1);
    assert_int_equal(f->r, 0);
    while (sd_event_run(f->event, 0) > 0)
        ;
    assert_int_equal(f->done, 1);
    (void)snprintf(path, sizeof(path), "%s/layers", f->root);
    assert_int_equal(rmdir(path), 0); /* empty */
    assert_int_equal(mkdir(path, 0700), 0);
}

static void a_pull_that_stands_still_is_ended(void **state)
{
    struct fixture *f = *state;
    struct image_config cfg = {
        .queue = f->queue, .root = f->root, .pull_helper = f->helper, .stall_ms = 50};

    image_store_close(f->s);
    f->s = NULL;
    assert_int_equal(image_store_open(f->event, &cfg, NULL, NULL, &f->s, NULL), 0);
    script(f, "exec sleep 1000\n");
    pull(f, "busybox", NULL);
    run_until(f, 1);
    assert_int_equal(f->cls, ERROR_DEADLINE);
}

static void closing_the_store_ends_pulls(void **state)
{
    struct fixture *f = *state;

    script(f, "exec sleep 1000\n");
    pull(f, "busybox", NULL);
    image_store_close(f->s);
    f->s = NULL;
    assert_int_equal(f->done, 0);
}

static void bad_references_and_helpers_fail_at_once(void **state)
{
    struct fixture *f = *state;
    struct image_pull_call *call;

    assert_int_equal(image_pull(f->s, "Bad", NULL, NULL, on_done, f, &call, NULL), -EINVAL);
    assert_int_equal(image_pull(f->s, "", NULL, NULL, on_done, f, &call, NULL), -EINVAL);
    assert_int_equal(image_pull(f->s, "busybox", NULL, NULL, on_done, f, &call, NULL), -ENOENT);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(a_result_becomes_an_image, setup, teardown),
        cmocka_unit_test_setup_teardown(whatever_the_helper_does_the_caller_gets_an_answer, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(equal_pulls_share_one_process_and_others_do_not, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(a_cancelled_pull_answers_nobody_and_leaves_nothing, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(a_pull_that_stands_still_is_ended, setup, teardown),
        cmocka_unit_test_setup_teardown(closing_the_store_ends_pulls, setup, teardown),
        cmocka_unit_test_setup_teardown(bad_references_and_helpers_fail_at_once, setup, teardown),
    };

    return cmocka_run_group_tests(tests, NULL, NULL) != 0;
}
