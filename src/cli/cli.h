/* SPDX-License-Identifier: Apache-2.0 */
/* What every subcommand of nexus shares: its settings, the connection, exit codes, messages.
 * A subcommand is one file with one struct command; commands.c lists them. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <protobuf-c/protobuf-c.h>

#include "base/error.h"
#include "grpc/client.h"

#define CLI_DEFAULT_ADDRESS "unix:///run/nexus/nexusd.sock"

/* Exit codes; run and exec give the command's own code instead, and 125 for failures of ours. */
enum cli_exit {
    CLI_OK = 0,
    CLI_FAILED = 1,        /* the server or the machine said no */
    CLI_USAGE = 2,         /* the command line is wrong */
    CLI_UNREACHABLE = 3,   /* nexusd does not answer */
    CLI_RUN_FAILED = 125,  /* run, exec: nexus failed, not the command */
    CLI_INTERRUPTED = 130, /* stopped by a signal before there was anything to stop */
};

/* Time-outs of calls, in milliseconds. */
#define CLI_TIMEOUT_MS 120000
#define CLI_TIMEOUT_START_MS 240000 /* a pod: boot and network */
#define CLI_NO_TIMEOUT (-1)

struct cli {
    const char *address;        /* borrowed */
    bool json;                  /* --output json */
    struct grpc_client *client; /* owned; NULL until cli_connect */
};

/* Connects once. 0, or an exit code after it said why. */
int cli_connect(struct cli *cli);
/* The same without words: 0 or a negative errno. Replaces a connection that was lost. */
int cli_reconnect(struct cli *cli, struct error **err);
/* "unix:///run/x.sock", "unix:/run/x.sock" or "/run/x.sock" as a path; NULL: no unix address. */
const char *cli_address_path(const char *address);

/* One unary call. method: "RuntimeService/Version" or a full path with a leading '/'. *ret is the
 * caller's. */
int cli_call(struct cli *cli, const char *method, const ProtobufCMessage *request,
             const ProtobufCMessageDescriptor *response_type, int64_t timeout_ms,
             ProtobufCMessage **ret, struct error **err);

/* Frees an answer; NULL is allowed. */
void message_free(ProtobufCMessage *m);
static inline void message_freep(void *p)
{
    message_free(*(ProtobufCMessage **)p);
}
/* A local that owns an answer of that generated type. */
#define ANSWER(type, name) _cleanup_(message_freep) type *name = NULL
#define ANSWER_AT(name) ((ProtobufCMessage **)(void *)&(name))

/* "nexus: text" and a newline on stderr, control bytes escaped. Returns code. */
int cli_say(int code, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* "nexus: what: error". Returns CLI_UNREACHABLE or CLI_FAILED. */
int cli_fail(int r, const struct error *err, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
/* "nexus COMMAND: text" and where help is. Returns CLI_USAGE. */
int cli_usage(const char *command, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* Text of others for a terminal: control bytes and broken UTF-8 made visible. The caller frees. */
char *cli_clean(const char *text);
