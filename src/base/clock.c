/* SPDX-License-Identifier: Apache-2.0 */
#include "base/clock.h"

#include <stdio.h>
#include <time.h>

static uint64_t read_clock(clockid_t id)
{
    struct timespec ts;

    if (clock_gettime(id, &ts) < 0 || ts.tv_sec < 0)
        return 0;
    return (uint64_t)ts.tv_sec * 1000000000ULL + (uint64_t)ts.tv_nsec;
}

uint64_t clock_mono_ns(void)
{
    return read_clock(CLOCK_MONOTONIC);
}

uint64_t clock_boot_ns(void)
{
    return read_clock(CLOCK_BOOTTIME);
}

uint64_t clock_real_ns(void)
{
    return read_clock(CLOCK_REALTIME);
}

void clock_format_rfc3339(uint64_t real_ns, char out[CLOCK_RFC3339_SIZE])
{
    time_t s = (time_t)(real_ns / 1000000000ULL);
    char text[80];
    struct tm tm;

    if (!gmtime_r(&s, &tm))
        tm = (struct tm){.tm_year = 70, .tm_mday = 1};
    (void)snprintf(text, sizeof(text), "%04d-%02d-%02dT%02d:%02d:%02d.%09uZ", tm.tm_year + 1900,
                   tm.tm_mon + 1, tm.tm_mday, tm.tm_hour, tm.tm_min, tm.tm_sec,
                   (unsigned)(real_ns % 1000000000ULL));
    (void)snprintf(out, CLOCK_RFC3339_SIZE, "%.30s", text);
}
