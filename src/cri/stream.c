/* SPDX-License-Identifier: Apache-2.0 */
/* Exec, Attach, PortForward: the answer is a URL at which nexus-stream serves the session. */
#include "base/log.h"
#include "cri/cri-internal.h"
#include "cri/validate.h"

static int check_channels(const struct stream_channels *c, struct error **err)
{
    if (c->tty && c->err)
        return error_set(err, -EINVAL, "tty and stderr exclude each other");
    if (!c->in && !c->out && !c->err)
        return error_set(err, -EINVAL, "one of stdin, stdout and stderr must be set");
    return 0;
}

/* rpc may be gone when it returns. */
static void answer(struct rpc *rpc, int r, const ProtobufCMessage *out, const struct error *err)
{
    rpc->stream = NULL;
    if (r < 0)
        grpc_call_fail_error(rpc->call, r, err);
    else
        grpc_call_reply(rpc->call, out);
}

static void on_exec_url(void *userdata, int r, const char *url, const struct error *err)
{
    Runtime__V1__ExecResponse out = RUNTIME__V1__EXEC_RESPONSE__INIT;

    out.url = text_of(url);
    answer(userdata, r, &out.base, err);
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
        r = node_open_exec(cri->node, req->container_id, command, &channels, on_exec_url, rpc,
                           &rpc->stream, &err);
    if (r < 0)
        rpc_fail(call, r, &err);
}

static void on_attach_url(void *userdata, int r, const char *url, const struct error *err)
{
    Runtime__V1__AttachResponse out = RUNTIME__V1__ATTACH_RESPONSE__INIT;

    out.url = text_of(url);
    answer(userdata, r, &out.base, err);
}

void cri_attach(struct grpc_call *call, const ProtobufCMessage *m, void *ud)
{
    RPC_SCOPE(call);
    const Runtime__V1__AttachRequest *req = (const void *)m;
    const struct stream_channels channels = {
        .in = req->stdin, .out = req->stdout, .err = req->stderr, .tty = req->tty};
    struct cri *cri = ud;
    _cleanup_(error_freep) struct error *err = NULL;
    struct rpc *rpc = rpc_new(cri, call, NULL);
    int r;

    if (!rpc)
        return;
    r = check_channels(&channels, &err);
    if (r >= 0)
        r = node_open_attach(cri->node, req->container_id, &channels, on_attach_url, rpc,
                             &rpc->stream, &err);
    if (r < 0)
        rpc_fail(call, r, &err);
}

static void on_forward_url(void *userdata, int r, const char *url, const struct error *err)
{
    Runtime__V1__PortForwardResponse out = RUNTIME__V1__PORT_FORWARD_RESPONSE__INIT;

    out.url = text_of(url);
    answer(userdata, r, &out.base, err);
}

/* The ports of the request are for the older WebSocket form; other clients name them in the session. */
void cri_port_forward(struct grpc_call *call, const ProtobufCMessage *m, void *ud)
{
    RPC_SCOPE(call);
    const Runtime__V1__PortForwardRequest *req = (const void *)m;
    struct cri *cri = ud;
    _cleanup_(error_freep) struct error *err = NULL;
    struct rpc *rpc = rpc_new(cri, call, NULL);
    int r = 0;

    if (!rpc)
        return;
    for (size_t i = 0; r >= 0 && i < req->n_port; i++)
        r = check_range("port", req->port[i], 1, UINT16_MAX, &err);
    if (r >= 0)
        r = node_open_forward(cri->node, req->pod_sandbox_id, req->port, req->n_port,
                              on_forward_url, rpc, &rpc->stream, &err);
    if (r < 0)
        rpc_fail(call, r, &err);
}
