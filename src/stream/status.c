/* SPDX-License-Identifier: Apache-2.0 */
#include "stream/status.h"

#include <jansson.h>
#include <stdio.h>
#include <string.h>

#include "base/limit.h"
#include "wire/reply.h"

#define VERSION_JSON 4

/* Takes doc. */
static int put_json(struct buf *out, json_t *doc)
{
    char *text = doc ? json_dumps(doc, JSON_COMPACT) : NULL;
    int r = text ? buf_append(out, text, strlen(text)) : -ENOMEM;

    free(text);
    json_decref(doc);
    return r;
}

int status_exit(struct buf *out, unsigned version, int code)
{
    char number[16], text[64];

    (void)snprintf(number, sizeof(number), "%d", code);
    (void)snprintf(text, sizeof(text), "command terminated with non-zero exit code: %d", code);
    if (version < VERSION_JSON)
        return code == 0 ? 0 : buf_append(out, text, strlen(text));
    if (code == 0)
        return put_json(out, json_pack("{s:{},s:s}", "metadata", "status", "Success"));
    return put_json(out, json_pack("{s:{},s:s,s:s,s:s,s:{s:[{s:s,s:s}]}}", "metadata", "status",
                                   "Failure", "message", text, "reason", "NonZeroExitCode",
                                   "details", "causes", "reason", "ExitCode", "message", number));
}

int status_failure(struct buf *out, unsigned version, const char *text)
{
    char clean[LIMIT_ERROR_TEXT_BYTES];

    reply_clean_text(clean, sizeof(clean), text);
    if (version < VERSION_JSON)
        return buf_append(out, clean, strlen(clean));
    return put_json(out, json_pack("{s:{},s:s,s:s,s:s,s:i}", "metadata", "status", "Failure",
                                   "message", clean, "reason", "InternalError", "code", 500));
}
