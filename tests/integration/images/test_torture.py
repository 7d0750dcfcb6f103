# SPDX-License-Identifier: Apache-2.0
# cost: 20
"""Tars that try everything, converted and read back by a reader of our own and by fsck.erofs. The members of
the tar are the expectation; hostile ones must be refused or stay inside."""
import gzip
import io
import os
import pathlib
import random
import struct
import subprocess
import sys
import tarfile
import tempfile
import unittest

sys.path[:0] = [str(pathlib.Path(__file__).parent)]
import imagelib  # noqa: E402
from imagelib import Tar  # noqa: E402

DIR, LNK, SYM, CHR, BLK, FIFO = b"5", b"1", b"2", b"3", b"4", b"6"
KIND = {b"0": 0o100000, DIR: 0o040000, SYM: 0o120000, CHR: 0o020000, BLK: 0o060000, FIFO: 0o010000}
ACL = struct.pack("<IHHIHHIHHIHHI", 2, 1, 6, 0xFFFFFFFF, 2, 7, 1000, 4, 4, 0xFFFFFFFF, 0x10, 7, 0xFFFFFFFF)
CAPABILITY = struct.pack("<IIIII", 0x02000001, 1 << 10, 0, 0, 0)


def xattr(name, value):
    return {"SCHILY.xattr." + name: value.decode("latin-1") if isinstance(value, bytes) else value}


class Torture(unittest.TestCase):
    def setUp(self):
        self.store = imagelib.Store()
        self.addCleanup(self.store.close)
        self.tmp = tempfile.TemporaryDirectory(prefix="nexus-torture-")
        self.addCleanup(self.tmp.cleanup)
        self.n = 0

    def convert(self, *layers):
        """layers: tars as bytes, or (stored, plain)."""
        self.n += 1
        where = imagelib.layout(f"{self.tmp.name}/{self.n}", [x if isinstance(x, tuple) else (x, None) for x in layers])
        return self.store.pull("torture", layout=where)

    def tree(self, *layers):
        o = self.convert(*layers)
        self.assertIsNone(o.error, o.error)
        tree, content = self.store.read(o.image)
        code, text = imagelib.fsck(self.store.root / "composed")
        self.assertEqual(code, 0, text)
        return tree, content

    def refused(self, layer, cls, word=""):
        o = self.convert(layer)
        self.assertIsNotNone(o.error, "was taken")
        self.assertEqual(o.error["class"], cls, o.error)
        self.assertIn(word, o.error["message"])
        self.assertEqual(self.store.leftovers(), [])

    def compare(self, raw):
        """Every member of a tar (each path once) is in the image as it says."""
        tree, content = self.tree(raw)
        with tarfile.open(fileobj=io.BytesIO(raw), errors="surrogateescape") as t:
            for m in t.getmembers():
                path = os.fsencode(m.name.strip("/"))
                i = tree[path]
                if m.type == LNK:
                    self.assertEqual(i.nid, tree[os.fsencode(m.linkname)].nid)
                    continue
                kind = 0o100000 if m.isreg() else KIND[m.type]
                self.assertEqual(oct(i.mode), oct(kind | (0o777 if m.issym() else m.mode & 0o7777)), path)
                self.assertEqual((i.uid, i.gid), (m.uid, m.gid), path)
                pax = m.pax_headers.get("mtime")
                want = int(round(float(pax) * 1000)) if pax else int(m.mtime) * 1000
                self.assertLessEqual(abs((i.mtime_ns & (1 << 64) * 10**9 - 1) // 10**6 - want) if want >= 0 else 0, 1, path)
                if m.isreg():
                    self.assertEqual(content(path), t.extractfile(m).read(), path)
                if m.issym():
                    self.assertEqual(content(path), os.fsencode(m.linkname))
                if m.ischr() or m.isblk():
                    self.assertEqual((i.rdev >> 8 & 0xFFF, i.rdev & 0xFF | i.rdev >> 12 & 0xFFF00), (m.devmajor, m.devminor))
        return tree, content

    # ---- what is legal comes through ----
    def members(self, t, pax):
        sizes = (0, 1, 4095, 4096, 4097, 8192, 1 << 20, (1 << 20) + 1)
        rnd = random.Random(1)
        t.add("plain", DIR, mode=0o755)
        for n in sizes:
            t.add(f"plain/{n}", data=rnd.randbytes(n), mode=0o644, mtime=n)
        for mode in (0, 0o7777, 0o4755, 0o2755, 0o1777, 0o111):
            t.add(f"mode-{mode:o}", mode=mode, data=b"x")
        t.add("uid", uid=70000 if pax else 65535, gid=0o7777777, data=b"x")
        t.add("sticky", DIR, mode=0o1777)
        t.add("sym", SYM, link="plain/1")
        t.add("sym-dangling", SYM, link="/no/such/../thing")
        t.add("hard", LNK, link="plain/4096")
        t.add("hard-to-symlink", LNK, link="sym")
        t.add("chr", CHR, devmajor=1, devminor=3, mode=0o666)
        t.add("blk", BLK, devmajor=259, devminor=300, mode=0o660)
        t.add("fifo", FIFO, mode=0o600)
        t.add("back\\slash \"quote\" \n newline", data=b"x")
        return t

    def test_ustar(self):
        self.compare(self.members(Tar(tarfile.USTAR_FORMAT), False).bytes())

    def test_gnu(self):
        t = self.members(Tar(tarfile.GNU_FORMAT), True)
        t.add("n" * 255, data=b"long").add("d/" * 500 + "deep", data=b"deep").add("long-link", SYM, link="l" * 4000)
        t.add("big-uid", uid=4_000_000_000, gid=4_294_967_294, data=b"x")
        t.add(b"latin-\xe4-and-\xff".decode("utf-8", "surrogateescape"), data=b"bytes")
        tree, content = self.compare(t.bytes())
        self.assertEqual(content(b"latin-\xe4-and-\xff"), b"bytes")
        self.assertEqual(content(b"/".join([b"d"] * 500) + b"/deep"), b"deep")

    def test_pax(self):
        t = self.members(Tar(), True)
        t.add("ä/ü/日本", data=b"utf-8").add("n" * 255, data=b"long")
        t.add("time", pax={"mtime": "1700000000.123456789"}).add("old", pax={"mtime": "-5.5"})
        t.add("future", pax={"mtime": "99999999999"})
        tree, _ = self.compare(t.bytes())
        self.assertEqual(tree[b"time"].mtime_ns, 1700000000123456789)
        self.assertEqual(tree[b"future"].mtime_ns, 99999999999 * 10**9)
        self.assertIn("日本".encode(), [p.split(b"/")[-1] for p in tree])

    def test_extended_attributes(self):
        t = Tar()
        t.add("user", pax=xattr("user.a", b"1") | xattr("user.b", b"") | xattr("user.long", b"v" * 30000), data=b"x")
        t.add("cap", pax=xattr("security.capability", CAPABILITY.decode("latin-1")), data=b"x")
        t.add("d", DIR, pax=xattr("trusted.x", b"y") | xattr("system.posix_acl_default", b"\x02\0\0\0"))
        t.add("fat-dir", DIR, pax=xattr("user.fat", b"z" * 5000))
        t.add("fat-dir/child", data=b"x")
        t.add("fat-sym", SYM, link="t" * 200, pax=xattr("security.fat", b"z" * 5000))
        t.add("dropped", pax=xattr("trusted.overlay.opaque", b"y") | xattr("user.overlay.redirect", b"/") |
              xattr("com.apple.x", b"1") | xattr("system.nfs4_acl", b"1"), data=b"x")
        tree, content = self.tree(t.bytes())
        self.assertEqual(tree[b"user"].xattrs, {"user.a": b"1", "user.b": b"", "user.long": b"v" * 30000})
        self.assertEqual(tree[b"cap"].xattrs, {"security.capability": CAPABILITY})
        self.assertEqual(tree[b"d"].xattrs, {"trusted.x": b"y", "system.posix_acl_default": b"\x02\0\0\0"})
        self.assertEqual(tree[b"fat-dir"].xattrs, {"user.fat": b"z" * 5000})
        self.assertIn(b"fat-dir/child", tree)
        self.assertEqual(content(b"fat-sym"), b"t" * 200)
        self.assertEqual(tree[b"dropped"].xattrs, {})

    def test_directories_around_the_edges_of_blocks(self):
        # 12 bytes and a name each: walk the sum over one, two and three blocks byte by byte
        t, counts = Tar(tarfile.GNU_FORMAT), list(range(170, 186)) + list(range(345, 360))
        for n in counts:
            for k in range(n):
                t.add(f"d{n}/{k:011d}")
        for extra in range(1, 64):
            for k in range(3):
                t.add(f"e{extra}/{k}" + "x" * (extra * 3))
        tree, _ = self.tree(t.bytes())
        for n in counts:
            self.assertEqual(len([p for p in tree if p.startswith(b"d%d/" % n)]), n)

    def test_symlinks_of_every_length(self):
        t = Tar(tarfile.GNU_FORMAT)
        lengths = [*range(1, 70), *range(3990, 4096)]
        for n in lengths:
            t.add(f"s{n}", SYM, link="t" * n)
        tree, content = self.tree(t.bytes())
        for n in lengths:
            self.assertEqual(content(b"s%d" % n), b"t" * n)

    def test_sparse_files_of_every_format(self):
        src = pathlib.Path(self.tmp.name) / "src"
        src.mkdir()
        with open(src / "sparse", "wb") as f:
            for at, data in ((0, b"begin"), (1_000_000, b"middle" * 1000), (50_000_000, b"end")):
                f.seek(at)
                f.write(data)
            f.truncate(60_000_000)
        with open(src / "hole", "wb") as f:
            f.truncate(10_000_000)
        (src / "after").write_bytes(b"after")
        want = (src / "sparse").read_bytes()
        for how in (["--format=gnu"], *(["--format=posix", f"--sparse-version={v}"] for v in ("0.0", "0.1", "1.0"))):
            with self.subTest(how=how):
                raw = subprocess.run(["tar", "-cf", "-", "--sparse", *how, "-C", src, "sparse", "hole", "after"],
                                     check=True, capture_output=True).stdout
                self.assertLess(len(raw), 200_000)
                o = self.convert((gzip.compress(raw), raw))
                self.assertIsNone(o.error, o.error)
                tree, content = self.store.read(o.image)
                self.assertEqual(content(b"sparse"), want)
                self.assertEqual(content(b"hole"), bytes(10_000_000))
                self.assertEqual(content(b"after"), b"after")
                data = self.store.segments(o.image)[1].stat()
                self.assertLess(data.st_blocks * 512, 200_000, "holes stay holes")

    def test_a_real_tree(self):
        raw = subprocess.run(["tar", "-cf", "-", "--format=posix", "--sort=name", "-C", "/usr/lib", "python3.11", "python3"],
                             check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL).stdout
        self.compare(raw)

    def test_shapes_of_streams(self):
        one = Tar().add("a", data=b"1").bytes()
        for name, raw in (("nothing", b""), ("end_marker_only", bytes(1024)), ("padded", one + bytes(1 << 20)),
                          ("no_end_marker", one.rstrip(b"\0") + bytes(511)), ("data_after_the_end", one + b"junk" * 1000),
                          ("two_archives", one + Tar().add("b", data=b"2").bytes())):
            with self.subTest(name=name):
                tree, _ = self.tree(raw)
                self.assertEqual(b"a" in tree, name not in ("nothing", "end_marker_only"))
                self.assertNotIn(b"b", tree)

    def test_layers_merge_and_whiteouts_hide(self):
        base = Tar().add("keep", data=b"k").add("gone", data=b"g").add("dir", DIR).add("dir/old", data=b"o").add("l", data=b"l")
        top = Tar().add(".wh.gone").add("dir/.wh..wh..opq").add("dir/new", data=b"n").add("link", LNK, link="l")
        last = Tar().add("gone", data=b"back")
        tree, content = self.tree(base.bytes(), top.bytes(), last.bytes())
        self.assertEqual(sorted(tree), [b"", b"dir", b"dir/new", b"gone", b"keep", b"l", b"link"])
        self.assertEqual((content(b"gone"), content(b"keep"), content(b"link")), (b"back", b"k", b"l"))

    # ---- hostile names stay inside ----
    def test_names_that_try_to_leave_stay_inside(self):
        t = Tar()
        t.add("../../up", data=b"1").add("/abs", data=b"2").add("a/../../../b", data=b"3").add("conf", SYM, link="/etc")
        t.add("conf/shadow", data=b"4").add("out", SYM, link="../../../../tmp").add("out/x", data=b"5")
        t.add("hard", LNK, link="../../abs").add("self", SYM, link="/proc/self/root").add("self/y", data=b"6")
        tree, content = self.tree(t.bytes())
        self.assertEqual(content(b"up"), b"1")
        self.assertEqual(tree[b"hard"].nid, tree[b"abs"].nid)
        self.assertFalse(os.path.exists("/tmp/x") and open("/tmp/x", "rb").read() == b"5")
        self.assertEqual(content(b"tmp/x"), b"5")
        self.assertEqual(content(b"etc/shadow"), b"4")
        self.assertEqual(content(b"proc/self/root/y"), b"6")

    def test_refusals(self):
        huge = Tar().add("a", data=b"1").bytes()
        negative = bytearray(Tar(tarfile.USTAR_FORMAT).add("a").bytes())
        negative[108:116] = b"\xff" * 8  # uid -1, base-256
        for part in (negative,):
            head = part[:512]
            head[148:156] = b" " * 8
            part[148:156] = b"%06o\0 " % sum(head)
        cases = (
            ("through_a_file", Tar().add("a", data=b"1").add("a/b", data=b"2").bytes(), "invalid", "a/b"),
            ("circle", Tar().add("a", SYM, link="b").add("b", SYM, link="a").add("a/x").bytes(), "invalid", "circle"),
            ("hard_link_to_nothing", Tar().add("a", LNK, link="b").bytes(), "invalid", "hard link to nothing"),
            ("hard_link_to_outside", Tar().add("a", LNK, link="/etc/passwd").bytes(), "invalid", ""),
            ("hard_link_to_directory", Tar().add("d", DIR).add("a", LNK, link="d").bytes(), "invalid", "directory"),
            ("long_name", Tar().add("x" * 256).bytes(), "invalid", "too long"),
            ("long_path", Tar().add("x/" * 2048).bytes(), "invalid", "too long"),
            ("long_link", Tar().add("x", SYM, link="y" * 4096).bytes(), "invalid", ""),
            ("bad_whiteout", Tar().add("d/.wh...").bytes(), "invalid", ""),
            ("uid_negative", bytes(negative), "invalid", "owner"),
            ("uid_huge", Tar().add("a", uid=2**32).bytes(), "invalid", "owner"),
            ("cut_header", huge[:300], "invalid", ""),
            ("cut_data", Tar().add("a", data=b"x" * 5000).bytes()[:2000], "invalid", ""),
            ("bad_checksum", b"\x01" + huge[1:], "invalid", ""),
            ("no_tar", b"PK\x03\x04" + os.urandom(2000), "invalid", ""),
            ("xattrs_of_100_kib", Tar().add("a", pax={f"SCHILY.xattr.user.{n}": "v" * 10000 for n in range(10)}).bytes(),
             "exhausted", "extended attributes"),
        )
        for name, raw, cls, word in cases:
            with self.subTest(name=name):
                self.refused(raw, cls, word)

    def test_sizes_that_lie(self):
        for name, size in (("huge", 2**40), ("beyond", 2**62)):
            with self.subTest(name=name):
                info = tarfile.TarInfo("a")
                info.size = size
                self.refused(info.tobuf(tarfile.GNU_FORMAT) + bytes(2048), "exhausted" if name == "huge" else "exhausted")

    def test_a_terabyte_of_nothing(self):
        head = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": str(2**40), "GNU.sparse.name": "a"}
        self.refused(Tar().add("a", data=b"0\n".ljust(512, b"\0"), pax=head).bytes(), "exhausted")

    def test_too_many_sparse_segments(self):
        n = 5000
        body = (f"{n}\n" + "".join(f"{k * 1000}\n1\n" for k in range(n))).encode()
        body += bytes(-len(body) % 512) + b"x" * n
        head = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": str(n * 1000), "GNU.sparse.name": "a"}
        self.refused(Tar().add("a", data=body, pax=head).bytes(), "exhausted", "sparse")

    def test_a_long_name_of_gnu_that_never_ends(self):
        info = tarfile.TarInfo("././@LongLink")
        info.type, info.size = b"L", 2**30
        self.refused(info.tobuf(tarfile.GNU_FORMAT) + bytes(1 << 20), "invalid")

    def test_many_members_take_little_memory(self):
        raw = b"".join(tarfile.TarInfo(f"{n:x}").tobuf(tarfile.USTAR_FORMAT) for n in range(200_000)) + bytes(1024)
        where = imagelib.layout(self.tmp.name, [(raw, None)])
        del raw  # see imagelib about peaks
        o = self.store.pull("x", layout=where)
        self.assertIsNone(o.error)
        self.assertEqual(o.image["inodes"], 200_001)
        self.assertLess(o.peak_bytes, 96 << 20)


if __name__ == "__main__":
    unittest.main()
