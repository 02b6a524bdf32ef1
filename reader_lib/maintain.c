/* SPDX-License-Identifier: MIT
 * Upkeep: keeping this process registered with whichever writer there is, noticing that the instance has been replaced,
 * mapping new generations ahead of the readers. Run by berth_attach, then by the one thread that calls berth_maintain;
 * does not wait, and never touches a reader: those follow by themselves (reader.c).
 *
 *   no registration:  CLOSED -- attach -----> ATTACHING ---- result ----> UP (new attachment published)
 *   registration:     CLOSED -- reattach ---> REATTACHING -- result ----> UP
 *                        ^                        | unknown there: publish one without, attach anew
 *                        +------- socket closed, refused, nobody there: again later
 *
 * A registration outlives the writer, and its sections and gate go on without one: a closed socket alone changes
 * nothing for readers. */
#include <errno.h>
#include <stdio.h>
#include <time.h>
#include <unistd.h>

#include "internal.h"

#define RETRY_BACKLOG_MS 5 /* the writer is there, its queue is full */
#define RETRY_DOWN_MS 100  /* nobody there: a connect costs little */
#define RETRY_REFUSED_MS 1000
#define INSPECT_MS 1000
#define LATE_NS 5000000000u /* from a request to its answer */

static uint64_t now_ms(void)
{
	return seg_clock_ms(CLOCK_MONOTONIC);
}

void bl_retired_sweep(struct berth *b)
{
	struct attachment **at = &b->retired;

	while (*at) {
		struct attachment *old = *at;

		/* The one count is the list's: no reader is on it, so no write begins there. Acquire: pairs with the
		 * count that the last reader gave back. */
		if (atomic_load_explicit(&old->users, memory_order_acquire) > 1 || bl_leases_open(old)) {
			at = &old->retired;
			continue;
		}
		*at = old->retired;
		bl_attachment_put(old);
	}
}

/* Readers follow at their next outermost section. Takes over the caller's count. */
void bl_publish(struct berth *b, struct attachment *at)
{
	struct attachment *old;

	bl_lock_take(&b->locked);
	old = b->now;
	b->now = at;
	atomic_store_explicit(&old->abandoned, true, memory_order_relaxed);
	/* Who sees the new number takes the lock before it looks at `now`. Release: pairs with at_abandoned, for who goes
	 * on with the old one. */
	atomic_store_explicit(b->page, atomic_load_explicit(b->page, memory_order_relaxed) + 1, memory_order_release);
	bl_lock_release(&b->locked);
	if (old->pools) { /* writes that began on it end on it */
		old->retired = b->retired;
		b->retired = old;
	} else {
		bl_attachment_put(old);
	}
}

static int link_failed(struct berth *b, int rc)
{
	bl_connection_close(&b->conn);
	b->retry_ms = now_ms() + (rc == BERTH_E_AGAIN         ? RETRY_BACKLOG_MS
				  : rc == BERTH_E_WRITER_DOWN ? RETRY_DOWN_MS
							      : RETRY_REFUSED_MS);
	b->link_status = rc;
	return rc;
}

static bool must_fence(const struct berth *b, const struct shm_root *root)
{
	return !b->membarrier ||
	       atomic_load_explicit(&root->membarrier_mode, memory_order_relaxed) == SHM_MEMBARRIER_NONE;
}

static int ask(struct berth *b)
{
	struct connection *c = &b->conn;
	const struct attachment *at = b->now;
	static const char *const writes[] = {"unbracketed", "bracketed", "none"}; /* enum berth_writes */
	char line[400], leases[32] = "";
	int n, rc;

	c->monotonic_ns = seg_clock_ns(CLOCK_MONOTONIC);
	c->boottime_ns = seg_clock_ns(CLOCK_BOOTTIME);
	c->fences = must_fence(b, at->root);
	if (b->max_leases)
		snprintf(leases, sizeof leases, "\"leases\":%u,", b->max_leases);
	if (at->reg)
		n = snprintf(line, sizeof line,
			     "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"reattach\",\"params\":"
			     "{\"slot\":%u,\"attach\":%llu,\"pid\":%ld,\"monotonic_ns\":%llu,\"boottime_ns\":%llu}}\n",
			     at->slot, (unsigned long long)at->number, (long)getpid(),
			     (unsigned long long)c->monotonic_ns, (unsigned long long)c->boottime_ns);
	else
		n = snprintf(line, sizeof line,
			     "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"attach\",\"params\":"
			     "{\"version\":1,\"pid\":%ld,\"readers\":%u,\"writes\":\"%s\",%s%s\"fences\":%s,"
			     "\"monotonic_ns\":%llu,\"boottime_ns\":%llu}}\n",
			     (long)getpid(), b->max_readers, writes[b->writes], leases,
			     b->cursors == BERTH_CURSORS_PIN ? "\"cursors\":true," : "", c->fences ? "true" : "false",
			     (unsigned long long)c->monotonic_ns, (unsigned long long)c->boottime_ns);
	rc = bl_connection_request(c, at->dir_fd, b->path, line, (size_t)n);
	if (rc == BERTH_OK)
		c->state = at->reg ? CONN_REATTACHING : CONN_ATTACHING;
	return rc;
}

/* Another view of the same directory: what is published is never changed. */
static int registered(struct berth *b)
{
	struct attachment *at;
	int rc = bl_attachment_open(NULL, b->now->dir_fd, &at);

	if (rc != BERTH_OK)
		return rc;
	rc = bl_attachment_register(at, &b->conn, b, b->conn.fences || must_fence(b, at->root));
	if (rc != BERTH_OK) {
		bl_attachment_put(at);
		return rc;
	}
	bl_publish(b, at);
	return BERTH_OK;
}

/* The writer does not know our registration any more, so it does not look at its lines: readers copy from here on, and
 * the gate is closed, until there is a new one. */
static int unregistered(struct berth *b)
{
	struct attachment *at;
	int rc = bl_attachment_open(NULL, b->now->dir_fd, &at);

	if (rc != BERTH_OK)
		return rc;
	bl_publish(b, at);
	return BERTH_OK;
}

/* BERTH_OK: up. BERTH_E_AGAIN: to be asked anew, at once. */
static int answered(struct berth *b)
{
	struct connection *c = &b->conn;
	bool gone, late, again = c->state == CONN_REATTACHING;
	int rc = bl_answer_parse(c->line, &gone);

	/* The writer may have read the request so late that our clocks in it were old. */
	late = rc == BERTH_E_CLOCK && seg_clock_ns(CLOCK_MONOTONIC) - c->monotonic_ns > LATE_NS;
	if (again && late && !b->doubted) {
		b->doubted = true;
		bl_connection_close(c);
		return BERTH_E_AGAIN;
	}
	b->doubted = false;
	if (again && (gone || rc == BERTH_E_CLOCK)) { /* a writer that misreads our times must not be admitted by */
		int closed = unregistered(b);

		if (closed != BERTH_OK || !gone)
			return closed != BERTH_OK ? closed : rc;
		bl_connection_close(c);
		return BERTH_E_AGAIN;
	}
	if (rc == BERTH_OK && !again)
		rc = registered(b);
	if (rc != BERTH_OK)
		return rc;
	if (again && b->now->n_rings) {
		rc = bl_attachment_doorbell(b->now, c);
		if (rc != BERTH_OK)
			return rc;
	}
	bl_connection_drop_passed(c); /* the registration's mapping stays; nobody else may come to hold the file open */
	c->n = 0;
	c->state = CONN_UP;
	return BERTH_OK;
}

/* As far as it goes without waiting. BERTH_OK: registered, the socket stands. BERTH_E_AGAIN: the answer is to come, or
 * the writer's queue is full. BERTH_E_WRITER_DOWN. Others: refused, or not to be understood. */
int bl_link_step(struct berth *b)
{
	struct connection *c = &b->conn;
	int rc;

	for (unsigned rounds = 0; rounds < 4; rounds++) {
		if (c->state == CONN_CLOSED) {
			if (now_ms() < b->retry_ms)
				return b->link_status;
			rc = ask(b);
			if (rc != BERTH_OK)
				return link_failed(b, rc);
		}
		rc = bl_connection_receive(c);
		if (rc == 0)
			return c->state == CONN_UP ? BERTH_OK : BERTH_E_AGAIN;
		if (rc == 1)
			rc = answered(b);
		else if (c->state == CONN_UP) { /* a new writer may be there already */
			bl_connection_close(c);
			b->retry_ms = 0;
			continue;
		}
		if (rc != BERTH_OK && rc != BERTH_E_AGAIN)
			return link_failed(b, rc);
	}
	return BERTH_E_AGAIN;
}

/* Is the root that readers use still the instance's? Asked only when its heart does not beat. */
static int inspect(struct berth *b)
{
	const struct attachment *now = b->now;
	uint64_t beat = atomic_load_explicit(&now->root->heartbeat_ms, memory_order_relaxed);
	uint64_t clock = seg_clock_ms(CLOCK_BOOTTIME);
	bool superseded = atomic_load_explicit(&now->root->superseded, memory_order_relaxed) != 0;
	struct attachment *at;
	int rc;

	if (!superseded && beat <= clock + HEARTBEAT_OLD_MS && beat + HEARTBEAT_OLD_MS >= clock)
		return BERTH_OK;
	if (now_ms() < b->inspect_ms)
		return b->inspect_status;
	b->inspect_ms = now_ms() + INSPECT_MS;
	if (!superseded && !bl_attachment_root_changed(now))
		return BERTH_OK;
	rc = bl_attachment_open(b->path, -1, &at);
	if (rc != BERTH_OK && !superseded)
		rc = bl_attachment_open(NULL, now->dir_fd, &at); /* chroot: the path is out of reach */
	if (rc != BERTH_OK)
		return rc;
	if (at->root_ino == now->root_ino && at->root_dev == now->root_dev) { /* the new one is not there yet */
		bl_attachment_put(at);
		return superseded ? BERTH_E_WRITER_DOWN : BERTH_OK;
	}
	bl_connection_close(&b->conn);
	b->retry_ms = 0;
	bl_publish(b, at);
	return BERTH_OK;
}

int berth_maintain(struct berth *b)
{
	int link, ahead;

	if (!b)
		return BERTH_E_INVAL;
	if (forked(b->page))
		return BERTH_E_FORKED;
	b->inspect_status = inspect(b);
	link = bl_link_step(b);
	ahead = bl_mapping_ahead(b->now);
	bl_pins_ahead(b->now);
	bl_retired_sweep(b);
	if (b->inspect_status != BERTH_OK)
		return b->inspect_status;
	if (link != BERTH_OK)
		return link == BERTH_E_AGAIN ? BERTH_E_WRITER_DOWN : link;
	return ahead;
}

int berth_maintain_fd(struct berth *b)
{
	return !b || forked(b->page) ? -1 : b->conn.fd;
}
