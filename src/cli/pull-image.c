/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/pull-image.h"

#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/str.h"
#include "cli/table.h"
#include "gen/cri/cri.pb-c.h"
#include "gen/cri/nexus-admin.pb-c.h"

#define PULL_METHOD "/nexus.v1.Images/Pull"
#define BAR_COLUMNS 24

static const char *phase_text(int phase)
{
    static const char *const texts[] = {"resolving", "downloading", "finishing", "done",
                                        "verifying"};

    return phase >= 0 && phase < (int)ARRAY_SIZE(texts) ? texts[phase] : "pulling";
}

/* One line; bar may be NULL. */
static int format_line(char line[200], const char *name, int phase, const char *bar, uint64_t done,
                       uint64_t total)
{
    char a[HUMAN_SIZE], b[HUMAN_SIZE];

    if (total)
        return snprintf(line, 200, "%.80s: %s %s%s%s%s of %s", name, phase_text(phase),
                        bar ? "[" : "", bar ? bar : "", bar ? "] " : "", human_bytes(done, a),
                        human_bytes(total, b));
    return snprintf(line, 200, "%.80s: %s%s%s", name, phase_text(phase), done ? " " : "",
                    done ? human_bytes(done, a) : "");
}

/* A line that wraps cannot be written over: a long name is shortened, then the bar goes. */
static void format_bar(const struct progress *p, int phase, uint64_t done, uint64_t total,
                       unsigned columns, char out[256])
{
    const char *slash = strrchr(p->image, '/'), *base = slash ? slash + 1 : p->image;
    size_t filled = total ? (size_t)((double)done / (double)total * BAR_COLUMNS) : 0;
    char bar[BAR_COLUMNS + 1], line[200];

    if (filled > BAR_COLUMNS)
        filled = BAR_COLUMNS;
    memset(bar, ' ', BAR_COLUMNS);
    memset(bar, '=', filled);
    bar[BAR_COLUMNS] = '\0';
    if (columns == 0 || columns > sizeof(line))
        columns = sizeof(line);
    if (format_line(line, p->image, phase, bar, done, total) >= (int)columns &&
        format_line(line, base, phase, bar, done, total) >= (int)columns)
        (void)format_line(line, base, phase, NULL, done, total);
    line[columns - 1] = '\0';
    (void)snprintf(out, 256, "\r%s\033[K", line);
}

/* A line when the phase changes or another tenth is there. */
static void format_plain(struct progress *p, int phase, uint64_t done, uint64_t total,
                         char out[256])
{
    unsigned tenth = total ? (unsigned)((double)done / (double)total * 10) : 0;
    char a[HUMAN_SIZE], b[HUMAN_SIZE];

    out[0] = '\0';
    if (phase == p->phase && tenth <= p->told)
        return;
    p->phase = phase;
    p->told = tenth;
    if (total)
        (void)snprintf(out, 256, "%.80s: %s, %s of %s\n", p->image, phase_text(phase),
                       human_bytes(done, a), human_bytes(total, b));
    else
        (void)snprintf(out, 256, "%.80s: %s\n", p->image, phase_text(phase));
}

void progress_format(struct progress *p, int phase, uint64_t done, uint64_t total, unsigned columns,
                     char out[256])
{
    if (done > total && total)
        done = total;
    if (p->terminal)
        format_bar(p, phase, done, total, columns, out);
    else
        format_plain(p, phase, done, total, out);
    p->dirty = p->terminal;
}

static void show(struct progress *p, const Nexus__V1__PullProgress *m)
{
    struct winsize size = {.ws_col = 80};
    char out[256];

    if (p->terminal)
        (void)ioctl(STDERR_FILENO, TIOCGWINSZ, &size);
    progress_format(p, (int)m->phase, m->bytes_done, m->bytes_total, size.ws_col, out);
    (void)fputs(out, stderr);
}

static void show_end(struct progress *p)
{
    if (p->dirty)
        (void)fputs("\r\033[K", stderr);
    p->dirty = false;
}

/* nexusd's method. -EOPNOTSUPP: the server does not have it. */
static int pull_with_progress(struct cli *cli, const char *image, const struct pull_auth *auth,
                              bool quiet, char **ret_ref, struct error **err)
{
    _cleanup_(grpc_client_call_freep) struct grpc_client_call *call = NULL;
    struct progress p = {.image = image, .terminal = isatty(STDERR_FILENO), .phase = -1};
    Nexus__V1__PullRequest rq = NEXUS__V1__PULL_REQUEST__INIT;
    int r;

    rq.image = (char *)(uintptr_t)image;
    if (auth && auth->username) {
        rq.username = (char *)(uintptr_t)auth->username;
        rq.password = (char *)(uintptr_t)(auth->password ? auth->password : "");
    }
    r = grpc_client_start(cli->client, PULL_METHOD, &rq.base, &nexus__v1__pull_progress__descriptor,
                          CLI_NO_TIMEOUT, &call, err);
    while (r >= 0) {
        ANSWER(Nexus__V1__PullProgress, m);

        r = grpc_client_next(call, -1, ANSWER_AT(m), err);
        if (r <= 0)
            break;
        if (!quiet)
            show(&p, m);
        if (*m->image_ref) {
            free(*ret_ref);
            *ret_ref = str_dup(m->image_ref);
        }
    }
    show_end(&p);
    if (r == 0 && !*ret_ref)
        return error_set_class(err, ERROR_INTERNAL, -EPROTO, "the server named no image");
    return r;
}

static int pull_plain(struct cli *cli, const char *image, const struct pull_auth *auth,
                      char **ret_ref, struct error **err)
{
    Runtime__V1__PullImageRequest rq = RUNTIME__V1__PULL_IMAGE_REQUEST__INIT;
    Runtime__V1__ImageSpec spec = RUNTIME__V1__IMAGE_SPEC__INIT;
    Runtime__V1__AuthConfig config = RUNTIME__V1__AUTH_CONFIG__INIT;
    ANSWER(Runtime__V1__PullImageResponse, answer);
    int r;

    spec.image = (char *)(uintptr_t)image;
    rq.image = &spec;
    if (auth && auth->username) {
        config.username = (char *)(uintptr_t)auth->username;
        config.password = (char *)(uintptr_t)(auth->password ? auth->password : "");
        rq.auth = &config;
    }
    r = cli_call(cli, "ImageService/PullImage", &rq.base,
                 &runtime__v1__pull_image_response__descriptor, CLI_NO_TIMEOUT, ANSWER_AT(answer),
                 err);
    if (r < 0)
        return r;
    *ret_ref = str_dup(answer->image_ref);
    return 0;
}

int pull_image(struct cli *cli, const char *image, const struct pull_auth *auth, bool quiet,
               char **ret_ref, struct error **err)
{
    _cleanup_(error_freep) struct error *own = NULL;
    int r;

    *ret_ref = NULL;
    r = pull_with_progress(cli, image, auth, quiet, ret_ref, &own);
    if (r < 0 && error_class_of(own, r) == ERROR_UNSUPPORTED && !*ret_ref)
        return pull_plain(cli, image, auth, ret_ref, err);
    if (r < 0) {
        free(TAKE(*ret_ref));
        if (err)
            *err = TAKE(own);
    }
    return r;
}

int image_present(struct cli *cli, const char *image, char **ret_id, struct error **err)
{
    Runtime__V1__ImageStatusRequest rq = RUNTIME__V1__IMAGE_STATUS_REQUEST__INIT;
    Runtime__V1__ImageSpec spec = RUNTIME__V1__IMAGE_SPEC__INIT;
    ANSWER(Runtime__V1__ImageStatusResponse, answer);
    int r;

    spec.image = (char *)(uintptr_t)image;
    rq.image = &spec;
    r = cli_call(cli, "ImageService/ImageStatus", &rq.base,
                 &runtime__v1__image_status_response__descriptor, CLI_TIMEOUT_MS, ANSWER_AT(answer),
                 err);
    if (r < 0)
        return r;
    if (!answer->image)
        return 0;
    *ret_id = str_dup(answer->image->id);
    return 1;
}
