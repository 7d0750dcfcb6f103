/* SPDX-License-Identifier: Apache-2.0 */
/* JSON from outside: bounded in bytes, depth and tokens before a parser sees it, then strict (no
 * duplicate keys, no NUL, valid UTF-8, nothing after the value). Sans-IO. */
#pragma once

#include <jansson.h>
#include <stddef.h>

#define JSON_INPUT_TOKENS_MAX 20000 /* bounds jansson's memory to a few MB */

/* 0, or -E2BIG: too deep (LIMIT_JSON_DEPTH) or too many tokens. Well-formedness is not judged. */
int json_input_bounds(const char *text, size_t len);

/* The value (owned by the caller), or a negative errno and the reason in why: -EMSGSIZE: longer than
 * max_bytes, -E2BIG as above, -EBADMSG: no JSON. */
int json_input_parse(const char *text, size_t len, size_t max_bytes, json_t **ret, char *why,
                     size_t why_size);
