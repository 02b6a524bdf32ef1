/* SPDX-License-Identifier: MIT
 * features.h: the list, and what is said of it. */
#include "features.h"

#include <linux/bpf.h>
#include <stdio.h>
#include <string.h>
#include <sys/utsname.h>

#include "features_try.h"

enum { M = FEATURE_MIRROR, S = FEATURE_STEER, C = FEATURE_CONNECT, P = FEATURE_SPLICE };
/* clang-format off */
#define F(text, of, major_, minor_, config_) .feature = {text, of, major_, minor_, config_}
#define MAP(type) .here = try_map_type, .what = BPF_MAP_TYPE_##type
#define PROGRAM(type) .here = try_program_type, .loads = true, .what = BPF_PROG_TYPE_##type
#define HELPER(function, type) \
	.here = try_helper, .loads = true, .what = BPF_FUNC_##function, .where = BPF_PROG_TYPE_##type
#define LINKS(attach, type) .here = try_links, .loads = true, .what = BPF_##attach, .where = BPF_PROG_TYPE_##type
#define VERIFIES(name) .here = try_verifies, .loads = true, .program = #name
#define CGROUP "CONFIG_CGROUP_BPF"
#define BTF "CONFIG_DEBUG_INFO_BTF"
static const struct try tries[] = {
	{F("arrays that can be mapped (BPF_F_MMAPABLE)", M | S | C | P, 5, 5, NULL), .here = try_mapped},
	{F("arrays of maps", M | S | C | P, 4, 12, NULL), MAP(ARRAY_OF_MAPS)},
	{F("inner maps of any size (BPF_F_INNER_MAP)", M | S | C | P, 5, 10, NULL), .here = try_inner_of_any_size},
	{F("per-CPU arrays", M | S | C | P, 4, 6, NULL), MAP(PERCPU_ARRAY)},
	{F("frozen maps (BPF_MAP_FREEZE)", S | C | P, 5, 2, NULL), .here = try_frozen},
	{F("loops", S | C | P, 5, 3, NULL), VERIFIES(loops)},
	{F("pointers as arguments of global functions", S | P, 5, 12, NULL), VERIFIES(pointers)},
	{F("atomics that fetch", P, 5, 12, NULL), VERIFIES(atomics)},
	{F("XDP programs", S, 4, 8, NULL), PROGRAM(XDP)},
	{F("XDP links", S, 5, 9, NULL), LINKS(XDP, XDP)},
	{F("bpf_xdp_adjust_meta", S, 4, 15, NULL), HELPER(xdp_adjust_meta, XDP)},
	{F("tc programs", S, 4, 1, NULL), PROGRAM(SCHED_CLS)},
	{F("connect programs of cgroups", C, 4, 17, CGROUP), .here = try_connect_programs, .loads = true},
	{F("cgroup links", C | P, 5, 7, CGROUP), LINKS(CGROUP_INET4_CONNECT, CGROUP_SOCK_ADDR)},
	{F("ends of links (BPF_LINK_DETACH)", S | C, 5, 9, NULL), .here = try_link_ends, .loads = true},
	{F("sockops programs", P, 4, 13, CGROUP), PROGRAM(SOCK_OPS)},
	{F("bpf_sock_ops_cb_flags_set", P, 4, 16, NULL), HELPER(sock_ops_cb_flags_set, SOCK_OPS)},
	{F("bpf_get_socket_cookie in sockops programs", P, 4, 19, NULL), HELPER(get_socket_cookie, SOCK_OPS)},
	{F("programs on sockets (sk_skb)", P, 4, 14, NULL), PROGRAM(SK_SKB)},
	{F("verdicts without a stream parser (BPF_SK_SKB_VERDICT)", P, 5, 13, NULL), .here = try_verdicts, .loads = true},
	{F("sockmaps of 8-byte values", P, 5, 7, NULL), .here = try_sockmap_of_cookies, .loads = true},
	{F("sockhashes", P, 4, 18, NULL), MAP(SOCKHASH), .loads = true},
	{F("ring buffers", P, 5, 8, NULL), MAP(RINGBUF)},
	{F("bpf_sk_redirect_map", P, 4, 14, NULL), HELPER(sk_redirect_map, SK_SKB)},
	{F("bpf_sk_redirect_hash", P, 4, 18, NULL), HELPER(sk_redirect_hash, SK_SKB)},
	{F("bpf_skc_to_tcp_sock in sk_skb programs", P, 5, 10, BTF), HELPER(skc_to_tcp_sock, SK_SKB)},
	{F("the kernel's types (/sys/kernel/btf/vmlinux)", P, 5, 4, BTF), .here = try_types},
};
/* clang-format on */

const char *feature_user_name(unsigned n)
{
	static const char *const names[FEATURE_USERS] = {"mirror", "steer", "connect", "splice"};

	return names[n % FEATURE_USERS];
}

void features_each(unsigned users, void (*each)(const struct feature *, enum feature_here, void *arg), void *arg)
{
	bool maps = try_may_map(), programs = users != FEATURE_MIRROR && maps && try_may_load();

	for (size_t i = 0; i < sizeof(tries) / sizeof(tries[0]); i++) {
		const struct try *t = &tries[i];

		if (t->feature.users & users)
			each(&t->feature,
			     t->here == try_types || (t->loads ? programs : maps) ? t->here(t) : FEATURE_NOT_KNOWN,
			     arg);
	}
}

/* ---- what is said ---- */

struct missing {
	char list[1024], configs[128];
	unsigned major, minor; /* the latest of those that are missing */
};

static bool later(unsigned major, unsigned minor, const struct missing *m)
{
	return major > m->major || (major == m->major && minor > m->minor);
}

static void add(char *list, size_t size, const char *text)
{
	size_t at = strlen(list);

	snprintf(list + at, size - at, "%s%s", at ? ", " : "", text);
}

static void note_missing(const struct feature *f, enum feature_here here, void *arg)
{
	struct missing *m = arg;
	char text[128];

	if (here != FEATURE_MISSING)
		return;
	snprintf(text, sizeof(text), "%s (Linux %u.%u)", f->name, f->major, f->minor);
	add(m->list, sizeof(m->list), text);
	if (f->config && !strstr(m->configs, f->config))
		add(m->configs, sizeof(m->configs), f->config);
	if (later(f->major, f->minor, m)) {
		m->major = f->major;
		m->minor = f->minor;
	}
}

int features_check(enum feature_user user, char *text, size_t size)
{
	struct missing m = {.major = 0};
	struct utsname kernel = {0};
	unsigned n = 0, major = 0, minor = 0;
	char to_do[256];

	features_each(user, note_missing, &m);
	if (!m.list[0])
		return 0;
	while (1u << n != (unsigned)user)
		n++;
	uname(&kernel);
	if (sscanf(kernel.release, "%u.%u", &major, &minor) == 2 &&
	    !later(m.major, m.minor, &(struct missing){.major = major, .minor = minor}))
		snprintf(to_do, sizeof(to_do),
			 "it is new enough, and was built without: boot one that was built with it%s%s",
			 m.configs[0] ? ", by " : "", m.configs);
	else
		snprintf(to_do, sizeof(to_do), "boot Linux %u.%u or later%s%s", m.major, m.minor,
			 m.configs[0] ? ", built with " : "", m.configs);
	snprintf(text, size,
		 "%s needs what this kernel, Linux %s, does not have: %s; %s, or do without %s (`berth bpf status` "
		 "lists "
		 "what each needs)",
		 feature_user_name(n), kernel.release, m.list, to_do, feature_user_name(n));
	return -1;
}
