/* SPDX-License-Identifier: Apache-2.0 */
/* Plugin chains on the event loop, against tests/fakes/cni-evil: every way in which a plugin can
 * misbehave ends in one callback with a clear text, and leaves no process and no descriptor. */
#include <dirent.h>
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/limit.h"
#include "base/str.h"
#include "lib/test.h"
#include "net/cni.h"

static char evil_dir[] = TEST_DATA "/../fakes";
static char *bin_dirs[] = {evil_dir, NULL};

struct fixture {
    sd_event *event;
    char state[64]; /* where cni-evil counts and records */
    const char *id; /* of the container: nobody else's, since sweeps go by it */
    unsigned fds;
};

static unsigned count_fds(void)
{
    DIR *d = opendir("/proc/self/fd");
    unsigned n = 0;

    assert_non_null(d);
    while (readdir(d))
        n++;
    closedir(d);
    return n;
}

static int set_up(void **state)
{
    struct fixture *f = xcalloc(1, sizeof(*f));

    f->fds = count_fds();
    assert_true(sd_event_new(&f->event) >= 0);
    (void)snprintf(f->state, sizeof(f->state), "/tmp/nexus-evil-XXXXXX");
    assert_non_null(mkdtemp(f->state));
    f->id = strrchr(f->state, '/') + 1;
    *state = f;
    return 0;
}

static int tear_down(void **state)
{
    struct fixture *f = *state;
    unsigned fds;

    sd_event_unref(f->event);
    (void)dir_remove_tree(AT_FDCWD, f->state);
    fds = f->fds;
    free(f);
    assert_int_equal(count_fds(), fds);
    return 0;
}

/* n plugins, all cni-evil with these modes. */
static struct cni_network *make_network(const struct fixture *f, const char *const *add,
                                        const char *const *del, size_t n)
{
    json_t *plugins = json_array(), *doc;
    struct cni_network *net = NULL;
    char *text;

    for (size_t i = 0; i < n; i++)
        (void)json_array_append_new(plugins, json_pack("{s:s,s:{s:s,s:s,s:s}}", "type", "cni-evil",
                                                       "evil", "ADD", add[i], "DEL",
                                                       del ? del[i] : "ok", "state", f->state));
    doc = json_pack("{s:s,s:s,s:o}", "cniVersion", "1.0.0", "name", "evil", "plugins", plugins);
    text = json_dumps(doc, 0);
    assert_int_equal(cni_network_parse(text, strlen(text), "/etc/evil.conflist", &net, NULL), 0);
    free(text);
    json_decref(doc);
    return net;
}

static struct cni_request request(const struct fixture *f)
{
    return (struct cni_request){.container_id = f->id,
                                .netns = "/run/netns/x",
                                .ifname = "eth0",
                                .bin_dirs = bin_dirs,
                                .deadline_ms = 30000};
}

static json_t *read_json(const struct fixture *f, const char *name)
{
    _cleanup_(freep) char *path = str_printf("%s/%s", f->state, name);
    json_t *doc = json_load_file(path, 0, NULL);

    assert_non_null(doc);
    return doc;
}

struct outcome {
    bool done;
    int r;
    char *text; /* owned */
    enum error_class class;
    char *json; /* owned; of an ADD */
    size_t n_ips;
};

static void on_done(struct cni_call *call, int r, struct cni_result *result,
                    const struct error *err, void *userdata)
{
    struct outcome *o = userdata;

    assert_false(o->done);
    o->done = true;
    o->r = r;
    o->text = str_dup_or_null(err ? err->message : NULL);
    o->class = error_class_of(err, r);
    o->json = str_dup_or_null(result ? result->json : NULL);
    o->n_ips = result ? result->n_ips : 0;
    assert_int_equal(r < 0, err != NULL);
}

static void outcome_done(struct outcome *o)
{
    free(o->text);
    free(o->json);
    *o = (struct outcome){0};
}

static void run_until(const struct fixture *f, const bool *done)
{
    while (!*done)
        assert_true(sd_event_run(f->event, UINT64_MAX) >= 0);
}

static void add(const struct fixture *f, const char *mode, uint64_t deadline_ms, struct outcome *o)
{
    struct cni_network *net = make_network(f, &mode, NULL, 1);
    struct cni_request req = request(f);
    struct cni_call *call;

    if (deadline_ms)
        req.deadline_ms = deadline_ms;
    *o = (struct outcome){0};
    assert_int_equal(cni_add(f->event, net, &req, on_done, o, &call, NULL), 0);
    cni_network_free(net); /* the call has its own */
    run_until(f, &o->done);
}

/* ---------------------------------------------------------------- each misbehaviour */

static const struct {
    const char *mode;
    int r;
    enum error_class class;
    const char *text;
} faults[] = {
    {"exit-json", -EIO, ERROR_INTERNAL, "evil refuses; told so by its configuration (code 7)"},
    {"exit-silent", -EIO, ERROR_INTERNAL, "exited with code 1 without an error object"},
    {"exit-text", -EIO, ERROR_INTERNAL,
     "its stdout: panic: out of ideas; its stderr: goroutine 1 [running] ?[31mred"},
    {"try-again", -EAGAIN, ERROR_UNAVAILABLE, "evil is busy"},
    {"error-exit-0", -EIO, ERROR_INTERNAL,
     "reported an error but exited with 0: evil refuses politely"},
    {"garbage", -EBADMSG, ERROR_INTERNAL, "exited with 0, but the result is no acceptable JSON"},
    {"partial", -EBADMSG, ERROR_INTERNAL, "no acceptable JSON"},
    {"empty", -EBADMSG, ERROR_INTERNAL, "the result is empty"},
    {"deep", -E2BIG, ERROR_INTERNAL, "nested deeper"},
    {"bad-utf8", -EBADMSG, ERROR_INTERNAL, "unable to decode"},
    {"wrong-version", -EBADMSG, ERROR_INTERNAL, "cniVersion is \"9.9.9\", asked was 1.0.0"},
    {"wrong-ifname", -EBADMSG, ERROR_INTERNAL, "do not contain eth0"},
    {"wrong-netns", -EBADMSG, ERROR_INTERNAL, "/run/netns/of-another-pod, asked was /run/netns/x"},
    {"no-ips", -EBADMSG, ERROR_INTERNAL, "gave the pod no IP address"},
    {"flood", -EMSGSIZE, ERROR_INTERNAL, "printed more than 1048576 bytes"},
    {"kill", -EIO, ERROR_INTERNAL, "was killed by signal 9"},
    {"segv", -EIO, ERROR_INTERNAL, "was killed by signal 11"},
};

static void fault_is_told_clearly(void **state)
{
    for (size_t i = 0; i < ARRAY_SIZE(faults); i++) {
        struct outcome o;

        add(*state, faults[i].mode, 0, &o);
        print_message("# %s: %s\n", faults[i].mode, o.text ? o.text : "no error");
        assert_int_equal(o.r, faults[i].r);
        assert_int_equal(o.class, faults[i].class);
        assert_null(o.json);
        assert_non_null(strstr(o.text, faults[i].text));
        assert_true(strlen(o.text) <= LIMIT_ERROR_TEXT_BYTES);
        /* who, for what, from which file */
        assert_non_null(strstr(o.text, "network evil (/etc/evil.conflist)"));
        if (i != 13) /* no-ips is the chain's fault, not one plugin's */
            assert_non_null(strstr(o.text, "/fakes/cni-evil"));
        outcome_done(&o);
    }
}

static void plugin_that_is_missing_is_refused_before_anything_runs(void **state)
{
    struct fixture *f = *state;
    const char *modes[] = {"ok", "ok"};
    struct cni_network *net = make_network(f, modes, NULL, 2);
    struct cni_request req = request(f);
    _cleanup_(error_freep) struct error *err = NULL;
    _cleanup_(freep) char *calls = str_printf("%s/calls", f->state);
    struct cni_call *call = NULL;
    char nowhere[] = "/nonexistent/bin";
    char *dirs[] = {nowhere, NULL};

    req.bin_dirs = dirs;
    assert_int_equal(cni_add(f->event, net, &req, on_done, NULL, &call, &err), -ENOENT);
    assert_non_null(strstr(
        err->message, "CNI ADD for network evil (/etc/evil.conflist): CNI plugin \"cni-evil\" is "
                      "in none of /nonexistent/bin"));
    assert_int_equal(err->class, ERROR_UNAVAILABLE);
    assert_int_equal(access(calls, F_OK), -1);
    cni_network_free(net);
}

static void plugin_that_cannot_be_executed_is_an_error_of_the_call(void **state)
{
    struct fixture *f = *state;
    const char *text =
        "{\"cniVersion\":\"1.0.0\",\"name\":\"n\",\"plugins\":[{\"type\":\"broken\"}]}";
    _cleanup_(freep) char *path = str_printf("%s/broken", f->state);
    int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0755);
    char *dirs[] = {f->state, NULL};
    struct cni_request req = request(f);
    struct cni_network *net;
    struct cni_call *call;
    struct outcome o = {0};

    assert_int_equal(write_full(fd, "\x7f", 1), 0);
    close(fd);
    req.bin_dirs = dirs;
    assert_int_equal(cni_network_parse(text, strlen(text), "f", &net, NULL), 0);
    assert_int_equal(cni_add(f->event, net, &req, on_done, &o, &call, NULL), 0);
    cni_network_free(net);
    run_until(f, &o.done);
    assert_int_equal(o.r, -ENOEXEC);
    assert_non_null(strstr(o.text, "cannot run "));
    outcome_done(&o);
}

static void stderr_of_100_mb_is_read_and_its_end_kept(void **state)
{
    struct outcome o;

    add(*state, "flood-stderr", 0, &o);
    assert_int_equal(o.r, 0);
    outcome_done(&o);
}

/* ---------------------------------------------------------------- time, processes */

static void plugin_that_hangs_is_ended_at_the_deadline(void **state)
{
    static const char *const modes[] = {"hang", "hang-ignore-term"};

    for (size_t i = 0; i < ARRAY_SIZE(modes); i++) {
        struct outcome o;

        add(*state, modes[i], 500, &o);
        print_message("# %s: %s\n", modes[i], o.text);
        assert_int_equal(o.r, -ETIMEDOUT);
        assert_int_equal(o.class, ERROR_DEADLINE);
        assert_non_null(strstr(o.text, "did not end within 500 ms and was killed"));
        assert_non_null(strstr(o.text, "waiting for a lock"));
        outcome_done(&o);
    }
}

static void what_a_plugin_leaves_in_its_group_is_killed(void **state)
{
    struct fixture *f = *state;
    struct pollfd p = {.events = POLLIN};
    struct outcome o;
    json_t *doc;

    add(f, "orphan", 0, &o);
    assert_int_equal(o.r, 0);
    outcome_done(&o);
    /* it was to sleep for an hour */
    doc = read_json(f, "child.json");
    p.fd = (int)syscall(SYS_pidfd_open, (pid_t)json_integer_value(json_object_get(doc, "pid")), 0);
    if (p.fd >= 0)
        assert_int_equal(poll(&p, 1, 60000), 1);
    close_fd(p.fd);
    json_decref(doc);
}

static void daemon_that_holds_stdout_does_not_hold_the_call(void **state)
{
    struct fixture *f = *state;
    _cleanup_(freep) char *id = str_dup(f->id), *other = str_ndup(f->id, strlen(f->id) - 1);
    char *ids[] = {id, NULL}, *others[] = {other, NULL};
    struct outcome o;

    add(f, "daemonize", 0, &o);
    assert_int_equal(o.r, 0);
    assert_int_equal(o.n_ips, 1);
    /* it left the group; only the sweep of recovery finds it, by the whole id */
    assert_int_equal(cni_kill_leftovers(others, NULL), 0);
    assert_int_equal(cni_kill_leftovers(ids, NULL), 1);
    assert_int_equal(cni_kill_leftovers(ids, NULL), 0);
    outcome_done(&o);
}

static int on_cancel(sd_event_source *s, uint64_t usec, void *userdata)
{
    cni_call_cancel(userdata);
    return 0;
}

static void cancel_ends_the_plugin_and_reports(void **state)
{
    struct fixture *f = *state;
    const char *mode = "hang";

    for (uint64_t ms = 0; ms <= 300; ms += 300) { /* before the plugin runs, and while it does */
        struct cni_network *net = make_network(f, &mode, NULL, 1);
        struct cni_request req = request(f);
        sd_event_source *timer = NULL;
        struct cni_call *call;
        struct outcome o = {0};

        assert_int_equal(cni_add(f->event, net, &req, on_done, &o, &call, NULL), 0);
        cni_network_free(net);
        if (ms == 0)
            cni_call_cancel(call);
        else
            assert_true(sd_event_add_time_relative(f->event, &timer, CLOCK_MONOTONIC, ms * 1000, 1,
                                                   on_cancel, call) >= 0);
        run_until(f, &o.done);
        sd_event_source_unref(timer);
        assert_int_equal(o.r, -ECANCELED);
        assert_int_equal(o.class, ERROR_CANCELLED);
        outcome_done(&o);
    }
}

static void free_without_callback_kills_and_reaps(void **state)
{
    struct fixture *f = *state;
    const char *mode = "hang-ignore-term";
    struct cni_network *net = make_network(f, &mode, NULL, 1);
    struct cni_request req = request(f);
    _cleanup_(freep) char *id = str_dup(f->id);
    char *ids[] = {id, NULL};
    struct cni_call *call;
    struct outcome o = {0};

    assert_int_equal(cni_add(f->event, net, &req, on_done, &o, &call, NULL), 0);
    cni_network_free(net);
    assert_true(sd_event_run(f->event, 0) >= 0); /* starts the plugin */
    cni_call_free(call);
    assert_true(sd_event_run(f->event, UINT64_MAX) > 0); /* its end */
    assert_int_equal(cni_kill_leftovers(ids, NULL), 0);
    assert_false(o.done);
}

static void one_that_hangs_delays_nobody_else(void **state)
{
    struct fixture *f = *state;
    const char *hang = "hang", *ok = "ok";
    struct cni_network *bad = make_network(f, &hang, NULL, 1),
                       *good = make_network(f, &ok, NULL, 1);
    struct outcome stuck = {0}, o[6] = {0};
    struct cni_request req = request(f);
    struct cni_call *stuck_call, *call;

    assert_int_equal(cni_add(f->event, bad, &req, on_done, &stuck, &stuck_call, NULL), 0);
    for (size_t i = 0; i < ARRAY_SIZE(o); i++)
        assert_int_equal(cni_add(f->event, good, &req, on_done, &o[i], &call, NULL), 0);
    for (size_t i = 0; i < ARRAY_SIZE(o); i++) {
        run_until(f, &o[i].done);
        assert_int_equal(o[i].r, 0);
        outcome_done(&o[i]);
    }
    assert_false(stuck.done);
    cni_call_cancel(stuck_call);
    run_until(f, &stuck.done);
    assert_int_equal(stuck.r, -ECANCELED);
    outcome_done(&stuck);
    cni_network_free(bad);
    cni_network_free(good);
}

/* ---------------------------------------------------------------- the chain, DEL, CHECK */

static void plugin_sees_three_descriptors_and_a_clean_environment(void **state)
{
    struct fixture *f = *state;
    struct outcome o;
    json_t *doc, *fds;
    int extra = open("/dev/null", O_RDONLY); /* NOLINT: without O_CLOEXEC on purpose */
    const char *key;
    json_t *value;

    assert_true(extra >= 0);
    assert_int_equal(setenv("LD_NEXUS_SECRET", "1", 1), 0);
    add(f, "record", 0, &o);
    close(extra);
    (void)unsetenv("LD_NEXUS_SECRET");
    assert_int_equal(o.r, 0);
    outcome_done(&o);

    doc = read_json(f, "record.json");
    fds = json_object_get(doc, "fds");
    /* 0-2, and the directory that the plugin itself reads */
    json_object_foreach (fds, key, value)
        assert_true(strlen(key) == 1 && *key <= '3');
    assert_string_equal(json_string_value(json_object_get(doc, "cwd")), "/");
    assert_true(json_equal(json_object_get(doc, "pid"), json_object_get(doc, "pgid")));
    assert_true(json_equal(json_object_get(doc, "pid"), json_object_get(doc, "sid")));
    assert_string_equal(
        json_string_value(json_object_get(json_object_get(doc, "signals"), "SigBlk")),
        "0000000000000000");
    json_object_foreach (json_object_get(doc, "env"), key, value)
        assert_true(str_starts(key, "CNI_") || str_equal(key, "PATH") ||
                    str_equal(key, "LC_CTYPE")); /* python's */
    assert_string_equal(
        json_string_value(json_object_get(json_object_get(doc, "stdin"), "cniVersion")), "1.0.0");
    json_decref(doc);
}

static void del(const struct fixture *f, struct cni_network *net, const char *result,
                struct outcome *o)
{
    struct cni_request req = request(f);
    struct cni_call *call;

    *o = (struct outcome){0};
    assert_int_equal(cni_del(f->event, net, &req, result, on_done, o, &call, NULL), 0);
    run_until(f, &o->done);
}

static void del_is_repeated_until_it_succeeds(void **state)
{
    struct fixture *f = *state;
    const char *add_mode = "ok", *del_mode = "fail:5";
    struct cni_network *net = make_network(f, &add_mode, &del_mode, 1);
    struct outcome o;
    _cleanup_(freep) char *path = str_printf("%s/calls", f->state), *calls = NULL, *want = NULL;

    for (int i = 0; i < 4; i++) {
        del(f, net, NULL, &o);
        assert_int_equal(o.r,
                         i < 2 ? -EIO : 0); /* two calls each; the third succeeds by its second */
        outcome_done(&o);
    }
    /* the namespace is not there, so plugins are told that there is none */
    assert_int_equal(file_read_all(AT_FDCWD, path, 4096, &calls, NULL), 0);
    want = str_printf("DEL %s \nDEL %s \n", f->id, f->id);
    assert_true(str_starts(calls, want));
    assert_int_equal(strlen(calls), strlen(want) / 2 * 7);
    cni_network_free(net);
}

static void del_runs_with_a_damaged_result_or_none(void **state)
{
    struct fixture *f = *state;
    const char *add_mode = "ok", *del_mode = "record";
    struct cni_network *net = make_network(f, &add_mode, &del_mode, 1);
    static const char *const results[] = {NULL, "", "{", "{\"cniVersion\":\"1.0.0\"}"};

    for (size_t i = 0; i < ARRAY_SIZE(results); i++) {
        struct outcome o;
        json_t *doc;

        del(f, net, results[i], &o);
        assert_int_equal(o.r, 0);
        outcome_done(&o);
        doc = read_json(f, "record.json");
        assert_int_equal(json_object_get(json_object_get(doc, "stdin"), "prevResult") != NULL,
                         i == 3);
        json_decref(doc);
    }
    cni_network_free(net);
}

static void chain_passes_results_on_and_del_goes_backwards(void **state)
{
    struct fixture *f = *state;
    const char *add_modes[] = {"ok", "record", "exit-json"},
               *del_modes[] = {"exit-json", "record", "ok"};
    struct cni_network *net = make_network(f, add_modes, del_modes, 3);
    struct cni_request req = request(f);
    struct cni_call *call;
    struct outcome o = {0};
    json_t *doc;

    assert_int_equal(cni_add(f->event, net, &req, on_done, &o, &call, NULL), 0);
    run_until(f, &o.done);
    assert_int_equal(o.r, -EIO);
    assert_null(o.json); /* half a chain has no result */
    outcome_done(&o);
    doc = read_json(f, "record.json");
    assert_non_null(
        json_object_get(json_object_get(json_object_get(doc, "stdin"), "prevResult"), "ips"));
    json_decref(doc);
    del(f, net, NULL, &o); /* third, second (records), first (fails) */
    assert_int_equal(o.r, -EIO);
    outcome_done(&o);
    doc = read_json(f, "record.json");
    assert_string_equal(
        json_string_value(json_object_get(json_object_get(doc, "env"), "CNI_COMMAND")), "DEL");
    json_decref(doc);
    cni_network_free(net);
}

static void check_is_skipped_where_the_network_says_so(void **state)
{
    struct fixture *f = *state;
    static const struct {
        const char *text;
        bool runs;
    } nets[] = {
        {"{\"cniVersion\":\"0.3.1\",\"name\":\"n\",\"plugins\":[{\"type\":\"cni-evil\",\"evil\":{"
         "\"CHECK\":\"exit-json\"}}]}",
         false},
        {"{\"cniVersion\":\"0.4.0\",\"name\":\"n\",\"plugins\":[{\"type\":\"cni-evil\",\"evil\":{"
         "\"CHECK\":\"exit-json\"}}]}",
         true},
        {"{\"cniVersion\":\"1.0.0\",\"name\":\"n\",\"disableCheck\":true,"
         "\"plugins\":[{\"type\":\"cni-evil\",\"evil\":{\"CHECK\":\"exit-json\"}}]}",
         false},
    };

    for (size_t i = 0; i < ARRAY_SIZE(nets); i++) {
        struct cni_request req = request(f);
        struct cni_network *net;
        struct cni_call *call;
        struct outcome o = {0};

        assert_int_equal(cni_network_parse(nets[i].text, strlen(nets[i].text), "f", &net, NULL), 0);
        assert_int_equal(cni_check(f->event, net, &req, NULL, on_done, &o, &call, NULL), 0);
        assert_false(o.done); /* never from inside */
        run_until(f, &o.done);
        assert_int_equal(o.r, nets[i].runs ? -EIO : 0);
        outcome_done(&o);
        cni_network_free(net);
    }
}

#define WITH_LOOP(f) cmocka_unit_test_setup_teardown(f, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        WITH_LOOP(fault_is_told_clearly),
        WITH_LOOP(plugin_that_is_missing_is_refused_before_anything_runs),
        WITH_LOOP(plugin_that_cannot_be_executed_is_an_error_of_the_call),
        WITH_LOOP(stderr_of_100_mb_is_read_and_its_end_kept),
        WITH_LOOP(plugin_that_hangs_is_ended_at_the_deadline),
        WITH_LOOP(what_a_plugin_leaves_in_its_group_is_killed),
        WITH_LOOP(daemon_that_holds_stdout_does_not_hold_the_call),
        WITH_LOOP(cancel_ends_the_plugin_and_reports),
        WITH_LOOP(free_without_callback_kills_and_reaps),
        WITH_LOOP(one_that_hangs_delays_nobody_else),
        WITH_LOOP(plugin_sees_three_descriptors_and_a_clean_environment),
        WITH_LOOP(del_is_repeated_until_it_succeeds),
        WITH_LOOP(del_runs_with_a_damaged_result_or_none),
        WITH_LOOP(chain_passes_results_on_and_del_goes_backwards),
        WITH_LOOP(check_is_skipped_where_the_network_says_so),
    };
    return cmocka_run_group_tests(tests, NULL, NULL) != 0;
}
