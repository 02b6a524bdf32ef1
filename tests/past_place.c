/* SPDX-License-Identifier: MIT
 * past_place.h. */
#include "past_place.h"

#include <bpf/bpf.h>
#include <grp.h>
#include <linux/capability.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "../shm/hash.h"
#include "../shm/lease.h"
#include "child.h"

#define SERVICE 54321u

/* ---- berthd as its unit starts it ----------------------------------------------------------------------------------- */

bool past_service(void)
{
	struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
	struct __user_cap_data_struct caps[2] = {{0}};

	caps[1].permitted = caps[1].inheritable = caps[1].effective = 1u << (CAP_BPF - 32);
	return own_mounts() && mount("bpf", "/sys/fs/bpf", "bpf", 0, NULL) == 0 && setgroups(0, NULL) == 0 &&
	       prctl(PR_SET_KEEPCAPS, 1, 0, 0, 0) == 0 && setgid(SERVICE) == 0 && setuid(SERVICE) == 0 &&
	       syscall(SYS_capset, &header, caps) == 0 &&
	       prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, CAP_BPF, 0, 0) == 0 &&
	       access(daemon_program("berthd"), X_OK) == 0;
}

int past_setup(void **state)
{
	struct bpf_place *p = calloc(1, sizeof(*p));

	bpf_place_make(p, "sqlite");
	*state = p;
	return 0;
}

void past_run(void **state, int (*part)(void *))
{
	struct bpf_place *p = *state;
	char command[200];
	int rc;

	bpf_needed(p);
	snprintf(command, sizeof(command), "chown -R %u:%u %s", SERVICE, SERVICE, p->d.home);
	assert_int_equal(system(command), 0);
	rc = part_run(part, p, 6 * CHILD_MS);
	if (rc == PAST_CANNOT)
		SKIP("no mount namespace of its own, or another user cannot run berthd where it lies");
	assert_int_equal(rc, 0);
}

bool past_pinned(const struct bpf_place *p, const char *name)
{
	char path[192];

	snprintf(path, sizeof(path), "%s/%s", p->pins, name);
	return access(path, F_OK) == 0;
}

void past_unpin(const struct bpf_place *p, const char *name)
{
	char path[192];

	snprintf(path, sizeof(path), "%s/%s", p->pins, name);
	assert_int_equal(unlink(path), 0);
}

/* ---- leases ----------------------------------------------------------------------------------------------------------- */

static void *map_of(const struct bpf_place *p, const char *name, size_t size)
{
	int fd = bpf_pinned(p, name);
	void *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);

	close(fd);
	assert_ptr_not_equal(memory, MAP_FAILED);
	return memory;
}

struct past_maps past_maps(const struct bpf_place *p)
{
	return (struct past_maps){.control = map_of(p, "control", sizeof(struct mirror_control)),
				  .leases = map_of(p, "leases", MIRROR_LEASES * sizeof(struct mirror_lease))};
}

void past_unmap(struct past_maps *m)
{
	munmap((void *)(uintptr_t)m->control, sizeof(*m->control));
	munmap(m->leases, MIRROR_LEASES * sizeof(*m->leases));
}

void past_take_lease(struct past_maps *m, unsigned number, const char *partition)
{
	uint64_t secret[4];

	for (unsigned i = 0; i < 4; i++)
		secret[i] = m->control->secret[i];
	m->leases[number].state = lease_state(LEASE_OPEN, test_now_ms());
	m->leases[number].hash = lease_hash(hash_key(secret, partition, strlen(partition)));
	if (m->control->lease_high <= number)
		m->control->lease_high = number + 1;
}

struct past_maps past_make(struct bpf_place *p)
{
	struct past_maps m;

	daemon_start(&p->d, "--bpf", PAST_BARRIER, NULL);
	bpf_fill(p);
	m = past_maps(p);
	past_take_lease(&m, 0, "acme");
	daemon_kill(&p->d);
	daemon_start(&p->d, PAST_BARRIER, NULL);
	assert_true(past_pinned(p, "past-0-control"));
	daemon_kill(&p->d);
	return m;
}

void past_expect_pending(const struct bpf_place *p, const char *reason, json_int_t in_flight)
{
	struct wire w;
	json_t *e, *data;

	wire_open(&w, &p->d, WIRE_ADMIN);
	bpf_cluster(&w, "c2", "http://10.0.0.2:9200");
	wire_do(&w, "begin", "{s:s,s:{s:s}}", "partition", "acme", "to", "cluster", "c2");
	wire_do(&w, "cutover", "{s:s}", "partition", "acme");
	e = wire_refused(&w, "barrier-pending", "complete", "{s:s}", "partition", "acme");
	data = json_object_get(e, "data");
	assert_string_equal(text_of(data, "reason"), reason);
	assert_int_equal(int_of(data, "in_flight"), in_flight);
	json_decref(e);
	wire_do(&w, "abort", "{s:s}", "partition", "acme");
	wire_close(&w);
}
