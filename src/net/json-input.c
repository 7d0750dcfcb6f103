/* SPDX-License-Identifier: Apache-2.0 */
#include "net/json-input.h"

#include <errno.h>
#include <stdio.h>

#include "base/limit.h"

int json_input_bounds(const char *text, size_t len)
{
    size_t depth = 0, tokens = 0;

    for (size_t i = 0; i < len; i++) {
        switch (text[i]) {
        case '"': /* to the end of the string */
            for (i++; i < len && text[i] != '"'; i++)
                if (text[i] == '\\')
                    i++;
            break;
        case '{':
        case '[':
            tokens++;
            if (++depth > LIMIT_JSON_DEPTH)
                return -E2BIG;
            break;
        case '}':
        case ']':
            if (depth > 0)
                depth--;
            break;
        case ',':
        case ':':
            tokens++;
            break;
        default:
            break;
        }
        if (tokens > JSON_INPUT_TOKENS_MAX)
            return -E2BIG;
    }
    return 0;
}

int json_input_parse(const char *text, size_t len, size_t max_bytes, json_t **ret, char *why,
                     size_t why_size)
{
    json_error_t je;
    json_t *doc;

    if (len > max_bytes) {
        (void)snprintf(why, why_size, "longer than %zu bytes", max_bytes);
        return -EMSGSIZE;
    }
    if (json_input_bounds(text, len) < 0) {
        (void)snprintf(why, why_size, "nested deeper than %d or more than %d tokens",
                       LIMIT_JSON_DEPTH, JSON_INPUT_TOKENS_MAX);
        return -E2BIG;
    }
    doc = json_loadb(text, len, JSON_REJECT_DUPLICATES, &je);
    if (!doc) {
        (void)snprintf(why, why_size, "line %d column %d: %s", je.line, je.column, je.text);
        return -EBADMSG;
    }
    *ret = doc;
    return 0;
}
