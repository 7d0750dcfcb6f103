/* SPDX-License-Identifier: Apache-2.0 */
/* Owning locals free themselves: declare them `_cleanup_(x_freep)`, hand over with TAKE/TAKE_FD. */
#pragma once

#include <errno.h>
#include <stddef.h>
#include <stdlib.h>
#include <unistd.h>

#define _cleanup_(fn) __attribute__((cleanup(fn)))

/* Defines x_freep for a type and its free function; stands beside the free function in its header. */
#define DEFINE_CLEANUP(type, fn)      \
    static inline void fn##p(type *p) \
    {                                 \
        if (*p)                       \
            fn(*p);                   \
    }                                 \
    struct cleanup_needs_semicolon_##fn

/* The value of p, leaving NULL behind: ownership moves to the receiver. */
#define TAKE(p)                    \
    __extension__({                \
        __typeof__(p) take_ = (p); \
        (p) = NULL;                \
        take_;                     \
    })

/* The same for a file descriptor; -EBADF stays behind. */
#define TAKE_FD(fd)          \
    __extension__({          \
        int take_fd_ = (fd); \
        (fd) = -EBADF;       \
        take_fd_;            \
    })

static inline void freep(void *p)
{
    free(*(void **)p);
}

/* Closes fd if it is one, keeps errno, returns -EBADF: `fd = close_fd(fd)`. */
static inline int close_fd(int fd)
{
    if (fd >= 0) {
        int saved = errno;
        (void)close(fd);
        errno = saved;
    }
    return -EBADF;
}

static inline void closep(int *fd)
{
    *fd = close_fd(*fd);
}

#define ARRAY_SIZE(a) (sizeof(a) / sizeof((a)[0]))
#define container_of(ptr, type, member) ((type *)(void *)((char *)(ptr)-offsetof(type, member)))
