/* SPDX-License-Identifier: Apache-2.0 */
/* ListImages, StreamImages, ImageStatus, PullImage, RemoveImage, ImageFsInfo, and nexus.v1's Pull with progress. */
#include <jansson.h>
#include <string.h>

#include "base/clock.h"
#include "base/limit.h"
#include "base/log.h"
#include "base/str.h"
#include "cri/list.h"
#include "cri/validate.h"
#include "gen/cri/nexus-admin.pb-c.h"

static Runtime__V1__Image *image_to_cri(struct arena *a, const struct image *image)
{
    Runtime__V1__Image *m = MESSAGE(a, Runtime__V1__Image, runtime__v1__image__init);
    Runtime__V1__ImageSpec *spec =
        MESSAGE(a, Runtime__V1__ImageSpec, runtime__v1__image_spec__init);

    if (!m || !spec)
        return NULL;
    m->id = image->id;
    m->repo_tags = image->repo_tags;
    m->n_repo_tags = strv_len(image->repo_tags);
    m->repo_digests = image->repo_digests;
    m->n_repo_digests = strv_len(image->repo_digests);
    m->size = image->size_bytes ? image->size_bytes : 1; /* clients take 0 for a broken answer */
    if (image->username) {
        m->username = image->username;
    } else {
        m->uid = MESSAGE(a, Runtime__V1__Int64Value, runtime__v1__int64_value__init);
        if (!m->uid)
            return NULL;
        m->uid->value = image->uid;
    }
    spec->image = image->id;
    m->spec = spec;
    return m;
}

static const char *spec_image(const Runtime__V1__ImageSpec *spec)
{
    return spec ? spec->image : "";
}

/* False: the call was answered. */
static bool images(struct cri *cri, struct grpc_call *call, const Runtime__V1__ImageFilter *filter,
                   struct item_list *l)
{
    struct arena *a = grpc_call_arena(call);
    const char *wanted = filter ? spec_image(filter->image) : "";
    const struct image *only = wanted[0] ? image_lookup(cri->images, wanted) : NULL;
    const struct image *image = NULL;
    size_t count = 0;
    int r;

    while ((image = image_next(cri->images, image)))
        count++;
    r = item_list_init(l, a, count);
    while (r == 0 && (image = image_next(cri->images, image)))
        if (!wanted[0] || image == only)
            r = item_list_add(l, image_to_cri(a, image));
    if (r < 0)
        rpc_no_memory(call);
    return r == 0;
}

void cri_list_images(struct grpc_call *call, const ProtobufCMessage *m, void *ud)
{
    const Runtime__V1__ListImagesRequest *req = (const void *)m;
    struct item_list l;

    if (images(ud, call, req->filter, &l))
        list_reply(call, &runtime__v1__list_images_response__descriptor, &l);
}

void cri_stream_images(struct grpc_call *call, const ProtobufCMessage *m, void *ud)
{
    const Runtime__V1__StreamImagesRequest *req = (const void *)m;
    struct item_list l;

    if (images(ud, call, req->filter, &l))
        list_stream(call, &runtime__v1__stream_images_response__descriptor, &l);
}

void cri_image_status(struct grpc_call *call, const ProtobufCMessage *m, void *ud)
{
    RPC_SCOPE(call);
    const Runtime__V1__ImageStatusRequest *req = (const void *)m;
    struct cri *cri = ud;
    struct arena *a = grpc_call_arena(call);
    _cleanup_(error_freep) struct error *err = NULL;
    Runtime__V1__ImageStatusResponse out = RUNTIME__V1__IMAGE_STATUS_RESPONSE__INIT;
    const struct image *image;

    if (!spec_image(req->image)[0]) {
        rpc_fail(call, error_set(&err, -EINVAL, "the request names no image"), &err);
        return;
    }
    image = image_lookup(cri->images, req->image->image);
    if (image) {
        out.image = image_to_cri(a, image);
        if (!out.image) {
            rpc_no_memory(call);
            return;
        }
    }
    grpc_call_reply(call, &out.base); /* without an image: there is none, and that is no error */
}

static void on_pulled(int r, const struct error *err, const struct image *image, void *userdata)
{
    struct rpc *rpc = userdata;
    Runtime__V1__PullImageResponse out = RUNTIME__V1__PULL_IMAGE_RESPONSE__INIT;

    rpc->pull = NULL;
    if (r < 0) {
        grpc_call_fail_error(rpc->call, r, err);
        return;
    }
    out.image_ref = image->id;
    grpc_call_reply(rpc->call, &out.base);
}

void cri_pull_image(struct grpc_call *call, const ProtobufCMessage *m, void *ud)
{
    RPC_SCOPE(call);
    const Runtime__V1__PullImageRequest *req = (const void *)m;
    struct cri *cri = ud;
    _cleanup_(error_freep) struct error *err = NULL;
    struct rpc *rpc = rpc_new(cri, call, NULL);
    struct image_auth auth = {0};
    int r;

    if (!rpc)
        return;
    if (req->auth) {
        auth.username = req->auth->username;
        auth.password = req->auth->password;
        auth.auth = req->auth->auth;
        auth.server_address = req->auth->server_address;
        auth.identity_token = req->auth->identity_token;
        auth.registry_token = req->auth->registry_token;
    }
    r = check_word("image", spec_image(req->image), LIMIT_REFERENCE_BYTES, &err);
    if (r >= 0)
        r = image_pull(cri->images, req->image->image, req->auth ? &auth : NULL, NULL, on_pulled,
                       rpc, &rpc->pull, &err);
    if (r < 0)
        rpc_fail(call, r, &err);
}

static void on_removed(int r, const struct error *err, void *userdata)
{
    struct rpc *rpc = userdata;
    Runtime__V1__RemoveImageResponse out = RUNTIME__V1__REMOVE_IMAGE_RESPONSE__INIT;

    rpc->removal = NULL;
    if (r < 0)
        grpc_call_fail_error(rpc->call, r, err);
    else
        grpc_call_reply(rpc->call, &out.base);
}

void cri_remove_image(struct grpc_call *call, const ProtobufCMessage *m, void *ud)
{
    RPC_SCOPE(call);
    const Runtime__V1__RemoveImageRequest *req = (const void *)m;
    struct cri *cri = ud;
    _cleanup_(error_freep) struct error *err = NULL;
    struct rpc *rpc = rpc_new(cri, call, NULL);
    int r;

    if (!rpc)
        return;
    if (spec_image(req->image)[0])
        r = image_remove(cri->images, req->image->image, on_removed, rpc, &rpc->removal, &err);
    else
        r = error_set(&err, -EINVAL, "the request names no image");
    if (r < 0)
        rpc_fail(call, r, &err);
    else if (r == 0) /* there is none */
        on_removed(0, NULL, rpc);
}

void cri_image_fs_info(struct grpc_call *call, const ProtobufCMessage *m, void *ud)
{
    struct cri *cri = ud;
    struct image_fs_info info;
    Runtime__V1__ImageFsInfoResponse out = RUNTIME__V1__IMAGE_FS_INFO_RESPONSE__INIT;
    Runtime__V1__FilesystemUsage usage = RUNTIME__V1__FILESYSTEM_USAGE__INIT;
    Runtime__V1__FilesystemUsage *list[1] = {&usage};
    Runtime__V1__FilesystemIdentifier id = RUNTIME__V1__FILESYSTEM_IDENTIFIER__INIT;
    Runtime__V1__UInt64Value bytes = RUNTIME__V1__UINT64_VALUE__INIT;
    Runtime__V1__UInt64Value inodes = RUNTIME__V1__UINT64_VALUE__INIT;

    image_fs_info(cri->images, &info);
    usage.timestamp = (int64_t)clock_real_ns();
    id.mountpoint = text_of(info.mountpoint);
    usage.fs_id = &id;
    bytes.value = info.used_bytes;
    inodes.value = info.inodes_used;
    usage.used_bytes = &bytes;
    usage.inodes_used = &inodes;
    out.image_filesystems = out.container_filesystems = list;
    out.n_image_filesystems = out.n_container_filesystems = 1;
    grpc_call_reply(call, &out.base);
}

/* ---- nexus.v1.Images.Pull */

static void on_progress(uint64_t done_bytes, uint64_t total_bytes, void *userdata)
{
    struct rpc *rpc = userdata;
    Nexus__V1__PullProgress p = NEXUS__V1__PULL_PROGRESS__INIT;

    p.phase = NEXUS__V1__PULL_PROGRESS__PHASE__DOWNLOADING;
    if (total_bytes && done_bytes >= total_bytes)
        p.phase = NEXUS__V1__PULL_PROGRESS__PHASE__FINISHING;
    p.bytes_done = done_bytes;
    p.bytes_total = total_bytes;
    (void)grpc_call_send(rpc->call, &p.base); /* a slow reader misses some; the next one tells */
}

static void on_pulled_with_progress(int r, const struct error *err, const struct image *image,
                                    void *userdata)
{
    struct rpc *rpc = userdata;
    Nexus__V1__PullProgress p = NEXUS__V1__PULL_PROGRESS__INIT;

    rpc->pull = NULL;
    if (r < 0) {
        grpc_call_fail_error(rpc->call, r, err);
        return;
    }
    p.phase = NEXUS__V1__PULL_PROGRESS__PHASE__DONE;
    p.image_ref = image->id;
    r = grpc_call_send(rpc->call, &p.base);
    if (r < 0)
        grpc_call_fail(rpc->call, GRPC_RESOURCE_EXHAUSTED, "the progress is not read");
    else
        grpc_call_finish(rpc->call);
}

void nexus_pull(struct grpc_call *call, const ProtobufCMessage *m, void *ud)
{
    RPC_SCOPE(call);
    const Nexus__V1__PullRequest *req = (const void *)m;
    struct cri *cri = ud;
    _cleanup_(error_freep) struct error *err = NULL;
    struct rpc *rpc = rpc_new(cri, call, NULL);
    struct image_auth auth = {0};
    int r;

    if (!rpc)
        return;
    auth.username = req->username;
    auth.password = req->password;
    auth.registry_token = req->registry_token;
    r = check_word("image", req->image, LIMIT_REFERENCE_BYTES, &err);
    if (r >= 0)
        r = image_pull(cri->images, req->image, &auth, on_progress, on_pulled_with_progress, rpc,
                       &rpc->pull, &err);
    if (r < 0)
        rpc_fail(call, r, &err);
}
