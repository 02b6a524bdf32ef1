/* SPDX-License-Identifier: MIT
 * Instances with numbered pins: cursor.h. Called by the parts of the workload `cursor`. */
#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "cursor.h"

#define ATTACH_MS 5000u
#define NS_MS 1000000u

uint64_t boottime_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_BOOTTIME, &ts);
	return (uint64_t)ts.tv_sec * 1000u + (uint64_t)ts.tv_nsec / NS_MS;
}

void spin_ns(uint64_t ns)
{
	for (uint64_t from = now_ns(); now_ns() - from < ns;)
		;
}

/* ---- attaching ------------------------------------------------------------------------------------------------ */

/* Without waiting for the daemon, so that releases do not either; attached with leave to pin all the same. */
void pins_attach(struct pins *p)
{
	struct berth_attach_options options = {.size = sizeof(options),
					       .writes = BERTH_WRITES_NONE,
					       .max_readers = 1 + BACKLOG_READERS,
					       .wait_ms = BERTH_NO_WAIT,
					       .cursors = BERTH_CURSORS_PIN};
	uint64_t from = now_ns(), len;
	int rc;

	p->berth = NULL;
	p->r = NULL;
	rc = berth_attach(p->d.dir, &options, &p->berth);
	if (rc == BERTH_OK)
		rc = berth_reader_open(p->berth, &p->r);
	while (rc == BERTH_OK && (berth_maintain(p->berth) != BERTH_OK || berth_cursor_len(p->r, &len) != BERTH_OK)) {
		if (now_ns() - from > (uint64_t)ATTACH_MS * NS_MS)
			fail("%s: no pins within %u ms: %s", p->d.dir, ATTACH_MS,
			     berth_strerror(berth_cursor_len(p->r, &len)));
		usleep(200);
	}
	if (rc != BERTH_OK)
		fail("cannot attach to %s: %s", p->d.dir, berth_strerror(rc));
}

void pins_detach(struct pins *p)
{
	berth_reader_close(&p->r);
	if (berth_detach(&p->berth) != BERTH_OK)
		fail("cannot detach from %s", p->d.dir);
}

void pins_make(const struct bench *b, struct pins *p, const char *name, size_t id_len, const struct daemon_how *how)
{
	char answer[1024];

	daemon_start(b, &p->d, name, how);
	p->id_len = id_len;
	for (uint32_t i = 0; i < OWNERS; i++)
		key_name(p->owners[i], i);
	for (unsigned i = 0; i < 2; i++) {
		char line[128];

		snprintf(
			line, sizeof(line),
			"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"cluster.set\",\"params\":{\"id\":\"pinned-%u\"}}\n",
			i);
		daemon_call(&p->d, line, -1, answer, sizeof(answer), NULL);
		p->clusters[i] = (uint16_t)answer_number(answer, "number");
	}
	pins_attach(p);
}

void pins_remove(struct pins *p)
{
	pins_detach(p);
	daemon_stop(&p->d);
	remove_tree(p->d.dir);
}

/* ---- pins ----------------------------------------------------------------------------------------------------- */

/* Letters and digits, as ids of OpenSearch are; the first bytes already tell two numbers apart. */
void pin_id(void *id, size_t len, uint64_t number)
{
	static const char digits[] = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz-_";
	uint64_t state = number;
	char *out = id;

	for (size_t i = 0; i < 11; i++)
		out[i] = digits[number >> (6 * i) & 63];
	for (size_t i = 11; i < len;) {
		uint64_t r = random_u64(&state);

		for (unsigned k = 0; k < 10 && i < len; k++, i++, r >>= 6)
			out[i] = digits[r & 63];
	}
}

void pin_one(struct pins *p, uint64_t number, uint32_t wait_ms)
{
	char id[ID_LONG];
	int rc;

	pin_id(id, p->id_len, number);
	while ((rc = berth_cursor_pin(p->r, id, p->id_len, pin_cluster(p, number), pin_owner(p, number), KEY_LEN,
				      PIN_TTL_MS, wait_ms)) == BERTH_E_AGAIN)
		sched_yield();
	if (rc != BERTH_OK)
		fail("pin %llu is refused: %s", (unsigned long long)number, berth_strerror(rc));
}

void pin_many(struct pins *p, uint64_t from, uint64_t n)
{
	for (uint64_t i = 0; i < n; i++)
		pin_one(p, from + i, i + 1 == n ? PIN_WAIT_MS : 0);
}

void pin_release(struct pins *p, uint64_t from, uint64_t n)
{
	char id[ID_LONG];

	for (uint64_t i = from; i < from + n; i++) {
		uint64_t began = now_ns();
		int rc;

		pin_id(id, p->id_len, i);
		while ((rc = berth_cursor_release(p->r, id, p->id_len, pin_owner(p, i), KEY_LEN)) == BERTH_E_AGAIN) {
			if (now_ns() - began > (uint64_t)PIN_WAIT_MS * NS_MS)
				fail("release of pin %llu: no room for %u ms", (unsigned long long)i, PIN_WAIT_MS);
			sched_yield();
		}
		if (rc != BERTH_OK)
			fail("release of pin %llu is refused: %s", (unsigned long long)i, berth_strerror(rc));
	}
}

bool pin_seen(struct pins *p, uint64_t number, uint64_t now_ms)
{
	uint16_t cluster = 0;
	char id[ID_LONG];
	int rc;

	pin_id(id, p->id_len, number);
	rc = berth_cursor_resolve(p->r, id, p->id_len, pin_owner(p, number), KEY_LEN, now_ms, &cluster);
	if (rc == BERTH_E_UNKNOWN)
		return false;
	if (rc != BERTH_OK || cluster != pin_cluster(p, number))
		fail("pin %llu resolves to %u (%s), not to %u", (unsigned long long)number, cluster, berth_strerror(rc),
		     pin_cluster(p, number));
	return true;
}

uint64_t pins_seen(struct pins *p, uint64_t from, uint64_t n)
{
	uint64_t seen = 0, now = boottime_ms();

	for (uint64_t i = from; i < from + n; i++)
		seen += pin_seen(p, i, now);
	return seen;
}

void pins_expect(struct pins *p, uint64_t n)
{
	uint64_t len = 0;
	int rc = berth_cursor_len(p->r, &len);

	if (rc != BERTH_OK || len != n)
		fail("%s: %llu pins (%s) instead of %llu", p->d.dir, (unsigned long long)len, berth_strerror(rc),
		     (unsigned long long)n);
}

/* ---- children ------------------------------------------------------------------------------------------------- */

void *shared_memory(size_t size)
{
	void *m = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	if (m == MAP_FAILED)
		fail("no memory for %zu bytes: %s", size, strerror(errno));
	return m;
}

pid_t child_fork(void)
{
	pid_t pid;

	fflush(stdout);
	pid = fork();
	if (pid < 0)
		fail("fork: %s", strerror(errno));
	if (pid == 0)
		prctl(PR_SET_PDEATHSIG, SIGKILL);
	return pid;
}

void child_wait(pid_t pid, const char *what)
{
	int status;

	if (waitpid(pid, &status, 0) != pid || status != 0)
		fail("%s has failed", what);
}
