/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/uevent-monitor.h"

#include <linux/netlink.h>
#include <string.h>
#include <sys/socket.h>

#include "agent/uevent.h"
#include "base/log.h"

#define EVENTS_PER_TURN 64
#define RECEIVE_BUFFER_BYTES (256 << 10)

static void tell_waiters(struct agent *a)
{
    struct list now;

    /* a waiter may unlink itself or others, and wait again */
    list_init(&now);
    while (!list_is_empty(&a->waiters)) {
        struct uevent_waiter *w = list_first(&a->waiters, struct uevent_waiter, link);
        list_remove(&w->link);
        list_append(&now, &w->link);
    }
    while (!list_is_empty(&now)) {
        struct uevent_waiter *w = list_first(&now, struct uevent_waiter, link);
        list_remove(&w->link);
        w->fn(w->userdata);
    }
}

static void on_netlink(struct loop_source *s, int fd, unsigned events, void *userdata)
{
    struct agent *a = userdata;
    bool news = false;

    for (int n = 0; n < EVENTS_PER_TURN; n++) {
        char bytes[4096];
        struct sockaddr_nl from = {0};
        socklen_t from_len = sizeof(from);
        ssize_t len =
            recvfrom(fd, bytes, sizeof(bytes) - 1, MSG_DONTWAIT, (void *)&from, &from_len);
        struct uevent u;

        if (len < 0 && errno == ENOBUFS) {
            news = true; /* some were lost: look */
            continue;
        }
        if (len <= 0)
            break;
        bytes[len] = '\0';
        /* only the kernel (port 0) is believed */
        if (from.nl_pid != 0 || !uevent_parse(bytes, (size_t)len, &u))
            continue;
        log_debug("uevent %s %s %s", u.action, u.subsystem, u.devpath);
        if (strcmp(u.action, "add") == 0 || strcmp(u.action, "bind") == 0)
            news = true;
    }
    if (news)
        tell_waiters(a);
}

int uevent_start(struct agent *a)
{
    struct sockaddr_nl addr = {.nl_family = AF_NETLINK, .nl_groups = 1};
    int size = RECEIVE_BUFFER_BYTES;

    a->uevent_fd =
        socket(AF_NETLINK, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, NETLINK_KOBJECT_UEVENT);
    if (a->uevent_fd < 0)
        return -errno;
    (void)setsockopt(a->uevent_fd, SOL_SOCKET, SO_RCVBUFFORCE, &size, sizeof(size));
    if (bind(a->uevent_fd, (const void *)&addr, sizeof(addr)) < 0)
        return -errno;
    return loop_add_io(a->loop, a->uevent_fd, LOOP_READ, on_netlink, a, &a->uevent_source);
}

void uevent_wait(struct agent *a, struct uevent_waiter *w)
{
    if (!list_is_linked(&w->link))
        list_append(&a->waiters, &w->link);
}

void uevent_wait_no_more(struct uevent_waiter *w)
{
    list_remove(&w->link);
}
