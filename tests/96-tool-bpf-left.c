/* SPDX-License-Identifier: MIT
 * What a `berth bpf load` that was killed has pinned beside the pins that it was to replace. */
#include <bpf/bpf.h>
#include <stdio.h>
#include <unistd.h>

#include "bpf_place.h"
#include "child.h"
#include "cli.h"

static void path_of(const struct bpf_place *p, const char *name, char path[256])
{
	snprintf(path, 256, "%s/programs/%s", p->pins, name);
}

static void pin_beside(const struct bpf_place *p, const char *name, const char *beside)
{
	char path[256];
	int fd;

	path_of(p, name, path);
	fd = bpf_obj_get(path);
	assert_true(fd >= 0);
	path_of(p, beside, path);
	assert_int_equal(bpf_obj_pin(fd, path), 0);
	close(fd);
}

static bool there(const struct bpf_place *p, const char *name)
{
	char path[256];

	path_of(p, name, path);
	return access(path, F_OK) == 0;
}

static void what_a_killed_load_left_goes_with_the_programs(void **state)
{
	struct bpf_place *p = *state;

	bpf_needed(p);
	cli_expect(0, &p->d, "bpf", "load", "steer");
	cli_expect(0, &p->d, "bpf", "load", "connect");
	pin_beside(p, "steer_mark", "steer_mark-new");
	pin_beside(p, "steer-config", "steer-config-new");
	pin_beside(p, "connect4", "connect4-new");
	cli_expect(0, &p->d, "bpf", "detach", "steer");
	assert_false(there(p, "steer_mark-new") || there(p, "steer-config-new"));
	assert_true(there(p, "connect4-new") && there(p, "connect4"));
	cli_expect(0, &p->d, "bpf", "detach", "all");
	assert_false(there(p, ""));
}

int main(void)
{
	const struct CMUnitTest tests[] = {BPF_TEST(what_a_killed_load_left_goes_with_the_programs, "memory")};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
