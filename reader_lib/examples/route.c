/* SPDX-License-Identifier: MIT
 * Where does each partition live?   route DIRECTORY PARTITION... */
#include <berth.h>
#include <stdio.h>
#include <string.h>

static const char *const kinds[] = {"none", "dedicated-cluster", "dedicated-index", "shared-index"};
static const char *const phases[] = {"settled", "draining", "cutover"};

int main(int argc, char **argv)
{
	struct berth *b = NULL;
	struct berth_reader *r = NULL;
	int rc;

	if (argc < 3) {
		fprintf(stderr, "usage: %s DIRECTORY PARTITION...\n", argv[0]);
		return 2;
	}
	rc = berth_attach(argv[1], NULL, &b); /* once in a process */
	if (rc == BERTH_OK)
		rc = berth_reader_open(b, &r); /* once in a thread */
	for (int i = 2; i < argc && rc == BERTH_OK; i++) {
		struct berth_route at;

		rc = berth_route(r, argv[i], strlen(argv[i]), &at);
		if (rc == BERTH_OK)
			printf("%s: cluster %u, %s, %s, epoch %llu%s\n", argv[i], at.cluster, kinds[at.kind],
			       phases[at.phase], (unsigned long long)at.epoch, at.is_default ? ", by default" : "");
		else
			fprintf(stderr, "%s: %s\n", argv[i], berth_strerror(rc));
	}
	if (rc != BERTH_OK && !r)
		fprintf(stderr, "%s: %s\n", argv[1], berth_strerror(rc));
	berth_reader_close(&r);
	berth_detach(&b);
	return rc == BERTH_OK ? 0 : 1;
}
