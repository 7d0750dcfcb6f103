# SPDX-License-Identifier: Apache-2.0
"""src/grpc with a client nobody here wrote (gRPC's C core): calls, streams, limits, deadlines, cancel."""
import pathlib
import subprocess
import sys
import threading
import time
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "lib"))
import grpc  # noqa: E402
from cri import ROOT, Cri, pb  # noqa: E402
from echo import BUILD, EchoCase  # noqa: E402

MIB = 1 << 20


class Calls(EchoCase):
    def code_of(self, *cmd, **kw):
        with self.assertRaises(grpc.RpcError) as e:
            self.client.ExecSync(container_id="c", cmd=cmd, **kw)
        return e.exception.code(), e.exception.details()

    def test_version_answers(self):
        v = self.client.Version(version="0.1.0")
        self.assertEqual((v.version, v.runtime_name, v.runtime_api_version), ("0.1.0", "grpc-echo", "v1"))

    def test_text_comes_back_byte_for_byte(self):
        self.assertEqual(self.client.ExecSync(cmd=["echo", "grün \x01 ☃"]).stdout.decode(), "grün \x01 ☃")

    def test_every_status_reaches_the_client_with_its_text(self):
        for status in grpc.StatusCode:
            number = status.value[0]
            if number == 0:
                continue
            with self.subTest(status=status.name):
                self.assertEqual(self.code_of("fail", str(number), f"text of {number}: 100% für ☃"),
                                 (status, f"text of {number}: 100% für ☃"))

    def test_ok_as_an_error_becomes_internal(self):
        self.assertEqual(self.code_of("fail", "0", "x"), (grpc.StatusCode.INTERNAL, "x"))

    def test_a_guest_fault_is_internal(self):
        self.assertEqual(self.code_of("guest", "the agent lied"),
                         (grpc.StatusCode.INTERNAL, "in guest: the agent lied"))

    def test_text_is_cut_and_cleaned(self):
        code, text = self.code_of("fail", "13", "a\nb\x1b" + "y" * 9000)
        self.assertEqual((code, len(text), text[:4]), (grpc.StatusCode.INTERNAL, 4096, "a b "))

    def test_methods_without_handler_are_unimplemented(self):
        with self.assertRaises(grpc.RpcError) as e:
            self.client.ListContainers()
        self.assertEqual(e.exception.code(), grpc.StatusCode.UNIMPLEMENTED)
        self.assertIn("/runtime.v1.RuntimeService/ListContainers", e.exception.details())
        with self.assertRaises(grpc.RpcError) as e:
            self.client.ListImages()
        self.assertEqual(e.exception.code(), grpc.StatusCode.UNIMPLEMENTED)

    def test_largest_answer_passes_and_one_more_byte_is_refused(self):
        largest = 16 * MIB - 5  # tag and length of the field
        self.assertEqual(len(self.client.ExecSync(cmd=["big", str(largest)]).stdout), largest)
        code, text = self.code_of("big", str(largest + 1))
        self.assertEqual(code, grpc.StatusCode.RESOURCE_EXHAUSTED)
        self.assertIn("16777216", text)

    def test_largest_request_passes_and_one_more_byte_is_refused(self):
        def request(total):
            m = pb.ExecSyncRequest(cmd=["echo", "x"])
            m.cmd.append("y" * (total - m.ByteSize() - 5))
            self.assertEqual(m.ByteSize(), total)
            return m
        channel = grpc.insecure_channel(f"unix:{self.path}", options=[("grpc.max_send_message_length", 32 * MIB),
                                                                       ("grpc.default_authority", "localhost")])
        self.addCleanup(channel.close)
        call = channel.unary_unary("/runtime.v1.RuntimeService/ExecSync",
                                   request_serializer=pb.ExecSyncRequest.SerializeToString,
                                   response_deserializer=pb.ExecSyncResponse.FromString)
        self.assertEqual(call(request(16 * MIB), timeout=30).stdout, b"x")
        with self.assertRaises(grpc.RpcError) as e:
            call(request(16 * MIB + 1), timeout=30)
        self.assertEqual(e.exception.code(), grpc.StatusCode.RESOURCE_EXHAUSTED)
        self.assertEqual(call(pb.ExecSyncRequest(cmd=["echo", "still here"]), timeout=30).stdout, b"still here")

    def test_unicode_errors_in_text_are_refused_by_name(self):
        channel = grpc.insecure_channel(f"unix:{self.path}", options=[("grpc.default_authority", "localhost")])
        self.addCleanup(channel.close)
        call = channel.unary_unary("/runtime.v1.RuntimeService/ExecSync")
        for bad in (b"\xff", b"a\0b"):
            with self.assertRaises(grpc.RpcError) as e:
                call(b"\x0a" + bytes([len(bad)]) + bad, timeout=30)
            self.assertEqual(e.exception.code(), grpc.StatusCode.INVALID_ARGUMENT)
            self.assertIn("ExecSyncRequest.container_id", e.exception.details())
        with self.assertRaises(grpc.RpcError) as e:
            call(b"\x0a\xff", timeout=30)
        self.assertEqual(e.exception.code(), grpc.StatusCode.INTERNAL)

    def test_decode_amplification_is_refused(self):
        """16 MiB of empty submessages would be gigabytes of structs."""
        channel = grpc.insecure_channel(f"unix:{self.path}", options=[("grpc.max_send_message_length", 32 * MIB),
                                                                       ("grpc.default_authority", "localhost")])
        self.addCleanup(channel.close)
        call = channel.unary_unary("/runtime.v1.RuntimeService/ExecSync")
        with self.assertRaises(grpc.RpcError) as e:
            call(b"\x12\x00" * (8 * MIB - 8), timeout=30)
        self.assertEqual(e.exception.code(), grpc.StatusCode.RESOURCE_EXHAUSTED)
        self.assert_rss_below(64 * MIB)

    def test_a_deadline_answers_and_cancels_the_work(self):
        self.assertEqual(self.code_of("hang", timeout=0.05)[0], grpc.StatusCode.DEADLINE_EXCEEDED)
        self.wait_info(lambda i: i["cancelled"] == 1)
        self.assertEqual(self.client.ExecSync(cmd=["echo", "fine"]).stdout, b"fine")

    def test_a_handler_that_ignores_cancellation_may_answer_late(self):
        self.assertEqual(self.code_of("deaf", "300", timeout=0.05)[0], grpc.StatusCode.DEADLINE_EXCEEDED)
        self.wait_info(lambda i: i["late"] == 1)

    def test_cancel_reaches_the_handler(self):
        f = self.client.ExecSync(cmd=["hang"], future=True)
        self.wait_info(lambda i: i["calls"] == 2)
        f.cancel()
        self.wait_info(lambda i: i["cancelled"] == 1 and i["calls"] == 1)

    def test_a_client_that_goes_cancels_its_calls(self):
        other = Cri(f"unix:{self.path}")
        calls = [other.ExecSync(cmd=["hang"], future=True) for _ in range(5)]
        self.wait_info(lambda i: i["calls"] == 6)
        other.close()
        self.wait_info(lambda i: i["cancelled"] == 5 and i["connections"] == 1)
        del calls

    def test_answers_come_in_any_order(self):
        slow = self.client.ExecSync(cmd=["sleep", "200"], future=True)
        fast = self.client.ExecSync(cmd=["echo", "first"], future=True)
        self.assertEqual(fast.result().stdout, b"first")
        self.assertFalse(slow.done())
        self.assertEqual(slow.result().stdout, b"slept")

    def test_two_hundred_waiting_calls_do_not_hold_up_others(self):
        calls = [self.client.ExecSync(cmd=["hang"], future=True) for _ in range(200)]
        self.wait_info(lambda i: i["calls"] == 201)
        self.assertEqual(self.client.Version().runtime_name, "grpc-echo")
        for c in calls:
            c.cancel()
        self.wait_info(lambda i: i["cancelled"] == 200)

    def test_calls_above_the_stream_limit_wait_their_turn(self):
        calls = [self.client.ExecSync(cmd=["sleep", "50"], future=True) for _ in range(600)]
        self.assertEqual({c.result().stdout for c in calls}, {b"slept"})

    def test_the_observer_sees_every_call(self):
        before = self.info()
        self.client.Version()
        self.code_of("fail", "5", "x")
        after = self.info()
        self.assertEqual((after["observed"] - before["observed"], after["errors"] - before["errors"]), (3, 1))


class Streams(EchoCase):
    def stream(self, count, size=1, **kw):
        return self.client.StreamPodSandboxes(filter=pb.PodSandboxFilter(id=f"{count} {size}"), **kw)

    def test_ten_thousand_messages_arrive_in_order(self):
        got = [m.pod_sandboxes[0].created_at for m in self.stream(10000)]
        self.assertEqual(got, list(range(10000)))

    def test_an_empty_stream_ends_well(self):
        self.assertEqual(list(self.stream(0)), [])

    def test_large_messages_stream_without_growth(self):
        n = sum(len(m.pod_sandboxes[0].id) for m in self.stream(200, 500000))
        self.assertEqual(n, 200 * 500000)
        self.assert_rss_below(40 * MIB)

    def test_a_reader_that_stops_costs_bounded_memory_and_no_one_else(self):
        stuck = self.stream(100000, 10000)
        next(stuck)
        for _ in range(20):
            self.assertEqual(self.client.ExecSync(cmd=["echo", "x"]).stdout, b"x")
        self.assert_rss_below(40 * MIB)
        stuck.cancel()
        self.wait_info(lambda i: i["cancelled"] == 1)

    def test_a_stream_can_be_cancelled(self):
        s = self.client.GetContainerEvents(timeout=30)
        self.assertEqual(next(s).container_id, "c1")
        s.cancel()
        self.wait_info(lambda i: i["cancelled"] == 1)

    def test_a_streams_deadline_ends_it(self):
        with self.assertRaises(grpc.RpcError) as e:
            list(self.client.GetContainerEvents(timeout=0.1))
        self.assertEqual(e.exception.code(), grpc.StatusCode.DEADLINE_EXCEEDED)
        self.wait_info(lambda i: i["cancelled"] == 1)

    def test_a_large_answer_does_not_hold_up_small_ones_of_its_connection(self):
        big = self.client.ExecSync(cmd=["big", str(15 * MIB)], future=True)
        self.client.Version()
        self.assertEqual(len(big.result().stdout), 15 * MIB)


class Life(EchoCase):
    def test_stop_lets_open_calls_finish_and_takes_no_new_ones(self):
        slow = self.client.ExecSync(cmd=["sleep", "500"], future=True)
        self.wait_info(lambda i: i["calls"] == 2)
        self.proc.terminate()
        self.assertEqual(slow.result().stdout, b"slept")
        self.assertEqual(self.proc.wait(20), 0)
        self.assertFalse(pathlib.Path(self.path).exists())

    def test_a_live_socket_is_not_taken_over_and_a_stale_one_is(self):
        second = subprocess.run([BUILD / "tests/fakes/grpc-echo", self.path], capture_output=True, text=True,
                                check=False)
        self.assertEqual(second.returncode, 1)
        self.assertIn("somebody serves", second.stderr)
        self.assertEqual(self.client.Version().version, "0.1.0")
        self.proc.kill()
        self.proc.wait()
        self.proc.stdout.close()
        self.proc = subprocess.Popen([BUILD / "tests/fakes/grpc-echo", self.path], stdout=subprocess.PIPE)
        self.assertEqual(self.proc.stdout.readline(), b"ready\n")
        again = Cri(f"unix:{self.path}")
        self.addCleanup(again.close)
        self.assertEqual(again.wait_ready().version, "0.1.0")
        again.close()

    def test_a_file_that_is_no_socket_is_left_alone(self):
        p = pathlib.Path(self.dir.name) / "file"
        p.write_text("mine")
        r = subprocess.run([BUILD / "tests/fakes/grpc-echo", p], capture_output=True, text=True, check=False)
        self.assertEqual(r.returncode, 1)
        self.assertEqual(p.read_text(), "mine")

    def test_the_socket_is_private(self):
        self.assertEqual(pathlib.Path(self.path).stat().st_mode & 0o777, 0o600)

    def stop(self):
        if self.proc.poll() is None:
            super().stop()
        else:
            self.proc.stdout.close()


if __name__ == "__main__":
    unittest.main()
