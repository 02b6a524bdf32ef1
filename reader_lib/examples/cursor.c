/* SPDX-License-Identifier: MIT
 * A scroll: the cluster that opened it is pinned to its id, and each continue asks for that cluster, wherever the
 * partition lives by then.   cursor DIRECTORY PARTITION... */
#include <berth.h>
#include <stdio.h>
#include <string.h>

#define PIN_WAIT_MS 1000 /* until every proxy sees it; microseconds as a rule */
#define PIN_TTL_MS 60000 /* what the client asked for: ?scroll=1m */

/* The answer that opened the scroll has come from at.cluster; its id is about to go to the client. */
static int opened(struct berth_reader *r, const char *partition, const char *cursor)
{
	struct berth_route at;
	int rc = berth_route(r, partition, strlen(partition), &at);

	if (rc != BERTH_OK)
		return rc;
	return berth_cursor_pin(r, cursor, strlen(cursor), at.cluster, partition, strlen(partition), PIN_TTL_MS,
				PIN_WAIT_MS);
}

/* The client asks for the next page, with an id that it may have from anywhere. */
static int continued(struct berth_reader *r, const char *partition, const char *cursor)
{
	uint16_t cluster;
	int rc = berth_cursor_resolve(r, cursor, strlen(cursor), partition, strlen(partition), 0, &cluster);

	if (rc == BERTH_OK)
		printf("%s: the next page of %s comes from cluster %u\n", partition, cursor, cluster);
	return rc; /* BERTH_E_UNKNOWN: 404, BERTH_E_NOT_OWNER: 403 */
}

int main(int argc, char **argv)
{
	struct berth_attach_options options = {
		.size = sizeof options, .writes = BERTH_WRITES_NONE, .cursors = BERTH_CURSORS_PIN};
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
		char cursor[300];

		snprintf(cursor, sizeof cursor, "scroll-of-%.255s", argv[i]); /* stands for what the cluster answered */
		rc = opened(r, argv[i], cursor);
		if (rc == BERTH_OK)
			rc = continued(r, argv[i], cursor);
	}
	if (rc != BERTH_OK)
		fprintf(stderr, "%s\n", berth_strerror(rc));
	berth_reader_close(&r);
	berth_detach(&b);
	return rc == BERTH_OK ? 0 : 1;
}
