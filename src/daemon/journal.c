/* SPDX-License-Identifier: Apache-2.0 */
#include "daemon/journal.h"

#include <ctype.h>
#include <stdio.h>
#include <string.h>
#include <sys/uio.h>

#include "base/log.h"
#include "base/str.h"

/* systemd/sd-journal.h brings syslog.h, whose macros are named as our levels are */
int sd_journal_sendv(const struct iovec *iov, int n);

#define FIELDS_MAX 8
#define JOURNAL_SOCKET "/run/systemd/journal/socket"

/* fields: "pod=… container=… rpc=…"; each becomes NEXUS_POD=… */
static void sink(enum log_level level, const char *fields, const char *text)
{
    char priority[16], message[2200], storage[FIELDS_MAX][192];
    struct iovec iov[FIELDS_MAX + 3];
    static const char identifier[] = "SYSLOG_IDENTIFIER=nexusd";
    char copy[512], *rest = copy, *word;
    int n = 0;

    (void)snprintf(priority, sizeof(priority), "PRIORITY=%d", (int)level);
    (void)snprintf(message, sizeof(message), "MESSAGE=%s%s%s", text, fields[0] ? " " : "", fields);
    iov[n++] = (struct iovec){priority, strlen(priority)};
    iov[n++] = (struct iovec){message, strlen(message)};
    iov[n++] = (struct iovec){(void *)(uintptr_t)identifier, sizeof(identifier) - 1};
    (void)snprintf(copy, sizeof(copy), "%s", fields);
    while ((word = strsep(&rest, " ")) && n < FIELDS_MAX + 3) {
        char *out = storage[n - 3];
        int k = snprintf(out, sizeof(storage[0]), "NEXUS_%s", word);

        if (k < 0 || !strchr(word, '='))
            continue;
        for (char *c = out; *c != '='; c++)
            *c = (char)toupper((unsigned char)*c);
        iov[n++] = (struct iovec){out, strlen(out)};
    }
    (void)sd_journal_sendv(iov, n);
}

void journal_set_up(const char *target)
{
    if (str_equal(target, "stderr"))
        return;
    if (str_equal(target, "journal") ||
        (getenv("JOURNAL_STREAM") && access(JOURNAL_SOCKET, W_OK) == 0))
        log_set_sink(sink);
}
