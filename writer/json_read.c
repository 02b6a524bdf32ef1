/* SPDX-License-Identifier: MIT
 * A recursive descent over one line: json_read.h. */
#include "json_read.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "buffer.h"

struct reader {
	const char *text, *at, *end;
	unsigned depth_left;
	struct json_fault *fault;
	char *decoded; /* room for the longest string that has escapes: the text's length; made when wanted */
};

static void *fail(struct reader *r, const char *why)
{
	r->fault->why = why;
	r->fault->at = (size_t)(r->at - r->text);
	return NULL;
}

static void skip_space(struct reader *r)
{
	while (r->at < r->end && (*r->at == ' ' || *r->at == '\t' || *r->at == '\n' || *r->at == '\r'))
		r->at++;
}

/* ---- strings ----------------------------------------------------------------------------------------------- */

static int hex4(const char *s, const char *end)
{
	int n = 0;

	if (end - s < 4)
		return -1;
	for (int i = 0; i < 4; i++) {
		char c = s[i];

		if (c >= '0' && c <= '9')
			n = n << 4 | (c - '0');
		else if (c >= 'a' && c <= 'f')
			n = n << 4 | (c - 'a' + 10);
		else if (c >= 'A' && c <= 'F')
			n = n << 4 | (c - 'A' + 10);
		else
			return -1;
	}
	return n;
}

static size_t utf8_put(char *out, int point)
{
	if (point < 0x80) {
		out[0] = (char)point;
		return 1;
	}
	if (point < 0x800) {
		out[0] = (char)(0xc0 | point >> 6);
		out[1] = (char)(0x80 | (point & 0x3f));
		return 2;
	}
	if (point < 0x10000) {
		out[0] = (char)(0xe0 | point >> 12);
		out[1] = (char)(0x80 | (point >> 6 & 0x3f));
		out[2] = (char)(0x80 | (point & 0x3f));
		return 3;
	}
	out[0] = (char)(0xf0 | point >> 18);
	out[1] = (char)(0x80 | (point >> 12 & 0x3f));
	out[2] = (char)(0x80 | (point >> 6 & 0x3f));
	out[3] = (char)(0x80 | (point & 0x3f));
	return 4;
}

/* At the `u` of an escape; its code point, both halves of a pair taken together. -1: refused. */
static int read_point(struct reader *r)
{
	int point = hex4(r->at + 1, r->end), low;

	if (point <= 0) {
		fail(r, point == 0 ? "\\u0000 is not taken" : "\\u wants four hexadecimal digits");
		return -1;
	}
	r->at += 5;
	if (point >= 0xd800 && point <= 0xdbff) {
		low = r->end - r->at >= 2 && r->at[0] == '\\' && r->at[1] == 'u' ? hex4(r->at + 2, r->end) : -1;
		if (low >= 0xdc00 && low <= 0xdfff) {
			r->at += 6;
			return 0x10000 + ((point - 0xd800) << 10) + (low - 0xdc00);
		}
	}
	if (point >= 0xd800 && point <= 0xdfff) {
		fail(r, "half of a surrogate pair");
		return -1;
	}
	return point;
}

/* The rest of a string from the first escape on: what came before it is from[0..len). Escapes never get longer. */
static const char *read_escaped(struct reader *r, const char *from, size_t *len)
{
	char *out;

	if (!r->decoded)
		r->decoded = malloc((size_t)(r->end - r->text) + 1);
	if (!r->decoded)
		return fail(r, NULL);
	out = r->decoded;
	memcpy(out, from, *len);
	out += *len;
	while (r->at < r->end) {
		static const char names[] = "\"\\/bfnrt", values[] = "\"\\/\b\f\n\r\t";
		unsigned char c = (unsigned char)*r->at;
		const char *name;
		size_t n;

		if (c == '"') {
			*len = (size_t)(out - r->decoded);
			return r->decoded;
		}
		if (c < ' ')
			return fail(r, "a control character in a string");
		if (c != '\\') {
			n = utf8_length((const unsigned char *)r->at, (size_t)(r->end - r->at));
			if (n == 0)
				return fail(r, "not UTF-8");
			memcpy(out, r->at, n);
			out += n;
			r->at += n;
			continue;
		}
		r->at++;
		if (r->at < r->end && *r->at == 'u') {
			int point = read_point(r);

			if (point < 0)
				return NULL;
			out += utf8_put(out, point);
			continue;
		}
		name = r->at < r->end && *r->at ? strchr(names, *r->at) : NULL;
		if (!name)
			return fail(r, "no such escape");
		*out++ = values[name - names];
		r->at++;
	}
	return fail(r, "a string does not end");
}

/* At the opening quote. The bytes live until the next string, or as long as the text. */
static const char *read_string(struct reader *r, size_t *len)
{
	const char *from = ++r->at, *s;

	while (r->at < r->end) {
		unsigned char c = (unsigned char)*r->at;
		size_t n = 1;

		if (c == '"' || c == '\\') {
			*len = (size_t)(r->at - from);
			s = c == '"' ? from : read_escaped(r, from, len);
			r->at++;
			return s;
		}
		if (c < ' ')
			return fail(r, "a control character in a string");
		if (c >= 0x80 && (n = utf8_length((const unsigned char *)r->at, (size_t)(r->end - r->at))) == 0)
			return fail(r, "not UTF-8");
		r->at += n;
	}
	return fail(r, "a string does not end");
}

/* ---- values ------------------------------------------------------------------------------------------------ */

static json_t *read_value(struct reader *r);

static json_t *made(struct reader *r, json_t *value)
{
	return value ? value : fail(r, NULL);
}

static const char *digits(const struct reader *r, const char *p)
{
	while (p < r->end && *p >= '0' && *p <= '9')
		p++;
	return p;
}

static json_t *read_number(struct reader *r)
{
	const char *start = r->at, *p = start + (*start == '-'), *after;
	bool real = false;
	char copy[64];
	size_t len;

	after = digits(r, p);
	if (after == p || (*p == '0' && after > p + 1))
		return fail(r, "not a number");
	if (after < r->end && *after == '.') {
		real = true;
		p = after + 1;
		after = digits(r, p);
		if (after == p)
			return fail(r, "not a number");
	}
	if (after < r->end && (*after == 'e' || *after == 'E')) {
		real = true;
		p = after + 1;
		if (p < r->end && (*p == '+' || *p == '-'))
			p++;
		after = digits(r, p);
		if (after == p)
			return fail(r, "not a number");
	}
	len = (size_t)(after - start);
	if (len >= sizeof(copy))
		return fail(r, "a number of more than 63 characters");
	memcpy(copy, start, len);
	copy[len] = '\0';
	errno = 0;
	if (real) {
		double value = strtod(copy, NULL);

		if (errno == ERANGE && (value > 1 || value < -1))
			return fail(r, "a number that is too large");
		r->at = after;
		return made(r, json_real(value));
	}
	{
		long long value = strtoll(copy, NULL, 10);

		if (errno == ERANGE)
			return fail(r, "an integer beyond 64 bits");
		r->at = after;
		return made(r, json_integer(value));
	}
}

static json_t *read_word(struct reader *r, const char *word, json_t *value)
{
	size_t len = strlen(word);

	if ((size_t)(r->end - r->at) < len || memcmp(r->at, word, len) != 0)
		return fail(r, "not a JSON value");
	r->at += len;
	return value; /* true, false and null are static in jansson: nothing to release on failure */
}

/* `,` or the closing bracket. 1: another element, 0: the end, -1: refused. */
static int read_separator(struct reader *r, char close, const char *why)
{
	skip_space(r);
	if (r->at < r->end && (*r->at == ',' || *r->at == close))
		return *r->at++ == ',';
	fail(r, why);
	return -1;
}

static bool read_member(struct reader *r, json_t *object)
{
	char key[JSON_READ_KEY_MAX + 1];
	const char *name;
	json_t *value;
	size_t len;

	skip_space(r);
	if (r->at >= r->end || *r->at != '"')
		return fail(r, "the name of a member is missing") != NULL;
	name = read_string(r, &len);
	if (!name)
		return false;
	if (len > JSON_READ_KEY_MAX)
		return fail(r, "the name of a member is too long") != NULL;
	memcpy(key, name, len);
	key[len] = '\0';
	if (json_object_get(object, key))
		return fail(r, "a member is there twice") != NULL;
	skip_space(r);
	if (r->at >= r->end || *r->at != ':')
		return fail(r, "a colon is missing") != NULL;
	r->at++;
	value = read_value(r);
	if (!value)
		return false;
	if (json_object_set_new_nocheck(object, key, value) != 0)
		return fail(r, NULL) != NULL;
	return true;
}

static bool read_element(struct reader *r, json_t *array)
{
	json_t *value = read_value(r);

	if (!value)
		return false;
	if (json_array_append_new(array, value) != 0)
		return fail(r, NULL) != NULL;
	return true;
}

/* At the opening bracket. */
static json_t *read_container(struct reader *r)
{
	bool object = *r->at == '{';
	char close = object ? '}' : ']';
	json_t *container;
	int more = 1;

	if (r->depth_left == 0)
		return fail(r, "nested too deep");
	container = object ? json_object() : json_array();
	if (!container)
		return fail(r, NULL);
	r->depth_left--;
	r->at++;
	skip_space(r);
	if (r->at < r->end && *r->at == close) {
		r->at++;
		more = 0;
	}
	while (more > 0) {
		if (!(object ? read_member(r, container) : read_element(r, container)))
			more = -1;
		else
			more = read_separator(r, close, object ? "a comma or } is missing" : "a comma or ] is missing");
	}
	r->depth_left++;
	if (more == 0)
		return container;
	json_decref(container);
	return NULL;
}

static json_t *read_value(struct reader *r)
{
	const char *s;
	size_t len;

	skip_space(r);
	if (r->at >= r->end)
		return fail(r, "a value is missing");
	switch (*r->at) {
	case '{':
	case '[':
		return read_container(r);
	case '"':
		s = read_string(r, &len);
		return s ? made(r, json_stringn_nocheck(s, len)) : NULL;
	case 't':
		return read_word(r, "true", json_true());
	case 'f':
		return read_word(r, "false", json_false());
	case 'n':
		return read_word(r, "null", json_null());
	default:
		return read_number(r);
	}
}

json_t *json_read(const char *text, size_t len, unsigned depth_max, struct json_fault *fault)
{
	struct reader r = {.text = text, .at = text, .end = text + len, .depth_left = depth_max, .fault = fault};
	json_t *value = NULL;

	skip_space(&r);
	if (r.at >= r.end || (*r.at != '{' && *r.at != '['))
		fail(&r, "neither an object nor an array");
	else
		value = read_container(&r);
	if (value) {
		skip_space(&r);
		if (r.at < r.end) {
			fail(&r, "more after the end");
			json_decref(value);
			value = NULL;
		}
	}
	free(r.decoded);
	return value;
}
