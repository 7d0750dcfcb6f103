/* SPDX-License-Identifier: Apache-2.0 */
#include "base/str.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>

#include "base/checked.h"

static void *must(void *p)
{
    if (!p) {
        static const char text[] = "out of memory\n";
        ssize_t n = write(STDERR_FILENO, text, sizeof(text) - 1);
        (void)n;
        abort();
    }
    return p;
}

char *str_dup(const char *s)
{
    return must(strdup(s));
}

char *str_dup_or_null(const char *s)
{
    return s ? str_dup(s) : NULL;
}

char *str_ndup(const char *s, size_t len)
{
    return must(strndup(s, len));
}

char *str_printf(const char *fmt, ...)
{
    char *s = NULL;
    va_list ap;

    va_start(ap, fmt);
    if (vasprintf(&s, fmt, ap) < 0)
        s = NULL;
    va_end(ap);
    return must(s);
}

void *xcalloc(size_t n, size_t size)
{
    return must(calloc(n, size));
}

void *xrealloc(void *p, size_t n, size_t size)
{
    size_t total;

    if (!checked_mul(n, size, &total))
        abort();
    return must(realloc(p, total ? total : 1));
}

bool str_starts(const char *s, const char *prefix)
{
    return strncmp(s, prefix, strlen(prefix)) == 0;
}

bool str_ends(const char *s, const char *suffix)
{
    size_t a = strlen(s), b = strlen(suffix);

    return a >= b && memcmp(s + a - b, suffix, b) == 0;
}

bool str_equal(const char *a, const char *b)
{
    if (!a || !b)
        return a == b;
    return strcmp(a, b) == 0;
}

/* Bytes that follow a lead byte, or 4 if it is none; min is the smallest code point of the form. */
static unsigned utf8_follow(uint8_t lead, uint32_t *ret_bits, uint32_t *ret_min)
{
    if (lead < 0x80) {
        *ret_bits = lead;
        *ret_min = 0;
        return 0;
    }
    if ((lead & 0xe0) == 0xc0) {
        *ret_bits = lead & 0x1fU;
        *ret_min = 0x80;
        return 1;
    }
    if ((lead & 0xf0) == 0xe0) {
        *ret_bits = lead & 0x0fU;
        *ret_min = 0x800;
        return 2;
    }
    if ((lead & 0xf8) == 0xf0) {
        *ret_bits = lead & 0x07U;
        *ret_min = 0x10000;
        return 3;
    }
    return 4;
}

bool utf8_is_valid(const uint8_t *s, size_t len)
{
    for (size_t i = 0; i < len; i++) {
        uint32_t code = 0, min = 0;
        unsigned follow = utf8_follow(s[i], &code, &min);

        if (follow > 3 || follow > len - i - 1)
            return false;
        for (unsigned k = 0; k < follow; k++) {
            uint8_t c = s[++i];
            if ((c & 0xc0) != 0x80)
                return false;
            code = code << 6 | (c & 0x3fU);
        }
        if (code < min || code > 0x10ffff || (code >= 0xd800 && code <= 0xdfff))
            return false;
    }
    return true;
}

bool str_is_clean(const char *s, size_t len)
{
    for (size_t i = 0; i < len; i++)
        if ((unsigned char)s[i] < 0x20 || s[i] == 0x7f)
            return false;
    return utf8_is_valid((const uint8_t *)s, len);
}

size_t strv_len(char *const *v)
{
    size_t n = 0;

    while (v && v[n])
        n++;
    return n;
}

void strv_push(char ***v, const char *s)
{
    size_t n = strv_len(*v);

    *v = xrealloc(*v, n + 2, sizeof(**v));
    (*v)[n] = str_dup(s);
    (*v)[n + 1] = NULL;
}

char **strv_dup(char *const *v)
{
    size_t n = strv_len(v);
    char **copy = xcalloc(n + 1, sizeof(*copy));

    for (size_t i = 0; i < n; i++)
        copy[i] = str_dup(v[i]);
    return copy;
}

bool strv_contains(char *const *v, const char *s)
{
    for (; v && *v; v++)
        if (strcmp(*v, s) == 0)
            return true;
    return false;
}

void strv_free(char **v)
{
    for (char **p = v; p && *p; p++)
        free(*p);
    free(v);
}

void random_bytes(void *out, size_t len)
{
    uint8_t *p = out;

    while (len) {
        ssize_t n = getrandom(p, len, 0);
        if (n < 0) {
            if (errno == EINTR)
                continue;
            abort();
        }
        p += n;
        len -= (size_t)n;
    }
}

void hex_encode(const void *bytes, size_t len, char *out)
{
    static const char digits[] = "0123456789abcdef";
    const uint8_t *b = bytes;

    for (size_t i = 0; i < len; i++) {
        out[2 * i] = digits[b[i] >> 4];
        out[2 * i + 1] = digits[b[i] & 15];
    }
    out[2 * len] = '\0';
}

void random_hex(char *out, size_t len)
{
    static const char digits[] = "0123456789abcdef";

    random_bytes(out, len);
    for (size_t i = 0; i < len; i++)
        out[i] = digits[(unsigned char)out[i] & 15];
    out[len] = '\0';
}
