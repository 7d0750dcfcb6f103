/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/uevent.h"

#include <string.h>

#include "base/str.h"

bool uevent_parse(const char *bytes, size_t len, struct uevent *ret)
{
    struct uevent u = {.action = "", .subsystem = "", .devpath = ""};
    size_t at;

    if (len == 0 || bytes[len - 1] != '\0' || !strchr(bytes, '@'))
        return false;
    for (at = strlen(bytes) + 1; at < len; at += strlen(bytes + at) + 1) {
        const char *s = bytes + at;
        if (str_starts(s, "ACTION="))
            u.action = s + strlen("ACTION=");
        else if (str_starts(s, "SUBSYSTEM="))
            u.subsystem = s + strlen("SUBSYSTEM=");
        else if (str_starts(s, "DEVPATH="))
            u.devpath = s + strlen("DEVPATH=");
    }
    if (!*u.action)
        return false;
    *ret = u;
    return true;
}
