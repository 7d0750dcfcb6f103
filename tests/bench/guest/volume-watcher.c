/* SPDX-License-Identifier: Apache-2.0 */
/* volume-watcher DIR, in a container: says "ready", then a line with ..data's target each time inotify tells that
 * ..data was renamed in DIR, and "echo" for each byte of its input: the same way back, measured alone. Ends with
 * its input. */
#define _GNU_SOURCE
#include <limits.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/inotify.h>
#include <unistd.h>

static void say(const char *text)
{
    char line[PATH_MAX + 1];
    int n = snprintf(line, sizeof(line), "%s\n", text);

    if (write(STDOUT_FILENO, line, (size_t)n) != n) /* one packet each */
        _exit(1);
}

static void on_events(int watch, const char *data)
{
    char buf[65536] __attribute__((aligned(8))), target[PATH_MAX];
    ssize_t n = read(watch, buf, sizeof(buf));

    for (char *p = buf; p < buf + n;) {
        const struct inotify_event *e = (const struct inotify_event *)p;

        p += sizeof(*e) + e->len;
        if (!e->len || strcmp(e->name, "..data") != 0)
            continue;
        ssize_t len = readlink(data, target, sizeof(target) - 1);

        target[len > 0 ? len : 0] = '\0';
        say(target);
    }
}

int main(int argc, char **argv)
{
    char data[PATH_MAX], byte;
    int watch = inotify_init1(IN_CLOEXEC);
    struct pollfd fds[2] = {{.fd = STDIN_FILENO, .events = POLLIN},
                            {.fd = watch, .events = POLLIN}};

    if (argc != 2 || watch < 0 || inotify_add_watch(watch, argv[1], IN_MOVED_TO) < 0) {
        perror("volume-watcher DIR");
        return 2;
    }
    (void)snprintf(data, sizeof(data), "%s/..data", argv[1]);
    say("ready");
    for (;;) {
        if (poll(fds, 2, -1) < 0)
            return 1;
        if (fds[1].revents)
            on_events(watch, data);
        if (!fds[0].revents)
            continue;
        if (read(STDIN_FILENO, &byte, 1) != 1)
            return 0;
        say("echo");
    }
}
