/* SPDX-License-Identifier: MIT
 * Cursor affinity as the control thread has it: when the cursor thread is started, who tells it of registrations and
 * clusters, what it says of itself. Off until the first process attaches with cursors: then there is no thread and no file.
 * Control thread only. */
#ifndef BERTH_WRITER_PINNING_H
#define BERTH_WRITER_PINNING_H

#include "cursors.h"
#include "server.h"

/* At the start, before anybody can connect: goes on with the pins of a writer before this one, if there are any. When that
 * fails it is logged, and placements are served without: no cluster is removed meanwhile (a pin may name it), nobody pins,
 * and it is tried again by pinning_again and by the next process that wants to. */
void pinning_open(struct server *);
void pinning_again(struct server *); /* each second */
void pinning_close(struct server *);
/* Somebody wants to pin: starts it unless it runs. R_FULL, R_BACKEND. */
enum refusal_code pinning_start(struct server *, struct refusal *);

/* A doorbell: bell[0] to be sent to the process, bell[1] for pinning_attach or pinning_reattach. R_LIMIT. */
enum refusal_code pinning_bell(int bell[2], struct refusal *);
/* Its process has made this registration, or has come back to it. Takes the bell over. */
void pinning_attach(struct server *, uint32_t slot, uint64_t attach, int bell);
void pinning_reattach(struct server *, uint32_t slot, int bell);

/* Doorbells that may be open at most. */
uint64_t pinning_bells(const struct server *);
/* False: off, and all is 0. */
bool pinning_stats(const struct server *, struct cursors_stats *);

#endif
