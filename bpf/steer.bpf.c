/* SPDX-License-Identifier: MIT
 * steer: an XDP program that says of each packet in which an HTTP/1.x request begins on which cluster its tenant is, and
 * counts packets, bytes and requests by cluster and phase. The answer goes along as metadata (struct steer_meta,
 * config.h) for a TC program, a later XDP program or an AF_XDP socket; steer_mark, a TC program, makes skb->mark of it.
 * Loaded and attached by programs.c; its configuration is set before that.
 *
 * With `gate`, a segment that begins a write of a partition in cutover is dropped, so that TCP sends it again when the
 * cutover may be over. That is no write gate: what passes meets the proxy's own, and what it says alone counts. So steer
 * does not set control.gated, and needs no lease.
 *
 * What is a write is judged by the method, and for POST and DELETE by the path: a search is a read, and is never held
 * (http.bpf.h has the rules).
 *
 * A segment in the middle of a body may look like a request: then its sender is counted, marked, or held up, by its own
 * doing. A request that does not begin at the start of a segment (pipelined behind another) is not seen. Packets with
 * unequal metadata are not merged by GRO.
 *
 * Uses nothing newer than Linux 5.15, bpf_loop neither. */
#define BERTH_USE_STATS
#define BERTH_USE_EVENTS
#include "tenant.bpf.h"

#include <linux/pkt_cls.h>

struct steer_request {
	struct berth_key key;
	__u32 write;
};

/* The tenant of the request that begins at `at`. 0, or an enum mirror_event. */
static __always_inline int tenant_of(struct xdp_md *ctx, __u32 at, __u32 end, struct steer_request *r)
{
	struct http_line line;
	int code = http_request_line(ctx, at, end, &line);

	if (code)
		return code;
	if (steer_config.mode == STEER_SEGMENT) {
		code = http_segment(ctx, line.target, end, &r->key);
	} else {
		code = http_field(ctx, line.next, end);
		code = code < 0 ? -code : http_value(ctx, code, end, &r->key);
	}
	if (code)
		return code;
	r->write = line.write && !(line.unsure && http_is_search(ctx, line.target, end));
	return 0;
}

static __always_inline void hand_on(struct xdp_md *ctx, const struct berth_answer *a)
{
	struct steer_meta *meta;

	if (bpf_xdp_adjust_meta(ctx, -(int)sizeof *meta)) {
		berth_event(MIRROR_EVENT_NO_META);
		return;
	}
	meta = (void *)(long)ctx->data_meta;
	if ((void *)(meta + 1) > (void *)(long)ctx->data)
		return;
	meta->epoch = a->epoch;
	meta->cluster = a->cluster;
	meta->magic = STEER_META_MAGIC;
	meta->phase = a->phase;
	meta->kind = a->kind | (a->is_default ? STEER_META_DEFAULT : 0);
}

static __always_inline int passed_over(__u32 event)
{
	berth_event(event);
	return XDP_PASS;
}

SEC("xdp")
int steer(struct xdp_md *ctx)
{
	struct steer_request r;
	struct mirror_counts *counts;
	struct berth_answer a;
	struct packet p;
	__u32 event, end;

	berth_event(MIRROR_EVENT_PACKETS);
	if (!packet_payload(ctx, &p) || (steer_config.port && p.port != steer_config.port))
		return passed_over(MIRROR_EVENT_NOT_HTTP);
	end = p.end < p.at + HTTP_WINDOW ? p.end : p.at + HTTP_WINDOW;
	event = tenant_of(ctx, p.at, end, &r);
	if (event)
		return passed_over(event);
	if (berth_lookup(&r.key, &a) != BERTH_BPF_OK)
		return passed_over(a.why);
	counts = berth_counts(&a);
	if (!counts)
		return XDP_PASS;
	counts->packets++; /* one that is held is counted again when it comes again; requests and writes are those that passed */
	counts->bytes += ctx->data_end - ctx->data;
	if (steer_config.gate && r.write && a.phase == 2) {
		counts->held++;
		return XDP_DROP;
	}
	counts->requests++;
	counts->writes += r.write;
	hand_on(ctx, &a);
	return XDP_PASS;
}

/* After steer, on the same device's ingress: skb->mark of what it handed on. Goes on to the next filter. */
SEC("tc")
int steer_mark(struct __sk_buff *skb)
{
	const struct steer_meta *meta = (void *)(long)skb->data_meta;

	if ((const void *)(meta + 1) <= (void *)(long)skb->data && meta->magic == STEER_META_MAGIC)
		skb->mark = STEER_MARK(meta->cluster, meta->phase);
	return TC_ACT_UNSPEC;
}

char LICENSE[] SEC("license") = "Dual MIT/GPL";
