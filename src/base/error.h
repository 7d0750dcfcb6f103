/* SPDX-License-Identifier: Apache-2.0 */
/* The error object of the high tier: what went wrong, in words, with a class that maps to a gRPC
 * status and to an exit code.
 *
 * A function that can fail returns 0 or positive, else a negative errno, and sets *err exactly when
 * the result is negative. err may be NULL. *err is never overwritten; on the way up a caller may
 * only add a prefix. Nobody compares messages: code and class first, text second. */
#pragma once

#include <stdarg.h>
#include <stdint.h>

#include "base/cleanup.h"

enum error_class {
    ERROR_INTERNAL,     /* a bug or an unexpected failure of the host */
    ERROR_INVALID,      /* the request is wrong whatever the state */
    ERROR_NOT_FOUND,    /* no such object */
    ERROR_EXISTS,       /* the name is taken */
    ERROR_PRECONDITION, /* the request is fine, the object's state is not */
    ERROR_EXHAUSTED,    /* a limit of ours or of the host: disk, memory, fds, bytes */
    ERROR_DENIED,       /* not allowed */
    ERROR_UNSUPPORTED,  /* understood and not offered */
    ERROR_CANCELLED,    /* the caller went away */
    ERROR_DEADLINE,     /* time ran out */
    ERROR_UNAVAILABLE,  /* not now; a retry may help */
    ERROR_GUEST,        /* the guest's fault; text begins "in guest:" */
};
#define ERROR_CLASS_COUNT 12

struct error {
    int code;               /* positive errno */
    enum error_class class; /* NOLINT: a C keyword nowhere */
    char *message;          /* owned; outer to inner, "a: b: c" */
    const char *file;       /* where it was set */
    int line;
};

/* Sets *err (if err) and returns r, a negative errno. The class comes from the errno by a table:
 * EINVAL invalid, ENOENT not-found, EEXIST exists, ENOSPC/ENOMEM/EMFILE/E2BIG/EMSGSIZE/EDQUOT
 * exhausted, EPERM/EACCES denied, EOPNOTSUPP/ENOSYS unsupported, ECANCELED cancelled,
 * ETIMEDOUT/ETIME deadline, EAGAIN/ECONNREFUSED/ECONNRESET unavailable, ESTALE/EBUSY precondition,
 * everything else internal. Cannot fail; without memory the text is a constant. */
#define error_set(err, r, ...) error_set_at(err, -1, r, __FILE__, __LINE__, __VA_ARGS__)
/* The same with the class named: the errno says too little. */
#define error_set_class(err, cls, r, ...) \
    error_set_at(err, (int)(cls), r, __FILE__, __LINE__, __VA_ARGS__)
int error_set_at(struct error **err, int cls, int r, const char *file, int line, const char *fmt,
                 ...) __attribute__((format(printf, 6, 7)));

/* Puts "text: " before the message of *err (if there is one) and returns r. */
int error_prefix(struct error **err, int r, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

/* Text for people: the message, or strerror(-r) when err is NULL. Borrowed. */
const char *error_text(const struct error *err, int r);
enum error_class error_class_of(const struct error *err, int r);
enum error_class error_class_from_errno(int r);
/* "invalid", "not-found", …: the names errors carry across process borders. */
const char *error_class_name(enum error_class cls);
/* The class of that name, or -EINVAL. */
int error_class_parse(const char *name);

void error_free(struct error *err);
DEFINE_CLEANUP(struct error *, error_free);
