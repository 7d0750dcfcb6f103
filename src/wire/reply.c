/* SPDX-License-Identifier: Apache-2.0 */
#include "wire/reply.h"

#include <string.h>

#include "base/limit.h"
#include "base/str.h"

void reply_from_error(Nexus__Reply *reply, int r, const struct error *err)
{
    if (r >= 0)
        return;
    reply->error_class = (char *)(uintptr_t)error_class_name(error_class_of(err, r));
    reply->code = err ? err->code : -r;
    reply->message = (char *)(uintptr_t)error_text(err, r);
}

/* Length of the valid sequence at s, 0 if there is none. */
static size_t sequence_len(const uint8_t *s)
{
    size_t n = s[0] < 0x80 ? 1 : s[0] < 0xe0 ? 2 : s[0] < 0xf0 ? 3 : 4;

    for (size_t i = 1; i < n; i++)
        if ((s[i] & 0xc0) != 0x80) /* the terminator is none either */
            return 0;
    return utf8_is_valid(s, n) ? n : 0;
}

void reply_clean_text(char *out, size_t size, const char *text)
{
    const uint8_t *s = (const uint8_t *)(text ? text : "");
    size_t at = 0;

    while (*s) {
        size_t n = sequence_len(s);

        if (at + (n ? n : 1) >= size)
            break;
        if (n == 0 || *s < 0x20 || *s == 0x7f) {
            out[at++] = '?';
            s++;
            continue;
        }
        memcpy(out + at, s, n);
        at += n;
        s += n;
    }
    out[at] = '\0';
}

int reply_to_error(const Nexus__Reply *reply, struct error **err)
{
    char text[LIMIT_ERROR_TEXT_BYTES];
    int cls, code;

    if (!reply)
        return error_set(err, -EPROTO, "no reply in the message");
    if (reply->error_class[0] == '\0')
        return 0;
    cls = error_class_parse(reply->error_class);
    code = reply->code >= 1 && reply->code <= 4095 ? reply->code : EIO;
    reply_clean_text(text, sizeof(text), reply->message);
    return error_set_class(err, cls < 0 ? ERROR_INTERNAL : cls, -code, "%s",
                           text[0] ? text : strerror(code));
}
