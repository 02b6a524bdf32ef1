/* SPDX-License-Identifier: MIT
 * A write in a lease: begin it, send it as often as it takes, end it with what is known of it. A migration of its
 * partition waits for exactly that.   write DIRECTORY PARTITION... */
#include <berth.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#define TRIES 20

/* Stands for the proxy's upstream request, with its retries: true once the node has given a final answer. */
static int send_it(const char *partition, const struct berth_write *w)
{
	return printf("%s: written to cluster %u\n", partition, w->cluster) > 0;
}

static int begin(struct berth_reader *r, const char *partition, struct berth_write *w)
{
	const struct timespec pause = {.tv_nsec = 50000000};
	int rc = berth_write_begin(r, partition, strlen(partition), 0, w);

	for (int i = 0; i < TRIES && (rc == BERTH_E_STALE || rc == BERTH_E_CUTOVER); i++) {
		nanosleep(&pause, NULL); /* a proxy answers 409 with Retry-After instead */
		rc = berth_write_begin(r, partition, strlen(partition), 0, w);
	}
	return rc;
}

int main(int argc, char **argv)
{
	struct berth_attach_options options = {.size = sizeof options, .writes = BERTH_WRITES_BRACKETED};
	struct berth *b = NULL;
	struct berth_reader *r = NULL;
	int rc;

	if (argc < 3) {
		fprintf(stderr, "usage: %s DIRECTORY PARTITION...\n", argv[0]);
		return 2;
	}
	rc = berth_attach(argv[1], &options, &b);
	if (rc == BERTH_OK)
		rc = berth_reader_open(b, &r);
	for (int i = 2; i < argc && rc == BERTH_OK; i++) {
		struct berth_write w;

		rc = begin(r, argv[i], &w);
		if (rc == BERTH_OK) /* a time-out or a broken connection: nobody knows whether it still arrives */
			rc = berth_write_end(r, &w, send_it(argv[i], &w) ? BERTH_DONE : BERTH_UNKNOWN);
	}
	if (rc != BERTH_OK)
		fprintf(stderr, "%s\n", berth_strerror(rc));
	berth_reader_close(&r);
	berth_detach(&b);
	return rc == BERTH_OK ? 0 : 1;
}
