/* SPDX-License-Identifier: Apache-2.0 */
/* CNI: configuration lists, the plugin chain as child processes on the event loop, results.
 *
 * A plugin gets its configuration on stdin, exactly three descriptors, a clean environment and a
 * session of its own. Its stdout is bounded by LIMIT_CNI_STDOUT_BYTES (more ends it), of stderr the
 * last LIMIT_CNI_STDERR_BYTES count. At the deadline its process group gets SIGTERM, and
 * CNI_TERM_GRACE_MS later SIGKILL; nothing of a group outlives its leader. What a plugin prints is
 * hostile in form and trusted in meaning.
 *
 * Versions 0.3.0, 0.3.1, 0.4.0, 1.0.0 and 1.1.0. Source: CNI specification 1.1.0.
 * Thread: the one of the event loop. Nothing here blocks it beyond reading a small local file. */
#pragma once

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <systemd/sd-event.h>

#include "base/error.h"

#define CNI_TERM_GRACE_MS 2000
#define CNI_CONF_BYTES_MAX (1U << 20)
#define CNI_PLUGINS_MAX 16
#define CNI_INTERFACES_MAX 64
#define CNI_IPS_MAX 16
#define CNI_ROUTES_MAX 256
#define CNI_DNS_MAX 64 /* entries of each list */
#define CNI_PORTS_MAX 1024
#define CNI_ADDRESS_SIZE 64 /* an address, with or without prefix, and NUL */

/* ---------------------------------------------------------------- configuration */

enum cni_capability { CNI_CAP_PORT_MAPPINGS = 1, CNI_CAP_DNS = 2 };

struct cni_plugin {
    char *type;            /* file name in a bin dir; no '/', no leading '.' */
    unsigned capabilities; /* enum cni_capability, those we serve */
    json_t *conf;          /* the plugin's own object, as configured */
};

/* One network: a .conflist, or a .conf or .json with its single plugin made a list. Immutable. */
struct cni_network {
    char *name;
    char *version; /* of the specification, one that we speak */
    char *file;    /* where it came from, for messages */
    char *json;    /* the list as compact JSON: save it with the sandbox, DEL is run from it */
    bool disable_check;
    size_t n_plugins; /* >= 1 */
    struct cni_plugin plugins[CNI_PLUGINS_MAX];
};

/* The first *.conflist, *.conf or *.json of the directory in byte order of names (dot files do not
 * count). If that one is bad, so is the answer: a later file is not a substitute.
 * -ENOENT: none there, or no directory. -EINVAL: bad; the text has file, key and reason. Both are of
 * class unavailable: it is the node's fault, not the request's. ret owned by the caller. */
int cni_load(const char *conf_dir, struct cni_network **ret, struct error **err);
/* The same from text (a saved cni_network.json). file is named in messages. */
int cni_network_parse(const char *text, size_t len, const char *file, struct cni_network **ret,
                      struct error **err);
void cni_network_free(struct cni_network *net);
DEFINE_CLEANUP(struct cni_network *, cni_network_free);

/* Can pods get a network now? 0, or a negative errno and in *err the reason for NetworkReady=false:
 * no configuration, a bad one, or a plugin (also the IPAM one) that no bin dir has. ret: the network
 * found, may be NULL. A few small file operations, tens of microseconds. */
int cni_status(const char *conf_dir, char *const *bin_dirs, struct cni_network **ret,
               struct error **err);

/* ---------------------------------------------------------------- request */

struct cni_port_mapping {
    const char *protocol; /* "tcp", "udp" or "sctp" */
    uint32_t host_port;   /* 1-65535 (leave entries with host port 0 out) */
    uint32_t container_port;
    const char *host_ip; /* NULL or "": every address */
};

/* Everything is borrowed and copied at once, so it may go after the call that takes it. */
struct cni_request {
    const char *container_id; /* the sandbox id */
    const char *netns;        /* path of the pinned namespace; NULL or "" for DEL: it is gone */
    const char *ifname;       /* "eth0" */
    const char *pod_namespace, *pod_name, *pod_uid; /* for CNI_ARGS; NULL: left out */
    const struct cni_port_mapping *ports;
    size_t n_ports;
    char *const *dns_servers, *const *dns_searches, *const *dns_options; /* may be NULL */
    char *const *bin_dirs; /* where plugins are, in this order */
    uint64_t deadline_ms;  /* for the whole chain; 0: LIMIT_CNI_DEADLINE_MS */
};

/* ---------------------------------------------------------------- result */

struct cni_ip {
    int family;                     /* AF_INET, AF_INET6 */
    unsigned prefix;                /* bits */
    char address[CNI_ADDRESS_SIZE]; /* "10.88.0.7", canonical */
    char cidr[CNI_ADDRESS_SIZE];    /* "10.88.0.7/16" */
    char gateway[CNI_ADDRESS_SIZE]; /* same family; "" if none */
};

struct cni_route {
    int family;
    char destination[CNI_ADDRESS_SIZE]; /* CIDR */
    char gateway[CNI_ADDRESS_SIZE];     /* its own, else the one of the first address of its family;
                                           "": on the link. May lie outside each address's subnet */
    uint32_t metric;                    /* "priority" of 1.1.0; 0: none */
};

struct cni_dns {
    char **nameservers, **searches, **options; /* NULL-terminated or NULL */
    char *domain;                              /* NULL if none */
};

struct cni_result {
    size_t n_ips, n_routes;
    struct cni_ip *ips; /* in the plugins' order: the first one is the pod's primary address */
    struct cni_route *routes;
    struct cni_dns dns;
    char mac[18]; /* of ifname; "" if the plugins did not tell (net_read_config knows) */
    uint32_t mtu; /* 1.1.0; 0: not told */
    char *json;   /* compact: save it before the sandbox is READY; CHECK and DEL need it */
};

/* What a result is held against. NULL members are not compared. */
struct cni_expect {
    const char *version, *ifname, *netns;
};

/* Checks and reads the output of an ADD, or a saved result. Sans-IO.
 * -EBADMSG: no JSON object, wrong form, or at odds with what was asked; the text says where.
 * -E2BIG: more entries than the limits above. */
int cni_result_parse(const char *text, size_t len, const struct cni_expect *expect,
                     struct cni_result **ret, struct error **err);
void cni_result_free(struct cni_result *res);
DEFINE_CLEANUP(struct cni_result *, cni_result_free);

/* ---------------------------------------------------------------- calls */

struct cni_call;

/* Called once, from the loop, when no process of the call is left in its group. r: 0, or what went
 * wrong with err saying so (network, plugin, its own words). result: of a successful ADD, else NULL.
 * Both are borrowed; the call is gone when this returns. */
typedef void (*cni_done_fn)(struct cni_call *call, int r, struct cni_result *result,
                            const struct error *err, void *userdata);

/* Runs the chain in order. 0: done will be called later, never from inside. Negative: it will not
 * (-EINVAL: a bad request, -ENOENT: a plugin that no bin dir has; found before anything runs).
 * After any failure, also of this kind, the caller owes a DEL (the specification wants it even if
 * ADD failed half-way). -ETIMEDOUT, -ECANCELED, -EBADMSG (output), -EIO (a plugin reported an error,
 * crashed or was killed; its text is in err, plugin error codes 11 "try again later" as -EAGAIN). */
int cni_add(sd_event *event, const struct cni_network *net, const struct cni_request *req,
            cni_done_fn done, void *userdata, struct cni_call **ret, struct error **err);

/* Runs the chain in reverse. net: as saved at ADD time. result_json: saved result, NULL if there is
 * none (ADD failed or it was lost). A namespace that is gone is told to the plugins as "". A plugin
 * that fails is called once more at once (after half an ADD some need that); then the chain stops,
 * as the specification wants. Repeat it until it succeeds. */
int cni_del(sd_event *event, const struct cni_network *net, const struct cni_request *req,
            const char *result_json, cni_done_fn done, void *userdata, struct cni_call **ret,
            struct error **err);

/* Asks the plugins whether the attachment is as ADD left it. With disableCheck or a version before
 * 0.4.0 done comes with 0 without a plugin having run. */
int cni_check(sd_event *event, const struct cni_network *net, const struct cni_request *req,
              const char *result_json, cni_done_fn done, void *userdata, struct cni_call **ret,
              struct error **err);

/* Ends a call early: SIGTERM, after the grace SIGKILL, then done with -ECANCELED. */
void cni_call_cancel(struct cni_call *call);
/* Ends it at once (SIGKILL) and forgets it; done is not called. For the daemon's own end. */
void cni_call_free(struct cni_call *call);
DEFINE_CLEANUP(struct cni_call *, cni_call_free);

/* After a crash of nexusd the plugins of an open ADD may still run and would race with the DEL that
 * undoes it. Gives them a moment to end by themselves, then kills every process with CNI_CONTAINERID=<one of ids> in its environment and waits
 * until it has gone, 5 s at most. ids: NULL-terminated. Reads all of /proc once: for
 * recovery, before the first call. Number killed, or -ETIMEDOUT with the pid in the text. */
int cni_kill_leftovers(char *const *ids, struct error **err);
