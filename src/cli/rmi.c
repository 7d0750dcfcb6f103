/* SPDX-License-Identifier: Apache-2.0 */
/* nexus rmi: images, with all their names. */
#include <errno.h>
#include <stdio.h>

#include "base/cleanup.h"
#include "cli/command.h"
#include "cli/pull-image.h"
#include "gen/cri/cri.pb-c.h"

static int remove_image(struct cli *cli, char *name, struct error **err)
{
    Runtime__V1__RemoveImageRequest rq = RUNTIME__V1__REMOVE_IMAGE_REQUEST__INIT;
    Runtime__V1__ImageSpec spec = RUNTIME__V1__IMAGE_SPEC__INIT;
    ANSWER(Runtime__V1__RemoveImageResponse, answer);
    _cleanup_(freep) char *id = NULL;
    int r = image_present(cli, name, &id, err);

    if (r == 0)
        return error_set(err, -ENOENT, "there is no image %s", name);
    if (r < 0)
        return r;
    spec.image = name;
    rq.image = &spec;
    return cli_call(cli, "ImageService/RemoveImage", &rq.base,
                    &runtime__v1__remove_image_response__descriptor, CLI_TIMEOUT_MS,
                    ANSWER_AT(answer), err);
}

static int run_rmi(struct cli *cli, int argc, char **argv)
{
    int code = cli_connect(cli);

    for (int i = 0; i < argc && cli->client; i++) {
        _cleanup_(error_freep) struct error *err = NULL;
        int r = remove_image(cli, argv[i], &err);

        if (r < 0)
            code = cli_fail(r, err, "cannot remove %s", argv[i]);
        else
            printf("%s\n", argv[i]);
    }
    return code;
}

const struct command command_rmi = {
    .name = "rmi",
    .synopsis = "IMAGE...",
    .summary = "Remove images.",
    .description =
        "An image goes with all its tags and digests. Containers that use it keep their files.",
    .min_args = 1,
    .max_args = -1,
    .run = run_rmi,
};
