/* SPDX-License-Identifier: Apache-2.0 */
#include "net/if-counters.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <string.h>

#include "base/file.h"
#include "base/numparse.h"
#include "base/str.h"

#define TEXT_MAX (64U << 10)
#define WORDS 16

int if_counters_parse(const char *text, const char *name, struct if_counters *ret)
{
    size_t len = strlen(name);
    uint64_t v[WORDS];

    for (const char *line = text; line; line = strchr(line, '\n'), line = line ? line + 1 : NULL) {
        const char *at = line + strspn(line, " ");

        if (strncmp(at, name, len) != 0 || at[len] != ':')
            continue;
        at += len + 1;
        for (size_t i = 0; i < WORDS; i++) {
            char word[32];
            size_t n;

            at += strspn(at, " ");
            n = strcspn(at, " \n");
            if (n == 0 || n >= sizeof(word))
                return -EBADMSG;
            memcpy(word, at, n);
            word[n] = '\0';
            if (parse_u64(word, UINT64_MAX, &v[i]) < 0)
                return -EBADMSG;
            at += n;
        }
        *ret = (struct if_counters){v[0], v[1], v[2], v[3], v[8], v[9], v[10], v[11]};
        return 0;
    }
    return -ENODEV;
}

int if_counters_read(const char *netns_path, const char *name, struct if_counters *ret)
{
    _cleanup_(closep) int there = open(netns_path, O_RDONLY | O_CLOEXEC);
    _cleanup_(closep) int home = open("/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC);
    _cleanup_(freep) char *text = NULL;
    int r;

    if (there < 0 || home < 0)
        return -errno;
    if (setns(there, CLONE_NEWNET) < 0)
        return -errno;
    r = file_read_all(AT_FDCWD, "/proc/thread-self/net/dev", TEXT_MAX, &text, NULL);
    if (setns(home, CLONE_NEWNET) < 0) /* what this thread reads next would be of another pod */
        return -errno;
    return r < 0 ? r : if_counters_parse(text, name, ret);
}
