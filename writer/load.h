/* SPDX-License-Identifier: MIT
 * Applying a placement document while the sockets are being served: read and parsed on a thread of its own,
 * then applied by the control thread in slices (core_load_step). One at a time.
 *
 *   load_begin -> worker: read, parse -> control: core_load_start -> core_load_step … -> answer, or a line in the log
 *
 * Control thread only, but for the worker's function. */
#ifndef BERTH_WRITER_LOAD_H
#define BERTH_WRITER_LOAD_H

#include "server.h"

#define LOAD_BYTES_MAX (2ull << 30)

struct load;

/* The file of --document, at the start and at SIGHUP; the outcome is logged. When it comes to its end before the daemon
 * is ready, the daemon is. */
void load_document(struct server *);
/* One slice of the document that is being applied, if any. True when there is more. */
bool load_step(struct server *);
/* Whoever waits for it is gone: it ends soon, and what is not committed yet is undone. */
void load_abandon(struct load *);
/* At a stop, before the connections are closed: what is being applied gets some seconds to come to its end, what is
 * being read is given up. */
void load_finish(struct server *);
/* At the end of the process: false while a worker thread is still in it. */
bool load_over(const struct server *);

#endif
