/* SPDX-License-Identifier: Apache-2.0 */
#include "base/log.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"

#define SCOPE_MAX 8
#define LINE_MAX_BYTES 2048

static const char *program_name = "nexus";
static enum log_level max_level = LOG_INFO;
static log_sink_fn log_sink;
static int log_fd = STDERR_FILENO;
static bool under_journald;
static _Thread_local struct log_scope *scopes[SCOPE_MAX];
static _Thread_local unsigned scope_count;

static const char *const level_names[] = {
    [LOG_ERROR] = "error", [LOG_WARNING] = "warning", [LOG_NOTICE] = "notice",
    [LOG_INFO] = "info",   [LOG_DEBUG] = "debug",
};

int log_level_parse(const char *name)
{
    for (int i = LOG_ERROR; i <= LOG_DEBUG; i++)
        if (name && strcmp(level_names[i], name) == 0)
            return i;
    return -EINVAL;
}

void log_init(const char *program)
{
    int level = log_level_parse(getenv("NEXUS_LOG"));

    program_name = program;
    if (level >= 0)
        max_level = (enum log_level)level;
    under_journald = getenv("JOURNAL_STREAM") != NULL;
}

void log_set_level(enum log_level level)
{
    max_level = level;
}

enum log_level log_get_level(void)
{
    return max_level;
}

void log_set_sink(log_sink_fn sink)
{
    log_sink = sink;
}

void log_set_fd(int fd)
{
    log_fd = fd;
}

void log_escape(char *out, size_t size, const char *text, bool quote)
{
    static const char hex[] = "0123456789abcdef";
    size_t n = 0;

    for (; *text && n + 5 < size; text++) {
        unsigned char c = (unsigned char)*text;
        if (c == '\n' || c == '\t' || (quote && (c == '"' || c == '\\'))) {
            out[n++] = '\\';
            out[n++] = c == '\n' ? 'n' : c == '\t' ? 't' : (char)c;
        } else if (c < 0x20 || c == 0x7f) {
            out[n++] = '\\';
            out[n++] = 'x';
            out[n++] = hex[c >> 4];
            out[n++] = hex[c & 15];
        } else {
            out[n++] = (char)c;
        }
    }
    out[n] = '\0';
}

/* The innermost of a key is shown: a call's own line may come from inside the call. */
static bool is_hidden(unsigned i)
{
    for (unsigned k = i + 1; k < scope_count; k++)
        if (strcmp(scopes[k]->key, scopes[i]->key) == 0)
            return true;
    return false;
}

static void format_fields(char *out, size_t size)
{
    size_t n = 0;

    out[0] = '\0';
    for (unsigned i = 0; i < scope_count && n < size; i++) {
        char value[160];

        if (is_hidden(i))
            continue;
        log_escape(value, sizeof(value), scopes[i]->value ? scopes[i]->value : "", true);
        int k = snprintf(out + n, size - n, "%s%s=%s", n ? " " : "", scopes[i]->key, value);
        if (k < 0 || (size_t)k >= size - n)
            break;
        n += (size_t)k;
    }
}

static void emit(enum log_level level, const char *text)
{
    char fields[512];
    char escaped[LINE_MAX_BYTES];
    char line[LINE_MAX_BYTES + 1024];
    struct timespec ts;
    struct tm tm;
    int n;

    format_fields(fields, sizeof(fields));
    log_escape(escaped, sizeof(escaped), text, !log_sink);
    if (log_sink) {
        log_sink(level, fields, escaped);
        return;
    }
    if (under_journald) {
        n = snprintf(line, sizeof(line), "<%d>%s%s%s\n", (int)level, escaped, fields[0] ? " " : "",
                     fields);
    } else {
        (void)clock_gettime(CLOCK_REALTIME, &ts);
        (void)gmtime_r(&ts.tv_sec, &tm);
        n = snprintf(line, sizeof(line),
                     "time=%04d-%02d-%02dT%02d:%02d:%02d.%06ldZ level=%s prog=%s%s%s msg=\"%s\"\n",
                     tm.tm_year + 1900, tm.tm_mon + 1, tm.tm_mday, tm.tm_hour, tm.tm_min, tm.tm_sec,
                     ts.tv_nsec / 1000, level_names[level], program_name, fields[0] ? " " : "",
                     fields, escaped);
    }
    if (n > 0) {
        int saved = errno;
        ssize_t w = write(log_fd, line, (size_t)n < sizeof(line) ? (size_t)n : sizeof(line) - 1);
        (void)w; /* nowhere left to complain */
        errno = saved;
    }
}

void log_at(enum log_level level, const char *fmt, ...)
{
    char text[LINE_MAX_BYTES];
    va_list ap;

    if (level > max_level)
        return;
    va_start(ap, fmt);
    (void)vsnprintf(text, sizeof(text), fmt, ap);
    va_end(ap);
    emit(level, text);
}

int log_errno_at(enum log_level level, int r, const char *fmt, ...)
{
    char text[LINE_MAX_BYTES];
    va_list ap;
    size_t n;

    if (level > max_level)
        return r;
    va_start(ap, fmt);
    (void)vsnprintf(text, sizeof(text), fmt, ap);
    va_end(ap);
    n = strlen(text);
    (void)snprintf(text + n, sizeof(text) - n, ": %s", strerror(r < 0 ? -r : r));
    emit(level, text);
    return r;
}

struct log_scope *log_scope_push(struct log_scope *s, const char *key, const char *value)
{
    s->key = key;
    s->value = value;
    if (scope_count == SCOPE_MAX)
        return NULL;
    scopes[scope_count++] = s;
    return s;
}

void log_scope_pop(struct log_scope **s)
{
    if (*s && scope_count)
        scope_count--;
}

bool log_limit_pass(struct log_limit *l, unsigned *ret_dropped)
{
    uint64_t now = clock_mono_ns();

    if (now - l->window_start_ns > LOG_LIMIT_WINDOW_NS) {
        *ret_dropped = l->dropped;
        l->window_start_ns = now;
        l->count = 0;
        l->dropped = 0;
    }
    if (l->count >= LOG_LIMIT_BURST) {
        l->dropped++;
        return false;
    }
    l->count++;
    return true;
}
