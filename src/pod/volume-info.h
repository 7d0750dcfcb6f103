/* SPDX-License-Identifier: Apache-2.0 */
/* Regions and mapped volumes for people: verbose status, nexus inspect. Thread: the loop's. */
#pragma once

#include <jansson.h>

struct container;
struct sandbox;

/* [{"key", "what", "bytes", "deniedWrites", "repairedPages", "volumes": [{"name", "volume", "generation"}]}]: what
 * the VM has; denied writes and repaired pages count since the region was added. A new reference. */
json_t *sandbox_regions_info(const struct sandbox *s);
/* [{"destination", "name", "volume", "plugin", "path", "live", "region", "generation", "state"}] */
json_t *container_volumes_info(const struct container *c);
