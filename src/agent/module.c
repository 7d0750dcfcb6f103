/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/module.h"

#include <string.h>

bool module_parse(char *line, const char **ret_file, const char **ret_params)
{
    char *p = line + strspn(line, " \t");
    size_t len;

    p[strcspn(p, "\r\n#")] = '\0';
    len = strcspn(p, " \t");
    if (len == 0)
        return false;
    *ret_file = p;
    *ret_params = p + len;
    if (p[len]) {
        p[len] = '\0';
        *ret_params = p + len + 1 + strspn(p + len + 1, " \t");
    }
    return true;
}

bool module_is_wanted(const char *params, const char *cmdline)
{
    size_t len;

    if (params[0] != '?')
        return true;
    params++;
    len = strcspn(params, " \t");
    while (*cmdline) {
        size_t word = strcspn(cmdline, " \t\n");

        if (word == len && memcmp(cmdline, params, len) == 0)
            return true;
        cmdline += word;
        cmdline += strspn(cmdline, " \t\n");
    }
    return false;
}
