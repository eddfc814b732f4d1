/* See connector_wire.h. */
#include <endian.h>
#include <string.h>

#include "worker/connector_wire.h"

#define TEXT_MOST	UINT16_MAX

/* --- writing ------------------------------------------------------------- */

static void
put_u8(struct buf *b, uint8_t v)
{
	buf_add(b, &v, sizeof(v));
}

static void
put_u16(struct buf *b, uint16_t v)
{
	uint16_t big = htobe16(v);

	buf_add(b, &big, sizeof(big));
}

static void
put_u32(struct buf *b, uint32_t v)
{
	uint32_t big = htobe32(v);

	buf_add(b, &big, sizeof(big));
}

static void
put_u64(struct buf *b, uint64_t v)
{
	uint64_t big = htobe64(v);

	buf_add(b, &big, sizeof(big));
}

/* What is longer than a text can be is cut: it is for people. */
static void
put_text(struct buf *b, struct slice s)
{
	if (s.len > TEXT_MOST)
		s.len = TEXT_MOST;
	put_u16(b, (uint16_t)s.len);
	buf_add(b, s.data, s.len);
}

static void
put_blob(struct buf *b, struct slice s)
{
	put_u32(b, (uint32_t)s.len);
	buf_add(b, s.data, s.len);
}

static void
put_rest(struct buf *b, struct slice s)
{
	buf_add(b, s.data, s.len);
}

static void
put_pairs(struct buf *b, struct wire_list l)
{
	put_u32(b, l.n);
	buf_add(b, l.raw.data, l.raw.len);
}

static void
put_ranges(struct buf *b, struct wire_list l)
{
	put_pairs(b, l);
}

static void
put_texts(struct buf *b, struct wire_list l)
{
	put_pairs(b, l);
}

void
wire_add_u64(struct buf *b, uint64_t v)
{
	put_u64(b, v);
}

void
wire_add_text(struct buf *b, struct slice s)
{
	put_text(b, s);
}

/* --- reading ------------------------------------------------------------- */

static struct slice
take(struct slice *s, size_t n, bool *bad)
{
	struct slice got = slice_of(s->data, n);

	if (*bad || s->len < n) {
		*bad = true;
		return (slice_of(NULL, 0));
	}
	if (n > 0) {
		s->data += n;
		s->len -= n;
	}
	return (got);
}

static uint64_t
take_number(struct slice *s, size_t n, bool *bad)
{
	struct slice got = take(s, n, bad);
	uint64_t v = 0;
	size_t i;

	for (i = 0; i < got.len; i++)
		v = v << 8 | got.data[i];
	return (v);
}

static uint8_t
get_u8(struct slice *s, bool *bad)
{
	return ((uint8_t)take_number(s, 1, bad));
}

static uint32_t
get_u32(struct slice *s, bool *bad)
{
	return ((uint32_t)take_number(s, 4, bad));
}

static uint64_t
get_u64(struct slice *s, bool *bad)
{
	return (take_number(s, 8, bad));
}

static struct slice
get_text(struct slice *s, bool *bad)
{
	return (take(s, (size_t)take_number(s, 2, bad), bad));
}

static struct slice
get_blob(struct slice *s, bool *bad)
{
	if (s->len == 0)
		return (slice_of(NULL, 0));
	return (take(s, (size_t)take_number(s, 4, bad), bad));
}

static struct slice
get_rest(struct slice *s, bool *bad)
{
	return (take(s, s->len, bad));
}

static struct wire_list
get_items(struct slice *s, size_t size, bool *bad)
{
	struct wire_list l = { get_u32(s, bad), { NULL, 0 } };

	if (l.n > s->len / size)
		*bad = true;
	if (*bad)
		l.n = 0;
	l.raw = take(s, l.n * size, bad);
	return (l);
}

static struct wire_list
get_pairs(struct slice *s, bool *bad)
{
	return (get_items(s, 16, bad));
}

static struct wire_list
get_ranges(struct slice *s, bool *bad)
{
	return (get_items(s, 24, bad));
}

static struct wire_list
get_texts(struct slice *s, bool *bad)
{
	struct wire_list l = { get_u32(s, bad), { NULL, 0 } };
	struct slice all = *s;
	uint32_t i;

	for (i = 0; i < l.n && !*bad; i++)
		(void)get_text(s, bad);
	if (*bad)
		l.n = 0;
	else
		l.raw = slice_of(all.data, all.len - s->len);
	return (l);
}

void
wire_pair(const struct wire_list *l, uint32_t i, uint64_t v[2])
{
	struct slice s = slice_of(l->raw.data + (size_t)i * 16, 16);
	bool bad = false;

	v[0] = get_u64(&s, &bad);
	v[1] = get_u64(&s, &bad);
}

void
wire_range(const struct wire_list *l, uint32_t i, uint64_t v[3])
{
	struct slice s = slice_of(l->raw.data + (size_t)i * 24, 24);
	bool bad = false;

	v[0] = get_u64(&s, &bad);
	v[1] = get_u64(&s, &bad);
	v[2] = get_u64(&s, &bad);
}

bool
wire_next_text(struct wire_list *l, struct slice *text)
{
	bool bad = l->n == 0;

	*text = get_text(&l->raw, &bad);
	if (bad)
		return (false);
	l->n--;
	return (true);
}

/* --- messages ------------------------------------------------------------ */

#define PUT_FIELD(type, name)	put_##type(b, m->name);
#define GET_FIELD(type, name)	m->name = get_##type(&s, &bad);
#define FUNCTIONS(name, tag)						\
void									\
wire_body_##name(struct buf *b, const struct wire_##name *m)		\
{									\
	put_u8(b, (tag));						\
	WIRE_FIELDS_##name(PUT_FIELD)					\
}									\
void									\
wire_put_##name(struct buf *b, const struct wire_##name *m)		\
{									\
	size_t at = b->len;						\
	uint32_t len;							\
									\
	put_u32(b, 0);							\
	wire_body_##name(b, m);						\
	len = htobe32((uint32_t)(b->len - at - WIRE_HEADER));		\
	memcpy(b->data + at, &len, sizeof(len));			\
}									\
bool									\
wire_get_##name(struct wire_##name *m, struct slice s)			\
{									\
	bool bad = false;						\
									\
	if (get_u8(&s, &bad) != (tag))					\
		bad = true;						\
	WIRE_FIELDS_##name(GET_FIELD)					\
	return (!bad && s.len == 0);					\
}
WIRE_TABLE(FUNCTIONS)

const char *
wire_name(int tag)
{
#define NAME(name, tag)	case (tag): return (#name);
	switch (tag) {
	WIRE_TABLE(NAME)
	default:
		return (NULL);
	}
#undef NAME
}

int
wire_tag(struct slice s)
{
	return (s.len == 0 || wire_name(s.data[0]) == NULL ? -1 :
	    s.data[0]);
}
