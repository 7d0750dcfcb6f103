/* SPDX-License-Identifier: Apache-2.0 */
/* The order of starting is the order of trust: one instance, own directories, images, node, socket
 * (answering UNAVAILABLE), recovery, READY=1. Stopping lets go of everything and touches no pod. */
#include "daemon/daemon.h"

#include <fcntl.h>
#include <malloc.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include <systemd/sd-daemon.h>
#include <systemd/sd-event.h>

#include "base/file.h"
#include "base/log.h"
#include "base/str.h"
#include "cri/cri.h"
#include "daemon/journal.h"
#include "daemon/resident.h"
#include "grpc/server.h"
#include "image/image-store.h"
#include "pod/node.h"
#include "store/store.h"

#define STOP_PATIENCE_US (2ULL * 1000 * 1000)
#define DRAIN_PATIENCE_MS 10000 /* for records that are still to be written */
#define NOFILE_WANTED 1048576

struct nexusd {
    const struct config *config;
    sd_event *event;
    int lock_fd;
    struct store_queue *disk; /* writes all records */
    struct image_store *images;
    struct node *node;
    struct cri *cri;
    struct grpc_server *server;
    bool server_stopped, node_idle; /* while ending */
};

/* ---- signals */

static int on_patience_over(sd_event_source *source, uint64_t usec, void *userdata)
{
    return sd_event_exit(sd_event_source_get_event(source), 0);
}

static void on_part_ended(struct nexusd *d)
{
    if (d->server_stopped && d->node_idle)
        (void)sd_event_exit(d->event, 0);
}

static void on_stopped(void *userdata)
{
    struct nexusd *d = userdata;

    d->server_stopped = true;
    on_part_ended(d);
}

static void on_idle(void *userdata)
{
    struct nexusd *d = userdata;

    d->node_idle = true;
    on_part_ended(d);
}

static int on_terminate(sd_event_source *source, const struct signalfd_siginfo *si, void *userdata)
{
    struct nexusd *d = userdata;

    log_notice("ending on signal %u; pods go on running", si->ssi_signo);
    (void)sd_notify(0, "STOPPING=1");
    (void)sd_event_source_set_enabled(source, SD_EVENT_OFF);
    node_when_idle(d->node, on_idle, d);
    cri_stop(d->cri);
    grpc_server_stop(d->server, on_stopped, d);
    (void)sd_event_add_time_relative(d->event, NULL, CLOCK_MONOTONIC, STOP_PATIENCE_US, 0,
                                     on_patience_over, NULL);
    return 0;
}

static int set_up_signals(struct nexusd *d, struct error **err)
{
    sigset_t set;
    int r;

    (void)signal(SIGPIPE, SIG_IGN);
    (void)signal(SIGHUP, SIG_IGN);
    (void)sigemptyset(&set);
    (void)sigaddset(&set, SIGTERM);
    (void)sigaddset(&set, SIGINT);
    (void)sigaddset(&set, SIGCHLD);
    (void)sigprocmask(SIG_BLOCK, &set, NULL);
    r = sd_event_add_signal(d->event, NULL, SIGTERM, on_terminate, d);
    if (r >= 0)
        r = sd_event_add_signal(d->event, NULL, SIGINT, on_terminate, d);
    return r < 0 ? error_set(err, r, "cannot watch signals: %s", strerror(-r)) : 0;
}

/* ---- parts */

static int make_directory(const char *path, mode_t mode, struct error **err)
{
    int fd = dir_open_or_make(path, mode);

    if (fd < 0)
        return error_set(err, fd, "cannot open directory %s: %s", path, strerror(-fd));
    (void)fchmod(fd, mode);
    (void)close(fd);
    return 0;
}

static int take_lock(struct nexusd *d, struct error **err)
{
    _cleanup_(freep) char *path = str_printf("%s/nexusd.lock", d->config->run_dir);

    d->lock_fd = open(path, O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (d->lock_fd < 0)
        return error_set(err, -errno, "cannot open %s: %s", path, strerror(errno));
    if (flock(d->lock_fd, LOCK_EX | LOCK_NB) < 0)
        return error_set(err, -EBUSY, "another nexusd runs with run_dir %s", d->config->run_dir);
    return 0;
}

static void on_damaged_image(const char *name, const char *reason, void *userdata)
{
    log_error("image record %s was set aside: %s", name, reason);
}

static int open_images(struct nexusd *d, struct error **err)
{
    const struct config *c = d->config;
    const struct image_config config = {
        .queue = d->disk,
        .root = c->images_dir,
        .pull_helper = c->images_pull_program,
        .registries = c->registries,
        .n_registries = c->n_registries,
        .stall_ms = (uint32_t)c->images_stall_timeout_ms,
    };

    return image_store_open(d->event, &config, on_damaged_image, NULL, &d->images, err);
}

static int open_node(struct nexusd *d, struct error **err)
{
    const struct config *c = d->config;
    const struct node_config config = {
        .state_dir = c->state_dir,
        .run_dir = c->run_dir,
        .store_queue = d->disk,
        .netns_dir = c->network_netns_dir,
        .boot_id_path = c->boot_id_file,
        .vmm_path = c->vm_program,
        .kernel_path = c->vm_kernel,
        .initramfs_path = c->vm_initramfs,
        .modules_path = c->vm_modules,
        .kvm_path = c->vm_kvm,
        .vmm_args = c->vm_arguments,
        .log_level = c->log_level,
        .memory_bytes = c->vm_memory,
        .memory_max_bytes = c->vm_memory_max,
        .memory_overhead_bytes = c->vm_memory_overhead,
        .cpus = (uint32_t)c->vm_cpus,
        .cpus_max = (uint32_t)c->vm_cpus_max,
        .vmm_overhead_bytes = c->vm_host_overhead,
        .boot_timeout_ms = (unsigned)c->vm_boot_timeout_ms,
        .scratch_bytes = c->scratch_size,
        .mkfs_path = c->scratch_mkfs,
        .virtiofsd_path = c->share_program,
        .cni_conf_dir = c->network_conf_dir,
        .cni_bin_dirs = c->network_bin_dirs,
        .cni_timeout_ms = (unsigned)c->network_timeout_ms,
        .cgroup_root = c->cgroup_root,
        .stream_path = c->stream_program,
        .stream_idle_ms = c->stream_idle_timeout_ms,
        .stream_address = c->stream_address,
        .stream_certificate = c->stream_tls_certificate,
        .stream_key = c->stream_tls_key,
        .stream_client_ca = c->stream_tls_client_ca,
        .volume_roots = {.kubelet_root = c->mapper_kubelet_root, .listed = c->mapper_directories},
        .volume_data = (enum volume_data)volume_data_parse(c->mapper_data),
        .volume_pace = {.burst = c->mapper_update_burst,
                        .interval_ns = c->mapper_update_interval_ms * 1000000},
    };

    return node_new(d->event, &config, d->images, &d->node, err);
}

/* One line per failed call; successes are silent, the operations log themselves. */
static void on_call(const struct grpc_call_info *info, void *userdata)
{
    LOG_SCOPE(rpc, "rpc", info->path + (info->path[0] == '/'));

    if (info->status == GRPC_OK || info->status == GRPC_UNIMPLEMENTED)
        log_debug("%s in %llu us for %s", grpc_status_name(info->status),
                  (unsigned long long)(info->duration_ns / 1000), info->peer);
    else if (info->status == GRPC_CANCELLED || info->status == GRPC_NOT_FOUND)
        log_info("%s: %s (%s)", grpc_status_name(info->status), info->text, info->peer);
    else
        log_warning("%s: %s (%s%s%s)", grpc_status_name(info->status), info->text, info->peer,
                    info->traceparent[0] ? ", trace " : "", info->traceparent);
}

static int open_server(struct nexusd *d, struct error **err)
{
    const struct cri_config config = {
        .version = NEXUS_VERSION,
        .cgroupfs_driver = str_equal(d->config->cgroup_driver, "cgroupfs"),
        .state_dir = d->config->state_dir,
        .run_dir = d->config->run_dir,
    };
    int r = cri_new(&config, d->node, d->images, &d->cri);

    if (r >= 0)
        r = grpc_server_new(d->event, &d->server);
    if (r < 0)
        return error_set(err, r, "cannot set up the server: %s", strerror(-r));
    grpc_server_set_observer(d->server, on_call, d);
    r = cri_register(d->cri, d->server, err);
    if (r >= 0)
        r = grpc_server_listen_unix(d->server, d->config->listen, 0600, err);
    return r;
}

/* ---- life */

static void on_recovered(void *userdata)
{
    struct nexusd *d = userdata;

    resident_forget_startup();
    log_notice("serving on %s", d->config->listen);
    (void)sd_notify(0, "READY=1\nSTATUS=Serving CRI");
}

static void raise_nofile(void)
{
    struct rlimit l;

    if (getrlimit(RLIMIT_NOFILE, &l) == 0 && l.rlim_cur < l.rlim_max) {
        l.rlim_cur = l.rlim_max < NOFILE_WANTED ? l.rlim_max : NOFILE_WANTED;
        (void)setrlimit(RLIMIT_NOFILE, &l);
    }
}

static int start(struct nexusd *d, struct error **err)
{
    int r = make_directory(d->config->run_dir, 0711, err);

    if (r >= 0)
        r = make_directory(d->config->state_dir, 0700, err);
    if (r >= 0)
        r = take_lock(d, err);
    if (r < 0)
        return r;
    r = sd_event_new(&d->event);
    if (r < 0)
        return error_set(err, r, "cannot make an event loop: %s", strerror(-r));
    (void)sd_event_set_watchdog(d->event, 1);
    r = set_up_signals(d, err);
    if (r >= 0)
        r = store_queue_new(d->event, &d->disk, err);
    if (r >= 0)
        r = open_images(d, err);
    if (r >= 0)
        r = open_node(d, err);
    if (r >= 0)
        r = open_server(d, err);
    if (r >= 0)
        r = node_recover(d->node, on_recovered, d, err);
    return r;
}

static void stop(struct nexusd *d)
{
    grpc_server_free(d->server); /* first: its calls wait for what goes below */
    cri_free(d->cri);
    node_free(d->node);
    image_store_close(d->images);
    if (d->disk && store_queue_drain(d->disk, DRAIN_PATIENCE_MS) < 0)
        log_error("the disk did not take every record: the next start finds the older ones");
    store_queue_free(d->disk);
    sd_event_unref(d->event);
    (void)close_fd(d->lock_fd);
}

int daemon_run(const struct config *config, struct error **err)
{
    struct nexusd d = {.config = config, .lock_fd = -EBADF};
    int r;

    (void)umask(077);
    (void)mallopt(M_MMAP_THRESHOLD, 131072); /* large answers go back to the system at once */
    raise_nofile();
    r = start(&d, err);
    if (r >= 0)
        r = sd_event_loop(d.event);
    stop(&d);
    return r;
}
