/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/object.h"

#include "base/cleanup.h"
#include "gen/cri/cri.pb-c.h"

int container_stop(struct cli *cli, const char *id, uint64_t grace_seconds, struct error **err)
{
    Runtime__V1__StopContainerRequest rq = RUNTIME__V1__STOP_CONTAINER_REQUEST__INIT;
    ANSWER(Runtime__V1__StopContainerResponse, answer);

    rq.container_id = (char *)(uintptr_t)id;
    rq.timeout = (int64_t)grace_seconds;
    return cli_call(cli, "RuntimeService/StopContainer", &rq.base,
                    &runtime__v1__stop_container_response__descriptor,
                    (int64_t)grace_seconds * 1000 + CLI_TIMEOUT_MS, ANSWER_AT(answer), err);
}

int container_remove(struct cli *cli, const char *id, struct error **err)
{
    Runtime__V1__RemoveContainerRequest rq = RUNTIME__V1__REMOVE_CONTAINER_REQUEST__INIT;
    ANSWER(Runtime__V1__RemoveContainerResponse, answer);

    rq.container_id = (char *)(uintptr_t)id;
    return cli_call(cli, "RuntimeService/RemoveContainer", &rq.base,
                    &runtime__v1__remove_container_response__descriptor, CLI_TIMEOUT_MS,
                    ANSWER_AT(answer), err);
}

int pod_stop(struct cli *cli, const char *id, struct error **err)
{
    Runtime__V1__StopPodSandboxRequest rq = RUNTIME__V1__STOP_POD_SANDBOX_REQUEST__INIT;
    ANSWER(Runtime__V1__StopPodSandboxResponse, answer);

    rq.pod_sandbox_id = (char *)(uintptr_t)id;
    return cli_call(cli, "RuntimeService/StopPodSandbox", &rq.base,
                    &runtime__v1__stop_pod_sandbox_response__descriptor, CLI_TIMEOUT_MS,
                    ANSWER_AT(answer), err);
}

int pod_remove(struct cli *cli, const char *id, struct error **err)
{
    Runtime__V1__RemovePodSandboxRequest rq = RUNTIME__V1__REMOVE_POD_SANDBOX_REQUEST__INIT;
    ANSWER(Runtime__V1__RemovePodSandboxResponse, answer);

    rq.pod_sandbox_id = (char *)(uintptr_t)id;
    return cli_call(cli, "RuntimeService/RemovePodSandbox", &rq.base,
                    &runtime__v1__remove_pod_sandbox_response__descriptor, CLI_TIMEOUT_MS,
                    ANSWER_AT(answer), err);
}
