/* SPDX-License-Identifier: MIT
 * `berth bpf splice` that starts where one before it was killed: what that has left open in a mirror that went ends, and
 * what it said of itself is looked at only when it is of this version. */
#include <bpf/bpf.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "../bpf/splice_run.h"
#include "../shm/lease.h"
#include "past_place.h"
#include "splice_place.h"

static void what_a_killed_one_left_open_in_a_mirror_that_went_ends_with_the_next_one(void **state)
{
	struct splice_place *p = splice_place(state);
	struct past_maps m = past_maps(p->b);
	json_t *e;

	past_take_lease(&m, 5, "acme");
	past_take_lease(&m, SPLICE_CONNECTIONS, "globex"); /* another program's */
	wire_close(&p->admin);
	daemon_kill(&p->b->d);
	daemon_start(&p->b->d, "--barrier-ms", "300", NULL);
	daemon_kill(&p->b->d);
	daemon_start(&p->b->d, "--bpf", "--barrier-ms", "300", NULL);
	wire_open(&p->admin, &p->b->d, WIRE_ADMIN);
	wire_do(&p->admin, "begin", "{s:s, s:{s:s}}", "partition", "acme", "to", "cluster", "c2");
	wire_do(&p->admin, "cutover", "{s:s}", "partition", "acme");
	e = wire_refused(&p->admin, "barrier-pending", "complete", "{s:s, s:i}", "partition", "acme", "wait_ms", 900);
	assert_string_equal(text_of(json_object_get(e, "data"), "reason"), "leases-open");
	json_decref(e);
	splice_start(p, NULL, NULL);
	assert_int_equal(lease_kind(m.leases[5].state), LEASE_UNKNOWN);
	assert_int_equal(lease_kind(m.leases[SPLICE_CONNECTIONS].state), LEASE_OPEN);
	wire_do(&p->admin, "complete", "{s:s, s:i}", "partition", "acme", "wait_ms", 10000);
	past_unmap(&m);
}

static void what_one_of_another_version_says_of_itself_is_not_taken(void **state)
{
	struct splice_place *p = splice_place(state);
	struct {
		struct splice_process process;
		char behind[8192];
	} out, before;
	char path[256];
	bool attached, stale;
	int fd = bpf_map_create(BPF_MAP_TYPE_ARRAY, "splice_process", 4, sizeof(out), 1, NULL);

	assert_true(fd >= 0);
	snprintf(path, sizeof(path), "%s/splice", p->b->pins);
	assert_int_equal(mkdir(path, 0700), 0);
	strcat(path, "/process");
	assert_int_equal(bpf_obj_pin(fd, path), 0);
	close(fd);
	memset(&out, 0x5a, sizeof(out));
	before = out;
	assert_int_equal(splice_look(p->b->d.dir, &out.process, &attached, &stale), -1);
	assert_int_equal(errno, EPROTO);
	assert_memory_equal(&out, &before, sizeof(out));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		SPLICE_TEST(what_a_killed_one_left_open_in_a_mirror_that_went_ends_with_the_next_one, 300),
		SPLICE_TEST(what_one_of_another_version_says_of_itself_is_not_taken, 300),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
