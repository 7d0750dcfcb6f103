/* SPDX-License-Identifier: Apache-2.0 */
#include "pull/converter.h"

#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>

#include "base/fdpass.h"
#include "base/file.h"
#include "base/limit.h"
#include "base/str.h"
#include "pull/inflate.h"
#include "pull/layer.h"
#include "pull/sandbox.h"

#define PUMP_BYTES (128U << 10)
#define PIPE_BYTES (1 << 20)
#define JOB_FDS 3
#define MESSAGE_BYTES 1024

/* Both ends are this program: the struct is the format. */
struct answer {
    int32_t r;   /* 0 or a negative errno */
    int32_t cls; /* enum error_class */
    char message[MESSAGE_BYTES];
    struct layer_info info;
    struct oci_digest diff_id;
};

/* ---- the child ---- */

static void convert(int stream, int data_fd, int index_fd, struct answer *a)
{
    _cleanup_(error_freep) struct error *err = NULL;
    struct source *plain = source_inflate(source_from_fd(stream), LIMIT_LAYER_UNPACKED_BYTES);
    uint64_t bytes;
    int r = plain ? layer_convert(plain, data_fd, index_fd, &a->info, &err)
                  : error_set(&err, -ENOMEM, "out of memory");

    if (r == 0)
        source_inflate_result(plain, &a->diff_id, &bytes);
    source_free(plain);
    a->r = r;
    a->cls = (int32_t)error_class_of(err, r);
    if (r < 0)
        (void)snprintf(a->message, sizeof(a->message), "%s", error_text(err, r));
}

static _Noreturn void serve(int sock)
{
    for (;;) {
        struct answer *a = xcalloc(1, sizeof(*a));
        int fds[JOB_FDS];
        size_t n_fds = 0;
        char byte;
        ssize_t n = fdpass_recv(sock, &byte, 1, fds, JOB_FDS, &n_fds);

        if (n <= 0 || n_fds != JOB_FDS)
            _exit(n == 0 ? 0 : 1);
        convert(fds[0], fds[1], fds[2], a);
        for (size_t i = 0; i < JOB_FDS; i++)
            close_fd(fds[i]); /* the stream first: a writer that is ahead learns that it is over */
        if (write_full(sock, a, sizeof(*a)) < 0)
            _exit(1);
        free(a);
    }
}

/* Keeps sock and stderr, and nothing else of what nexus-pull has open. */
static void close_others(int sock)
{
    if (dup2(sock, 3) < 0 || syscall(SYS_close_range, 4U, ~0U, 0) < 0)
        _exit(1);
    close_fd(0);
    close_fd(1);
}

static _Noreturn void child(int sock, pid_t parent, void (*forget)(void *), void *userdata)
{
    if (prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0) < 0 || getppid() != parent)
        _exit(1);
    forget(userdata);
    close_others(sock);
    if (sandbox_enter_converter(NULL) < 0)
        _exit(1);
    serve(3);
}

/* ---- the parent ---- */

int converter_start(struct converter *c, void (*forget)(void *userdata), void *userdata,
                    struct error **err)
{
    pid_t parent = getpid(), pid;
    int pair[2];

    c->sock = -EBADF;
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0)
        return error_set(err, -errno, "cannot make a socket pair: %s", strerror(errno));
    pid = fork();
    if (pid == 0)
        child(pair[1], parent, forget, userdata);
    close_fd(pair[1]);
    if (pid < 0) {
        close_fd(pair[0]);
        return error_set(err, -errno, "cannot start a converter: %s", strerror(errno));
    }
    c->sock = pair[0];
    return 0;
}

void converter_stop(struct converter *c)
{
    c->sock = close_fd(c->sock);
}

/* Everything of blob into the pipe. 0 also when the child closed its end: it says why. */
static int pump(struct source *blob, int pipe_fd, struct error **err)
{
    _cleanup_(freep) uint8_t *buf = malloc(PUMP_BYTES);

    if (!buf)
        return error_set(err, -ENOMEM, "out of memory");
    for (;;) {
        ssize_t n = blob->read(blob, buf, PUMP_BYTES, err);
        int r;

        if (n <= 0)
            return (int)n;
        r = write_full(pipe_fd, buf, (size_t)n);
        if (r == -EPIPE)
            return -EPIPE;
        if (r < 0)
            return error_set(err, r, "cannot feed a converter: %s", strerror(-r));
    }
}

static int read_answer(struct converter *c, struct answer *a, struct error **err)
{
    ssize_t n = read_full(c->sock, a, sizeof(*a));

    if (n != (ssize_t)sizeof(*a)) {
        converter_stop(c);
        return error_set_class(err, ERROR_INTERNAL, -EIO, "the converter died on this layer");
    }
    a->message[sizeof(a->message) - 1] = '\0';
    if (a->r < 0 && a->r > -4096)
        return error_set_class(err,
                               (unsigned)a->cls < ERROR_CLASS_COUNT ? a->cls : (int)ERROR_INTERNAL,
                               a->r, "%s", a->message);
    if (a->r != 0 || !oci_hex_is_valid(a->diff_id.hex) || a->info.data_bytes % 4096 ||
        a->info.entries > LIMIT_LAYER_ENTRIES || a->info.data_bytes > LIMIT_LAYER_UNPACKED_BYTES)
        return error_set_class(err, ERROR_INTERNAL, -EBADMSG,
                               "the converter's answer makes no sense");
    return 0;
}

static int send_job(struct converter *c, int data_fd, int index_fd, int *ret_pipe,
                    struct error **err)
{
    int fds[JOB_FDS] = {-EBADF, data_fd, index_fd};
    int ends[2];
    ssize_t n;

    if (pipe2(ends, O_CLOEXEC) < 0)
        return error_set(err, -errno, "cannot make a pipe: %s", strerror(errno));
    (void)fcntl(ends[1], F_SETPIPE_SZ, PIPE_BYTES); /* fewer switches; as it is will do */
    fds[0] = ends[0];
    n = fdpass_send(c->sock, "L", 1, fds, JOB_FDS);
    close_fd(ends[0]);
    if (n != 1) {
        close_fd(ends[1]);
        converter_stop(c);
        return error_set_class(err, ERROR_INTERNAL, -EIO, "the converter is gone");
    }
    *ret_pipe = ends[1];
    return 0;
}

int converter_run(struct converter *c, struct source *blob, int data_fd, int index_fd,
                  struct layer_info *ret, struct oci_digest *ret_diff_id, struct error **err)
{
    _cleanup_(error_freep) struct error *blob_err = NULL, *own_err = NULL;
    _cleanup_(freep) struct answer *a = xcalloc(1, sizeof(*a));
    int pipe_fd, blob_r, own_r;

    if (c->sock < 0)
        return error_set_class(err, ERROR_INTERNAL, -EIO, "the converter is gone");
    own_r = send_job(c, data_fd, index_fd, &pipe_fd, err);
    if (own_r < 0)
        return own_r;
    blob_r = pump(blob, pipe_fd, &blob_err);
    close_fd(pipe_fd);
    own_r = read_answer(c, a, &own_err);
    /* a stream that failed makes the child fail, too: the cause is the one to tell */
    if (blob_r < 0 && blob_r != -EPIPE) {
        if (err)
            *err = TAKE(blob_err);
        return blob_r;
    }
    if (own_r == 0 && blob_r == -EPIPE)
        own_r = error_set_class(&own_err, ERROR_INTERNAL, -EIO, "the converter stopped reading");
    if (own_r < 0) {
        if (err)
            *err = TAKE(own_err);
        return own_r;
    }
    *ret = a->info;
    *ret_diff_id = a->diff_id;
    return 0;
}
