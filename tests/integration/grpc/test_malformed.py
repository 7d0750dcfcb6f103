# SPDX-License-Identifier: Apache-2.0
"""src/grpc with clients that are wrong, greedy or hostile. Whatever they do: a clear answer or the end of
their own connection, and a second client that notices nothing."""
import pathlib
import select
import socket
import struct
import sys
import time
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "lib"))
import echo  # noqa: E402
from cri import Cri  # noqa: E402
from cri import pb  # noqa: E402
from echo import (ACK, CONTINUATION, DATA, END_HEADERS, END_STREAM, GOAWAY, HEADERS, PING, PREFACE, PRIORITY,  # noqa: E402
                  RST_STREAM, SETTINGS, WINDOW_UPDATE, EchoCase, Raw, frame, headers, literal, message)

MIB = 1 << 20
EXEC = "/runtime.v1.RuntimeService/ExecSync"
STREAM = "/runtime.v1.RuntimeService/StreamPodSandboxes"


def exec_body(*cmd):
    return message(pb.ExecSyncRequest(cmd=cmd).SerializeToString())


class Case(EchoCase):
    def raw(self, **kw):
        r = Raw(self.path, **kw)
        self.addCleanup(r.close)
        return r

    def assert_serves_others(self):
        self.assertEqual(self.client.Version().runtime_name, "grpc-echo")


class Requests(Case):
    """(name, header block, body, what comes back): a status and words of its text, or a reset."""
    ROWS = [
        ("good", headers(), message(), ("0", "")),
        ("socket_path_as_authority", headers(authority="/run/nexus/nexusd.sock"), message(), ("0", "")),
        ("empty_authority", headers(authority=""), message(), ("0", "")),
        ("no_authority", headers(drop=[":authority"]), message(), ("0", "")),
        ("no_te", headers(drop=["te"]), message(), ("0", "")),
        ("proto_suffix", headers(content_type="application/grpc+proto"), message(), ("0", "")),
        ("parameters", headers(content_type="application/grpc;x=y"), message(), ("0", "")),
        ("metadata_is_ignored", headers(extra=[("x-y", "z"), ("x-bin", "!!not base64")]), message(), ("0", "")),
        ("bad_traceparent_is_ignored", headers(extra=[("traceparent", "00-zz")]), message(), ("0", "")),
        ("unused_compression_is_fine", headers(extra=[("grpc-encoding", "gzip")]), message(), ("0", "")),
        ("no_path", headers(drop=[":path"]), message(), "reset"),
        ("no_method", headers(drop=[":method"]), message(), "reset"),
        ("no_scheme", headers(drop=[":scheme"]), message(), "reset"),
        ("path_twice", headers(extra=[(":path", "/x")]), message(), "reset"),
        ("pseudo_after_regular", headers(extra=[(":authority", "x")], drop=[":authority"]), message(), "reset"),
        ("unknown_pseudo", literal(":x", "y") + headers(), message(), "reset"),
        ("upper_case_name", headers(extra=[("X-Y", "z")]), message(), "reset"),
        ("empty_name", headers(extra=[("", "z")]), message(), "reset"),
        ("nul_in_path", headers(path="/a\0b"), message(), "reset"),
        ("newline_in_value", headers(extra=[("x", "a\r\nb: c")]), message(), "reset"),
        ("connection_header", headers(extra=[("connection", "close")]), message(), "reset"),
        ("bad_te", headers(te="gzip"), message(), "reset"),
        ("get", headers(method="GET"), message(), ("12", "POST")),
        ("empty_path", headers(path=""), message(), ("12", "")),
        ("unknown_service", headers(path="/x.Y/Z"), message(), ("12", "/x.Y/Z")),
        ("no_slash", headers(path="Version"), message(), ("12", "Version")),
        ("v1alpha2", headers(path="/runtime.v1alpha2.RuntimeService/Version"), message(), ("12", "v1alpha2")),
        ("huge_path", headers(path="/" + "x" * 15000), message(), ("12", "xxx")),
        ("timeout_text", headers(extra=[("grpc-timeout", "abcS")]), message(), ("3", "grpc-timeout")),
        ("timeout_negative", headers(extra=[("grpc-timeout", "-1S")]), message(), ("3", "grpc-timeout")),
        ("timeout_without_unit", headers(extra=[("grpc-timeout", "10")]), message(), ("3", "grpc-timeout")),
        ("timeout_nine_digits", headers(extra=[("grpc-timeout", "100000000S")]), message(), ("3", "grpc-timeout")),
        ("timeout_empty", headers(extra=[("grpc-timeout", "")]), message(), ("3", "grpc-timeout")),
        ("timeout_twice", headers(extra=[("grpc-timeout", "1S"), ("grpc-timeout", "1S")]), message(), "reset"),
        ("timeout_zero", headers(extra=[("grpc-timeout", "0n")]), message(), ("4", "deadline")),
        ("timeout_of_ages", headers(extra=[("grpc-timeout", "99999999H")]), message(), ("0", "")),
        ("compressed", headers(), message(b"x", flag=1), ("12", "compressed")),
        ("flag_2", headers(), message(b"x", flag=2), ("13", "flag")),
        ("four_gigabytes_announced", headers(), message(b"", length=0xffffffff), ("8", "16777216")),
        ("one_byte_too_many_announced", headers(), message(b"", length=16 * MIB + 1), ("8", "16777216")),
        ("two_messages", headers(), message() + message(), ("12", "not two")),
        ("message_and_a_half", headers(), message() + b"\0\0", ("12", "not two")),
        ("half_a_header", headers(), b"\0\0\0", ("13", "inside")),
        ("half_a_message", headers(), message(b"xy", length=5), ("13", "inside")),
        ("no_message", headers(), b"", ("12", "no message")),
        ("no_protobuf", headers(EXEC), message(b"\xff\xff\xff"), ("13", "ExecSyncRequest")),
        ("group", headers(EXEC), message(b"\x0b\x0c"), ("13", "wire type")),
        ("tag_zero", headers(EXEC), message(b"\x00\x00"), ("13", "tag")),
        ("length_beyond_end", headers(EXEC), message(b"\x0a\x05x"), ("13", "length")),
        ("eleven_byte_varint", headers(EXEC), message(b"\x18" + b"\x80" * 10 + b"\x01"), ("13", "number")),
        ("wrong_type_of_field", headers(EXEC), message(b"\x08\x01"), ("13", "ExecSyncRequest")),
        ("unknown_fields_are_skipped", headers(), message(b"\xfa\x7f\x03abc\xf8\x7e\x01"), ("0", "")),
    ]

    def test_table(self):
        for name, block, body, want in self.ROWS:
            with self.subTest(name=name):
                c = self.raw()
                c.request(1, block, body)
                fields, _ = c.answer(1)
                if want == "reset":
                    self.assertEqual(fields, "reset")
                else:
                    self.assertEqual(fields.get("grpc-status"), want[0], fields)
                    self.assertIn(want[1], fields.get("grpc-message", ""))
                    self.assertEqual(fields[":status"], "200")
                # the connection is as good as before
                c.request(3)
                self.assertEqual(c.answer(3)[0].get("grpc-status"), "0")
                c.close()
        self.assert_serves_others()

    def test_other_content_types_are_http_415(self):
        for kind in ("text/html", "application/json", "application/grpcfoo", "application/grpc+json", ""):
            with self.subTest(kind=kind):
                c = self.raw()
                c.request(1, headers(content_type=kind))
                self.assertEqual(c.answer(1)[0][":status"], "415")

    def test_a_compressed_request_is_told_what_would_do(self):
        c = self.raw()
        c.request(1, body=message(b"x", flag=1))
        self.assertEqual(c.answer(1)[0]["grpc-accept-encoding"], "identity")

    def test_header_list_limit(self):
        """Just below, at and just above 16 KiB; far above. The stream fails, not the connection."""
        base = sum(len(n) + len(v) + 32 for n, v in
                   ((":method", "POST"), (":scheme", "http"), (":path", "/runtime.v1.RuntimeService/Version"),
                    (":authority", "localhost"), ("te", "trailers"), ("content-type", "application/grpc")))
        c, stream = self.raw(), 1
        for size, status in ((16383, "0"), (16384, "0"), (16385, "8"), (60000, "8")):
            block = headers(extra=[("x", "y" * (size - base - 33))])
            first, rest = block[:16384], block[16384:]
            c.send(frame(HEADERS, 0, stream, first))
            while len(rest) > 16384:
                c.send(frame(CONTINUATION, 0, stream, rest[:16384]))
                rest = rest[16384:]
            c.send(frame(CONTINUATION, END_HEADERS, stream, rest) + frame(DATA, END_STREAM, stream, message()))
            self.assertEqual(c.answer(stream)[0].get("grpc-status"), status, size)
            stream += 2

    def test_an_early_answer_stops_the_upload(self):
        """A refused upload of unknown length is told to stop by RST_STREAM(NO_ERROR) after the answer."""
        c = self.raw()
        c.send(frame(HEADERS, END_HEADERS, 1, headers(path="/x/Y")))
        self.assertEqual(c.answer(1)[0]["grpc-status"], "12")
        f = c.until(lambda k, fl, s, p: k == RST_STREAM and s == 1)[-1]
        self.assertEqual(f[3], b"\0\0\0\0")

    def test_a_request_byte_by_byte(self):
        c = self.raw()
        data = frame(HEADERS, END_HEADERS, 1, headers(EXEC)) + frame(DATA, END_STREAM, 1, exec_body("echo", "slow"))
        for i in range(len(data)):
            c.send(data[i:i + 1])
        self.assertIn(b"slow", c.answer(1)[1])

    def test_a_message_in_many_data_frames_with_padding(self):
        c = self.raw()
        c.send(frame(HEADERS, END_HEADERS, 1, headers(EXEC)))
        for b in exec_body("echo", "padded"):
            c.send(frame(DATA, 8, 1, bytes([3, b, 0, 0, 0])))
        c.send(frame(DATA, END_STREAM, 1))
        self.assertIn(b"padded", c.answer(1)[1])

    def test_trailers_of_a_client_are_ignored(self):
        c = self.raw()
        c.send(frame(HEADERS, END_HEADERS, 1, headers()) + frame(DATA, 0, 1, message()) +
               frame(HEADERS, END_HEADERS | END_STREAM, 1, literal("x-trailer", "y")))
        self.assertEqual(c.answer(1)[0]["grpc-status"], "0")

    def test_unfinished_requests_share_a_limit(self):
        """48 MiB of half-sent requests per connection, then refusal; all memory comes back."""
        c = self.raw()
        sent = stream = 0
        refused = 0
        block, piece = headers(EXEC), b"x" * 16384
        c.sock.settimeout(0.01)
        credit = {0: 65535}
        for k in range(5):
            stream = 2 * k + 1
            c.send(frame(HEADERS, END_HEADERS, stream, block) + frame(DATA, 0, stream, message(length=15 * MIB)))
            credit[stream], sent = 65535, 5
            credit[0] -= 5
            credit[stream] -= 5
            while sent < 14 * MIB and not refused:
                while min(credit[0], credit[stream]) < len(piece) and not refused:
                    try:
                        f = c.recv_frame()
                    except socket.timeout:
                        continue
                    if f[0] == WINDOW_UPDATE:
                        credit[f[2]] = credit.get(f[2], 65535) + int.from_bytes(f[3], "big")
                    if f[0] == SETTINGS and f[3]:
                        for i in range(0, len(f[3]), 6):
                            key, value = struct.unpack(">HI", f[3][i:i + 6])
                            if key == 4:
                                credit[stream] += value - 65535
                    if f[0] == HEADERS:
                        self.assertEqual(echo.decode(f[3], c)["grpc-status"], "8")
                        refused = f[2]
                if refused:
                    break
                c.send(frame(DATA, 0, stream, piece))
                sent += len(piece)
                credit[0] -= len(piece)
                credit[stream] -= len(piece)
        self.assertEqual(refused, 7)  # 3 x 14 MiB fit
        self.assert_rss_below(128 * MIB)
        c.close()
        self.wait_info(lambda i: i["connections"] == 1)
        self.assert_rss_below(16 * MIB)


class Frames(Case):
    """HTTP/2 that is wrong ends its connection with GOAWAY (or a reset of the stream) and nothing else."""
    ROWS = [
        ("data_on_idle_stream", frame(DATA, 0, 5, b"x")),
        ("data_on_stream_0", frame(DATA, 0, 0, b"x")),
        ("headers_on_even_stream", frame(HEADERS, END_HEADERS, 2, headers())),
        ("padding_longer_than_payload", frame(HEADERS, END_HEADERS | 8, 1, b"\xff" + headers()[:20])),
        ("ping_of_7_bytes", frame(PING, 0, 0, b"1234567")),
        ("settings_of_5_bytes", frame(SETTINGS, 0, 0, b"12345")),
        ("settings_ack_with_payload", frame(SETTINGS, ACK, 0, b"123456")),
        ("settings_on_a_stream", frame(SETTINGS, 0, 1)),
        ("rst_of_3_bytes", frame(RST_STREAM, 0, 1, b"123")),
        ("rst_of_idle_stream", frame(RST_STREAM, 0, 1, b"\0\0\0\0")),
        ("window_update_of_0", frame(WINDOW_UPDATE, 0, 0, b"\0\0\0\0")),
        ("window_overflow", frame(WINDOW_UPDATE, 0, 0, b"\x7f\xff\xff\xff") * 2),
        ("frame_larger_than_allowed", frame(DATA, 0, 1, b"x" * 16385)),
        ("continuation_alone", frame(CONTINUATION, END_HEADERS, 1, headers())),
        ("frame_inside_headers", frame(HEADERS, 0, 1, headers()) + frame(PING, 0, 0, b"12345678")),
        ("push_from_a_client", frame(echo.PUSH, END_HEADERS, 1, b"\0\0\0\2" + headers())),
        ("hpack_endless_integer", frame(HEADERS, END_HEADERS, 1, b"\x0f" + b"\x80" * 40)),
        ("hpack_4_gib_string", frame(HEADERS, END_HEADERS, 1, b"\0\x7f\xff\xff\xff\xff\x0fx")),
        ("hpack_index_0", frame(HEADERS, END_HEADERS, 1, b"\x80")),
        ("hpack_index_beyond_table", frame(HEADERS, END_HEADERS, 1, b"\xff\x80\x01")),
        ("hpack_table_too_large", frame(HEADERS, END_HEADERS, 1, b"\x3f\xff\xff\x7f" + headers())),
        ("settings_of_33_entries", frame(SETTINGS, 0, 0, b"\0\3\0\0\0\1" * 33)),
        ("settings_enable_push_2", frame(SETTINGS, 0, 0, b"\0\2\0\0\0\2")),
        ("settings_window_2_31", frame(SETTINGS, 0, 0, b"\0\4\x80\0\0\0")),
    ]

    def test_table(self):
        for name, data in self.ROWS:
            with self.subTest(name=name):
                c = self.raw()
                c.try_send(data)
                frames = c.until(lambda *f: f[0] == GOAWAY)
                self.assertTrue(frames[-1] is None or frames[-1][3][4:8] != b"\0\0\0\0", "GOAWAY without an error")
                self.assertIsNone(c.until(lambda *f: False)[-1])
                c.close()
        self.assert_serves_others()
        self.wait_info(lambda i: i["connections"] == 1 and i["failed"] >= len(self.ROWS) - 1)

    def test_no_http_2_at_all(self):
        for data in (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"\0" * 1000, b"\x16\x03\x01" + b"\xff" * 500, PREFACE[:-1] + b"x"):
            c = self.raw(preface=False)
            c.try_send(data)
            self.assertIsNone(c.until(lambda *f: False)[-1])
        self.assert_serves_others()

    def test_the_window_of_a_reader_holds(self):
        """Window 1 and one more byte at a time: the answer comes in as many frames as it has bytes."""
        c = self.raw(settings=b"\0\4\0\0\0\1")
        c.request(1, headers(EXEC), exec_body("echo", "tiny"))
        body = b""
        while b"tiny" not in body:
            f = c.recv_frame()
            if f[0] == DATA:
                self.assertEqual(len(f[3]), 1)
                body += f[3]
                c.send(frame(WINDOW_UPDATE, 0, 1, b"\0\0\0\1"))
        c.send(frame(WINDOW_UPDATE, 0, 1, b"\0\0\1\0"))
        c.until(lambda k, fl, s, p: k == HEADERS and fl & END_STREAM)

    def test_window_zero_for_ever_is_bounded(self):
        """Answers pile up only to the outbound limit; what does not fit is told so at once."""
        c = self.raw(settings=b"\0\4\0\0\0\0")
        for k in range(40):
            c.request(2 * k + 1, headers(EXEC), exec_body("big", str(MIB)))
        refused = 0
        c.sock.settimeout(2)
        while refused < 40 - 24:
            f = c.recv_frame()
            fields = echo.decode(f[3], c) if f[0] == HEADERS else {}
            if "grpc-status" in fields:
                self.assertEqual(fields["grpc-status"], "8")
                refused += 1
        self.assert_rss_below(64 * MIB)
        self.assert_serves_others()
        c.close()
        self.wait_info(lambda i: i["connections"] == 1)
        self.assert_rss_below(16 * MIB)

    def test_a_reader_that_never_reads_costs_a_socket_buffer(self):
        c = self.raw(settings=b"\0\4\x7f\xff\xff\xff")
        c.send(frame(WINDOW_UPDATE, 0, 0, b"\x7f\xff\0\0"))
        c.request(1, headers(STREAM), message(pb.StreamPodSandboxesRequest(
            filter=pb.PodSandboxFilter(id="1000000 10000")).SerializeToString()))
        for _ in range(50):
            self.assert_serves_others()
        self.assert_rss_below(32 * MIB)


class Floods(Case):
    def flood(self, conn, data, total):
        """Sends data over and over until total bytes or the end of the connection; answers are read so
        that only the server's own limits end it. True: the server ended it."""
        sent = 0
        conn.sock.settimeout(0)
        while sent < total:
            readable, writable, _ = select.select([conn.sock], [conn.sock], [], 20)
            try:
                if writable:
                    sent += conn.sock.send(data)
                if readable and not conn.sock.recv(1 << 20):
                    return True
            except BlockingIOError:
                pass
            except OSError:
                return True
        return False

    def test_rapid_reset_ends_the_connection_that_does_it(self):
        c, ended, stream = self.raw(), False, 1
        for _ in range(1000):
            burst = b""
            for _ in range(100):
                burst += frame(HEADERS, END_HEADERS, stream, headers(EXEC)) + frame(RST_STREAM, 0, stream, b"\0\0\0\x08")
                stream += 2
            if not c.try_send(burst):
                ended = True
                break
        self.assertTrue(ended)
        self.assertLess(stream, 20000)
        self.assert_serves_others()
        self.wait_info(lambda i: i["connections"] == 1 and i["failed"] == 1 and i["calls"] == 1)

    def test_rapid_reset_with_work_behind_it_cancels_all_of_it(self):
        c, stream = self.raw(), 1
        for _ in range(900):
            c.send(frame(HEADERS, END_HEADERS, stream, headers(EXEC)) +
                   frame(DATA, END_STREAM, stream, exec_body("hang")) + frame(RST_STREAM, 0, stream, b"\0\0\0\x08"))
            stream += 2
        i = self.wait_info(lambda i: i["calls"] == 1 and i["started"] >= 900)
        self.assert_rss_below(16 * MIB)
        self.assertEqual(i["failed"], 0)

    def test_continuation_flood(self):
        c = self.raw()
        c.send(frame(HEADERS, 0, 1, headers()))
        self.assertTrue(self.flood(c, frame(CONTINUATION, 0, 1, literal("x", "y" * 1000)), 64 * MIB))
        self.assert_rss_below(16 * MIB)
        self.assert_serves_others()

    def test_empty_continuation_flood(self):
        c = self.raw()
        c.send(frame(HEADERS, 0, 1, headers()))
        self.assertTrue(self.flood(c, frame(CONTINUATION, 0, 1) * 100, 64 * MIB))
        self.assert_serves_others()

    def test_settings_flood_unread(self):
        """Acknowledgements nobody reads are queued up to a limit, then the connection ends."""
        c = self.raw()
        ended = False
        for _ in range(20000):
            if not c.try_send(frame(SETTINGS, 0, 0, b"\0\3\0\0\0\1") * 100):
                ended = True
                break
        self.assertTrue(ended)
        self.assert_rss_below(16 * MIB)
        self.assert_serves_others()

    def test_ping_flood_unread(self):
        c = self.raw()
        ended = False
        for _ in range(20000):
            if not c.try_send(frame(PING, 0, 0, b"12345678") * 100):
                ended = True
                break
        self.assertTrue(ended)
        self.assert_rss_below(16 * MIB)
        self.assert_serves_others()

    def test_floods_that_are_read_hold_up_nobody(self):
        rows = [("ping", frame(PING, 0, 0, b"12345678") * 50), ("settings", frame(SETTINGS) * 50),
                ("priority", frame(PRIORITY, 0, 3, b"\0\0\0\0\x10") * 50),
                ("priority_of_many", b"".join(frame(PRIORITY, 0, 2 * k + 1, b"\0\0\0\0\x10") for k in range(500))),
                ("unknown_frames", frame(0xee, 0, 0, b"x" * 100) * 50),
                ("window_updates", frame(WINDOW_UPDATE, 0, 0, b"\0\0\0\1") * 50)]
        for name, data in rows:
            with self.subTest(name=name):
                c = self.raw()
                self.flood(c, data, 4 * MIB)
                self.assert_serves_others()
                self.assert_rss_below(16 * MIB)
                c.close()

    def test_empty_data_flood(self):
        c = self.raw()
        c.send(frame(HEADERS, END_HEADERS, 1, headers()))
        self.flood(c, frame(DATA, 0, 1) * 100, 4 * MIB)
        self.assert_serves_others()
        self.assert_rss_below(16 * MIB)

    def test_goaway_then_more_streams(self):
        c = self.raw()
        c.send(frame(GOAWAY, 0, 0, b"\0" * 8))
        c.try_send(frame(HEADERS, END_HEADERS | END_STREAM, 1, headers()))
        c.until(lambda *f: False)
        self.assert_serves_others()


class Connections(Case):
    fd_limit = 40

    def test_out_of_fds_pauses_without_spinning(self):
        """With 40 fds the server runs out long before its own limit of connections."""
        self.assert_serves_others()
        idle = [self.raw() for _ in range(60)]
        i = self.wait_info(lambda i: i["pauses"] >= 2)
        self.assertLess(i["connections"], 40)
        ticks = self.cpu_ticks()
        time.sleep(0.5)  # what is measured is what happens while nothing happens
        self.assertLessEqual(self.cpu_ticks() - ticks, 5)
        for c in idle:
            c.close()
        self.wait_info(lambda i: i["connections"] == 1)
        c = self.raw()
        c.request(1)
        self.assertEqual(c.answer(1)[0]["grpc-status"], "0")

    def cpu_ticks(self):
        fields = pathlib.Path(f"/proc/{self.proc.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return int(fields[11]) + int(fields[12])


class ConnectionLimit(Case):
    def test_sixty_four_connections_then_waiting(self):
        self.assert_serves_others()
        idle = [self.raw() for _ in range(100)]
        self.wait_info(lambda i: i["connections"] == 64)
        self.assert_serves_others()
        for c in idle[:90]:
            c.close()
        late = idle[99]
        late.request(1)
        self.assertEqual(late.answer(1)[0]["grpc-status"], "0")

    def test_clients_that_never_close_make_room_for_new_ones(self):
        """A client that forgets its connections, two for each of its calls, cannot lock everybody out. Whoever is
        idle longest goes; a connection with an open call stays."""
        busy = Cri(f"unix:{self.path}")
        self.addCleanup(busy.close)
        call = busy.ExecSync(cmd=["hang"], future=True)
        self.wait_info(lambda i: i["calls"] == 2)
        forgotten = [self.raw() for _ in range(80)]
        late = forgotten[-1]
        late.request(1)
        late.sock.settimeout(60)
        self.assertEqual(late.answer(1)[0]["grpc-status"], "0")
        i = self.info()
        self.assertLessEqual(i["connections"], 64)
        self.assertEqual((i["cancelled"], call.done()), (0, False))
        call.cancel()

    def test_a_thousand_that_come_and_go(self):
        for _ in range(1000):
            socket_only = socket.socket(socket.AF_UNIX)
            socket_only.connect(self.path)
            socket_only.close()
        self.wait_info(lambda i: i["accepted"] >= 1001 and i["connections"] == 1)


if __name__ == "__main__":
    unittest.main()
