/* SPDX-License-Identifier: Apache-2.0 */
/* The host's side of an agent, for tests: starts the real program over unix sockets in namespaces of
 * its own, speaks the protocol, tells what came back. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/limit.h"
#include "gen/msg/nexus.pb-c.h"
#include "wire/tlv.h"

#define WAIT_MS 30000 /* for an answer that must come; a failure, not a measure */

struct drive {
    char dir[64];
    bool is_guest; /* PID 1 of a throw-away guest: real controllers, nothing to clean up */
    int agent_pid;
    int listen_fd, fd;
    struct tlv_reader reader;
    uint64_t next_id;
    Nexus__AgentHello *hello;
    unsigned oom_events;
    char oom_container[80];
};

/* Makes the namespaces and the image tree, starts the agent, waits for its hello. */
void drive_start(struct drive *d, const char *agent, const char *busybox);
/* Shuts the agent down (if it lives) and checks that its exit code is 0. */
void drive_stop(struct drive *d);

/* Sends m with a new id, returns the Reply (owned by the caller, message_free). */
Nexus__Reply *drive_request(struct drive *d, Nexus__AgentMessage *m);
/* The same; fails the test if the reply is an error. */
void drive_must(struct drive *d, Nexus__AgentMessage *m, const char *what);
/* Handles control messages until n OOM events were seen. */
void drive_wait_oom(struct drive *d, unsigned n);

/* What came over one stream. */
struct outcome {
    bool started;
    uint32_t pid;
    bool has_user; /* it was told … */
    uint32_t uid, gid, groups[8];
    size_t n_groups;
    struct buf out, err;
    unsigned out_eof, err_eof;
    unsigned n_empty_terminations;
    unsigned n_terminations;                       /* how often it came */
    char termination[LIMIT_TERMINATION_BYTES + 1]; /* the last one */
    bool has_exit, has_error;
    int code;
    uint32_t signal;
    bool oom;
    int error_exit_code;
    char error_class[32];
    char error_text[1024];
    bool closed; /* the agent closed the connection */
};

struct drive_stream {
    int fd;
    struct tlv_reader reader;
    struct outcome got;
};

struct drive_stream *stream_connect(struct drive *d);
/* Sends the StreamOpen of an exec; what an exec before it left is forgotten. keep: after EXIT the
 * connection is there for the next. */
void stream_open_exec(struct drive_stream *s, const Nexus__ExecSpec *spec, bool keep);
/* The bytes as they are, no frame. */
void stream_send_raw(struct drive_stream *s, const void *bytes, size_t len);
/* Connects and sends the StreamOpen. */
struct drive_stream *stream_exec(struct drive *d, const Nexus__ExecSpec *spec);
struct drive_stream *stream_start_container(struct drive *d, const char *id);
void stream_send(struct drive_stream *s, uint8_t type, const void *bytes, size_t len);
/* Reads until the predicate holds, or the connection is closed; fails the test after WAIT_MS. */
void stream_until(struct drive_stream *s, bool (*done)(const struct outcome *o, const void *arg),
                  const void *arg);
void stream_until_closed(struct drive_stream *s);
void stream_until_exit(struct drive_stream *s);
void stream_until_started(struct drive_stream *s);
void stream_until_output(struct drive_stream *s, const char *text);
void stream_until_bytes(struct drive_stream *s, size_t n); /* of stdout */
void stream_close(struct drive_stream *s);

/* sh -c SCRIPT in the container, stdin closed; the outcome is valid until the next call. */
const struct outcome *shell(struct drive *d, const char *container, const char *script);

#define CHECK(cond, ...)                                          \
    do {                                                          \
        if (!(cond))                                              \
            check_failed(__FILE__, __LINE__, #cond, __VA_ARGS__); \
    } while (0)
_Noreturn void check_failed(const char *file, int line, const char *cond, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));
/* True if b is exactly text. */
bool buf_is(const struct buf *b, const char *text);
bool buf_has(const struct buf *b, const char *text);
/* The content with a NUL behind it. */
const char *buf_text(struct buf *b);
