/* SPDX-License-Identifier: Apache-2.0 */
/* A pod for tests: supervisor, guest in memory, control socket in a temporary directory, and the calls
 * of nexusd. Time-outs are a hundredth of the real ones. */
#pragma once

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/file.h"
#include "base/str.h"
#include "event/loop.h"
#include "fakes/control-client.h"
#include "fakes/fake-agent.h"
#include "fakes/mem-transport.h"
#include "lib/test.h"
#include "vmm/supervisor.h"
#include "wire/message.h"

struct pod {
    struct loop *loop;
    struct mem_transport *transport;
    struct fake_agent *agent;
    struct supervisor *sup;
    char dir[32], path[64];
    int log_fd; /* of the container created last */
    int regions, stops, exit_code;
    int parked; /* of the regions' devices */
    bool may_park;
    size_t last_region_files;
    bool last_region_in_order;
    uint64_t next_gpa;
    bool in_pieces;
    unsigned forgotten;            /* regions in pieces */
    unsigned driven, driven_asked; /* how often a removed region still is in the guest's use */
};

static inline int pod_add_region_op(void *ud, const char *key, const char *what, const int *fds,
                                    const uint64_t *segment_bytes, char *const *names, size_t n,
                                    bool more, uint64_t *ret_gpa, uint64_t *ret_bytes,
                                    struct error **err)
{
    struct pod *pod = ud;

    if (!pod->in_pieces) {
        pod->last_region_files = 0;
        pod->last_region_in_order = true;
    }
    for (size_t i = 0; i < n; i++) { /* the file's content says which one it is */
        uint64_t number = UINT64_MAX;

        if (pread(fds[i], &number, sizeof(number), 0) != sizeof(number) ||
            number != pod->last_region_files + i || segment_bytes[i] != 4096)
            pod->last_region_in_order = false;
    }
    pod->last_region_files += n;
    pod->in_pieces = more;
    if (more)
        return 0;
    pod->regions++;
    pod->next_gpa += 1U << 21;
    *ret_gpa = pod->next_gpa;
    *ret_bytes = 1U << 21;
    return 0;
}

static inline void pod_forget_region_op(void *ud, const char *key)
{
    struct pod *pod = ud;

    pod->in_pieces = false;
    pod->forgotten++;
}

static inline int pod_remove_region_op(void *ud, uint64_t gpa)
{
    ((struct pod *)ud)->regions--;
    return 0;
}

static inline bool pod_region_is_driven(void *ud, uint64_t gpa)
{
    struct pod *pod = ud;

    pod->driven_asked++;
    return pod->driven && pod->driven--;
}

static inline bool pod_may_park_op(void *ud, uint64_t gpa)
{
    return ((struct pod *)ud)->may_park;
}

static inline int pod_park_region_op(void *ud, uint64_t gpa)
{
    struct pod *pod = ud;

    pod->regions--;
    pod->parked++;
    return 0;
}

static inline void pod_stop_vm(void *ud)
{
    struct pod *pod = ud;

    pod->stops++;
    fake_agent_free(TAKE(pod->agent));
    supervisor_vm_ended(pod->sup, NEXUS__VMM_STATE__END__KILLED, "from within stop_vm");
}

static inline void pod_exit_process(void *ud, int code)
{
    ((struct pod *)ud)->exit_code = code;
}

static const struct supervisor_host_ops pod_host_ops = {
    .add_region = pod_add_region_op,
    .forget_region = pod_forget_region_op,
    .region_is_driven = pod_region_is_driven,
    .remove_region = pod_remove_region_op,
    .may_park = pod_may_park_op,
    .park_region = pod_park_region_op,
    .stop_vm = pod_stop_vm,
    .exit_process = pod_exit_process,
};

static inline void pod_vm_end(void *ud, Nexus__VmmState__End end, const char *detail)
{
    supervisor_vm_ended(((struct pod *)ud)->sup, end, detail);
}

static inline struct pod *pod_new(const char *script_text)
{
    struct pod *pod = xcalloc(1, sizeof(*pod));
    struct sockaddr_un addr = {.sun_family = AF_UNIX};
    struct supervisor_times times = {.ping_ms = 50,
                                     .request_ms = 600,
                                     .create_ms = 600,
                                     .start_ms = 600,
                                     .lost_grace_ms = 20,
                                     .client_hello_ms = 300};
    struct fake_script script = {0};
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

    assert_int_equal(fake_script_parse(&script, script_text), 0);
    (void)snprintf(pod->dir, sizeof(pod->dir), "/tmp/nexus-test-XXXXXX");
    assert_non_null(mkdtemp(pod->dir));
    (void)snprintf(pod->path, sizeof(pod->path), "%s/control", pod->dir);
    (void)snprintf(addr.sun_path, sizeof(addr.sun_path), "%s", pod->path);
    assert_int_equal(bind(fd, (struct sockaddr *)&addr, sizeof(addr)), 0);
    assert_int_equal(listen(fd, 128), 0);
    pod->log_fd = -1;
    pod->exit_code = -1;
    assert_int_equal(loop_new(&pod->loop), 0);
    assert_int_equal(mem_transport_new(pod->loop, &pod->transport), 0);
    assert_int_equal(supervisor_new(pod->loop, mem_transport_host(pod->transport), fd,
                                    &pod_host_ops, pod, &pod->sup),
                     0);
    supervisor_set_sandbox_id(pod->sup, "testpod");
    supervisor_set_times(pod->sup, &times);
    pod->agent =
        fake_agent_new(pod->loop, mem_transport_guest(pod->transport), &script, pod_vm_end, pod);
    return pod;
}

static inline void pod_free(struct pod *pod)
{
    supervisor_free(pod->sup);
    fake_agent_free(pod->agent);
    mem_transport_free(pod->transport);
    loop_free(pod->loop);
    (void)unlink(pod->path);
    (void)rmdir(pod->dir);
    if (pod->log_fd >= 0)
        close(pod->log_fd);
    free(pod);
}

/* ---- nexusd's calls; those that return a string give the error class, "" for success */

static inline Nexus__ControlMessage *pod_hello(struct pod *pod, struct control_client *c)
{
    Nexus__ControlMessage m = NEXUS__CONTROL_MESSAGE__INIT, *reply;
    Nexus__ControlHello hello = NEXUS__CONTROL_HELLO__INIT;

    control_client_connect(c, pod->loop, pod->path);
    hello.version = 1;
    m.id = ++c->next_id;
    m.body_case = NEXUS__CONTROL_MESSAGE__BODY_HELLO;
    m.hello = &hello;
    control_client_send(c, &m, NULL, 0);
    reply = control_client_reply(c, m.id);
    assert_non_null(reply);
    assert_int_equal(reply->body_case, NEXUS__CONTROL_MESSAGE__BODY_STATE);
    return reply;
}

static inline void pod_connect(struct pod *pod, struct control_client *c)
{
    Nexus__ControlMessage *m = pod_hello(pod, c);

    message_free(&m->base);
}

static inline Nexus__ControlMessage *pod_state(struct control_client *c)
{
    Nexus__ControlMessage m = NEXUS__CONTROL_MESSAGE__INIT, *reply;
    Nexus__GetState get = NEXUS__GET_STATE__INIT;

    m.id = ++c->next_id;
    m.body_case = NEXUS__CONTROL_MESSAGE__BODY_GET_STATE;
    m.get_state = &get;
    control_client_send(c, &m, NULL, 0);
    reply = control_client_reply(c, m.id);
    assert_non_null(reply);
    assert_int_equal(reply->body_case, NEXUS__CONTROL_MESSAGE__BODY_STATE);
    return reply;
}

static inline void pod_wait_ready(struct control_client *c)
{
    Nexus__ControlMessage *m = pod_state(c);
    bool ready = m->state->phase == NEXUS__VMM_STATE__PHASE__READY;

    message_free(&m->base);
    if (ready)
        return;
    m = control_client_event(c, NEXUS__CONTROL_EVENT__BODY_GUEST_READY);
    assert_non_null(m);
    message_free(&m->base);
}

static inline const char *pod_configure(struct control_client *c)
{
    Nexus__ControlMessage m = NEXUS__CONTROL_MESSAGE__INIT;
    Nexus__SandboxConfig config = NEXUS__SANDBOX_CONFIG__INIT;

    config.hostname = (char[]){"fakehost"};
    m.body_case = NEXUS__CONTROL_MESSAGE__BODY_CONFIGURE;
    m.configure = &config;
    return control_client_call(c, &m, NULL, 0);
}

static inline const char *pod_add_pieces(struct control_client *c, const char *key, size_t first,
                                         size_t n, bool more)
{
    Nexus__ControlMessage m = NEXUS__CONTROL_MESSAGE__INIT;
    Nexus__AddRegion add = NEXUS__ADD_REGION__INIT;
    int *fds = xcalloc(n + 1, sizeof(*fds));
    uint64_t *bytes = xcalloc(n + 1, sizeof(*bytes));
    const char *result;

    for (size_t i = 0; i < n; i++) {
        uint64_t number = first + i;

        fds[i] = memfd_create("layer", MFD_CLOEXEC);
        assert_int_equal(pwrite(fds[i], &number, sizeof(number), 0), sizeof(number));
        bytes[i] = 4096;
    }
    add.key = str_dup(key);
    add.more = more;
    add.segment_bytes = bytes;
    add.n_segment_bytes = n;
    m.body_case = NEXUS__CONTROL_MESSAGE__BODY_ADD_REGION;
    m.add_region = &add;
    result = control_client_call(c, &m, fds, n);
    for (size_t i = 0; i < n; i++)
        close(fds[i]);
    free(add.key);
    free(fds);
    free(bytes);
    return result;
}

static inline const char *pod_add_region(struct control_client *c, const char *key, size_t n)
{
    return pod_add_pieces(c, key, 0, n, false);
}

static inline const char *pod_remove_region(struct control_client *c, const char *key)
{
    Nexus__ControlMessage m = NEXUS__CONTROL_MESSAGE__INIT;
    Nexus__RemoveRegion remove = NEXUS__REMOVE_REGION__INIT;
    char copy[64];

    (void)snprintf(copy, sizeof(copy), "%s", key);
    remove.key = copy;
    m.body_case = NEXUS__CONTROL_MESSAGE__BODY_REMOVE_REGION;
    m.remove_region = &remove;
    return control_client_call(c, &m, NULL, 0);
}

/* Connected, configured, with a region "img". */
static inline void pod_ready(struct pod *pod, struct control_client *c)
{
    pod_connect(pod, c);
    pod_wait_ready(c);
    assert_string_equal(pod_configure(c), "");
    assert_string_equal(pod_add_region(c, "img", 1), "");
}

/* termination: the host's file of its termination log; -1: it has none. */
static inline void pod_send_create_with(struct control_client *c, uint64_t id_of_message,
                                        const char *id, const char *region, int log,
                                        int termination, const char *const *argv)
{
    int fds[] = {log >= 0 ? log : termination, termination};
    Nexus__ControlMessage m = NEXUS__CONTROL_MESSAGE__INIT;
    Nexus__CreateContainer create = NEXUS__CREATE_CONTAINER__INIT;
    Nexus__ContainerSpec spec = NEXUS__CONTAINER_SPEC__INIT;
    Nexus__ProcessSpec process = NEXUS__PROCESS_SPEC__INIT;
    char **args = NULL;

    for (size_t i = 0; argv[i]; i++)
        strv_push(&args, argv[i]);
    process.args = args;
    process.n_args = strv_len(args);
    spec.id = str_dup(id);
    spec.process = &process;
    create.spec = &spec;
    create.rootfs_region = str_dup(region);
    create.termination_log = termination >= 0;
    m.id = id_of_message;
    m.body_case = NEXUS__CONTROL_MESSAGE__BODY_CREATE_CONTAINER;
    m.create_container = &create;
    control_client_send(c, &m, fds, (log >= 0 ? 1U : 0U) + (termination >= 0 ? 1U : 0U));
    free(spec.id);
    free(create.rootfs_region);
    strv_free(args);
}

static inline void pod_send_create(struct control_client *c, uint64_t id_of_message, const char *id,
                                   const char *region, int log, const char *const *argv)
{
    pod_send_create_with(c, id_of_message, id, region, log, -1, argv);
}

static inline const char *pod_create_with(struct control_client *c, const char *id,
                                          const char *region, int log, int termination,
                                          const char *const *argv)
{
    static char class_name[64];
    Nexus__ControlMessage *reply;
    uint64_t number = ++c->next_id;

    pod_send_create_with(c, number, id, region, log, termination, argv);
    reply = control_client_reply(c, number);
    assert_non_null(reply);
    (void)snprintf(class_name, sizeof(class_name), "%s", reply->reply->error_class);
    message_free(&reply->base);
    return class_name;
}

static inline const char *pod_create_in(struct control_client *c, const char *id,
                                        const char *region, int log, const char *const *argv)
{
    return pod_create_with(c, id, region, log, -1, argv);
}

static inline const char *pod_create(struct pod *pod, struct control_client *c, const char *id,
                                     const char *const *argv)
{
    if (pod->log_fd >= 0)
        close(pod->log_fd);
    pod->log_fd = memfd_create("log", MFD_CLOEXEC);
    return pod_create_in(c, id, "img", pod->log_fd, argv);
}

static inline const char *pod_start(struct control_client *c, const char *id)
{
    Nexus__ControlMessage m = NEXUS__CONTROL_MESSAGE__INIT;
    Nexus__StartContainer start = NEXUS__START_CONTAINER__INIT;
    char copy[80];

    (void)snprintf(copy, sizeof(copy), "%s", id);
    start.container_id = copy;
    m.body_case = NEXUS__CONTROL_MESSAGE__BODY_START_CONTAINER;
    m.start_container = &start;
    return control_client_call(c, &m, NULL, 0);
}

static inline void pod_run(struct pod *pod, struct control_client *c, const char *id,
                           const char *const *argv)
{
    assert_string_equal(pod_create(pod, c, id, argv), "");
    assert_string_equal(pod_start(c, id), "");
}

static inline const char *pod_signal(struct control_client *c, const char *id, uint32_t number)
{
    Nexus__ControlMessage m = NEXUS__CONTROL_MESSAGE__INIT;
    Nexus__SignalContainer signal = NEXUS__SIGNAL_CONTAINER__INIT;
    char copy[80];

    (void)snprintf(copy, sizeof(copy), "%s", id);
    signal.container_id = copy;
    signal.signal = number;
    m.body_case = NEXUS__CONTROL_MESSAGE__BODY_SIGNAL;
    m.signal = &signal;
    return control_client_call(c, &m, NULL, 0);
}

static inline const char *pod_remove(struct control_client *c, const char *id)
{
    Nexus__ControlMessage m = NEXUS__CONTROL_MESSAGE__INIT;
    Nexus__RemoveContainer remove = NEXUS__REMOVE_CONTAINER__INIT;
    char copy[80];

    (void)snprintf(copy, sizeof(copy), "%s", id);
    remove.container_id = copy;
    m.body_case = NEXUS__CONTROL_MESSAGE__BODY_REMOVE_CONTAINER;
    m.remove_container = &remove;
    return control_client_call(c, &m, NULL, 0);
}

static inline const char *pod_reopen(struct control_client *c, const char *id, int fd)
{
    Nexus__ControlMessage m = NEXUS__CONTROL_MESSAGE__INIT;
    Nexus__ReopenLog reopen = NEXUS__REOPEN_LOG__INIT;
    char copy[80];

    (void)snprintf(copy, sizeof(copy), "%s", id);
    reopen.container_id = copy;
    m.body_case = NEXUS__CONTROL_MESSAGE__BODY_REOPEN_LOG;
    m.reopen_log = &reopen;
    return control_client_call(c, &m, &fd, 1);
}

static inline void pod_send_shutdown(struct control_client *c, uint64_t id, uint32_t grace_ms)
{
    Nexus__ControlMessage m = NEXUS__CONTROL_MESSAGE__INIT;
    Nexus__Shutdown shutdown = NEXUS__SHUTDOWN__INIT;

    shutdown.grace_ms = grace_ms;
    m.id = id;
    m.body_case = NEXUS__CONTROL_MESSAGE__BODY_SHUTDOWN;
    m.shutdown = &shutdown;
    control_client_send(c, &m, NULL, 0);
}

/* The log of the container created last, owned by the caller. */
static inline char *pod_log(struct pod *pod, const char *id)
{
    char *text = NULL;

    assert_int_equal(lseek(pod->log_fd, 0, SEEK_SET), 0);
    assert_int_equal(fd_read_all(pod->log_fd, 256U << 20, &text, NULL), 0);
    return text;
}

/* An exec's connection, hello said. */
static inline void pod_exec_as(struct pod *pod, struct control_client *c, const char *id,
                               const char *const *argv, bool open_stdin, bool late_start)
{
    Nexus__ControlMessage m = NEXUS__CONTROL_MESSAGE__INIT;
    Nexus__ControlHello hello = NEXUS__CONTROL_HELLO__INIT;
    Nexus__ExecSpec exec = NEXUS__EXEC_SPEC__INIT;
    Nexus__ProcessSpec process = NEXUS__PROCESS_SPEC__INIT;
    char **args = NULL;

    for (size_t i = 0; argv[i]; i++)
        strv_push(&args, argv[i]);
    control_client_connect(c, pod->loop, pod->path);
    process.args = args;
    process.n_args = strv_len(args);
    exec.container_id = str_dup(id);
    exec.process = &process;
    exec.open_stdin = open_stdin;
    exec.late_start = late_start;
    hello.version = 1;
    hello.role = NEXUS__CONTROL_HELLO__ROLE__EXEC;
    hello.exec = &exec;
    m.body_case = NEXUS__CONTROL_MESSAGE__BODY_HELLO;
    m.hello = &hello;
    control_client_send(c, &m, NULL, 0);
    free(exec.container_id);
    strv_free(args);
}

static inline void pod_exec(struct pod *pod, struct control_client *c, const char *id,
                            const char *const *argv, bool open_stdin)
{
    pod_exec_as(pod, c, id, argv, open_stdin, false);
}
