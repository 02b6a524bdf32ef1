/* SPDX-License-Identifier: MIT
 * The program steer in a test: loaded with one configuration on the mirror of a real berthd, run on single frames
 * (BPF_PROG_TEST_RUN), and compared each time with what the oracle makes of the frame and the mirror of the tenant. */
#ifndef BERTH_TESTS_PACKET_STEER_H
#define BERTH_TESTS_PACKET_STEER_H

#include "../bpf/config.h"
#include "bpf_place.h"
#include "packet_frame.h"
#include "packet_oracle.h"

struct bpf_object;

struct steer_place {
	struct bpf_place bpf;
	struct bpf_view view;
	struct wire admin;
	int events_fd, stats_fd;
	struct steer *steers; /* those that are open */
};
/* For the setup of tests, whose state it becomes, alone or as a struct's first member: a daemon with clusters c1 to c4 and no
 * partition. False when BPF does not work here: then nothing is there. */
bool steer_place_open(struct steer_place *, void **state);
/* Its teardown: the end of all, and of what is open on it. */
int steer_place_close(void **state);
/* The first line of a test: ends it with SKIP when BPF does not work here; the state. */
void *steer_needed(void **state);
/* A partition in a phase (shm/word.h); its cluster is one of the four. */
void steer_put(struct steer_place *, const char *partition, const char *cluster, unsigned phase);

struct steer {
	struct steer_place *place;
	struct steer *next; /* of the place's */
	struct bpf_object *object;
	int fd, mark_fd;
	struct oracle oracle;
	bool gate;
};
void steer_open(struct steer *, struct steer_place *, const struct oracle *, bool gate);
void steer_close(struct steer *);

struct steer_seen {
	unsigned action; /* XDP_PASS or XDP_DROP */
	int event;       /* that was counted besides the packet; -1: none */
	bool has_meta;
	struct steer_meta meta;
};
/* One run. The test fails with the frame and both judgements when the oracle sees it in another way. */
struct steer_seen steer_run(struct steer *, const unsigned char *frame, size_t len);
/* The same of a request in a frame of this shape (NULL: plain). */
struct steer_seen steer_request(struct steer *, const struct shape *, const char *request);

/* The test fails unless the request is handed on with this tenant's entry (NULL: the default's). */
void steer_expect(struct steer *, const struct shape *, const char *request, const char *tenant);
/* ... unless it passes with this event and nothing else. */
void steer_expect_event(struct steer *, const struct shape *, const char *request, enum mirror_event);

/* Sums over processors. */
struct mirror_counts steer_counts(const struct steer_place *, unsigned cluster, unsigned phase);
uint64_t steer_events(const struct steer_place *, enum mirror_event);

#endif
