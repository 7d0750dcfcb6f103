/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/guest-log.h"

#include <stdio.h>

#include "agent/control.h"
#include "base/log.h"

static struct agent *log_agent; /* the log's sink has no argument of its own */

static void sink(enum log_level level, const char *fields, const char *text)
{
    char line[1200];
    int saved = errno;
    int n = snprintf(line, sizeof(line), "nexus-agent: %s%s%.1024s%s%.100s\n",
                     level <= LOG_ERROR ? "error: " : "", level == LOG_WARNING ? "warning: " : "",
                     text, *fields ? " " : "", fields);

    if (n > 0) {
        ssize_t w =
            write(STDERR_FILENO, line, (size_t)n < sizeof(line) ? (size_t)n : sizeof(line) - 1);
        (void)w; /* without a console there is still the host */
    }
    control_send_log(log_agent, (uint32_t)level, text);
    errno = saved;
}

void guest_log_start(struct agent *a)
{
    log_agent = a;
    log_set_sink(sink);
}
