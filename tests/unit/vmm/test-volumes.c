/* SPDX-License-Identifier: Apache-2.0 */
/* vmm: regions that come in pieces and the volumes made of regions, over a fake guest: what is held by what,
 * and that a reader in the guest may keep a region for as long as it likes. */
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"
#include "base/str.h"
#include "lib/vmm-pod.h"

/* modules: key of the region with its kernel modules; NULL: it wants none. */
static const char *create_with(struct control_client *c, const char *id,
                               const Nexus__VolumeMount *volumes, size_t n, const char *modules)
{
    Nexus__ModuleList lists = NEXUS__MODULE_LIST__INIT;
    Nexus__ModuleList *all_lists[] = {&lists};
    char key[32], list[] = "bridge";
    Nexus__ControlMessage m = NEXUS__CONTROL_MESSAGE__INIT;
    Nexus__CreateContainer create = NEXUS__CREATE_CONTAINER__INIT;
    Nexus__ContainerSpec spec = NEXUS__CONTAINER_SPEC__INIT;
    Nexus__ProcessSpec process = NEXUS__PROCESS_SPEC__INIT;
    Nexus__VolumeMount *mounts[4];
    char *args[] = {(char[]){"true"}};

    for (size_t i = 0; i < n; i++)
        mounts[i] = (Nexus__VolumeMount *)(uintptr_t)&volumes[i];
    process.args = args;
    process.n_args = 1;
    spec.id = (char *)(uintptr_t)id;
    spec.process = &process;
    spec.volumes = mounts;
    spec.n_volumes = n;
    if (modules) {
        (void)snprintf(key, sizeof(key), "%s", modules);
        lists.list = list;
        lists.region = key;
        spec.modules = all_lists;
        spec.n_modules = 1;
    }
    create.spec = &spec;
    create.rootfs_region = (char[]){"img"};
    m.body_case = NEXUS__CONTROL_MESSAGE__BODY_CREATE_CONTAINER;
    m.create_container = &create;
    return control_client_call(c, &m, NULL, 0);
}

static const char *create(struct pod *pod, struct control_client *c, const char *id,
                          const Nexus__VolumeMount *volumes, size_t n)
{
    return create_with(c, id, volumes, n, NULL);
}

static const char *update(struct control_client *c, const char *volume, const char *region)
{
    Nexus__ControlMessage m = NEXUS__CONTROL_MESSAGE__INIT;
    Nexus__UpdateVolume u = NEXUS__UPDATE_VOLUME__INIT;

    u.volume = (char *)(uintptr_t)volume;
    u.region = (char *)(uintptr_t)region;
    u.part = (char[]){"0"};
    m.body_case = NEXUS__CONTROL_MESSAGE__BODY_UPDATE_VOLUME;
    m.update_volume = &u;
    return control_client_call(c, &m, NULL, 0);
}

static uint64_t send_remove(struct control_client *c, const char *key)
{
    Nexus__ControlMessage m = NEXUS__CONTROL_MESSAGE__INIT;
    Nexus__RemoveRegion remove = NEXUS__REMOVE_REGION__INIT;

    remove.key = (char *)(uintptr_t)key;
    m.id = ++c->next_id;
    m.body_case = NEXUS__CONTROL_MESSAGE__BODY_REMOVE_REGION;
    m.remove_region = &remove;
    control_client_send(c, &m, NULL, 0);
    return m.id;
}

static uint32_t volumes_of(struct control_client *c, const char *key)
{
    Nexus__ControlMessage *m = pod_state(c);
    uint32_t n = UINT32_MAX;

    for (size_t i = 0; i < m->state->n_regions; i++)
        if (strcmp(m->state->regions[i]->key, key) == 0)
            n = m->state->regions[i]->volumes;
    message_free(&m->base);
    return n;
}

static void region_comes_in_pieces(void **state)
{
    struct pod *pod = pod_new("");
    struct control_client c;

    pod_ready(pod, &c);
    for (size_t i = 0; i < 4; i++)
        assert_string_equal(pod_add_pieces(&c, "many", 100 * i, 100, true), "");
    assert_int_equal(pod->regions, 1); /* img */
    assert_string_equal(pod_add_pieces(&c, "many", 400, 7, false), "");
    assert_int_equal(pod->regions, 2);
    assert_int_equal(pod->last_region_files, 407);
    assert_true(pod->last_region_in_order);
    assert_int_equal(pod->forgotten, 0);
    control_client_close(&c);
    pod_free(pod);
}

static void pieces_go_with_their_connection(void **state)
{
    struct pod *pod = pod_new("");
    struct control_client c, next;

    pod_ready(pod, &c);
    assert_string_equal(pod_add_pieces(&c, "many", 0, 10, true), "");
    pod_connect(pod, &next); /* replaces the first */
    assert_int_equal(pod->forgotten, 1);
    assert_string_equal(pod_add_pieces(&next, "many", 0, 10, true), "");
    assert_string_equal(pod_remove_region(&next, "many"), ""); /* begun, and given up */
    assert_int_equal(pod->forgotten, 2);
    for (int i = 0; i < 4; i++) {
        char key[8];

        (void)snprintf(key, sizeof(key), "k%d", i);
        assert_string_equal(pod_add_pieces(&next, key, 0, 1, true), "");
    }
    assert_string_equal(pod_add_pieces(&next, "one-more", 0, 1, true), "unavailable");
    assert_string_equal(pod_add_pieces(&next, "k0", 1, 0, true), "invalid"); /* ends it */
    assert_int_equal(pod->forgotten, 3);
    control_client_close(&c);
    control_client_close(&next);
    pod_free(pod);
}

static Nexus__VolumeMount mount_of(char *volume, char *region, bool live, char *sub_path)
{
    static char part[] = "0", destination[] = "/v"; /* they outlive the call */
    Nexus__VolumeMount m = NEXUS__VOLUME_MOUNT__INIT;

    m.volume = volume;
    m.region = region;
    m.part = part;
    m.live = live;
    m.destination = destination;
    m.sub_path = sub_path;
    return m;
}

static void volumes_hold_their_regions(void **state)
{
    struct pod *pod = pod_new("");
    struct control_client c;
    char a[] = "a", b[] = "b", g1[] = "g1", none[] = "none", upper[] = "A", empty[] = "",
         key[] = "key";
    Nexus__VolumeMount mounts[] = {
        mount_of(a, g1, true, empty),
        mount_of(b, g1, false, empty),
        mount_of(a, g1, true, key),
    };
    Nexus__VolumeMount bad[] = {mount_of(a, none, true, empty), mount_of(upper, g1, true, empty)};

    pod_ready(pod, &c);
    assert_string_equal(pod_add_region(&c, "g1", 1), "");
    assert_string_equal(pod_add_region(&c, "g2", 1), "");
    assert_string_equal(create(pod, &c, "no1", &bad[0], 1), "precondition");
    assert_string_equal(create(pod, &c, "no2", &bad[1], 1), "invalid");
    assert_int_equal(volumes_of(&c, "g1"), 0);
    assert_string_equal(create(pod, &c, "c1", mounts, 3), "");
    assert_string_equal(create(pod, &c, "c2", mounts, 1), "");
    assert_int_equal(volumes_of(&c, "g1"), 3); /* a, b, and the key of a */
    assert_string_equal(update(&c, "b", "g2"), "not-found");
    assert_string_equal(update(&c, "a", "none"), "precondition");
    assert_string_equal(update(&c, "a", "g2"), "");
    assert_string_equal(update(&c, "a", "g2"), "");
    assert_int_equal(volumes_of(&c, "g2"), 1);
    assert_string_equal(pod_remove_region(&c, "g1"), "precondition");
    assert_string_equal(pod_remove(&c, "c1"), "");
    assert_int_equal(volumes_of(&c, "g1"), 0);
    assert_string_equal(pod_remove_region(&c, "g1"), "");
    assert_string_equal(pod_remove_region(&c, "g2"), "precondition");
    assert_string_equal(pod_remove(&c, "c2"), "");
    assert_string_equal(pod_remove_region(&c, "g2"), "");
    assert_string_equal(update(&c, "a", "g2"), "not-found");
    assert_int_equal(pod->regions, 1);
    control_client_close(&c);
    pod_free(pod);
}

static void kernel_modules_hold_their_region(void **state)
{
    struct pod *pod = pod_new("");
    struct control_client c;

    pod_ready(pod, &c);
    assert_string_equal(create_with(&c, "no", NULL, 0, "mods"), "precondition");
    assert_string_equal(pod_add_region(&c, "mods", 1), "");
    assert_string_equal(create_with(&c, "c1", NULL, 0, "mods"), "");
    assert_int_equal(volumes_of(&c, "mods"), 1);
    assert_string_equal(pod_remove_region(&c, "mods"), "precondition");
    assert_string_equal(pod_remove(&c, "c1"), "");
    assert_string_equal(pod_remove_region(&c, "mods"), "");
    control_client_close(&c);
    pod_free(pod);
}

static void refused_update_changes_nothing(void **state)
{
    struct pod *pod = pod_new("fail@update=5");
    struct control_client c;
    char a[] = "a", g1[] = "g1", empty[] = "";
    Nexus__VolumeMount mount = mount_of(a, g1, true, empty);

    pod_ready(pod, &c);
    assert_string_equal(pod_add_region(&c, "g1", 1), "");
    assert_string_equal(pod_add_region(&c, "g2", 1), "");
    assert_string_equal(create(pod, &c, "c1", &mount, 1), "");
    assert_string_not_equal(update(&c, "a", "g2"), "");
    assert_int_equal(volumes_of(&c, "g1"), 1);
    assert_int_equal(volumes_of(&c, "g2"), 0);
    assert_string_equal(pod_remove_region(&c, "g2"), "");
    control_client_close(&c);
    pod_free(pod);
}

static void device_stays_if_the_machine_wants_it(void **state)
{
    struct pod *pod = pod_new("");
    struct control_client c;

    pod_ready(pod, &c);
    assert_string_equal(pod_add_region(&c, "g1", 1), "");
    assert_string_equal(pod_add_region(&c, "g2", 1), "");
    assert_string_equal(pod_remove_region(&c, "g1"), "");
    assert_int_equal(pod->parked, 0);
    pod->may_park = true;
    assert_string_equal(pod_remove_region(&c, "g2"), "");
    assert_int_equal(pod->parked, 1);
    assert_int_equal(pod->regions, 1);
    control_client_close(&c);
    pod_free(pod);
}

/* The request's time is 600 ms here; a reader in the guest takes longer. */
static void release_waits_for_the_last_reader(void **state)
{
    struct pod *pod = pod_new("delay@release=1500");
    struct control_client c, next;
    Nexus__ControlMessage *m;
    uint64_t id;

    pod_ready(pod, &c);
    assert_string_equal(pod_add_region(&c, "g1", 1), "");
    (void)send_remove(&c, "g1");
    assert_string_equal(pod_add_region(&c, "g1", 1), "unavailable");
    assert_string_equal(pod_remove_region(&c, "g1"), "unavailable"); /* is on its way */
    pod_connect(pod, &next);
    id = send_remove(&next, "g1"); /* a nexusd that came back waits with it */
    assert_string_equal(pod_add_region(&next, "g2", 1), ""); /* nobody else does */
    m = control_client_reply(&next, id);
    assert_string_equal(m->reply->error_class, "");
    message_free(&m->base);
    assert_int_equal(pod->regions, 2);
    control_client_close(&c);
    control_client_close(&next);
    pod_free(pod);
}

/* The window is not emptied while a driver has the device; but a guest cannot keep it that way. */
static void a_driven_device_is_asked_for_again(void **state)
{
    struct pod *pod = pod_new("");
    struct control_client c;

    pod_ready(pod, &c);
    assert_string_equal(pod_add_region(&c, "g1", 1), "");
    pod->driven = 3;
    assert_string_equal(pod_remove_region(&c, "g1"), "");
    assert_int_equal(pod->driven_asked, 4);
    assert_int_equal(pod->regions, 1); /* the image */
    assert_string_equal(pod_add_region(&c, "g1", 1), "");
    pod->driven = 1000;
    assert_string_equal(pod_remove_region(&c, "g1"), "");
    assert_int_equal(pod->driven_asked, 4 + 16);
    assert_int_equal(pod->regions, 1); /* the image */
    control_client_close(&c);
    pod_free(pod);
}

static void release_is_answered_when_the_vm_ends(void **state)
{
    struct pod *pod = pod_new("panic@release");
    struct control_client c;

    pod_ready(pod, &c);
    assert_string_equal(pod_add_region(&c, "g1", 1), "");
    assert_string_equal(pod_remove_region(&c, "g1"), "");
    assert_int_equal(pod->regions, 1);
    control_client_close(&c);
    pod_free(pod);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(region_comes_in_pieces),
        cmocka_unit_test(pieces_go_with_their_connection),
        cmocka_unit_test(volumes_hold_their_regions),
        cmocka_unit_test(kernel_modules_hold_their_region),
        cmocka_unit_test(refused_update_changes_nothing),
        cmocka_unit_test(device_stays_if_the_machine_wants_it),
        cmocka_unit_test(release_waits_for_the_last_reader),
        cmocka_unit_test(a_driven_device_is_asked_for_again),
        cmocka_unit_test(release_is_answered_when_the_vm_ends),
    };

    log_set_level(LOG_ERROR);
    return cmocka_run_group_tests_name("volumes", tests, NULL, NULL) != 0;
}
