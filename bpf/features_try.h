/* SPDX-License-Identifier: MIT
 * The tries of features.c, a function for each kind. */
#ifndef BERTH_BPF_FEATURES_TRY_H
#define BERTH_BPF_FEATURES_TRY_H

#include <stdbool.h>

#include "features.h"

struct
try {
	struct feature feature;
	enum feature_here (*here)(const struct try *);
	bool loads; /* it takes what loading programs takes, which is more than making maps does */
	int what;   /* an enumerator of the kernel's, and another one */
	int where;
	const char *program; /* of features.bpf.c */
};

/* May this process make maps; may it load programs, and those that read what the kernel guards? Where it may not, the
 * kernel says nothing else. */
bool try_may_map(void);
bool try_may_load(void);

enum feature_here try_map_type(const struct try *); /* what */
enum feature_here try_mapped(const struct try *);
enum feature_here try_inner_of_any_size(const struct try *);
enum feature_here try_frozen(const struct try *);
enum feature_here try_sockmap_of_cookies(const struct try *);
enum feature_here try_program_type(const struct try *); /* what */
enum feature_here try_connect_programs(const struct try *);
enum feature_here try_helper(const struct try *); /* what, in programs of type where */
enum feature_here try_links(const struct try *);  /* of attach type what, for programs of type where */
enum feature_here try_link_ends(const struct try *);
enum feature_here try_verdicts(const struct try *);
enum feature_here try_verifies(const struct try *); /* program */
enum feature_here try_types(const struct try *);

#endif
