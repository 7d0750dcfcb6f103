/* SPDX-License-Identifier: Apache-2.0 */
/* Decoding of every CRI request type (the first byte chooses): what is accepted packs again, and what was
 * packed is accepted again, to the same bytes. */
#include <stdlib.h>
#include <string.h>

#include "gen/cri/cri.pb-c.h"
#include "grpc/pb-internal.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const ProtobufCMessageDescriptor *request_type(uint8_t n)
{
    const ProtobufCServiceDescriptor *run = &runtime__v1__runtime_service__descriptor,
                                     *image = &runtime__v1__image_service__descriptor;
    unsigned i = n % (run->n_methods + image->n_methods);

    return i < run->n_methods ? run->methods[i].input : image->methods[i - run->n_methods].input;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const ProtobufCMessage *first = NULL, *second = NULL;
    char why[GRPC_PB_WHY_SIZE];
    struct arena *a = arena_new(4 << 20);
    const ProtobufCMessageDescriptor *type = request_type(size ? data[0] : 0);

    if (size > 0 && grpc_pb_unpack(type, a, data + 1, size - 1, &first, why) == 0) {
        size_t len = protobuf_c_message_get_packed_size(first);
        uint8_t *one = malloc(len + 1), *two = malloc(len + 1);

        if (!one || !two || protobuf_c_message_pack(first, one) != len)
            abort();
        if (grpc_pb_unpack(type, a, one, len, &second, why) != 0) {
            if (!strstr(why, "memory"))
                abort();
        } else if (protobuf_c_message_get_packed_size(second) != len ||
                   protobuf_c_message_pack(second, two) != len || memcmp(one, two, len) != 0) {
            abort();
        }
        free(one);
        free(two);
    }
    arena_free(a);
    return 0;
}
