/* SPDX-License-Identifier: Apache-2.0 */
#include "base/error.h"

#include <stdio.h>
#include <string.h>

static char out_of_memory[] = "out of memory while describing an error";

static const struct {
    int code;
    enum error_class cls;
} class_table[] = {
    {EINVAL, ERROR_INVALID},
    {EBADMSG, ERROR_INVALID},
    {ENOENT, ERROR_NOT_FOUND},
    {EEXIST, ERROR_EXISTS},
    {ENOSPC, ERROR_EXHAUSTED},
    {ENOMEM, ERROR_EXHAUSTED},
    {EMFILE, ERROR_EXHAUSTED},
    {ENFILE, ERROR_EXHAUSTED},
    {E2BIG, ERROR_EXHAUSTED},
    {EMSGSIZE, ERROR_EXHAUSTED},
    {EDQUOT, ERROR_EXHAUSTED},
    {EFBIG, ERROR_EXHAUSTED},
    {EPERM, ERROR_DENIED},
    {EACCES, ERROR_DENIED},
    {EOPNOTSUPP, ERROR_UNSUPPORTED},
    {ENOSYS, ERROR_UNSUPPORTED},
    {ECANCELED, ERROR_CANCELLED},
    {ETIMEDOUT, ERROR_DEADLINE},
    {ETIME, ERROR_DEADLINE},
    {EAGAIN, ERROR_UNAVAILABLE},
    {ECONNREFUSED, ERROR_UNAVAILABLE},
    {ECONNRESET, ERROR_UNAVAILABLE},
    {ESTALE, ERROR_PRECONDITION},
    {EBUSY, ERROR_PRECONDITION},
};

static const char *const class_names[ERROR_CLASS_COUNT] = {
    [ERROR_INTERNAL] = "internal",
    [ERROR_INVALID] = "invalid",
    [ERROR_NOT_FOUND] = "not-found",
    [ERROR_EXISTS] = "exists",
    [ERROR_PRECONDITION] = "precondition",
    [ERROR_EXHAUSTED] = "exhausted",
    [ERROR_DENIED] = "denied",
    [ERROR_UNSUPPORTED] = "unsupported",
    [ERROR_CANCELLED] = "cancelled",
    [ERROR_DEADLINE] = "deadline",
    [ERROR_UNAVAILABLE] = "unavailable",
    [ERROR_GUEST] = "guest-fault",
};

enum error_class error_class_from_errno(int r)
{
    for (size_t i = 0; i < ARRAY_SIZE(class_table); i++)
        if (class_table[i].code == -r)
            return class_table[i].cls;
    return ERROR_INTERNAL;
}

const char *error_class_name(enum error_class cls)
{
    return (unsigned)cls < ERROR_CLASS_COUNT ? class_names[cls] : "internal";
}

int error_class_parse(const char *name)
{
    for (int i = 0; i < ERROR_CLASS_COUNT; i++)
        if (name && strcmp(class_names[i], name) == 0)
            return i;
    return -EINVAL;
}

int error_set_at(struct error **err, int cls, int r, const char *file, int line, const char *fmt,
                 ...)
{
    va_list ap;

    if (r >= 0) /* a caller's bug: make it visible, keep the contract */
        r = -EIO;
    if (!err || *err)
        return r;
    *err = calloc(1, sizeof(**err));
    if (!*err)
        return r;
    (*err)->code = -r;
    (*err)->class = cls >= 0 ? (enum error_class)cls : error_class_from_errno(r);
    (*err)->file = file;
    (*err)->line = line;
    va_start(ap, fmt);
    if (vasprintf(&(*err)->message, fmt, ap) < 0)
        (*err)->message = out_of_memory;
    va_end(ap);
    return r;
}

int error_prefix(struct error **err, int r, const char *fmt, ...)
{
    char *prefix = NULL;
    char *whole = NULL;
    va_list ap;

    if (!err || !*err || (*err)->message == out_of_memory)
        return r;
    va_start(ap, fmt);
    if (vasprintf(&prefix, fmt, ap) < 0)
        prefix = NULL;
    va_end(ap);
    if (prefix && asprintf(&whole, "%s: %s", prefix, (*err)->message) >= 0) {
        free((*err)->message);
        (*err)->message = whole;
    }
    free(prefix);
    return r;
}

const char *error_text(const struct error *err, int r)
{
    if (err)
        return err->message;
    return strerror(r < 0 ? -r : r);
}

enum error_class error_class_of(const struct error *err, int r)
{
    return err ? err->class : error_class_from_errno(r);
}

void error_free(struct error *err)
{
    if (!err)
        return;
    if (err->message != out_of_memory)
        free(err->message);
    free(err);
}
