/* SPDX-License-Identifier: MIT
 * What `berth bpf` refuses, and what it says then: wrong lines, programs and devices that are not there, drivers and
 * cgroups that cannot, missing mirrors, another instance's mirror, missing capabilities. What it does is in
 * 96-tool-bpf.c. */
#include <bpf/bpf.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "bpf_place.h"
#include "cgroup_place.h"
#include "child.h"
#include "cli.h"

/* Runs it, expects this exit code, error code and a message with this text. */
#define expect_fault(d, exit, error, text, ...) expect_fault_args(d, exit, error, text, CLI_ARGS(__VA_ARGS__))
static void expect_fault_args(const struct daemon *d, int code, const char *error, const char *text,
			      const char *const args[])
{
	json_t *lines = cli_json_args(code, d, args);
	const json_t *fault = json_object_get(json_array_get(lines, 0), "error");

	assert_int_equal(json_array_size(lines), 1);
	assert_string_equal(text_of(fault, "code"), error);
	if (!strstr(text_of(fault, "message"), text))
		fail_msg("no `%s` in: %s", text, text_of(fault, "message"));
	json_decref(lines);
}

static void wrong_lines_are_usage_errors(void **state)
{
	static const struct {
		const char *text, *line[8];
	} lines[] = {
		{"PROGRAM", {"load"}},
		{"no program frob", {"load", "frob"}},
		{"no program all", {"load", "all"}},
		{"no program frob", {"detach", "frob"}},
		{"has no option --dev", {"load", "steer", "--dev", "eth0"}},
		{"has no --prefix4", {"load", "steer", "--prefix4", "198.18.0.0"}},
		{"has no --header", {"load", "connect", "--header", "X"}},
		{"has no --gate", {"load", "connect", "--gate", "drop"}},
		{"both given", {"load", "steer", "--header", "X", "--segment", "1"}},
		{"no name of a header field", {"load", "steer", "--header", "a b"}},
		{"no name of a header field", {"load", "steer", "--header", ""}},
		{"no name of a header field", {"load", "steer", "--header", "x123456789012345678901234567890123"}},
		{"from 1 to 16", {"load", "steer", "--segment", "0"}},
		{"from 1 to 16", {"load", "steer", "--segment", "17"}},
		{"from 1 to 65535", {"load", "steer", "--port", "65536"}},
		{"give drop", {"load", "steer", "--gate", "hold"}},
		{"last two numbers are 0", {"load", "connect", "--prefix4", "198.18.0.1"}},
		{"last two numbers are 0", {"load", "connect", "--prefix4", "198.18"}},
		{"last two numbers are 0", {"load", "connect", "--prefix4", "0.0.0.0"}},
		{"last 16 bits are 0", {"load", "connect", "--prefix6", "fd00::1"}},
		{"last 16 bits are 0", {"load", "connect", "--prefix6", "198.18.0.0"}},
		{"give --dev", {"attach", "steer"}},
		{"give --cgroup", {"attach", "connect"}},
		{"has no --cgroup", {"attach", "steer", "--cgroup", "/"}},
		{"has no --mode", {"attach", "connect", "--cgroup", "/", "--mode", "native"}},
		{"native or generic", {"attach", "steer", "--dev", "lo", "--mode", "offload"}},
		{"has no --dev", {"detach", "all", "--dev", "lo"}},
		{"has no --dev", {"detach", "connect", "--dev", "lo"}},
		{"after `bpf` comes one of", {"frob"}},
	};

	(void)state;
	for (size_t i = 0; i < sizeof(lines) / sizeof(lines[0]); i++) {
		const char *const *l = lines[i].line;
		struct cli c;

		cli_run(&c, NULL, "bpf", l[0], l[1], l[2], l[3], l[4], l[5], l[6]);
		cli_check(&c, 2, NULL, lines[i].text);
		cli_free(&c);
	}
}

static void what_is_not_loaded_is_not_attached(void **state)
{
	struct bpf_place *p = *state;

	own_place_needed(p);
	expect_fault(&p->d, 1, "not-loaded", "`berth bpf load` does that", "bpf", "attach", "steer", "--dev", "lo");
	cli_expect(0, &p->d, "bpf", "load", "connect");
	expect_fault(&p->d, 1, "not-loaded", "`berth bpf load steer`", "bpf", "attach", "steer", "--dev", "lo");
	cli_expect(0, &p->d, "bpf", "detach", "steer"); /* nothing there is no fault */
	cli_expect(0, &p->d, "bpf", "detach", "all");
	cli_expect(0, &p->d, "bpf", "detach", "all");
}

static void devices_that_cannot_are_named_with_what_helps(void **state)
{
	struct bpf_place *p = *state;

	own_place_needed(p);
	cli_expect(0, &p->d, "bpf", "load", "steer");
	expect_fault(&p->d, 1, "unknown-device", "nope0", "bpf", "attach", "steer", "--dev", "nope0");
	expect_fault(&p->d, 1, "unknown-device", "nope0", "bpf", "detach", "steer", "--dev", "nope0");
	expect_fault(&p->d, 1, "no-native-mode", "--mode generic", "bpf", "attach", "steer", "--dev", "lo");
	cli_expect(0, &p->d, "bpf", "attach", "steer", "--dev", "lo", "--mode", "generic");
	expect_fault(&p->d, 1, "in-use", "detach steer --dev lo", "bpf", "attach", "steer", "--dev", "lo");
	json_t *lines = cli_json(0, &p->d, "bpf", "status");
	assert_int_equal(json_array_size(json_object_get(json_array_get(lines, 0), "links")), 1);
	json_decref(lines);
	cli_expect(0, &p->d, "bpf", "detach", "all");
}

static void steer_on_lo(const struct daemon *d)
{
	cli_expect(0, d, "bpf", "load", "steer");
	cli_expect(0, d, "bpf", "attach", "steer", "--dev", "lo", "--mode", "generic");
}

static void a_device_with_another_xdp_program_is_left_alone(void **state)
{
	struct bpf_place *p = *state;
	struct bpf_place other;

	own_place_needed(p);
	bpf_place_make(&other, "memory");
	daemon_start(&other.d, "--bpf", NULL);
	steer_on_lo(&other.d);
	cli_expect(0, &p->d, "bpf", "load", "steer");
	expect_fault(&p->d, 1, "in-use", "has an XDP program already", "bpf", "attach", "steer", "--dev", "lo",
		     "--mode", "generic");
	cli_expect(0, &p->d, "bpf", "detach", "all");
	cli_expect(0, &other.d, "bpf", "detach", "all");
	bpf_place_remove(&other);
}

static json_int_t attached_id(const struct bpf_place *p)
{
	json_t *lines = cli_json(0, &p->d, "bpf", "status");
	const json_t *links = json_object_get(json_array_get(lines, 0), "links");
	json_int_t id = int_of(json_array_get(links, json_array_size(links) - 2), "id"); /* the first of steer's */

	json_decref(lines);
	return id;
}

/* A link that takes no XDP program, where one of steer is expected behind the true one. */
static void a_load_that_cannot_replace_everything_replaces_nothing(void **state)
{
	struct bpf_place *p = *state;
	char path[256];

	own_place_needed(p);
	steer_on_lo(&p->d);
	cli_expect(0, &p->d, "bpf", "load", "connect");
	cli_expect(0, &p->d, "bpf", "attach", "connect", "--cgroup", own_cgroup.path);
	struct stat st;
	assert_int_equal(stat(own_cgroup.path, &st), 0);
	snprintf(path, sizeof(path), "%s/programs/connect4-cgroup-%ju", p->pins, (uintmax_t)st.st_ino);
	int fd = bpf_obj_get(path);
	assert_true(fd >= 0);
	snprintf(path, sizeof(path), "%s/programs/steer-native-9-9", p->pins);
	assert_int_equal(bpf_obj_pin(fd, path), 0);
	close(fd);
	json_int_t before = attached_id(p);
	expect_fault(&p->d, 1, "system", "that goes on", "bpf", "load", "steer", "--segment", "3");
	assert_int_equal(attached_id(p), before);
	assert_int_equal(unlink(path), 0);
	cli_expect(0, &p->d, "bpf", "detach", "connect");
	cli_expect(0, &p->d, "bpf", "load", "steer", "--segment", "3");
	cli_expect(0, &p->d, "bpf", "detach", "all");
}

/* A directory where a pin is to be: its turn comes when the links and other pins are new already. */
static void a_load_that_cannot_be_pinned_gives_back_what_it_had_replaced(void **state)
{
	struct bpf_place *p = *state;
	char path[256];

	own_place_needed(p);
	steer_on_lo(&p->d);
	json_t *before = cli_json(0, &p->d, "bpf", "status");
	snprintf(path, sizeof(path), "%s/programs/steer_mark", p->pins);
	assert_int_equal(unlink(path), 0);
	assert_int_equal(mkdir(path, 0700), 0);
	expect_fault(&p->d, 1, "system", "steer_mark cannot be replaced", "bpf", "load", "steer", "--segment", "3");
	json_t *after = cli_json(0, &p->d, "bpf", "status");
	const json_t *was = json_array_get(before, 0), *is = json_array_get(after, 0);
	assert_true(json_equal(json_array_get(json_object_get(was, "programs"), 0),
			       json_array_get(json_object_get(is, "programs"), 0)));
	assert_true(json_equal(json_object_get(was, "links"), json_object_get(is, "links")));
	assert_int_equal(json_array_size(json_object_get(is, "links")), 1);
	json_decref(before);
	json_decref(after);
	snprintf(path, sizeof(path), "%s/programs/steer-new", p->pins);
	assert_int_equal(access(path, F_OK), -1);
	snprintf(path, sizeof(path), "%s/programs/steer_mark", p->pins);
	assert_int_equal(rmdir(path), 0);
	cli_expect(0, &p->d, "bpf", "load", "steer", "--segment", "3");
	cli_expect(0, &p->d, "bpf", "detach", "all");
}

static void a_cgroup_must_be_one_of_the_unified_hierarchy(void **state)
{
	struct bpf_place *p = *state;

	own_place_needed(p);
	cli_expect(0, &p->d, "bpf", "load", "connect");
	expect_fault(&p->d, 1, "unknown-cgroup", "/no/such", "bpf", "attach", "connect", "--cgroup", "/no/such");
	expect_fault(&p->d, 1, "unknown-cgroup", "findmnt -t cgroup2", "bpf", "attach", "connect", "--cgroup", "/tmp");
	expect_fault(&p->d, 1, "unknown-cgroup", "/no/such", "bpf", "detach", "connect", "--cgroup", "/no/such");
	cli_expect(0, &p->d, "bpf", "detach", "all");
}

static void without_a_mirror_it_says_how_to_get_one(void **state)
{
	struct bpf_place *p = *state;
	struct bpf_place plain;

	own_place_needed(p);
	bpf_place_make(&plain, "memory");
	expect_fault(&plain.d, 3, "no-mirror", "--bpf", "bpf", "load", "steer"); /* no instance at all */
	daemon_start(&plain.d, NULL);
	expect_fault(&plain.d, 3, "no-mirror", "start its berthd with --bpf", "bpf", "load", "steer");
	expect_fault(&plain.d, 3, "no-mirror", "--bpf", "bpf", "load", "connect");
	expect_fault(&plain.d, 3, "no-mirror", "--bpf", "bpf", "attach", "steer", "--dev", "lo");
	expect_fault(&plain.d, 3, "no-mirror", "--bpf", "bpf", "status");
	expect_fault(&plain.d, 3, "no-mirror", "--bpf", "bpf", "stats");
	json_decref(cli_refused("invalid", &plain.d, "bpf", "verify"));
	cli_expect(0, &plain.d, "bpf", "detach", "all");
	json_t *lines = cli_json(0, &plain.d, "top");
	assert_true(json_is_null(json_object_get(json_array_get(lines, 0), "packets")));
	json_decref(lines);
	bpf_place_remove(&plain);
}

static void the_mirror_of_another_instance_of_this_name_is_not_touched(void **state)
{
	struct bpf_place *p = *state;
	struct bpf_place twin;

	own_place_needed(p);
	bpf_place_make(&twin, "memory");
	snprintf(twin.d.dir, sizeof(twin.d.dir), "%.60s%s", twin.d.home, strrchr(p->d.dir, '/'));
	daemon_start(&twin.d, NULL);
	expect_fault(&twin.d, 3, "no-mirror", "another name", "bpf", "load", "steer");
	expect_fault(&twin.d, 3, "no-mirror", "another name", "bpf", "stats");
	expect_fault(&twin.d, 3, "no-mirror", "another name", "bpf", "detach", "all");
	cli_expect(0, &p->d, "bpf", "load", "steer"); /* the first is well */
	cli_expect(0, &p->d, "bpf", "detach", "all");
	bpf_place_remove(&twin);
}

/* `berth --dir DIR ARGUMENTS` by setpriv with these options; the exit code. */
static int with_privileges(const struct daemon *d, const char *const options[], const char *const args[], char *out,
			   size_t size)
{
	const char *argv[24] = {"/usr/bin/setpriv"};
	int n = 1;

	while (*options)
		argv[n++] = *options++;
	argv[n++] = daemon_program("berth");
	argv[n++] = "--dir";
	argv[n++] = d->dir;
	while (*args)
		argv[n++] = *args++;
	argv[n] = NULL;
	return child_run(argv, out, size, CHILD_MS);
}

static void a_missing_capability_is_named(void **state)
{
	static const struct {
		const char *program, *bounds, *lacks; /* NULL: it goes */
	} cases[] = {
		{"steer", "-all", "lacks CAP_BPF, CAP_PERFMON, CAP_NET_ADMIN:"},
		{"steer", "-all,+perfmon,+net_admin", "lacks CAP_BPF:"},
		{"steer", "-all,+bpf,+net_admin", "lacks CAP_PERFMON:"},
		{"steer", "-all,+bpf,+perfmon", "lacks CAP_NET_ADMIN:"},
		{"steer", "-all,+bpf,+perfmon,+net_admin", NULL},
		{"connect", "-all", "lacks CAP_BPF, CAP_NET_ADMIN:"},
		{"connect", "-all,+net_admin", "lacks CAP_BPF:"},
		{"connect", "-all,+bpf", "lacks CAP_NET_ADMIN:"},
		{"connect", "-all,+bpf,+net_admin", NULL},
	};
	struct bpf_place *p = *state;
	char out[4096], bounds[96];

	own_place_needed(p);
	if (access("/usr/bin/setpriv", X_OK) != 0)
		SKIP("setpriv (util-linux) is not there");
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		snprintf(bounds, sizeof(bounds), "--bounding-set=%s", cases[i].bounds);
		int code = with_privileges(&p->d, (const char *const[]){bounds, NULL},
					   CLI_ARGS("bpf", "load", cases[i].program), out, sizeof(out));
		if (code != (cases[i].lacks ? 1 : 0) || (cases[i].lacks && !strstr(out, cases[i].lacks)))
			fail_msg("%s with %s: %d, no `%s` in: %s", cases[i].program, cases[i].bounds, code,
				 cases[i].lacks ? cases[i].lacks : "", out);
	}
	cli_expect(0, &p->d, "bpf", "detach", "all");
}

static void another_user_is_told_whose_pins_they_are(void **state)
{
	static const char *const nobody[] = {"--reuid=65534", "--regid=65534", "--clear-groups", NULL};
	static const char *const lines[][5] = {
		{"bpf", "load", "steer"}, {"bpf", "status"}, {"bpf", "stats"}, {"bpf", "detach", "all"}};
	struct bpf_place *p = *state;
	char out[4096];

	own_place_needed(p);
	if (access("/usr/bin/setpriv", X_OK) != 0)
		SKIP("setpriv (util-linux) is not there");
	cli_expect(0, &p->d, "bpf", "load", "steer");
	for (size_t i = 0; i < sizeof(lines) / sizeof(lines[0]); i++) {
		int code = with_privileges(&p->d, nobody, lines[i], out, sizeof(out));
		if (code != 1 || !strstr(out, "CAP_DAC_OVERRIDE"))
			fail_msg("%s: %d: %s", lines[i][1], code, out);
	}
	cli_expect(0, &p->d, "bpf", "detach", "all");
}

static int group_setup(void **state)
{
	(void)state;
	own_place_make();
	return 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(wrong_lines_are_usage_errors),
		BPF_TEST(what_is_not_loaded_is_not_attached, "memory"),
		BPF_TEST(devices_that_cannot_are_named_with_what_helps, "memory"),
		BPF_TEST(a_device_with_another_xdp_program_is_left_alone, "memory"),
		BPF_TEST(a_load_that_cannot_replace_everything_replaces_nothing, "memory"),
		BPF_TEST(a_load_that_cannot_be_pinned_gives_back_what_it_had_replaced, "memory"),
		BPF_TEST(a_cgroup_must_be_one_of_the_unified_hierarchy, "memory"),
		BPF_TEST(without_a_mirror_it_says_how_to_get_one, "memory"),
		BPF_TEST(the_mirror_of_another_instance_of_this_name_is_not_touched, "memory"),
		BPF_TEST(a_missing_capability_is_named, "memory"),
		BPF_TEST(another_user_is_told_whose_pins_they_are, "memory"),
	};

	return cmocka_run_group_tests(tests, group_setup, own_place_remove);
}
