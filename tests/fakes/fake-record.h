/* SPDX-License-Identifier: Apache-2.0 */
/* What a fake VM was told, for tests to read: lines of JSON in DIR/<id>, and each region of a volume as
 * the guest would see it in DIR/<id>.<key>. Without fake_record_open nothing is written. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "gen/msg/nexus.pb-c.h"

/* dir NULL: nothing. */
void fake_record_open(const char *dir, const char *id);
void fake_record_region(const char *key, const int *fds, const uint64_t *segment_bytes, size_t n,
                        bool more, uint64_t gpa);
void fake_record_removed(uint64_t gpa);
void fake_record_request(const Nexus__AgentMessage *m);
