/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/log-line.h"

#include <string.h>

void log_splitter_init(struct log_splitter *s)
{
    *s = (struct log_splitter){0};
    buf_init(&s->in, 2 * (size_t)LOG_RECORD_MAX);
}

void log_splitter_done(struct log_splitter *s)
{
    buf_done(&s->in);
    s->taken = 0;
}

static void drop_taken(struct log_splitter *s)
{
    buf_consume(&s->in, s->taken);
    s->taken = 0;
}

int log_splitter_feed(struct log_splitter *s, const void *bytes, size_t len)
{
    drop_taken(s);
    return buf_append(&s->in, bytes, len);
}

size_t log_splitter_rest(const struct log_splitter *s)
{
    return s->in.used - s->taken;
}

int log_splitter_next(struct log_splitter *s, struct log_record *ret)
{
    const uint8_t *line, *end;
    size_t left;

    drop_taken(s);
    line = s->in.data;
    left = s->in.used;
    end = left ? memchr(line, '\n', left) : NULL;
    if (!end && left < LOG_RECORD_MAX)
        return 0;
    if (!end) { /* nobody writes such lines: give out what there is */
        *ret = (struct log_record){.stream = 1, .content = line, .content_len = left};
        s->taken = left;
        return 1;
    }
    log_record_parse(line, (size_t)(end - line), ret);
    s->taken = (size_t)(end - line) + 1;
    return 1;
}

/* The next blank-separated word of [*at, end), which must be followed by a blank or the end. */
static const char *next_word(const uint8_t **at, const uint8_t *end, size_t *len)
{
    const uint8_t *start = *at, *p = start;

    while (p < end && *p != ' ')
        p++;
    *len = (size_t)(p - start);
    *at = p < end ? p + 1 : p;
    return (const char *)start;
}

/* "2026-01-31T12:00:00.000000000Z" and other forms of RFC 3339: by shape, not by meaning. */
static bool looks_like_time(const char *s, size_t len)
{
    return len >= 20 && len <= 40 && s[4] == '-' && s[7] == '-' && s[10] == 'T' && s[13] == ':';
}

void log_record_parse(const uint8_t *line, size_t len, struct log_record *ret)
{
    const uint8_t *at = line, *end = line + len;
    size_t time_len, stream_len, tags_len;
    const char *time = next_word(&at, end, &time_len);
    const char *stream = next_word(&at, end, &stream_len);
    const char *tags = next_word(&at, end, &tags_len);
    bool out = stream_len == 6 && memcmp(stream, "stdout", 6) == 0;
    bool err = stream_len == 6 && memcmp(stream, "stderr", 6) == 0;

    *ret = (struct log_record){.stream = 1, .content = line, .content_len = len};
    if (!looks_like_time(time, time_len) || (!out && !err) || tags_len == 0 ||
        (tags[0] != 'F' && tags[0] != 'P') || (tags_len > 1 && tags[1] != ':'))
        return;
    ret->good = true;
    ret->stream = out ? 1 : 2;
    ret->partial = tags[0] == 'P';
    ret->time = time;
    ret->time_len = time_len;
    ret->content = at;
    ret->content_len = (size_t)(end - at);
}
