/* SPDX-License-Identifier: Apache-2.0 */
/* Host paths of mounts and targets of "..data": whatever they are, what comes out stays below its base. The
 * first line of the input is the path, the second kubelet's root, the rest a listed directory. */
#include <stdint.h>
#include <string.h>

#include "base/str.h"
#include "volume/kind.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(bool ok)
{
    if (!ok)
        abort();
}

/* "a/b": no empty part, no "." and no "..". */
static void check_clean(const char *rel)
{
    while (*rel) {
        size_t n = strcspn(rel, "/");

        check(n > 0 && !(n == 1 && rel[0] == '.') && !(n == 2 && rel[0] == '.' && rel[1] == '.'));
        rel += n;
        if (*rel)
            check(*++rel != '\0');
    }
}

static void check_path(const struct volume_roots *roots, const char *path)
{
    static struct volume_path p, again;
    static char full[2 * PATH_MAX + 2];

    if (volume_path_parse(roots, path, &p) < 0)
        return;
    check_clean(p.rel);
    check(p.root_len <= strlen(p.rel));
    check(p.root_len == 0 || p.rel[p.root_len] == '/' || p.rel[p.root_len] == '\0');
    check(strchr(p.pod_uid, '/') == NULL && strchr(p.name, '/') == NULL);
    if (p.place == VOLUME_PLACE_OTHER)
        return;
    (void)snprintf(full, sizeof(full), "%s/%s", p.base, p.rel); /* the same from its own text */
    if (strlen(full) < PATH_MAX) {
        check(volume_path_parse(roots, full, &again) == 0);
        check(again.place == p.place && again.plugin == p.plugin && again.root_len == p.root_len);
        check(strcmp(again.rel, p.rel) == 0);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char *text = str_ndup((const char *)data, size), *rest = text;
    char *path = strsep(&rest, "\n"), *kubelet = strsep(&rest, "\n");
    char *listed[] = {rest, NULL};
    const struct volume_roots roots = {
        .kubelet_root = kubelet && kubelet[0] == '/' ? kubelet : NULL,
        .listed = rest && rest[0] == '/' ? listed : NULL,
    };

    check_path(&roots, path);
    if (volume_data_target_is_valid((const char *)data, size))
        check(size > 2 && size <= NAME_MAX && !memchr(data, '/', size) && !memchr(data, 0, size));
    free(text);
    return 0;
}
