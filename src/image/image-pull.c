/* SPDX-License-Identifier: Apache-2.0 */
/* One nexus-pull per pull. What it says is not believed: lines are capped and parsed strictly, and the
 * files it claims are looked at before a record names them.
 *
 * A pull lives on the store's list from spawn until its process has been reaped; without waiters it is
 * killed and only waits for that. Callbacks run when it is off the list. */
#include <fcntl.h>
#include <linux/close_range.h>
#include <linux/sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "base/buf.h"
#include "base/fdpass.h"
#include "base/file.h"
#include "base/limit.h"
#include "base/log.h"
#include "base/str.h"
#include "image/image-internal.h"
#include "oci/json.h"
#include "oci/reference.h"

#define LINE_BYTES (4U << 20) /* the longest line: a result */
#define READ_BYTES 65536
#define READS_PER_TURN 8
#define LAST_READS 128 /* a result and a full pipe; somebody else may hold the other end */

#ifndef P_PIDFD
#define P_PIDFD 3
#endif

struct pull {
    struct image_store *store; /* borrowed */
    struct list node;
    struct list waiters;
    struct oci_reference ref;
    char *key; /* owned; the request's text: reference and auth. Secret */
    char tag[17];
    int pidfd, out_fd;                       /* owned */
    sd_event_source *child, *output, *stall; /* owned */
    struct buf line;
    uint64_t done_bytes, total_bytes;
    json_t *result;        /* owned; of "done" */
    struct error *failure; /* owned; of "error", or ours */
    int r;                 /* of failure */
    bool killed;
    bool ended;                /* reaped; what it left is looked at: */
    struct side_job *settling; /* by the images' thread */
};

struct image_pull_call {
    struct pull *pull; /* borrowed */
    struct list node;
    image_progress_fn progress;
    image_pulled_fn done;
    void *userdata;
};

bool image_pulls_running(const struct image_store *s)
{
    return !list_is_empty(&s->pulls);
}

static void wipe_free(char *secret)
{
    if (secret)
        explicit_bzero(secret, strlen(secret));
    free(secret);
}

static void pull_free(struct pull *p)
{
    if (!p)
        return;
    list_remove(&p->node);
    side_job_cancel(p->settling);
    sd_event_source_disable_unref(p->child);
    sd_event_source_disable_unref(p->output);
    sd_event_source_disable_unref(p->stall);
    close_fd(p->out_fd);
    close_fd(p->pidfd);
    oci_reference_done(&p->ref);
    wipe_free(p->key);
    buf_done(&p->line);
    json_decref(p->result);
    error_free(p->failure);
    free(p);
}
DEFINE_CLEANUP(struct pull *, pull_free);

static void pull_kill(struct pull *p)
{
    if (p->killed || p->ended)
        return;
    p->killed = true;
    (void)syscall(SYS_pidfd_send_signal, p->pidfd, SIGKILL, NULL, 0);
}

/* Keeps the first reason, and ends the process. */
static void pull_fail(struct pull *p, int r, const char *text)
{
    if (!p->failure && !p->result)
        p->r = error_set(&p->failure, r, "%s", text);
    pull_kill(p);
}

/* ---- what the process says ---- */

static void on_progress_line(struct pull *p, const json_t *line)
{
    struct image_pull_call *c, *tmp; /* a callback may cancel its own call */

    if (oci_json_u64(line, "bytes", 0, INT64_MAX, &p->done_bytes, NULL) < 0 ||
        oci_json_u64(line, "total", 0, INT64_MAX, &p->total_bytes, NULL) < 0)
        return;
    list_foreach_safe (c, tmp, &p->waiters, node)
        if (c->progress)
            c->progress(p->done_bytes, p->total_bytes, c->userdata);
}

static void on_error_line(struct pull *p, const json_t *line)
{
    const char *cls = NULL, *message = NULL;
    uint64_t code = EIO;
    int c;

    (void)oci_json_str(line, "class", &cls, NULL);
    (void)oci_json_str(line, "message", &message, NULL);
    (void)oci_json_u64(line, "code", 1, 4095, &code, NULL);
    c = error_class_parse(cls);
    if (p->failure)
        return;
    p->r = error_set_class(&p->failure, c < 0 ? (int)ERROR_INTERNAL : c, -(int)code, "%.*s",
                           LIMIT_ERROR_TEXT_BYTES, message ? message : "the pull failed");
}

static void on_line(struct pull *p, const char *bytes, size_t len)
{
    const char *event = NULL;
    json_t *line;

    if (oci_json_parse(bytes, len, LINE_BYTES, "a report", &line, NULL) < 0) {
        pull_fail(p, -EBADMSG, "the pull helper does not speak our language");
        return;
    }
    (void)oci_json_str(line, "event", &event, NULL);
    if (str_equal(event, "progress"))
        on_progress_line(p, line);
    else if (str_equal(event, "error"))
        on_error_line(p, line);
    else if (str_equal(event, "done") && !p->result)
        p->result = json_incref(json_object_get(line, "image"));
    json_decref(line);
}

static void take_lines(struct pull *p)
{
    size_t at = 0;
    const uint8_t *end;

    while (!p->killed && at < p->line.used &&
           (end = memchr(p->line.data + at, '\n', p->line.used - at))) {
        size_t len = (size_t)(end - (p->line.data + at));

        on_line(p, (const char *)p->line.data + at, len);
        at += len + 1;
    }
    buf_consume(&p->line, at);
}

/* One read. 1: more may be there; 0: nothing now, or the end. */
static int read_some(struct pull *p)
{
    uint8_t *room = buf_reserve(&p->line, READ_BYTES);
    ssize_t n;

    if (!room) {
        pull_fail(p, -EMSGSIZE, "the pull helper's report is too long");
        return 0;
    }
    n = read(p->out_fd, room, READ_BYTES);
    if (n <= 0) {
        if (n == 0 || (errno != EAGAIN && errno != EINTR))
            (void)sd_event_source_set_enabled(p->output, SD_EVENT_OFF);
        return n < 0 && errno == EINTR;
    }
    p->line.used += (size_t)n;
    take_lines(p);
    return p->killed ? 0 : 1;
}

static void stall_restart(struct pull *p)
{
    (void)sd_event_source_set_time_relative(p->stall, (uint64_t)p->store->stall_ms * 1000);
    (void)sd_event_source_set_enabled(p->stall, SD_EVENT_ONESHOT);
}

static int on_output(sd_event_source *source, int fd, uint32_t revents, void *userdata)
{
    struct pull *p = userdata;

    stall_restart(p);
    for (int i = 0; i < READS_PER_TURN && read_some(p) > 0; i++)
        ;
    return 0;
}

static int on_stall(sd_event_source *source, uint64_t usec, void *userdata)
{
    struct pull *p = userdata;

    pull_fail(p, -ETIMEDOUT, "the pull made no progress for too long");
    return 0;
}

/* ---- the end ---- */

/* What a pull left, for the images' thread: temporaries go, and the files it claims are looked at. */
struct settling {
    struct image_walk *walk;   /* owned */
    struct image_entry *entry; /* owned; NULL: it claims nothing */
    struct oci_digest top;     /* what the reference meant */
};

static void settling_free(void *payload)
{
    struct settling *t = payload;

    image_walk_free(t->walk);
    image_entry_free(t->entry);
    free(t);
}

static int settle_work(void *payload, struct error **err)
{
    struct settling *t = payload;
    _cleanup_(error_freep) struct error *why = NULL;
    int r;

    image_walk_run(t->walk);
    r = t->entry ? image_files_check(&t->walk->dirs, t->entry, &why) : 0;
    return r < 0 ? error_set_class(err, ERROR_INTERNAL, r, "converted files are missing: %s",
                                   error_text(why, r))
                 : 0;
}

/* What it says of the image; files are not looked at. */
static int parse_result(const struct pull *p, struct settling *t, struct error **err)
{
    _cleanup_(image_entry_freep) struct image_entry *e = NULL;
    const char *digest;
    int r = image_entry_from_json(p->result, &e, err);

    if (r == 0)
        r = oci_json_str(p->result, "digest", &digest, err);
    if (r < 0)
        return error_prefix(err, r, "the pull helper's result");
    if (oci_digest_parse(digest, &t->top) < 0)
        return error_set(err, -EBADMSG, "the pull helper's result has no digest");
    strv_free(e->pub.repo_tags); /* names are ours to give */
    strv_free(e->pub.repo_digests);
    e->pub.repo_tags = e->pub.repo_digests = NULL;
    e->pub.removed = false;
    t->entry = TAKE(e);
    return 0;
}

static int judge(struct pull *p, const siginfo_t *si, struct settling *t, struct error **err)
{
    bool ok = si->si_code == CLD_EXITED && si->si_status == 0;

    if (p->failure) {
        if (err)
            *err = TAKE(p->failure);
        return p->r < 0 ? p->r : -EIO;
    }
    if (ok && p->result)
        return parse_result(p, t, err);
    return error_set_class(err, ERROR_INTERNAL, -EIO, "the pull helper ended with %s %d",
                           si->si_code == CLD_EXITED ? "status" : "signal", si->si_status);
}

static void answer(struct list *waiters, int r, const struct error *err,
                   const struct image_entry *e)
{
    struct image_pull_call *w;

    list_foreach (w, waiters, node)
        w->pull = NULL; /* it is gone; a callback may still cancel another call */
    while (!list_is_empty(waiters)) {
        struct image_pull_call *c = list_first(waiters, struct image_pull_call, node);

        list_remove(&c->node);
        c->done(r, err, r == 0 ? &e->pub : NULL, c->userdata);
        free(c);
    }
}

static void drop_waiters(struct list *waiters)
{
    while (!list_is_empty(waiters)) {
        struct image_pull_call *c = list_first(waiters, struct image_pull_call, node);

        list_remove(&c->node);
        free(c);
    }
}

/* The callers, when the pull is over: they wait for the record. */
struct ended {
    struct list waiters;
};

/* r -ECANCELED without a text: the store is closed. */
static void on_added(int r, const struct error *err, struct image_entry *e, void *userdata)
{
    struct ended *ended = userdata;

    if (r < 0 && !err)
        drop_waiters(&ended->waiters);
    else
        answer(&ended->waiters, r, err, e);
    free(ended);
}

/* The pull is over: what nobody names may go again. r 0: t has an entry, on_added() answers. */
static void finish(struct pull *p, struct settling *t, int r, struct error *err)
{
    struct image_store *s = p->store;
    struct ended *ended = xcalloc(1, sizeof(*ended));
    struct image_pull_call *c;

    list_init(&ended->waiters);
    if (list_is_empty(&p->waiters)) { /* nobody wants it any more */
        r = r < 0 ? r : -ECANCELED;
    } else {
        list_append(&p->waiters, &ended->waiters);
        list_remove(&p->waiters);
        list_init(&p->waiters);
        list_foreach (c, &ended->waiters, node)
            c->pull = NULL; /* it is gone in a moment; they can still be cancelled */
        if (r == 0)
            r = image_store_add(s, TAKE(t->entry), &p->ref, &t->top, on_added, ended, &err);
    }
    pull_free(p);
    s->fresh_orphans |= error_class_of(err, r) == ERROR_EXHAUSTED;
    (void)image_collect(s);
    if (r < 0) {
        answer(&ended->waiters, r, err, NULL);
        free(ended);
    }
    error_free(err);
}

static void on_settled(void *userdata, void *payload, int r, const struct error *err)
{
    struct pull *p = userdata;
    struct settling *t = payload;
    struct error *own = NULL;

    p->settling = NULL;
    if (r == -ECANCELED && !t)
        return; /* nexusd ends, and drops the pull */
    if (t)
        image_walk_counted(p->store, t->walk);
    if (p->failure) {
        r = p->r;
        own = TAKE(p->failure);
    } else if (r < 0) {
        r = error_set_class(&own, error_class_of(err, r), r, "%s", error_text(err, r));
    }
    finish(p, t, r, own);
}

static int on_child(sd_event_source *source, const siginfo_t *si, void *userdata)
{
    static const struct side_job_ops ops = {settle_work, on_settled, settling_free};
    struct pull *p = userdata;
    _cleanup_(error_freep) struct error *err = NULL;
    struct settling *t = xcalloc(1, sizeof(*t));
    int r;

    for (int i = 0; i < LAST_READS && read_some(p) > 0; i++)
        ;
    p->ended = true;
    p->output = sd_event_source_disable_unref(p->output);
    p->stall = sd_event_source_disable_unref(p->stall);
    p->r = judge(p, si, t, &err);
    p->failure = TAKE(err);
    r = image_walk_new(p->store, p->tag, &t->walk, &err);
    if (r < 0)
        settling_free(t);
    else
        r = side_job_start(p->store->worker, &ops, t, "looking at what a pull has left",
                           IMAGE_JOB_MS, p, &p->settling, &err);
    if (r < 0)
        finish(p, NULL, r, TAKE(err));
    return 0;
}

/* ---- the beginning ---- */

/* In the child: system calls only. */
static _Noreturn void child(const char *helper, char *const *argv, char *const *envp, int request,
                            int dir, int out, pid_t parent)
{
    sigset_t none;
    int null;

    (void)prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
    if (getppid() != parent)
        _exit(125);
    null = open("/dev/null", O_RDONLY);
    /* the three are above 4: opened while 0, 1, 2 and more are in use, or moved there by the parent */
    if (null < 0 || dup2(null, 0) < 0 || dup2(out, 1) < 0 || dup2(request, 3) < 0 ||
        dup2(dir, 4) < 0 || syscall(SYS_close_range, 5U, ~0U, 0) < 0)
        _exit(125);
    for (int i = 1; i < NSIG; i++) {
        struct sigaction sa = {.sa_handler = SIG_DFL};
        (void)sigaction(i, &sa, NULL);
    }
    (void)sigemptyset(&none);
    (void)sigprocmask(SIG_SETMASK, &none, NULL);
    (void)setsid();
    (void)umask(077);
    if (chdir("/") < 0)
        _exit(125);
    (void)execve(helper, argv, envp);
    _exit(126);
}

/* The proxy, certificates and our own debugging; nothing else of our environment. */
static char **make_environment(void)
{
    static const char *const kept[] = {
        "http_proxy", "https_proxy",   "HTTPS_PROXY",  "no_proxy",  "NO_PROXY",
        "all_proxy",  "SSL_CERT_FILE", "SSL_CERT_DIR", "NEXUS_LOG", "NEXUS_FAILPOINTS"};
    char **env = NULL;

    strv_push(&env, "PATH=/usr/sbin:/usr/bin:/sbin:/bin");
    for (size_t i = 0; i < ARRAY_SIZE(kept); i++) {
        const char *value = getenv(kept[i]);
        _cleanup_(freep) char *both = value ? str_printf("%s=%s", kept[i], value) : NULL;

        if (both)
            strv_push(&env, both);
    }
    return env;
}

static int high_dup(int fd)
{
    int n = fcntl(fd, F_DUPFD_CLOEXEC, 16);

    return n < 0 ? -errno : n;
}

static int spawn(struct pull *p, int request, int out, struct error **err)
{
    _cleanup_(strv_freep) char **env = make_environment();
    _cleanup_(closep) int request16 = high_dup(request);
    _cleanup_(closep) int dir16 = high_dup(p->store->root_fd);
    _cleanup_(closep) int out16 = high_dup(out);
    char name[] = "nexus-pull";
    char *argv[] = {name, NULL};
    struct clone_args args = {
        .flags = CLONE_PIDFD, .pidfd = (uint64_t)(uintptr_t)&p->pidfd, .exit_signal = SIGCHLD};
    pid_t parent = getpid(), pid;

    if (request16 < 0 || dir16 < 0 || out16 < 0)
        return error_set(err, -EMFILE, "no descriptors left for a pull");
    if (access(p->store->helper, X_OK) < 0)
        return error_set_class(err, ERROR_INTERNAL, -errno, "cannot run %s: %s", p->store->helper,
                               strerror(errno));
    pid = (pid_t)syscall(SYS_clone3, &args, sizeof(args));
    if (pid < 0)
        return error_set(err, -errno, "cannot start a pull: %s", strerror(errno));
    if (pid == 0)
        child(p->store->helper, argv, env, request16, dir16, out16, parent);
    return 0;
}

/* A sealed place for the request, read once by the child. */
static int make_request_fd(const char *text)
{
    _cleanup_(closep) int fd = memfd_create("pull-request", MFD_CLOEXEC);
    int r;

    if (fd < 0)
        return -errno;
    r = write_full(fd, text, strlen(text));
    if (r == 0 && lseek(fd, 0, SEEK_SET) < 0)
        r = -errno;
    return r < 0 ? r : TAKE_FD(fd);
}

static int watch(struct pull *p, struct error **err)
{
    sd_event *ev = p->store->event;
    int r = sd_event_add_child_pidfd(ev, &p->child, p->pidfd, WEXITED, on_child, p);

    if (r >= 0)
        r = sd_event_add_io(ev, &p->output, p->out_fd, EPOLLIN, on_output, p);
    if (r >= 0)
        r = sd_event_add_time_relative(ev, &p->stall, CLOCK_MONOTONIC,
                                       (uint64_t)p->store->stall_ms * 1000, 0, on_stall, p);
    return r < 0 ? error_set(err, r, "cannot watch a pull: %s", strerror(-r)) : 0;
}

static void reap(struct pull *p)
{
    siginfo_t si;

    pull_kill(p);
    while (waitid((idtype_t)P_PIDFD, (id_t)p->pidfd, &si, WEXITED) < 0 && errno == EINTR)
        ;
}

static int start(struct pull *p, json_t *request, struct error **err)
{
    _cleanup_(closep) int request_fd = -EBADF;
    _cleanup_(closep) int out = -EBADF;
    char *text;
    int fds[2], r;

    (void)json_object_set_new(request, "tag", json_string(p->tag));
    text = json_dumps(request, JSON_COMPACT);
    if (!text)
        return error_set(err, -ENOMEM, "out of memory");
    request_fd = make_request_fd(text);
    wipe_free(text);
    if (request_fd < 0)
        return error_set(err, request_fd, "cannot hand over a request: %s", strerror(-request_fd));
    if (pipe2(fds, O_CLOEXEC) < 0)
        return error_set(err, -errno, "cannot make a pipe: %s", strerror(errno));
    p->out_fd = fds[0];
    out = fds[1];
    r = fd_set_nonblock(p->out_fd, 1);
    if (r < 0)
        return error_set(err, r, "cannot make a pipe: %s", strerror(-r));
    r = spawn(p, request_fd, out, err);
    if (r < 0)
        return r;
    r = watch(p, err);
    if (r < 0)
        reap(p);
    return r;
}

static struct pull *find_same(struct image_store *s, const char *key)
{
    struct pull *p;

    list_foreach (p, &s->pulls, node)
        if (!p->killed && !p->ended && !p->failure && strcmp(p->key, key) == 0)
            return p;
    return NULL;
}

static int pull_new(struct image_store *s, const struct oci_reference *ref, json_t *request,
                    const char *key, struct pull **ret, struct error **err)
{
    _cleanup_(pull_freep) struct pull *p = xcalloc(1, sizeof(*p));
    int r;

    p->store = s;
    p->pidfd = p->out_fd = -EBADF;
    p->key = str_dup(key);
    p->ref = (struct oci_reference){.host = str_dup(ref->host),
                                    .repository = str_dup(ref->repository),
                                    .tag = str_dup_or_null(ref->tag),
                                    .digest = ref->digest};
    list_init(&p->waiters);
    buf_init(&p->line, LINE_BYTES + READ_BYTES);
    random_hex(p->tag, 16);
    image_collect_stop(s);
    r = start(p, request, err);
    if (r < 0)
        return r;
    list_append(&s->pulls, &p->node);
    *ret = TAKE(p);
    return 0;
}

int image_pull(struct image_store *s, const char *reference, const struct image_auth *auth,
               image_progress_fn progress, image_pulled_fn done, void *userdata,
               struct image_pull_call **ret, struct error **err)
{
    struct oci_reference ref = {0};
    struct image_pull_call *c;
    json_t *request = NULL;
    struct pull *p = NULL;
    char *key = NULL;
    int r;

    r = oci_reference_parse(reference, &ref, err);
    if (r == 0)
        r = image_request_build(s, &ref, auth, &request, err);
    if (r == 0) {
        key = json_dumps(request, JSON_COMPACT | JSON_SORT_KEYS);
        r = key ? 0 : error_set(err, -ENOMEM, "out of memory");
    }
    if (r == 0)
        p = find_same(s, key);
    if (r == 0 && !p)
        r = pull_new(s, &ref, request, key, &p, err);
    oci_reference_done(&ref);
    json_decref(request);
    wipe_free(key);
    if (r < 0)
        return r;
    c = xcalloc(1, sizeof(*c));
    *c = (struct image_pull_call){
        .pull = p, .progress = progress, .done = done, .userdata = userdata};
    list_append(&p->waiters, &c->node);
    *ret = c;
    return 0;
}

void image_pull_cancel(struct image_pull_call *call)
{
    struct pull *p = call->pull;

    list_remove(&call->node);
    free(call);
    if (p && list_is_empty(&p->waiters))
        pull_kill(p);
}

/* Here and now: nexusd ends. */
static void sweep(const struct pull *p)
{
    _cleanup_(image_walk_freep) struct image_walk *w = NULL;

    if (image_walk_new(p->store, p->tag, &w, NULL) == 0)
        image_walk_run(w);
}

void image_pulls_end(struct image_store *s)
{
    while (!list_is_empty(&s->pulls)) {
        struct pull *p = list_first(&s->pulls, struct pull, node);

        drop_waiters(&p->waiters);
        if (!p->ended)
            reap(p);
        sweep(p);
        pull_free(p);
    }
}
