/* SPDX-License-Identifier: Apache-2.0 */
/* Exec: the answer is a URL at which nexus-stream serves the session. */
#include "base/log.h"
#include "cri/cri-internal.h"

static int check_channels(const struct stream_channels *c, struct error **err)
{
    if (c->tty && c->err)
        return error_set(err, -EINVAL, "tty and stderr exclude each other");
    if (!c->in && !c->out && !c->err)
        return error_set(err, -EINVAL, "one of stdin, stdout and stderr must be set");
    return 0;
}

/* The three answers have one field of the same name and number. */
static void on_url(void *userdata, int r, const char *url, const struct error *err)
{
    struct rpc *rpc = userdata;
    Runtime__V1__ExecResponse out = RUNTIME__V1__EXEC_RESPONSE__INIT;

    rpc->stream = NULL;
    if (r < 0) {
        grpc_call_fail_error(rpc->call, r, err);
        return;
    }
    out.url = text_of(url);
    grpc_call_reply(rpc->call, &out.base);
}

void cri_exec(struct grpc_call *call, const ProtobufCMessage *m, void *ud)
{
    RPC_SCOPE(call);
    const Runtime__V1__ExecRequest *req = (const void *)m;
    const struct stream_channels channels = {
        .in = req->stdin, .out = req->stdout, .err = req->stderr, .tty = req->tty};
    struct cri *cri = ud;
    _cleanup_(error_freep) struct error *err = NULL;
    struct rpc *rpc = rpc_new(cri, call, NULL);
    char **command = rpc ? rpc_command(call, req->cmd, req->n_cmd) : NULL;
    int r;

    if (!command)
        return;
    r = check_channels(&channels, &err);
    if (r >= 0 && (req->n_cmd == 0 || !req->cmd[0][0]))
        r = error_set(&err, -EINVAL, "the command is empty");
    if (r >= 0)
        r = node_open_exec(cri->node, req->container_id, command, &channels, on_url, rpc,
                           &rpc->stream, &err);
    if (r < 0)
        rpc_fail(call, r, &err);
}
