/* SPDX-License-Identifier: Apache-2.0 */
/* How one volume goes from generation to generation; see pod-volume.h. Thread: the loop's. */
#pragma once

struct pod_volume;
struct sandbox;

/* Does the next thing, if there is one and it may be done now. */
void volume_update_kick(struct pod_volume *v);
/* All of a pod: a connection is back, an update is over, a container was created. */
void volume_update_kick_all(struct sandbox *s);
/* Opens and watches it again, and compares it with what is on record. */
void volume_find_again(struct pod_volume *v);
/* Whatever goes on is forgotten. */
void volume_update_cancel(struct pod_volume *v);
/* The next notice is wanted, compared with the generation on record. */
void volume_follow(struct pod_volume *v);
/* Calls fn with the failpoint names of an update. */
void volume_update_each_failpoint(void (*fn)(const char *name, void *userdata), void *userdata);
