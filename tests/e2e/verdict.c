/* SPDX-License-Identifier: MIT
 * See verdict.h. Main thread, after the load and the clusters have ended. */
#include "verdict.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void verdict_read_logs(const struct place *p, struct history *h)
{
	for (unsigned k = 1; k <= p->n_clusters; k++) {
		char path[128], line[256];
		snprintf(path, sizeof(path), "%s/c%u.log", p->home, k);
		FILE *f = fopen(path, "re");
		if (!f && errno == ENOENT)
			continue; /* nothing was asked of it */
		while (f && fgets(line, sizeof(line), f)) {
			struct hist_effect e = {.cluster = (uint16_t)k};
			if (sscanf(line, "%" SCNu32 " %" SCNu64 " %" SCNu16 " %" SCNu64 " %" SCNu16 " %" SCNu64 "\n",
				   &e.partition, &e.sequence, &e.attempt, &e.epoch, &e.client, &e.at_ns) != 6)
				place_fail("%s has a line that is none of ours: %s", path, line);
			*history_effect(h) = e;
		}
		if (!f || ferror(f))
			place_fail("cannot read %s: %s", path, strerror(errno));
		fclose(f);
	}
}

bool verdict(struct history *h, struct move **moves, size_t n_moves, const char *prefix, struct check_report *r)
{
	const struct move *move = *moves;
	size_t undone = 0;

	for (size_t i = 0; i < n_moves; i++)
		undone += move[i].undone;
	check_history(h, r);
	printf("%swrites: %" PRIu64 " acknowledged, %" PRIu64 " refused (%" PRIu64
	       " writes repeated until they were not), %" PRIu64 " of unknown outcome (%" PRIu64 " happened), %" PRIu64
	       " effects after the answer; sent at most %u times; reads: %" PRIu64 "\n",
	       prefix, r->n_acknowledged, r->n_refused, r->n_repeated, r->n_unknown, r->n_unknown_happened, r->n_late,
	       r->most_tries, r->n_reads);
	printf("%smigrations: %zu completed, %zu undone in the cutover; writes were held back for p50 %.1f, p99 %.1f, "
	       "at most "
	       "%.1f ms\n",
	       prefix, n_moves - undone, undone, moves_held_ms(move, n_moves, 50), moves_held_ms(move, n_moves, 99),
	       moves_held_ms(move, n_moves, 100));
	for (unsigned i = 0; i < r->n_texts; i++)
		printf("%sFAULT %s\n", prefix, r->text[i]);
	if (r->n_faults)
		for (unsigned i = 0; i < CHECK_N; i++)
			if (r->by_rule[i])
				printf("%sFAULTS %s: %" PRIu64 "\n", prefix, check_rule_name(i), r->by_rule[i]);
	history_free(h);
	free(*moves);
	*moves = NULL;
	return r->n_faults == 0;
}
