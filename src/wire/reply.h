/* SPDX-License-Identifier: Apache-2.0 */
/* The Reply message ⇄ struct error: errors cross a process border as data {class, code, text}. */
#pragma once

#include "base/error.h"
#include "gen/msg/nexus.pb-c.h"

/* Fills an initialised reply from a result: r >= 0 is success. Strings are borrowed from err. */
void reply_from_error(Nexus__Reply *reply, int r, const struct error *err);

/* What a reply says: 0, or a negative errno with *err set. Nothing in it is trusted: an unknown class
 * counts as internal, a code outside 1…4095 becomes EIO, the text is made printable and cut at
 * LIMIT_ERROR_TEXT_BYTES. NULL: -EPROTO. */
int reply_to_error(const Nexus__Reply *reply, struct error **err);

/* Copies text as printable UTF-8 into out: control bytes and broken sequences become '?', the result
 * is cut at size - 1 bytes and terminated. text may be NULL. */
void reply_clean_text(char *out, size_t size, const char *text);
