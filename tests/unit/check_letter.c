/* common/letter.c: what a dead letter keeps of its record. */
#include <stdbool.h>
#include <string.h>

#include "common/letter.h"
#include "tests/unit/unit.h"

static struct slice
text(const char *s)
{
	return (slice_of(s, strlen(s)));
}

static bool
same(struct slice a, struct slice b)
{
	return (a.len == b.len && (a.len == 0 ||
	    memcmp(a.data, b.data, a.len) == 0));
}

START_TEST(test_round)
{
	struct letter l = { LETTER_SINK, 3, text("Count"), text("a\0b"), 17,
	    UINT64_MAX, text("value") }, got;
	struct buf b = { 0 };
	struct err err;
	struct slice s;
	size_t n;

	l.key.len = 3;
	letter_pack(&b, &l);
	s = unit_exact(b.data, b.len);
	ck_assert_int_eq(letter_unpack(&got, s, &err), 0);
	ck_assert(got.kind == l.kind && got.index == 3 && got.time_ns == 17 &&
	    got.id == UINT64_MAX);
	ck_assert(same(got.name, l.name) && same(got.key, l.key) &&
	    same(got.value, l.value));
	unit_free(s);
	for (n = 0; n < b.len; n++) {		/* cut anywhere it is none */
		s = unit_exact(b.data, n);
		ck_assert_int_eq(letter_unpack(&got, s, &err), -1);
		ck_assert_int_eq(err.code, ERR_CORRUPT);
		unit_free(s);
	}
	b.data[1] = 2;				/* another version */
	ck_assert_int_eq(letter_unpack(&got, buf_slice(&b), &err), -1);
	buf_fini(&b);
}
END_TEST

START_TEST(test_base64)
{
	static const char *const pairs[][2] = { { "", "" }, { "f", "Zg==" },
	    { "fo", "Zm8=" }, { "foo", "Zm9v" }, { "foob", "Zm9vYg==" },
	    { "fooba", "Zm9vYmE=" }, { "foobar", "Zm9vYmFy" },
	    { "\xff\xfe\xfb", "//77" } };
	struct buf b = { 0 };
	struct err err;
	size_t i;

	for (i = 0; i < sizeof(pairs) / sizeof(pairs[0]); i++) {
		buf_clear(&b);
		letter_text(&b, text(pairs[i][0]));
		ck_assert(same(buf_slice(&b), text(pairs[i][1])));
		buf_clear(&b);
		ck_assert_int_eq(letter_bytes(&b, text(pairs[i][1]), &err),
		    0);
		ck_assert(same(buf_slice(&b), text(pairs[i][0])));
	}
	buf_fini(&b);
}
END_TEST

START_TEST(test_no_base64)
{
	static const char *const bad[] = { "Z", "Zg", "Zg=", "Zg==Zg==",
	    "Z===", "====", "Zm9 ", "Zm9-", "Z=9v" };
	struct buf b = { 0 };
	struct err err;
	size_t i;

	for (i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		ck_assert_int_eq(letter_bytes(&b, text(bad[i]), &err), -1);
	ck_assert_int_eq(letter_bytes(&b, slice_of("Z\0==", 4), &err), -1);
	buf_fini(&b);
}
END_TEST

START_TEST(test_every_length)
{
	struct buf b = { 0 }, back = { 0 };
	uint8_t bytes[67];
	uint64_t random = 1;
	struct err err;
	size_t n;

	for (n = 0; n < sizeof(bytes); n++) {
		bytes[n] = (uint8_t)unit_random(&random);
		buf_clear(&b);
		buf_clear(&back);
		letter_text(&b, slice_of(bytes, n));
		ck_assert_int_eq(letter_bytes(&back, buf_slice(&b), &err), 0);
		ck_assert(same(buf_slice(&back), slice_of(bytes, n)));
	}
	buf_fini(&b);
	buf_fini(&back);
}
END_TEST

UNIT_MAIN("letter", test_round, test_base64, test_no_base64,
    test_every_length)
