/* SPDX-License-Identifier: MIT
 * Kernels that lack what the mirror or a packet program needs: each feature is taken away in turn (old_kernel.h), and the
 * tool and the daemon say what is missing, which Linux has it, which one this is and what to do, before they change
 * anything. */
#include <errno.h>
#include <linux/bpf.h>
#include <stdio.h>
#include <string.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "bpf_place.h"
#include "child.h"
#include "cli.h"
#include "old_kernel.h"

static const char *unable; /* NULL: all is there */
static const struct old_kernel whole = {.lack = LACKS_NOTHING};

#define needed(p) \
	do { \
		bpf_needed(p); \
		if (unable) \
			SKIP("%s", unable); \
	} while (0)

enum { MIRROR = 1, STEER = 2, CONNECT = 4, SPLICE = 8 };
static const char *const programs[] = {"mirror", "steer", "connect", "splice"};

static const struct lacking {
	const char *name, *since;
	unsigned users;
	struct old_kernel kernel;
} lacking[] = {
	{"frozen maps (BPF_MAP_FREEZE)", "5.2", STEER | CONNECT | SPLICE, {LACKS_COMMAND, BPF_MAP_FREEZE, 0}},
	{"loops", "5.3", STEER | CONNECT | SPLICE, {LACKS_LOOPS, 0, 0}},
	{"pointers as arguments of global functions", "5.12", STEER | SPLICE, {LACKS_FUNCTIONS, 0, 0}},
	{"atomics that fetch",
	 "5.12",
	 SPLICE,
	 {LACKS_OPCODE, (BPF_STX | BPF_DW | BPF_ATOMIC) | (BPF_XCHG & 0xff) << 8, 0}},
	{"XDP programs", "4.8", STEER, {LACKS_PROGRAM_TYPE, BPF_PROG_TYPE_XDP, 0}},
	{"XDP links", "5.9", STEER, {LACKS_ATTACH_TYPE, BPF_XDP, 0}},
	{"bpf_xdp_adjust_meta", "4.15", STEER, {LACKS_HELPER, BPF_FUNC_xdp_adjust_meta, BPF_PROG_TYPE_XDP}},
	{"tc programs", "4.1", STEER, {LACKS_PROGRAM_TYPE, BPF_PROG_TYPE_SCHED_CLS, 0}},
	{"connect programs of cgroups", "4.17", CONNECT, {LACKS_PROGRAM_TYPE, BPF_PROG_TYPE_CGROUP_SOCK_ADDR, 0}},
	{"cgroup links", "5.7", CONNECT | SPLICE, {LACKS_ATTACH_TYPE, BPF_CGROUP_INET4_CONNECT, 0}},
	{"ends of links (BPF_LINK_DETACH)", "5.9", STEER | CONNECT, {LACKS_COMMAND, BPF_LINK_DETACH, 0}},
	{"sockops programs", "4.13", SPLICE, {LACKS_PROGRAM_TYPE, BPF_PROG_TYPE_SOCK_OPS, 0}},
	{"bpf_sock_ops_cb_flags_set",
	 "4.16",
	 SPLICE,
	 {LACKS_HELPER, BPF_FUNC_sock_ops_cb_flags_set, BPF_PROG_TYPE_SOCK_OPS}},
	{"bpf_get_socket_cookie in sockops programs",
	 "4.19",
	 SPLICE,
	 {LACKS_HELPER, BPF_FUNC_get_socket_cookie, BPF_PROG_TYPE_SOCK_OPS}},
	{"programs on sockets (sk_skb)", "4.14", SPLICE, {LACKS_PROGRAM_TYPE, BPF_PROG_TYPE_SK_SKB, 0}},
	{"verdicts without a stream parser (BPF_SK_SKB_VERDICT)",
	 "5.13",
	 SPLICE,
	 {LACKS_ATTACH_TYPE, BPF_SK_SKB_VERDICT, 0}},
	{"sockmaps of 8-byte values", "5.7", SPLICE, {LACKS_VALUES_OF, 8, BPF_MAP_TYPE_SOCKMAP}},
	{"sockhashes", "4.18", SPLICE, {LACKS_MAP_TYPE, BPF_MAP_TYPE_SOCKHASH, 0}},
	{"ring buffers", "5.8", SPLICE, {LACKS_MAP_TYPE, BPF_MAP_TYPE_RINGBUF, 0}},
	{"bpf_sk_redirect_map", "4.14", SPLICE, {LACKS_HELPER, BPF_FUNC_sk_redirect_map, BPF_PROG_TYPE_SK_SKB}},
	{"bpf_sk_redirect_hash", "4.18", SPLICE, {LACKS_HELPER, BPF_FUNC_sk_redirect_hash, BPF_PROG_TYPE_SK_SKB}},
	{"bpf_skc_to_tcp_sock in sk_skb programs",
	 "5.10",
	 SPLICE,
	 {LACKS_HELPER, BPF_FUNC_skc_to_tcp_sock, BPF_PROG_TYPE_SK_SKB}},
	{"arrays that can be mapped (BPF_F_MMAPABLE)",
	 "5.5",
	 MIRROR | STEER | CONNECT | SPLICE,
	 {LACKS_MAP_FLAG, BPF_F_MMAPABLE, 0}},
	{"arrays of maps", "4.12", MIRROR | STEER | CONNECT | SPLICE, {LACKS_MAP_TYPE, BPF_MAP_TYPE_ARRAY_OF_MAPS, 0}},
	{"inner maps of any size (BPF_F_INNER_MAP)",
	 "5.10",
	 MIRROR | STEER | CONNECT | SPLICE,
	 {LACKS_MAP_FLAG, BPF_F_INNER_MAP, 0}},
	{"per-CPU arrays", "4.6", MIRROR | STEER | CONNECT | SPLICE, {LACKS_MAP_TYPE, BPF_MAP_TYPE_PERCPU_ARRAY, 0}},
};
enum { LACKING = sizeof(lacking) / sizeof(lacking[0]) };

/* All of what a refusal has to say. */
static void expect_told(const char *text, const struct lacking *l, const char *program)
{
	struct utsname kernel;
	char needs[64], has[160];

	uname(&kernel);
	snprintf(needs, sizeof(needs), "%s needs", program);
	snprintf(has, sizeof(has), "(Linux %s)", l->since);
	if (!strstr(text, needs) || !strstr(text, l->name) || !strstr(text, has) || !strstr(text, kernel.release) ||
	    !strstr(text, "boot ") || !strstr(text, "`berth bpf status`"))
		fail_msg("%s without %s: %s", program, l->name, text);
}

/* What `bpf status` says of a feature: 1, 0, or -1 for not known; and how many are missing. */
static int status_of(const struct bpf_place *p, const char *name, unsigned *n_missing)
{
	json_t *lines = cli_json(0, &p->d, "bpf", "status");
	const json_t *row, *here = NULL, *any;
	size_t i;
	int found;

	*n_missing = 0;
	json_array_foreach (json_object_get(json_array_get(lines, 0), "features"), i, row) {
		any = json_object_get(row, "here");
		*n_missing += json_is_false(any);
		if (strcmp(text_of(row, "feature"), name) == 0)
			here = any;
	}
	assert_non_null(here);
	found = json_is_true(here) ? 1 : json_is_false(here) ? 0 : -1;
	json_decref(lines);
	return found;
}

static void load(struct cli *c, const struct bpf_place *p, const char *program)
{
	if (strcmp(program, "splice") == 0)
		cli_run(c, &p->d, "bpf", "splice", "--listen", "127.0.0.1:0", "--fallback", "127.0.0.1:1");
	else
		cli_run(c, &p->d, "bpf", "load", program);
}

static void a_program_that_needs_what_the_kernel_lacks_is_refused_by_name_and_release(void **state)
{
	struct bpf_place *p = *state;
	unsigned n_missing;
	char pins[192];

	needed(p);
	for (size_t i = 0; i < LACKING; i++) {
		const struct lacking *l = &lacking[i];

		old_kernel_is(&l->kernel);
		if (status_of(p, l->name, &n_missing) != 0)
			fail_msg("status does not miss %s", l->name);
		for (size_t k = 1; k < 4; k++) { /* the mirror is there already */
			struct cli c;

			if (!(l->users & 1u << k))
				continue;
			load(&c, p, programs[k]);
			assert_int_equal(c.code, 1);
			expect_told(c.err, l, programs[k]);
			cli_free(&c);
		}
	}
	old_kernel_is(&whole);
	snprintf(pins, sizeof(pins), "%s/programs", p->pins);
	assert_int_equal(access(pins, F_OK), -1); /* nothing was loaded, or left half */
	snprintf(pins, sizeof(pins), "%s/splice", p->pins);
	assert_int_equal(access(pins, F_OK), -1);
}

static void what_a_program_does_not_need_is_no_obstacle_to_it(void **state)
{
	struct bpf_place *p = *state;

	needed(p);
	for (size_t i = 0; i < LACKING; i++) {
		old_kernel_is(&lacking[i].kernel);
		if (!(lacking[i].users & STEER))
			cli_expect(0, &p->d, "bpf", "load", "steer");
		if (!(lacking[i].users & CONNECT))
			cli_expect(0, &p->d, "bpf", "load", "connect");
	}
	old_kernel_is(&whole);
	cli_expect(0, &p->d, "bpf", "detach", "all");
}

static void berthd_serves_without_a_mirror_and_says_which_kernel_would_have_it(void **state)
{
	struct bpf_place *p = *state;

	needed(p);
	for (size_t i = 0; i < LACKING; i++) {
		const struct lacking *l = &lacking[i];
		struct bpf_place other;
		json_t *lines;

		if (!(l->users & MIRROR))
			continue;
		old_kernel_is(&l->kernel);
		bpf_place_make(&other, "memory");
		daemon_start(&other.d, "--bpf", NULL);
		cli_expect(0, &other.d, "cluster", "set", "c1", "--endpoint", "http://10.0.0.1:9200");
		lines = cli_json(0, &other.d, "status");
		expect_told(text_of(json_object_get(json_array_get(lines, 0), "bpf"), "reason"), l, "mirror");
		json_decref(lines);
		bpf_place_remove(&other);
	}
	old_kernel_is(&whole);
}

static void status_lists_what_is_needed_by_whom_since_when(void **state)
{
	struct bpf_place *p = *state;
	unsigned n_missing;
	struct cli c;

	needed(p);
	for (size_t i = 0; i < LACKING; i++) {
		json_t *lines = cli_json(0, &p->d, "bpf", "status");
		const json_t *row, *user;
		unsigned users = 0;
		size_t k, n;

		json_array_foreach (json_object_get(json_array_get(lines, 0), "features"), k, row) {
			if (strcmp(text_of(row, "feature"), lacking[i].name) != 0)
				continue;
			assert_string_equal(text_of(row, "since"), lacking[i].since);
			json_array_foreach (json_object_get(row, "needed_by"), n, user)
				for (unsigned u = 0; u < 4; u++)
					if (strcmp(json_string_value(user), programs[u]) == 0)
						users |= 1u << u;
		}
		assert_int_equal(users, lacking[i].users);
		json_decref(lines);
	}
	/* what loads here is not said to be missing */
	cli_expect(0, &p->d, "bpf", "load", "steer");
	cli_expect(0, &p->d, "bpf", "load", "connect");
	cli_expect(0, &p->d, "bpf", "detach", "all");
	assert_int_equal(status_of(p, "loops", &n_missing), 1);
	assert_int_equal(n_missing, 0);
	cli_run(&c, &p->d, "bpf", "status");
	cli_check(&c, 0, "SINCE LINUX", NULL);
	cli_free(&c);
	/* and without a mirror, in words */
	daemon_kill(&p->d);
	daemon_start(&p->d, NULL);
	cli_run(&c, &p->d, "bpf", "status");
	cli_check(&c, 3, "BPF_F_INNER_MAP", "no mirror");
	cli_free(&c);
}

static void who_may_not_try_is_told_that_it_is_not_known(void **state)
{
	const char *argv[] = {"/usr/bin/setpriv",
			      "--bounding-set=-all,+dac_override",
			      NULL,
			      "--dir",
			      NULL,
			      "--json",
			      "bpf",
			      "status",
			      NULL};
	struct bpf_place *p = *state;
	char out[16384];
	const json_t *row;
	json_t *status;
	size_t i, n = 0;

	needed(p);
	if (access(argv[0], X_OK) != 0)
		SKIP("setpriv (util-linux) is not there");
	argv[2] = daemon_program("berth");
	argv[4] = p->d.dir;
	assert_int_equal(child_run(argv, out, sizeof(out), CHILD_MS), 0);
	status = json_loads(out, 0, NULL);
	assert_non_null(status);
	json_array_foreach (json_object_get(status, "features"), i, row) {
		assert_false(json_is_false(json_object_get(row, "here")));
		n += json_is_null(json_object_get(row, "here"));
	}
	assert_true(n >= LACKING);
	json_decref(status);
}

/* No descriptor or memory left for a moment, a signal, a refusal: none of that is a kernel without the feature. */
static void an_error_of_the_moment_is_no_lack_of_the_kernel(void **state)
{
	static const int errors[] = {EMFILE, ENFILE, EAGAIN, EINTR, ENOMEM, EPERM};
	struct bpf_place *p = *state;
	unsigned n_missing;

	needed(p);
	for (size_t i = 0; i < LACKING; i++) {
		int error = errors[i % (sizeof(errors) / sizeof(errors[0]))], found;

		old_kernel_says(error);
		old_kernel_is(&lacking[i].kernel);
		found = status_of(p, lacking[i].name, &n_missing);
		if (found != -1 || n_missing)
			fail_msg("%s, for which the kernel has only %s, is %s; %u are said to be missing",
				 lacking[i].name, strerror(error), found ? "there" : "missing", n_missing);
	}
}

static void with_few_descriptors_it_does_not_blame_the_kernel(void **state)
{
	const char *argv[] = {
		"/bin/sh", "-c", "ulimit -n $1; exec \"$2\" --dir \"$3\" bpf load steer", "sh", NULL, NULL, NULL, NULL};
	struct bpf_place *p = *state;
	unsigned n_refused = 0;
	char out[4096], n[16];

	needed(p);
	argv[4] = n;
	argv[5] = daemon_program("berth");
	argv[6] = p->d.dir;
	for (unsigned files = 4; files <= 16; files++) {
		snprintf(n, sizeof(n), "%u", files);
		if (child_run(argv, out, sizeof(out), CHILD_MS) == 0)
			cli_expect(0, &p->d, "bpf", "detach", "all");
		else
			n_refused++;
		if (strstr(out, "does not have"))
			fail_msg("with %u descriptors: %s", files, out);
	}
	assert_true(n_refused > 0);
	cli_expect(0, &p->d, "bpf", "load", "steer");
	cli_expect(0, &p->d, "bpf", "detach", "all");
}

static void a_mirror_that_stands_is_taken_over_without_a_try_of_what_making_one_takes(void **state)
{
	struct bpf_place *p = *state;

	needed(p);
	for (size_t i = 0; i < LACKING; i++) {
		if (strcmp(lacking[i].name, "per-CPU arrays") != 0) /* of which a start makes no other one */
			continue;
		old_kernel_is(&lacking[i].kernel);
		daemon_kill(&p->d);
		daemon_start(&p->d, "--bpf", NULL);
		bpf_expect_on(&p->d, true);
		bpf_expect_equal(p);
	}
}

static int group_setup(void **state)
{
	(void)state;
	unable = geteuid() == 0 ? old_kernel_make() : "seccomp filters for others need root";
	return 0;
}

/* Whatever the test before has left. */
static int setup(void **state)
{
	if (!unable) {
		old_kernel_is(&whole);
		old_kernel_says(EINVAL);
	}
	return bpf_setup(state);
}

#define KERNEL_TEST(test) \
	{ \
#test, test, setup, bpf_teardown, (void *)(uintptr_t) "memory" \
	}

int main(void)
{
	const struct CMUnitTest tests[] = {
		KERNEL_TEST(a_program_that_needs_what_the_kernel_lacks_is_refused_by_name_and_release),
		KERNEL_TEST(what_a_program_does_not_need_is_no_obstacle_to_it),
		KERNEL_TEST(berthd_serves_without_a_mirror_and_says_which_kernel_would_have_it),
		KERNEL_TEST(status_lists_what_is_needed_by_whom_since_when),
		KERNEL_TEST(who_may_not_try_is_told_that_it_is_not_known),
		KERNEL_TEST(an_error_of_the_moment_is_no_lack_of_the_kernel),
		KERNEL_TEST(with_few_descriptors_it_does_not_blame_the_kernel),
		KERNEL_TEST(a_mirror_that_stands_is_taken_over_without_a_try_of_what_making_one_takes),
	};

	return cmocka_run_group_tests(tests, group_setup, NULL);
}
