# SPDX-License-Identifier: Apache-2.0
"""A reader of uncompressed EROFS images, written from the on-disk format and knowing nothing of our writer:
what it finds is compared with what a tar says. Strict: whatever is out of order raises."""
import stat
import struct

BLOCK = 4096
XATTR_PREFIX = {1: "user.", 2: "system.posix_acl_access", 3: "system.posix_acl_default", 4: "trusted.", 6: "security."}
FILE_TYPE = {stat.S_IFREG: 1, stat.S_IFDIR: 2, stat.S_IFCHR: 3, stat.S_IFBLK: 4, stat.S_IFIFO: 5, stat.S_IFSOCK: 6,
             stat.S_IFLNK: 7}


def crc32c(crc, data):
    table = []
    for i in range(256):
        c = i
        for _ in range(8):
            c = (c >> 1) ^ (0x82F63B78 if c & 1 else 0)
        table.append(c)
    for b in data:
        crc = (crc >> 8) ^ table[(crc ^ b) & 0xFF]
    return crc


class Inode:
    def __init__(self, image, nid):
        self.nid, off = nid, nid * 32
        (fmt, xcount, self.mode, _, self.size, u, self.ino, self.uid, self.gid, mtime, ns, self.nlink) = \
            struct.unpack_from("<HHHHQIIIIqII", image, off)
        assert fmt & 1, "an extended inode"
        self.layout = fmt >> 1 & 7
        assert self.layout in (0, 2), "plain or inline"
        self.mtime_ns = mtime * 10**9 + ns
        self.u, self.body = u, off + 64
        self.xattr_bytes = 12 + (xcount - 1) * 4 if xcount else 0
        self.xattrs = self.read_xattrs(image)
        self.kind = stat.S_IFMT(self.mode)
        self.rdev = u if self.kind in (stat.S_IFCHR, stat.S_IFBLK) else 0
        assert self.layout == 0 or self.kind in (stat.S_IFDIR, stat.S_IFLNK), "DAX needs plain files"

    def read_xattrs(self, image):
        found, at, end = {}, self.body + 12, self.body + self.xattr_bytes
        if not self.xattr_bytes:
            return found
        assert image[self.body + 4] == 0, "no shared xattrs"
        while at < end:
            nlen, index, vlen = struct.unpack_from("<BBH", image, at)
            name = XATTR_PREFIX[index] + bytes(image[at + 4:at + 4 + nlen]).decode("utf-8", "surrogateescape")
            assert name not in found
            found[name] = bytes(image[at + 4 + nlen:at + 4 + nlen + vlen])
            at += 4 + nlen + vlen + 3 & ~3
        assert at == end
        return found

    def data(self, image):
        if self.layout == 0:
            if not self.size:
                return b""
            assert self.u * BLOCK + self.size <= len(image), "inside the image"
            return bytes(image[self.u * BLOCK:self.u * BLOCK + self.size])
        full, tail = self.size // BLOCK * BLOCK, self.size % BLOCK
        start = self.body + self.xattr_bytes
        assert start % BLOCK + tail <= BLOCK, "an inline tail stays in its block"
        return bytes(image[self.u * BLOCK:self.u * BLOCK + full]) + bytes(image[start:start + tail])


class Image:
    """image: bytes (or an mmap) of [metadata][layer]…"""

    def __init__(self, image):
        self.image = image
        magic, checksum, compat, bits, _, root, self.inos, _, _, blocks, meta = \
            struct.unpack_from("<IIIBBHQQIII", image, 1024)
        assert magic == 0xE0F5E1E2 and bits == 12 and meta == 0
        assert struct.unpack_from("<I", image, 1024 + 80)[0] == 0, "no incompatible feature"
        assert compat & 1, "a checksum"
        block = bytearray(image[1024:BLOCK])
        block[4:8] = b"\0" * 4
        assert crc32c(0xFFFFFFFF, block) == checksum
        assert blocks * BLOCK == len(image), (blocks, len(image))
        self.root, self.blocks_used, self.inodes = root, {}, {}

    def inode(self, nid):
        if nid not in self.inodes:
            i = self.inodes[nid] = Inode(self.image, nid)
            if i.kind == stat.S_IFREG and i.size:
                for b in range(i.u, i.u + (i.size + BLOCK - 1) // BLOCK):
                    assert b not in self.blocks_used, "no two inodes share a block"
                    self.blocks_used[b] = nid
        return self.inodes[nid]

    def names(self, inode):
        """[(name, nid, file type)] of a directory; checks the order that lookups rely on."""
        raw, out = inode.data(self.image), []
        for at in range(0, len(raw), BLOCK):
            block = raw[at:at + BLOCK]
            count = struct.unpack_from("<H", block, 8)[0] // 12
            heads = [struct.unpack_from("<QHBB", block, 12 * k) for k in range(count)]
            for k, (nid, off, kind, _) in enumerate(heads):
                name = block[off:heads[k + 1][1]] if k + 1 < count else block[off:].rstrip(b"\0")
                out.append((name, nid, kind))
        keys = [n for n, _, _ in out]
        assert keys == sorted(keys) and len(set(keys)) == len(keys), "strictly sorted"
        return out

    def tree(self):
        """{path: Inode}, paths as bytes; "" is the root. Checks ".", "..", types and link counts."""
        out, todo, links = {}, [(b"", self.root, self.root)], {}
        while todo:
            path, nid, parent = todo.pop()
            inode = self.inode(nid)
            out[path] = inode
            links[nid] = links.get(nid, 0) + 1
            if inode.kind != stat.S_IFDIR:
                continue
            names = {n: (k, t) for n, k, t in self.names(inode)}
            assert names.pop(b".")[0] == nid and names.pop(b"..")[0] == parent
            subdirs = 0
            for name, (child, kind) in names.items():
                assert kind == FILE_TYPE[self.inode(child).kind]
                subdirs += self.inode(child).kind == stat.S_IFDIR
                todo.append((path + b"/" + name if path else name, child, nid))
            assert inode.nlink == 2 + subdirs
        for nid, n in links.items():
            if self.inode(nid).kind != stat.S_IFDIR:
                assert self.inode(nid).nlink == n, "link counts"
        assert len(links) == self.inos
        return out
