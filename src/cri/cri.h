/* SPDX-License-Identifier: Apache-2.0 */
/* The CRI services: each RPC converts its request, asks the node or the image store, and converts the
 * answer. No decision is made here that is not about form.
 * Thread: the loop's. Source: the CRI v1 interface (proto/cri.proto). */
#pragma once

#include <stdbool.h>

#include "base/error.h"

struct cri;
struct grpc_server;
struct image_store;
struct node;

struct cri_config {        /* borrowed */
    const char *version;   /* of nexusd */
    bool cgroupfs_driver;  /* else systemd */
    const char *state_dir; /* for Status verbose */
    const char *run_dir;
    const char *config_text; /* JSON of the configuration in force, for Status verbose */
};

/* node and images outlive it. */
int cri_new(const struct cri_config *config, struct node *node, struct image_store *images,
            struct cri **ret);
void cri_free(struct cri *cri);
/* Ends the calls that never end by themselves; the others go on. For the end of the program. */
void cri_stop(struct cri *cri);
DEFINE_CLEANUP(struct cri *, cri_free);
/* Adds RuntimeService, ImageService and nexus.v1.Images. */
int cri_register(struct cri *cri, struct grpc_server *server, struct error **err);
