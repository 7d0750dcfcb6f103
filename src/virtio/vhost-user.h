/* SPDX-License-Identifier: Apache-2.0 */
/* Messages between a vhost-user front end (this process) and a back end (another process that serves a
 * device's queues), as bytes: what is sent is packed, what comes back is parsed. No I/O, no state. Only
 * what a front end without protocol features needs. Addresses of rings are told guest-physical: each
 * memory region's "user address" is its guest-physical one, so the back end learns none of ours.
 *
 * The back end is a helper of the host's that handles a guest's bytes: what it answers is not trusted.
 * Source: QEMU docs/interop/vhost-user.rst. */
#pragma once

#include <stddef.h>
#include <stdint.h>

#define VHOST_USER_BYTES_MAX 320U /* of any message here */
#define VHOST_USER_REGIONS_MAX 8U

enum vhost_user_request {
    VHOST_USER_GET_FEATURES = 1,
    VHOST_USER_SET_FEATURES = 2,
    VHOST_USER_SET_OWNER = 3,
    VHOST_USER_SET_MEM_TABLE = 5,
    VHOST_USER_SET_VRING_NUM = 8,
    VHOST_USER_SET_VRING_ADDR = 9,
    VHOST_USER_SET_VRING_BASE = 10,
    VHOST_USER_GET_VRING_BASE = 11,
    VHOST_USER_SET_VRING_KICK = 12,
    VHOST_USER_SET_VRING_CALL = 13,
};

struct vhost_user_region {
    uint64_t gpa, bytes;
    uint64_t fd_offset; /* where it begins in the descriptor that goes with it */
};

/* Each writes one message to out and returns its bytes. */
size_t vhost_user_plain(uint8_t out[VHOST_USER_BYTES_MAX], enum vhost_user_request request);
/* SET_FEATURES; SET_VRING_KICK and SET_VRING_CALL, whose value is the queue (a descriptor goes along). */
size_t vhost_user_value(uint8_t out[VHOST_USER_BYTES_MAX], enum vhost_user_request request,
                        uint64_t value);
/* SET_VRING_NUM, SET_VRING_BASE, GET_VRING_BASE. */
size_t vhost_user_vring(uint8_t out[VHOST_USER_BYTES_MAX], enum vhost_user_request request,
                        uint32_t queue, uint32_t value);
size_t vhost_user_vring_addr(uint8_t out[VHOST_USER_BYTES_MAX], uint32_t queue, uint64_t desc,
                             uint64_t avail, uint64_t used);
/* n: at most VHOST_USER_REGIONS_MAX; a descriptor for each goes along, in their order. */
size_t vhost_user_mem_table(uint8_t out[VHOST_USER_BYTES_MAX],
                            const struct vhost_user_region *regions, size_t n);

struct vhost_user_reply {
    uint32_t request;
    uint64_t features; /* of GET_FEATURES */
    uint32_t queue;    /* of GET_VRING_BASE */
    uint32_t base;
};
/* The message that bytes begin with. Its bytes (> 0); 0: more are needed; -EPROTO: no answer to anything
 * that is asked for here. */
int vhost_user_parse(const uint8_t *bytes, size_t n, struct vhost_user_reply *ret);
