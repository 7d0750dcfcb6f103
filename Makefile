# A thin front: meson and ninja build, tools/ and tests/ do the work. DESIGN: commands are stable.
SHELL := /bin/bash
JOBS ?= $(shell nproc)
B := build
MESON := /usr/bin/meson

.PHONY: FORCE guest attack all build host agent asan clang check check-fast test updates demo bench conformance lint format fuzz clean install deps deps-go help

all: build

help:
	@grep -E '^#:' Makefile | sed 's/^#: //'
#: make            build everything into build/
#: make demo       install what is missing, build, run pods in microVMs from a local registry
#: make test       install what is missing, build, run every test; ends with "N passed, N failed"
#: make check      the quick part: unit tests (plain and ASan+UBSan), layers, headers, format, fuzz corpora; no root
#: make install    build without failpoints and install below DESTDIR (default: this machine); a configuration stays
#: make attack     the kernel module of the attack tests
#: make bench      benchmarks: a table, and raw samples as JSON in build/bench
#: make updates    10,000 updates of a mapped volume in one VM leave nothing behind (UPDATES=N)
#: make conformance  all of critest in the lab, twice (CONFORMANCE='--focus REGEX' for a part)
#: make fuzz TARGET=tlv SECONDS_=60   one libFuzzer run (clang)
#: make format     clang-format over the tree

build: host agent

# the guest: stock kernel, initramfs, and the kernel modules that few guests need
guest: $(B)/guest/vmlinux $(B)/guest/initramfs.cpio $(B)/guest/modules.erofs
$(B)/kernels/cloud/release:
	@lab/fetch-kernels
$(B)/guest/vmlinux: $(B)/kernels/cloud/release | host
	@$(B)/host/guest/extract-vmlinux $(B)/kernels/cloud/boot/vmlinuz-$$(cat $<) $@
AGENT := $(B)/agent/src/agent/nexus-agent
$(B)/guest/initramfs.cpio: $(B)/kernels/cloud/release guest/modules guest/initramfs.py agent FORCE
	@[ -e $@ ] && [ $@ -nt $(AGENT) ] && [ $@ -nt guest/modules ] && [ $@ -nt guest/initramfs.py ] && [ $@ -nt $< ] || \
	  guest/initramfs.py --kernel-dir $(B)/kernels/cloud --init $(AGENT) --modules guest/modules --out $@
$(B)/guest/modules.erofs: $(B)/kernels/cloud/release guest/modules-later guest/modules-image.py guest/initramfs.py
	@guest/modules-image.py --kernel-dir $(B)/kernels/cloud --lists guest/modules-later --out $@
# a kernel module that the attack tests load into a stock guest kernel
ATTACK := tests/integration/attack
attack: $(B)/guest/attack-module.ko
$(B)/guest/attack-module.ko: $(ATTACK)/attack-module.c $(ATTACK)/attack.h $(B)/kernels/cloud/release
	@lab/fetch-kernels --headers
	@rm -rf $(B)/attack && mkdir -p $(B)/attack $(B)/guest
	@cp $(ATTACK)/attack-module.c $(ATTACK)/attack.h $(B)/attack/
	@echo 'obj-m := attack-module.o' >$(B)/attack/Kbuild
	@$(MAKE) --no-print-directory -C $(B)/kernels/headers/usr/src/linux-headers-$$(cat $(B)/kernels/cloud/release) \
	  M=$(abspath $(B)/attack) modules >$(B)/attack/log 2>&1 || { cat $(B)/attack/log; exit 1; }
	@cp $(B)/attack/attack-module.ko $@
FORCE:

$(B)/host/build.ninja:
	$(MESON) setup $(B)/host >/dev/null
host: $(B)/host/build.ninja
	@ninja --quiet -C $(B)/host -j$(JOBS)

# musl sees no system headers: give it exactly the kernel's and protobuf-c's
$(B)/musl-include:
	@mkdir -p $@.tmp
	@ln -sfn /usr/include/linux $@.tmp/linux
	@ln -sfn /usr/include/asm-generic $@.tmp/asm-generic
	@ln -sfn /usr/include/$(shell gcc -print-multiarch)/asm $@.tmp/asm
	@ln -sfn /usr/include/protobuf-c $@.tmp/protobuf-c
	@mv $@.tmp $@
$(B)/agent/build.ninja: | $(B)/musl-include
	CC=musl-gcc $(MESON) setup $(B)/agent -Dside=guest -Dbuildtype=minsize -Db_pie=false \
	  -Dc_args="-isystem $(abspath $(B)/musl-include)" >/dev/null
agent: $(B)/agent/build.ninja
	@ninja --quiet -C $(B)/agent -j$(JOBS)

$(B)/asan/build.ninja:
	$(MESON) setup $(B)/asan -Dbuildtype=debug -Doptimization=1 -Dwerror=false -Db_sanitize=address,undefined -Db_lundef=false >/dev/null
asan: $(B)/asan/build.ninja
	@ninja --quiet -C $(B)/asan -j$(JOBS)

$(B)/clang/build.ninja:
	CC=clang $(MESON) setup $(B)/clang >/dev/null
clang: $(B)/clang/build.ninja
	@ninja --quiet -C $(B)/clang -j$(JOBS)

check-fast: host
	@$(MESON) test -C $(B)/host --suite unit --suite lint --suite fuzz --no-rebuild --print-errorlogs --quiet

check: host asan
	@tests/run --quick

# without tests and failpoints, for /usr
$(B)/release/build.ninja:
	$(MESON) setup $(B)/release --prefix /usr -Dfailpoints=false -Dtests=false >/dev/null
install: guest $(B)/release/build.ninja
	@ninja --quiet -C $(B)/release -j$(JOBS)
	@packaging/install "$(DESTDIR)"

deps:
	@tools/install-deps

# critest is written in Go
deps-go:
	@tests/conformance/build --which >/dev/null 2>&1 || tools/install-deps tests/conformance/packages.txt

test: deps deps-go
	@$(MAKE) --no-print-directory build asan clang guest attack
	@tests/run $(TESTS)

UPDATES ?= 10000
updates: deps
	@$(MAKE) --no-print-directory build guest
	@if lab/probe >/dev/null; then front="tools/as-root lab/direct"; else front="lab/run --timeout 14400"; fi; \
	  NEXUS_UPDATES=$(UPDATES) $$front -- /usr/bin/python3 tests/integration/vmm/test_volumes.py -v \
	  Guest.test_updates_leave_nothing

demo: deps
	@$(MAKE) --no-print-directory build guest
	@demo/start

bench: deps
	@$(MAKE) --no-print-directory build guest
	@tests/bench/run $(BENCH)

conformance: deps deps-go
	@$(MAKE) --no-print-directory build guest
	@a=0; tests/conformance/run $(CONFORMANCE) || a=1; tests/conformance/run --restart $(CONFORMANCE) || a=1; exit $$a

format:
	@/usr/bin/python3 tools/check-format --fix

fuzz:
	@tools/fuzz $(TARGET) $(SECONDS_)

clean:
	rm -rf $(B)/host $(B)/agent $(B)/asan $(B)/clang $(B)/release
