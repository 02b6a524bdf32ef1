/* SPDX-License-Identifier: MIT
 * berthd: the order of start and stop.
 *
 *   instance (lock) -> core (store, table, flip) -> pins -> sockets -> http -> document -> READY -> loop
 *   SIGTERM: sockets' names go -> what runs ends -> http -> core (checkpoint) -> lock
 *
 * The main thread is the control thread (server.h); the others are the cursor thread (cursors.h), the HTTP thread,
 * the mirror's (bpf/mirror_thread.c) and one that reads a document (load.c). */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>
#include <urcu/urcu-memb.h>

#include "../shm/crash_point.h"
#include "../shm/segment.h"
#include "control.h"
#include "http.h"
#include "load.h"
#include "log.h"
#include "notify.h"
#include "pinning.h"
#include "store.h"
#include "watch.h"

#define STUCK_MS 2000u /* at the stop, for a worker thread that reads from a dead file system */

/* Read by jemalloc when it starts. Locked memory cannot be given back page by page (madvise refuses it), only by
 * unmapping; what a large document took would stay for ever otherwise. One arena: a thread whose own one finds no memory
 * ends the process (jemalloc 5.3 goes on with a null pointer). */
__attribute__((visibility("default"))) extern const char *malloc_conf;
const char *malloc_conf = "retain:false,narenas:1";

/* Swapped-out pages would make a change wait for a disk. Only what is touched is locked; a limit that may be reached
 * later would turn into failing allocations, so it is all or nothing. */
static void lock_memory(void)
{
	struct rlimit limit;

	if (geteuid() != 0 && (getrlimit(RLIMIT_MEMLOCK, &limit) != 0 || limit.rlim_cur != RLIM_INFINITY))
		errno = EPERM;
	else if (mlockall(MCL_CURRENT | MCL_FUTURE | MCL_ONFAULT) == 0)
		return;
	log_event(LEVEL_WARN, "memory-not-locked", LOG_S("error", strerror(errno)),
		  LOG_S("do", "LimitMEMLOCK=infinity, or no swap"));
}

/* Gives what was abandoned the time to end. False when a worker thread does not. */
static bool loop_drain(struct server *s)
{
	uint64_t until = uv_hrtime() / 1000000 + STUCK_MS;
	const struct timespec nap = {.tv_nsec = 1000000};

	while (uv_run(&s->loop, UV_RUN_NOWAIT) != 0) {
		if (uv_hrtime() / 1000000 > until)
			return load_over(s);
		nanosleep(&nap, NULL);
	}
	return true;
}

/* Each registration that is taken over costs two descriptors, each connection one. */
static void raise_descriptors(struct server *s)
{
	struct rlimit files;

	if (getrlimit(RLIMIT_NOFILE, &files) != 0)
		return;
	files.rlim_cur = files.rlim_max;
	setrlimit(RLIMIT_NOFILE, &files);
	getrlimit(RLIMIT_NOFILE, &files);
	s->n_descriptors_max = files.rlim_cur;
}

static int serve(struct server *s, struct refusal *r)
{
	const struct options *o = s->options;
	const struct core_options core = {
		.store_url = o->store, .barrier_ms = o->barrier_ms, .new_directory = o->new_directory, .bpf = o->bpf};
	enum refusal_code code = core_open(&s->instance, &core, &s->core, r);
	bool over;
	int rc;

	if (code != R_DONE)
		return 1;
	if (seg_root_map(s->instance.dir_fd, &s->root) != BERTH_OK) {
		refuse(r, R_BACKEND, "%s/root cannot be mapped: free memory, then start again", s->instance.path);
		core_close(&s->core);
		return 1;
	}
	mirror_tell(s);
	pinning_open(s);
	code = control_open(s, r);
	rc = upkeep_open(s);
	if (code == R_DONE && rc != 0)
		code = refuse(r, R_BACKEND, "signals and timers: %s", uv_strerror(rc));
	if (code == R_DONE && o->http)
		code = http_open(s, o->http, r);
	if (code == R_DONE) {
		watch_open(s);
		lock_memory();
		if (o->document)
			load_document(s);
		else
			server_ready(s);
		uv_run(&s->loop, UV_RUN_DEFAULT);
	}
	s->stopping = true;
	load_finish(s);
	control_close(s);
	upkeep_close(s);
	http_close(s);
	pinning_close(s);
	over = loop_drain(s);
	core_close(&s->core);
	seg_root_unmap(&s->root);
	instance_close(&s->instance);
	if (!over) {
		log_event(LEVEL_WARN, "stopped",
			  LOG_S("message", "a document's file does not answer: its thread is left"));
		_exit(code != R_DONE);
	}
	uv_loop_close(&s->loop);
	return code != R_DONE;
}

/* What stands in options and only others can read. */
static bool options_fit(const struct options *o, struct refusal *r)
{
	const struct store_ops *ops;
	const char *argument;

	return store_find(o->store, &ops, &argument, r) == R_DONE && (!o->http || http_check(o->http, r) == R_DONE);
}

int main(int argc, char **argv)
{
	static struct options options;
	static struct server server;
	struct refusal r = {.code = R_DONE};
	int rc, status = 1;

	if (!options_parse(argc, argv, &options))
		return 2;
	if (options.help || options.version) {
		if (options.help)
			options_help(stdout);
		else
			puts("berthd " BERTH_VERSION);
		return fflush(stdout) != 0;
	}
	if (!options_fit(&options, &r)) {
		fprintf(stderr, "berthd: %s\n", r.message);
		return 2;
	}
	crash_points_open();
	log_open(options.log_level);
	signal(SIGPIPE, SIG_IGN);
	json_object_seed(0);
	urcu_memb_register_thread();
	server.options = &options;
	server.started_ms = uv_hrtime() / 1000000;
	rc = uv_loop_init(&server.loop);
	if (rc != 0)
		refuse(&r, R_BACKEND, "the event loop: %s", uv_strerror(rc));
	raise_descriptors(&server);
	if (rc == 0 &&
	    instance_open(options.where, options.table_dir, options.takeover, &server.instance, &r) == R_DONE) {
		server.instance.small_pages = options.no_huge_pages;
		status = serve(&server, &r);
	}
	if (r.code != R_DONE)
		log_event(LEVEL_ERROR, "start", LOG_S("code", refusal_name(r.code)), LOG_S("message", r.message));
	else
		log_event(LEVEL_INFO, "stopped", LOG_N("uptime_ms", uv_hrtime() / 1000000 - server.started_ms));
	urcu_memb_unregister_thread();
	return status;
}
