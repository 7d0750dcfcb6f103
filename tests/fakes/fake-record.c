/* SPDX-License-Identifier: Apache-2.0 */
#include "fakes/fake-record.h"

#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/str.h"

static char *prefix; /* DIR/<id>; NULL: nothing is recorded */

void fake_record_open(const char *dir, const char *id)
{
    prefix = dir ? str_printf("%s/%s", dir, id) : NULL;
}

static void line(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
static void line(const char *fmt, ...)
{
    FILE *f = prefix ? fopen(prefix, "ae") : NULL;
    va_list ap;

    if (!f)
        return;
    va_start(ap, fmt);
    (void)vfprintf(f, fmt, ap);
    va_end(ap);
    (void)fputc('\n', f);
    (void)fclose(f);
}

/* The bytes from offset 0 on, zeros behind the end of the file. */
static void copy_segment(int out, int in, uint64_t bytes)
{
    static char page[4096];

    for (uint64_t at = 0; at < bytes; at += sizeof(page)) {
        memset(page, 0, sizeof(page));
        (void)!pread(in, page, sizeof(page), (off_t)at);
        (void)!write(out, page, sizeof(page));
    }
}

void fake_record_region(const char *key, const int *fds, const uint64_t *segment_bytes, size_t n,
                        bool more, uint64_t gpa)
{
    _cleanup_(freep) char *path = prefix ? str_printf("%s.%s", prefix, key) : NULL;
    int out;

    if (!path || !str_starts(key, "vol-"))
        return;
    out = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    for (size_t i = 0; out >= 0 && i < n; i++)
        copy_segment(out, fds[i], segment_bytes[i]);
    if (out >= 0)
        (void)close(out);
    line("{\"what\": \"add\", \"key\": \"%s\", \"segments\": %zu, \"more\": %s, \"gpa\": %llu}",
         key, n, more ? "true" : "false", (unsigned long long)gpa);
}

void fake_record_removed(uint64_t gpa)
{
    line("{\"what\": \"remove\", \"gpa\": %llu}", (unsigned long long)gpa);
}

void fake_record_request(const Nexus__AgentMessage *m)
{
    if (m->body_case == NEXUS__AGENT_MESSAGE__BODY_UPDATE_VOLUME)
        line("{\"what\": \"update\", \"volume\": \"%s\", \"gpa\": %llu, \"part\": \"%s\"}",
             m->update_volume->volume, (unsigned long long)m->update_volume->gpa,
             m->update_volume->part);
    else if (m->body_case == NEXUS__AGENT_MESSAGE__BODY_UPDATE_RESOURCES)
        line("{\"what\": \"limits\", \"gpa\": 0, \"container\": \"%s\", \"memory\": %lld, "
             "\"quota\": %lld, \"period\": %lld, \"shares\": %llu}",
             m->update_resources->container_id,
             (long long)m->update_resources->resources->memory_limit_bytes,
             (long long)m->update_resources->resources->cpu_quota_us,
             (long long)m->update_resources->resources->cpu_period_us,
             (unsigned long long)m->update_resources->resources->cpu_shares);
    else if (m->body_case == NEXUS__AGENT_MESSAGE__BODY_RELEASE_REGION)
        line("{\"what\": \"release\", \"gpa\": %llu}", (unsigned long long)m->release_region->gpa);
    else if (m->body_case == NEXUS__AGENT_MESSAGE__BODY_CREATE_CONTAINER)
        for (size_t i = 0; i < m->create_container->n_volumes; i++) {
            const Nexus__VolumeMount *v = m->create_container->volumes[i];

            line("{\"what\": \"mount\", \"container\": \"%s\", \"volume\": \"%s\", \"gpa\": %llu, "
                 "\"part\": \"%s\", \"live\": %s, \"destination\": \"%s\"}",
                 m->create_container->id, v->volume, (unsigned long long)v->gpa, v->part,
                 v->live ? "true" : "false", v->destination);
        }
}
