/* SPDX-License-Identifier: Apache-2.0 */
/* What nexusd wants of one pull: JSON on descriptor 3.
 *
 *   {"reference": "docker.io/library/busybox:latest",    required; any form is accepted
 *    "tag": "a1b2",                                      for names of temporaries, [a-z0-9]{1,32}; required
 *    "architecture": "amd64",                            default: amd64
 *    "endpoints": [{"url": "http://127.0.0.1:5000", "credentials": false, "ca_pem": "…"}],
 *                                                        tried in order; required, or "layout"
 *    "layout": 5,                                        descriptor of an OCI image layout's directory
 *    "auth": {"username", "password", "auth", "identity_token", "registry_token"},
 *    "doubtful": ["<diff_id hex>", …],                   layers to read before they are used again
 *    "concurrency": 3, "retry_base_ms": 500, "low_speed_s": 60}
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "oci/reference.h"

#define PULL_REQUEST_BYTES (1U << 20)
#define PULL_ENDPOINTS 16
#define PULL_CONCURRENCY_MAX 8
#define PULL_DOUBTFUL_MAX 8192

struct pull_endpoint {
    char *url;    /* owned; "https://host[:port]", no trailing slash */
    char *ca_pem; /* owned, or NULL */
    bool credentials;
};

struct pull_request {
    struct oci_reference reference;
    char *tag, *architecture; /* owned */
    struct pull_endpoint endpoints[PULL_ENDPOINTS];
    size_t n_endpoints;
    int layout_fd;                         /* borrowed; -EBADF: a registry is asked */
    char *user_pass;                       /* owned, "user:password"; NULL: none */
    char *identity_token, *registry_token; /* owned, or NULL */
    char **doubtful;                       /* owned, or NULL */
    uint32_t concurrency, retry_base_ms, low_speed_s;
};

/* Parses; bytes may be wiped afterwards. -EINVAL, -EBADMSG with the reason; no secret is in it. */
int pull_request_parse(const void *bytes, size_t len, struct pull_request *ret, struct error **err);
/* Wipes secrets. */
void pull_request_done(struct pull_request *r);
