/* SPDX-License-Identifier: Apache-2.0 */
#include "pull/report.h"

#include <pthread.h>
#include <stdio.h>
#include <string.h>

#include "base/file.h"
#include "base/limit.h"
#include "base/log.h"
#include "base/str.h"

static int report_fd = 1;
static pthread_mutex_t report_lock = PTHREAD_MUTEX_INITIALIZER;

void report_init(int fd)
{
    report_fd = fd;
}

void report_line(json_t *event)
{
    char *text = json_dumps(event, JSON_COMPACT);
    size_t n;

    json_decref(event);
    if (!text)
        return;
    n = strlen(text);
    text[n] = '\n'; /* its NUL is not needed any more */
    (void)pthread_mutex_lock(&report_lock);
    (void)write_full(report_fd, text, n + 1); /* nobody listens: nobody cares */
    (void)pthread_mutex_unlock(&report_lock);
    free(text);
}

void report_error(const struct error *err, int r)
{
    static char text[LIMIT_ERROR_TEXT_BYTES];
    const char *cls = error_class_name(error_class_of(err, r));
    size_t n;

    log_escape(text, sizeof(text), error_text(err, r), /* quote= */ false);
    n = strlen(text);
    while (n && !utf8_is_valid((const uint8_t *)text, n))
        text[--n] = '\0'; /* cut in the middle of a character */
    report_line(json_pack("{s:s, s:s, s:i, s:s}", "event", "error", "class", cls, "code",
                          err ? err->code : -r, "message", text));
}
