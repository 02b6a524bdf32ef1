/* SPDX-License-Identifier: MIT
 * splice_place.h. */
#include "splice_place.h"

#include <arpa/inet.h>
#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "../shm/lease.h"
#include "splice_nodes.h"

int splice_setup(void **state)
{
	struct splice_place *p = calloc(1, sizeof(*p));
	char barrier[16], endpoint[64], id[8];

	assert_non_null(p);
	p->b = calloc(1, sizeof(*p->b));
	assert_non_null(p->b);
	snprintf(barrier, sizeof(barrier), "%u", (unsigned)(uintptr_t)*state);
	bpf_place_make(p->b, "memory");
	*state = p;
	if (!p->b->able)
		return 0;
	daemon_start(&p->b->d, "--bpf", "--barrier-ms", barrier, NULL);
	wire_open(&p->admin, &p->b->d, WIRE_ADMIN);
	p->nodes = splice_nodes_start();
	for (unsigned i = NODE_C1; i < NODES; i++) {
		snprintf(id, sizeof(id), "c%u", i);
		snprintf(endpoint, sizeof(endpoint), "http://127.0.0.1:%u", p->nodes->ports[i]);
		bpf_cluster(&p->admin, id, endpoint);
	}
	bpf_put(&p->admin, "acme", "c1");
	bpf_put(&p->admin, "globex", "c2");
	bpf_put(&p->admin, "initech", "c3");
	p->out = memfd_create("out", MFD_CLOEXEC);
	return 0;
}

int splice_teardown(void **state)
{
	struct splice_place *p = *state;

	child_kill(&p->pid);
	if (p->b->able) {
		splice_nodes_stop(&p->nodes);
		wire_close(&p->admin);
		close(p->out);
	}
	bpf_place_remove(p->b);
	free(p->b);
	free(p);
	return 0;
}

struct splice_place *splice_place(void **state)
{
	struct splice_place *p = *state;

	bpf_needed(p->b);
	return p;
}

void splice_output(struct splice_place *p, char *text, size_t size)
{
	ssize_t n = pread(p->out, text, size - 1, 0);

	text[n > 0 ? n : 0] = '\0';
}

void splice_start(struct splice_place *p, const char *name, const char *segment)
{
	char fallback[32], text[4096], *at = NULL;
	uint64_t deadline = 0;

	snprintf(fallback, sizeof(fallback), "127.0.0.1:%u", p->nodes->ports[NODE_FALLBACK]);
	const char *const argv[] = {daemon_program("berth"),
				    "--dir",
				    p->b->d.dir,
				    "bpf",
				    "splice",
				    "--listen",
				    "127.0.0.1:0",
				    "--fallback",
				    fallback,
				    segment ? "--segment" : "--header",
				    segment ? segment
				    : name  ? name
					    : "X-Partition",
				    NULL};
	assert_int_equal(ftruncate(p->out, 0), 0);
	lseek(p->out, 0, SEEK_SET);
	p->pid = child_start(argv, p->out);
	while (within(&deadline)) {
		splice_output(p, text, sizeof(text));
		at = strstr(text, "listening on port ");
		if (at)
			break;
		if (*text)
			fail_msg("berth bpf splice: %s", text);
	}
	p->port = (unsigned)strtoul(at + 18, NULL, 10);
}

int splice_stop(struct splice_place *p)
{
	int rc;

	kill(p->pid, SIGTERM);
	rc = child_wait(p->pid, CHILD_MS);
	p->pid = 0;
	return rc;
}

uint64_t splice_events(struct splice_place *p, enum mirror_event event)
{
	int fd = bpf_pinned(p->b, "events"), n = libbpf_num_possible_cpus();
	uint64_t values[256], sum = 0;
	uint32_t key = event;

	assert_in_range(n, 1, 256);
	assert_int_equal(bpf_map_lookup_elem(fd, &key, values), 0);
	close(fd);
	for (int i = 0; i < n; i++)
		sum += values[i];
	return sum;
}

/* ---- looked at ---- */

struct splice_leases splice_leases(const struct splice_place *p)
{
	int fd = bpf_pinned(p->b, "leases");
	const struct mirror_lease *all = mmap(NULL, MIRROR_LEASES * sizeof(*all), PROT_READ, MAP_SHARED, fd, 0);
	struct splice_leases n = {0};

	assert_ptr_not_equal(all, MAP_FAILED);
	for (unsigned i = 0; i < MIRROR_LEASES; i++)
		if (all[i].hash) {
			n.open += lease_kind(all[i].state) == LEASE_OPEN;
			n.unknown += lease_kind(all[i].state) == LEASE_UNKNOWN;
		}
	munmap((void *)(uintptr_t)all, MIRROR_LEASES * sizeof(*all));
	close(fd);
	return n;
}

void splice_expect_open_leases(const struct splice_place *p, unsigned n)
{
	uint64_t deadline = 0;

	while (within(&deadline) && splice_leases(p).open != n)
		;
	assert_int_equal(splice_leases(p).open, n);
}

void splice_wait_for_waiting(const struct splice_place *p, unsigned n)
{
	uint64_t deadline = 0;

	while (within(&deadline) && atomic_load(&p->nodes->n_waiting) != n)
		;
	assert_int_equal(atomic_load(&p->nodes->n_waiting), n);
}

/* Whatever has happened: others go on. */
void splice_expect_alive(const struct splice_place *p)
{
	int fd = splice_connect(p->port);

	splice_expect(splice_go(fd, SPLICE_PUT(.body = 10)), 200, NODE_C1, 10);
	splice_expect(splice_go(fd, &(struct splice_ask){.tenant = "globex"}), 200, NODE_C2, 10);
	close(fd);
}

/* ---- a client ---- */

int splice_connect(unsigned port)
{
	struct sockaddr_in a = {
		.sin_family = AF_INET, .sin_port = htons((uint16_t)port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	struct timeval patience = {.tv_sec = 10};
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), one = 1;

	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
	setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof(patience));
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	if (connect(fd, (struct sockaddr *)&a, sizeof(a)) != 0) {
		close(fd);
		return -1;
	}
	return fd;
}

char *splice_text(const struct splice_ask *q, size_t *len)
{
	const char *method = q->method ? q->method : "GET";
	bool sends = q->body || strcmp(method, "GET") != 0;
	char *text = malloc(q->body + 2048), length[64] = "", id[32] = "";
	size_t n;

	if (sends && strcmp(method, "HEAD") != 0)
		snprintf(length, sizeof(length), "Content-Length: %zu\r\n", q->body);
	if (q->id)
		snprintf(id, sizeof(id), "X-Id: %u\r\n", q->id);
	n = (size_t)snprintf(text, 2048, "%s %s HTTP/1.1\r\nHost: node\r\n%s%s%s%s%s%s%s%s%s\r\n", method,
			     q->path ? q->path : "/i/_doc/1", q->tenant ? "X-Partition: " : "",
			     q->tenant ? q->tenant : "", q->tenant ? "\r\n" : "", q->act ? "X-Do: " : "",
			     q->act ? q->act : "", q->act ? "\r\n" : "", id, q->extra ? q->extra : "", length);
	for (size_t i = 0; i < q->body; i++)
		text[n++] = splice_byte(i);
	*len = n;
	return text;
}

bool splice_send(int fd, const char *text, size_t len)
{
	while (len) {
		ssize_t n = send(fd, text, len, MSG_NOSIGNAL);

		if (n <= 0)
			return false;
		text += n;
		len -= (size_t)n;
	}
	return true;
}

/* Bytes until `size`, or until the head's end when `head` is set; how many. */
static size_t receive(int fd, char *to, size_t size, bool head)
{
	size_t len = 0;

	while (len < size) {
		ssize_t n = recv(fd, to + len, head ? 1 : size - len, 0);

		if (n <= 0)
			break;
		len += (size_t)n;
		if (head && len >= 4 && memcmp(to + len - 4, "\r\n\r\n", 4) == 0)
			break;
	}
	return len;
}

static bool body(int fd, size_t len, struct splice_answer_got *a)
{
	static _Thread_local char bytes[65536];

	while (len) {
		size_t want = len < sizeof(bytes) ? len : sizeof(bytes), n = receive(fd, bytes, want, false);

		for (size_t i = 0; i < n; i++)
			a->whole &= bytes[i] == splice_byte(a->len + i);
		a->len += n;
		len -= n;
		if (n < want)
			return false;
	}
	return true;
}

static void chunks(int fd, struct splice_answer_got *a)
{
	char line[64];
	size_t len, n;

	for (;;) {
		for (n = 0; n + 1 < sizeof(line) && recv(fd, line + n, 1, 0) == 1 && line[n] != '\n'; n++)
			;
		line[n] = '\0';
		len = strtoul(line, NULL, 16);
		if (n == 0 || !body(fd, len, a) || receive(fd, line, 2, false) != 2) {
			a->whole = false;
			return;
		}
		if (len == 0)
			return;
	}
}

struct splice_answer_got splice_answer(int fd, bool is_head)
{
	struct splice_answer_got a = {.node = -1, .whole = true};
	char head[8192], *at;

	do {
		size_t n = receive(fd, head, sizeof(head) - 1, true);

		head[n] = '\0';
		if (n < 16 || strncmp(head, "HTTP/1.1 ", 9) != 0)
			return (struct splice_answer_got){.node = -1};
		a.status = (int)strtol(head + 9, NULL, 10);
	} while (a.status < 200);
	at = strcasestr(head, "\r\nX-Node: ");
	if (at)
		a.node = at[10] == 'f' ? NODE_FALLBACK : at[11] - '0';
	if (is_head || a.status == 204 || a.status == 304)
		return a;
	at = strcasestr(head, "\r\nContent-Length: ");
	if (strcasestr(head, "\r\nTransfer-Encoding: chunked"))
		chunks(fd, &a);
	else if (at)
		a.whole &= body(fd, strtoul(at + 18, NULL, 10), &a);
	else
		body(fd, SIZE_MAX, &a);
	return a;
}

struct splice_answer_got splice_go(int fd, const struct splice_ask *q)
{
	size_t len;
	char *text = splice_text(q, &len);

	splice_send(fd, text, len);
	free(text);
	return splice_answer(fd, q->method && strcmp(q->method, "HEAD") == 0);
}

void splice_expect(struct splice_answer_got a, int status, int node, size_t len)
{
	if (a.status != status || (a.node != node && node != NODE_ANY) || a.len != len || !a.whole)
		fail_msg("status %d of node %d with %zu bytes%s, instead of %d of node %d with %zu", a.status, a.node,
			 a.len, a.whole ? "" : ", not whole", status, node, len);
}

bool splice_ended(int fd)
{
	char byte;
	ssize_t n = recv(fd, &byte, 1, 0);

	return n == 0 || (n < 0 && errno == ECONNRESET);
}
