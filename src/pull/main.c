/* SPDX-License-Identifier: Apache-2.0 */
/* nexus-pull: fetches one image and converts it. Started by nexusd with the request on descriptor 3, the
 * image directory on 4 and a pipe for reports as stdout. Everything hostile in a registry is parsed here,
 * behind the fences of sandbox.h. */
#include <locale.h>
#include <malloc.h>
#include <stdio.h>
#include <string.h>

#include <curl/curl.h>

#include "base/file.h"
#include "base/log.h"
#include "pull/image.h"
#include "pull/report.h"
#include "pull/sandbox.h"

#define REQUEST_FD 3
#define DIR_FD 4

static int pull(struct error **err)
{
    struct pull_request req;
    char *text = NULL;
    size_t len;
    int r;

    r = fd_read_all(REQUEST_FD, PULL_REQUEST_BYTES, &text, &len);
    if (r < 0)
        return error_set(err, r, "cannot read the request: %s", strerror(-r));
    r = pull_request_parse(text, len, &req, err);
    explicit_bzero(text, len);
    free(text);
    if (r < 0)
        return error_prefix(err, r, "pull request");
    r = sandbox_enter(DIR_FD, req.layout_fd, err);
    if (r == 0)
        r = image_fetch(&req, DIR_FD, err);
    pull_request_done(&req);
    return r;
}

int main(void)
{
    struct error *err = NULL;
    int r;

    log_init("nexus-pull");
    (void)setlocale(LC_CTYPE, "C.UTF-8"); /* names in tars are UTF-8 or raw bytes */
    (void)mallopt(M_ARENA_MAX, 2);
    report_init(1);
    if (curl_global_init(CURL_GLOBAL_DEFAULT) != 0) {
        report_error(NULL, -ENOMEM);
        return 1;
    }
    r = pull(&err);
    if (r < 0) {
        if (error_class_of(err, r) == ERROR_UNAVAILABLE)
            (void)error_prefix(&err, r, "RegistryUnavailable"); /* kubelet looks for this word */
        report_error(err, r);
    }
    error_free(err);
    curl_global_cleanup();
    return r < 0 ? 1 : 0;
}
