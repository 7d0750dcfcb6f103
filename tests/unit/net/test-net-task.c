/* SPDX-License-Identifier: Apache-2.0 */
/* Work in a child, on the event loop: whatever the child does ends in one callback, and leaves no
 * process and no descriptor. The loop turns meanwhile. */
#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "base/file.h"
#include "base/str.h"
#include "lib/test.h"
#include "net/net-task.h"

struct fixture {
    sd_event *event;
    struct net_task *task;
    unsigned fds, calls;
    int r, fd;
    enum error_class class;
    char text[256];
    uint32_t data;
    bool has_data;
};

static unsigned count_fds(void)
{
    DIR *d = opendir("/proc/self/fd");
    unsigned n = 0;

    assert_non_null(d);
    while (readdir(d))
        n++;
    closedir(d);
    return n;
}

static int set_up(void **state)
{
    struct fixture *f = xcalloc(1, sizeof(*f));

    f->fds = count_fds();
    f->fd = -EBADF;
    assert_true(sd_event_new(&f->event) >= 0);
    *state = f;
    return 0;
}

static int tear_down(void **state)
{
    struct fixture *f = *state;

    close_fd(f->fd);
    sd_event_unref(f->event);
    assert_int_equal(count_fds(), f->fds);
    assert_int_equal(waitpid(-1, NULL, WNOHANG), -1); /* no child */
    assert_int_equal(errno, ECHILD);
    free(f);
    return 0;
}

static void on_done(void *userdata, int r, int fd, const void *data, const struct error *err)
{
    struct fixture *f = userdata;

    f->task = NULL;
    f->calls++;
    f->r = r;
    f->fd = fd;
    f->class = error_class_of(err, r);
    (void)snprintf(f->text, sizeof(f->text), "%s", r < 0 ? error_text(err, r) : "");
    f->has_data = data != NULL;
    if (data)
        memcpy(&f->data, data, sizeof(f->data));
}

static void start(struct fixture *f, net_task_fn fn, void *arg)
{
    assert_int_equal(
        net_task_start(f->event, -EBADF, fn, arg, sizeof(f->data), on_done, f, &f->task, NULL), 0);
    assert_int_equal(f->calls, 0); /* never from inside */
}

static void run(struct fixture *f)
{
    while (f->calls == 0)
        assert_true(sd_event_run(f->event, 5000000) > 0);
}

/* ---- in the child */

static int answer(void *arg, struct net_task_reply *reply, struct error **err)
{
    uint32_t value = *(const uint32_t *)arg + 1;

    assert_int_equal(reply->data_size, sizeof(value));
    memcpy(reply->data, &value, sizeof(value));
    reply->fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
    return 0;
}

static int refuse(void *arg, struct net_task_reply *reply, struct error **err)
{
    reply->fd = open("/dev/null", O_RDONLY | O_CLOEXEC); /* an error carries no descriptor */
    return error_set_class(err, ERROR_EXHAUSTED, -EBUSY, "the name is taken");
}

static int die(void *arg, struct net_task_reply *reply, struct error **err)
{
    (void)raise(SIGKILL);
    return 0;
}

static int hang(void *arg, struct net_task_reply *reply, struct error **err)
{
    return pause() < 0 ? -EINTR : 0; /* no signal is ever sent but SIGKILL */
}

/* Waits until the parent's loop has turned: it closes the other end of a pipe then. */
static int wait_for_parent(void *arg, struct net_task_reply *reply, struct error **err)
{
    char byte;
    int fd = open(arg, O_RDONLY | O_CLOEXEC);

    return fd >= 0 && read(fd, &byte, 1) == 1 ? 0 : -EIO;
}

/* Everything but 0-2 and what it needs is closed. */
static int look_at_fds(void *arg, struct net_task_reply *reply, struct error **err)
{
    return fcntl(*(const int *)arg, F_GETFD) < 0 ? 0 : error_set(err, -EEXIST, "it is open");
}

/* ---- tests */

static void it_answers_with_data_and_fd(void **state)
{
    struct fixture *f = *state;
    uint32_t value = 41;

    start(f, answer, &value);
    run(f);
    assert_int_equal(f->r, 0);
    assert_true(f->has_data);
    assert_int_equal(f->data, 42);
    assert_true(f->fd >= 0);
    assert_true(fcntl(f->fd, F_GETFD) & FD_CLOEXEC);
}

static void an_error_keeps_class_and_text(void **state)
{
    struct fixture *f = *state;

    start(f, refuse, NULL);
    run(f);
    assert_int_equal(f->r, -EBUSY);
    assert_int_equal(f->class, ERROR_EXHAUSTED);
    assert_string_equal(f->text, "the name is taken");
    assert_int_equal(f->fd, -EBADF);
    assert_false(f->has_data);
}

static void a_child_that_dies_is_an_error(void **state)
{
    struct fixture *f = *state;

    start(f, die, NULL);
    run(f);
    assert_int_equal(f->r, -EIO);
    assert_non_null(strstr(f->text, "died"));
}

static void a_cancelled_child_is_gone_when_it_is_told(void **state)
{
    struct fixture *f = *state;

    start(f, hang, NULL);
    net_task_cancel(f->task);
    net_task_cancel(f->task); /* harmless */
    assert_int_equal(f->calls, 0);
    run(f);
    assert_int_equal(f->r, -ECANCELED);
    assert_int_equal(f->calls, 1);
}

/* An answer that was sent before is not believed: the caller has turned back. */
static void a_late_cancel_drops_the_answer(void **state)
{
    struct fixture *f = *state;
    uint32_t value = 1;
    siginfo_t si;

    start(f, answer, &value);
    assert_int_equal(waitid(P_ALL, 0, &si, WEXITED | WNOWAIT), 0);
    net_task_cancel(f->task);
    run(f);
    assert_int_equal(f->r, -ECANCELED);
    assert_int_equal(f->fd, -EBADF);
}

static void a_freed_child_is_reaped_silently(void **state)
{
    struct fixture *f = *state;
    siginfo_t si;

    start(f, hang, NULL);
    net_task_free(f->task);
    while (waitid(P_ALL, 0, &si, WEXITED | WNOHANG | WNOWAIT) == 0)
        assert_true(sd_event_run(f->event, 100000) >= 0);
    assert_int_equal(errno, ECHILD);
    assert_int_equal(f->calls, 0);
    net_task_free(NULL);
}

static int on_turn(sd_event_source *s, void *userdata)
{
    int fd = *(int *)userdata;

    assert_int_equal(write(fd, "x", 1), 1);
    return 0;
}

static void the_loop_turns_meanwhile(void **state)
{
    struct fixture *f = *state;
    char path[] = "/tmp/nexus-net-task-XXXXXX";
    _cleanup_(closep) int fd = -EBADF;
    _cleanup_(freep) char *fifo = NULL;

    assert_non_null(mkdtemp(path));
    fifo = str_printf("%s/fifo", path);
    assert_int_equal(mkfifo(fifo, 0600), 0);
    start(f, wait_for_parent, fifo);
    fd = open(fifo, O_WRONLY | O_CLOEXEC);
    assert_true(fd >= 0);
    assert_true(sd_event_add_defer(f->event, NULL, on_turn, &fd) >= 0);
    run(f);
    assert_int_equal(f->r, 0);
    assert_int_equal(dir_remove_tree(AT_FDCWD, path), 0);
}

static void the_child_has_no_descriptor_of_ours(void **state)
{
    struct fixture *f = *state;
    _cleanup_(closep) int low = open("/dev/null", O_RDONLY | O_CLOEXEC), high = -EBADF;
    int fds[2];

    high = fcntl(low, F_DUPFD_CLOEXEC, 100);
    assert_true(low >= 0 && high >= 0);
    fds[0] = low;
    fds[1] = high;
    for (size_t i = 0; i < 2; i++) {
        f->calls = 0;
        start(f, look_at_fds, &fds[i]);
        run(f);
        assert_int_equal(f->r, 0);
    }
}

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        T(it_answers_with_data_and_fd),    T(an_error_keeps_class_and_text),
        T(a_child_that_dies_is_an_error),  T(a_cancelled_child_is_gone_when_it_is_told),
        T(a_late_cancel_drops_the_answer), T(a_freed_child_is_reaped_silently),
        T(the_loop_turns_meanwhile),       T(the_child_has_no_descriptor_of_ours),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
