/* SPDX-License-Identifier: Apache-2.0 */
#include "pod/signal-name.h"

#include <signal.h>
#include <string.h>
#include <strings.h>

#include "base/cleanup.h"
#include "base/numparse.h"

#define RT_FIRST 34 /* in a container: what libc leaves of the kernel's 32 to 64 */
#define RT_LAST 64

static const struct {
    const char *name;
    int signal;
} aliases[] = {{"CLD", SIGCHLD}, {"IOT", SIGABRT},    {"IO", SIGIO},
               {"POLL", SIGIO},  {"RTMIN", RT_FIRST}, {"RTMAX", RT_LAST}};

int signal_parse(const char *name)
{
    uint32_t number;

    if (parse_u32(name, RT_LAST, &number) == 0)
        return number ? (int)number : -EINVAL;
    if (strncasecmp(name, "SIG", 3) == 0)
        name += 3;
    for (int i = 1; i < 32; i++)
        if (sigabbrev_np(i) && strcasecmp(sigabbrev_np(i), name) == 0)
            return i;
    for (size_t i = 0; i < ARRAY_SIZE(aliases); i++)
        if (strcasecmp(aliases[i].name, name) == 0)
            return aliases[i].signal;
    if (strncasecmp(name, "RTMIN+", 6) == 0 &&
        parse_u32(name + 6, RT_LAST - RT_FIRST, &number) == 0)
        return RT_FIRST + (int)number;
    if (strncasecmp(name, "RTMAX-", 6) == 0 &&
        parse_u32(name + 6, RT_LAST - RT_FIRST, &number) == 0)
        return RT_LAST - (int)number;
    return -EINVAL;
}
