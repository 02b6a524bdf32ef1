# SPDX-License-Identifier: MIT
# One Makefile, no configure step. `make help` says what each target is for.
# Sources are found by wildcard: a new .c file in a folder is built without an edit here.

PREFIX   ?= /usr/local
DESTDIR  ?=
BUILD    ?= build
CC       ?= gcc
PKG      ?= pkg-config
Q        := $(if $(V),,@)
say       = $(if $(V),,@printf '  %-6s %s\n' $(1) '$(2)')

VERSION  := 0.1.0
SOVERSION:= 0

# Debian packages: what builds and runs berth, then what its tests and tools need.
DEPS_BUILD := build-essential pkg-config liburcu-dev libjemalloc-dev \
	libxxhash-dev libuv1-dev libjansson-dev libyajl-dev libsqlite3-dev libmicrohttpd-dev \
	libsystemd-dev libsodium-dev libbpf-dev bpftool clang linux-libc-dev
DEPS_TEST  := libcmocka-dev nginx libnginx-mod-http-lua lua-cjson strace spin clang-tidy cppcheck clang-format libclang-rt-14-dev \
	valgrind iproute2 curl wrk systemd python3

# Of `make check-aarch64`: the compiler and the emulator; what is unpacked for arm64 beside the machine's own.
DEPS_AARCH64 := gcc-aarch64-linux-gnu qemu-user
LIBS_AARCH64 := libc6-dev $(filter lib%-dev linux-libc-dev,$(DEPS_BUILD)) libcmocka-dev

# Of `make check-unit`.
DEPS_UNIT := systemd curl

# Of `make plots`.
DEPS_PLOTS := gnuplot-nox jq

DEPS_PEERS := libdpdk-dev libck-dev liblmdb-dev libbpf-dev libhiredis-dev libcurl4-openssl-dev redis-server etcd-server

WARN     := -Wall -Wextra -Wshadow -Wconversion -Werror
OPT      ?= -O2 -g
SAN      ?=
DEFINES  ?=
CPPFLAGS += $(DEFINES) -D_GNU_SOURCE -DBERTH_VERSION='"$(VERSION)"'
CFLAGS   += -std=c11 $(OPT) $(WARN) $(SAN) -fno-semantic-interposition -fvisibility=hidden -fstack-protector-strong
LDFLAGS  += $(SAN)

PKGS_WRITER := libuv jansson yajl sqlite3 liburcu liburcu-cds jemalloc libmicrohttpd libsystemd
PKGS_TOOLS  := jansson
PKGS_BPF    := libbpf
PKGS_SEAL   := libsodium
cflags_of = $(shell $(PKG) --cflags $(1) 2>/dev/null)
libs_of   = $(shell $(PKG) --libs $(1) 2>/dev/null)
BPF_LIBS    := $(call libs_of,$(PKGS_BPF))
WRITER_LIBS := $(call libs_of,$(PKGS_WRITER)) $(BPF_LIBS) -lpthread
TOOLS_LIBS  := $(call libs_of,$(PKGS_TOOLS)) $(BPF_LIBS)
SEAL_LIBS   := $(call libs_of,$(PKGS_SEAL)) -lpthread

src    = $(sort $(wildcard $(1)/*.c))
obj    = $(patsubst %.c,$(BUILD)/obj/%.o,$(1))
SHM    := $(call obj,$(call src,shm))
READER := $(call obj,$(call src,reader_lib))
SEAL   := $(call obj,$(call src,reader_lib/seal))
WRITER := $(call obj,$(filter-out writer/main.c,$(call src,writer)))
TOOLS  := $(call obj,$(call src,tools))
# bpf/NAME.bpf.c is a packet program: build/bpf/NAME.bpf.o, and its skeleton for the loader. The rest of bpf/ is ours to link.
PROGRAMS := $(patsubst bpf/%.bpf.c,%,$(sort $(wildcard bpf/*.bpf.c)))
SKELETONS:= $(patsubst %,$(BUILD)/bpf/%.skel.h,$(PROGRAMS))
BPF    := $(call obj,$(filter-out %.bpf.c,$(call src,bpf)))
# What a packet program of somebody else includes.
BPF_HEADERS := $(addprefix bpf/,berth.bpf.h lease.bpf.h answer.h layout.h config.h)
# tests/NN-name.c is a cmocka program; tests/name.c is linked into all of them.
TESTS  := $(patsubst tests/%.c,$(BUILD)/tests/%,$(sort $(wildcard tests/[0-9]*.c)))
TESTLIB:= $(call obj,$(filter-out $(wildcard tests/[0-9]*.c tests/fuzz_*.c tests/torture_*.c),$(call src,tests)))
# The end-to-end runs: programs from one folder.
E2E_PROGRAMS := e2e demo packets
E2E    := $(call obj,$(filter-out $(E2E_PROGRAMS:%=tests/e2e/%.c),$(call src,tests/e2e)))
# Three programs, each of the files that begin with its name, and torture_ambush.c in the first two; a test of fixed seeds
# links the second's too.
TORTURE := $(call obj,$(filter-out tests/torture_cursor% tests/torture_crash%,$(wildcard tests/torture_*.c)))
TORTURE_CURSOR:= $(call obj,$(wildcard tests/torture_cursor_*.c) tests/torture_ambush.c)
TORTURE_CRASH := $(call obj,$(wildcard tests/torture_crash*.c))
FUZZ   := $(patsubst tests/%.c,$(BUILD)/tests/%,$(sort $(wildcard tests/fuzz_*.c)))
BENCH  := $(call obj,$(filter-out bench/instructions.c,$(call src,bench)))
INSTRUCTIONS := $(call obj,$(addprefix bench/,instructions.c bench.c measure.c histogram.c report.c document.c daemon.c \
	cursor_pins.c))
# What the programs `peers` and `bpf` have of it besides their own.
BENCH_COMMON := $(call obj,$(addprefix bench/,bench.c measure.c histogram.c report.c document.c daemon.c))
PEERS  := $(call obj,$(call src,bench/peers)) $(BENCH_COMMON)
BENCH_BPF := $(call obj,$(call src,bench/bpf))
EXAMPLES := $(patsubst reader_lib/examples/%.c,$(BUILD)/examples/%,$(sort $(wildcard reader_lib/examples/*.c)))

.DEFAULT_GOAL := all
.DELETE_ON_ERROR:
.PHONY: all deps demo check check-asan check-tsan install uninstall format layers help clean

## all: build everything (the default)
all: $(BUILD)/berthd $(BUILD)/berth $(BUILD)/libberth.so $(BUILD)/libberth.a $(BUILD)/libberth-seal.so \
	$(BUILD)/libberth-seal.a $(EXAMPLES)

$(BUILD)/obj/%.o: %.c
	@mkdir -p $(@D)
	$(call say,CC,$<)
	$(Q)$(CC) $(CPPFLAGS) $(CFLAGS) -fPIC -MMD -MP -c -o $@ $<

# The kernel's own headers, and nothing of libc: a program runs in the kernel. v3: atomics that fetch (Linux 5.12).
BPF_CFLAGS := -target bpf -mcpu=v3 -O2 -g -Wall -Wextra -Wshadow -Werror -Wno-unused-function -Wno-unused-parameter \
	-I$(SYSROOT)/usr/include/$(shell $(CC) -print-multiarch)
$(BUILD)/bpf/%.bpf.o: bpf/%.bpf.c
	@mkdir -p $(@D)
	$(call say,BPF,$<)
	$(Q)clang $(BPF_CFLAGS) -MMD -MP -c -o $@ $<
$(BUILD)/bpf/%.skel.h: $(BUILD)/bpf/%.bpf.o
	$(Q){ echo '/* NOLINTBEGIN: not ours */' && /usr/sbin/bpftool gen skeleton $< name $* && echo '/* NOLINTEND */'; } >$@.new && mv $@.new $@
$(BPF): CFLAGS += -I$(BUILD)/bpf
$(BPF): $(SKELETONS)

$(BUILD)/berthd: $(call obj,writer/main.c) $(WRITER) $(BPF) $(SHM)
	$(call say,LINK,$@)
	$(Q)$(CC) $(LDFLAGS) -o $@ $^ $(WRITER_LIBS)

$(BUILD)/berth: $(TOOLS) $(READER) $(SEAL) $(BPF) $(SHM)
	$(call say,LINK,$@)
	$(Q)$(CC) $(LDFLAGS) -o $@ $^ $(TOOLS_LIBS) $(SEAL_LIBS)

$(BUILD)/libberth.a: $(READER) $(SHM)
	$(call say,AR,$@)
	$(Q)rm -f $@ && $(AR) rcs $@ $^

$(BUILD)/libberth.so.$(SOVERSION): $(READER) $(SHM) reader_lib/libberth.map
	$(call say,LINK,$@)
	$(Q)$(CC) $(LDFLAGS) -shared -Wl,-soname,libberth.so.$(SOVERSION) -Wl,--version-script=reader_lib/libberth.map \
		$(if $(SAN),,-Wl,-z,defs) -o $@ $(READER) $(SHM)
$(BUILD)/libberth.so: $(BUILD)/libberth.so.$(SOVERSION)
	$(Q)ln -sf $(<F) $@

# Sealed cursors: a library of its own, because it links libsodium.
$(BUILD)/libberth-seal.a: $(SEAL)
	$(call say,AR,$@)
	$(Q)rm -f $@ && $(AR) rcs $@ $^

$(BUILD)/libberth-seal.so.$(SOVERSION): $(SEAL) reader_lib/seal/libberth-seal.map
	$(call say,LINK,$@)
	$(Q)$(CC) $(LDFLAGS) -shared -Wl,-soname,libberth-seal.so.$(SOVERSION) \
		-Wl,--version-script=reader_lib/seal/libberth-seal.map $(if $(SAN),,-Wl,-z,defs) -o $@ $(SEAL) $(SEAL_LIBS)
$(BUILD)/libberth-seal.so: $(BUILD)/libberth-seal.so.$(SOVERSION)
	$(Q)ln -sf $(<F) $@

$(BUILD)/examples/%: reader_lib/examples/%.c $(BUILD)/libberth.a
	@mkdir -p $(@D)
	$(call say,LINK,$@)
	$(Q)$(CC) $(CPPFLAGS) $(CFLAGS) -Ireader_lib -Ishm -MMD -MP $(LDFLAGS) -o $@ $< $(BUILD)/libberth.a

$(E2E_PROGRAMS:%=$(BUILD)/tests/e2e/%): $(BUILD)/tests/e2e/%: $(BUILD)/obj/tests/e2e/%.o $(E2E)
	@mkdir -p $(@D)
	$(call say,LINK,$@)
	$(Q)$(CC) $(LDFLAGS) -o $@ $^ $(TOOLS_LIBS) -lcmocka -lpthread

$(BUILD)/tests/torture: $(TORTURE) $(TESTLIB) $(WRITER) $(READER) $(SEAL) $(BPF) $(SHM)
	@mkdir -p $(@D)
	$(call say,LINK,$@)
	$(Q)$(CC) $(LDFLAGS) -o $@ $^ -lcmocka $(WRITER_LIBS) $(SEAL_LIBS)

$(BUILD)/tests/torture_crash: $(TORTURE_CRASH) $(TESTLIB) $(WRITER) $(READER) $(SEAL) $(BPF) $(SHM)
	@mkdir -p $(@D)
	$(call say,LINK,$@)
	$(Q)$(CC) $(LDFLAGS) -o $@ $^ -lcmocka $(WRITER_LIBS) $(SEAL_LIBS)

$(BUILD)/tests/torture_cursor $(BUILD)/tests/77-cursors: $(TORTURE_CURSOR)
# One mapping for each file, so that ThreadSanitizer sees both sides.
$(filter $(BUILD)/tests/46%,$(TESTS)): LDFLAGS += -Wl,--wrap=mmap,--wrap=munmap
$(BUILD)/tests/14-checker: $(BUILD)/obj/tests/e2e/checker.o $(BUILD)/obj/tests/e2e/history.o
$(BUILD)/tests/%: $(BUILD)/obj/tests/%.o $(TESTLIB) $(WRITER) $(READER) $(SEAL) $(BPF) $(SHM)
	@mkdir -p $(@D)
	$(call say,LINK,$@)
	$(Q)$(CC) $(LDFLAGS) -o $@ $^ -lcmocka $(WRITER_LIBS) $(SEAL_LIBS)

# Preloaded by the tests of failures: stands between a process and libc.
$(BUILD)/tests/faults.so: tests/faults/interpose.c tests/faults/faults.h
	@mkdir -p $(@D)
	$(call say,LINK,$@)
	$(Q)$(CC) $(CPPFLAGS) $(filter-out $(SAN),$(CFLAGS)) -fPIC -shared -o $@ $<
$(filter $(BUILD)/tests/79-faults%,$(TESTS)): | $(BUILD)/tests/faults.so

$(BUILD)/tests/unit/watcher: $(call obj,tests/unit/watcher.c) $(BUILD)/libberth.a
	@mkdir -p $(@D)
	$(call say,LINK,$@)
	$(Q)$(CC) $(LDFLAGS) -o $@ $^

# It measures from outside: libberth as a proxy links it, the writer as the daemon that it starts.
$(BUILD)/bench/bench: $(BENCH) $(BUILD)/libberth.a
	@mkdir -p $(@D)
	$(call say,LINK,$@)
	$(Q)$(CC) $(LDFLAGS) -o $@ $^
PKGS_PEERS := libdpdk ck lmdb libbpf hiredis libcurl jansson liburcu-qsbr liburcu-memb liburcu-cds
# A library's flags are for the file that uses it alone: DPDK's name the instruction set that it was built for, which
# nothing else is to be compiled for. Its headers are the system's: our warnings do not fit them.
system_cflags_of = $(patsubst -I%,-isystem %,$(call cflags_of,$(1)))
$(call obj,bench/peers/rte.c): CFLAGS += $(call system_cflags_of,libdpdk)
$(call obj,bench/peers/ck.c): CFLAGS += $(call system_cflags_of,ck)
$(call obj,bench/peers/redis.c): CFLAGS += $(call system_cflags_of,hiredis)
$(BUILD)/bench/peers: $(PEERS) $(BUILD)/libberth.a
	@mkdir -p $(@D)
	$(call say,LINK,$@)
	$(Q)$(CC) $(LDFLAGS) -o $@ $^ $(call libs_of,$(PKGS_PEERS)) -lpthread
$(BENCH_BPF): CFLAGS += -I$(BUILD)/bpf
$(BENCH_BPF): $(SKELETONS)
$(BUILD)/bench/bpf: $(BENCH_BPF) $(BENCH_COMMON) $(BPF) $(BUILD)/libberth.a
	@mkdir -p $(@D)
	$(call say,LINK,$@)
	$(Q)$(CC) $(LDFLAGS) -o $@ $^ $(BPF_LIBS) -lpthread
$(BUILD)/bench/instructions: $(INSTRUCTIONS) $(BUILD)/libberth.a
	@mkdir -p $(@D)
	$(call say,LINK,$@)
	$(Q)$(CC) $(LDFLAGS) -o $@ $^
# `bench` is a folder too.
.PHONY: bench bench-long bench-peers bench-bpf deps-peers
## bench: the figures of the README, seven minutes (BENCH_ARGS="--quick --json --only NAME" for less)
bench: $(BUILD)/berthd $(BUILD)/bench/bench
	$(Q)$(BUILD)/bench/bench $(BENCH_ARGS)

## bench-long: all of them, the long forms too (a quarter of an hour)
bench-long: $(BUILD)/berthd $(BUILD)/bench/bench
	$(Q)$(BUILD)/bench/bench --full $(BENCH_ARGS)

## bench-peers: berth beside what else could be used, in one run; installs that first (root; two minutes)
bench-peers: deps deps-peers
	$(Q)$(MAKE) --no-print-directory $(BUILD)/berthd $(BUILD)/bench/peers
	$(Q)$(BUILD)/bench/peers $(BENCH_ARGS)

## bench-bpf: packet programs on berth's mirror, run by the kernel (root; a minute)
bench-bpf: deps
	$(Q)$(MAKE) --no-print-directory $(BUILD)/berthd $(BUILD)/bench/bpf
	$(Q)$(BUILD)/bench/bpf $(BENCH_ARGS)

.PHONY: bench-splice
## bench-splice: requests a second of `berth bpf splice` beside nginx, before the same nodes (root; a minute)
bench-splice: deps
	$(Q)$(MAKE) --no-print-directory deps DEPS_BUILD= DEPS_TEST="python3"
	$(Q)$(MAKE) --no-print-directory all
	$(Q)BERTH_BUILD=$(BUILD) bench/bpf/splice.sh

deps-peers:
	$(Q)$(MAKE) --no-print-directory deps DEPS_BUILD= DEPS_TEST="$(DEPS_PEERS)"

.PHONY: check-instructions instructions-update plots
INSTRUCTIONS_RUN = BERTH_BUILD="$(BUILD)" BERTH_CC="$(CC)" BERTH_CFLAGS="$(CFLAGS)" bench/check-instructions
## check-instructions: instructions of the hot calls and of packet programs, counted, against bench/ and bpf/instructions.txt (before each commit; seconds)
check-instructions: deps
	$(Q)$(MAKE) --no-print-directory $(BUILD)/berthd $(BUILD)/bench/instructions
	$(Q)$(INSTRUCTIONS_RUN)
	$(Q)$(MAKE) --no-print-directory check-bpf-instructions

## instructions-update: counts them and writes bench/instructions.txt
instructions-update: deps
	$(Q)$(MAKE) --no-print-directory $(BUILD)/berthd $(BUILD)/bench/instructions
	$(Q)$(INSTRUCTIONS_RUN) --update

BENCH_JSON ?= $(sort $(wildcard bench/plot/*.jsonl))
## plots: bench/plot/*.svg from what `bench --json` and `peers --json` have printed (BENCH_JSON="FILE...": bench/plot/*.jsonl)
plots:
	$(Q)$(MAKE) --no-print-directory deps DEPS_BUILD= DEPS_TEST="$(DEPS_PLOTS)"
	$(Q)bench/plot/plots $(BENCH_JSON)

# ---- for users ----------------------------------------------------------------------------------------------------

## deps: install the Debian packages that building and testing need (root; once on a fresh machine)
deps:
	$(Q)missing=`for p in $(DEPS_BUILD) $(DEPS_TEST); do dpkg-query -W -f '$${Status}' $$p 2>/dev/null | grep -q 'ok installed' || echo $$p; done`; \
	if [ -n "$$missing" ]; then \
		echo "  installing: "$$missing; \
		{ apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $$missing; } >$(or $(TMPDIR),/tmp)/berth-deps.log 2>&1 \
			|| { tail -20 $(or $(TMPDIR),/tmp)/berth-deps.log; echo "cannot install the packages above: run as root, with the package archive in reach"; exit 1; }; \
		for s in nginx redis-server etcd; do case " "$$missing" " in *" $$s "*|*" $$s-server "*) \
			! test -d /run/systemd/system || systemctl disable --quiet --now $$s.service;; esac; done; \
	fi

## demo: install, build, then show the main job: tenants that move between clusters behind nginx, under load (root; some seconds)
demo: deps
	$(Q)$(MAKE) --no-print-directory all $(BUILD)/tests/e2e/demo
	$(Q)BERTH_BUILD=$(BUILD) tests/demo

## check: install, build, run all tests (before each commit)
check: deps
	$(Q)$(MAKE) --no-print-directory layers all $(TESTS) compiles
	$(Q)BERTH_BUILD=$(BUILD) tests/run $(TESTS)

# Tests that run the daemon take long under a sanitizer; PURE are those that do not.
PURE := 1% 2% 3% 40% 43% 44% 46%
TSAN_ONLY ?= $(PURE)
## check-asan: the tests under AddressSanitizer and UBSan (before a merge; PURE_ONLY=1: those without a daemon)
check-asan: deps
	$(Q)$(MAKE) --no-print-directory BUILD=$(BUILD)-asan OPT="-O1 -g -fno-omit-frame-pointer" \
		SAN="-fsanitize=address,undefined -fno-sanitize-recover=undefined" ONLY="$(if $(PURE_ONLY),$(PURE),%)" check-sanitized

## check-tsan: the tests that share memory between threads of a process under ThreadSanitizer (before a merge; TSAN_ONLY=46% for less)
check-tsan: deps
	$(Q)$(MAKE) --no-print-directory BUILD=$(BUILD)-tsan CC=clang OPT="-O1 -g" SAN="-fsanitize=thread" \
		ONLY="$(TSAN_ONLY)" check-sanitized

AARCH64 := $(BUILD)-aarch64
AARCH64_ROOT = $(abspath $(BUILD)-aarch64-root)
AARCH64_ONLY ?= 1% 2% 3% 40% 41% 43% 44% 45% 46%
## check-aarch64: the tests without a daemon, and some with one, cross-compiled and run by qemu-user; installs that first (AARCH64_ONLY="25% 40%" for less)
check-aarch64: deps-aarch64
	$(Q)$(MAKE) --no-print-directory BUILD=$(AARCH64) CC="aarch64-linux-gnu-gcc --sysroot=$(AARCH64_ROOT)" AR=aarch64-linux-gnu-ar \
		PKG="env PKG_CONFIG_LIBDIR=$(AARCH64_ROOT)/usr/lib/aarch64-linux-gnu/pkgconfig PKG_CONFIG_SYSROOT_DIR=$(AARCH64_ROOT) $(PKG)" \
		SYSROOT=$(AARCH64_ROOT) check-emulated

# What a test executes of ours is a script that calls the emulator.
check-emulated: $(BUILD)/berthd $(filter $(AARCH64_ONLY:%=$(BUILD)/tests/%),$(TESTS))
	$(Q)mkdir -p $(BUILD)/emulated && printf '#!/bin/sh\nexec qemu-aarch64 -L %s %s "$$@"\n' $(SYSROOT) $(abspath $(BUILD)/berthd) \
		>$(BUILD)/emulated/berthd && chmod +x $(BUILD)/emulated/berthd
	$(Q)BERTH_BUILD=$(BUILD)/emulated BERTH_RUN="qemu-aarch64 -L $(SYSROOT)" tests/run $(filter-out $(BUILD)/berthd,$^)

deps-aarch64: deps
	$(Q)$(MAKE) --no-print-directory deps DEPS_BUILD= DEPS_TEST="$(DEPS_AARCH64)"
	$(Q)tests/aarch64-sysroot $(AARCH64_ROOT) $(LIBS_AARCH64)

.PHONY: check-aarch64 check-emulated deps-aarch64
.PHONY: check-sanitized fuzz lint check-e2e check-breaks torture torture-cursor soak
check-sanitized: all $(filter $(ONLY:%=$(BUILD)/tests/%),$(TESTS))
	$(Q)BERTH_BUILD=$(BUILD) BERTH_SANITIZED=1 tests/run $(filter $(ONLY:%=$(BUILD)/tests/%),$(TESTS))

.PHONY: check-bpf check-bpf-instructions bpf-instructions-update
## check-bpf: the mirror and the packet programs alone, in this kernel, and their instructions counted (root; before each commit)
check-bpf: deps
	$(Q)$(MAKE) --no-print-directory all $(filter $(BUILD)/tests/9%,$(TESTS))
	$(Q)BERTH_BUILD=$(BUILD) tests/run $(filter $(BUILD)/tests/9%,$(TESTS))
	$(Q)$(MAKE) --no-print-directory check-bpf-instructions

check-bpf-instructions: $(SKELETONS)
	$(Q)BERTH_BUILD=$(BUILD) bpf/check-instructions

## bpf-instructions-update: counts them and writes bpf/instructions.txt (root)
bpf-instructions-update: deps $(SKELETONS)
	$(Q)BERTH_BUILD=$(BUILD) bpf/check-instructions --update

.PHONY: check-unit
## check-unit: berthd.service under a systemd that boots in a container of its own: sandbox, groups, restarts, watchdog (root; two minutes)
check-unit:
	$(Q)$(MAKE) --no-print-directory deps DEPS_TEST="$(DEPS_UNIT)"
	$(Q)$(MAKE) --no-print-directory all $(BUILD)/tests/unit/watcher
	$(Q)BERTH_BUILD=$(BUILD) tests/unit/run $(UNIT)

## check-e2e: tenants that move between clusters behind nginx, every write looked for afterwards (E2E_MIGRATIONS=200; a minute)
check-e2e: deps
	$(Q)$(MAKE) --no-print-directory all $(BUILD)/tests/e2e/e2e $(BUILD)/tests/e2e/packets
	$(Q)BERTH_BUILD=$(BUILD) tests/run $(BUILD)/tests/e2e/e2e $(BUILD)/tests/e2e/packets

## check-breaks: does check-e2e find the fault when the drain is broken on purpose? (a minute)
check-breaks: deps
	$(Q)$(MAKE) --no-print-directory all $(BUILD)/tests/e2e/e2e $(BUILD)/tests/e2e/packets
	$(Q)BERTH_BUILD=$(BUILD) tests/e2e/check-breaks

## torture: reads, writes, pins, migrations, documents under kills, stops, forks and take-overs, for TORTURE_SECONDS (60); BERTH_SEED
torture: deps
	$(Q)$(TORTURE_MAKE) all $(BUILD)-torture/tests/torture
	$(Q)BERTH_BUILD=$(BUILD)-torture TEST_SECONDS=$$(($(or $(TORTURE_SECONDS),60) + 240)) tests/run $(BUILD)-torture/tests/torture

SOAK_FILE ?= $(BUILD)-torture/soak.jsonl
## soak: torture for SOAK_SECONDS (1200): memory, descriptors and slots must stay flat; samples go to SOAK_FILE
soak: deps
	$(Q)$(TORTURE_MAKE) all $(BUILD)-torture/tests/torture
	$(Q)BERTH_BUILD=$(BUILD)-torture SOAK_SECONDS=$(or $(SOAK_SECONDS),1200) SOAK_FILE=$(SOAK_FILE) \
		TEST_SECONDS=$$(($(or $(SOAK_SECONDS),1200) + 240)) tests/run $(BUILD)-torture/tests/torture

## torture-cursor: OPS (1000000) random calls on pins against a model, over kills, stops and restarts; TORTURE_SECONDS ends it; BERTH_SEED
torture-cursor: deps
	$(Q)$(TORTURE_MAKE) all $(BUILD)-torture/tests/torture_cursor
	$(Q)BERTH_BUILD=$(BUILD)-torture TEST_SECONDS=900 tests/run $(BUILD)-torture/tests/torture_cursor

## torture-crash: the writer dies at each of its crash points, of each operation, and comes back (ten minutes; CRASH_SECONDS: a dose; root); BERTH_SEED
.PHONY: torture-crash
torture-crash: deps
	$(Q)$(MAKE) --no-print-directory deps DEPS_BUILD= DEPS_TEST="python3"
	$(Q)tests/crash-points
	$(Q)$(TORTURE_MAKE) all $(BUILD)-torture/tests/torture_crash
	$(Q)BERTH_BUILD=$(BUILD)-torture TEST_SECONDS=$(if $(CRASH_SECONDS),$$(($(CRASH_SECONDS) + 120)),1500) \
		tests/run $(BUILD)-torture/tests/torture_crash

# Programs with what only the torture runs need: crash points (shm/crash_point.h), poison. A folder of their own.
TORTURE_MAKE = $(MAKE) --no-print-directory BUILD=$(BUILD)-torture DEFINES=-DBERTH_TORTURE

## fuzz: FUZZ_SECONDS (60) of each libFuzzer target, as many at a time as there are processors
fuzz: deps
	$(Q)$(MAKE) --no-print-directory BUILD=$(BUILD)-fuzz CC=clang OPT="-O1 -g" \
		SAN="-fsanitize=fuzzer-no-link,address,undefined -fno-sanitize-recover=undefined" fuzz-built
.PHONY: fuzz-built
fuzz-built: $(FUZZ)
	$(Q)tests/run-fuzz $(or $(FUZZ_SECONDS),60) $(FUZZ)

# What one target looks at a file with: the tool has functions of the writer's names, so no other one of it is to be seen.
$(BUILD)/tests/fuzz_tools.o: $(TOOLS)
	@mkdir -p $(@D)
	$(call say,LINK,$@)
	$(Q)$(CC) -r -nostdlib -o $@ $^ && objcopy $(addprefix --keep-global-symbol=,\
		cursor_count cursor_count_end cursor_file_read cursor_file_try verify_cursors) $@
$(BUILD)/tests/fuzz_cursor: $(BUILD)/tests/fuzz_tools.o
# Of `fuzz` alone: libFuzzer has the main function.
$(BUILD)/tests/fuzz_%: $(BUILD)/obj/tests/fuzz_%.o $(TESTLIB) $(WRITER) $(READER) $(SEAL) $(BPF) $(SHM)
	@mkdir -p $(@D)
	$(call say,LINK,$@)
	$(Q)$(CC) $(LDFLAGS) -fsanitize=fuzzer -o $@ $^ -lcmocka $(WRITER_LIBS) $(SEAL_LIBS)

## model: the Promela models of the protocols, those that must pass and those that must fail (four minutes; MODEL_SHORT=1: two and a half)
.PHONY: model
model: deps
	$(Q)MODEL_SHORT=$(MODEL_SHORT) tests/model/run

TIDY := -*,clang-analyzer-*,bugprone-*,-bugprone-easily-swappable-parameters,-bugprone-reserved-identifier,$\
	-bugprone-narrowing-conversions,-bugprone-implicit-widening-of-multiplication-result,$\
	-bugprone-assignment-in-if-condition,-bugprone-macro-parentheses,-bugprone-branch-clone,-bugprone-suspicious-include,$\
	-bugprone-sizeof-expression,-bugprone-suspicious-missing-comma,$\
	-clang-analyzer-security.insecureAPI.DeprecatedOrUnsafeBufferHandling
## lint: clang-tidy and cppcheck over everything (before a merge)
lint: deps $(SKELETONS)
	$(Q)cppcheck --quiet --std=c11 --enable=warning,performance,portability --inline-suppr --error-exitcode=1 \
		--suppress=missingIncludeSystem --suppress=normalCheckLevelMaxBranches -D_GNU_SOURCE \
		--suppress=ctuuninitvar:shm/index.c --suppress=ctuuninitvar:bpf/programs_pins.c -D__SSE2__ -DBERTH_VERSION='"x"' '-DLIBBPF_OPTS(type, name, ...)=struct type name = {0}' \
		'-Dbpf_object__for_each_program(p, o)=while ((p = bpf_object__next_program(o, p)))' \
		--suppress=arrayIndexOutOfBoundsCond:bpf/config.h -I$(BUILD)/bpf --suppress='*:$(BUILD)/bpf/*' $(filter-out %.bpf.c,$(call src,bpf)) \
		shm reader_lib writer tools bench
	$(Q)printf '%s\n' $(call src,shm) $(call src,reader_lib) $(call src,reader_lib/seal) $(call src,writer) $(call src,tools) $(call src,bench) \
		$(call src,bench/bpf) $(filter-out %.bpf.c,$(call src,bpf)) | \
		xargs -n 1 -P 2 sh -c 'clang-tidy --quiet --warnings-as-errors="*" --checks="$(TIDY)" "$$0" -- -std=c11 -D_GNU_SOURCE \
		-DBERTH_VERSION="\"x\"" -isystem $(BUILD)/bpf 2>/dev/null || exit 255'

## install: programs, library, headers, manual pages, completion, Lua modules, nginx.conf, systemd units and what they need under DESTDIR/PREFIX
install: all
	install -d $(DESTDIR)$(PREFIX)/bin $(DESTDIR)$(PREFIX)/lib/pkgconfig $(DESTDIR)$(PREFIX)/include \
		$(DESTDIR)$(PREFIX)/share/man/man1 $(DESTDIR)$(PREFIX)/share/man/man3 \
		$(DESTDIR)$(PREFIX)/share/bash-completion/completions $(DESTDIR)$(PREFIX)/share/lua/5.1 \
		$(DESTDIR)$(PREFIX)/share/doc/berth
	install -m 755 $(BUILD)/berthd $(BUILD)/berth $(DESTDIR)$(PREFIX)/bin
	install -m 644 $(BUILD)/libberth.a $(DESTDIR)$(PREFIX)/lib
	install -m 755 $(BUILD)/libberth.so.$(SOVERSION) $(DESTDIR)$(PREFIX)/lib
	ln -sf libberth.so.$(SOVERSION) $(DESTDIR)$(PREFIX)/lib/libberth.so
	install -m 644 reader_lib/berth.h shm/berth_errors.h $(DESTDIR)$(PREFIX)/include
	install -d $(DESTDIR)$(PREFIX)/include/berth/bpf
	install -m 644 $(BPF_HEADERS) $(DESTDIR)$(PREFIX)/include/berth/bpf
	sed -e 's|@PREFIX@|$(PREFIX)|' -e 's|@VERSION@|$(VERSION)|' reader_lib/berth.pc.in >$(DESTDIR)$(PREFIX)/lib/pkgconfig/berth.pc
	install -m 644 $(BUILD)/libberth-seal.a $(DESTDIR)$(PREFIX)/lib
	install -m 755 $(BUILD)/libberth-seal.so.$(SOVERSION) $(DESTDIR)$(PREFIX)/lib
	ln -sf libberth-seal.so.$(SOVERSION) $(DESTDIR)$(PREFIX)/lib/libberth-seal.so
	install -m 644 reader_lib/seal/berth_seal.h $(DESTDIR)$(PREFIX)/include
	sed -e 's|@PREFIX@|$(PREFIX)|' -e 's|@VERSION@|$(VERSION)|' reader_lib/seal/berth-seal.pc.in >$(DESTDIR)$(PREFIX)/lib/pkgconfig/berth-seal.pc
	install -m 644 reader_lib/seal/berth_seal.3 $(DESTDIR)$(PREFIX)/share/man/man3
	install -m 644 reader_lib/berth.3 $(DESTDIR)$(PREFIX)/share/man/man3
	install -m 644 $(wildcard reader_lib/lua/*.lua) $(DESTDIR)$(PREFIX)/share/lua/5.1
	install -m 644 reader_lib/lua/nginx.conf $(DESTDIR)$(PREFIX)/share/doc/berth
	install -m 644 reader_lib/lua/README.md $(DESTDIR)$(PREFIX)/share/doc/berth/nginx.md
	install -d $(addprefix $(DESTDIR)$(PREFIX)/,lib/systemd/system lib/sysusers.d lib/tmpfiles.d)
	sed -e 's|@PREFIX@|$(PREFIX)|;s|@INSTANCE@|default|' writer/systemd/berthd.service.in >$(DESTDIR)$(PREFIX)/lib/systemd/system/berthd.service
	sed -e 's|@PREFIX@|$(PREFIX)|;s|@INSTANCE@|%i|' writer/systemd/berthd.service.in >$(DESTDIR)$(PREFIX)/lib/systemd/system/berthd@.service
	install -m 644 writer/systemd/bpf.conf writer/systemd/http.conf $(DESTDIR)$(PREFIX)/share/doc/berth
	install -m 644 writer/systemd/berth.sysusers.conf $(DESTDIR)$(PREFIX)/lib/sysusers.d/berth.conf
	install -m 644 writer/systemd/berth.tmpfiles.conf $(DESTDIR)$(PREFIX)/lib/tmpfiles.d/berth.conf
	$(BUILD)/berth man >$(DESTDIR)$(PREFIX)/share/man/man1/berth.1
	$(BUILD)/berth completion >$(DESTDIR)$(PREFIX)/share/bash-completion/completions/berth

## uninstall: what install put there
uninstall:
	rm -f $(addprefix $(DESTDIR)$(PREFIX)/,bin/berthd bin/berth lib/libberth.a lib/libberth.so lib/libberth.so.$(SOVERSION) \
		lib/libberth-seal.a lib/libberth-seal.so lib/libberth-seal.so.$(SOVERSION) include/berth_seal.h \
		lib/pkgconfig/berth-seal.pc share/man/man3/berth_seal.3 \
		include/berth.h include/berth_errors.h $(BPF_HEADERS:bpf/%=include/berth/bpf/%) lib/pkgconfig/berth.pc share/man/man1/berth.1 share/man/man3/berth.3 \
		share/bash-completion/completions/berth share/doc/berth/nginx.conf share/doc/berth/nginx.md \
		share/doc/berth/bpf.conf share/doc/berth/http.conf lib/systemd/system/berthd.service \
		lib/systemd/system/berthd@.service lib/sysusers.d/berth.conf lib/tmpfiles.d/berth.conf \
		$(patsubst reader_lib/lua/%,share/lua/5.1/%,$(wildcard reader_lib/lua/*.lua)))

## format: clang-format over all sources (before each commit)
format:
	$(Q)clang-format -i $(filter-out %/berth_errors.h,$(wildcard reader_lib/*.[ch] reader_lib/seal/*.[ch])) $(wildcard shm/*.[ch]) $(wildcard reader_lib/examples/*.c writer/*.[ch] tools/*.[ch] \
		bench/*.[ch] bench/peers/*.[ch] bench/bpf/*.[ch] tests/*.[ch] tests/e2e/*.[ch] tests/unit/*.[ch] bpf/*.[ch])

# Folder: what it may include of the others.
LAYERS := shm: reader_lib:shm reader_lib/seal: writer:shm,bpf bpf:shm tools:reader_lib,shm,bpf bench:reader_lib,shm,writer
## layers: fail when a folder includes what it must not know
layers:
	$(Q)bad=0; for l in $(LAYERS); do d=$${l%%:*}; may=`echo $${l#*:} | tr , '|'`; \
		for f in $$d/*.[ch]; do [ -e "$$f" ] || continue; \
			sed -n 's|^# *include "\.\./\([a-z_]*\)/.*|\1|p' $$f | grep -vxE "$${may:-none}" | sed "s|^|$$f includes |" ; \
		done; done | grep . && exit 1 || exit 0

# What `check` does not build: the fuzzers, the long runs, the benchmark (of bench/peers the libraries may be missing).
## compiles: fail when one of the sources of other targets does not compile
.PHONY: compiles
compiles: $(SKELETONS)
	$(Q)printf '%s\n' $(wildcard tests/fuzz_*.c tests/torture_*.c tests/unit/*.c) $(call src,tests/e2e) $(call src,bench) \
		$(call src,bench/bpf) | xargs -P 2 -n 8 clang -fsyntax-only -std=c11 $(CPPFLAGS) -DBERTH_TORTURE $(WARN) -I$(BUILD)/bpf

## clean: remove what was built
clean:
	rm -rf $(BUILD) $(BUILD)-asan $(BUILD)-tsan $(BUILD)-aarch64 $(BUILD)-aarch64-root $(BUILD)-torture $(BUILD)-fuzz

## help: this list
help:
	$(Q)sed -n 's/^## //p' $(MAKEFILE_LIST) | sort

-include $(shell find $(BUILD) -name '*.d' 2>/dev/null)
.SECONDARY:
