/* SPDX-License-Identifier: MIT
 * The whole placement of each partition: names, endpoint, injected fields.   lookup DIRECTORY PARTITION... */
#include <berth.h>
#include <stdio.h>
#include <string.h>

/* The placement with its clusters. One that is unknown was removed since the look-up, and the partition has moved: it is
 * looked up again. */
static int find(struct berth_reader *r, const char *partition, struct berth_placement *p, struct berth_cluster *at,
		struct berth_cluster *to)
{
	int rc;

	for (int tries = 0; tries < 10; tries++) {
		rc = berth_lookup(r, partition, strlen(partition), p);
		if (rc != BERTH_OK)
			return rc;
		rc = berth_cluster(r, p->cluster, at);
		if (rc == BERTH_OK && p->phase != BERTH_SETTLED)
			rc = berth_cluster(r, p->to_cluster, to);
		if (rc != BERTH_E_UNKNOWN)
			return rc;
	}
	return BERTH_E_AGAIN;
}

static int show(struct berth_reader *r, const char *partition)
{
	struct berth_placement p;
	struct berth_cluster at, to;
	struct berth_inject pair;
	int rc;

	/* Strings are valid up to berth_read_end. A proxy copies what it needs; printing would be too slow in there. */
	berth_read_begin(r);
	rc = find(r, partition, &p, &at, &to);
	if (rc == BERTH_OK)
		printf("%s: %s %s index \"%s\"", partition, at.id, at.endpoint, p.index);
	for (unsigned i = 0; rc == BERTH_OK && i < p.n_inject; i++) {
		rc = berth_inject(&p, i, &pair);
		if (rc == BERTH_OK)
			printf(" %s=%s", pair.field, pair.kind == BERTH_INJECT_PARTITION ? partition : pair.value);
	}
	if (rc == BERTH_OK && p.phase != BERTH_SETTLED)
		printf(" moving to %s index \"%s\"", to.id, p.to_index);
	if (rc == BERTH_OK)
		printf("\n");
	berth_read_end(r);
	return rc;
}

int main(int argc, char **argv)
{
	struct berth *b = NULL;
	struct berth_reader *r = NULL;
	int rc;

	if (argc < 3) {
		fprintf(stderr, "usage: %s DIRECTORY PARTITION...\n", argv[0]);
		return 2;
	}
	rc = berth_attach(argv[1], NULL, &b);
	if (rc == BERTH_OK)
		rc = berth_reader_open(b, &r);
	for (int i = 2; i < argc && rc == BERTH_OK; i++)
		rc = show(r, argv[i]);
	if (rc != BERTH_OK)
		fprintf(stderr, "%s\n", berth_strerror(rc));
	berth_reader_close(&r);
	berth_detach(&b);
	return rc == BERTH_OK ? 0 : 1;
}
