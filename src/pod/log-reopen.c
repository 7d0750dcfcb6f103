/* SPDX-License-Identifier: Apache-2.0 */
/* ReopenContainerLog: the log's new file is opened by a thread, for its file system may hang, and then given
 * to nexus-vmm. No plan: there is nothing to undo. */
#include <string.h>

#include "base/log.h"
#include "base/str.h"
#include "pod/node-internal.h"
#include "pod/vmm-client.h"

struct reopen {
    struct node *node;
    struct list waiters; /* one; empty: it left */
    char id[LIMIT_ID_MAX + 1];
};

/* What the thread works with. */
struct open_job {
    char *log_directory, *log_path; /* owned */
    int fd;                         /* owned */
};

static void open_job_free(void *payload)
{
    struct open_job *j = payload;

    free(j->log_directory);
    free(j->log_path);
    (void)close_fd(j->fd);
    free(j);
}

static int open_log(void *payload, struct error **err)
{
    struct open_job *j = payload;

    return log_file_open(j->log_directory, j->log_path, &j->fd, err);
}

static void answer(struct reopen *o, int r, const struct error *err)
{
    waiters_complete(&o->waiters, &o->node->answers, r < 0 ? r : 0, err, o->id);
    free(o);
}

static void on_reopened(void *userdata, int r, const Nexus__VmmState *state,
                        const struct error *err)
{
    answer(userdata, r, err);
}

static int tell_vmm(struct reopen *o, int fd, struct error **err)
{
    Nexus__ControlMessage m = NEXUS__CONTROL_MESSAGE__INIT;
    Nexus__ReopenLog body = NEXUS__REOPEN_LOG__INIT;
    struct container *c = NULL;
    int r = node_find_running(o->node, o->id, &c, err); /* it may have ended meanwhile */

    if (r < 0)
        return r;
    body.container_id = c->id;
    m.body_case = NEXUS__CONTROL_MESSAGE__BODY_REOPEN_LOG;
    m.reopen_log = &body;
    return vmm_client_call(c->sandbox->client, &m, &fd, 1, HELLO_TIMEOUT_MS, on_reopened, o, NULL,
                           err);
}

static void on_open(void *userdata, void *payload, int r, const struct error *err)
{
    struct reopen *o = userdata;
    _cleanup_(error_freep) struct error *why = NULL;
    LOG_SCOPE(container, "container", o->id);

    if (r >= 0)
        r = tell_vmm(o, ((struct open_job *)payload)->fd, &why);
    if (r < 0)
        answer(o, r, why ? why : err);
}

int node_reopen_log(struct node *n, const char *id, waiter_fn fn, void *userdata,
                    struct waiter **ret, struct error **err)
{
    static const struct side_job_ops ops = {open_log, on_open, open_job_free};
    _cleanup_(freep) char *what = NULL;
    struct container *c = NULL;
    struct side_job *job; /* not given up: who waits may leave */
    struct open_job *j;
    struct reopen *o;
    int r = node_find_running(n, id, &c, err);

    if (r < 0)
        return r;
    if (!c->status.log_path)
        return error_set_class(err, ERROR_PRECONDITION, -ESTALE, "container %s has no log file",
                               c->id);
    o = xcalloc(1, sizeof(*o));
    o->node = n;
    memcpy(o->id, c->id, sizeof(o->id));
    list_init(&o->waiters);
    j = xcalloc(1, sizeof(*j));
    j->log_directory = str_dup(c->sandbox->spec.log_directory);
    j->log_path = str_dup(c->spec.log_path);
    j->fd = -EBADF;
    what = str_printf("opening log %s", c->status.log_path);
    r = side_job_start(n->files_worker, &ops, j, what, FILES_TIMEOUT_MS, o, &job, err);
    if (r < 0) {
        free(o);
        return r;
    }
    *ret = waiter_new(&o->waiters, fn, userdata);
    return 0;
}
