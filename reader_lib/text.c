/* SPDX-License-Identifier: MIT
 * berth_strerror and berth_version: texts, from the one table of codes. Any thread. */
#include "internal.h"

const char *berth_strerror(int code)
{
	switch (code) {
#define TEXT(name, value, http, text) \
	case value: \
		return text;
		BERTH_ERRORS(TEXT)
#undef TEXT
	default:
		return "not a code of berth";
	}
}

const char *berth_version(void)
{
	return BERTH_VERSION;
}
