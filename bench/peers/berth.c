/* SPDX-License-Identifier: MIT
 * Peer: berth itself, as a proxy uses it. A real berthd that loaded a placement document, this process attached to it, a
 * registered reader. The single and the bulk form share one instance. Run by peers.c, in its thread. */
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "../../reader_lib/berth.h"
#include "peer.h"

#define BATCH 32u

static struct instance {
	struct daemon d;
	struct berth *berth;
	struct berth_reader *r;
	unsigned users;
} instance;

/* The clusters of the document get their numbers in the order in which they appear in it: what value_of_key tells. */
static void check_numbers(uint32_t n)
{
	char name[KEY_ROOM];

	for (uint32_t i = 0; i < n && i < 2 * CLUSTERS; i++) {
		struct berth_route out = {0};
		int rc;

		key_name(name, i);
		rc = berth_route(instance.r, name, KEY_LEN, &out);
		if (rc != BERTH_OK)
			fail("%s: %s", name, berth_strerror(rc));
		if (out.cluster != value_of_key(i))
			fail("%s: cluster %u, expected %llu: clusters are numbered in the order of the document", name,
			     out.cluster, (unsigned long long)value_of_key(i));
	}
}

static void *open_instance(const struct bench *b, uint32_t n)
{
	struct berth_attach_options options = {.size = sizeof(options), .writes = BERTH_WRITES_NONE};
	char name[32];
	int document, rc;

	if (instance.users++)
		return &instance;
	document = document_make(n, false);
	snprintf(name, sizeof(name), "berth-%u", n);
	daemon_start(b, &instance.d, name, &(struct daemon_how){.cpu = CPU_DAEMON});
	daemon_load(&instance.d, document, n, NULL);
	close(document);
	rc = berth_attach(instance.d.dir, &options, &instance.berth);
	if (rc == BERTH_OK)
		rc = berth_reader_open(instance.berth, &instance.r);
	if (rc == BERTH_OK)
		rc = berth_maintain(instance.berth);
	if (rc != BERTH_OK)
		fail("cannot attach to %s: %s", instance.d.dir, berth_strerror(rc));
	check_numbers(n);
	return &instance;
}

static void close_instance(void *at)
{
	(void)at;
	if (--instance.users)
		return;
	berth_reader_close(&instance.r);
	berth_detach(&instance.berth);
	daemon_stop(&instance.d);
	remove_tree(instance.d.dir);
}

static uint64_t run_single(void *at, const struct sequence *s, size_t n)
{
	struct berth_reader *r = ((struct instance *)at)->r;
	struct berth_route out = {0};
	uint64_t sum = 0;
	int rc = 0;

	for (size_t i = 0; i < n; i++) {
		rc |= berth_route(r, s->names[i & (s->n - 1)], KEY_LEN, &out);
		sum += out.cluster;
	}
	if (rc != BERTH_OK)
		fail("berth_route: a key was not found");
	return sum;
}

static uint64_t run_bulk(void *at, const struct sequence *s, size_t n)
{
	struct berth_reader *r = ((struct instance *)at)->r;
	struct berth_route out[BATCH] = {{0}};
	struct berth_key keys[BATCH];
	int status[BATCH], rc = 0;
	uint64_t sum = 0;

	for (size_t i = 0; i < n; i += BATCH) {
		for (unsigned k = 0; k < BATCH; k++)
			keys[k] = (struct berth_key){.key = s->names[(i + k) & (s->n - 1)], .len = KEY_LEN};
		rc |= berth_route_bulk(r, keys, BATCH, out, status);
		for (unsigned k = 0; k < BATCH; k++) {
			rc |= status[k];
			sum += out[k].cluster;
		}
	}
	if (rc != BERTH_OK)
		fail("berth_route_bulk: a key was not found");
	return sum;
}

const struct peer peer_berth = {
	.name = "berth_route",
	.how = "berthd, a registered reader; a section for each look-up",
	.shared = true,
	.open = open_instance,
	.run = run_single,
	.close = close_instance,
};

const struct peer peer_berth_bulk = {
	.name = "berth_route_bulk",
	.how = "32 keys a call",
	.shared = true,
	.bulk = true,
	.open = open_instance,
	.run = run_bulk,
	.close = close_instance,
};
