/* SPDX-License-Identifier: Apache-2.0 */
#include "pod/state.h"

#include "base/cleanup.h"
#include "base/str.h"

/* clang-format off */
#define S(x) SANDBOX_DO_##x
static const enum sandbox_action sandbox_table[SANDBOX_STATE_COUNT][SANDBOX_EVENT_COUNT] = {
    /*                      RUN                STOP           REMOVE           USE        VM_GONE */
    [SANDBOX_CREATING] = {S(JOIN_RUN),      S(CANCEL_RUN),  S(CANCEL_RUN),   S(REFUSE), S(FAIL_RUN)},
    [SANDBOX_UNDOING]  = {S(JOIN_RUN),      S(WAIT_UNDO),   S(WAIT_UNDO),    S(REFUSE), S(IGNORE)},
    [SANDBOX_READY]    = {S(ANSWER_RUN),    S(BEGIN_STOP),  S(STOP_REMOVE),  S(ALLOW),  S(LOSE_VM)},
    [SANDBOX_STOPPING] = {S(REFUSE_EXISTS), S(JOIN_STOP),   S(STOP_REMOVE),  S(REFUSE), S(IGNORE)},
    [SANDBOX_STOPPED]  = {S(REFUSE_EXISTS), S(ANSWER),      S(BEGIN_REMOVE), S(REFUSE), S(IGNORE)},
    [SANDBOX_REMOVING] = {S(REFUSE_EXISTS), S(JOIN_REMOVE), S(JOIN_REMOVE),  S(REFUSE), S(IGNORE)},
};
#undef S

#define C(x) CONTAINER_DO_##x
static const enum container_action container_table[CONTAINER_STATE_COUNT][CONTAINER_EVENT_COUNT] = {
    /*                        CREATE            START           STOP              REMOVE             EXITED     VM_GONE       USE */
    [CONTAINER_CREATING] = {C(JOIN_CREATE),   C(REFUSE),      C(CANCEL_CREATE), C(CANCEL_CREATE), C(IGNORE), C(FAIL_PLAN), C(REFUSE)},
    [CONTAINER_UNDOING]  = {C(JOIN_CREATE),   C(REFUSE),      C(WAIT_UNDO),     C(WAIT_UNDO),     C(IGNORE), C(IGNORE),    C(REFUSE)},
    [CONTAINER_CREATED]  = {C(ANSWER_CREATE), C(BEGIN_START), C(ANSWER),        C(BEGIN_REMOVE),  C(IGNORE), C(END),       C(REFUSE)},
    [CONTAINER_STARTING] = {C(ANSWER_CREATE), C(REFUSE),      C(AFTER_START),   C(AFTER_START),   C(END),    C(FAIL_PLAN), C(REFUSE)},
    [CONTAINER_RUNNING]  = {C(ANSWER_CREATE), C(REFUSE),      C(BEGIN_STOP),    C(BEGIN_REMOVE),  C(END),    C(END),       C(ALLOW)},
    [CONTAINER_EXITED]   = {C(ANSWER_CREATE), C(REFUSE),      C(ANSWER),        C(BEGIN_REMOVE),  C(IGNORE), C(IGNORE),    C(REFUSE)},
    [CONTAINER_REMOVING] = {C(REFUSE),        C(REFUSE),      C(JOIN_REMOVE),   C(JOIN_REMOVE),   C(END),    C(END),       C(REFUSE)},
};
#undef C
/* clang-format on */

enum sandbox_action sandbox_on(enum sandbox_state state, enum sandbox_event event)
{
    return sandbox_table[state][event];
}

enum container_action container_on(enum container_state state, enum container_event event)
{
    return container_table[state][event];
}

static const char *const sandbox_names[SANDBOX_STATE_COUNT] = {
    [SANDBOX_CREATING] = "creating", [SANDBOX_UNDOING] = "undoing", [SANDBOX_READY] = "ready",
    [SANDBOX_STOPPING] = "stopping", [SANDBOX_STOPPED] = "stopped", [SANDBOX_REMOVING] = "removing",
};
static const char *const container_names[CONTAINER_STATE_COUNT] = {
    [CONTAINER_CREATING] = "creating", [CONTAINER_UNDOING] = "undoing",
    [CONTAINER_CREATED] = "created",   [CONTAINER_STARTING] = "starting",
    [CONTAINER_RUNNING] = "running",   [CONTAINER_EXITED] = "exited",
    [CONTAINER_REMOVING] = "removing",
};

static int find(const char *const *names, size_t n, const char *name)
{
    for (size_t i = 0; i < n; i++)
        if (str_equal(names[i], name))
            return (int)i;
    return -EINVAL;
}

const char *sandbox_state_name(enum sandbox_state state)
{
    return sandbox_names[state];
}

int sandbox_state_parse(const char *name)
{
    return find(sandbox_names, ARRAY_SIZE(sandbox_names), name);
}

const char *container_state_name(enum container_state state)
{
    return container_names[state];
}

int container_state_parse(const char *name)
{
    return find(container_names, ARRAY_SIZE(container_names), name);
}
