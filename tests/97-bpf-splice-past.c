/* SPDX-License-Identifier: MIT
 * `berth bpf splice` that starts where one before it was killed: what that has left open in a mirror that went ends, and
 * what it said of itself is looked at only when it is of this version. */
#include <bpf/bpf.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "../bpf/mirror.h"
#include "../bpf/splice_run.h"
#include "../shm/hash.h"
#include "../shm/lease.h"
#include "splice_place.h"

static void *map_of(const struct bpf_place *b, const char *name, size_t size)
{
	int fd = bpf_pinned(b, name);
	void *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);

	close(fd);
	assert_ptr_not_equal(memory, MAP_FAILED);
	return memory;
}

static void leave_open(struct mirror_lease *lease, uint64_t hash)
{
	lease->state = lease_state(LEASE_OPEN, test_now_ms());
	lease->hash = hash;
}

static void what_a_killed_one_left_open_in_a_mirror_that_went_ends_with_the_next_one(void **state)
{
	struct splice_place *p = splice_place(state);
	volatile struct mirror_control *control = map_of(p->b, "control", sizeof(*control));
	struct mirror_lease *leases = map_of(p->b, "leases", MIRROR_LEASES * sizeof(*leases));
	uint64_t secret[4];
	json_t *e;

	for (unsigned i = 0; i < 4; i++)
		secret[i] = control->secret[i];
	leave_open(&leases[5], lease_hash(hash_key(secret, "acme", 4)));
	leave_open(&leases[SPLICE_CONNECTIONS], lease_hash(hash_key(secret, "globex", 6))); /* another program's */
	control->lease_high = SPLICE_CONNECTIONS + 1;
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
	assert_int_equal(lease_kind(leases[5].state), LEASE_UNKNOWN);
	assert_int_equal(lease_kind(leases[SPLICE_CONNECTIONS].state), LEASE_OPEN);
	wire_do(&p->admin, "complete", "{s:s, s:i}", "partition", "acme", "wait_ms", 10000);
	munmap((void *)(uintptr_t)control, sizeof(*control));
	munmap(leases, MIRROR_LEASES * sizeof(*leases));
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
