/* SPDX-License-Identifier: Apache-2.0 */
/* protobuf messages as JSON, by protobuf's own mapping: lowerCamelCase names, 64-bit numbers and bytes
 * (base64) as strings, enums by name, maps as objects. Fields at their default are there, unset
 * submessages are not. */
#pragma once

#include <jansson.h>

#include <protobuf-c/protobuf-c.h>

/* The caller's; NULL without memory. Text that is not UTF-8 is written with \xNN. */
json_t *json_from_message(const ProtobufCMessage *m);
/* Prints with indentation and a newline. 0, or an exit code after it said why. json is taken. */
int json_print(json_t *json);
