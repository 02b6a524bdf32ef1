/* SPDX-License-Identifier: MIT
 * Where clusters are, for programs that connect: the endpoint of a cluster as address and port. Control thread; no name is
 * looked up, for that could take seconds: an endpoint that names a host has no address here.
 *
 * G1 sequence is odd while the rest is being changed, and has another value afterwards: it is stored before the first field
 *    (a full fence after it) and after the last (release). Who loads it before and after, even and equal, has one state. */
#include "mirror_internal.h"

#include <arpa/inet.h>
#include <stdlib.h>
#include <string.h>

#include "../shm/crash_point.h"

/* scheme://host[:port][/...]. What is no literal has no address. */
static struct mirror_cluster parse(const char *endpoint)
{
	struct mirror_cluster c = {0};
	unsigned long port = 80;
	const char *host, *end;
	char text[INET6_ADDRSTRLEN];
	size_t len;
	bool six;

	if (strncmp(endpoint, "https://", 8) == 0) {
		c.tls = 1;
		port = 443;
		host = endpoint + 8;
	} else if (strncmp(endpoint, "http://", 7) == 0) {
		host = endpoint + 7;
	} else {
		return (struct mirror_cluster){0};
	}
	len = strcspn(host, "/?#");
	if (memchr(host, '@', len)) /* who asks is not where it is */
		return (struct mirror_cluster){0};
	six = *host == '[';
	end = six ? memchr(++host, ']', --len) : memchr(host, ':', len);
	if (six && !end)
		return (struct mirror_cluster){0};
	if (end) {
		size_t at = (size_t)(end - host) + six;

		if (at < len && host[at] == ':')
			port = strtoul(host + at + 1, NULL, 10);
		len = (size_t)(end - host);
	}
	if (len >= sizeof text || port == 0 || port > 65535)
		return (struct mirror_cluster){0};
	memcpy(text, host, len);
	text[len] = '\0';
	if (inet_pton(six ? AF_INET6 : AF_INET, text, c.address) != 1)
		return (struct mirror_cluster){0};
	c.family = six ? MIRROR_IPV6 : MIRROR_IPV4;
	c.port = htons((uint16_t)port);
	return c;
}

void mirror_cluster_set(struct mirror *m, unsigned number, const char *endpoint)
{
	struct mirror_cluster new = {0}, *c;
	_Atomic uint32_t *sequence;
	uint32_t n;

	if (!m || number == 0 || number >= MIRROR_CLUSTERS)
		return;
	if (endpoint)
		new = parse(endpoint);
	c = &m->clusters[number];
	sequence = SHARED32(&c->sequence);
	n = atomic_load_explicit(sequence, memory_order_relaxed);
	new.sequence = n;
	if (n % 2 == 0 && memcmp(c, &new, sizeof new) == 0)
		return;
	n |= 1; /* a writer that was killed may have left it odd */
	atomic_store_explicit(sequence, n, memory_order_relaxed);
	CRASH_POINT(mirror_cluster_opened);
	atomic_thread_fence(memory_order_seq_cst); /* G1 */
	c->port = new.port;
	c->family = new.family;
	c->tls = new.tls;
	memcpy(c->address, new.address, sizeof c->address);
	CRASH_POINT(mirror_cluster_filled);
	atomic_store_explicit(sequence, n + 1, memory_order_release); /* G1 */
	CRASH_POINT(mirror_cluster_stored);
}
