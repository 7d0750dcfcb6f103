/* SPDX-License-Identifier: Apache-2.0 */
/* Every limit that outsiders can run into, in one place. All fail closed. Units are in the names. */
#pragma once

#define LIMIT_ID_MAX 64     /* [a-z0-9-] */
#define LIMIT_NAME_MAX 1024 /* a metadata string of kubelet */
#define LIMIT_HOSTNAME_MAX 64
#define LIMIT_ERROR_TEXT_BYTES 4096 /* to kubelet, printable */

/* gRPC */
#define LIMIT_GRPC_MESSAGE_BYTES (16U << 20)
#define LIMIT_GRPC_STREAMS 256 /* per connection; kubelet has one, and a call per pod at times */
#define LIMIT_GRPC_CONNECTIONS 64
#define LIMIT_GRPC_HEADER_LIST_BYTES (16U << 10)
#define LIMIT_GRPC_OUTBOUND_BYTES \
    (24U << 20)                            /* queued per connection: one largest answer and more */
#define LIMIT_GRPC_ARENA_BYTES (64U << 20) /* decoded request */

#define LIMIT_EVENT_SUBSCRIBERS 16 /* of GetContainerEvents, at the same time */

/* exec */
#define LIMIT_EXEC_OUTPUT_BYTES (15U << 20) /* stdout + stderr of one ExecSync together */
#define LIMIT_EXEC_DRAIN_MS 1000            /* after the main process ended */

/* TLV */
#define LIMIT_TLV_MESSAGE_BYTES (1U << 20)
#define LIMIT_TLV_DATA_BYTES 4096
#define LIMIT_TLV_QUEUE_FRAMES 64
#define LIMIT_TERMINATION_BYTES 4096 /* the end of a termination log: kubelet reads no more */
#define LIMIT_TLV_STRING_BYTES (64U << 10)
#define LIMIT_AGENT_REQUESTS 256            /* outstanding per pod */
#define LIMIT_AGENT_FRAME_BYTES (16U << 10) /* from the agent on its control connection */
#define LIMIT_AGENT_PING_MS 5000
#define LIMIT_AGENT_PING_MISSES \
    6                          /* an emulated machine under load may stand still for many seconds */
#define LIMIT_EXECS_PER_POD 64 /* at the same time */

/* streaming (nexus-stream) */
#define LIMIT_STREAM_TOKENS 1000           /* outstanding */
#define LIMIT_STREAM_TOKEN_S 60            /* of life */
#define LIMIT_STREAM_CONNECTIONS 512       /* of clients, at the same time */
#define LIMIT_STREAM_PORTS 128             /* named before a port-forward connection */
#define LIMIT_STREAM_PEM_BYTES (64U << 10) /* a certificate with its chain, a key, authorities */
#define LIMIT_STREAM_HANDSHAKE_S 10        /* of TLS */
#define LIMIT_STREAM_SETUP_S 30            /* request head; then all streams of a command */
#define LIMIT_STREAM_FLUSH_S 30            /* for a client to read what is left at the end */
#define LIMIT_STREAM_LINGER_S 2            /* for a client to close after that */
#define LIMIT_FORWARDS_PER_POD 256         /* connections to ports at the same time */
#define LIMIT_ATTACHES_PER_CONTAINER 8
#define LIMIT_ATTACH_PATIENCE_S 10 /* a container waits for a client that does not read */

/* guest */
#define LIMIT_VCPUS 16
#define LIMIT_VSOCK_CONNECTIONS 1023
#define LIMIT_VSOCK_BUFFER_BYTES (256U << 10)
#define LIMIT_VSOCK_PACKET_BYTES (64U << 10)
#define LIMIT_CONSOLE_TAIL_BYTES (64U << 10)
#define LIMIT_REGIONS 60      /* pmem regions per VM */
#define LIMIT_PARKED 4        /* pmem devices without a region, kept for the next one */
#define LIMIT_GROUPS_TOLD 256 /* supplemental groups of a process that its status names */
#define LIMIT_CONTAINERS_PER_POD 64

/* CNI */
#define LIMIT_CNI_STDOUT_BYTES (1U << 20)
#define LIMIT_CNI_STDERR_BYTES (64U << 10)
#define LIMIT_CNI_DEADLINE_MS 60000
#define LIMIT_JSON_DEPTH 32

/* images */
#define LIMIT_MANIFEST_BYTES (4U << 20)
#define LIMIT_IMAGE_CONFIG_BYTES (4U << 20)
#define LIMIT_IMAGE_LAYERS 256
#define LIMIT_LAYER_UNPACKED_BYTES (16ULL << 30)
#define LIMIT_LAYER_RATIO 200 /* unpacked to compressed, once 64 MiB are out */
#define LIMIT_LAYER_ENTRIES 2000000
#define LIMIT_LAYER_SPARSE_SEGMENTS 4096    /* of one file */
#define LIMIT_IMAGE_TREE_BYTES (384U << 20) /* memory of a merged tree */
#define LIMIT_PULL_TRIES 5
#define LIMIT_PULL_RETRY_AFTER_S 60
#define LIMIT_PULL_REDIRECTS 5
#define LIMIT_PULL_TOKEN_BYTES (64U << 10)
#define LIMIT_REFERENCE_BYTES 4096

/* mapped volumes (src/volume): one volume of a container */
#define LIMIT_VOLUME_NODES 4096 /* files and directories */
#define LIMIT_VOLUME_LINKS 4224 /* symlinks: kubelet makes one per visible name */
#define LIMIT_VOLUME_DEPTH 16   /* directories below each other */
#define LIMIT_VOLUME_PATH_BYTES 3840
#define LIMIT_VOLUME_NAME_BYTES 255
#define LIMIT_VOLUME_BYTES (64ULL << 20) /* of file data; kubelet allows 1 MiB per Secret */
#define LIMIT_VOLUME_XATTR_BYTES (1U << 20)
#define LIMIT_VOLUME_TRIES 8 /* readings of a volume that changes meanwhile */
/* all volumes that one region holds */
#define LIMIT_VOLUME_BUNDLE_PARTS 256
#define LIMIT_VOLUME_BUNDLE_BYTES (256ULL << 20)
#define LIMIT_VOLUME_BUNDLE_TREE_BYTES (64U << 20) /* memory while metadata is built */
#define LIMIT_VOLUME_BUNDLE_INODES 65536

/* logs */
#define LIMIT_LOG_CHUNK_BYTES (16U << 10)

/* records */
#define LIMIT_RECORD_BYTES (4U << 20)
#define LIMIT_PODS 1000
#define LIMIT_CONTAINERS 4000
