/* SPDX-License-Identifier: Apache-2.0 */
/* The connection to nexusd, and what a person reads when something fails. */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "base/str.h"
#include "cli/cli.h"

char *cli_clean(const char *text)
{
    size_t len = strlen(text), size = len * 4 + 8;
    char *out = xcalloc(1, size);

    if (utf8_is_valid((const uint8_t *)text, len)) {
        log_escape(out, size, text, /* quote= */ false);
        return out;
    }
    for (size_t i = 0, at = 0; i < len; i++) { /* every byte that is not printable ASCII */
        unsigned char c = (unsigned char)text[i];
        if (c >= 0x20 && c < 0x7f)
            out[at++] = (char)c;
        else
            at += (size_t)snprintf(out + at, size - at, "\\x%02x", c);
    }
    return out;
}

__attribute__((format(printf, 2, 0))) static void say(const char *prefix, const char *fmt,
                                                      va_list ap)
{
    char text[4608];
    _cleanup_(freep) char *clean = NULL;

    (void)vsnprintf(text, sizeof(text), fmt, ap);
    clean = cli_clean(text);
    (void)fflush(stdout);
    fprintf(stderr, "nexus%s%s: %s\n", prefix ? " " : "", prefix ? prefix : "", clean);
}

int cli_say(int code, const char *fmt, ...)
{
    va_list ap;

    va_start(ap, fmt);
    say(NULL, fmt, ap);
    va_end(ap);
    return code;
}

int cli_usage(const char *command, const char *fmt, ...)
{
    va_list ap;

    va_start(ap, fmt);
    say(command, fmt, ap);
    va_end(ap);
    fprintf(stderr, "Try: nexus%s%s --help\n", command ? " " : "", command ? command : "");
    return CLI_USAGE;
}

int cli_fail(int r, const struct error *err, const char *fmt, ...)
{
    char what[512];
    va_list ap;

    va_start(ap, fmt);
    (void)vsnprintf(what, sizeof(what), fmt, ap);
    va_end(ap);
    return cli_say(error_class_of(err, r) == ERROR_UNAVAILABLE ? CLI_UNREACHABLE : CLI_FAILED,
                   "%s: %s", what, error_text(err, r));
}

const char *cli_address_path(const char *address)
{
    if (str_starts(address, "unix://"))
        address += strlen("unix://");
    else if (str_starts(address, "unix:"))
        address += strlen("unix:");
    return address[0] == '/' ? address : NULL;
}

int cli_reconnect(struct cli *cli, struct error **err)
{
    const char *path = cli_address_path(cli->address);

    if (!path)
        return error_set(err, -EINVAL, "address %s is not unix:///PATH", cli->address);
    grpc_client_free(TAKE(cli->client));
    return grpc_client_connect_unix(path, &cli->client, err);
}

int cli_connect(struct cli *cli)
{
    _cleanup_(error_freep) struct error *err = NULL;
    const char *path = cli_address_path(cli->address);
    int r;

    if (cli->client)
        return 0;
    r = cli_reconnect(cli, &err);
    if (r == 0)
        return 0;
    if (r == -EINVAL)
        return cli_say(CLI_USAGE, "%s", error_text(err, r));
    if (r == -EACCES || r == -EPERM)
        return cli_say(CLI_UNREACHABLE, "%s is not open to this user: run nexus as root", path);
    if (r == -ENOENT || r == -ECONNREFUSED)
        return cli_say(CLI_UNREACHABLE,
                       "nexusd is not running at %s: start it with \"systemctl start nexusd\", or "
                       "name its socket with --address",
                       path);
    return cli_say(CLI_UNREACHABLE, "%s", error_text(err, r));
}

int cli_call(struct cli *cli, const char *method, const ProtobufCMessage *request,
             const ProtobufCMessageDescriptor *response_type, int64_t timeout_ms,
             ProtobufCMessage **ret, struct error **err)
{
    _cleanup_(freep) char *path =
        method[0] == '/' ? str_dup(method) : str_printf("/runtime.v1.%s", method);

    return grpc_client_unary(cli->client, path, request, response_type, timeout_ms, ret, err);
}

void message_free(ProtobufCMessage *m)
{
    if (m)
        protobuf_c_message_free_unpacked(m, NULL);
}
