/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/str.h"
#include "grpc/service-internal.h"

void grpc_services_init(struct grpc_services *s)
{
    hashmap_init(&s->methods);
    hashmap_init(&s->services);
}

void grpc_services_done(struct grpc_services *s)
{
    size_t i;
    void *entry;

    hashmap_foreach (entry, i, &s->methods)
        free(entry);
    hashmap_done(&s->methods);
    hashmap_done(&s->services);
}

static const struct grpc_method *find_handler(const struct grpc_method *methods, const char *name)
{
    for (; methods && methods->name; methods++)
        if (strcmp(methods->name, name) == 0)
            return methods;
    return NULL;
}

static bool all_names_exist(const ProtobufCServiceDescriptor *svc,
                            const struct grpc_method *methods)
{
    for (; methods && methods->name; methods++)
        if (!protobuf_c_service_descriptor_get_method_by_name(svc, methods->name))
            return false;
    return true;
}

int grpc_services_add(struct grpc_services *s, const ProtobufCServiceDescriptor *svc,
                      const struct grpc_method *methods, void *ud)
{
    int r;

    if (hashmap_get(&s->services, svc->name))
        return -EEXIST;
    if (!all_names_exist(svc, methods))
        return -EINVAL;
    r = hashmap_put(&s->services, svc->name, (void *)(uintptr_t)svc);
    if (r < 0)
        return r;
    for (unsigned i = 0; i < svc->n_methods; i++) {
        _cleanup_(freep) char *path = str_printf("/%s/%s", svc->name, svc->methods[i].name);
        _cleanup_(freep) struct grpc_method_entry *entry = xcalloc(1, sizeof(*entry));
        const struct grpc_method *handler = find_handler(methods, svc->methods[i].name);

        entry->method = &svc->methods[i];
        entry->fn = handler ? handler->fn : NULL;
        entry->ud = ud;
        r = hashmap_put(&s->methods, path, entry);
        if (r < 0)
            return r;
        TAKE(entry);
    }
    return 0;
}

const struct grpc_method_entry *grpc_services_find(const struct grpc_services *s, const char *path)
{
    return hashmap_get(&s->methods, path);
}
