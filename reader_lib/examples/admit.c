/* SPDX-License-Identifier: MIT
 * Resolve, then ask the gate right before the write goes out, as a proxy does for each write; resolve again while the
 * answer is a 409.   admit DIRECTORY PARTITION... */
#include <berth.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#define TRIES 20

static int admit(struct berth_reader *r, const char *partition, struct berth_route *at)
{
	const struct timespec pause = {.tv_nsec = 50000000};
	size_t len = strlen(partition);
	int rc = BERTH_E_STALE;

	for (int i = 0; i < TRIES && (rc == BERTH_E_STALE || rc == BERTH_E_CUTOVER); i++) {
		if (i > 0)
			nanosleep(&pause, NULL); /* a proxy answers 409 instead, or parks the request */
		rc = berth_route(r, partition, len, at);
		if (rc == BERTH_OK)
			rc = berth_admit(r, partition, len, at->epoch);
	}
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
	for (int i = 2; i < argc && rc == BERTH_OK; i++) {
		struct berth_route at;

		rc = admit(r, argv[i], &at);
		if (rc == BERTH_OK)
			printf("%s: the write may go to cluster %u\n", argv[i], at.cluster);
	}
	if (rc != BERTH_OK)
		fprintf(stderr, "%s\n", berth_strerror(rc));
	berth_reader_close(&r);
	berth_detach(&b);
	return rc == BERTH_OK ? 0 : 1;
}
