/* SPDX-License-Identifier: Apache-2.0 */
/* nexus images: what is on this node. */
#include <stdio.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/str.h"
#include "cli/command.h"
#include "cli/json.h"
#include "cli/table.h"
#include "gen/cri/cri.pb-c.h"

static bool arg_quiet;

static void add_row(struct table *t, const Runtime__V1__Image *image, const char *name,
                    const char *tag)
{
    char text[HUMAN_SIZE];

    table_add(t, name);
    table_add(t, tag);
    table_add(t, human_id(image->id, text));
    table_add(t, human_bytes(image->size, text));
}

/* "host:5000/name:tag" at its tag, "name@sha256:…" at its digest. */
static void add_name(struct table *t, const Runtime__V1__Image *image, const char *full)
{
    _cleanup_(freep) char *name = str_dup(full);
    char *at = strchr(name, '@'), *colon = strrchr(name, ':');

    if (at) {
        *at = '\0';
        add_row(t, image, name, "<none>");
    } else if (colon && !strchr(colon, '/')) {
        *colon = '\0';
        add_row(t, image, name, colon + 1);
    } else {
        add_row(t, image, name, "<none>");
    }
}

static void print_table(const Runtime__V1__ListImagesResponse *list)
{
    static const char *const headings[] = {"IMAGE", "TAG", "ID", "SIZE", NULL};
    _cleanup_(table_freep) struct table *t = table_new(headings);

    for (size_t i = 0; i < list->n_images; i++) {
        const Runtime__V1__Image *image = list->images[i];

        for (size_t k = 0; k < image->n_repo_tags; k++)
            add_name(t, image, image->repo_tags[k]);
        if (image->n_repo_tags == 0 && image->n_repo_digests > 0)
            add_name(t, image, image->repo_digests[0]);
        else if (image->n_repo_tags == 0)
            add_row(t, image, "<none>", "<none>");
    }
    table_print(t);
}

static int run_images(struct cli *cli, int argc, char **argv)
{
    Runtime__V1__ListImagesRequest rq = RUNTIME__V1__LIST_IMAGES_REQUEST__INIT;
    Runtime__V1__ImageFilter filter = RUNTIME__V1__IMAGE_FILTER__INIT;
    Runtime__V1__ImageSpec spec = RUNTIME__V1__IMAGE_SPEC__INIT;
    ANSWER(Runtime__V1__ListImagesResponse, list);
    _cleanup_(error_freep) struct error *err = NULL;
    int r = cli_connect(cli);

    if (r != 0)
        return r;
    if (argc > 0) {
        spec.image = argv[0];
        filter.image = &spec;
        rq.filter = &filter;
    }
    r = cli_call(cli, "ImageService/ListImages", &rq.base,
                 &runtime__v1__list_images_response__descriptor, CLI_TIMEOUT_MS, ANSWER_AT(list),
                 &err);
    if (r < 0)
        return cli_fail(r, err, "cannot list images");
    if (cli->json)
        return json_print(json_from_message(&list->base));
    if (arg_quiet)
        for (size_t i = 0; i < list->n_images; i++)
            printf("%s\n", list->images[i]->id);
    else
        print_table(list);
    return CLI_OK;
}

static const struct cli_option options[] = {
    {'q', "quiet", NULL, "ids alone, in full", OPTION_FLAG, &arg_quiet},
    {0},
};

const struct command command_images = {
    .name = "images",
    .synopsis = "[IMAGE]",
    .summary = "List images.",
    .options = options,
    .lists = true,
    .max_args = 1,
    .run = run_images,
};
