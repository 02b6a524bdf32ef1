/* SPDX-License-Identifier: MIT
 * libFuzzer target for what packet programs make of bytes from outside: steer.bpf.c whole (packet, window, http and
 * tenant.bpf.h) and the framing of splice (message.bpf.h), compiled for user space. Whatever the bytes are, there is no
 * look outside of them, and steer says what a plain parser says (packet_oracle.h); a head that splice would forward is
 * the same head, body and tenant to a plain reader, and a plain message is forwarded. One thread; keeps nothing.
 *
 * First byte of the input, by its remainder of 4, what follows it:
 *   0  a frame                     1  a payload in a frame of its own
 *   2  a request before splice     3  an answer */
#include <sanitizer/asan_interface.h>
#include <stdbool.h>
#include <strings.h>
#include <sys/mman.h>
#include <unistd.h>

#include "../shm/hash.h"
#include "fuzz.h"
#include "packet_frame.h"
#include "packet_oracle.h"

#include "bpf_user.h"

#include "../bpf/steer.bpf.c"

#include "../bpf/message.bpf.h"
BPF_USER_END;
#undef asm
#undef volatile

#define HEADROOM 32u

/* ---- configurations: read-only to the programs ------------------------------------------------------------------- */

static void configure(const volatile void *at, const void *from, size_t size)
{
	uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE), begin = (uintptr_t)at & ~(page - 1),
		  end = ((uintptr_t)at + size + page - 1) & ~(page - 1);
	static bool writable[2];
	bool *done = &writable[at == &splice_config];

	if (!*done)
		HOLDS(mprotect((void *)begin, end - begin, PROT_READ | PROT_WRITE) == 0);
	*done = true;
	memcpy((void *)(uintptr_t)at, from, size);
}

static const struct oracle oracles[] = {{.header = "X-Partition"},
					{.header = "X-T"},
					{.segment = 1},
					{.segment = 2},
					{.segment = 3},
					{.segment = 1, .port = 80},
					{.header = "X-A-Name-That-Fills-32-Bytes-OK!"}};
#define N_ORACLES (sizeof(oracles) / sizeof(oracles[0]))

static struct steer_config config_of(const struct oracle *o, bool gate)
{
	struct steer_config c = {.mode = STEER_SEGMENT, .segment = o->segment};

	if (o->header)
		HOLDS(steer_config_header(&c, o->header) == 0);
	c.port = o->port;
	c.gate = gate;
	return c;
}

/* ---- a mirror ----------------------------------------------------------------------------------------------------- */

#define CAPACITY 16u
#define N_SLOTS (CAPACITY + 24u)
#define DEFAULT_WORD (7ull << 21 | 9u << 5 | 2u << 2)

static const char *const tenants[] = {"a",
				      "t1",
				      "abc",
				      "seven-7",
				      "eight--8",
				      "sixteen-bytes-16",
				      "seventeen-bytes-1",
				      "twenty-four-bytes-long-24",
				      "thirty-three-bytes-thirty-three-b",
				      "thirty-nine-bytes-is-the-longest-inline"};
#define N_TENANTS (sizeof(tenants) / sizeof(tenants[0]))

static const unsigned long long secret[4] = {0x9e3779b97f4a7c15, 0xbf58476d1ce4e5b9, 0x94d049bb133111eb,
					     0x2545f4914f6cdd1d};
static struct mirror_control control;
static struct mirror_entry inner[1 + N_SLOTS], intact[1 + N_SLOTS];
static struct mirror_counts counts[MIRROR_STATS];
static __u64 events[MIRROR_EVENTS];

static __u64 word_of(unsigned tenant)
{
	return (tenant + 100ull) << 21 | (tenant + 1u) << 5 | (1 + tenant % 3) << 2 | tenant % 3;
}

static void make_mirror(void)
{
	struct mirror_head *head = (struct mirror_head *)(void *)intact;

	memcpy(control.secret, secret, sizeof(secret));
	control.state = 1ull << 32 | 1;
	head->capacity = CAPACITY;
	head->n_entries = N_SLOTS;
	for (unsigned i = 0; i < N_TENANTS; i++) {
		size_t len = strlen(tenants[i]);
		uint64_t hash = hash_key((const uint64_t *)secret, tenants[i], len);
		__u32 home = (__u32)((hash >> 32) * CAPACITY >> 32), slot = home;

		while (intact[1 + slot].word)
			slot++;
		if (slot - home > head->longest_probe)
			head->longest_probe = slot - home;
		memcpy(intact[1 + slot].key, tenants[i], len);
		intact[1 + slot].len = (__u8)len;
		intact[1 + slot].hash = hash;
		intact[1 + slot].word = word_of(i);
	}
}

void *user_map_lookup(const void *map, const void *key)
{
	__u32 at;

	memcpy(&at, key, sizeof(at));
	if (map == &berth_control)
		return at == 0 ? &control : NULL;
	if (map == &berth_table)
		return at == 0 ? inner : NULL;
	if (map == inner)
		return at < 1 + N_SLOTS ? &inner[at] : NULL;
	if (map == &berth_stats)
		return at < MIRROR_STATS ? &counts[at] : NULL;
	HOLDS(map == &berth_events);
	return at < MIRROR_EVENTS ? &events[at] : NULL;
}

/* ---- steer -------------------------------------------------------------------------------------------------------- */

static int event_of(void)
{
	HOLDS(events[MIRROR_EVENT_PACKETS] == 1);
	for (int e = 1; e < MIRROR_EVENTS; e++)
		if (events[e])
			return e;
	return -1;
}

/* What a steered packet carries, or why it has none. */
static void judge(const struct oracle_answer *o, int action, bool gate, bool meta_room, bool dflt,
		  const struct steer_meta *meta, size_t len)
{
	__u64 word = 0;
	unsigned cluster, phase;

	for (unsigned i = 0; o->event < 0 && i < N_TENANTS; i++)
		if (strlen(tenants[i]) == o->len && memcmp(tenants[i], o->tenant, o->len) == 0)
			word = word_of(i);
	if (o->event >= 0 || (!word && !dflt)) {
		HOLDS(action == XDP_PASS && !meta);
		HOLDS(event_of() == (o->event >= 0 ? o->event : (int)MIRROR_EVENT_UNKNOWN));
		return;
	}
	if (!word)
		word = DEFAULT_WORD;
	cluster = word >> 5 & 0xffff;
	phase = word & 3;
	HOLDS(counts[cluster * MIRROR_PHASES + phase].packets == 1);
	HOLDS(counts[cluster * MIRROR_PHASES + phase].bytes == len);
	if (gate && o->write && phase == 2) {
		HOLDS(action == XDP_DROP && !meta);
		return;
	}
	HOLDS(action == XDP_PASS && counts[cluster * MIRROR_PHASES + phase].writes == o->write);
	HOLDS(!!meta == meta_room && event_of() == (meta_room ? -1 : (int)MIRROR_EVENT_NO_META));
	if (meta)
		HOLDS(meta->magic == STEER_META_MAGIC && meta->cluster == cluster && meta->phase == phase &&
		      meta->epoch == word >> 21);
}

/* how: which configuration, and 64 with a gate, 32 without a default, 16 without room for metadata, 8 a mirror with the
 * garbage that stands at the front of the frame. */
static void steer_frame(unsigned how, const unsigned char *frame, size_t len)
{
	const struct oracle *o = &oracles[how % 8 % N_ORACLES];
	struct steer_config c = config_of(o, how & 64);
	unsigned char *room = malloc(HEADROOM + len);
	struct xdp_md ctx = {.headroom = how & 16 ? 0 : HEADROOM};
	struct oracle_answer answer = oracle_frame(o, frame, len);
	const struct steer_meta *meta;
	int action;

	HOLDS(room);
	memcpy(room + HEADROOM, frame, len);
	memcpy(inner, intact, sizeof(inner));
	((struct mirror_head *)(void *)inner)->dflt = how & 32 ? 0 : DEFAULT_WORD;
	if (how & 8 && len)
		memcpy((unsigned char *)inner + frame[0] * 8 % sizeof(inner), frame,
		       len < 64 ? len : sizeof(struct mirror_entry));
	memset(counts, 0, sizeof(counts));
	memset(events, 0, sizeof(events));
	configure(&steer_config, &c, sizeof(c));
	ctx.data = ctx.data_meta = (unsigned long)(room + HEADROOM);
	ctx.data_end = ctx.data + len;
	/* what is before the frame is not the program's, until it has asked for metadata */
	ASAN_POISON_MEMORY_REGION(room, HEADROOM - sizeof(struct steer_meta));
	action = steer(&ctx);
	meta = ctx.data_meta < ctx.data ? (const void *)ctx.data_meta : NULL;
	if (!(how & 8))
		judge(&answer, action, how & 64, !(how & 16), !(how & 32), meta, len);
	else
		HOLDS(action == XDP_PASS || (action == XDP_DROP && how & 64));
	HOLDS(memcmp(room + HEADROOM, frame, len) == 0);
	if (answer.event < 0) { /* the hash of whole words is that of the table */
		char padded[BERTH_KEY_ROOM] = {0};
		struct berth_key key;

		memcpy(padded, answer.tenant, answer.len);
		berth_key_set(&key, padded, (__u32)answer.len);
		HOLDS(berth_hash_words(secret, &key) == hash_key((const uint64_t *)secret, answer.tenant, answer.len));
	}
	ASAN_UNPOISON_MEMORY_REGION(room, HEADROOM);
	free(room);
}

static void steer_payload(unsigned how, struct fuzz_input *in)
{
	static const char *const extensions[] = {"", "h", "rd", "f"};
	unsigned shaped = fuzz_u8(in);
	struct shape shape = {.port = 80};
	struct frame f;

	if (shaped)
		shape = (struct shape){.vlans = shaped & 3,
				       .ip6 = shaped & 4,
				       .ip_options = shaped >> 4 & 4,
				       .extensions = extensions[shaped >> 5 & 3],
				       .tcp_options = shaped >> 3 & 4,
				       .padding = shaped >> 7,
				       .port = 80};
	frame_make(&f, &shape, in->at, in->left < 2048 ? in->left : 2048);
	steer_frame(how, f.bytes, f.len);
}

/* ---- splice: what a plain reader makes of a head ------------------------------------------------------------------ */

struct plain {
	size_t end;       /* of the head; 0: there is none */
	size_t first_end; /* of the first line, without its CR LF */
	bool strict;      /* CR and LF come together, and no line begins with what is no letter or digit of a name */
	unsigned lengths; /* fields that are Content-Length */
	bool number;      /* ... and its value is digits */
	uint64_t length;  /* its value */
	bool special;     /* a field that splice does not forward, or may take for one of these */
	const unsigned char *value; /* of the tenant's field */
	size_t value_len;           /* blanks around it included */
	unsigned named;             /* how often */
};

static bool begins(const unsigned char *line, size_t len, const char *text)
{
	return len >= strlen(text) && strncasecmp((const char *)line, text, strlen(text)) == 0;
}

static void plain_field(struct plain *p, const unsigned char *line, size_t len, const char *header)
{
	if (begins(line, len, "content-length:")) {
		const unsigned char *at = line + 15, *end = line + len;
		size_t digits = 0;

		while (at < end && *at == ' ')
			at++;
		for (p->length = 0; at < end && *at >= '0' && *at <= '9'; at++, digits++)
			p->length = p->length > UINT64_MAX / 100 ? p->length : p->length * 10 + (*at - '0');
		while (at < end && *at == ' ')
			at++;
		p->number = digits && at == end;
		if (len > 15 + 20 || digits > 15)
			p->special = true;
		p->lengths++;
	} else if (begins(line, len, "content-length") || begins(line, len, "transfer") ||
		   begins(line, len, "upgrade") || begins(line, len, "expect") || begins(line, len, "connecti") ||
		   begins(line, len, "x-http-m") || begins(line, len, "x-method")) {
		p->special = true;
	}
	if (header && begins(line, len, header) && len > strlen(header) && line[strlen(header)] == ':') {
		p->value = line + strlen(header) + 1;
		p->value_len = len - strlen(header) - 1;
		p->named++;
	}
}

static struct plain plain_head(const unsigned char *b, size_t len, const char *header)
{
	struct plain p = {.strict = true};
	size_t begin = 0;

	for (size_t i = 0; i < len; i++) {
		bool cr = i && b[i - 1] == '\r', lf = b[i] == '\n';

		if (cr != lf) {
			p.strict = false;
			return p;
		}
		if (!lf)
			continue;
		if (begin == 0) {
			p.first_end = i - 1;
		} else if (i == begin + 1) {
			p.end = i + 1;
			return p;
		} else {
			if (b[begin] <= ' ' || b[begin] >= 0x7f)
				p.strict = false;
			plain_field(&p, b + begin, i - 1 - begin, header);
		}
		begin = i + 1;
	}
	return p;
}

static void tenant_is(const struct message *m, const unsigned char *value, size_t len)
{
	const unsigned char *end = value + len;

	while (value < end && (*value == ' ' || *value == '\t'))
		value++;
	while (end > value && (end[-1] == ' ' || end[-1] == '\t'))
		end--;
	HOLDS(m->flags & MESSAGE_TENANT);
	if (end == value || end - value > (long)MIRROR_KEY_MAX || len >= MESSAGE_VALUE)
		HOLDS(m->tenant_len > MIRROR_KEY_MAX || (size_t)(end - value) == m->tenant_len);
	else
		HOLDS(m->tenant_len == (size_t)(end - value));
	if (m->tenant_len <= MIRROR_KEY_MAX)
		HOLDS(memcmp(m->tenant, value, m->tenant_len) == 0);
}

/* The path's segment of this number; false: the path ends before it. */
static bool plain_segment(const unsigned char *at, const unsigned char *end, unsigned number,
			  const unsigned char **from, size_t *len)
{
	const unsigned char *query = memchr(at, '?', (size_t)(end - at));

	if (query)
		end = query;
	for (unsigned n = 0; at < end; at++) {
		n += *at == '/';
		if (n != number)
			continue;
		*from = ++at;
		while (at < end && *at != '/')
			at++;
		*len = (size_t)(at - *from);
		return true;
	}
	return false;
}

static void judge_request(const struct message *m, const struct plain *p, const unsigned char *b,
			  const struct oracle *o)
{
	static const char *const methods[] = {"GET", "HEAD", "OPTIONS", "POST", "PUT", "DELETE", "PATCH"};
	const unsigned char *target, *end, *segment;
	size_t method = 0, len;

	while (method < p->first_end && b[method] != ' ')
		method++;
	len = 0;
	for (unsigned i = 0; i < sizeof(methods) / sizeof(methods[0]); i++)
		if (strlen(methods[i]) == method && memcmp(methods[i], b, method) == 0) {
			len = method;
			HOLDS(!(m->flags & MESSAGE_WRITE) == (i < 3));
			HOLDS(!(m->flags & MESSAGE_HEAD) == (i != 1));
		}
	HOLDS(len);
	/* one blank, a target without any, one blank, the version */
	target = b + method + 1;
	end = b + p->first_end - 9;
	HOLDS(end > target && memcmp(end, " HTTP/1.1", 9) == 0);
	if (m->flags & MESSAGE_ELSEWHERE)
		return;
	for (const unsigned char *c = target; c < end; c++)
		HOLDS(*c > ' ' && *c < 0x7f && *c != '#');
	HOLDS(*target == '/');
	if (o->header) {
		HOLDS(p->named <= 1 && !(m->flags & MESSAGE_TENANT) == !p->named);
		if (p->named)
			tenant_is(m, p->value, p->value_len);
	} else if (plain_segment(target, end, o->segment, &segment, &len)) {
		HOLDS(memchr(segment, '%', len) == NULL);
		tenant_is(m, segment, len);
	} else {
		HOLDS(m->flags & MESSAGE_TENANT && m->tenant_len > MIRROR_KEY_MAX);
	}
}

static void judge_status(const struct message *m, const struct plain *p, const unsigned char *b)
{
	HOLDS(p->first_end >= 12 && memcmp(b, "HTTP/1.1 ", 9) == 0 && b[12] == ' ');
	HOLDS(b[9] >= '2' && b[9] <= '5');
	for (unsigned i = 10; i < 12; i++)
		HOLDS(b[i] >= '0' && b[i] <= '9');
	HOLDS(m->status == (b[9] - '0') * 100u + (b[10] - '0') * 10u + (b[11] - '0'));
}

static bool plain_get(const unsigned char *b, size_t len)
{
	if (len < 14 || len > 1000 || memcmp(b, "GET /", 5) != 0 || memcmp(b + len - 9, " HTTP/1.1", 9) != 0)
		return false;
	for (size_t i = 4; i < len - 9; i++)
		if (b[i] <= ' ' || b[i] >= 0x7f)
			return false;
	return true;
}

static void message(unsigned how, const unsigned char *bytes, size_t len, bool request)
{
	const struct oracle *o = &oracles[how % N_ORACLES];
	const struct splice_config c = {.tenant = config_of(o, false)};
	unsigned char *b = (unsigned char *)fuzz_copy(bytes, len);
	struct __sk_buff skb = {.len = (__u32)len, .bytes = b};
	struct message m = {.is_request = request};
	struct plain p = plain_head(b, len, o->header);

	configure(&splice_config, &c, sizeof(c));
	message_scan(&skb, &m);
	if (!request)
		message_status_line(&skb, &m);
	else if (m.end && !(m.flags & MESSAGE_ODD))
		message_request_line(&skb, &m);
	if (m.end && !(m.flags & MESSAGE_ODD)) { /* forwarded */
		HOLDS(p.strict && p.end == m.end && p.first_end + 1 == m.line_end);
		HOLDS(p.lengths <= 1 && (!p.lengths || p.number) && m.length == p.length);
		HOLDS(!(m.flags & MESSAGE_LENGTH) == !p.lengths);
		if (request)
			judge_request(&m, &p, b, o);
		else
			judge_status(&m, &p, b);
	} else if (request && p.end && p.end < MESSAGE_HEAD_MAX && p.strict && !p.special &&
		   (!p.lengths || (p.lengths == 1 && p.number))) {
		HOLDS(!plain_get(b, p.first_end)); /* such a one is forwarded */
	}
	free(b);
}

int LLVMFuzzerTestOneInput(const unsigned char *data, size_t size)
{
	struct fuzz_input in = {data, size};
	unsigned what = fuzz_u8(&in) % 4, how = fuzz_u8(&in);

	if (!control.state)
		make_mirror();
	if (what == 0)
		steer_frame(how, in.at, in.left);
	else if (what == 1)
		steer_payload(how, &in);
	else
		message(how, in.at, in.left, what == 2);
	return 0;
}
