/* SPDX-License-Identifier: Apache-2.0 */
/* Addresses as text: "10.1.2.3/24", "fd00::1/64", "aa:bb:cc:dd:ee:ff". Sans-IO. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct net_addr {
    uint8_t family; /* AF_INET or AF_INET6; 0: none */
    uint8_t prefix; /* bits; of a plain address 32 or 128 */
    uint8_t bytes[16];
};

/* Bytes of an address of that family. */
size_t net_addr_len(const struct net_addr *a);
/* An address with a prefix length. 0 or -EINVAL. */
int net_addr_parse_cidr(const char *s, struct net_addr *ret);
/* A plain address. 0 or -EINVAL. */
int net_addr_parse(const char *s, struct net_addr *ret);
/* Clears the bits behind the prefix: the kernel refuses a route that has some. */
void net_addr_mask(struct net_addr *a);
/* True if a (its prefix is not looked at) lies in the network of net. */
bool net_addr_in(const struct net_addr *a, const struct net_addr *net);
/* Six bytes of hex, separated by ':'. 0 or -EINVAL. */
int net_mac_parse(const char *s, uint8_t ret[6]);
