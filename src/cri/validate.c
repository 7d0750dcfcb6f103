/* SPDX-License-Identifier: Apache-2.0 */
#include "cri/validate.h"

#include <arpa/inet.h>
#include <limits.h>
#include <stdbool.h>
#include <string.h>

#include "base/limit.h"
#include "base/str.h"

static bool has_control(const char *s)
{
    for (; *s; s++)
        if ((unsigned char)*s < 0x20 || *s == 0x7f)
            return true;
    return false;
}

static int check_length(const char *what, const char *s, size_t min, size_t max, struct error **err)
{
    size_t n = strnlen(s, max + 1);

    if (n < min)
        return error_set(err, -EINVAL, "%s is missing", what);
    if (n > max)
        return error_set(err, -EINVAL, "%s is longer than %zu bytes", what, max);
    return 0;
}

int check_text(const char *what, const char *s, size_t max, struct error **err)
{
    int r = check_length(what, s, 0, max, err);

    if (r < 0)
        return r;
    return has_control(s) ? error_set(err, -EINVAL, "%s has control characters", what) : 0;
}

int check_name(const char *what, const char *s, size_t max, struct error **err)
{
    int r = check_length(what, s, 1, max, err);

    if (r >= 0)
        r = check_text(what, s, max, err);
    if (r < 0)
        return r;
    if (strchr(s, '/') || str_equal(s, ".") || str_equal(s, ".."))
        return error_set(err, -EINVAL, "%s has a '/' or is a dot name", what);
    return 0;
}

int check_word(const char *what, const char *s, size_t max, struct error **err)
{
    int r = check_length(what, s, 1, max, err);

    if (r >= 0)
        r = check_text(what, s, max, err);
    if (r < 0)
        return r;
    return strchr(s, ' ') ? error_set(err, -EINVAL, "%s has blanks", what) : 0;
}

static bool has_dot_dot(const char *s)
{
    while (s) {
        if (strncmp(s, "..", 2) == 0 && (s[2] == '/' || s[2] == '\0'))
            return true;
        s = strchr(s, '/');
        if (s)
            s++;
    }
    return false;
}

static int check_path(const char *what, const char *s, struct error **err)
{
    int r = check_length(what, s, 1, PATH_MAX - 1, err);

    if (r >= 0)
        r = check_text(what, s, PATH_MAX - 1, err);
    if (r < 0)
        return r;
    return has_dot_dot(s) ? error_set(err, -EINVAL, "%s has a \"..\" part", what) : 0;
}

int check_absolute_path(const char *what, const char *s, struct error **err)
{
    int r = check_path(what, s, err);

    if (r < 0)
        return r;
    return s[0] != '/' ? error_set(err, -EINVAL, "%s is no absolute path", what) : 0;
}

int check_relative_path(const char *what, const char *s, struct error **err)
{
    int r = check_path(what, s, err);

    if (r < 0)
        return r;
    if (s[0] == '/' || s[strlen(s) - 1] == '/')
        return error_set(err, -EINVAL, "%s is no relative path of a file", what);
    return 0;
}

int check_ip(const char *what, const char *s, struct error **err)
{
    unsigned char bytes[sizeof(struct in6_addr)];

    if (inet_pton(AF_INET, s, bytes) == 1 || inet_pton(AF_INET6, s, bytes) == 1)
        return 0;
    return error_set(err, -EINVAL, "%s is no IP address", what);
}

int check_hostname(const char *what, const char *s, struct error **err)
{
    size_t n = strnlen(s, LIMIT_HOSTNAME_MAX + 1);

    if (n > LIMIT_HOSTNAME_MAX)
        return error_set(err, -EINVAL, "%s is longer than %d bytes", what, LIMIT_HOSTNAME_MAX);
    if (strspn(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-.") != n)
        return error_set(err, -EINVAL, "%s has characters that no host name has", what);
    return 0;
}

int check_range(const char *what, int64_t v, int64_t min, int64_t max, struct error **err)
{
    if (v >= min && v <= max)
        return 0;
    return error_set(err, -EINVAL, "%s is %lld, outside %lld to %lld", what, (long long)v,
                     (long long)min, (long long)max);
}

int check_cpu_list(const char *what, const char *s, struct error **err)
{
    size_t n = strnlen(s, 1025);

    if (n <= 1024 && strspn(s, "0123456789,-") == n)
        return 0;
    return error_set(err, -EINVAL, "%s is no list of numbers", what);
}

int check_sysctl_name(const char *s, struct error **err)
{
    size_t n = strnlen(s, 257);

    if (n > 0 && n <= 256 &&
        strspn(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._/-") == n &&
        !strstr(s, "..") && s[0] != '.' && s[0] != '/')
        return 0;
    return error_set(err, -EINVAL,
                     "a sysctl name has other characters than letters, digits, '.', "
                     "'_', '-' and '/'");
}

int check_sysctl_namespaced(const char *s, struct error **err)
{
    static const char *const prefixes[] = {"net.", "fs.mqueue.", "kernel.shm", "kernel.msg"};

    for (size_t i = 0; i < ARRAY_SIZE(prefixes); i++)
        if (str_starts(s, prefixes[i]))
            return 0;
    if (str_equal(s, "kernel.sem") || str_equal(s, "kernel.domainname"))
        return 0;
    return error_set(err, -EINVAL,
                     "sysctl %.128s is not namespaced: a pod sets net.*, fs.mqueue.*, kernel.shm*, "
                     "kernel.msg*, kernel.sem and kernel.domainname",
                     s);
}
