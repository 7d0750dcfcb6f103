/* SPDX-License-Identifier: Apache-2.0 */
/* nexus-pull: fetches one image and converts it. Started by nexusd with the request on descriptor 3, the
 * image directory on 4 and a pipe for reports as stdout. Protocol and documents of a registry are parsed here,
 * layers in the converters; each behind the fences of sandbox.h. */
#include <errno.h>
#include <locale.h>
#include <malloc.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <curl/curl.h>

#include "base/file.h"
#include "base/log.h"
#include "pull/image.h"
#include "pull/report.h"
#include "pull/sandbox.h"

#define REQUEST_FD 3
#define DIR_FD 4
#define PULL_NICE 10

struct secrets {
    struct pull_request *req;
    char *text;
    size_t len;
};

/* In a converter: what only nexus-pull itself needs to know. */
static void forget(void *userdata)
{
    struct secrets *s = userdata;

    explicit_bzero(s->text, s->len);
    pull_request_done(s->req);
}

static int start_converters(struct converter *list, size_t n, struct secrets *s, struct error **err)
{
    int r = 0;

    for (size_t i = 0; i < n && r == 0; i++)
        r = converter_start(&list[i], forget, s, err);
    return r;
}

static int pull(struct error **err)
{
    struct converter converters[PULL_CONCURRENCY_MAX];
    struct pull_request req;
    struct secrets secrets = {.req = &req};
    int r;

    for (size_t i = 0; i < PULL_CONCURRENCY_MAX; i++)
        converters[i].sock = -EBADF;
    r = fd_read_all(REQUEST_FD, PULL_REQUEST_BYTES, &secrets.text, &secrets.len);
    if (r < 0)
        return error_set(err, r, "cannot read the request: %s", strerror(-r));
    r = pull_request_parse(secrets.text, secrets.len, &req, err);
    if (r == 0)
        r = start_converters(converters, req.concurrency, &secrets, err);
    explicit_bzero(secrets.text, secrets.len);
    free(secrets.text);
    if (r < 0)
        return error_prefix(err, r, "pull request");
    /* after the forks: converters have no use for it */
    if (curl_global_init(CURL_GLOBAL_DEFAULT) != 0)
        return error_set(err, -ENOMEM, "cannot set up the transfer engine");
    r = sandbox_enter(DIR_FD, req.layout_fd, err);
    if (r == 0)
        r = image_fetch(&req, converters, DIR_FD, err);
    for (size_t i = 0; i < PULL_CONCURRENCY_MAX; i++)
        converter_stop(&converters[i]);
    pull_request_done(&req);
    curl_global_cleanup();
    return r;
}

/* A person who has called it; nexusd gives no argument. */
static int tell(const char *word)
{
    static const char usage[] =
        "Usage: nexus-pull\n"
        "Pulls one image. nexusd starts it, with the request on descriptor 3, the directory of\n"
        "images on descriptor 4 and a pipe for reports as standard output. To pull an image by\n"
        "hand: nexus pull IMAGE.\n"
        "\n"
        "      --version  print the version and leave\n"
        "  -h, --help     print this and leave\n";

    if (strcmp(word, "--version") == 0) {
        printf("nexus-pull " NEXUS_VERSION "\n");
        return 0;
    }
    if (strcmp(word, "--help") == 0 || strcmp(word, "-h") == 0) {
        (void)fputs(usage, stdout);
        return 0;
    }
    (void)fprintf(stderr, "nexus-pull: it takes no argument: %s\n", word);
    return 2;
}

int main(int argc, char **argv)
{
    struct error *err = NULL;
    int r;

    if (argc > 1)
        return tell(argv[1]);
    log_init("nexus-pull");
    (void)setlocale(LC_CTYPE, "C.UTF-8"); /* names in tars are UTF-8 or raw bytes */
    (void)mallopt(M_ARENA_MAX, 2);
    (void)signal(SIGPIPE, SIG_IGN);
    /* Beside nexusd (the same cgroup, so pods are not concerned), whose answers must not wait for it. */
    errno = 0; /* nice may return -1 and mean it */
    if (nice(PULL_NICE) == -1 && errno != 0)
        log_warning("cannot lower the priority: %s", strerror(errno));
    report_init(1);
    r = pull(&err);
    if (r < 0) {
        if (error_class_of(err, r) == ERROR_UNAVAILABLE)
            (void)error_prefix(&err, r, "RegistryUnavailable"); /* kubelet looks for this word */
        report_error(err, r);
    }
    error_free(err);
    return r < 0 ? 1 : 0;
}
