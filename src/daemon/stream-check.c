/* SPDX-License-Identifier: Apache-2.0 */
#include "daemon/stream-check.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/str.h"

#define DEADLINE_MS 10000
#define TEXT_BYTES 512

/* Its words until it closes stderr; -ETIMEDOUT. */
static int read_words(int fd, char *text, size_t size)
{
    uint64_t end_ms = clock_mono_ns() / 1000000 + DEADLINE_MS;
    char rest[256];
    size_t used = 0;

    for (;;) {
        uint64_t now_ms = clock_mono_ns() / 1000000;
        struct pollfd p = {.fd = fd, .events = POLLIN};
        bool full = used == size - 1;
        ssize_t n;

        if (now_ms >= end_ms || poll(&p, 1, (int)(end_ms - now_ms)) == 0)
            return -ETIMEDOUT;
        n = full ? read(fd, rest, sizeof(rest)) : read(fd, text + used, size - 1 - used);
        if (n < 0 && errno != EINTR)
            return -errno;
        if (n == 0)
            break;
        used += full || n < 0 ? 0 : (size_t)n;
    }
    text[used] = '\0';
    text[strcspn(text, "\n")] = '\0';
    return 0;
}

/* 0, or -EINVAL and what it says in text. */
static int judge(char *const argv[], char *text, size_t size)
{
    char *const no_environment[] = {NULL};
    posix_spawn_file_actions_t actions;
    int fds[2], status = 0, r;
    pid_t pid = 0;

    if (pipe2(fds, O_CLOEXEC) < 0)
        return -errno;
    (void)posix_spawn_file_actions_init(&actions);
    (void)posix_spawn_file_actions_adddup2(&actions, fds[1], STDERR_FILENO);
    r = -posix_spawn(&pid, argv[0], &actions, NULL, argv, no_environment);
    (void)posix_spawn_file_actions_destroy(&actions);
    (void)close(fds[1]);
    if (r == 0) {
        r = read_words(fds[0], text, size);
        if (r < 0)
            (void)kill(pid, SIGKILL);
        while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
            ;
        if (r == 0 && status != 0)
            r = -EINVAL;
    }
    (void)close(fds[0]);
    return r;
}

int stream_check(const struct config *c, struct error **err)
{
    char check[] = "--check-tls", text[TEXT_BYTES] = "";
    char *const argv[] = {c->stream_program,         check,
                          c->stream_tls_certificate, c->stream_tls_key,
                          c->stream_tls_client_ca,   NULL};
    struct stat st;
    int r;

    if (!c->stream_tls_certificate)
        return 0;
    if (stat(c->stream_tls_key, &st) == 0 && st.st_mode & S_IROTH)
        return error_set(err, -EPERM, "stream.tls_key: everybody can read %s", c->stream_tls_key);
    r = judge(argv, text, sizeof(text));
    if (r == -EINVAL && text[0])
        return error_set(err, r, "stream.tls_certificate, tls_key and tls_client_ca: %s", text);
    return r < 0 ? error_set(err, r, "stream.tls_certificate: %s cannot check it: %s",
                             c->stream_program, strerror(-r))
                 : 0;
}
