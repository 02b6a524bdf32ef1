/* SPDX-License-Identifier: MIT
 * All partitions of a bulk request in one call.   bulk DIRECTORY PARTITION... */
#include <berth.h>
#include <stdio.h>
#include <string.h>

#define MAX 256

int main(int argc, char **argv)
{
	static struct berth_key keys[MAX];
	static struct berth_route at[MAX];
	static int status[MAX];
	struct berth *b = NULL;
	struct berth_reader *r = NULL;
	size_t n = 0;
	int rc;

	if (argc < 3) {
		fprintf(stderr, "usage: %s DIRECTORY PARTITION...\n", argv[0]);
		return 2;
	}
	for (int i = 2; i < argc && n < MAX; i++, n++)
		keys[n] = (struct berth_key){argv[i], strlen(argv[i])};
	rc = berth_attach(argv[1], NULL, &b);
	if (rc == BERTH_OK)
		rc = berth_reader_open(b, &r);
	if (rc == BERTH_OK)
		rc = berth_route_bulk(r, keys, n, at, status);
	for (size_t i = 0; i < n && rc == BERTH_OK; i++) {
		if (status[i] == BERTH_OK)
			printf("%s: cluster %u\n", argv[2 + i], at[i].cluster);
		else /* one item's answer, the others stand */
			printf("%s: %s\n", argv[2 + i], berth_strerror(status[i]));
	}
	if (rc != BERTH_OK)
		fprintf(stderr, "%s\n", berth_strerror(rc));
	berth_reader_close(&r);
	berth_detach(&b);
	return rc == BERTH_OK ? 0 : 1;
}
