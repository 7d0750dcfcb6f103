/* SPDX-License-Identifier: Apache-2.0 */
/* What the files of cri share. */
#pragma once

#include "base/arena.h"
#include "base/list.h"
#include "cri/cri.h"
#include "gen/cri/cri.pb-c.h"
#include "grpc/server.h"
#include "image/image-store.h"
#include "pod/node.h"

struct cri {
    struct cri_config config;
    struct node *node;
    struct image_store *images;
    struct list subscribers; /* struct subscriber: open GetContainerEvents */
    unsigned n_subscribers;
};

/* A call that waits for an operation. Lives in the call's arena and goes with it. */
struct rpc {
    struct cri *cri;
    struct grpc_call *call;
    struct waiter *waiter; /* one of these is set */
    struct vmm_exec *exec;
    struct stream_call *stream;
    struct image_pull_call *pull;
    const ProtobufCMessageDescriptor *empty; /* with rpc_by_id */
    struct image_write *removal;
    const void *request; /* with those that read it again at the end; in the call's arena, too */
    /* Answers a success; id is the waiter's. */
    void (*reply)(struct rpc *rpc, const char *id);
};
/* NULL: the call was answered (no memory). Cancelling the call cancels what the rpc waits for. */
struct rpc *rpc_new(struct cri *cri, struct grpc_call *call,
                    void (*reply)(struct rpc *rpc, const char *id));
/* The waiter function of all operations: fails the call or calls reply. */
void rpc_done(void *userdata, int r, const struct error *err, const char *id);
/* stats.c: a call that answers when the sandboxes that are wanted were asked for their numbers. request, arg:
 * borrowed until then. */
void rpc_begin_stats(struct cri *cri, struct grpc_call *call, const void *request,
                     bool (*wanted)(const struct sandbox *s, const void *arg), const void *arg,
                     void (*reply)(struct rpc *rpc, const char *id));
/* A whole call: operation on the object id, and an answer without fields, of type response. */
typedef int (*rpc_operation)(struct node *n, const char *id, waiter_fn fn, void *userdata,
                             struct waiter **ret, struct error **err);
void rpc_by_id(struct cri *cri, struct grpc_call *call, rpc_operation operation, const char *id,
               const ProtobufCMessageDescriptor *response);
/* For those with more arguments. NULL: the call was answered. */
struct rpc *rpc_new_empty(struct cri *cri, struct grpc_call *call,
                          const ProtobufCMessageDescriptor *response);
/* An operation that could not begin. */
void rpc_fail(struct grpc_call *call, int r, struct error **err);
/* A log line's fields for the duration of a handler. */
#define RPC_SCOPE(call) LOG_SCOPE(rpc, "rpc", grpc_call_path(call) + 1)

/* New, initialised message in arena memory; aborting is not an option there, so NULL is answered by
 * the caller with RESOURCE_EXHAUSTED (rpc_no_memory). */
#define MESSAGE(a, type, init)                           \
    __extension__({                                      \
        type *message_ = arena_alloc((a), sizeof(type)); \
        if (message_)                                    \
            init(message_);                              \
        message_;                                        \
    })
void rpc_no_memory(struct grpc_call *call);
/* The words as a NULL-terminated vector in the call's arena. NULL: the call was answered. */
char **rpc_command(struct grpc_call *call, char **words, size_t n);
/* A borrowed string for a message field: never NULL. */
char *text_of(const char *s);

/* events.c */
void events_start(struct cri *cri);
/* Ends what is open. */
void events_stop(struct cri *cri);

/* The RPCs, one file per group. */
void cri_version(struct grpc_call *call, const ProtobufCMessage *m, void *ud);
void cri_status(struct grpc_call *call, const ProtobufCMessage *m, void *ud);
void cri_runtime_config(struct grpc_call *call, const ProtobufCMessage *m, void *ud);
void cri_update_runtime_config(struct grpc_call *call, const ProtobufCMessage *m, void *ud);
void cri_run_pod_sandbox(struct grpc_call *call, const ProtobufCMessage *m, void *ud);
void cri_stop_pod_sandbox(struct grpc_call *call, const ProtobufCMessage *m, void *ud);
void cri_remove_pod_sandbox(struct grpc_call *call, const ProtobufCMessage *m, void *ud);
void cri_pod_sandbox_status(struct grpc_call *call, const ProtobufCMessage *m, void *ud);
void cri_list_pod_sandbox(struct grpc_call *call, const ProtobufCMessage *m, void *ud);
void cri_stream_pod_sandboxes(struct grpc_call *call, const ProtobufCMessage *m, void *ud);
void cri_create_container(struct grpc_call *call, const ProtobufCMessage *m, void *ud);
void cri_start_container(struct grpc_call *call, const ProtobufCMessage *m, void *ud);
void cri_stop_container(struct grpc_call *call, const ProtobufCMessage *m, void *ud);
void cri_remove_container(struct grpc_call *call, const ProtobufCMessage *m, void *ud);
void cri_list_containers(struct grpc_call *call, const ProtobufCMessage *m, void *ud);
void cri_stream_containers(struct grpc_call *call, const ProtobufCMessage *m, void *ud);
void cri_container_status(struct grpc_call *call, const ProtobufCMessage *m, void *ud);
void cri_update_container_resources(struct grpc_call *call, const ProtobufCMessage *m, void *ud);
void cri_update_pod_sandbox_resources(struct grpc_call *call, const ProtobufCMessage *m, void *ud);
void cri_reopen_container_log(struct grpc_call *call, const ProtobufCMessage *m, void *ud);
void cri_exec_sync(struct grpc_call *call, const ProtobufCMessage *m, void *ud);
void cri_exec(struct grpc_call *call, const ProtobufCMessage *m, void *ud);
void cri_attach(struct grpc_call *call, const ProtobufCMessage *m, void *ud);
void cri_port_forward(struct grpc_call *call, const ProtobufCMessage *m, void *ud);
void cri_container_stats(struct grpc_call *call, const ProtobufCMessage *m, void *ud);
void cri_list_container_stats(struct grpc_call *call, const ProtobufCMessage *m, void *ud);
void cri_stream_container_stats(struct grpc_call *call, const ProtobufCMessage *m, void *ud);
void cri_pod_sandbox_stats(struct grpc_call *call, const ProtobufCMessage *m, void *ud);
void cri_list_pod_sandbox_stats(struct grpc_call *call, const ProtobufCMessage *m, void *ud);
void cri_stream_pod_sandbox_stats(struct grpc_call *call, const ProtobufCMessage *m, void *ud);
void cri_list_metric_descriptors(struct grpc_call *call, const ProtobufCMessage *m, void *ud);
void cri_list_pod_sandbox_metrics(struct grpc_call *call, const ProtobufCMessage *m, void *ud);
void cri_stream_pod_sandbox_metrics(struct grpc_call *call, const ProtobufCMessage *m, void *ud);
void cri_get_container_events(struct grpc_call *call, const ProtobufCMessage *m, void *ud);
void cri_list_images(struct grpc_call *call, const ProtobufCMessage *m, void *ud);
void cri_stream_images(struct grpc_call *call, const ProtobufCMessage *m, void *ud);
void cri_image_status(struct grpc_call *call, const ProtobufCMessage *m, void *ud);
void cri_pull_image(struct grpc_call *call, const ProtobufCMessage *m, void *ud);
void cri_remove_image(struct grpc_call *call, const ProtobufCMessage *m, void *ud);
void cri_image_fs_info(struct grpc_call *call, const ProtobufCMessage *m, void *ud);
void cri_no_checkpoint(struct grpc_call *call, const ProtobufCMessage *m, void *ud);
void nexus_pull(struct grpc_call *call, const ProtobufCMessage *m, void *ud);
