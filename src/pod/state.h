/* SPDX-License-Identifier: Apache-2.0 */
/* States of sandboxes and containers, and what each event means in each state: filled tables, so that
 * "stop arrives while starting" cannot be forgotten. The tables decide; sandbox.c and container.c do. */
#pragma once

enum sandbox_state {
    SANDBOX_CREATING, /* its run plan goes on; in no list; → READY, UNDOING */
    SANDBOX_UNDOING, /* its run plan turned back; in no list; → gone, or STOPPING if that failed */
    SANDBOX_READY,   /* persisted before RunPodSandbox is answered; → STOPPING */
    SANDBOX_STOPPING, /* NOTREADY to kubelet; resources are being released, or are still owed;
                         → STOPPED */
    SANDBOX_STOPPED,  /* NOTREADY; nothing of it is left but the record; → REMOVING */
    SANDBOX_REMOVING, /* its containers and its record go; → gone */
};
#define SANDBOX_STATE_COUNT 6

enum sandbox_event {
    SANDBOX_EV_RUN,     /* RunPodSandbox with the same name, namespace, uid, attempt */
    SANDBOX_EV_STOP,    /* StopPodSandbox */
    SANDBOX_EV_REMOVE,  /* RemovePodSandbox */
    SANDBOX_EV_USE,     /* a container is to be created or started in it */
    SANDBOX_EV_VM_GONE, /* nexus-vmm ended, or said that the guest did */
};
#define SANDBOX_EVENT_COUNT 5

enum sandbox_action {
    SANDBOX_DO_IGNORE,
    SANDBOX_DO_ALLOW,
    SANDBOX_DO_ANSWER,        /* it is so already */
    SANDBOX_DO_JOIN_RUN,      /* same request: wait for its plan; another one: refuse */
    SANDBOX_DO_ANSWER_RUN,    /* same request: its id; another one: refuse */
    SANDBOX_DO_REFUSE_EXISTS, /* the name is taken by one that is not ready any more */
    SANDBOX_DO_REFUSE,        /* precondition: not ready */
    SANDBOX_DO_CANCEL_RUN,    /* undo it; done when it is gone */
    SANDBOX_DO_FAIL_RUN,      /* its plan fails with what happened to the VM */
    SANDBOX_DO_WAIT_UNDO,     /* done when the undo is */
    SANDBOX_DO_BEGIN_STOP,
    SANDBOX_DO_JOIN_STOP,   /* wait for the stop plan; begin it again if it halted */
    SANDBOX_DO_STOP_REMOVE, /* as BEGIN_STOP or JOIN_STOP, and remove it then */
    SANDBOX_DO_BEGIN_REMOVE,
    SANDBOX_DO_JOIN_REMOVE,
    SANDBOX_DO_LOSE_VM, /* containers ended, NOTREADY, release everything */
};

enum container_state {
    CONTAINER_CREATING, /* in no list; → CREATED, UNDOING */
    CONTAINER_UNDOING,  /* in no list; → gone */
    CONTAINER_CREATED,  /* → STARTING, REMOVING, EXITED (its VM went) */
    CONTAINER_STARTING, /* CREATED to kubelet; → RUNNING, EXITED (StartError) */
    CONTAINER_RUNNING,  /* → EXITED */
    CONTAINER_EXITED,   /* → REMOVING */
    CONTAINER_REMOVING, /* → gone */
};
#define CONTAINER_STATE_COUNT 7

enum container_event {
    CONTAINER_EV_CREATE, /* CreateContainer with the same name and attempt */
    CONTAINER_EV_START,
    CONTAINER_EV_STOP,
    CONTAINER_EV_REMOVE,
    CONTAINER_EV_EXITED,  /* nexus-vmm says so */
    CONTAINER_EV_VM_GONE, /* the outcome is lost */
    CONTAINER_EV_USE,     /* exec, log reopening */
};
#define CONTAINER_EVENT_COUNT 7

enum container_action {
    CONTAINER_DO_IGNORE,
    CONTAINER_DO_ALLOW,
    CONTAINER_DO_ANSWER,
    CONTAINER_DO_JOIN_CREATE,
    CONTAINER_DO_ANSWER_CREATE,
    CONTAINER_DO_REFUSE,
    CONTAINER_DO_CANCEL_CREATE,
    CONTAINER_DO_FAIL_PLAN, /* the open plan fails with what happened to the VM */
    CONTAINER_DO_WAIT_UNDO,
    CONTAINER_DO_BEGIN_START,
    CONTAINER_DO_AFTER_START, /* noted; done as soon as the start is over */
    CONTAINER_DO_BEGIN_STOP,  /* signal, grace, kill; a later call may only shorten the grace */
    CONTAINER_DO_BEGIN_REMOVE,
    CONTAINER_DO_JOIN_REMOVE,
    CONTAINER_DO_END, /* → EXITED with what the event says */
};

enum sandbox_action sandbox_on(enum sandbox_state state, enum sandbox_event event);
enum container_action container_on(enum container_state state, enum container_event event);

const char *sandbox_state_name(enum sandbox_state state);
/* The state of that name, or -EINVAL. */
int sandbox_state_parse(const char *name);
const char *container_state_name(enum container_state state);
int container_state_parse(const char *name);
