/* SPDX-License-Identifier: Apache-2.0 */
/* ExecSync. */
#include "base/log.h"
#include "base/str.h"
#include "cri/cri-internal.h"
#include "cri/validate.h"

#define TIMEOUT_S_MAX (INT64_C(1) << 32)

static void on_done(void *userdata, int r, const struct vmm_exec_result *result,
                    const struct error *err)
{
    struct rpc *rpc = userdata;
    Runtime__V1__ExecSyncResponse out = RUNTIME__V1__EXEC_SYNC_RESPONSE__INIT;

    rpc->exec = NULL;
    if (r < 0) {
        grpc_call_fail_error(rpc->call, r, err);
        return;
    }
    out.stdout.data = (uint8_t *)(uintptr_t)result->out; /* only read */
    out.stdout.len = result->out_len;
    out.stderr.data = (uint8_t *)(uintptr_t)result->err;
    out.stderr.len = result->err_len;
    out.exit_code = result->exit_code;
    if (result->dropped)
        log_debug("%llu bytes of output were over the limit and dropped",
                  (unsigned long long)result->dropped);
    grpc_call_reply(rpc->call, &out.base);
}

void cri_exec_sync(struct grpc_call *call, const ProtobufCMessage *m, void *ud)
{
    RPC_SCOPE(call);
    const Runtime__V1__ExecSyncRequest *req = (const void *)m;
    struct cri *cri = ud;
    _cleanup_(error_freep) struct error *err = NULL;
    struct rpc *rpc = rpc_new(cri, call, NULL);
    char **command;
    int r;

    if (!rpc)
        return;
    command = rpc_command(call, req->cmd, req->n_cmd);
    if (!command)
        return;
    r = check_range("timeout", req->timeout, 0, INT64_MAX, &err);
    if (r >= 0 && (req->n_cmd == 0 || !req->cmd[0][0]))
        r = error_set(&err, -EINVAL, "the command is empty");
    if (r >= 0) {
        int64_t s = req->timeout < TIMEOUT_S_MAX ? req->timeout : TIMEOUT_S_MAX;
        r = node_exec(cri->node, req->container_id, command, (uint64_t)s * 1000, on_done, rpc,
                      &rpc->exec, &err);
    }
    if (r < 0)
        rpc_fail(call, r, &err);
}
