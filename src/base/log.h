/* SPDX-License-Identifier: Apache-2.0 */
/* Logging: one line per event, logfmt on stderr ("<prio>" first when journald reads it), or a sink
 * such as the journal's native protocol. Info: one line per life-cycle transition. Debug: anything.
 * Per packet: never. A message says what was attempted, on what, and why it failed.
 * Threads: any; a line is one write(2). Library code never logs above debug. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum log_level { LOG_ERROR = 3, LOG_WARNING = 4, LOG_NOTICE = 5, LOG_INFO = 6, LOG_DEBUG = 7 };

/* program: name in each line, static storage. Reads NEXUS_LOG (error … debug). */
void log_init(const char *program);
void log_set_level(enum log_level level);
enum log_level log_get_level(void);
/* The level of that name, or -EINVAL. */
int log_level_parse(const char *name);

/* Where lines go instead of stderr. fields is "k=v k=v" (may be empty), text the escaped message. */
typedef void (*log_sink_fn)(enum log_level level, const char *fields, const char *text);
void log_set_sink(log_sink_fn sink);
/* fd for lines, 2 unless set. */
void log_set_fd(int fd);

void log_at(enum log_level level, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* Appends ": strerror(-r)" and returns r, so that logging and leaving are one line. */
int log_errno_at(enum log_level level, int r, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

#define log_error(...) log_at(LOG_ERROR, __VA_ARGS__)
#define log_warning(...) log_at(LOG_WARNING, __VA_ARGS__)
#define log_notice(...) log_at(LOG_NOTICE, __VA_ARGS__)
#define log_info(...) log_at(LOG_INFO, __VA_ARGS__)
#define log_debug(...)                      \
    do {                                    \
        if (log_get_level() >= LOG_DEBUG)   \
            log_at(LOG_DEBUG, __VA_ARGS__); \
    } while (0)
#define log_error_errno(r, ...) log_errno_at(LOG_ERROR, r, __VA_ARGS__)
#define log_warning_errno(r, ...) log_errno_at(LOG_WARNING, r, __VA_ARGS__)

/* Fields for every line of this thread while the scope lives:
 *   LOG_SCOPE(pod, "pod", sandbox->id);
 * The value is borrowed until the scope ends. Scopes nest, 8 deep; deeper ones are ignored. Of several
 * with the same key the innermost is shown. */
struct log_scope {
    const char *key;
    const char *value;
};
struct log_scope *log_scope_push(struct log_scope *s, const char *key, const char *value);
void log_scope_pop(struct log_scope **s);
#define LOG_SCOPE(name, key, value)                                                           \
    struct log_scope log_scope_##name##_;                                                     \
    __attribute__((cleanup(log_scope_pop), unused)) struct log_scope *log_scope_##name##_p_ = \
        log_scope_push(&log_scope_##name##_, key, value)

/* Rate limit for lines an outsider can cause: at most burst lines in each window, the number dropped
 * is told with the next one that passes. One static object per call site. Not thread-safe beyond
 * losing a count. */
struct log_limit {
    uint64_t window_start_ns;
    unsigned count;
    unsigned dropped;
};
#define LOG_LIMIT_BURST 10
#define LOG_LIMIT_WINDOW_NS 5000000000ULL
/* True if a line may be written now; *ret_dropped is how many were not since the last one. */
bool log_limit_pass(struct log_limit *l, unsigned *ret_dropped);
#define log_limited(level, ...)                                           \
    do {                                                                  \
        static struct log_limit limit_;                                   \
        unsigned dropped_ = 0;                                            \
        if (log_limit_pass(&limit_, &dropped_)) {                         \
            log_at(level, __VA_ARGS__);                                   \
            if (dropped_)                                                 \
                log_at(level, "%u similar lines were dropped", dropped_); \
        }                                                                 \
    } while (0)

/* Copies text, control bytes and (if quote) '"' and '\\' as \xNN or \n, \t; always terminated. */
void log_escape(char *out, size_t size, const char *text, bool quote);
