/* SPDX-License-Identifier: Apache-2.0 */
/* Bearer tokens: from a challenge to a token. */
#pragma once

#include "oci/challenge.h"
#include "pull/http.h"
#include "pull/request.h"

/* True if the credentials of a registry at endpoint may be sent to realm: https (or plain http where the
 * endpoint is), and the same host or one of the same domain (registry-1.docker.io → auth.docker.io). */
bool token_realm_is_trusted(const char *endpoint_url, const char *realm);

/* Asks the realm for a token to pull repository. with_credentials: the endpoint may see them. A realm
 * that is not trusted is asked without. *ret is the caller's. */
int token_fetch(struct http *h, const struct pull_request *req,
                const struct pull_endpoint *endpoint, const struct oci_challenge *challenge,
                char **ret, struct error **err);
