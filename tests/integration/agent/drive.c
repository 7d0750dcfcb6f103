/* SPDX-License-Identifier: Apache-2.0 */
#include "drive.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/str.h"
#include "cases.h"
#include "wire/message.h"

#define STREAM_OUTPUT_MAX (64U << 20)

jmp_buf case_jump;

void check_failed(const char *file, int line, const char *cond, const char *fmt, ...)
{
    va_list ap;

    (void)printf("# %s:%d: %s: ", file, line, cond);
    va_start(ap, fmt);
    (void)vprintf(fmt, ap);
    va_end(ap);
    (void)printf("\n");
    (void)fflush(stdout);
    longjmp(case_jump, 1);
}

char *text(const char *s)
{
    static char **all;

    strv_push(&all, s);
    return all[strv_len(all) - 1];
}

bool buf_is(const struct buf *b, const char *text)
{
    return b->used == strlen(text) &&
           memcmp(b->data ? b->data : (const uint8_t *)"", text, b->used) == 0;
}

bool buf_has(const struct buf *b, const char *text)
{
    return b->used && memmem(b->data, b->used, text, strlen(text)) != NULL;
}

const char *buf_text(struct buf *b)
{
    uint8_t *p = buf_reserve(b, 1);

    if (!p)
        return "";
    *p = '\0';
    return (const char *)b->data;
}

/* ---- the image and the namespaces */

static void make_dir(const char *path)
{
    CHECK(dir_make(path, 0755) == 0, "%s: %s", path, strerror(errno));
}

static void put_file(const char *root, const char *name, const char *text, mode_t mode)
{
    _cleanup_(freep) char *path = str_printf("%s/%s", root, name);
    _cleanup_(closep) int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, mode);

    CHECK(fd >= 0 && write_full(fd, text, strlen(text)) == 0, "%s", path);
    (void)fchmod(fd, mode);
}

static void copy_program(const char *from, const char *to)
{
    _cleanup_(closep) int in = open(from, O_RDONLY | O_CLOEXEC);
    _cleanup_(closep) int out = open(to, O_WRONLY | O_CREAT | O_CLOEXEC, 0755);
    static char bytes[65536];
    ssize_t n;

    CHECK(in >= 0 && out >= 0, "%s → %s", from, to);
    while ((n = read(in, bytes, sizeof(bytes))) > 0)
        CHECK(write_full(out, bytes, (size_t)n) == 0, "%s", to);
}

static void make_image(const char *root, const char *busybox)
{
    static const char *const dirs[] = {"bin", "etc", "tmp", "home/app", "usr/bin", "data"};
    static const char *const applets[] = {
        "sh",   "cat", "echo", "sleep", "id",    "ls",   "env",  "stat",   "mount",    "head",
        "dd",   "seq", "kill", "ps",    "tty",   "stty", "true", "wc",     "mkdir",    "touch",
        "grep", "yes", "pwd",  "ip",    "mknod", "tail", "test", "printf", "readlink", "hostname",
        "date", "nc",  "tr",   "chmod", "rm",    "cut",  "sort", "setsid"};
    _cleanup_(freep) char *program = str_printf("%s/bin/busybox", root);

    for (size_t i = 0; i < ARRAY_SIZE(dirs); i++) {
        _cleanup_(freep) char *path = str_printf("%s/%s", root, dirs[i]);
        make_dir(path);
    }
    copy_program(busybox, program);
    for (size_t i = 0; i < ARRAY_SIZE(applets); i++) {
        _cleanup_(freep) char *link = str_printf("%s/bin/%s", root, applets[i]);
        CHECK(symlink("busybox", link) == 0 || errno == EEXIST, "%s", link);
    }
    put_file(root, "etc/passwd",
             "root:x:0:0:root:/root:/bin/sh\napp:x:1000:100:An app:/home/app:/bin/sh\n", 0644);
    put_file(root, "etc/group", "root:x:0:\nusers:x:100:\nwheel:x:10:root,app\nnine:x:9:app\n",
             0644);
    put_file(root, "usr/bin/not-a-program", "text\n", 0644);
    put_file(root, "usr/bin/bad-format", "\177ELF but not really", 0755);
    put_file(root, "usr/bin/no-interpreter", "#!/no/such/interpreter\n", 0755);
    put_file(root, "data/file", "from the image\n", 0644);
}

/* cgroup directories go by rmdir alone, the inner ones first. */
static void remove_cgroups(const char *path, unsigned depth)
{
    DIR *dir = opendir(path);
    struct dirent *e;

    while (dir && (e = readdir(dir)))
        if (e->d_type == DT_DIR && e->d_name[0] != '.' && depth > 0) {
            _cleanup_(freep) char *sub = str_printf("%s/%s", path, e->d_name);
            remove_cgroups(sub, depth - 1);
        }
    if (dir)
        (void)closedir(dir);
    (void)rmdir(path);
}

static void enter_namespaces(struct drive *d)
{
    _cleanup_(freep) char *cgroup = str_printf("%s/cgroup", d->dir);
    _cleanup_(freep) char *pod = NULL;
    int status;
    pid_t pid;

    if (!d->is_guest) {
        CHECK(unshare(CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWNET | CLONE_NEWUTS | CLONE_NEWIPC) == 0,
              "unshare: %s (root is needed)", strerror(errno));
        CHECK(mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) == 0, "private");
        (void)fflush(stdout);
        pid = fork();
        CHECK(pid >= 0, "fork");
        if (pid > 0) { /* stays outside: hands the result on */
            CHECK(waitpid(pid, &status, 0) == pid, "waitpid");
            (void)rmdir(d->dir); /* its content was in the other mount namespace */
            _exit(WIFEXITED(status) ? WEXITSTATUS(status) : 1);
        }
        (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
        CHECK(mount("proc", "/proc", "proc", 0, NULL) == 0, "proc");
    }
    make_dir(d->dir);
    CHECK(mount("drive", d->dir, "tmpfs", 0, "mode=755") == 0, "tmpfs");
    make_dir(cgroup);
    CHECK(mount("cgroup2", cgroup, "cgroup2", 0, NULL) == 0, "cgroup2: %s", strerror(errno));
    pod = str_printf("%s/pod", cgroup);
    remove_cgroups(pod, 4); /* of a run that died */
}

/* ---- control connection */

static struct sockaddr_un address(const struct drive *d, unsigned port)
{
    struct sockaddr_un a = {.sun_family = AF_UNIX};

    (void)snprintf(a.sun_path, sizeof(a.sun_path), "%s/agent_%u", d->dir, port);
    return a;
}

static bool wait_readable(int fd, int ms)
{
    struct pollfd p = {.fd = fd, .events = POLLIN};

    return poll(&p, 1, ms) == 1;
}

/* The next message, or NULL when none comes for WAIT_MS. */
static Nexus__AgentMessage *next_message(struct drive *d)
{
    static uint8_t bytes[65536];
    struct tlv_frame f;

    for (;;) {
        int r = tlv_reader_next(&d->reader, &f);
        ssize_t n;

        CHECK(r >= 0, "the agent's frame is bad: %d", r);
        if (r > 0) {
            CHECK(f.type == TLV_MESSAGE, "frame type %u", f.type);
            return (void *)message_unpack(&nexus__agent_message__descriptor, f.value, f.len);
        }
        if (!wait_readable(d->fd, WAIT_MS))
            return NULL;
        n = recv(d->fd, bytes, sizeof(bytes), 0);
        CHECK(n > 0, "the agent's connection ended");
        CHECK(tlv_reader_feed(&d->reader, bytes, (size_t)n) == 0, "feed");
    }
}

static void note_event(struct drive *d, const Nexus__AgentMessage *m)
{
    if (m->body_case == NEXUS__AGENT_MESSAGE__BODY_OOM) {
        d->oom_events++;
        (void)snprintf(d->oom_container, sizeof(d->oom_container), "%s", m->oom->container_id);
    }
}

static void send_all(int fd, const struct buf *b)
{
    CHECK(write_full(fd, b->data, b->used) == 0, "send: %s", strerror(errno));
}

Nexus__Reply *drive_request(struct drive *d, Nexus__AgentMessage *m)
{
    struct buf b;

    m->id = d->next_id++;
    buf_init(&b, 4U << 20);
    CHECK(message_write(&b, TLV_MESSAGE, &m->base) == 0, "message");
    send_all(d->fd, &b);
    buf_done(&b);
    for (;;) {
        Nexus__AgentMessage *got = next_message(d);
        Nexus__Reply *reply = NULL;

        CHECK(got, "no reply to request %d", (int)m->body_case);
        note_event(d, got);
        if (got->body_case == NEXUS__AGENT_MESSAGE__BODY_REPLY && got->id == m->id) {
            reply = TAKE(got->reply);
            got->body_case = NEXUS__AGENT_MESSAGE__BODY__NOT_SET;
        }
        message_free(&got->base);
        if (reply)
            return reply;
    }
}

void drive_must(struct drive *d, Nexus__AgentMessage *m, const char *what)
{
    Nexus__Reply *r = drive_request(d, m);

    CHECK(!*r->error_class, "%s: %s: %s", what, r->error_class, r->message);
    message_free(&r->base);
}

void drive_wait_oom(struct drive *d, unsigned n)
{
    while (d->oom_events < n) {
        Nexus__AgentMessage *got = next_message(d);

        CHECK(got, "no OOM event");
        note_event(d, got);
        message_free(&got->base);
    }
}

static void listen_control(struct drive *d)
{
    struct sockaddr_un a = address(d, 1024);

    d->listen_fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    CHECK(d->listen_fd >= 0 && bind(d->listen_fd, (void *)&a, sizeof(a)) == 0 &&
              listen(d->listen_fd, 8) == 0,
          "%s: %s", a.sun_path, strerror(errno));
}

static void accept_hello(struct drive *d)
{
    Nexus__AgentMessage *m;

    CHECK(wait_readable(d->listen_fd, WAIT_MS), "the agent does not connect");
    d->fd = accept4(d->listen_fd, NULL, NULL, SOCK_CLOEXEC);
    CHECK(d->fd >= 0, "accept");
    tlv_reader_init(&d->reader);
    m = next_message(d);
    CHECK(m && m->body_case == NEXUS__AGENT_MESSAGE__BODY_HELLO, "no hello");
    d->hello = TAKE(m->hello);
    m->body_case = NEXUS__AGENT_MESSAGE__BODY__NOT_SET;
    message_free(&m->base);
}

void drive_start(struct drive *d, const char *agent, const char *busybox)
{
    _cleanup_(freep) char *image = NULL;
    char *const argv[] = {(char *)(uintptr_t)agent, (char[]){"--test-socket"}, d->dir, NULL};

    (void)snprintf(d->dir, sizeof(d->dir), "/tmp/agent-drive-%d", (int)getpid());
    d->next_id = 1;
    enter_namespaces(d);
    image = str_printf("%s/region-100000000", d->dir);
    make_image(image, busybox);
    listen_control(d);
    d->agent_pid = fork();
    CHECK(d->agent_pid >= 0, "fork");
    if (d->agent_pid == 0) {
        (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
        (void)execv(agent, argv);
        _exit(127);
    }
    accept_hello(d);
}

void drive_stop(struct drive *d)
{
    Nexus__AgentMessage m;
    Nexus__ShutdownGuest off;
    _cleanup_(freep) char *pod = str_printf("%s/cgroup/pod", d->dir);
    int status = 0;

    nexus__agent_message__init(&m);
    nexus__shutdown_guest__init(&off);
    off.grace_ms = 100;
    m.body_case = NEXUS__AGENT_MESSAGE__BODY_SHUTDOWN;
    m.shutdown = &off;
    drive_must(d, &m, "shutdown");
    CHECK(waitpid(d->agent_pid, &status, 0) == d->agent_pid, "the agent");
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0, "the agent ended with %#x",
          (unsigned)status);
    remove_cgroups(pod, 4);
    message_free(&d->hello->base);
    tlv_reader_done(&d->reader);
    (void)close(d->fd);
    (void)close(d->listen_fd);
}

/* ---- streams */

struct drive_stream *stream_connect(struct drive *d)
{
    struct drive_stream *s = xcalloc(1, sizeof(*s));
    struct sockaddr_un a = address(d, 1025);

    s->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    CHECK(s->fd >= 0 && connect(s->fd, (void *)&a, sizeof(a)) == 0, "%s: %s", a.sun_path,
          strerror(errno));
    tlv_reader_init(&s->reader);
    buf_init(&s->got.out, STREAM_OUTPUT_MAX);
    buf_init(&s->got.err, STREAM_OUTPUT_MAX);
    return s;
}

static void send_open(struct drive_stream *s, const Nexus__StreamOpen *m)
{
    struct buf b;

    buf_init(&b, 4U << 20);
    CHECK(message_write(&b, TLV_MESSAGE, &m->base) == 0, "open");
    send_all(s->fd, &b);
    buf_done(&b);
}

void stream_open_exec(struct drive_stream *s, const Nexus__ExecSpec *spec, bool keep)
{
    Nexus__StreamOpen m;
    Nexus__ExecSpec copy = *spec;
    struct buf out = s->got.out, err = s->got.err;

    buf_clear(&out);
    buf_clear(&err);
    s->got = (struct outcome){.out = out, .err = err};
    nexus__stream_open__init(&m);
    m.kind_case = NEXUS__STREAM_OPEN__KIND_EXEC;
    m.exec = &copy;
    m.keep = keep;
    send_open(s, &m);
}

struct drive_stream *stream_exec(struct drive *d, const Nexus__ExecSpec *spec)
{
    struct drive_stream *s = stream_connect(d);

    stream_open_exec(s, spec, false);
    return s;
}

void stream_send_raw(struct drive_stream *s, const void *bytes, size_t len)
{
    struct buf b;

    buf_init(&b, 65536);
    CHECK(buf_append(&b, bytes, len) == 0, "bytes");
    send_all(s->fd, &b);
    buf_done(&b);
}

struct drive_stream *stream_start_container(struct drive *d, const char *id)
{
    struct drive_stream *s = stream_connect(d);
    Nexus__StreamOpen m;
    Nexus__StartSpec start;
    _cleanup_(freep) char *copy = str_dup(id);

    nexus__stream_open__init(&m);
    nexus__start_spec__init(&start);
    start.container_id = copy;
    m.kind_case = NEXUS__STREAM_OPEN__KIND_START;
    m.start = &start;
    send_open(s, &m);
    return s;
}

void stream_send(struct drive_stream *s, uint8_t type, const void *bytes, size_t len)
{
    struct buf b;

    buf_init(&b, 65536);
    CHECK(tlv_write(&b, type, bytes, len) == 0, "frame");
    send_all(s->fd, &b);
    buf_done(&b);
}

static void take_exit(struct outcome *o, const struct tlv_frame *f)
{
    Nexus__ExitInfo *e = (void *)message_unpack(&nexus__exit_info__descriptor, f->value, f->len);

    CHECK(e, "bad ExitInfo");
    o->has_exit = true;
    o->code = e->code;
    o->signal = e->signal;
    o->oom = e->oom_killed;
    message_free(&e->base);
}

static void take_error(struct outcome *o, const struct tlv_frame *f)
{
    Nexus__StreamError *e =
        (void *)message_unpack(&nexus__stream_error__descriptor, f->value, f->len);

    CHECK(e && e->reply, "bad StreamError");
    o->has_error = true;
    o->error_exit_code = e->exit_code;
    (void)snprintf(o->error_class, sizeof(o->error_class), "%s", e->reply->error_class);
    (void)snprintf(o->error_text, sizeof(o->error_text), "%s", e->reply->message);
    message_free(&e->base);
}

static void take_data(struct buf *b, unsigned *eof, const struct tlv_frame *f)
{
    CHECK(*eof == 0, "data after the end of a stream");
    if (f->len == 0)
        (*eof)++;
    else
        CHECK(buf_append(b, f->value, f->len) == 0, "too much output");
}

static void take_frame(struct outcome *o, const struct tlv_frame *f)
{
    Nexus__StreamStarted *m;

    CHECK(!o->has_exit && !o->has_error, "frame %u after the last one", f->type);
    CHECK(o->started || f->type == TLV_MESSAGE || f->type == TLV_ERROR, "frame %u before start",
          f->type);
    switch (f->type) {
    case TLV_MESSAGE:
        m = (void *)message_unpack(&nexus__stream_started__descriptor, f->value, f->len);
        CHECK(m && !o->started, "bad StreamStarted");
        o->started = true;
        o->pid = m->pid;
        o->has_user = m->user != NULL;
        if (m->user) {
            o->uid = m->user->uid;
            o->gid = m->user->gid;
            o->n_groups = m->user->n_groups;
            CHECK(o->n_groups <= ARRAY_SIZE(o->groups), "%zu groups", o->n_groups);
            for (size_t i = 0; i < o->n_groups; i++)
                o->groups[i] = m->user->groups[i];
        }
        message_free(&m->base);
        break;
    case TLV_STDOUT:
        take_data(&o->out, &o->out_eof, f);
        break;
    case TLV_STDERR:
        take_data(&o->err, &o->err_eof, f);
        break;
    case TLV_TERMINATION:
        memcpy(o->termination, f->value, f->len);
        o->termination[f->len] = '\0';
        o->n_terminations++;
        o->n_empty_terminations += f->len == 0;
        break;
    case TLV_EXIT:
        take_exit(o, f);
        break;
    case TLV_ERROR:
        take_error(o, f);
        break;
    default:
        CHECK(false, "frame type %u", f->type);
    }
}

void stream_until(struct drive_stream *s, bool (*done)(const struct outcome *, const void *),
                  const void *arg)
{
    static uint8_t bytes[65536];
    struct tlv_frame f;

    while (!done(&s->got, arg)) {
        int r = tlv_reader_next(&s->reader, &f);
        ssize_t n;

        CHECK(r >= 0, "bad frame: %d", r);
        if (r > 0) {
            take_frame(&s->got, &f);
            continue;
        }
        CHECK(!s->got.closed, "closed early (exit %d %d, error: %s, out: %s, err: %s)",
              s->got.has_exit, s->got.code, s->got.error_text, buf_text(&s->got.out),
              buf_text(&s->got.err));
        CHECK(wait_readable(s->fd, WAIT_MS), "nothing comes (out: %s)", buf_text(&s->got.out));
        n = recv(s->fd, bytes, sizeof(bytes), 0);
        CHECK(n >= 0 || errno == ECONNRESET, "recv: %s", strerror(errno));
        if (n <= 0)
            s->got.closed = true;
        else
            CHECK(tlv_reader_feed(&s->reader, bytes, (size_t)n) == 0, "feed");
    }
}

static bool is_closed(const struct outcome *o, const void *arg)
{
    return o->closed;
}

static bool is_started(const struct outcome *o, const void *arg)
{
    return o->started;
}

static bool has_output(const struct outcome *o, const void *arg)
{
    return buf_has(&o->out, arg);
}

void stream_until_closed(struct drive_stream *s)
{
    stream_until(s, is_closed, NULL);
}

static bool has_exit(const struct outcome *o, const void *arg)
{
    return o->has_exit;
}

void stream_until_exit(struct drive_stream *s)
{
    stream_until(s, has_exit, NULL);
}

void stream_until_started(struct drive_stream *s)
{
    stream_until(s, is_started, NULL);
}

void stream_until_output(struct drive_stream *s, const char *text)
{
    stream_until(s, has_output, text);
}

static bool has_bytes(const struct outcome *o, const void *arg)
{
    return o->out.used >= *(const size_t *)arg;
}

void stream_until_bytes(struct drive_stream *s, size_t n)
{
    stream_until(s, has_bytes, &n);
}

void stream_close(struct drive_stream *s)
{
    if (!s)
        return;
    (void)close(s->fd);
    tlv_reader_done(&s->reader);
    buf_done(&s->got.out);
    buf_done(&s->got.err);
    free(s);
}

const struct outcome *shell(struct drive *d, const char *container, const char *script)
{
    static struct drive_stream *last;
    Nexus__ExecSpec e;
    Nexus__ProcessSpec p;
    _cleanup_(freep) char *id = str_dup(container);
    char *args[] = {text("sh"), text("-c"), text(script)};

    nexus__exec_spec__init(&e);
    nexus__process_spec__init(&p);
    stream_close(last);
    e.container_id = id;
    e.process = &p;
    p.args = args;
    p.n_args = 3;
    last = stream_exec(d, &e);
    stream_until_closed(last);
    (void)buf_text(&last->got.out);
    (void)buf_text(&last->got.err);
    return &last->got;
}
