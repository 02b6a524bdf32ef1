/* SPDX-License-Identifier: MIT
 * features_try.h: each makes what it is about, with the kernel's own refusal as the answer, and lets it go again. */
#include "features_try.h"

#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <errno.h>
#include <linux/if_link.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "programs_internal.h"

#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wsign-conversion" /* of bpftool */
#pragma GCC diagnostic ignored "-Wconversion"
#include "features.skel.h"
#pragma GCC diagnostic pop

#define LOOPBACK 1 /* the index of every network namespace's */

/* ---- maps ---- */

static int array(uint32_t flags, uint32_t n)
{
	LIBBPF_OPTS(bpf_map_create_opts, opts, .map_flags = flags);

	return bpf_map_create(BPF_MAP_TYPE_ARRAY, "berth_try", 4, 64, n, &opts);
}

/* An error that says nothing about the kernel: this process has none left of something, or may not. */
static bool says_nothing(int error)
{
	return error == EMFILE || error == ENFILE || error == EAGAIN || error == EINTR || error == ENOMEM ||
	       error == EPERM;
}

/* Of a call's result: a descriptor that is closed, or -1 and errno. */
static enum feature_here verdict(int fd)
{
	if (fd >= 0) {
		close(fd);
		return FEATURE_THERE;
	}
	return says_nothing(errno) || errno == EACCES ? FEATURE_NOT_KNOWN : FEATURE_MISSING;
}

/* libbpf's own probes do not tell an error of the moment from a kernel that lacks it. */
enum feature_here try_map_type(const struct try *t)
{
	bool rings = t->what == BPF_MAP_TYPE_RINGBUF, outer = t->what == BPF_MAP_TYPE_ARRAY_OF_MAPS;
	int inner = outer ? array(0, 1) : -1;
	LIBBPF_OPTS(bpf_map_create_opts, opts, .inner_map_fd = outer ? (uint32_t)inner : 0);
	enum feature_here here;

	if (outer && inner < 0)
		return verdict(inner);
	here = verdict(bpf_map_create((enum bpf_map_type)t->what, "berth_try", rings ? 0 : 4, rings ? 0 : 4,
				      rings ? (uint32_t)sysconf(_SC_PAGESIZE) : 1, &opts));
	if (inner >= 0)
		close(inner);
	return here;
}

enum feature_here try_mapped(const struct try *t)
{
	int fd = array(BPF_F_MMAPABLE, 1);
	long page = sysconf(_SC_PAGESIZE);
	void *memory = fd < 0 ? MAP_FAILED : mmap(NULL, (size_t)page, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	int error = errno;

	(void)t;
	if (memory != MAP_FAILED) {
		munmap(memory, (size_t)page);
		return verdict(fd);
	}
	if (fd >= 0)
		close(fd);
	errno = error;
	return verdict(-1);
}

/* An outer map that was made for inner ones of one element takes one of two. */
enum feature_here try_inner_of_any_size(const struct try *t)
{
	int one = array(BPF_F_MMAPABLE | BPF_F_INNER_MAP, 1), two = array(BPF_F_MMAPABLE | BPF_F_INNER_MAP, 2);
	LIBBPF_OPTS(bpf_map_create_opts, opts, .inner_map_fd = (uint32_t)one);
	int outer = one < 0 || two < 0 ? -1 : bpf_map_create(BPF_MAP_TYPE_ARRAY_OF_MAPS, "berth_try", 4, 4, 1, &opts);
	uint32_t zero = 0;
	enum feature_here here;

	(void)t;
	if (outer >= 0 && bpf_map_update_elem(outer, &zero, &two, BPF_ANY) != 0) {
		close(outer);
		outer = -1;
	}
	here = verdict(outer);
	if (one >= 0)
		close(one);
	if (two >= 0)
		close(two);
	return here;
}

enum feature_here try_frozen(const struct try *t)
{
	int fd = array(0, 1);
	enum feature_here here = fd < 0 ? verdict(fd) : bpf_map_freeze(fd) == 0 ? FEATURE_THERE : verdict(-1);

	(void)t;
	if (fd >= 0)
		close(fd);
	return here;
}

static int sockmap(void)
{
	return bpf_map_create(BPF_MAP_TYPE_SOCKMAP, "berth_try", 4, 8, 1, NULL);
}

enum feature_here try_sockmap_of_cookies(const struct try *t)
{
	(void)t;
	return verdict(sockmap());
}

/* ---- programs ---- */

static int load(int type, const struct bpf_insn *code, size_t n, struct bpf_prog_load_opts *opts)
{
	return bpf_prog_load((enum bpf_prog_type)type, "berth_try", "GPL", code, n, opts);
}

/* One that does nothing but return 1: a descriptor, or -1. */
static int tiny(int type, int attach_type)
{
	const struct bpf_insn code[] = {{.code = BPF_ALU64 | BPF_MOV | BPF_K, .dst_reg = BPF_REG_0, .imm = 1},
					{.code = BPF_JMP | BPF_EXIT}};
	LIBBPF_OPTS(bpf_prog_load_opts, opts, .expected_attach_type = (enum bpf_attach_type)attach_type);

	return load(type, code, sizeof(code) / sizeof(code[0]), &opts);
}

enum feature_here try_program_type(const struct try *t)
{
	return verdict(tiny(t->what, 0));
}

enum feature_here try_connect_programs(const struct try *t)
{
	enum feature_here six = verdict(tiny(BPF_PROG_TYPE_CGROUP_SOCK_ADDR, BPF_CGROUP_INET6_CONNECT));

	(void)t;
	return six != FEATURE_THERE ? six : verdict(tiny(BPF_PROG_TYPE_CGROUP_SOCK_ADDR, BPF_CGROUP_INET4_CONNECT));
}

/* A call without arguments: a verifier that has the function finds fault with those, if with anything. */
enum feature_here try_helper(const struct try *t)
{
	static const char *const unknown[] = {"invalid func ", "unknown func ",
					      "program of this type cannot use helper "};
	const struct bpf_insn code[] = {{.code = BPF_JMP | BPF_CALL, .imm = t->what}, {.code = BPF_JMP | BPF_EXIT}};
	char said[4096] = "";
	LIBBPF_OPTS(bpf_prog_load_opts, opts, .log_level = 1, .log_buf = said, .log_size = sizeof(said));
	int program = load(t->where, code, sizeof(code) / sizeof(code[0]), &opts);

	if (program >= 0)
		return verdict(program);
	for (size_t i = 0; i < sizeof(unknown) / sizeof(unknown[0]); i++)
		if (strstr(said, unknown[i]))
			return FEATURE_MISSING;
	/* What never came to the verifier says nothing of the function. */
	return said[0] && !says_nothing(errno) ? FEATURE_THERE : FEATURE_NOT_KNOWN;
}

/* A link that cannot come about: with one kind of links, the kernel looks at its target and says what is wrong with that;
 * without, it says EINVAL. The loopback device has no native mode; and -1 is no cgroup. */
enum feature_here try_links(const struct try *t)
{
	bool device = t->what == BPF_XDP;
	LIBBPF_OPTS(bpf_link_create_opts, opts, .flags = device ? XDP_FLAGS_DRV_MODE : 0);
	int program = tiny(t->where, t->what), fd, error;

	if (program < 0)
		return FEATURE_NOT_KNOWN;
	fd = bpf_link_create(program, device ? LOOPBACK : -1, (enum bpf_attach_type)t->what, &opts);
	error = errno;
	close(program);
	if (fd < 0 && error != EINVAL && !says_nothing(error))
		return FEATURE_THERE;
	errno = error;
	return verdict(fd);
}

enum feature_here try_link_ends(const struct try *t)
{
	(void)t;
	return bpf_link_detach(-1) == 0 || errno == EBADF ? FEATURE_THERE : verdict(-1);
}

enum feature_here try_verdicts(const struct try *t)
{
	int program = tiny(BPF_PROG_TYPE_SK_SKB, BPF_SK_SKB_VERDICT), map = sockmap();
	enum feature_here here = FEATURE_NOT_KNOWN;

	(void)t;
	if (program >= 0 && map >= 0) /* ends with the map */
		here = bpf_prog_attach(program, map, BPF_SK_SKB_VERDICT, 0) == 0 ? FEATURE_THERE : verdict(-1);
	if (program >= 0)
		close(program);
	if (map >= 0)
		close(map);
	return here;
}

enum feature_here try_verifies(const struct try *t)
{
	libbpf_print_fn_t print = libbpf_set_print(NULL);
	struct features *object = features__open();
	enum feature_here here = FEATURE_NOT_KNOWN;
	struct bpf_program *program;

	if (object) {
		bpf_object__for_each_program(program, object->obj)
			bpf_program__set_autoload(program, strcmp(bpf_program__name(program), t->program) == 0);
		errno = -features__load(object);
		here = errno == 0 ? FEATURE_THERE : says_nothing(errno) ? FEATURE_NOT_KNOWN : FEATURE_MISSING;
	}
	features__destroy(object);
	libbpf_set_print(print);
	return here;
}

enum feature_here try_types(const struct try *t)
{
	(void)t;
	return access("/sys/kernel/btf/vmlinux", F_OK) == 0 ? FEATURE_THERE
	       : errno == ENOENT || errno == ENOTDIR        ? FEATURE_MISSING
							    : FEATURE_NOT_KNOWN;
}

/* ---- who asks ---- */

bool try_may_map(void)
{
	int fd = array(0, 1);

	return verdict(fd) != FEATURE_NOT_KNOWN;
}

bool try_may_load(void)
{
	return !programs_lacks(PROGRAMS_TO_LOAD_STEER) && verdict(tiny(BPF_PROG_TYPE_XDP, 0)) != FEATURE_NOT_KNOWN;
}
