/* SPDX-License-Identifier: Apache-2.0 */
/* The chain of plugins as a state machine: step() starts one, on_child_done() judges it and goes on.
 * Everything happens from the loop; the deadline covers the chain. */
#include <signal.h>
#include <string.h>

#include "base/limit.h"
#include "base/log.h"
#include "base/str.h"
#include "net/cni-child.h"
#include "net/cni-internal.h"
#include "net/cni.h"
#include "net/netns.h"

#define SHOWN_BYTES 512 /* of a plugin's stderr in a message */

struct cni_call {
    sd_event *event;         /* ref */
    struct cni_network *net; /* owned copy */
    enum cni_command cmd;
    struct cni_params params;
    char **paths; /* of the plugins, in their order */
    size_t done_plugins;
    bool repeated;             /* the current plugin runs for the second time (DEL) */
    json_t *prev;              /* owned; what the next plugin gets */
    struct cni_result *result; /* owned; of the latest ADD */
    uint64_t deadline_ms;
    sd_event_source *next, *deadline; /* owned */
    struct cni_child *child;          /* runs now, or NULL */
    int stop;                         /* negative errno: no further plugin is started */
    cni_done_fn done;
    void *userdata;
};

static size_t current(const struct cni_call *c)
{
    return c->cmd == CNI_DEL ? c->net->n_plugins - 1 - c->done_plugins : c->done_plugins;
}

/* ---------------------------------------------------------------- end */

void cni_call_free(struct cni_call *c)
{
    if (!c)
        return;
    cni_child_free(c->child);
    sd_event_source_disable_unref(c->next);
    sd_event_source_disable_unref(c->deadline);
    sd_event_unref(c->event);
    cni_network_free(c->net);
    cni_params_done(&c->params);
    strv_free(c->paths);
    json_decref(c->prev);
    cni_result_free(c->result);
    free(c);
}

static void finish(struct cni_call *c, int r, const struct error *err)
{
    c->done(c, r, r == 0 && c->cmd == CNI_ADD ? c->result : NULL, err, c->userdata);
    cni_call_free(c);
}

/* Puts "CNI ADD, plugin bridge, network x (file)" before what happened. */
static int prefix_plugin(const struct cni_call *c, int r, struct error **err)
{
    return error_prefix(err, r, "CNI %s by plugin %s for network %s (%s)", cni_command_name(c->cmd),
                        c->paths[current(c)], c->net->name, c->net->file);
}

/* ---------------------------------------------------------------- judging */

/* ": stderr: …" or nothing, printable. Owned by the caller. */
static char *shown_stderr(const struct cni_outcome *o)
{
    size_t len = o->tail_len < SHOWN_BYTES ? o->tail_len : SHOWN_BYTES;
    _cleanup_(freep) char *text = cni_printable(o->tail + (o->tail_len - len), len, SHOWN_BYTES);

    return str_printf("%s%s", *text ? "; its stderr: " : "", text);
}

/* We ended it. */
static int judge_ended(const struct cni_call *c, const struct cni_outcome *o, struct error **err)
{
    _cleanup_(freep) char *said = shown_stderr(o);
    bool stuck = o->exit_code < 0 && o->signal == 0;

    if (o->r == -EMSGSIZE)
        return error_set_class(err, ERROR_INTERNAL, -EMSGSIZE,
                               "printed more than %u bytes and was killed: the plugin is broken%s",
                               LIMIT_CNI_STDOUT_BYTES, said);
    if (o->r == -ECANCELED)
        return error_set(err, -ECANCELED, "was cancelled");
    return error_set(
        err, o->r, "did not end within %llu ms and was killed%s: see what it waits for%s",
        (unsigned long long)c->deadline_ms, stuck ? " in vain (it hangs in the kernel)" : "", said);
}

/* It ended badly by itself. */
static int judge_failure(const struct cni_outcome *o, struct error **err)
{
    _cleanup_(freep) char *said = shown_stderr(o), *text = NULL;
    unsigned code = 0;

    if (o->signal)
        return error_set_class(err, ERROR_INTERNAL, -EIO, "was killed by signal %d (%s)%s",
                               o->signal, strsignal(o->signal), said);
    if (cni_error_parse(o->out, o->out_len, &text, &code)) {
        if (code == 11) /* the specification's "try again later" */
            return error_set_class(err, ERROR_UNAVAILABLE, -EAGAIN, "%s (code 11: try again later)",
                                   text);
        return error_set_class(err, ERROR_INTERNAL, -EIO, "%s (code %u)", text, code);
    }
    text = cni_printable(o->out, o->out_len, SHOWN_BYTES);
    return error_set_class(err, ERROR_INTERNAL, -EIO,
                           "exited with code %d without an error object%s%s%s", o->exit_code,
                           *text ? "; its stdout: " : "", text, said);
}

/* An ADD that exited 0 has to have printed the result that was asked for. */
static int judge_result(struct cni_call *c, const struct cni_outcome *o, struct error **err)
{
    const struct cni_expect expect = {c->net->version, c->params.ifname, c->params.netns};
    _cleanup_(cni_result_freep) struct cni_result *res = NULL;
    _cleanup_(freep) char *text = NULL;
    struct error *why = NULL;
    unsigned code;
    int r;

    if (cni_error_parse(o->out, o->out_len, &text, &code))
        return error_set_class(err, ERROR_INTERNAL, -EIO,
                               "reported an error but exited with 0: %s (code %u)", text, code);
    r = cni_result_parse(o->out, o->out_len, &expect, &res, &why);
    if (r < 0) {
        _cleanup_(freep) char *said = shown_stderr(o);

        r = error_set_class(err, ERROR_INTERNAL, r, "exited with 0, but %s%s", error_text(why, r),
                            said);
        error_free(why);
        return r;
    }
    cni_result_free(c->result);
    c->result = TAKE(res);
    json_decref(c->prev);
    c->prev = json_loads(c->result->json, 0, NULL);
    return c->prev ? 0 : error_set(err, -ENOMEM, "out of memory for a CNI result");
}

static int judge(struct cni_call *c, const struct cni_outcome *o, struct error **err)
{
    if (o->r < 0)
        return judge_ended(c, o, err);
    if (o->exit_code != 0)
        return judge_failure(o, err);
    if (o->tail_len > 0)
        log_debug("CNI plugin %s wrote %zu bytes to stderr", c->paths[current(c)], o->tail_len);
    return c->cmd == CNI_ADD ? judge_result(c, o, err) : 0;
}

/* ---------------------------------------------------------------- the chain */

/* A DEL after half an ADD: Debian's bridge plugin (1.1.1) fails on the first rule that is missing, and
 * succeeds when it is called again. What ended by our hand is not repeated. */
static bool may_repeat(const struct cni_call *c, const struct cni_outcome *o)
{
    return c->cmd == CNI_DEL && !c->repeated && o->r == 0 && c->stop == 0;
}

static void on_child_done(const struct cni_outcome *o, void *userdata)
{
    struct cni_call *c = userdata;
    _cleanup_(error_freep) struct error *err = NULL;
    int r;

    c->child = NULL; /* frees itself */
    r = judge(c, o, &err);
    if (r < 0 && may_repeat(c, o)) {
        log_debug("%s; once more", error_text(err, r));
        c->repeated = true;
    } else if (r < 0) {
        finish(c, prefix_plugin(c, r, &err), err);
        return;
    } else {
        c->repeated = false;
        c->done_plugins++;
    }
    error_free(TAKE(err));
    if (sd_event_source_set_enabled(c->next, SD_EVENT_ONESHOT) < 0)
        finish(c, error_set(&err, -ENOMEM, "cannot arm the event loop"), err);
}

static int check_final(const struct cni_call *c, struct error **err)
{
    if (c->cmd == CNI_ADD && c->result->n_ips == 0)
        return error_set_class(
            err, ERROR_INTERNAL, -EBADMSG,
            "network %s (%s) gave the pod no IP address: its plugins reported success without "
            "one; check the ipam section",
            c->net->name, c->net->file);
    return 0;
}

static int start_plugin(struct cni_call *c, struct error **err)
{
    _cleanup_(freep) char *input = cni_plugin_input(c->net, current(c), &c->params, c->prev);
    _cleanup_(strv_freep) char **env = cni_params_environment(&c->params, c->cmd);
    int r;

    if (!input)
        return error_set(err, -ENOMEM, "out of memory for its input");
    r = cni_child_start(c->event, c->paths[current(c)], env, input, on_child_done, c, &c->child,
                        err);
    return r < 0 ? prefix_plugin(c, r, err) : 0;
}

static int on_next(sd_event_source *s, void *userdata)
{
    struct cni_call *c = userdata;
    _cleanup_(error_freep) struct error *err = NULL;
    int r = 0;

    if (c->stop < 0)
        r = error_set(
            &err, c->stop, "CNI %s for network %s: %s", cni_command_name(c->cmd), c->net->name,
            c->stop == -ECANCELED ? "was cancelled" : "deadline passed between two plugins");
    else if (c->done_plugins < c->net->n_plugins)
        r = start_plugin(c, &err);
    else
        r = check_final(c, &err);
    if (r < 0 || c->done_plugins == c->net->n_plugins)
        finish(c, r, err);
    return 0;
}

static void stop(struct cni_call *c, int reason)
{
    if (c->stop == 0)
        c->stop = reason;
    if (c->child)
        cni_child_terminate(c->child, reason);
}

static int on_deadline(sd_event_source *s, uint64_t usec, void *userdata)
{
    stop(userdata, -ETIMEDOUT);
    return 0;
}

void cni_call_cancel(struct cni_call *c)
{
    stop(c, -ECANCELED);
}

/* ---------------------------------------------------------------- start */

static int find_plugins(struct cni_call *c, struct error **err)
{
    for (size_t i = 0; i < c->net->n_plugins; i++) {
        _cleanup_(freep) char *path = NULL;
        int r = cni_find_plugin(c->net->plugins[i].type, c->params.bin_dirs, &path, err);

        if (r < 0)
            return error_prefix(err, r, "CNI %s for network %s (%s)", cni_command_name(c->cmd),
                                c->net->name, c->net->file);
        strv_push(&c->paths, path);
    }
    return 0;
}

static int arm(struct cni_call *c)
{
    int r = sd_event_add_defer(c->event, &c->next, on_next, c);

    if (r >= 0)
        r = sd_event_add_time_relative(c->event, &c->deadline, CLOCK_MONOTONIC,
                                       c->deadline_ms * 1000, 1000, on_deadline, c);
    return r < 0 ? r : 0;
}

static int call_new(sd_event *event, enum cni_command cmd, const struct cni_network *net,
                    const struct cni_request *req, cni_done_fn done, void *userdata,
                    struct cni_call **ret, struct error **err)
{
    _cleanup_(cni_call_freep) struct cni_call *c = xcalloc(1, sizeof(*c));
    int r;

    c->event = sd_event_ref(event);
    c->cmd = cmd;
    c->done = done;
    c->userdata = userdata;
    c->deadline_ms = req->deadline_ms ? req->deadline_ms : LIMIT_CNI_DEADLINE_MS;
    r = cni_network_parse(net->json, strlen(net->json), net->file, &c->net, err);
    if (r == 0)
        r = cni_params_init(&c->params, cmd, req, err);
    if (r == 0)
        r = find_plugins(c, err);
    if (r < 0)
        return r;
    r = arm(c);
    if (r < 0)
        return error_set(err, r, "cannot watch a CNI call: %s", strerror(-r));
    *ret = TAKE(c);
    return 0;
}

int cni_add(sd_event *event, const struct cni_network *net, const struct cni_request *req,
            cni_done_fn done, void *userdata, struct cni_call **ret, struct error **err)
{
    return call_new(event, CNI_ADD, net, req, done, userdata, ret, err);
}

/* A saved result that cannot be read is as good as none: DEL has to work without. */
static void set_previous(struct cni_call *c, const char *result_json)
{
    char why[256];

    if (!result_json || cni_version_at_least(c->net->version, "0.4.0") != 1)
        return;
    if (json_input_parse(result_json, strlen(result_json), LIMIT_CNI_STDOUT_BYTES, &c->prev, why,
                         sizeof(why)) < 0)
        log_debug("CNI %s without the saved result: %s", cni_command_name(c->cmd), why);
}

/* A namespace that is gone is told to plugins as "" (specification, DEL). */
static bool netns_is_there(const char *path)
{
    _cleanup_(closep) int fd = -EBADF;

    return path && *path && netns_open(path, &fd, NULL) == 0;
}

int cni_del(sd_event *event, const struct cni_network *net, const struct cni_request *req,
            const char *result_json, cni_done_fn done, void *userdata, struct cni_call **ret,
            struct error **err)
{
    struct cni_request copy = *req;
    int r;

    if (!netns_is_there(copy.netns))
        copy.netns = NULL;
    r = call_new(event, CNI_DEL, net, &copy, done, userdata, ret, err);
    if (r == 0)
        set_previous(*ret, result_json);
    return r;
}

int cni_check(sd_event *event, const struct cni_network *net, const struct cni_request *req,
              const char *result_json, cni_done_fn done, void *userdata, struct cni_call **ret,
              struct error **err)
{
    int r = call_new(event, CNI_CHECK, net, req, done, userdata, ret, err);

    if (r < 0)
        return r;
    set_previous(*ret, result_json);
    if (net->disable_check || cni_version_at_least(net->version, "0.4.0") != 1)
        (*ret)->done_plugins = (*ret)->net->n_plugins; /* on_next() ends it at once */
    return 0;
}
