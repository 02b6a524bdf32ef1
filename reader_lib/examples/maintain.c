/* SPDX-License-Identifier: MIT
 * A proxy's loop: upkeep beside the requests. Looks the partition up a few times, and follows a daemon that comes, goes
 * or is replaced.   maintain DIRECTORY PARTITION [ROUNDS [PAUSE_MS]] */
#include <berth.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int main(int argc, char **argv)
{
	struct berth_attach_options options = {.size = sizeof options, .max_readers = 1, .wait_ms = 500};
	struct berth *b = NULL;
	struct berth_reader *r = NULL;
	int rounds = argc > 3 ? atoi(argv[3]) : 3, pause_ms = argc > 4 ? atoi(argv[4]) : 100;
	int rc;

	if (argc < 3) {
		fprintf(stderr, "usage: %s DIRECTORY PARTITION [ROUNDS [PAUSE_MS]]\n", argv[0]);
		return 2;
	}
	rc = berth_attach(argv[1], &options, &b);
	if (rc == BERTH_OK)
		rc = berth_reader_open(b, &r);
	for (int i = 0; i < rounds && rc == BERTH_OK; i++) {
		struct berth_route at;
		struct pollfd fd;
		int upkeep = berth_maintain(b); /* no failure: look-ups go on whatever it says */

		rc = berth_route(r, argv[2], strlen(argv[2]), &at);
		if (rc == BERTH_OK)
			printf("%s: cluster %u, epoch %llu; daemon: %s\n", argv[2], at.cluster,
			       (unsigned long long)at.epoch, berth_strerror(upkeep));
		fflush(stdout);
		fd = (struct pollfd){.fd = berth_maintain_fd(b), .events = POLLIN};
		poll(&fd, 1, pause_ms); /* with the proxy's own descriptors; at least once a second */
	}
	if (rc != BERTH_OK)
		fprintf(stderr, "%s\n", berth_strerror(rc));
	berth_reader_close(&r);
	berth_detach(&b);
	return rc == BERTH_OK ? 0 : 1;
}
