/* SPDX-License-Identifier: Apache-2.0 */
/* Runs inside a container, without any library: who am I, and is a vsock socket to be had by any way?
 * Prints one word and a number for each argument; numbers of sockets are errnos, 0 for open. */
#include <errno.h>
#include <linux/io_uring.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#define OP_SOCKET 45
#define MAP_RING(size, offset) \
    mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, ring, (off_t)(offset))

static int plain(int family)
{
    int fd = socket(family, SOCK_STREAM, 0);

    if (fd < 0)
        return errno;
    (void)close(fd);
    return 0;
}

/* -1: no ring is to be had. */
static int by_ring(int family)
{
    struct io_uring_params p = {0};
    int ring = (int)syscall(SYS_io_uring_setup, 1, &p);
    struct io_uring_sqe *sqe;
    char *sq, *cq;
    unsigned tail = 0;
    int res;

    if (ring < 0)
        return -1;
    sq = MAP_RING(p.sq_off.array + p.sq_entries * 4, IORING_OFF_SQ_RING);
    cq = MAP_RING(p.cq_off.cqes + p.cq_entries * sizeof(struct io_uring_cqe), IORING_OFF_CQ_RING);
    sqe = MAP_RING(p.sq_entries * sizeof(*sqe), IORING_OFF_SQES);
    if (sq == MAP_FAILED || cq == MAP_FAILED || sqe == MAP_FAILED)
        return -2;
    memset(sqe, 0, sizeof(*sqe));
    sqe->opcode = OP_SOCKET;
    sqe->fd = family;
    sqe->off = SOCK_STREAM;
    memcpy(sq + p.sq_off.array, &tail, 4);
    tail = 1;
    memcpy(sq + p.sq_off.tail, &tail, 4);
    if (syscall(SYS_io_uring_enter, ring, 1, 1, IORING_ENTER_GETEVENTS, NULL, 0) != 1)
        return -3;
    memcpy(&res, cq + p.cq_off.cqes + offsetof(struct io_uring_cqe, res), sizeof(res));
    return res < 0 ? -res : 0;
}

int main(int argc, char **argv)
{
    for (int i = 1; i < argc; i++) {
        int value = -9;

        if (strcmp(argv[i], "euid") == 0)
            value = (int)geteuid();
        else if (strcmp(argv[i], "umask") == 0)
            value = (int)umask(0);
        else if (strcmp(argv[i], "vsock") == 0)
            value = plain(AF_VSOCK);
        else if (strcmp(argv[i], "inet") == 0)
            value = plain(AF_INET);
        else if (strcmp(argv[i], "ring-vsock") == 0)
            value = by_ring(AF_VSOCK);
        else if (strcmp(argv[i], "ring-inet") == 0)
            value = by_ring(AF_INET);
        (void)printf("%s %d\n", argv[i], value);
    }
    return 0;
}
