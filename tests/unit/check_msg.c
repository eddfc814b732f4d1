/*
 * common/msg.c: every message of msg.def, by the same macros that made it.
 * A new line there is tested without a line here.
 */
#include <stdio.h>
#include <string.h>

#include "common/msg.h"
#include "common/mp.h"
#include "tests/unit/unit.h"

/*
 * A sample of every message: each field has its own value, large ones where
 * its type has room.
 */
static unsigned int serial;

static uint32_t
sample_u32(void)
{
	return (++serial % 2 == 0 ? serial : UINT32_MAX - serial);
}

static uint64_t
sample_u64(void)
{
	return (++serial % 2 == 0 ? serial : UINT64_MAX - serial);
}

static struct slice
sample_str(void)
{
	static char text[64][16];
	char *s = text[++serial % 64];

	(void)snprintf(s, sizeof(text[0]), "text %u", serial);
	return (slice_of(s, strlen(s)));
}

static struct slice
sample_bin(void)
{
	return (sample_str());
}

static bool
same_u32(uint32_t a, uint32_t b)
{
	return (a == b);
}

static bool
same_u64(uint64_t a, uint64_t b)
{
	return (a == b);
}

static bool
same_str(struct slice a, struct slice b)
{
	return (a.len == b.len && memcmp(a.data, b.data, a.len) == 0);
}

static bool
same_bin(struct slice a, struct slice b)
{
	return (same_str(a, b));
}

#define SAMPLE_FIELD(type, field)	m.field = sample_##type();
#define SAMPLE(name, code, from)					\
static struct msg_##name						\
sample_##name(void)							\
{									\
	struct msg_##name m;						\
									\
	serial = code * 100;						\
	MSG_FIELDS_##name(SAMPLE_FIELD)					\
	return (m);							\
}
MSG_TABLE(SAMPLE)

/* What was called last; each handler compares with its sample. */
static uint32_t called;
static int answer;

#define SAME_FIELD(type, field)	ck_assert(same_##type(m->field, want.field));
#define HANDLER(name, code, from)					\
static int								\
on_##name(void *arg, const struct msg_##name *m, struct err *err)	\
{									\
	struct msg_##name want = sample_##name();			\
									\
	ck_assert_ptr_eq(arg, &called);					\
	MSG_FIELDS_##name(SAME_FIELD)					\
	called = code;							\
	return (answer == 0 ? 0 : err_set(err, ERR_LIMIT, "mine"));	\
}
MSG_TABLE(HANDLER)

#define ENTRY(name, code, from)	.name = on_##name,
static const struct msg_handlers all = { MSG_TABLE(ENTRY) };
static const struct msg_handlers none;

#define PUT_SAMPLE(name, code, from)					\
static void								\
put_##name(struct buf *b)						\
{									\
	struct msg_##name m = sample_##name();				\
									\
	msg_put_##name(b, &m);						\
}
MSG_TABLE(PUT_SAMPLE)

static const struct {
	const char	*name;
	uint32_t	 code;
	unsigned int	 from;
	void		(*put)(struct buf *);
} table[] = {
#define ROW(name, code, from)	{ #name, code, from, put_##name },
	MSG_TABLE(ROW)
};
#define NMSG	(sizeof(table) / sizeof(table[0]))

static int
dispatch(const struct msg_handlers *h, unsigned int from, struct slice s,
    struct err *err)
{
	called = 0;
	err->code = ERR_NONE;
	return (msg_dispatch(h, &called, (enum msg_from)from, s, err));
}

/* The frame without its length, in memory of just its size. */
static struct slice
frame_of(size_t i)
{
	struct slice s;
	struct buf b;

	buf_init(&b);
	table[i].put(&b);
	ck_assert_int_eq(msg_frame(buf_slice(&b), SIZE_MAX), (long)b.len);
	s = unit_exact(b.data + MSG_HEADER, b.len - MSG_HEADER);
	buf_fini(&b);
	return (s);
}

static unsigned int
one_bit(unsigned int bits)
{
	return (bits & -bits);
}

START_TEST(test_round_trip)
{
	struct err err;

	for (size_t i = 0; i < NMSG; i++) {
		struct slice s = frame_of(i);

		ck_assert_msg(dispatch(&all, one_bit(table[i].from), s,
		    &err) == 0, "%s: %s", table[i].name, err.text);
		ck_assert_uint_eq(called, table[i].code);
		unit_free(s);
	}
}
END_TEST

START_TEST(test_truncated)
{
	struct err err;

	for (size_t i = 0; i < NMSG; i++) {
		struct slice whole = frame_of(i);

		for (size_t n = 0; n < whole.len; n++) {
			struct slice s = unit_exact(whole.data, n);

			ck_assert_msg(dispatch(&all, table[i].from, s,
			    &err) == -1, "%s cut to %zu", table[i].name, n);
			ck_assert_int_eq(err.code, ERR_CORRUPT);
			ck_assert_uint_eq(called, 0);
			unit_free(s);
		}
		unit_free(whole);
	}
}
END_TEST

START_TEST(test_surplus)
{
	struct err err;

	for (size_t i = 0; i < NMSG; i++) {
		struct slice s = frame_of(i), longer;
		struct buf b;

		/* a byte after the array, whatever it is */
		for (int c = 0; c < 256; c++) {
			buf_init(&b);
			buf_add(&b, s.data, s.len);
			buf_addf(&b, "%c", c);
			longer = unit_exact(b.data, b.len);
			ck_assert_int_eq(dispatch(&all, table[i].from, longer,
			    &err), -1);
			ck_assert_int_eq(err.code, ERR_CORRUPT);
			unit_free(longer);
			buf_fini(&b);
		}
		/* one more field inside it */
		buf_init(&b);
		buf_add(&b, s.data, s.len);
		ck_assert_uint_eq(b.data[0] & 0xf0, 0x90);
		b.data[0]++;
		mp_put_uint(&b, 1);
		ck_assert_int_eq(dispatch(&all, table[i].from, buf_slice(&b),
		    &err), -1);
		ck_assert_int_eq(err.code, ERR_CORRUPT);
		ck_assert_uint_eq(called, 0);
		buf_fini(&b);
		unit_free(s);
	}
}
END_TEST

/* Each field in turn gets a type that it has not. */
START_TEST(test_wrong_type)
{
	struct err err;

	for (size_t i = 0; i < NMSG; i++) {
		struct slice s = frame_of(i);
		struct mp c;
		uint32_t n;

		mp_init(&c, s);
		n = mp_get_array(&c);
		for (uint32_t k = 0; k < n; k++) {
			const uint8_t *start = c.p;
			struct buf b;

			mp_skip(&c);
			buf_init(&b);
			buf_add(&b, s.data, (size_t)(start - s.data));
			mp_put_nil(&b);
			buf_add(&b, c.p, (size_t)(c.end - c.p));
			ck_assert_msg(dispatch(&all, table[i].from,
			    buf_slice(&b), &err) == -1, "%s field %u",
			    table[i].name, k);
			ck_assert_int_eq(err.code, ERR_CORRUPT);
			buf_fini(&b);
		}
		ck_assert(mp_end(&c));
		unit_free(s);
	}
}
END_TEST

START_TEST(test_permission)
{
	static const unsigned int kinds[] = { FROM_SUP, FROM_WORKER,
		FROM_PEER, FROM_CTL };
	struct err err;

	for (size_t i = 0; i < NMSG; i++) {
		struct slice s = frame_of(i);

		for (size_t k = 0; k < 4; k++) {
			int r = dispatch(&all, kinds[k], s, &err);

			if ((table[i].from & kinds[k]) != 0) {
				ck_assert_int_eq(r, 0);
				continue;
			}
			ck_assert_int_eq(r, -1);
			ck_assert_int_eq(err.code, ERR_CORRUPT);
			ck_assert_ptr_nonnull(strstr(err.text,
			    "not permitted"));
			ck_assert_uint_eq(called, 0);
		}
		unit_free(s);
	}
}
END_TEST

START_TEST(test_no_handler)
{
	struct err err;

	for (size_t i = 0; i < NMSG; i++) {
		struct slice s = frame_of(i);

		ck_assert_int_eq(dispatch(&none, table[i].from, s, &err), -1);
		ck_assert_int_eq(err.code, ERR_CORRUPT);
		ck_assert_ptr_nonnull(strstr(err.text, table[i].name));
		unit_free(s);
	}
}
END_TEST

START_TEST(test_handler_fails)
{
	struct slice s = frame_of(0);
	struct err err;

	answer = -1;
	ck_assert_int_eq(dispatch(&all, table[0].from, s, &err), -1);
	ck_assert_int_eq(err.code, ERR_LIMIT);
	ck_assert_str_eq(err.text, "mine");
	answer = 0;
	unit_free(s);
}
END_TEST

START_TEST(test_names)
{
	for (size_t i = 0; i < NMSG; i++) {
		ck_assert_str_eq(msg_name(table[i].code), table[i].name);
		ck_assert_uint_ne(table[i].from, 0);
		for (size_t k = 0; k < i; k++)
			ck_assert_uint_ne(table[i].code, table[k].code);
	}
	ck_assert_ptr_null(msg_name(0));
	ck_assert_ptr_null(msg_name(UINT32_MAX));
}
END_TEST

START_TEST(test_unknown)
{
	struct err err;
	struct buf b;

	buf_init(&b);
	mp_put_array(&b, 2);
	mp_put_uint(&b, 39);
	mp_put_uint(&b, 1);
	ck_assert_int_eq(dispatch(&all, 0xf, buf_slice(&b), &err), -1);
	ck_assert_int_eq(err.code, ERR_CORRUPT);
	ck_assert_ptr_nonnull(strstr(err.text, "39"));
	buf_clear(&b);
	ck_assert_int_eq(dispatch(&all, 0xf, buf_slice(&b), &err), -1);
	mp_put_array(&b, 0);
	ck_assert_int_eq(dispatch(&all, 0xf, buf_slice(&b), &err), -1);
	buf_clear(&b);
	mp_put_array(&b, 1);
	mp_put_uint(&b, 1ULL << 32 | MSG_run);	/* no cut to 32 bits */
	ck_assert_int_eq(dispatch(&all, 0xf, buf_slice(&b), &err), -1);
	ck_assert_ptr_nonnull(strstr(err.text, "malformed"));
	buf_fini(&b);
}
END_TEST

/* A u32 that says more than 32 bits is refused, not cut. */
START_TEST(test_range)
{
	struct err err;
	struct buf b;

	buf_init(&b);
	mp_put_array(&b, 2);
	mp_put_uint(&b, MSG_run);
	mp_put_uint(&b, 1ULL << 32);
	ck_assert_int_eq(dispatch(&all, FROM_SUP, buf_slice(&b), &err), -1);
	ck_assert_int_eq(err.code, ERR_CORRUPT);
	buf_fini(&b);
}
END_TEST

START_TEST(test_frame)
{
	struct buf b;

	buf_init(&b);
	put_run(&b);
	for (size_t n = 0; n < b.len; n++)
		ck_assert_int_eq(msg_frame(slice_of(b.data, n), 1000), 0);
	ck_assert_int_eq(msg_frame(buf_slice(&b), 1000), (long)b.len);
	ck_assert_int_eq(msg_frame(buf_slice(&b), b.len), (long)b.len);
	ck_assert_int_eq(msg_frame(buf_slice(&b), b.len - 1), -1);
	put_ready(&b);		/* the next one does not matter */
	ck_assert_int_ne(msg_frame(buf_slice(&b), 1000), (long)b.len);
	ck_assert_int_eq(msg_frame(slice_of("\xff\xff\xff\xff", 4),
	    MSG_MAX_CONTROL), -1);
	ck_assert_int_eq(msg_frame(slice_of("\xff\xff\xff\xff", 4), 3), -1);
	ck_assert_int_eq(msg_frame(slice_of("\xff\xff\xff\xff", 4), SIZE_MAX),
	    0);
	ck_assert_int_eq(msg_frame(slice_of("\0\0\0\0", 4), 4), 4);
	buf_fini(&b);
}
END_TEST

/* Frames as released: whoever breaks these breaks running systems. */
START_TEST(test_golden)
{
	struct buf b;

	buf_init(&b);
	msg_put_hello(&b, &(struct msg_hello){ 1, 2, 3, 4, 5 });
	ck_assert_uint_eq(b.len, 11);
	ck_assert_mem_eq(b.data, "\0\0\0\x07\x96\x28\x01\x02\x03\x04\x05", 11);
	buf_clear(&b);
	msg_put_data(&b, &(struct msg_data){ 300, 1ULL << 40, 7, 1,
	    slice_of("abc", 3) });
	ck_assert_uint_eq(b.len, 25);
	ck_assert_mem_eq(b.data, "\0\0\0\x15\x96\x2a\xcd\x01\x2c"
	    "\xcf\0\0\x01\0\0\0\0\0\x07\x01\xc4\x03" "abc", 25);
	buf_clear(&b);
	msg_put_ctl(&b, &(struct msg_ctl){ msg_cstr("state-get"),
	    msg_cstr("a"), msg_cstr(""), msg_cstr("c") });
	ck_assert_mem_eq(b.data, "\0\0\0\x11\x95\x3c\xa9state-get\xa1" "a"
	    "\xa0\xa1" "c", b.len);
	buf_fini(&b);
}
END_TEST

/* Single bytes of good frames replaced: never beyond the frame's end. */
START_TEST(test_noise)
{
	uint64_t state = 3;
	struct err err;

	for (size_t i = 0; i < NMSG; i++) {
		struct slice whole = frame_of(i);

		for (int k = 0; k < 300; k++) {
			struct slice s = unit_exact(whole.data, whole.len);
			uint8_t *at = (uint8_t *)(uintptr_t)s.data +
			    unit_random(&state) % s.len;

			*at = (uint8_t)unit_random(&state);
			(void)dispatch(&none, 0xf, s, &err);
			unit_free(s);
		}
		unit_free(whole);
	}
}
END_TEST

UNIT_MAIN("msg", test_round_trip, test_truncated, test_surplus,
    test_wrong_type, test_permission, test_no_handler, test_handler_fails,
    test_names, test_unknown, test_range, test_frame, test_golden, test_noise)
