/* SPDX-License-Identifier: Apache-2.0 */
/* Log lines to the journal's native protocol, with ids as fields of their own. */
#pragma once

#include "base/log.h" /* before syslog.h, whose macros have the names of its levels */

/* target: "auto" (the journal when systemd started us and it is there), "stderr", "journal". */
void journal_set_up(const char *target);
