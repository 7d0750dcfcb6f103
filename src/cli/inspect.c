/* SPDX-License-Identifier: Apache-2.0 */
/* nexus inspect: everything the server knows of one thing, as JSON. */
#include <errno.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/str.h"
#include "cli/command.h"
#include "cli/json.h"
#include "cli/resolve.h"
#include "gen/cri/cri.pb-c.h"

static const char *arg_type;

/* The verbose info is a map of JSON texts: show them as what they are. */
static json_t *with_info(json_t *j)
{
    json_t *info = json_object_get(j, "info"), *value, *parsed;
    const char *key;

    json_object_foreach (info, key, value) {
        parsed = json_loads(json_string_value(value) ? json_string_value(value) : "", 0, NULL);
        if (parsed)
            (void)json_object_set_new(info, key, parsed);
    }
    return j;
}

static int inspect_container(struct cli *cli, char *id, json_t **ret, struct error **err)
{
    Runtime__V1__ContainerStatusRequest rq = RUNTIME__V1__CONTAINER_STATUS_REQUEST__INIT;
    ANSWER(Runtime__V1__ContainerStatusResponse, answer);
    int r;

    rq.container_id = id;
    rq.verbose = true;
    r = cli_call(cli, "RuntimeService/ContainerStatus", &rq.base,
                 &runtime__v1__container_status_response__descriptor, CLI_TIMEOUT_MS,
                 ANSWER_AT(answer), err);
    if (r == 0)
        *ret = with_info(json_from_message(&answer->base));
    return r;
}

static int inspect_pod(struct cli *cli, char *id, json_t **ret, struct error **err)
{
    Runtime__V1__PodSandboxStatusRequest rq = RUNTIME__V1__POD_SANDBOX_STATUS_REQUEST__INIT;
    ANSWER(Runtime__V1__PodSandboxStatusResponse, answer);
    int r;

    rq.pod_sandbox_id = id;
    rq.verbose = true;
    r = cli_call(cli, "RuntimeService/PodSandboxStatus", &rq.base,
                 &runtime__v1__pod_sandbox_status_response__descriptor, CLI_TIMEOUT_MS,
                 ANSWER_AT(answer), err);
    if (r == 0)
        *ret = with_info(json_from_message(&answer->base));
    return r;
}

static int inspect_image(struct cli *cli, char *name, json_t **ret, struct error **err)
{
    Runtime__V1__ImageStatusRequest rq = RUNTIME__V1__IMAGE_STATUS_REQUEST__INIT;
    Runtime__V1__ImageSpec spec = RUNTIME__V1__IMAGE_SPEC__INIT;
    ANSWER(Runtime__V1__ImageStatusResponse, answer);
    int r;

    spec.image = name;
    rq.image = &spec;
    rq.verbose = true;
    r = cli_call(cli, "ImageService/ImageStatus", &rq.base,
                 &runtime__v1__image_status_response__descriptor, CLI_TIMEOUT_MS, ANSWER_AT(answer),
                 err);
    if (r < 0)
        return r;
    if (!answer->image)
        return error_set(err, -ENOENT, "there is no image %s", name);
    *ret = with_info(json_from_message(&answer->base));
    return 0;
}

static int inspect(struct cli *cli, char *name, unsigned kinds, bool images, json_t **ret,
                   struct error **err)
{
    _cleanup_(error_freep) struct error *own = NULL;
    _cleanup_(freep) char *id = NULL;
    enum object_kind kind;
    int r = kinds ? resolve(cli, name, kinds, &kind, &id, &own) : -ENOENT;

    if (r == 0)
        return kind == OBJECT_CONTAINER ? inspect_container(cli, id, ret, err)
                                        : inspect_pod(cli, id, ret, err);
    if (r != -ENOENT || !images) {
        *err = TAKE(own);
        return r;
    }
    r = inspect_image(cli, name, ret, err);
    if (r == -ENOENT && kinds) {
        error_free(TAKE(*err));
        return error_set(err, -ENOENT, "there is no container, pod or image %s", name);
    }
    return r;
}

static int run_inspect(struct cli *cli, int argc, char **argv)
{
    unsigned kinds = OBJECT_CONTAINER | OBJECT_POD;
    bool images = true;
    json_t *all = NULL;
    int r;

    if (arg_type) {
        images = strcmp(arg_type, "image") == 0;
        kinds = strcmp(arg_type, "container") == 0 ? OBJECT_CONTAINER
                : strcmp(arg_type, "pod") == 0     ? OBJECT_POD
                                                   : 0;
        if (!images && !kinds)
            return cli_usage("inspect", "--type is container, pod or image, not %s", arg_type);
    }
    r = cli_connect(cli);
    if (r != 0)
        return r;
    if (argc > 1)
        all = json_array();
    for (int i = 0; i < argc; i++) {
        _cleanup_(error_freep) struct error *err = NULL;
        json_t *one = NULL;

        r = inspect(cli, argv[i], kinds, images, &one, &err);
        if (r < 0) {
            json_decref(all);
            return cli_fail(r, err, "cannot inspect %s", argv[i]);
        }
        if (!all)
            return json_print(one);
        (void)json_array_append_new(all, one);
    }
    return json_print(all);
}

static const struct cli_option options[] = {
    {0, "type", "TYPE", "container, pod or image (default: whichever it is)", OPTION_STRING,
     &arg_type},
    {0},
};

const struct command command_inspect = {
    .name = "inspect",
    .synopsis = "CONTAINER|POD|IMAGE...",
    .summary = "Print all about containers, pods or images as JSON.",
    .options = options,
    .min_args = 1,
    .max_args = -1,
    .run = run_inspect,
};
