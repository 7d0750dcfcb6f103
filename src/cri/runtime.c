/* SPDX-License-Identifier: Apache-2.0 */
/* Version, Status, RuntimeConfig, UpdateRuntimeConfig: answered from memory and small local checks,
 * whatever pods are doing. */
#include <jansson.h>
#include <string.h>

#include "base/log.h"
#include "base/str.h"
#include "cri/cri-internal.h"

#define API_VERSION "0.1.0" /* what kubelet sends and compares */
#define HANDLER_NAME "nexus-vmm"

void cri_version(struct grpc_call *call, const ProtobufCMessage *m, void *ud)
{
    struct cri *cri = ud;
    Runtime__V1__VersionResponse out = RUNTIME__V1__VERSION_RESPONSE__INIT;

    out.version = text_of(API_VERSION);
    out.runtime_name = text_of("nexus-vmm");
    out.runtime_version = text_of(cri->config.version);
    out.runtime_api_version = text_of("v1");
    grpc_call_reply(call, &out.base);
}

static void set_condition(Runtime__V1__RuntimeCondition *c, const char *type, int r,
                          const struct error *err, const char *reason)
{
    runtime__v1__runtime_condition__init(c);
    c->type = text_of(type);
    c->status = r >= 0;
    c->reason = text_of(r < 0 ? reason : "");
    c->message = text_of(r < 0 ? error_text(err, r) : "");
}

/* info.config as JSON text, as both other runtimes have it. */
static char *verbose_config(const struct cri *cri, struct arena *a)
{
    json_t *doc = json_pack(
        "{s:s, s:s, s:s, s:s, s:i, s:b, s:s, s:s, s:s}", "stateDir", cri->config.run_dir, "rootDir",
        cri->config.state_dir, "cgroupDriver", cri->config.cgroupfs_driver ? "cgroupfs" : "systemd",
        "cgroups", node_cgroup_text(cri->node), "sandboxes", (int)node_sandbox_count(cri->node),
        "recovered", node_is_ready(cri->node), "seccomp", "supported, in the guest", "apparmor",
        "not supported: a VM has a kernel of its own", "selinux",
        "not supported: a VM has a kernel of its own");
    _cleanup_(freep) char *text = doc ? json_dumps(doc, JSON_COMPACT) : NULL;
    char *copy = text ? arena_strdup(a, text) : NULL;

    json_decref(doc);
    return copy;
}

void cri_status(struct grpc_call *call, const ProtobufCMessage *m, void *ud)
{
    const Runtime__V1__StatusRequest *req = (const void *)m;
    struct cri *cri = ud;
    _cleanup_(error_freep) struct error *runtime_err = NULL, *network_err = NULL;
    Runtime__V1__StatusResponse out = RUNTIME__V1__STATUS_RESPONSE__INIT;
    Runtime__V1__RuntimeStatus status = RUNTIME__V1__RUNTIME_STATUS__INIT;
    Runtime__V1__RuntimeCondition conditions[2];
    Runtime__V1__RuntimeCondition *condition_list[2] = {&conditions[0], &conditions[1]};
    Runtime__V1__RuntimeHandlerFeatures handler_features =
        RUNTIME__V1__RUNTIME_HANDLER_FEATURES__INIT;
    Runtime__V1__RuntimeHandler handlers[2] = {RUNTIME__V1__RUNTIME_HANDLER__INIT,
                                               RUNTIME__V1__RUNTIME_HANDLER__INIT};
    Runtime__V1__RuntimeHandler *handler_list[2] = {&handlers[0], &handlers[1]};
    Runtime__V1__RuntimeFeatures features = RUNTIME__V1__RUNTIME_FEATURES__INIT;
    Runtime__V1__StatusResponse__InfoEntry info = RUNTIME__V1__STATUS_RESPONSE__INFO_ENTRY__INIT;
    Runtime__V1__StatusResponse__InfoEntry *info_list[1] = {&info};
    int runtime = node_require_ready(cri->node, &runtime_err);
    int network = node_network_status(cri->node, &network_err);

    if (runtime >= 0)
        runtime = node_runtime_status(cri->node, &runtime_err);
    set_condition(&conditions[0], "RuntimeReady", runtime, runtime_err,
                  node_is_ready(cri->node) ? "VMUnavailable" : "Recovering");
    set_condition(&conditions[1], "NetworkReady", network, network_err, "CNIConfigMissingOrBad");
    status.conditions = condition_list;
    status.n_conditions = 2;
    out.status = &status;
    handlers[0].name = text_of("");
    handlers[1].name = text_of(HANDLER_NAME);
    handler_features.recursive_read_only_mounts = node_has_shares(cri->node);
    handlers[0].features = handlers[1].features = &handler_features;
    out.runtime_handlers = handler_list;
    out.n_runtime_handlers = 2;
    features.supplemental_groups_policy = 1;
    out.features = &features;
    if (req->verbose) {
        info.key = text_of("config");
        info.value = verbose_config(cri, grpc_call_arena(call));
        if (!info.value) {
            rpc_no_memory(call);
            return;
        }
        out.info = info_list;
        out.n_info = 1;
    }
    grpc_call_reply(call, &out.base);
}

void cri_runtime_config(struct grpc_call *call, const ProtobufCMessage *m, void *ud)
{
    struct cri *cri = ud;
    Runtime__V1__RuntimeConfigResponse out = RUNTIME__V1__RUNTIME_CONFIG_RESPONSE__INIT;
    Runtime__V1__LinuxRuntimeConfiguration linux_config =
        RUNTIME__V1__LINUX_RUNTIME_CONFIGURATION__INIT;

    linux_config.cgroup_driver = cri->config.cgroupfs_driver ? RUNTIME__V1__CGROUP_DRIVER__CGROUPFS
                                                             : RUNTIME__V1__CGROUP_DRIVER__SYSTEMD;
    out.linux = &linux_config;
    grpc_call_reply(call, &out.base);
}

/* The pod CIDR is the CNI configuration's business. */
void cri_update_runtime_config(struct grpc_call *call, const ProtobufCMessage *m, void *ud)
{
    const Runtime__V1__UpdateRuntimeConfigRequest *req = (const void *)m;
    Runtime__V1__UpdateRuntimeConfigResponse out =
        RUNTIME__V1__UPDATE_RUNTIME_CONFIG_RESPONSE__INIT;

    if (req->runtime_config && req->runtime_config->network_config)
        log_info("pod CIDR is %.64s", req->runtime_config->network_config->pod_cidr);
    grpc_call_reply(call, &out.base);
}
