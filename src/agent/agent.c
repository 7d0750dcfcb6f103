/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/agent.h"

#include <fcntl.h>
#include <string.h>
#include <sys/prctl.h>

#include "agent/cgroup.h"
#include "agent/child.h"
#include "agent/container.h"
#include "agent/control.h"
#include "agent/guest-log.h"
#include "agent/process.h"
#include "agent/region.h"
#include "agent/shutdown.h"
#include "agent/stream.h"
#include "agent/uevent-monitor.h"
#include "agent/volume.h"
#include "agent/watch.h"
#include "base/file.h"
#include "base/log.h"
#include "base/str.h"

char *agent_path(const struct agent *a, const char *rest)
{
    return str_printf("%s/%s", a->set.run_dir, rest);
}

static void init_lists(struct agent *a)
{
    list_init(&a->processes);
    list_init(&a->containers);
    list_init(&a->creating);
    list_init(&a->regions);
    list_init(&a->releases);
    list_init(&a->volumes);
    list_init(&a->layers);
    list_init(&a->updates);
    list_init(&a->streams);
    list_init(&a->watches);
    list_init(&a->dying_cgroups);
    list_init(&a->waiters);
}

static int start_parts(struct agent *a, struct error **err)
{
    int r = loop_new(&a->loop);

    if (r < 0)
        return error_set(err, r, "event loop");
    guest_log_start(a);
    child_learn();
    r = process_start_reaper(a);
    if (r < 0)
        return error_set(err, r, "reaper");
    r = dir_make(a->set.run_dir, 0755);
    if (r < 0)
        return error_set(err, r, "run directory");
    r = watch_start(a);
    if (r < 0)
        return error_set(err, r, "inotify");
    r = cgroup_start(a, err);
    if (r < 0)
        return r;
    r = uevent_start(a);
    if (r < 0)
        return error_set(err, r, "uevents");
    r = control_start(a);
    return r < 0 ? error_set(err, r, "control connection") : 0;
}

int agent_new(const struct settings *set, struct agent **ret, struct error **err)
{
    struct agent *a = xcalloc(1, sizeof(*a));
    int r;

    a->set = *set;
    a->signal_fd = a->watch_fd = a->uevent_fd = a->listen_fd = -EBADF;
    a->self_pidns = a->pod_cgroup = a->vsock_guard = a->watch_noter = -EBADF;
    init_lists(a);
    (void)prctl(PR_SET_DUMPABLE, 0); /* its memory and descriptors are not for containers */
    a->null_fd = open("/dev/null", O_RDWR | O_CLOEXEC);
    r = a->null_fd < 0 ? error_set(err, -errno, "/dev/null") : start_parts(a, err);
    if (r < 0) {
        agent_free(a);
        return r;
    }
    *ret = a;
    return 0;
}

int agent_run(struct agent *a)
{
    return loop_run(a->loop);
}

void agent_free(struct agent *a)
{
    if (!a)
        return;
    log_set_sink(NULL);
    streams_free(a); /* before what they borrow */
    creations_free(a);
    containers_free(a);
    volumes_free(a);
    regions_free(a);
    strv_free(a->module_lists);
    cgroups_free(a);
    processes_free(a);
    shutdown_free(a->shutdown);
    control_free(a->control);
    loop_free(a->loop);
    (void)close_fd(a->null_fd);
    (void)close_fd(a->signal_fd);
    (void)close_fd(a->watch_fd);
    (void)close_fd(a->uevent_fd);
    (void)close_fd(a->listen_fd);
    (void)close_fd(a->self_pidns);
    (void)close_fd(a->vsock_guard);
    (void)close_fd(a->watch_noter);
    (void)close_fd(a->pod_cgroup);
    free(a);
}
